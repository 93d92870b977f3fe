"""Trees of arrays as named arrays, and modules described as JSON."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lrevopt.storage.packed import digest_of_arrays

Tree = TypeVar("Tree")


def digest_of(tree: PyTree) -> str:
    """A digest of all array leaves of a tree, as hexadecimal digits."""
    return digest_of_arrays(tree_to_arrays(tree)).tobytes().hex()


def versions() -> dict[str, str]:
    """Versions of what results depend on, and the kind of device."""
    packages = ("lrevopt", "jax", "jaxlib", "equinox", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return found | {"python": platform.python_version(), "backend": jax.default_backend()}


def tree_to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Array leaves by their path in the tree, on the host."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def arrays_to_tree(arrays: dict[str, np.ndarray], like: Tree, source: Path | str) -> Tree:
    """`like` with its array leaves replaced. They may be shapes alone (`jax.ShapeDtypeStruct`).

    Raises `ValueError` if names, shapes or kinds of numbers differ.
    """
    named, others = eqx.partition(like, _is_array_or_shape)
    leaves = jax.tree_util.tree_leaves_with_path(named)
    skeleton = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for name in sorted(skeleton.keys() | arrays.keys()):
        ours = skeleton[name].shape if name in skeleton else "nothing"
        theirs = arrays[name].shape if name in arrays else "nothing"
        if ours != theirs:
            raise ValueError(
                f"`{source}` holds {theirs} for weight {name} where this optimizer has {ours}."
            )
        if arrays[name].dtype.kind != np.dtype(skeleton[name].dtype).kind:
            raise ValueError(
                f"`{source}` holds numbers of type {arrays[name].dtype} for weight {name} where "
                f"this optimizer has {skeleton[name].dtype}."
            )
    filled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.array(arrays[jax.tree_util.keystr(path)], leaf.dtype), named
    )
    return eqx.combine(filled, others)


def _is_array_or_shape(leaf: object) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def describe(module: eqx.Module) -> dict[str, Any]:
    """Class and settings of a task, optimizer or cell, as JSON: arrays by shape, not by value.

    A module with a method `description` says itself what stands beside its class.
    """
    kind = type(module)
    head = {"kind": kind.__name__, "package": package_of(kind)}
    return head | (module.description() if hasattr(module, "description") else fields_of(module))


def fields_of(module: eqx.Module) -> dict[str, Any]:
    """Fields of a module, as JSON: arrays by shape, what JSON does not have by name or type."""
    return {field.name: _plain(getattr(module, field.name)) for field in dataclasses.fields(module)}


VALUES = "digest"
"""Entry of a description: a digest of all values. Descriptions of older versions may lack it."""


def agree(recorded: Any, now: Any) -> bool:
    """Whether settings that were read are those of now, as JSON, but for digests that they lack."""
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        names = (recorded.keys() | now.keys()) - ({VALUES} - recorded.keys())
        return all(agree(recorded.get(name), now.get(name)) for name in names)
    return recorded == json.loads(json.dumps(now))


def package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _plain(value: Any) -> Any:
    if isinstance(value, eqx.Module):
        return describe(value)
    if eqx.is_array(value):
        return {"shape": list(value.shape)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", type(value).__name__)
