"""Optimizers whose states are small: searches have absolute limits, and are made in other units.

Searches for points at rest judge distances and speeds per unit of max(1, ||h||), because most
states are of size 1 and an attractor may lie at 0. A momentum of gradients of 1e-7 would be at rest
everywhere by that. Where states are that small, a search looks at h / unit instead, by

    F(unit h, g) / unit

A power of two as the unit changes no digit.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax, vmap
from jaxtyping import Float

from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.wrappers import StateInUnits

SMALL = 1e-2
"""Norm below which states are small: 1e-5, the distance of different points, is 1e-3 of it."""

AHEAD = 50
"""Updates in which states have to stay small: the points that they go to are as small then."""


def in_units(opt: AbstractOptimizer, unit: float) -> StateInUnits:
    """The optimizer with all of its state in this unit, in double precision."""
    with double_precision():
        double = as_double(opt)
        return StateInUnits(double, jnp.full_like(double.readout, unit))


def unit_of(
    opt: AbstractOptimizer,
    starts: Float[np.ndarray, "visited state"],
    gradients: Float[np.ndarray, " visited"],
) -> float:
    """A power of two of the size of states, if these are small and not all 0, else 1."""
    if not np.linalg.norm(starts, axis=1).max(initial=0.0) < SMALL:
        return 1.0
    with double_precision():
        size = float(_largest(as_double(opt), jnp.asarray(starts), jnp.asarray(gradients)))
    return 2.0 ** np.floor(np.log2(size)) if 0 < size < SMALL else 1.0


@eqx.filter_jit
def _largest(opt, starts, gradients):
    """Largest norm of the starts and of what they become under their gradients."""

    def ahead(states, _):
        states = vmap(opt.transition)(states, gradients)
        return states, jnp.linalg.norm(states, axis=1).max()

    _, sizes = lax.scan(ahead, starts, length=AHEAD)
    return jnp.maximum(sizes.max(), jnp.linalg.norm(starts, axis=1).max())
