"""Double precision inside, whatever the user's default is.

A fixed point with `q <= 1e-16` needs a residual of 1e-8, below single precision's resolution of
a state of size 1. The analysis therefore computes in float64 and leaves the program's default
alone: work happens inside `double_precision()`, on copies from `as_double`.
"""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lrevopt.optimizers.interface import AbstractOptimizer, check_state

Tree = TypeVar("Tree")

AnyArray = jax.Array | np.ndarray
"""What public functions of the analysis take: states come from JAX or from saved records."""


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Context in which new arrays are float64. Compiled functions are kept apart by JAX.

    NaN is data here: a step that a singular matrix does not give, a slope that does not exist.
    What the user asked JAX to check (`jax.debug_nans`) is left alone outside.
    """
    with jax.enable_x64(True), jax.debug_nans(False), jax.debug_infs(False):
        yield


def double_states(
    opt: AbstractOptimizer,
    states: Float[AnyArray, "..."],
    name: str = "state",
    axes: int = 1,
    *,
    squares: bool = True,
) -> Float[np.ndarray, "..."]:
    """States on the host in float64, if they are finite and this optimizer's (`check_state`).

    Raises `ValueError` otherwise.
    """
    with double_precision():
        return np.asarray(check_state(as_double(opt), states, name, axes, squares=squares))


def as_double(tree: Tree) -> Tree:
    """Copy with every floating leaf in float64; to be called inside `double_precision()`."""

    def convert(leaf):
        return jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(convert, tree)
