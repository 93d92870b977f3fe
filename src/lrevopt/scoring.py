"""Many settings of one optimizer on the same problems, scored without keeping their losses.

The inner step is the one of `unroll`, laid out for many settings: they are the last axis of
every array, so that a problem's matrices multiply contiguous rows of settings. `BLOCK` settings
run side by side, and of their losses only the first, the last and the sum are kept.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from lrevopt.checks import one_of, positive_integer
from lrevopt.objectives import OBJECTIVES, Objective, objective_of_summary
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask, check_task

BLOCK = 250
"""Settings that are run side by side: enough to vectorise, few enough to stay in cache."""


def score_settings(
    task: AbstractTask,
    optimizers: AbstractOptimizer,
    problems: PyTree[Array],
    steps: int,
    objective: Objective = "mean",
) -> tuple[Float[Array, " setting"], Int[Array, " setting"]]:
    """Mean meta-objective of many settings over stacked problems, and how many diverged.

    `optimizers` is one module whose every array has a leading axis `setting`. A setting that
    diverges on any problem scores inf; the second result counts on how many it does. Equal to
    `evaluate` setting by setting, and several times faster than mapping `unroll_losses`.

    Most time goes into `task.loss` and its gradient. Where value and gradient share a product,
    as in `1/2 x'Hx + v'x`, automatic differentiation does it twice; a loss with a
    `jax.custom_jvp` rule that uses the shared product for both takes half the time here.

    Raises `ValueError` for steps below 1, an unknown objective, arrays of unequal first axis, or
    a task whose loss is not a scalar.
    """
    steps = positive_integer("steps", steps)
    one_of("objective", objective, OBJECTIVES)
    _check_stacked("optimizers", optimizers)
    _check_stacked("problems", problems)
    return _score_settings(optimizers, task, problems, steps, objective)


def _check_stacked(name: str, tree: Any) -> None:
    shapes = [leaf.shape for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"`{name}` must be arrays with one common first axis, got shapes {shapes}."
        )


@eqx.filter_jit
def _score_settings(
    optimizers: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    steps: int,
    objective: Objective,
) -> tuple[Float[Array, " setting"], Int[Array, " setting"]]:
    """Blocks of settings one after another; the last is filled up by repeating a setting."""
    check_task(task, jax.tree.map(lambda leaf: leaf[0], problems))
    arrays, fixed = eqx.partition(optimizers, eqx.is_array)
    settings = jax.tree.leaves(arrays)[0].shape[0]
    blocks = -(-settings // BLOCK)
    size = -(-settings // blocks)
    rows = jnp.minimum(jnp.arange(blocks * size), settings - 1).reshape(blocks, size)

    def score(row: Int[Array, " block"]) -> tuple[Array, Array]:
        block = eqx.combine(jax.tree.map(lambda leaf: leaf[row], arrays), fixed)
        return _score_block(block, task, problems, steps, objective)

    return jax.tree.map(lambda leaf: leaf.reshape(-1)[:settings], lax.map(score, rows))


def _score_block(
    optimizers: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    steps: int,
    objective: Objective,
) -> tuple[Float[Array, " setting"], Int[Array, " setting"]]:
    """One block of `score_settings`.

    State coordinates are a tuple of arrays (problem, dim, setting): stacked, each step would copy
    them together and apart.
    """
    state_size(jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, optimizers))
    over_settings = eqx.filter_vmap
    start = problems.initial_parameters
    states = over_settings(lambda o: o.initial_state(), out_axes=-1)(optimizers)
    readout = over_settings(lambda o: o.readout, out_axes=-1)(optimizers)
    shape = (*start.shape, states.shape[-1])

    def transition(
        optimizer: AbstractOptimizer, state: tuple[Array, ...], gradient: Array
    ) -> tuple[Array, ...]:
        return tuple(optimizer.transition(jnp.stack(state), gradient))

    def over_problems(function: Callable) -> Callable:
        # Settings inside: the other order transposes at each step.
        return jax.vmap(jax.vmap(function, (None, -1, None), -1), (0, 0, None))

    transitions = over_settings(transition)
    for _ in ("dim", "problem"):
        transitions = over_settings(transitions, in_axes=(None, 0, 0))
    both = over_problems(jax.value_and_grad(task.loss, argnums=1))

    def body(carry: Any, step: Int[Array, ""]) -> tuple[Any, None]:
        parameters, states, first, _, total = carry
        losses, gradients = both(problems, parameters, step)
        first = jnp.where(step == 0, losses, first)
        # Without the barrier XLA recomputes the transition inside each use of it.
        states = lax.optimization_barrier(transitions(optimizers, states, gradients))
        moves = sum(weight * state for weight, state in zip(readout, states, strict=True))
        return (parameters + moves, states, first, losses, total + losses), None

    parameters = jnp.broadcast_to(start[..., None], shape)
    unknown = jnp.zeros((shape[0], shape[-1]), start.dtype)
    states = tuple(jnp.broadcast_to(state, shape) for state in states)
    # The last loss takes a step more, whose move is dropped: outside the loop XLA's CPU compiler
    # (jax 0.10.2, float32) fuses sums over so many settings into wrong numbers.
    carry = (parameters, states, unknown, unknown, unknown)
    (_, _, first, last, total), _ = lax.scan(body, carry, jnp.arange(steps + 1))
    mean = total / (steps + 1)
    finished = jnp.isfinite(mean)
    objectives = objective_of_summary(first, mean, last, objective)
    scores = jnp.where(finished, objectives, jnp.inf).mean(axis=0)
    return scores, (~finished).sum(axis=0)
