"""Vector-Jacobian product of one transition of many lanes, the inner part of a step back in time.

Lanes are independent, so they are worked on in blocks that stay in the cache. `GRUCell`,
on which most time is spent, has its product written out: it forms each matrix product once, without
the concatenations that differentiation by JAX makes of slices, and takes its candidate from h and
h', without a product. Other optimizers go through `jax.vjp`.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from lrevopt.inner_loop.steps import transitions
from lrevopt.optimizers.recurrent import GRUCell, RecurrentOptimizer, sigmoid

BLOCK = 768
"""Lanes that are worked on together, about."""


class Lanes(NamedTuple):
    """What one step back knows of each lane: x, h and g, and the cotangents of x' and of h'.

    For a GRU (`needs_following`) h' as well.
    """

    parameters: Float[Array, " lane"]
    states: Float[Array, "state lane"]
    gradients: Float[Array, " lane"]
    over_parameters: Float[Array, " lane"]
    over_states: Float[Array, "state lane"]
    following: Float[Array, "state lane"] | None = None


class Pulled(NamedTuple):
    """Cotangents of each lane's x, h and g through F."""

    to_parameters: Float[Array, " lane"]
    to_states: Float[Array, "state lane"]
    to_gradients: Float[Array, " lane"]


def needs_following(optimizer: Any) -> bool:
    """Whether a step back takes h' as it was on the way: of a GRU, whose product is written out."""
    return isinstance(optimizer, RecurrentOptimizer) and isinstance(optimizer.cell, GRUCell)


def pull_back(
    parts: tuple[PyTree[Array], PyTree],
    readout: Float[Array, " state"],
    lanes: Lanes,
    sums: tuple[PyTree[Array], Float[Array, " state"]],
) -> tuple[Pulled, tuple[PyTree[Array], Float[Array, " state"]]]:
    """Cotangents of the lanes, and the sums of those of weights and readout with these added.

    `parts` are the trained and the other part of the optimizer, which `eqx.combine` joins.
    """
    count = lanes.gradients.size
    blocks = _blocks(count)
    if blocks == 1:
        return _block(parts, readout, lanes, sums)
    size = math.ceil(count / blocks)

    def body(step: Array, carry: Any) -> Any:
        # Backwards: the last block begins early where blocks do not divide the lanes, and what it
        # has of the one before it has no cotangent there and is written again.
        sums, whole = carry
        first = (blocks - 1 - step) * size
        start = jnp.minimum(first, count - size)
        block = jax.tree.map(lambda values: _part(values, start, size), lanes)
        if blocks * size != count:
            own = start + jnp.arange(size) >= first
            over = (jnp.where(own, each, 0) for each in (block.over_parameters, block.over_states))
            block = block._replace(over_parameters=next(over), over_states=next(over))
        pulled, sums = _block(parts, readout, block, sums)
        return sums, Pulled(*(_with_part(*pair, start) for pair in zip(whole, pulled, strict=True)))

    whole = Pulled(*map(jnp.zeros_like, (lanes.parameters, lanes.states, lanes.gradients)))
    sums, pulled = lax.fori_loop(0, blocks, body, (sums, whole))
    return pulled, sums


def _blocks(count: int) -> int:
    """Number of blocks: of those with `BLOCK` lanes or a third more or less, one that divides."""
    about = max(1, round(count / BLOCK))
    near = range(math.ceil(0.75 * about), math.floor(4 * about / 3) + 1)
    even = [blocks for blocks in near if count % blocks == 0]
    return min(even, key=lambda blocks: abs(blocks - about), default=about)


def _part(values: Array, start: Array, size: int) -> Array:
    return lax.dynamic_slice_in_dim(values, start, size, axis=values.ndim - 1)


def _with_part(values: Array, part: Array, start: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(values, part, start, axis=values.ndim - 1)


def _block(parts: Any, readout: Array, lanes: Lanes, sums: Any) -> tuple[Pulled, Any]:
    weights, fixed = parts
    cotangents = lanes.over_states + readout[:, None] * lanes.over_parameters[None]
    optimizer = eqx.combine(weights, fixed)
    if needs_following(optimizer):
        following: Any = lanes.following
        pulled, to_weights = _through_gru(optimizer, lanes, cotangents)
    else:
        following, pulled, to_weights = _through_any(parts, lanes, cotangents)
    over_weights, over_readout = sums
    over_weights = jax.tree.map(jnp.add, over_weights, to_weights)
    return pulled, (over_weights, over_readout + following @ lanes.over_parameters)


def _through_any(
    parts: Any, lanes: Lanes, cotangents: Float[Array, "state lane"]
) -> tuple[Array, Pulled, PyTree[Array]]:
    """The next states, cotangents of the lanes, and those of the weights, by `jax.vjp`."""
    weights, fixed = parts

    def forward(weights: Any, states: Array, gradients: Array, parameters: Array) -> Array:
        return transitions(eqx.combine(weights, fixed), states, gradients, parameters)

    following, pull = jax.vjp(forward, weights, lanes.states, lanes.gradients, lanes.parameters)
    to_weights, to_states, to_gradients, to_parameters = pull(cotangents)
    return following, Pulled(to_parameters, to_states, to_gradients), to_weights


def _through_gru(
    optimizer: RecurrentOptimizer, lanes: Lanes, cotangents: Float[Array, "state lane"]
) -> tuple[Pulled, PyTree[Array]]:
    """As `_through_any`, without the next states.

    With gates u and r, candidate c, and P the cotangent of what is in each nonlinearity:
    P_c = H (1 - u) (1 - c^2), P_r = (C' P_c) h r (1 - r), P_u = H (h - c) u (1 - u).
    No product is needed for c, since `h - h' = (1 - u) (h - c)`. Near u = 1 round-off moves this c
    much, but as much as 1 - u, by which it always is multiplied, is small.
    """
    cell: Any = optimizer.cell
    n = cell.candidate.shape[0]
    hidden, over = lanes.states[:n], cotangents[:n]
    inputs = optimizer.input_scale * lanes.gradients
    drive = jnp.stack([inputs, jnp.ones_like(inputs)])
    driven = jnp.stack([cell.inputs, cell.bias], axis=1)[: 2 * n] @ drive
    gates = sigmoid(cell.gates @ hidden + driven)
    update, reset = gates[:n], gates[n:]
    kept, rest = reset * hidden, 1 - update
    following: Any = lanes.following
    moved = hidden - following[:n]
    candidate = jnp.clip(hidden - moved / jnp.where(rest > 0, rest, 1), -1, 1)

    in_candidate = over * rest * (1 - candidate**2)
    over_kept = cell.candidate.T @ in_candidate
    in_update = over * moved * update
    in_reset = over_kept * hidden * reset * (1 - reset)
    to_hidden = over * update + over_kept * reset
    to_hidden = to_hidden + cell.gates[:n].T @ in_update + cell.gates[n:].T @ in_reset
    parts = (in_update, in_reset, in_candidate)
    from_each = cell.inputs.reshape(3, n)
    to_gradients = sum(row @ part for row, part in zip(from_each, parts, strict=True))
    seen, seen_kept = (jnp.concatenate([part, drive]).T for part in (hidden, kept))
    products = [in_update @ seen, in_reset @ seen, in_candidate @ seen_kept]
    to_cell = (
        jnp.concatenate([product[:, :n] for product in products[:2]]), products[2][:, :n],
        jnp.concatenate([product[:, n] for product in products]),
        jnp.concatenate([product[:, n + 1] for product in products]),
    )  # fmt: skip
    weights = eqx.filter(optimizer, eqx.is_inexact_array)
    to_weights = eqx.tree_at(
        lambda o: (o.cell.gates, o.cell.candidate, o.cell.inputs, o.cell.bias),
        jax.tree.map(jnp.zeros_like, weights),
        to_cell,
    )
    if optimizer.bias is not None:  # the last coordinate of the state is always 1
        to_hidden = jnp.concatenate([to_hidden, jnp.zeros_like(to_hidden[:1])])
    pulled = Pulled(
        jnp.zeros_like(lanes.parameters), to_hidden, optimizer.input_scale * to_gradients
    )
    return pulled, to_weights
