"""The step loop: an optimizer on problems, or on gradients that are given.

    g = grad f(x)      h' = F(h, g)      x' = x + w . h'

`step_loop` is the loop, whatever the layout of its arrays. On stacked problems
(`run_on_problems`) the problem is the first axis of the parameters. The states of all parameters
of all problems stand side by side on the last axis, one *lane* each, so that a transition written
for one parameter becomes a few large matrix products. On given gradients (`run_on_gradients`) one
state follows one sequence.

Within a program that spreads parameters over devices (`inner_loop.lanes`), a `shard` says so: carry
and gradients have the parameters of the device at hand, and losses are parts that add up.

States have the optimizer's dtype. Gradients and parameters of lower precision are converted to it,
and each step is rounded once, to the dtype of the parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lrevopt.inner_loop.devices import LANE
from lrevopt.inner_loop.lanes import Shard
from lrevopt.optimizers.interface import (
    AbstractOptimizer,
    AbstractParameterOptimizer,
    moved_at,
    start_at,
    state_size,
)
from lrevopt.tasks.interface import AbstractTask

Carry = tuple[Float[Array, "problem dim"], Float[Array, "state lane"]]
"""Parameters, and the states of all parameters: lane = problem x dim."""

Keep = Callable[[Carry, Float[Array, " problem"], Float[Array, "problem dim"]], Any]
"""What is kept of a step: a function of the carry, the losses and the gradients before it."""


def step_loop(
    begin: Any,
    inputs: Any,
    gradients_at: Callable[[Any, Any], tuple[Any, Any]],
    move: Callable[[Any, Any, Any], Any],
    keep: Callable[[Any, Any, Any], Any],
) -> tuple[Any, Any]:
    """One step for each entry of `inputs`: the last carry, and what was kept, stacked.

    The first part of a carry are the parameters. `gradients_at(parameters, input)` returns losses
    and gradients there, `move(carry, losses, gradients)` the next carry, and
    `keep(carry, losses, gradients)` what is kept.
    """

    def body(carry: Any, given: Any) -> tuple[Any, Any]:
        losses, gradients = gradients_at(carry[0], given)
        return move(carry, losses, gradients), keep(carry, losses, gradients)

    return lax.scan(body, begin, inputs)


def run_on_problems(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: Any,
    carry: Carry,
    *,
    first: Int[Array, ""] | int,
    length: int,
    keep: Keep,
    shard: Shard | None = None,
) -> tuple[Carry, Any]:
    """`length` inner steps on stacked problems, from step `first` on."""

    def gradients_at(parameters: Array, step: Array) -> tuple[Array, Array]:
        return losses_and_gradients(task, problems, parameters, step, shard=shard)

    def move(carry: Carry, losses: Array, gradients: Array) -> Carry:
        return moved(optimizer, carry, gradients)

    return step_loop(carry, first + jnp.arange(length), gradients_at, move, keep)


def rerun(
    optimizer: AbstractOptimizer, carry: Carry, gradients: Float[Array, "step problem dim"]
) -> tuple[Array, Array, Array]:
    """Parameters, states and gradients before each step of a run whose gradients were kept."""
    return step_loop(
        carry,
        gradients,
        lambda _, given: ((), given),
        lambda carry, _, given: moved(optimizer, carry, given),
        lambda carry, _, given: (*carry, given),
    )[1]


def run_on_gradients(
    optimizer: AbstractOptimizer,
    gradients: Float[Array, " step"],
    *,
    start: Float[Array, " state"] | None = None,
    keep: Callable[[Float[Array, " state"], Float[Array, ""]], Any] = lambda state, gradient: None,
) -> tuple[Float[Array, " state"], Any]:
    """The state after given gradients, and what `keep(state, gradient)` kept before each of them.

    `start` is the state before the first gradient, by default the optimizer's initial state.
    """
    begin = optimizer.initial_state() if start is None else start
    (_, last), kept = step_loop(
        ((), begin),
        gradients,
        lambda _, given: ((), given),
        lambda carry, _, given: ((), optimizer.transition(carry[1], given)),
        lambda carry, _, given: keep(carry[1], given),
    )
    return last, kept


def visited_states(
    optimizer: AbstractOptimizer,
    gradients: Float[Array, " step"],
    *,
    start: Float[Array, " state"] | None = None,
) -> Float[Array, "visited state"]:
    """States before each of the given gradients, and after the last."""
    last, before = run_on_gradients(
        optimizer, gradients, start=start, keep=lambda state, gradient: state
    )
    return jnp.concatenate([before, last[None]])


def updates_on_gradients(
    optimizer: AbstractOptimizer,
    gradients: Float[Array, " step"],
    *,
    start: Float[Array, " state"] | None = None,
) -> Float[Array, " step"]:
    """Updates `w . h'` under given gradients, from `start`, by default the initial state."""
    last, before = run_on_gradients(
        optimizer, gradients, start=start, keep=lambda state, gradient: optimizer.readout @ state
    )
    return jnp.append(before[1:], optimizer.readout @ last)


def start_of_runs(optimizer: AbstractOptimizer, problems: Any, shard: Shard | None = None) -> Carry:
    """Parameters and states before the first step, on stacked problems."""
    parameters = problems.initial_parameters
    if shard is not None:
        parameters = shard.own(parameters)
    state_size(optimizer)
    if isinstance(optimizer, AbstractParameterOptimizer):
        return parameters, start_of_lanes(optimizer, parameters)
    state = optimizer.initial_state()
    return parameters, jnp.broadcast_to(state[:, None], (state.size, parameters.size))


def start_of_lanes(
    optimizer: AbstractOptimizer, parameters: Float[Array, "problem dim"]
) -> Float[Array, "state lane"]:
    """State of every lane before the first step, where it may depend on the parameter."""
    return jax.vmap(lambda x: start_at(optimizer, x), out_axes=-1)(parameters.reshape(-1))


def losses_of(
    task: AbstractTask,
    problems: Any,
    parameters: Float[Array, "problem dim"],
    step: Any,
    *,
    shard: Shard | None = None,
) -> Float[Array, " problem"]:
    """Loss of each of the stacked problems."""
    whole = parameters if shard is None else shard.whole(parameters)
    return jax.vmap(_own_loss(task, shard), (0, 0, None))(problems, whole, step)


def losses_and_gradients(
    task: AbstractTask,
    problems: Any,
    parameters: Float[Array, "problem dim"],
    step: Any,
    *,
    shard: Shard | None = None,
) -> tuple[Float[Array, " problem"], Float[Array, "problem dim"]]:
    """Loss of each of the stacked problems, and its gradient."""
    if shard is not None:
        parameters = shard.whole(parameters)
    both = jax.value_and_grad(_own_loss(task, shard), argnums=1)
    losses, gradients = jax.vmap(both, (0, 0, None))(problems, parameters, step)
    return losses, gradients if shard is None else shard.own_sum(gradients)


def hessian_products(
    task: AbstractTask,
    problems: Any,
    points: tuple[Float[Array, "problem dim"], Float[Array, "problem dim"]],
    step: Any,
    *,
    shard: Shard | None = None,
) -> Float[Array, "problem dim"]:
    """Hessian of each loss times a direction. `points` are parameters and directions."""
    if shard is not None:
        parameters, directions = shard.whole(jnp.stack(points))
        points = parameters, directions
    slope = jax.vmap(jax.grad(_own_loss(task, shard), argnums=1), (0, 0, None))
    products = jax.jvp(lambda x: slope(problems, x, step), points[:1], points[1:])[1]
    return products if shard is None else shard.own_sum(products)


def _own_loss(task: AbstractTask, shard: Shard | None) -> Callable[[Any, Array, Any], Array]:
    """The loss of a problem, or this device's part of it."""
    if shard is None:
        return task.loss
    device, devices = lax.axis_index(LANE), shard.devices

    def own(problem: Any, parameters: Array, step: Any) -> Array:
        part = task.part_of_loss(problem, parameters, step, device, devices)
        return task.loss(problem, parameters, step) / devices if part is None else part

    return own


def transitions(
    optimizer: AbstractOptimizer,
    states: Float[Array, "state lane"],
    gradients: Float[Array, " lane"],
    parameters: Float[Array, " lane"],
) -> Float[Array, "state lane"]:
    """Next state of every lane."""

    def one(state: Array, gradient: Array, parameter: Array) -> Array:
        return moved_at(optimizer, state, gradient, parameter)

    dtype = states.dtype
    return jax.vmap(one, (-1, 0, 0), -1)(states, gradients.astype(dtype), parameters.astype(dtype))


def moved(
    optimizer: AbstractOptimizer, carry: Carry, gradients: Float[Array, "problem dim"]
) -> Carry:
    """Parameters and states after a step with these gradients."""
    parameters, states = carry
    states = transitions(optimizer, states, gradients.reshape(-1), parameters.reshape(-1))
    step = (optimizer.readout @ states).reshape(parameters.shape)
    return parameters + step.astype(parameters.dtype), states
