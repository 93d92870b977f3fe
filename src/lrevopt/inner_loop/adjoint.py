"""Losses of unrolled runs, with a derivative in the optimizer that is written out.

With `x`, `h`, `g` of one step, cotangents `X` of x' and `H` of h', and loss cotangent `L`, the
adjoint of

    g = grad f(x)      h' = F(h, g)      x' = x + w . h'

is, going back in time,

    H <- H + w X
    (theta, H, G) <- vjp of F at (h, g), applied to H
    X <- X + hess f(x) G + L g

where the Hessian is symmetric, so that `hess f G` is a forward derivative of the gradient. Where F
also takes x, the vjp of F has a cotangent of x as well, which is added to X. Kept are (x, h, g) of
each step. With `checkpoint_every`, g of each step is kept, and (x, h) every so many steps; the
others follow from these without a gradient of the task.

Parameters may be spread over devices (see `inner_loop.lanes`): each device then goes back over its
own, and cotangents of weights are its part of sums over devices.

The term `hess f(x) G` is what makes meta-gradients explode: it is the derivative through the
gradients that the optimizer meets. `cotangent_clip` bounds its share.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from lrevopt.checks import positive_integer, shown
from lrevopt.inner_loop.lanes import Shard
from lrevopt.inner_loop.pullbacks import Lanes, needs_following, pull_back
from lrevopt.inner_loop.run_checks import check_fit, check_stacked, first_of
from lrevopt.inner_loop.steps import (
    Carry,
    hessian_products,
    losses_and_gradients,
    losses_of,
    rerun,
    run_on_problems,
    start_of_lanes,
    start_of_runs,
)
from lrevopt.inner_loop.unroll import (
    checkpoint_interval,
    in_segments,
    join_segments,
    run_to_the_end,
)
from lrevopt.optimizers.interface import AbstractOptimizer, AbstractParameterOptimizer
from lrevopt.tasks.interface import AbstractTask


class Runs(eqx.Module):
    """What is run beside the optimizer, and how: steps, checkpoints, bound on cotangents.

    With a `shard`, within a program that is mapped over the axis `lane`, parameters are spread.
    """

    task: AbstractTask
    problems: PyTree[Array]
    steps: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    clip: float = eqx.field(static=True)
    shard: Shard | None = eqx.field(static=True, default=None)

    def losses_and_gradients(self, parameters: Array, step: Any) -> tuple[Array, Array]:
        return losses_and_gradients(self.task, self.problems, parameters, step, shard=self.shard)

    def counted(self, own: Float[Array, "problem dim"]) -> Float[Array, "problem dim"]:
        """What parameters contribute to cotangents: nothing where they are copies."""
        return own if self.shard is None else self.shard.counted(own)

    def norms(self, own: Float[Array, "problem dim"]) -> Float[Array, "problem 1"]:
        """Norm over all parameters of each problem."""
        if self.shard is None:
            return jnp.linalg.norm(own, axis=1, keepdims=True)
        return jnp.sqrt(self.shard.total(jnp.sum(own**2, axis=1, keepdims=True)))

    def bounded(
        self, part: Float[Array, "problem dim"], other: Float[Array, "problem dim"]
    ) -> Float[Array, "problem dim"]:
        """`part`, scaled down problem by problem to at most `clip` times the norm of `other`."""
        if math.isinf(self.clip):
            return part
        size, most = (self.norms(a) for a in (part, self.clip * other))
        return part * jnp.where(size > most, most / jnp.where(size > 0, size, 1.0), 1.0)


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

    Equal to `unroll(...).losses` problem by problem, and so is the derivative, which is faster and
    keeps less. `checkpoint_every` is the number of steps between kept states (default: all states
    are kept); about sqrt(steps) keeps least. The derivative is reverse-mode, in the optimizer's
    floating-point leaves only: asking for one in `task` or `problems` raises.

    `cotangent_clip` replaces the derivative by a bounded one. The cotangent of a problem's
    parameters is a sum of what loss gradients contribute and of what Hessians do; the norm of the
    second part is scaled down to at most `cotangent_clip` times that of the first, at every step
    back. 0 is the first-order meta-gradient, which treats the gradients that an optimizer meets as
    constants; infinity, the default, is the exact one.

    Raises `ValueError` as `unroll` does, and for a negative `cotangent_clip`.
    """
    steps = positive_integer("steps", steps)
    every = checkpoint_interval(checkpoint_every, steps)
    if not isinstance(cotangent_clip, int | float) or not cotangent_clip >= 0:
        raise ValueError(
            f"`cotangent_clip` must be a number of at least 0, got {shown(cotangent_clip)}."
        )
    check_stacked("problems", problems)
    check_fit(optimizer, task, first_of(problems))
    return losses_of_runs(optimizer, Runs(task, problems, steps, every, float(cotangent_clip)))


@eqx.filter_custom_vjp
def losses_of_runs(optimizer, runs):
    """`unroll_losses` without its checks, also of runs that are spread over devices.

    There each device has all losses, and of the derivative its part of a sum over devices.
    """
    return run_to_the_end(optimizer, runs.task, runs.problems, runs.steps, shard=runs.shard)[0]


@losses_of_runs.def_fwd
def _losses_forward(perturbed, optimizer, runs):
    """Losses, and (end, kept): kept are all steps, or segments' starts and all gradients."""
    task, problems, steps, shard = runs.task, runs.problems, runs.steps, runs.shard
    all_kept = runs.every == steps

    def keep(carry: Carry, losses: Array, gradients: Array) -> tuple[Array, Any]:
        return losses, ((*carry, gradients) if all_kept else gradients)

    def run(carry: Carry, first: Any, length: int) -> Any:
        following, kept = run_on_problems(
            optimizer, task, problems, carry, first=first, length=length, keep=keep, shard=shard
        )
        return following, (carry, *kept)

    begin = start_of_runs(optimizer, problems, shard)
    end, whole, rest = in_segments(run, begin, steps, runs.every)
    last = losses_of(task, problems, end[0], steps, shard=shard)
    losses = jnp.concatenate([join_segments(whole[1], rest[1]), last[None]]).T
    losses = losses if shard is None else shard.total(losses)
    if all_kept:
        return losses, (end, jax.tree.map(lambda kept: kept[0], whole[2]))
    return losses, (end, (whole[0], whole[2], rest[0], rest[2]))


@losses_of_runs.def_bwd
def _losses_backward(residuals, cotangent, perturbed, optimizer, runs):
    end, kept = residuals
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    readout, readout_vjp = jax.vjp(lambda w: eqx.combine(w, fixed).readout, weights)
    over_losses, over_last = cotangent.T[:-1], cotangent.T[-1]
    last_gradients = runs.counted(runs.losses_and_gradients(end[0], runs.steps)[1])
    adjoint = _Adjoint(runs, weights, fixed, readout)
    dtype = readout.dtype
    from_losses = (over_last[:, None] * last_gradients).astype(dtype)
    carry = (
        end[1] if needs_following(optimizer) else None,
        (from_losses, jnp.zeros_like(from_losses)),
        jnp.zeros_like(end[1]),
        jax.tree.map(jnp.zeros_like, weights),
        jnp.zeros_like(readout),
    )
    if runs.every == runs.steps:
        carry = adjoint.over_steps(carry, 0, over_losses, kept)
    else:
        carry = adjoint.over_segments(carry, over_losses, kept)
    _, _, over_states, over_weights, over_readout = carry
    (from_readout,) = readout_vjp(over_readout)
    starts = runs.problems.initial_parameters
    own_starts = starts if runs.shard is None else runs.shard.own(starts)
    from_start = _from_start(weights, fixed, own_starts, over_states)
    total = jax.tree.map(lambda a, b, c: a + b + c, over_weights, from_readout, from_start)
    # Integers among the leaves have no cotangent, but say that they are not perturbed.
    return jax.tree.map(
        lambda leaf, on: leaf if on else None, total, perturbed, is_leaf=lambda leaf: leaf is None
    )


@dataclasses.dataclass(frozen=True, eq=False)  # `lax.scan` hashes the method that it runs
class _Adjoint:
    """Steps back. A carry holds the states after the step, if they are needed, and cotangents of
    parameters (the part from losses, the part from Hessians), of states, weights and readout.
    """

    runs: Runs
    weights: PyTree[Array]
    fixed: PyTree
    readout: Float[Array, " state"]

    @property
    def optimizer(self) -> AbstractOptimizer:
        return eqx.combine(self.weights, self.fixed)

    def step(self, carry: Any, inputs: Any) -> tuple[Any, None]:
        """One step back."""
        runs = self.runs
        following, (from_losses, from_hessians), over_states, over_weights, over_readout = carry
        step, over_loss, (parameters, states, gradients) = inputs

        dtype = states.dtype
        gradients = gradients.astype(dtype)
        lanes = Lanes(
            parameters=parameters.reshape(-1).astype(dtype),
            states=states,
            gradients=gradients.reshape(-1),
            over_parameters=(from_losses + from_hessians).reshape(-1),
            over_states=over_states,
            following=following,
        )
        pulled, (over_weights, over_readout) = pull_back(
            (self.weights, self.fixed), self.readout, lanes, (over_weights, over_readout)
        )
        from_losses = from_losses + over_loss[:, None].astype(dtype) * runs.counted(gradients)
        if isinstance(self.fixed, AbstractParameterOptimizer):
            from_losses = from_losses + pulled.to_parameters.reshape(parameters.shape)
        if runs.clip > 0:
            directions = pulled.to_gradients.reshape(parameters.shape).astype(parameters.dtype)
            curved = runs.counted(
                hessian_products(
                    runs.task, runs.problems, (parameters, directions), step, shard=runs.shard
                )
            )
            from_hessians = from_hessians + curved.astype(dtype)
            from_hessians = runs.bounded(from_hessians, from_losses)
        cotangents = (from_losses, from_hessians), pulled.to_states
        before = None if following is None else states
        return (before, *cotangents, over_weights, over_readout), None

    def over_steps(self, carry: Any, first: Any, over_losses: Array, visited: Any) -> Any:
        """Back over the steps from `first` on, whose parameters, states, gradients are given."""
        steps = first + jnp.arange(over_losses.shape[0])
        return lax.scan(self.step, carry, (steps, over_losses, visited), reverse=True)[0]

    def over_segments(self, carry: Any, over_losses: Array, kept: Any) -> Any:
        """Back over all steps, segment by segment, each of which is run again."""
        starts, gradients, rest_start, rest_gradients = kept
        every = self.runs.every
        count = self.runs.steps // every
        visited = rerun(self.optimizer, rest_start, rest_gradients)
        carry = self.over_steps(carry, count * every, over_losses[count * every :], visited)

        def segment(carry, inputs):
            index, over, start, gradients = inputs
            visited = rerun(self.optimizer, start, gradients)
            return self.over_steps(carry, index * every, over, visited), None

        over_whole = over_losses[: count * every].reshape(count, every, -1)
        inputs = (jnp.arange(count), over_whole, starts, gradients)
        return lax.scan(segment, carry, inputs, reverse=True)[0]


def _from_start(
    weights: PyTree[Array],
    fixed: PyTree,
    parameters: Array,
    over_states: Float[Array, "state lane"],
) -> PyTree[Array]:
    """Cotangent of the weights from that of the states before the first step."""

    def start(weights: PyTree[Array]) -> Array:
        optimizer = eqx.combine(weights, fixed)
        if isinstance(optimizer, AbstractParameterOptimizer):
            return start_of_lanes(optimizer, parameters)
        return optimizer.initial_state()

    at_start, pull = jax.vjp(start, weights)
    return pull(over_states if at_start.ndim == 2 else over_states.sum(axis=1))[0]
