"""Double precision inside, whatever the user's default is.

A fixed point with `q <= 1e-16` needs a residual of 1e-8, below single precision's resolution of
a state of size 1. The analysis therefore computes in float64 and leaves the program's default
alone: work happens inside `double_precision()`, on copies from `as_double`.
"""

from contextlib import AbstractContextManager
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lrevopt.checks import finite_leaves
from lrevopt.optimizers.interface import AbstractOptimizer, check_state

Tree = TypeVar("Tree")

AnyArray = jax.Array | np.ndarray
"""What public functions of the analysis take: states come from JAX or from saved records."""


def double_precision() -> AbstractContextManager:
    """Context in which new arrays are float64. Compiled functions are kept apart by JAX."""
    return jax.enable_x64(True)


def double_states(
    opt: AbstractOptimizer, states: Float[AnyArray, "..."], name: str = "state", axes: int = 1
) -> Float[np.ndarray, "..."]:
    """States on the host in float64, if they are finite and this optimizer's.

    Raises `ValueError` otherwise.
    """
    with double_precision():
        checked = np.asarray(check_state(opt, jnp.asarray(states), name, axes), dtype=float)
    finite_leaves(name, checked)
    return checked


def as_double(tree: Tree) -> Tree:
    """Copy with every floating leaf in float64; to be called inside `double_precision()`."""

    def convert(leaf):
        floating = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if floating else leaf

    return jax.tree.map(convert, tree)
