"""A transition linearized at points, and the size of its round-off there.

A residual `F(h, g) - h` counts as 0 where it is no larger than what F itself loses to round-off:

    resolution_i = 1e3 eps max(1, (|J| |h| + |B| |g| + |F|)_i) + 16 noise_i

eps is the spacing of double precision. The first term bounds what rounded arguments and a rounded
result do, with room for the operations between them. `noise` is measured: how far F departs from
its tangent when h changes by a few units in the last place. It sees numbers that cancel inside F.
It counts up to half the digits of that bound: what departs by more is a jump of F, which no search
may take for rest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from lrevopt.inner_loop.devices import check_mesh, on_every_device, over_problems
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.limits import limit_from_above

SPACING = float(np.finfo(float).eps)

ROOM, SEEN = 1e3, 16.0
"""Factors on the bound and on the measured noise."""

MOST_NOISE = SPACING**0.5
"""Noise, per unit of max(1, |J| |h| + |B| |g| + |F|), beyond which F jumps."""

PERTURBATIONS = 8

BLOCK = 8
"""Points that are worked on together: their Jacobians stay in cache."""

PROBED, MANY_PROBED = 64, 256
"""Points that are probed together: the second number where there are more than the first."""


class Expansion(NamedTuple):
    """F, dF/dh and dF/dg at many points. `one_sided`: limits stand in for some derivatives.

    `resolution` is the residual up to which each coordinate counts as at rest; `round_off` is the
    same without the 1, which is there for coordinates at 0 and is much for small ones.
    """

    following: Float[np.ndarray, "point state"]
    recurrent: Float[np.ndarray, "point state state"]
    input: Float[np.ndarray, "point state"]
    one_sided: Bool[np.ndarray, " point"]
    resolution: Float[np.ndarray, "point state"]
    round_off: Float[np.ndarray, "point state"]

    @property
    def differentiable(self) -> Bool[np.ndarray, " point"]:
        """Where all derivatives, or their limits, are finite."""
        return np.isfinite(self.recurrent).all(axis=(1, 2)) & np.isfinite(self.input).all(axis=1)

    def at_rest(self, states: Float[np.ndarray, "point state"]) -> Bool[np.ndarray, " point"]:
        """Where F moves no coordinate by more than its resolution."""
        return (np.abs(self.following - states) <= self.resolution).all(axis=1)


def expand(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> Expansion:
    """Expand F at points that each have a gradient. To be called inside `double_precision()`."""
    return in_blocks(_expand, opt, states, gradients)


def probe(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> tuple[Float[np.ndarray, "point state"], Bool[np.ndarray, " point"]]:
    """F at many points, and where F is finite but JAX's derivatives are not.

    One derivative along a direction without zeros stands for the whole Jacobian: an entry that is
    not finite makes it so. To be called inside `double_precision()`.
    """
    block = PROBED if len(states) <= PROBED else MANY_PROBED
    following, slope = in_blocks(_along, opt, states, gradients, block=block)
    finite = np.isfinite(following).all(axis=1)
    return following, finite & ~np.isfinite(slope).all(axis=1)


def need_limits(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> bool:
    """Whether JAX's derivatives are not finite at some of these points."""
    return bool(probe(opt, states, gradients)[1].any())


def points_mesh() -> Mesh | None:
    """The local devices, over which points are spread, at most one for each point of a block."""
    return check_mesh(None, BLOCK)


def in_blocks(
    solve: Callable, opt: AbstractOptimizer, *columns: np.ndarray, block: int = BLOCK
) -> Any:
    """`solve(opt, *columns, mesh=...)` in blocks of one size, so that one shape is compiled.

    The local devices share each block.
    """
    count, mesh = len(columns[0]), points_mesh()
    opt = on_every_device(opt, mesh)
    missing = -count % block
    columns = tuple(np.concatenate([each, np.repeat(each[-1:], missing, 0)]) for each in columns)
    parts = [
        solve(opt, *(each[first : first + block] for each in columns), mesh=mesh)
        for first in range(0, count + missing, block)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def _expand(opt, states, gradients, *, mesh=None):
    found = _derivatives(opt, states, gradients, mesh=mesh)
    following, recurrent, inputs, noise = (np.array(part) for part in found)
    one_sided = ~(np.isfinite(recurrent).all(axis=(1, 2)) & np.isfinite(inputs).all(axis=1))
    one_sided &= np.isfinite(following).all(axis=1)
    if one_sided.any():
        # All of them: one shape is compiled.
        limits = (np.asarray(limit) for limit in _limits(opt, states, gradients, mesh=mesh))
        recurrent, inputs = (
            np.where(np.isfinite(own), own, limit)
            for own, limit in zip((recurrent, inputs), limits, strict=True)
        )
    with np.errstate(invalid="ignore", over="ignore"):
        lost = np.einsum("pij,pj->pi", np.abs(recurrent), np.abs(states))
        lost = lost + np.abs(inputs) * np.abs(gradients)[:, None] + np.abs(following)
        noise = np.minimum(noise, MOST_NOISE * np.maximum(1.0, lost))
        round_off, resolution = (
            ROOM * SPACING * np.maximum(least, lost) + SEEN * noise for least in (0.0, 1.0)
        )
    resolution = np.where(np.isfinite(resolution), resolution, 0.0)
    return Expansion(following, recurrent, inputs, one_sided, resolution, round_off)


@eqx.filter_jit
def _along(opt, states, gradients, *, mesh=None):
    """F, and its derivative along one direction in state and gradient."""
    rng = np.random.default_rng(1)
    directions = jnp.asarray(rng.uniform(0.5, 1.0, states.shape[1] + 1))

    def one(opt, state, gradient):
        return jax.jvp(opt.transition, (state, gradient), (directions[1:], directions[0]))

    return _over_points(one, opt, states, gradients, mesh)


@eqx.filter_jit
def _derivatives(opt, states, gradients, *, mesh=None):
    """F, its derivatives, and the noise of each point."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (PERTURBATIONS, states.shape[1]))

    def one(opt, state, gradient):
        own = opt.transition(state, gradient)
        recurrent, inputs = jax.jacfwd(opt.transition, argnums=(0, 1))(state, gradient)
        tangent = jnp.where(jnp.isfinite(recurrent), recurrent, 0.0)

        def gap(sign):
            moved = state + 4 * SPACING * jnp.abs(state) * sign
            return opt.transition(moved, gradient) - own - tangent @ (moved - state)

        gaps = jax.vmap(gap)(jnp.asarray(signs))
        noise = jnp.abs(jnp.where(jnp.isfinite(gaps), gaps, 0.0)).max(axis=0)
        return own, recurrent, inputs, noise

    return _over_points(one, opt, states, gradients, mesh)


@eqx.filter_jit
def _limits(opt, states, gradients, *, mesh=None):
    def one(opt, state, gradient):
        both = jax.jacfwd(opt.transition, argnums=(0, 1))
        return limit_from_above(lambda h: both(h, gradient), state)

    return _over_points(one, opt, states, gradients, mesh)


def _over_points(one, opt, states, gradients, mesh):
    """`one(opt, state, gradient)` at every point, over the devices of a mesh."""

    def run(opt, points):
        return jax.vmap(lambda state, gradient: one(opt, state, gradient))(*points)

    return over_problems(run, opt, (states, gradients), mesh)
