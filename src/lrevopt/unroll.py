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

where the Hessian is symmetric, so that `hess f G` is a forward derivative of the gradient. Only
(x, h) is kept of each step, or, with `segment` steps to a segment, of each segment's start.
"""

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
    segment: int | None = None,
) -> Trajectory:
    """Run `steps` updates on one problem and keep everything: `visited = steps + 1`.

    Differentiable by plain automatic differentiation, in forward and reverse mode, also with
    respect to the problem. `segment` bounds the memory that reverse mode needs: segments of that
    many steps are recomputed from their starts, and the result is the same.

    Raises `ValueError` for steps or a segment below 1, a task whose loss is not a scalar, or an
    optimizer whose readout does not fit its state.
    """
    steps = positive_integer("steps", steps)
    segment = steps if segment is None else positive_integer("segment", segment)
    check_task(task, problem)
    state_size(optimizer)
    return _unroll(optimizer, task, problem, steps, segment)


@eqx.filter_jit
def _unroll(
    optimizer: AbstractOptimizer, task: AbstractTask, problem: Any, steps: int, segment: int
) -> Trajectory:
    problems = jax.tree.map(lambda leaf: leaf[None], problem)

    def run(carry: Carry, first: Int[Array, ""] | int, length: int) -> Any:
        return _forward(optimizer, task, problems, carry, first, length, _keep_everything)

    if segment < steps:
        run = jax.checkpoint(run, static_argnums=2)
    begin = _start(optimizer, problems)
    end, whole, rest = _in_segments(run, begin, steps, segment)
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
    segment: int | None = None,
) -> Float[Array, "problem visited"]:
    """Losses of runs on stacked problems, with a written-out derivative in the optimizer.

    Equal to `unroll(...).losses` problem by problem, and so is the derivative; it is faster and
    keeps less. `segment` is the number of steps between kept states (default: all states are
    kept); about sqrt(steps) keeps least. The derivative is reverse-mode, in the optimizer's
    floating-point leaves only: asking for one in `task` or `problems` raises.

    Raises `ValueError` as `unroll` does.
    """
    steps = positive_integer("steps", steps)
    segment = steps if segment is None else positive_integer("segment", segment)
    check_task(task, jax.tree.map(lambda leaf: leaf[0], problems))
    return _unroll_losses(optimizer, task, problems, steps, min(segment, steps))


def _start(optimizer: AbstractOptimizer, problems: Any) -> Carry:
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
    parameters, states = carry
    losses, gradients = _losses_and_gradients(task, problems, parameters, step)
    states = _transitions(optimizer, states, gradients.reshape(-1))
    moves = (optimizer.readout @ states).reshape(parameters.shape)
    return (parameters + moves, states), losses, gradients


def _keep_everything(carry: Carry, gradients: Array) -> tuple[Array, Array, Array]:
    return *carry, gradients


def _keep_carry(carry: Carry, gradients: Array) -> Carry:
    return carry


def _keep_nothing(carry: Carry, gradients: Array) -> tuple[()]:
    return ()


def _forward(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    carry: Carry,
    first: Int[Array, ""] | int,
    length: int,
    keep: Callable[[Carry, Array], Any],
) -> tuple[Carry, tuple[Float[Array, "step problem"], Any]]:
    """`length` inner steps from step `first`; what `keep` returns is kept of each."""

    def body(carry: Carry, step: Int[Array, ""]) -> Any:
        following, losses, gradients = _advance(optimizer, task, problems, carry, step)
        return following, (losses, keep(carry, gradients))

    return lax.scan(body, carry, first + jnp.arange(length))


def _in_segments(run: Callable, carry: Any, steps: int, segment: int) -> tuple[Any, Any, Any]:
    """Chain `run(carry, first, length)` over whole segments and what remains after them.

    Returns the last carry, what whole segments kept (stacked), what the remainder kept.
    """
    count, remainder = divmod(steps, segment)
    carry, whole = lax.scan(
        lambda carry, index: run(carry, index * segment, segment), carry, jnp.arange(count)
    )
    carry, rest = run(carry, count * segment, remainder)
    return carry, whole, rest


def _join(whole: Array, rest: Array) -> Array:
    """(segment, step, ...) and (step, ...) as one axis of steps."""
    return jnp.concatenate([whole.reshape(-1, *whole.shape[2:]), rest])


@eqx.filter_custom_vjp
def _unroll_losses(optimizer, task, problems, steps, segment):
    def run(carry: Carry, first: Any, length: int) -> Any:
        return _forward(optimizer, task, problems, carry, first, length, _keep_nothing)

    begin = _start(optimizer, problems)
    end, (whole, _), (rest, _) = _in_segments(run, begin, steps, segment)
    last = _losses(task, problems, end[0], steps)
    return jnp.concatenate([_join(whole, rest), last[None]]).T


@_unroll_losses.def_fwd
def _unroll_losses_forward(perturbed, optimizer, task, problems, steps, segment):
    keep = _keep_carry if segment == steps else _keep_nothing

    def run(carry: Carry, first: Any, length: int) -> Any:
        following, kept = _forward(optimizer, task, problems, carry, first, length, keep)
        return following, (carry, *kept)

    begin = _start(optimizer, problems)
    end, whole, rest = _in_segments(run, begin, steps, segment)
    last = _losses(task, problems, end[0], steps)
    losses = jnp.concatenate([_join(whole[1], rest[1]), last[None]]).T
    if segment == steps:
        return losses, (end, jax.tree.map(lambda kept: kept[0], whole[2]))
    return losses, (end, (whole[0], rest[0]))


@_unroll_losses.def_bwd
def _unroll_losses_backward(
    residuals, cotangent, perturbed, optimizer, task, problems, steps, segment
):
    end, kept = residuals
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    readout, readout_vjp = jax.vjp(lambda w: eqx.combine(w, fixed).readout, weights)

    def transitions(weights, states, gradients):
        return _transitions(eqx.combine(weights, fixed), states, gradients)

    def back(carry, inputs):
        over_parameters, over_states, over_weights, over_readout = carry
        step, over_loss, (parameters, states) = inputs
        gradients, hessian = jax.linearize(
            lambda x: _losses_and_gradients(task, problems, x, step)[1], parameters
        )
        following, pull = jax.vjp(transitions, weights, states, gradients.reshape(-1))
        moved = over_parameters.reshape(-1)
        over_readout = over_readout + following @ moved
        to_weights, over_states, to_gradients = pull(over_states + readout[:, None] * moved)
        over_parameters = (
            over_parameters
            + hessian(to_gradients.reshape(parameters.shape))
            + over_loss[:, None] * gradients
        )
        over_weights = jax.tree.map(jnp.add, over_weights, to_weights)
        return (over_parameters, over_states, over_weights, over_readout), None

    def back_segment(carry, first, over_losses, visited):
        steps_here = first + jnp.arange(over_losses.shape[0])
        return lax.scan(back, carry, (steps_here, over_losses, visited), reverse=True)[0]

    def recompute(start, first, length):
        return _forward(optimizer, task, problems, start, first, length, _keep_carry)[1][1]

    over_losses, over_last = cotangent.T[:-1], cotangent.T[-1]
    last_gradients = _losses_and_gradients(task, problems, end[0], steps)[1]
    carry = (
        over_last[:, None] * last_gradients,
        jnp.zeros_like(end[1]),
        jax.tree.map(jnp.zeros_like, weights),
        jnp.zeros_like(readout),
    )
    if segment == steps:
        carry = back_segment(carry, 0, over_losses, kept)
    else:
        starts, rest_start = kept
        count, remainder = divmod(steps, segment)
        visited = recompute(rest_start, count * segment, remainder)
        carry = back_segment(carry, count * segment, over_losses[count * segment :], visited)

        def whole(carry, inputs):
            index, over, start = inputs
            visited = recompute(start, index * segment, segment)
            return back_segment(carry, index * segment, over, visited), None

        over_whole = over_losses[: count * segment].reshape(count, segment, -1)
        carry, _ = lax.scan(whole, carry, (jnp.arange(count), over_whole, starts), reverse=True)

    _, over_states, over_weights, over_readout = carry
    _, start_vjp = jax.vjp(lambda w: eqx.combine(w, fixed).initial_state(), weights)
    (from_readout,) = readout_vjp(over_readout)
    (from_start,) = start_vjp(over_states.sum(axis=1))
    total = jax.tree.map(lambda a, b, c: a + b + c, over_weights, from_readout, from_start)
    return jax.tree.map(lambda leaf, on: leaf if on else None, total, perturbed)
