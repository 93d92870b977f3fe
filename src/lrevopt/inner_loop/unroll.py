"""Runs of an optimizer on problems: whole trajectories, or losses alone.

`unroll` keeps everything about one run and can be differentiated by JAX. Runs of which only the
losses are needed go through stacked problems: `run_all` for evaluation, and `unroll_losses` of
`inner_loop.adjoint` for meta-training, with a derivative of its own.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from lrevopt.checks import positive_integer
from lrevopt.inner_loop.devices import over_problems, with_lanes
from lrevopt.inner_loop.lanes import Shard, shard_of
from lrevopt.inner_loop.run_checks import check_fit, first_of
from lrevopt.inner_loop.steps import Carry, losses_of, run_on_problems, start_of_runs
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask

CACHE = 2**21
"""Bytes of optimizer states that run side by side on a CPU: about the size of its cache."""

DEVICE_STATES = 2**28
"""Bytes of optimizer states that run side by side on an accelerator."""


class Trajectory(eqx.Module):
    """One run. Index k counts updates: entry 0 is the start, before any update.

    `gradients[k]` is the gradient at `parameters[k]`, which turns `states[k]` into
    `states[k + 1]` and `parameters[k]` into `parameters[k + 1]`.
    """

    losses: Float[Array, " visited"]
    parameters: Float[Array, "visited dim"]
    gradients: Float[Array, "step dim"]
    states: Float[Array, "visited dim state"]


def unroll(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problem: Any,
    steps: int,
    *,
    checkpoint_every: int | None = None,
) -> Trajectory:
    """Run `steps` updates on one problem and keep everything: `visited = steps + 1`.

    Differentiable by plain automatic differentiation, in forward and reverse mode, also with
    respect to the problem. `checkpoint_every` bounds the memory that reverse mode needs: it keeps
    only every so many states and computes those between them again. The result is the same.

    Raises `ValueError` for `steps` or `checkpoint_every` below 1, a task whose loss is not a
    scalar, an optimizer that is not one or does not fit (see `check_fit`), and parameters that are
    not one flat vector of float32 or float64.
    """
    steps = positive_integer("steps", steps)
    every = checkpoint_interval(checkpoint_every, steps)
    check_fit(optimizer, task, problem)
    return _unroll(optimizer, task, problem, steps, every)


@eqx.filter_jit
def _unroll(
    optimizer: AbstractOptimizer, task: AbstractTask, problem: Any, steps: int, every: int
) -> Trajectory:
    problems = jax.tree.map(lambda leaf: leaf[None], problem)

    def keep(carry: Carry, losses: Array, gradients: Array) -> Any:
        return losses, (*carry, gradients)

    def run(carry: Carry, first: Int[Array, ""] | int, length: int) -> Any:
        return run_on_problems(
            optimizer, task, problems, carry, first=first, length=length, keep=keep
        )

    if every < steps:
        run = jax.checkpoint(run, static_argnums=2)
    begin = start_of_runs(optimizer, problems)
    end, whole, rest = in_segments(run, begin, steps, every)
    losses, (parameters, states, gradients) = jax.tree.map(join_segments, whole, rest)
    parameters = jnp.concatenate([parameters, end[0][None]])
    states = jnp.concatenate([states, end[1][None]])
    last = losses_of(task, problems, end[0], steps)
    return Trajectory(
        losses=jnp.concatenate([losses, last[None]])[:, 0],
        parameters=parameters[:, 0],
        gradients=gradients[:, 0],
        states=jnp.swapaxes(states, 1, 2),
    )


def run_to_the_end(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: PyTree[Array],
    steps: int,
    *,
    shard: Shard | None = None,
) -> tuple[Float[Array, "problem visited"], Float[Array, "problem dim"]]:
    """Losses of runs on stacked problems, and their last parameters. Raises as `unroll` does.

    With a `shard`, every device has all of both.
    """
    steps = positive_integer("steps", steps)
    check_fit(optimizer, task, first_of(problems))
    begin = start_of_runs(optimizer, problems, shard)
    end, losses, last = advance_losses(
        optimizer, task, problems, begin, first=0, steps=steps, shard=shard
    )
    losses = jnp.concatenate([losses, last[None]]).T
    return (losses, end[0]) if shard is None else (shard.total(losses), shard.whole(end[0]))


def run_all(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: PyTree[Array],
    steps: int,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "problem visited"], Float[Array, "problem dim"]]:
    """As `run_to_the_end`, over the devices of a mesh if one is given (see `over_problems`).

    On each device as many problems are run side by side as `batch_size` advises. Where there are
    fewer problems than devices, parameters may be spread (see `with_lanes`).
    """
    count, dim = problems.initial_parameters.shape
    mesh = with_lanes(mesh, count, dim)
    shard = shard_of(mesh, dim)

    def run(shared: Any, problems: Any) -> tuple[Array, Array]:
        optimizer, task = shared
        if shard is not None:  # one problem
            return run_to_the_end(optimizer, task, problems, steps, shard=shard)
        return _in_batches(optimizer, task, problems, steps)

    return over_problems(run, (optimizer, task), problems, mesh)


def _in_batches(
    optimizer: AbstractOptimizer, task: AbstractTask, problems: PyTree[Array], steps: int
) -> tuple[Float[Array, "problem visited"], Float[Array, "problem dim"]]:
    count = problems.initial_parameters.shape[0]
    batch = batch_size(optimizer, problems.initial_parameters[0])
    if batch >= count:
        return run_to_the_end(optimizer, task, problems, steps)

    def one(problem: Any) -> tuple[Array, Array]:
        stacked = jax.tree.map(lambda leaf: leaf[None], problem)
        return jax.tree.map(lambda leaf: leaf[0], run_to_the_end(optimizer, task, stacked, steps))

    return lax.map(one, problems, batch_size=batch)


def batch_size(optimizer: AbstractOptimizer, parameters: Any) -> int:
    """How many problems are run at a time, from the parameters of one: an array or its shape.

    On a CPU as many as have their optimizer states in cache, since more are no faster; elsewhere
    as many as fit into a generous share of memory. At least 1.
    """
    room = CACHE if jax.default_backend() == "cpu" else DEVICE_STATES
    state_bytes = parameters.size * state_size(optimizer) * parameters.dtype.itemsize
    return max(1, room // max(1, state_bytes))


def advance_losses(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: PyTree[Array],
    carry: Carry,
    *,
    first: Int[Array, ""] | int,
    steps: int,
    shard: Shard | None = None,
) -> tuple[Carry, Float[Array, "step problem"], Float[Array, " problem"]]:
    """Continue runs for `steps` updates from update `first` on.

    Returns the carry after them, the losses before each of them, and the losses after the last.
    With a `shard`, losses are parts that add up.
    """

    def keep(carry: Carry, losses: Array, gradients: Array) -> Array:
        return losses

    end, losses = run_on_problems(
        optimizer, task, problems, carry, first=first, length=steps, keep=keep, shard=shard
    )
    return end, losses, losses_of(task, problems, end[0], first + steps, shard=shard)


def checkpoint_interval(checkpoint_every: int | None, steps: int) -> int:
    """Steps between kept states: all are kept unless `checkpoint_every` is given."""
    if checkpoint_every is None:
        return steps
    return min(positive_integer("checkpoint_every", checkpoint_every), steps)


def in_segments(run: Callable, carry: Any, steps: int, every: int) -> tuple[Any, Any, Any]:
    """Chain `run(carry, first, length)` over segments of `every` steps and what remains.

    Returns the last carry, what whole segments kept (stacked), what the remainder kept.
    """
    count, remainder = divmod(steps, every)
    carry, whole = lax.scan(
        lambda carry, index: run(carry, index * every, every), carry, jnp.arange(count)
    )
    carry, rest = run(carry, count * every, remainder)
    return carry, whole, rest


def join_segments(whole: Array, rest: Array) -> Array:
    """(segment, step, ...) and (step, ...) as one axis of steps."""
    return jnp.concatenate([whole.reshape(-1, *whole.shape[2:]), rest])
