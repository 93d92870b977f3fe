"""Derivatives of a transition, with limits where a root of 0 has none.

`g / (sqrt(v) + epsilon)` at rest has the derivative 0 times infinity in v. Where JAX's derivative
is not finite, the limit from above stands in: the derivative at two states whose coordinates are
larger by very little, if both agree. An infinite slope has no such limit; there all is NaN.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrevopt.optimizers.interface import AbstractOptimizer

ASIDE = ((2.0**20, 2.0**4), (2.0**60, 2.0**14))
"""Two distances from a point: in smallest normal numbers, and in units in the last place."""

AGREE, NOTHING = 1e-6, 1e-20
"""Relative difference up to which derivatives at the two distances are one limit, and the size
below which both are 0."""


def limit_from_above(
    derivative: Callable[[Float[Array, " state"]], Any], state: Float[Array, " state"]
) -> Any:
    """The limit of a derivative, a function of the state; NaN where there is none."""
    kind = jnp.finfo(state.dtype)
    near, far = (
        derivative(state + jnp.maximum(least * kind.tiny, units * kind.eps * jnp.abs(state)))
        for least, units in ASIDE
    )

    def agreed(one: Array, other: Array) -> Array:
        gap, size = jnp.abs(one - other), jnp.maximum(jnp.abs(one), jnp.abs(other))
        return jnp.where((gap <= AGREE * size) | (size <= NOTHING), one, jnp.nan)

    return jax.tree.map(agreed, near, far)


def with_limits(
    derivative: Callable[[Float[Array, " state"]], Any], state: Float[Array, " state"]
) -> Any:
    """A derivative at a state, its limits from above in place of entries that are not finite."""
    return jax.tree.map(
        lambda own, limit: jnp.where(jnp.isfinite(own), own, limit),
        derivative(state),
        limit_from_above(derivative, state),
    )


def slope(
    opt: AbstractOptimizer,
    state: Float[Array, " state"],
    gradient: Float[Array, ""],
    *,
    limits: bool = False,
) -> Float[Array, " state"]:
    """dF/dg; with `limits`, limits from above stand in for what is not finite."""

    def own(state: Float[Array, " state"]) -> Float[Array, " state"]:
        one = jnp.ones_like(gradient)
        return jax.jvp(lambda g: opt.transition(state, g), (gradient,), (one,))[1]

    return with_limits(own, state) if limits else own(state)
