"""Optimizers of one structure as one module whose arrays have a leading axis, and back."""

from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

Kind = TypeVar("Kind")


def stacked(modules: Sequence[Kind]) -> Kind:
    """Modules of one structure as one, every array of which has a first axis for them."""
    parts = [eqx.partition(one, eqx.is_array) for one in modules]
    arrays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(part[0] for part in parts))
    return eqx.combine(arrays, parts[0][1])


def unstacked(module: Kind) -> tuple[Kind, ...]:
    """The modules that are stacked in one."""
    arrays, rest = eqx.partition(module, eqx.is_array)
    count = len(jax.tree.leaves(arrays)[0])
    return tuple(
        eqx.combine(jax.tree.map(lambda leaf, k=k: leaf[k], arrays), rest) for k in range(count)
    )


def first_different(modules: Sequence[Any]) -> int | None:
    """Index of the first module whose structure, shapes or settings differ from those of module 0;
    None if all can be stacked.
    """
    shapes = [jax.tree.map(_shape, one) for one in modules]
    places = range(1, len(shapes))
    return next((k for k in places if not eqx.tree_equal(shapes[k], shapes[0])), None)


def _shape(leaf: Any) -> Any:
    return (leaf.shape, str(leaf.dtype)) if eqx.is_array(leaf) else leaf
