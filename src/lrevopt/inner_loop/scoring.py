"""Many settings of one optimizer on the same problems, scored without keeping their losses.

There are two layouts, for small and for large problems:

- up to `LARGE_PROBLEM` parameters, settings are the last axis of every array, so that a problem's
  matrices multiply contiguous rows of settings. `BLOCK` settings run side by side;
- above, where that axis would turn each product in a network's layers into many small ones, whole
  runs go through `unroll_losses`, as many at a time as `batch_size` advises.

Of a run's losses only the first, the last and the mean are used. Where the runs of a block on all
problems would take more than `MEMORY`, fewer settings share a block, down to one, and then problems
are run in batches too.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from lrevopt.checks import one_of, positive_integer
from lrevopt.inner_loop.adjoint import unroll_losses
from lrevopt.inner_loop.devices import check_mesh, over_problems
from lrevopt.inner_loop.objectives import OBJECTIVES, Objective, objective_of_summary
from lrevopt.inner_loop.run_checks import check_first_losses, check_fit, check_stacked, first_of
from lrevopt.inner_loop.steps import step_loop
from lrevopt.inner_loop.unroll import batch_size
from lrevopt.optimizers.interface import AbstractOptimizer, moved_at, start_at, state_size
from lrevopt.tasks.interface import AbstractTask

BLOCK = 250
"""Settings run side by side: enough to vectorise, few enough to stay in cache."""

LARGE_PROBLEM = 1000
"""Parameters of a problem above which settings are no longer the last axis."""

MEMORY = 2**29
"""Bytes that runs side by side may take."""

Objectives = tuple[Float[Array, "problem setting"], Bool[Array, "problem setting"]]
"""Meta-objective of each run, and whether it stayed finite."""


def score_settings(
    task: AbstractTask,
    optimizers: AbstractOptimizer,
    problems: PyTree[Array],
    steps: int,
    objective: Objective = "mean",
    *,
    memory: int = MEMORY,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, " setting"], Int[Array, " setting"]]:
    """Mean meta-objective of many settings over stacked problems, and how many diverged.

    Every array in `optimizers` has a leading axis `setting`. A setting that diverges on any
    problem scores inf; the second result counts these problems. Scores equal those of `evaluate`,
    and on small problems take a fraction of the time of mapping `unroll_losses`. Runs side by side
    take at most `memory` bytes by the upper estimate of `bytes_of_a_run`, unless a single run
    takes more. Problems are spread over the devices of `mesh` (default: see `problem_mesh`), which
    share the memory.

    Most time is spent in `task.loss` and its gradient. Where value and gradient share a product,
    as in `1/2 x'Hx + v'x`, automatic differentiation computes it twice; a loss with a
    `jax.custom_jvp` rule that shares the product takes half the time.

    Raises `ValueError` for steps or memory below 1, an unknown objective, arrays of unequal first
    axis, or a task whose loss is not a scalar, or negative at the initial parameters of a problem.
    """
    steps = positive_integer("steps", steps)
    memory = positive_integer("memory", memory)
    one_of("objective", objective, OBJECTIVES)
    check_stacked("optimizers", optimizers)
    check_stacked("problems", problems)
    check_fit(first_of(optimizers), task, first_of(problems))
    check_first_losses(task, problems)
    large = problems.initial_parameters.shape[1] > LARGE_PROBLEM
    return _score_settings(
        optimizers, task, problems, steps=steps, objective=objective, memory=memory, large=large,
        mesh=check_mesh(mesh, len(problems.initial_parameters)),
    )  # fmt: skip


def bytes_of_a_run(optimizer: AbstractOptimizer, task: AbstractTask, problem: Any) -> int:
    """An upper estimate of the bytes that one step of one run takes.

    It counts parameters and state before and after, gradient and update, and every intermediate
    array of loss and gradient, as if none shared memory with another.
    """
    parameters = problem.initial_parameters
    both = jax.value_and_grad(lambda x: task.loss(problem, x, 0))
    carried = parameters.size * (2 * state_size(optimizer) + 4) * parameters.dtype.itemsize
    return carried + sum(_array_bytes(jax.make_jaxpr(both)(parameters).jaxpr))


def _array_bytes(jaxpr: Any) -> Iterator[int]:
    """Bytes of every array that a program computes, nested programs included."""
    for equation in jaxpr.eqns:
        inside = [
            getattr(part, "jaxpr", part)
            for value in equation.params.values()
            for part in (value if isinstance(value, list | tuple) else [value])
        ]
        for program in inside:
            if hasattr(program, "eqns"):
                yield from _array_bytes(program)
        for variable in equation.outvars:
            yield math.prod(variable.aval.shape) * variable.aval.dtype.itemsize


@eqx.filter_jit
def _score_settings(
    optimizers: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    *,
    steps: int,
    objective: Objective,
    memory: int,
    large: bool,
    mesh: Mesh | None,
) -> tuple[Float[Array, " setting"], Int[Array, " setting"]]:
    """Means over problems, which are spread over a mesh."""
    devices = 1 if mesh is None else mesh.size

    def run(shared: Any, problems: Any) -> Objectives:
        optimizers, task = shared
        return _score_on_device(
            optimizers, task, problems, steps=steps, objective=objective,
            memory=max(1, memory // devices), large=large,
        )  # fmt: skip

    objectives, finished = over_problems(run, (optimizers, task), problems, mesh)
    scores = jnp.where(finished, objectives, jnp.inf).mean(axis=0)
    return scores, (~finished).sum(axis=0)


def _score_on_device(
    optimizers: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    *,
    steps: int,
    objective: Objective,
    memory: int,
    large: bool,
) -> Objectives:
    """Blocks of settings one after another, and within each, batches of problems."""
    arrays, fixed = eqx.partition(optimizers, eqx.is_array)
    settings = jax.tree.leaves(arrays)[0].shape[0]
    count = problems.initial_parameters.shape[0]
    one, problem = first_of(optimizers), first_of(problems)
    fitting = max(1, memory // bytes_of_a_run(one, task, problem))
    if large:
        fitting = min(fitting, batch_size(one, problem.initial_parameters))
    run = _run_whole if large else _run_block

    def score(rows: Int[Array, " block"]) -> tuple[Array, Array]:
        block = eqx.combine(jax.tree.map(lambda leaf: leaf[rows], arrays), fixed)

        def on(batch: Any) -> Objectives:
            return run(block, task, batch, steps, objective)

        if fitting >= count:
            objectives, finished = on(problems)
        else:
            objectives, finished = _in_rows(
                lambda places: on(jax.tree.map(lambda leaf: leaf[places], problems)), count, fitting
            )
        return objectives.T, finished.T

    objectives, finished = _in_rows(score, settings, min(BLOCK, max(1, fitting // count)))
    return objectives.T, finished.T


def _in_rows(function: Callable[[Int[Array, " row"]], Any], count: int, most: int) -> Any:
    """`function` of the indices below `count`, in even rows of at most `most`.

    The last row is filled up by repeating the last index.
    """
    rows = -(-count // most)
    size = -(-count // rows)
    indices = jnp.minimum(jnp.arange(rows * size), count - 1).reshape(rows, size)
    parts = lax.map(function, indices)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], parts)


def _run_whole(
    optimizers: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    steps: int,
    objective: Objective,
) -> Objectives:
    """Runs of each setting on each problem, by `unroll_losses`."""

    def run(optimizer: AbstractOptimizer) -> tuple[Array, Array]:
        losses = unroll_losses(optimizer, task, problems, steps)
        return _objectives(losses[:, 0], losses.mean(axis=1), losses[:, -1], objective)

    return eqx.filter_vmap(run, out_axes=1)(optimizers)


def _run_block(
    optimizers: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    steps: int,
    objective: Objective,
) -> Objectives:
    """The runs of a block, with settings on the last axis.

    State coordinates are a tuple of arrays (problem, dim, setting), because one stacked array would
    be put together and taken apart in each step.
    """
    state_size(first_of(optimizers))
    over_settings = eqx.filter_vmap
    start = problems.initial_parameters
    readout = over_settings(lambda o: o.readout, out_axes=-1)(optimizers)
    shape, dtype = (*start.shape, readout.shape[-1]), readout.dtype

    def transition(
        optimizer: AbstractOptimizer, state: tuple[Array, ...], gradient: Array, parameter: Array
    ) -> tuple[Array, ...]:
        return tuple(moved_at(optimizer, jnp.stack(state), gradient, parameter))

    transitions = over_settings(transition)
    starts = over_settings(lambda o, x: tuple(start_at(o, x)))
    for _ in ("dim", "problem"):
        transitions = over_settings(transitions, in_axes=(None, 0, 0, 0))
        starts = over_settings(starts, in_axes=(None, 0))
    both = jax.value_and_grad(task.loss, argnums=1)
    # Settings are the inner axis: the other order would transpose in each step.
    both = jax.vmap(jax.vmap(both, (None, -1, None), -1), (0, 0, None))

    def gradients_at(parameters: Array, step: Int[Array, ""]) -> tuple[Any, Array]:
        losses, gradients = both(problems, parameters, step)
        return (losses, step), gradients

    def move(carry: Any, met: tuple[Array, Array], gradients: Array) -> Any:
        parameters, states, first, _, total = carry
        losses, step = met
        first = jnp.where(step == 0, losses, first)
        # Without the barrier XLA recomputes the transition inside each use of it.
        states = transitions(
            optimizers, states, *(a.astype(dtype) for a in (gradients, parameters))
        )
        states = lax.optimization_barrier(states)
        moves = sum(
            weight[None, None] * state for weight, state in zip(readout, states, strict=True)
        )
        return parameters + moves.astype(start.dtype), states, first, losses, total + losses

    parameters = jnp.broadcast_to(start[..., None], shape)
    unknown = jnp.zeros((shape[0], shape[-1]), start.dtype)
    states = starts(optimizers, parameters.astype(dtype))
    # The last loss takes one more step, whose update is dropped. Outside the loop, XLA's CPU
    # compiler (jax 0.10.2, float32) fuses sums over so many settings into wrong numbers.
    begin, inputs = (parameters, states, unknown, unknown, unknown), jnp.arange(steps + 1)
    (_, _, first, last, total), _ = step_loop(begin, inputs, gradients_at, move, lambda *_: None)
    return _objectives(first, total / (steps + 1), last, objective)


def _objectives(
    first: Float[Array, "problem *setting"],
    mean: Float[Array, "problem *setting"],
    last: Float[Array, "problem *setting"],
    objective: Objective,
) -> tuple[Float[Array, "problem *setting"], Bool[Array, "problem *setting"]]:
    """Meta-objective of each run from its first, mean and last loss, and whether it is finite."""
    objectives = objective_of_summary(first, mean, last, objective)
    return objectives, jnp.isfinite(mean) & jnp.isfinite(objectives)
