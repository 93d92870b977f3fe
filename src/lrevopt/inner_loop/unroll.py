"""Running an optimizer on problems, and differentiating the run.

One inner step, `_advance`, serves trajectories for analysis (`unroll`) and losses for
meta-training and evaluation (`unroll_losses`). Problems are the first axis; inside, the
states of all parameters of all problems stand side by side on the last axis, so that a
transition written for one parameter becomes a few large matrix products.

The derivative of `unroll_losses` is written out. With `x`, `h`, `g` of one step, cotangents
`X` of x' and `H` of h', and loss cotangent `L`, the adjoint of

    g = grad f(x)      h' = F(h, g)      x' = x + w . h'

is, going back in time,

    H <- H + w X
    (theta, H, G) <- vjp of F at (h, g), applied to H
    X <- X + hess f(x) G + L g

where the Hessian is symmetric, so that `hess f G` is a forward derivative of the gradient. Kept
are (x, h, g) of each step or, with `checkpoint_every` steps to a segment, g of each step and (x,
h) of
each segment's start, from which the others follow without a gradient of the task.

The term `hess f(x) G` is what makes meta-gradients explode: it is the way back through g.
`cotangent_clip` limits what has come in by it.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from lrevopt.checks import positive_integer
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask, check_task

Carry = tuple[Float[Array, "problem dim"], Float[Array, "state lane"]]
"""Parameters, and the states of all parameters: lane = problem x dim."""


CACHE = 2**21
"""Bytes of states that are worth having side by side on a CPU."""

DEVICE_STATES = 2**28
"""The same on an accelerator."""


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
    respect to the problem. `checkpoint_every` bounds the memory that reverse mode needs: segments
    of that
    many steps are recomputed from their starts, and the result is the same.

    Raises `ValueError` for steps or a segment below 1, a task whose loss is not a scalar, or an
    optimizer whose readout does not fit its state.
    """
    steps = positive_integer("steps", steps)
    checkpoint_every = (
        steps
        if checkpoint_every is None
        else positive_integer("checkpoint_every", checkpoint_every)
    )
    check_task(task, problem)
    state_size(optimizer)
    return _unroll(optimizer, task, problem, steps, checkpoint_every)


@eqx.filter_jit
def _unroll(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problem: Any,
    steps: int,
    checkpoint_every: int,
) -> Trajectory:
    problems = jax.tree.map(lambda leaf: leaf[None], problem)

    def run(carry: Carry, first: Int[Array, ""] | int, length: int) -> Any:
        return forward(optimizer, task, problems, carry, first, length, _keep_everything)

    if checkpoint_every < steps:
        run = jax.checkpoint(run, static_argnums=2)
    begin = start_of_runs(optimizer, problems)
    end, whole, rest = _in_segments(run, begin, steps, checkpoint_every)
    losses, (parameters, states, gradients) = jax.tree.map(_join, whole, rest)
    parameters = jnp.concatenate([parameters, end[0][None]])
    states = jnp.concatenate([states, end[1][None]])
    return Trajectory(
        losses=jnp.concatenate([losses, _losses(task, problems, end[0], steps)[None]])[:, 0],
        parameters=parameters[:, 0],
        gradients=gradients[:, 0],
        states=jnp.swapaxes(states, 1, 2),
    )


def unroll_losses(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: PyTree[Array],
    steps: int,
    *,
    checkpoint_every: int | None = None,
    cotangent_clip: float = math.inf,
) -> Float[Array, "problem visited"]:
    """Losses of runs on stacked problems, with a written-out derivative in the optimizer.

    Equal to `unroll(...).losses` problem by problem, and so is the derivative; it is faster and
    keeps less. `checkpoint_every` is the number of steps between kept states (default: all states
    are
    kept); about sqrt(steps) keeps least. The derivative is reverse-mode, in the optimizer's
    floating-point leaves only: asking for one in `task` or `problems` raises.

    `cotangent_clip` makes another derivative of it. Write the cotangent of a problem's parameters
    as what loss gradients put there plus what Hessians did: the norm of the second part is held
    to at most `cotangent_clip` times that of the first, at every step back. 0 is the first-order
    meta-gradient, which takes the gradients that an optimizer meets for constants; infinity, the
    default, is the exact one.

    Raises `ValueError` as `unroll` does, and for a negative `cotangent_clip`.
    """
    steps = positive_integer("steps", steps)
    checkpoint_every = (
        steps
        if checkpoint_every is None
        else positive_integer("checkpoint_every", checkpoint_every)
    )
    if not cotangent_clip >= 0:
        raise ValueError(
            f"`cotangent_clip` must be a number of at least 0, got {cotangent_clip!r}."
        )
    check_task(task, jax.tree.map(lambda leaf: leaf[0], problems))
    bound = float(cotangent_clip)
    return _unroll_losses(optimizer, task, problems, steps, min(checkpoint_every, steps), bound)


def run_to_the_end(
    optimizer: AbstractOptimizer, task: AbstractTask, problems: PyTree[Array], steps: int
) -> tuple[Float[Array, "problem visited"], Float[Array, "problem dim"]]:
    """Losses of runs on stacked problems, and where they end. Raises as `unroll` does."""
    steps = positive_integer("steps", steps)
    check_task(task, jax.tree.map(lambda leaf: leaf[0], problems))
    begin = start_of_runs(optimizer, problems)
    end, losses, last = advance_losses(optimizer, task, problems, begin, 0, steps)
    return jnp.concatenate([losses, last[None]]).T, end[0]


def run_all(
    optimizer: AbstractOptimizer, task: AbstractTask, problems: PyTree[Array], steps: int
) -> tuple[Float[Array, "problem visited"], Float[Array, "problem dim"]]:
    """As `run_to_the_end`, with as many problems side by side as `batch_size` advises."""
    count, dim = problems.initial_parameters.shape
    batch = min(
        count, batch_size(dim * state_size(optimizer) * problems.initial_parameters.itemsize)
    )
    if batch == count:
        return run_to_the_end(optimizer, task, problems, steps)

    def one(problem: Any) -> tuple[Array, Array]:
        stacked = jax.tree.map(lambda leaf: leaf[None], problem)
        return jax.tree.map(lambda leaf: leaf[0], run_to_the_end(optimizer, task, stacked, steps))

    return lax.map(one, problems, batch_size=batch)


def batch_size(state_bytes: int) -> int:
    """How many problems to run at a time, if the states of one take `state_bytes`.

    On a CPU as many as stay in cache, where more are no faster; elsewhere as many as fit a
    generous share of memory.
    """
    room = CACHE if jax.default_backend() == "cpu" else DEVICE_STATES
    return max(1, room // max(state_bytes, 1))


def advance_losses(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: PyTree[Array],
    carry: Carry,
    first: Int[Array, ""] | int,
    steps: int,
) -> tuple[Carry, Float[Array, "step problem"], Float[Array, " problem"]]:
    """Go on with runs from update `first`: the carry after `steps`, the losses before each of
    them, and those after the last.
    """
    end, (losses, _) = forward(optimizer, task, problems, carry, first, steps, _keep_nothing)
    return end, losses, _losses(task, problems, end[0], first + steps)


def start_of_runs(optimizer: AbstractOptimizer, problems: Any) -> Carry:
    """Parameters and states before the first update, on stacked problems."""
    parameters = problems.initial_parameters
    state = optimizer.initial_state()
    state_size(optimizer)
    return parameters, jnp.broadcast_to(state[:, None], (state.size, parameters.size))


def _losses(
    task: AbstractTask, problems: Any, parameters: Float[Array, "problem dim"], step: Any
) -> Float[Array, " problem"]:
    return jax.vmap(task.loss, (0, 0, None))(problems, parameters, step)


def _losses_and_gradients(
    task: AbstractTask, problems: Any, parameters: Float[Array, "problem dim"], step: Any
) -> tuple[Float[Array, " problem"], Float[Array, "problem dim"]]:
    both = jax.value_and_grad(task.loss, argnums=1)
    return jax.vmap(both, (0, 0, None))(problems, parameters, step)


def _transitions(
    optimizer: AbstractOptimizer,
    states: Float[Array, "state lane"],
    gradients: Float[Array, " lane"],
) -> Float[Array, "state lane"]:
    return jax.vmap(optimizer.transition, (-1, 0), -1)(states, gradients)


def _advance(
    optimizer: AbstractOptimizer, task: AbstractTask, problems: Any, carry: Carry, step: Any
) -> tuple[Carry, Float[Array, " problem"], Float[Array, "problem dim"]]:
    """One inner step on every problem; also the losses and gradients it started from."""
    losses, gradients = _losses_and_gradients(task, problems, carry[0], step)
    return _moved(optimizer, carry, gradients), losses, gradients


def _moved(
    optimizer: AbstractOptimizer, carry: Carry, gradients: Float[Array, "problem dim"]
) -> Carry:
    """Parameters and states after an update with these gradients."""
    parameters, states = carry
    states = _transitions(optimizer, states, gradients.reshape(-1))
    return parameters + (optimizer.readout @ states).reshape(parameters.shape), states


def _keep_everything(carry: Carry, gradients: Array) -> tuple[Array, Array, Array]:
    return *carry, gradients


def _keep_gradients(carry: Carry, gradients: Array) -> Array:
    return gradients


def _keep_nothing(carry: Carry, gradients: Array) -> tuple[()]:
    return ()


def forward(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    carry: Carry,
    first: Int[Array, ""] | int,
    length: int,
    keep: Callable[[Carry, Array], Any],
) -> tuple[Carry, tuple[Float[Array, "step problem"], Any]]:
    """`length` inner steps from step `first`: the carry after them, and of each step the losses
    before it and what `keep(carry, gradients)` returns.
    """

    def body(carry: Carry, step: Int[Array, ""]) -> Any:
        following, losses, gradients = _advance(optimizer, task, problems, carry, step)
        return following, (losses, keep(carry, gradients))

    return lax.scan(body, carry, first + jnp.arange(length))


def _in_segments(
    run: Callable, carry: Any, steps: int, checkpoint_every: int
) -> tuple[Any, Any, Any]:
    """Chain `run(carry, first, length)` over whole segments and what remains after them.

    Returns the last carry, what whole segments kept (stacked), what the remainder kept.
    """
    count, remainder = divmod(steps, checkpoint_every)
    carry, whole = lax.scan(
        lambda carry, index: run(carry, index * checkpoint_every, checkpoint_every),
        carry,
        jnp.arange(count),
    )
    carry, rest = run(carry, count * checkpoint_every, remainder)
    return carry, whole, rest


def _join(whole: Array, rest: Array) -> Array:
    """(segment, step, ...) and (step, ...) as one axis of steps."""
    return jnp.concatenate([whole.reshape(-1, *whole.shape[2:]), rest])


def _replay(
    optimizer: AbstractOptimizer, start: Carry, gradients: Float[Array, "step problem dim"]
) -> tuple[Array, Array, Array]:
    """Parameters, states and gradients of each step from a kept start and kept gradients."""

    def body(carry: Carry, gradients: Array) -> tuple[Carry, tuple[Array, Array, Array]]:
        return _moved(optimizer, carry, gradients), (*carry, gradients)

    return lax.scan(body, start, gradients)[1]


@eqx.filter_custom_vjp
def _unroll_losses(optimizer, task, problems, steps, checkpoint_every, cotangent_clip):
    return run_to_the_end(optimizer, task, problems, steps)[0]


@_unroll_losses.def_fwd
def _unroll_losses_forward(
    perturbed, optimizer, task, problems, steps, checkpoint_every, cotangent_clip
):
    keep = _keep_everything if checkpoint_every == steps else _keep_gradients

    def run(carry: Carry, first: Any, length: int) -> Any:
        following, kept = forward(optimizer, task, problems, carry, first, length, keep)
        return following, (carry, *kept)

    begin = start_of_runs(optimizer, problems)
    end, whole, rest = _in_segments(run, begin, steps, checkpoint_every)
    last = _losses(task, problems, end[0], steps)
    losses = jnp.concatenate([_join(whole[1], rest[1]), last[None]]).T
    if checkpoint_every == steps:
        return losses, (end, jax.tree.map(lambda kept: kept[0], whole[2]))
    return losses, (end, (whole[0], whole[2], rest[0], rest[2]))


@_unroll_losses.def_bwd
def _unroll_losses_backward(
    residuals,
    cotangent,
    perturbed,
    optimizer,
    task,
    problems,
    steps,
    checkpoint_every,
    cotangent_clip,
):
    end, kept = residuals
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    readout, readout_vjp = jax.vjp(lambda w: eqx.combine(w, fixed).readout, weights)

    def transitions(weights, states, gradients):
        return _transitions(eqx.combine(weights, fixed), states, gradients)

    def back(carry, inputs):
        (from_losses, from_hessians), over_states, over_weights, over_readout = carry
        step, over_loss, (parameters, states, gradients) = inputs
        following, pull = jax.vjp(transitions, weights, states, gradients.reshape(-1))
        moved = (from_losses + from_hessians).reshape(-1)
        over_readout = over_readout + following @ moved
        to_weights, over_states, to_gradients = pull(over_states + readout[:, None] * moved)
        from_losses = from_losses + over_loss[:, None] * gradients
        if cotangent_clip > 0:
            _, curved = jax.jvp(
                lambda x: _losses_and_gradients(task, problems, x, step)[1],
                (parameters,),
                (to_gradients.reshape(parameters.shape),),
            )
            from_hessians = _bounded(from_hessians + curved, from_losses, cotangent_clip)
        over_weights = jax.tree.map(jnp.add, over_weights, to_weights)
        return ((from_losses, from_hessians), over_states, over_weights, over_readout), None

    def back_segment(carry, first, over_losses, visited):
        steps_here = first + jnp.arange(over_losses.shape[0])
        return lax.scan(back, carry, (steps_here, over_losses, visited), reverse=True)[0]

    over_losses, over_last = cotangent.T[:-1], cotangent.T[-1]
    last_gradients = _losses_and_gradients(task, problems, end[0], steps)[1]
    carry = (
        (over_last[:, None] * last_gradients, jnp.zeros_like(end[0])),
        jnp.zeros_like(end[1]),
        jax.tree.map(jnp.zeros_like, weights),
        jnp.zeros_like(readout),
    )
    if checkpoint_every == steps:
        carry = back_segment(carry, 0, over_losses, kept)
    else:
        starts, gradients, rest_start, rest_gradients = kept
        count = steps // checkpoint_every
        visited = _replay(optimizer, rest_start, rest_gradients)
        carry = back_segment(
            carry, count * checkpoint_every, over_losses[count * checkpoint_every :], visited
        )

        def whole(carry, inputs):
            index, over, start, gradients = inputs
            visited = _replay(optimizer, start, gradients)
            return back_segment(carry, index * checkpoint_every, over, visited), None

        over_whole = over_losses[: count * checkpoint_every].reshape(count, checkpoint_every, -1)
        inputs = (jnp.arange(count), over_whole, starts, gradients)
        carry, _ = lax.scan(whole, carry, inputs, reverse=True)

    _, over_states, over_weights, over_readout = carry
    _, start_vjp = jax.vjp(lambda w: eqx.combine(w, fixed).initial_state(), weights)
    (from_readout,) = readout_vjp(over_readout)
    (from_start,) = start_vjp(over_states.sum(axis=1))
    total = jax.tree.map(lambda a, b, c: a + b + c, over_weights, from_readout, from_start)
    return jax.tree.map(lambda leaf, on: leaf if on else None, total, perturbed)


def _bounded(
    part: Float[Array, "problem dim"], other: Float[Array, "problem dim"], bound: float
) -> Float[Array, "problem dim"]:
    """`part`, scaled down problem by problem to at most `bound` times the norm of `other`."""
    if math.isinf(bound):
        return part
    size, most = (jnp.linalg.norm(a, axis=1, keepdims=True) for a in (part, bound * other))
    return part * jnp.where(size > most, most / jnp.where(size > 0, size, 1.0), 1.0)
