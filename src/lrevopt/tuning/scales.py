"""The two scales of a trained optimizer, searched (paper, D.2: "tuned both per task").

They are settings that no meta-gradient changes. One that suits random weights, or a smaller
task that training began on, need not suit what training made of them.
"""

import itertools
from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.checks import finite
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.optimizers import RecurrentOptimizer, rescaled
from lrevopt.tasks.interface import AbstractTask


class ScaleSearch(eqx.Module):
    """Every pair of factors on the scales with its mean meta-objective, mean(losses) / losses[0].

    Scores are of the same problems; a pair with a diverged run scores inf.
    """

    input_factors: Float[np.ndarray, " pair"]
    output_factors: Float[np.ndarray, " pair"]
    scores: Float[np.ndarray, " pair"]

    @property
    def best(self) -> tuple[float, float]:
        """Factors of input and output with the least score; the first of several."""
        chosen = int(np.argmin(self.scores))
        return float(self.input_factors[chosen]), float(self.output_factors[chosen])


def search_scales(
    task: AbstractTask,
    optimizer: RecurrentOptimizer,
    *,
    input_factors: Sequence[float] = (1.0,),
    output_factors: Sequence[float] = (0.5, 0.7, 1.0, 1.4),
    key: Key[Array, ""],
    problems: int = 8,
    steps: int = 200,
) -> ScaleSearch:
    """Run a trained optimizer with every pair of factors on its scales, on the same problems.

    These are selection problems: test problems must come from another key. Raises `ValueError` for
    no factors, one that is not positive and finite, counts below 1, or if every pair diverged.
    """
    for name, factors in {"input_factors": input_factors, "output_factors": output_factors}.items():
        if not factors:
            raise ValueError(f"`{name}` must hold at least one factor, got none.")
        for factor in factors:
            finite(name, factor, above=0.0)
    pairs = list(itertools.product(input_factors, output_factors))
    # One after the other: scales are settings, so each pair is a program of its own.
    scores = []
    for pair in pairs:
        tried = {"pair": rescaled(optimizer, *pair)}
        found = evaluate(tried, task, problems=problems, steps=steps, key=key)
        scores.append(found.meta_objectives().mean())
    if not np.any(np.isfinite(scores)):
        raise ValueError(f"`output_factors` must hold one that works, got {output_factors}.")
    inputs, outputs = np.array(pairs, float).T
    return ScaleSearch(inputs, outputs, np.array(scores, float))
