"""States and gradients of sampled parameters along test runs (paper, 5.1, footnote 4)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from lrevopt import storage
from lrevopt.checks import positive_integer, random_key
from lrevopt.inner_loop.run_checks import check_fit, check_run
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.inner_loop.steps import run_on_problems, start_of_runs
from lrevopt.inner_loop.unroll import batch_size
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask, group_spans, sample_problems

POOLED_PER_PROBLEM, POOLED_GRADIENTS = 1000, 2**22
"""Upper bounds on parameters per problem whose gradients are pooled, and on gradients in all."""


class SampledStates(eqx.Module):
    """States and gradients of sampled parameters along test runs. A *path* is one parameter.

    `gradients[:, k]` turns `states[:, k]` into `states[:, k + 1]`. Where a task names groups of
    parameters, all groups have the same number of paths (unless one is smaller), so that biases
    are represented among 80,000 weights. `pooled_gradients` are gradients of more parameters,
    sampled regardless of groups and in no order; their distribution is that of all gradients.
    Host arrays in float64. Paths that are not finite are left out, and `diverged` counts them.
    """

    states: Float[np.ndarray, "path visited state"]
    gradients: Float[np.ndarray, "path step"]
    pooled_gradients: Float[np.ndarray, " pooled"]
    diverged: int


def sample_states(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    parameters: int = 20,
) -> SampledStates:
    """Run an optimizer on fresh problems and keep about `parameters` random paths of each.

    Paths are chosen before the run and nothing else is kept, so memory does not depend on the
    size of the problems. Raises `ValueError` for counts below 1, for paths that do not fit into
    memory, and, as `AllDivergedError`, if no path stayed finite.
    """
    key = random_key("key", key)
    counts = {"problems": problems, "steps": steps, "parameters": parameters}
    shape = check_sampled(optimizer, task, key=key, **counts)
    return storage.part(
        "sampled states",
        SampledStates,
        lambda: _sampled(optimizer, task, key, shape=shape, **counts),
        of=optimizer,
    )


def check_sampled(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int,
    steps: int,
    parameters: int = 20,
) -> Any:
    """Shape of the parameters that `sample_states` would run on. Raises `ValueError` as it does."""
    shape = check_run(optimizer, task, key)
    kept = 2 * positive_integer("parameters", parameters) * (state_size(optimizer) + 1)
    check_runs(task, problems=problems, steps=steps, optimizers=kept)
    return shape


def _sampled(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    key: Key[Array, ""],
    *,
    shape: Any,
    problems: int,
    steps: int,
    parameters: int,
) -> SampledStates:
    dim = shape.size
    spans = tuple(group_spans(task, dim).values())
    count = min(POOLED_PER_PROBLEM, dim, max(1, POOLED_GRADIENTS // (problems * steps)))
    states, gradients, pooled = _sample(
        optimizer,
        task,
        key,
        problems=problems,
        steps=steps,
        spans=spans,
        counts=(parameters, count),
        batch=batch_size(optimizer, shape),
    )
    states = np.asarray(states, float).reshape(-1, *states.shape[2:])
    gradients = np.asarray(gradients, float).reshape(-1, steps)
    every = np.asarray(pooled, float).reshape(-1, steps)
    whole = np.isfinite(states).all(axis=(1, 2)) & np.isfinite(gradients).all(axis=1)
    if not whole.any():
        raise AllDivergedError(optimizer, task, problems)
    return SampledStates(
        states=states[whole],
        gradients=gradients[whole],
        pooled_gradients=every[np.isfinite(every).all(axis=1)].ravel(),
        diverged=int(np.sum(~whole)),
    )


def choose(key: Key[Array, ""], span: range, count: int) -> Int[Array, " chosen"]:
    """`count` different indices of a group at random; all of them, if it has no more."""
    return span.start + span.step * jr.permutation(key, len(span))[:count]


class AllDivergedError(ValueError):
    """An optimizer diverged on every problem, so that there is nothing to take apart."""

    def __init__(self, optimizer: AbstractOptimizer, task: AbstractTask, problems: int):
        super().__init__(
            f"`optimizer` must stay finite on some problem of {type(task).__name__}, but this "
            f"{type(optimizer).__name__} diverged on all {problems}."
        )


def follow(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problem: Any,
    steps: int,
    keep: Callable[[Float[Array, "state dim"], Float[Array, " dim"]], Any],
) -> tuple[Any, Float[Array, "state dim"]]:
    """The run of `unroll` on one problem, of which only `keep(states, gradients)` is kept.

    Returns what was kept of each step, stacked, and the last states. `states` are those before the
    update with `gradients`.
    """
    check_fit(optimizer, task, problem)
    problems = jax.tree.map(lambda leaf: leaf[None], problem)
    begin = start_of_runs(optimizer, problems)
    (_, last), kept = run_on_problems(
        optimizer, task, problems, begin, first=0, length=steps,
        keep=lambda carry, losses, gradients: keep(carry[1], gradients[0]),
    )  # fmt: skip
    return kept, last


def over_problems(run: Callable, inputs: Any, batch: int) -> Any:
    """`run` on each entry of `inputs` along the first axis, `batch` at a time."""
    batch = min(batch, len(jax.tree.leaves(inputs)[0]))
    return lax.map(run, inputs, batch_size=batch if batch > 1 else None)


@eqx.filter_jit
def _sample(optimizer, task, key, *, problems, steps, spans, counts, batch):
    problem_key, parameter_key = jr.split(key)
    # Drawn together, as in `evaluate`, so that the same key gives the same problems.
    drawn = sample_problems(task, problem_key, problems)
    parameters, count = counts

    def one(inputs):
        problem, key = inputs
        order = jr.permutation(key, problem.initial_parameters.size)
        if len(spans) == 1:
            chosen = order[:parameters]
        else:
            each = -(-parameters // len(spans))
            keys = jr.split(key, len(spans))
            picked = [choose(k, s, each) for k, s in zip(keys, spans, strict=True)]
            chosen = jnp.concatenate(picked)

        def keep(states, gradients):
            return states[:, chosen].T, gradients[chosen], gradients[order[:count]]

        (states, gradients, pooled), last = follow(optimizer, task, problem, steps, keep)
        states = jnp.concatenate([states, last[:, chosen].T[None]]).swapaxes(0, 1)
        return states, gradients.T, pooled.T

    return over_problems(one, (drawn, jr.split(parameter_key, problems)), batch)
