"""Search for the input and output scale of a trained optimizer (paper, D.2).

Scales are settings that meta-training does not change. A scale that suits random weights, or the
smaller task on which training began, need not suit the trained optimizer.
"""

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.checks import positive_of_type, random_key, sequence
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import RecurrentOptimizer, rescaled
from lrevopt.optimizers.scales import recurrent, scales_as_data
from lrevopt.optimizers.stacking import stacked
from lrevopt.tasks.interface import AbstractTask, sample_problems


class ScaleSearch(eqx.Module):
    """Mean meta-objective, mean(losses) / losses[0], for every pair of factors on the two scales.

    All pairs run on the same problems. A pair with a diverged run scores inf.
    """

    input_factors: Float[np.ndarray, " pair"]
    output_factors: Float[np.ndarray, " pair"]
    scores: Float[np.ndarray, " pair"]

    @property
    def best(self) -> tuple[float, float]:
        """Input and output factor with the least score, the first one among equals."""
        chosen = int(np.argmin(self.scores))
        return float(self.input_factors[chosen]), float(self.output_factors[chosen])

    @property
    def at_edge(self) -> list[str]:
        """A sentence for each scale whose best factor is the least or the largest of several."""
        said = []
        tried = {"input": self.input_factors, "output": self.output_factors}
        for (name, factors), best in zip(tried.items(), self.best, strict=True):
            least, largest = factors.min(), factors.max()
            if least < largest and best in (least, largest):
                end, beyond = ("least", "smaller") if best == least else ("largest", "larger")
                said.append(
                    f"{best:g} is the {end} factor that was tried on the {name} scale: {beyond} "
                    "ones may be better."
                )
        return said


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

    Factors multiply `input_scale` and `output_scale`. All pairs run in one program. The problems
    are used for selection, so test problems must come from another key. Raises `ValueError` for no
    factors, a factor that is not positive or leads out of the default floating type, counts below
    1, or if every pair diverged.
    """
    key = random_key("key", key)
    recurrent("optimizer", optimizer)
    check_run(optimizer, task, key)
    dtype = jnp.result_type(float)
    for name, factors in {"input": input_factors, "output": output_factors}.items():
        scale = getattr(optimizer, f"{name}_scale")
        for factor in sequence(f"{name}_factors", factors, "factor"):
            positive_of_type(f"{name}_factors", factor, dtype)
            positive_of_type(f"{name}_factors` times `{name}_scale", factor * scale, dtype)
    check_runs(task, problems=problems, steps=steps)
    pairs = list(itertools.product(input_factors, output_factors))
    tried = stacked([scales_as_data(rescaled(optimizer, *pair)) for pair in pairs])
    scores, _ = score_settings(task, tried, sample_problems(task, key, problems), steps)
    if not np.any(np.isfinite(scores)):
        raise ValueError(
            f"`output_factors` must hold a factor with which no run diverges, got {output_factors}."
        )
    inputs, outputs = np.array(pairs, float).T
    return ScaleSearch(inputs, outputs, np.asarray(scores, float))
