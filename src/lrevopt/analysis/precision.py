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

Tree = TypeVar("Tree")


def double_precision() -> AbstractContextManager:
    """Context in which new arrays are float64. Compiled functions are kept apart by JAX."""
    return jax.enable_x64(True)


def as_double(tree: Tree) -> Tree:
    """Copy with every floating leaf in float64; to be called inside `double_precision()`."""

    def convert(leaf):
        floating = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if floating else leaf

    return jax.tree.map(convert, tree)
