"""Gradients and updates of sampled parameters along an optimizer's own runs."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.inner_loop.steps import run_on_problems, start_of_runs, updates_on_gradients
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems

LANES = 256
"""Parameters, of all problems together, whose gradients and updates are kept."""

FAINT = 1e-3
"""Updates of a step weigh less where their size is below this share of that of all steps."""


class RecordedRuns(eqx.Module):
    """Gradients and updates of sampled parameters, a *lane* each, along runs.

    `scale` is the size of the updates of a step: fits and R^2 weigh all steps alike.
    """

    gradients: Float[Array, "step lane"]
    updates: Float[Array, "step lane"]
    scale: Float[Array, " step"]


class Typical(eqx.Module):
    """Sizes that random starts are drawn around: of gradients, and of single large ones."""

    gradient: float
    largest: float
    steps: int


def record_runs(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int,
    steps: int,
    lanes: int = LANES,
) -> RecordedRuns:
    """Gradients and updates of at most `lanes` sampled parameters along an optimizer's own runs.

    Raises `ValueError` if all runs diverge.
    """
    problem_key, lane_key = jr.split(key)
    gradients, updates = _run(optimizer, task, problem_key, problems, steps)
    sound = np.flatnonzero(np.isfinite(np.asarray(gradients + updates)).all(axis=0))
    if not sound.size:
        raise ValueError("`optimizer` must not diverge on every problem.")
    order = np.asarray(jr.permutation(lane_key, sound.size))[:lanes]
    chosen = sound[np.sort(order)]
    gradients, updates = gradients[:, chosen], updates[:, chosen]
    return RecordedRuns(gradients, updates, _size_of_steps(updates))


def _size_of_steps(updates: Float[Array, "step lane"]) -> Float[Array, " step"]:
    square = jnp.mean(updates**2, axis=1)
    return jnp.sqrt(square + FAINT**2 * square.mean() + jnp.finfo(square.dtype).tiny)


@eqx.filter_jit
def _run(
    optimizer: AbstractOptimizer, task: AbstractTask, key: Key[Array, ""], count: int, steps: int
) -> tuple[Float[Array, "step lane"], Float[Array, "step lane"]]:
    problems = sample_problems(task, key, count)

    def keep(carry: Any, losses: Array, gradients: Array) -> tuple[Array, Array]:
        return gradients.reshape(-1), optimizer.readout @ carry[1]

    begin = start_of_runs(optimizer, problems)
    end, (gradients, before) = run_on_problems(
        optimizer, task, problems, begin, first=0, length=steps, keep=keep
    )
    updates = jnp.concatenate([before[1:], (optimizer.readout @ end[1])[None]])
    return gradients.astype(updates.dtype), updates


def typical_of(gradients: Float[Array, "step lane"]) -> Typical:
    """Sizes of gradients along runs."""
    sizes = np.abs(np.asarray(gradients, float))
    per_step = np.sqrt((sizes**2).mean(axis=1))
    low = np.finfo(float).tiny
    return Typical(
        gradient=float(max(np.median(per_step), low)),
        largest=float(max(np.quantile(sizes, 0.99), low)),
        steps=len(sizes),
    )


def replayed(
    box: AbstractOptimizer, gradients: Float[Array, "step lane"]
) -> Float[Array, "step lane"]:
    """Updates that an optimizer makes under given gradients, from its own initial state."""
    return jax.vmap(partial(updates_on_gradients, box), -1, -1)(gradients)


def residuals(box: AbstractOptimizer, recorded: RecordedRuns) -> Float[Array, "step lane"]:
    """Departure of replayed updates from the recorded ones, in units of the step's size."""
    found = replayed(box, recorded.gradients)
    return (found - recorded.updates) / recorded.scale[:, None]


def r_squared(box: AbstractOptimizer, recorded: RecordedRuns) -> Float[Array, ""]:
    """Share of the updates that is explained, all steps weighing alike: 1 for all of them."""
    whole = jnp.sum((recorded.updates / recorded.scale[:, None]) ** 2)
    return 1 - jnp.sum(residuals(box, recorded) ** 2) / whole
