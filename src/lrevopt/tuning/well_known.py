"""Fifteen well-known optimizers of optax by name, and the search for their learning rates.

All settings but the learning rate are optax's defaults or the usual ones, so that two optimizers
differ by their rules and not by how much they were tuned.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from lrevopt.checks import finite, one_of, positive_integer, random_key, sequence, shown
from lrevopt.inner_loop.adjoint import unroll_losses
from lrevopt.inner_loop.objectives import OBJECTIVES, Objective, meta_objective
from lrevopt.inner_loop.run_checks import check_first_losses, check_run
from lrevopt.optimizers import from_optax
from lrevopt.optimizers.classical import hyperparameter
from lrevopt.tasks.interface import AbstractTask, sample_problems

MakeOptax = Callable[[float | Float[Array, ""]], optax.GradientTransformation]
"""A transformation from its learning rate."""

MOMENTUM = 0.9
"""Momentum of the two optimizers for which optax has no default."""

WELL_KNOWN: dict[str, MakeOptax] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=MOMENTUM),
    "nesterov": lambda rate: optax.sgd(rate, momentum=MOMENTUM, nesterov=True),
    "rprop": optax.rprop,
    "adagrad": optax.adagrad,
    "adadelta": optax.adadelta,
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "nadam": optax.nadam,
    "amsgrad": optax.amsgrad,
    "adabelief": optax.adabelief,
    "yogi": optax.yogi,
    "radam": optax.radam,
    "lion": lambda rate: optax.lion(rate, weight_decay=0.0),
}
"""In the order of publication, each without weight decay.

They are as optax implements them. Its `rprop` departs from the publication: it takes the step that
the previous gradient chose, and uses the current gradient only to decide whether to take it (optax
0.2.8; pull request 1725 would correct that).
"""

LEARNING_RATES = tuple(float(rate) for rate in np.geomspace(1e-5, 1e2, 43))
"""Learning rates of a search, six per decade. Adadelta's multiplies steps that are already scaled,
so it may be large."""


class TunedRate(eqx.Module):
    """Learning rates with their scores.

    `scores` are mean meta-objectives over the same problems, less is better, inf where a run
    diverged; `diverged` counts these runs. A run has diverged, too, if its meta-objective is not a
    finite number.
    """

    learning_rates: Float[np.ndarray, " rate"]
    scores: Float[np.ndarray, " rate"]
    diverged: Int[np.ndarray, " rate"]

    @property
    def best(self) -> float:
        """The learning rate with the least score or, if all are inf, the fewest diverged runs."""
        return float(self.learning_rates[self._place()])

    @property
    def on_edge(self) -> bool:
        """Whether the best rate is the least or the largest one tried."""
        return self.best in (self.learning_rates.min(), self.learning_rates.max())

    def _place(self) -> int:
        """Of the best rate. No run of a rate with a finite score diverged."""
        return int(np.lexsort((self.scores, self.diverged))[0])


def tune_rate(
    make: MakeOptax,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    objective: Objective = "mean",
    rates: tuple[float, ...] = LEARNING_RATES,
) -> TunedRate:
    """Score `make(rate)` for every learning rate in `rates` on the same problems.

    - `make`: a function from a learning rate to an optax transformation, such as `optax.adam`.
    - `key`: draws the `problems` problems; test problems must come from another key.
    - `steps`: updates of each run. `objective`: the meta-objective that is averaged.

    Raises `ValueError` for counts below 1, an unknown objective, no rates, one that is negative or
    that the default floating type takes for 0 or infinity, a transformation that `from_optax`
    refuses, first losses that are negative or not finite, and rates of which every run diverges.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    one_of("objective", objective, OBJECTIVES)
    for rate in sequence("rates", rates, "learning rate"):
        finite("rates", rate, at_least=0.0)
        hyperparameter("rates", rate)
    if not callable(make):
        raise ValueError(
            "`make` must be a function from a learning rate to an optax transformation, got "
            f"{shown(make)}."
        )
    key = random_key("key", key)
    check_run(from_optax(make(rates[0])), task, key)
    draws = eqx.filter_jit(sample_problems)(task, key, problems)
    check_first_losses(task, draws, finite=True)
    tried = jnp.asarray(rates, float)
    scores, diverged = _score(make, task, draws, tried, steps=steps, objective=objective)
    if (np.asarray(diverged) == problems).all():
        raise ValueError(
            "`rates` must hold a learning rate of which not every run diverges, got "
            f"{len(rates)} from {min(rates):.3g} to {max(rates):.3g}."
        )
    return TunedRate(np.asarray(rates), np.asarray(scores, float), np.asarray(diverged))


@eqx.filter_jit
def _score(
    make: MakeOptax,
    task: AbstractTask,
    draws: Any,
    rates: Float[Array, " rate"],
    *,
    steps: int,
    objective: Objective,
) -> tuple[Float[Array, " rate"], Int[Array, " rate"]]:
    def score(rate: Float[Array, ""]) -> tuple[Array, Array]:
        optimizer = from_optax(lambda learning_rate: make(learning_rate), learning_rate=rate)
        losses = unroll_losses(optimizer, task, draws, steps)
        finite = jnp.isfinite(losses).all(axis=1)
        scores = meta_objective(losses, objective)
        # Without the barrier, XLA rounds means in another way where their terms have a second use.
        again = meta_objective(jax.lax.optimization_barrier(losses), objective)
        diverged = (~(finite & jnp.isfinite(again))).sum()
        return jnp.where(finite, scores, jnp.inf).mean(), diverged

    means, diverged = jax.lax.map(score, rates)
    return jnp.where(diverged > 0, jnp.inf, means), diverged
