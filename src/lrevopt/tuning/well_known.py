"""Fifteen well-known optimizers of optax by name, and a learning rate for each on a task.

`WELL_KNOWN` has the authors' or optax's usual settings of everything but the learning rate, so
that two of them differ in what their papers say and not in how well they were tuned.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from lrevopt.checks import one_of, positive_integer
from lrevopt.inner_loop.adjoint import unroll_losses
from lrevopt.inner_loop.objectives import OBJECTIVES, Objective, meta_objective
from lrevopt.optimizers import from_optax
from lrevopt.tasks.interface import AbstractTask, sample_problems

MakeOptax = Callable[[float | Float[Array, ""]], optax.GradientTransformation]
"""A transformation from its learning rate."""

MOMENTUM = 0.9
"""Of the two that have one and no default."""

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
"""In the order in which they were published, each without weight decay.

They are optax's, whatever the papers say: its `rprop` makes the step that the gradient before
has chosen, and from the gradient at hand learns only whether to make it (optax 0.2.8; its pull
request 1725 would mend that).
"""

LEARNING_RATES = tuple(float(rate) for rate in np.geomspace(1e-5, 1e2, 43))
"""Learning rates that are tried, six per decade. Adadelta's is a factor on steps that set their
own size, so it may be large."""


class TunedRate(eqx.Module):
    """What one search of a learning rate found.

    `scores` are mean meta-objectives over the same problems, inf where a run diverged; `diverged`
    counts these runs. `on_edge` says that the best rate is the least or the largest tried, or
    that every rate diverged.
    """

    learning_rates: Float[np.ndarray, " rate"]
    scores: Float[np.ndarray, " rate"]
    diverged: Int[np.ndarray, " rate"]

    @property
    def best(self) -> float:
        """The learning rate of the least score."""
        return float(self.learning_rates[np.argmin(self.scores)])

    @property
    def on_edge(self) -> bool:
        """Whether a rate that was not tried may be better."""
        return int(np.argmin(self.scores)) in (0, len(self.scores) - 1)


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
    """Score a transformation at every learning rate on the same problems, one rate at a time.

    Raises `ValueError` for counts below 1, an unknown objective, no rates, or a transformation
    that `from_optax` refuses.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    one_of("objective", objective, OBJECTIVES)
    if not rates:
        raise ValueError("`rates` must name at least one learning rate, got none.")
    from_optax(make(rates[0]))
    tried = jnp.asarray(rates, float)
    scores, diverged = _score(make, task, key, problems, steps, objective, tried)
    return TunedRate(np.asarray(rates), np.asarray(scores, float), np.asarray(diverged))


@eqx.filter_jit
def _score(
    make: MakeOptax,
    task: AbstractTask,
    key: Key[Array, ""],
    count: int,
    steps: int,
    objective: Objective,
    rates: Float[Array, " rate"],
) -> tuple[Float[Array, " rate"], Int[Array, " rate"]]:
    problems = sample_problems(task, key, count)

    def score(rate: Float[Array, ""]) -> tuple[Array, Array]:
        losses = unroll_losses(from_optax(make(rate)), task, problems, steps)
        finite = jnp.isfinite(losses).all(axis=1)
        scores = meta_objective(losses, objective)
        return jnp.where(finite, scores, jnp.inf).mean(), (~finite).sum()

    return jax.lax.map(score, rates)
