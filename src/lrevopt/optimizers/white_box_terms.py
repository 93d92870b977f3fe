"""Terms of white boxes that must neither overflow nor lack a derivative: see `white_box`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FAINT = 1e-19
"""Running squares below this count as no gradient: their quotients would lose all digits."""

LINEAR = 60.0
"""log(1 + exp(x)) is x to round-off above this, and exp(x) is finite below it."""


def root_of_shrinkage(
    x: Float[Array, ""], y: Float[Array, ""] | None, knee: Any, sharpness: Any
) -> Array:
    """Square root of S(u) / u, u = x or x + i y; where u is 0 to round-off, 1 with derivative 0.

    A root, because the quotient itself can be too small for the floating type, and so can u^2 or
    be too large. Without a sharpness it clips.
    """
    size = jnp.abs(x) if y is None else jnp.maximum(jnp.abs(x), jnp.abs(y))
    far = size > jnp.finfo(size.dtype).tiny
    size = jnp.where(far, size, 1.0)
    if y is None:
        log_size = jnp.log(size)
    else:  # equal for any size > 0, which therefore counts as constant
        size = jax.lax.stop_gradient(size)
        square = jnp.where(far, (x / size) ** 2 + (y / size) ** 2, 1.0)
        log_size = jnp.log(size) + 0.5 * jnp.log(square)
    log_ratio = log_size - jnp.log(knee)
    if sharpness is None:
        return jnp.where(far, jnp.exp(-0.5 * jnp.maximum(log_ratio, 0.0)), 1.0)
    # As softplus, whose form with |x| XLA's CPU compiler (jax 0.10.2) does not vectorise here.
    power = sharpness * log_ratio
    softplus = jnp.log1p(jnp.exp(jnp.minimum(power, LINEAR))) / sharpness
    return jnp.where(far, jnp.exp(-0.5 * jnp.where(power > LINEAR, log_ratio, softplus)), 1.0)


def with_finite_square(gradient: Float[Array, ""]) -> Array:
    """The gradient, clipped where its square would overflow."""
    most = 0.5 * float(jnp.finfo(gradient.dtype).max) ** 0.5
    return jnp.clip(gradient, -most, most)


def running_products(
    running: Float[Array, "3"], gradient: Float[Array, ""], memory: Any, rest: Any
) -> list[Array]:
    """The gradient, and running means of g g_before and of (g^2 + g_before^2) / 2.

    Of these the share `memory` is kept, and `rest`, 1 minus that, added.
    """
    before, product, square = running
    product = memory * product + rest * gradient * before
    square = memory * square + rest * 0.5 * (gradient**2 + before**2)
    return [gradient, product, square]


def quotient(product: Float[Array, ""], square: Float[Array, ""]) -> Array:
    """Their quotient, from -1 to 1; where there was no gradient, 0 with derivative 0."""
    met = square > FAINT
    return jnp.where(met, product / jnp.where(met, square, 1.0), 0.0)


def power(square: Float[Array, ""], exponent: Any, floor: Any, *, outside: bool) -> Array:
    """`(square + floor)^-exponent`, or `1 / (square^exponent + floor)`.

    The root has no derivative at 0. There it does not depend on the square to first order.
    """
    if not outside:
        return jnp.exp(-exponent * jnp.log(square + floor))
    met = square > 0
    power = jnp.where(met, jnp.exp(exponent * jnp.log(jnp.where(met, square, 1.0))), 0.0)
    return 1 / (power + floor)
