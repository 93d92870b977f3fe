"""The arrays of optax's state for one parameter, and what kind each is of."""

import re
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class StateLeaf(NamedTuple):
    """One array of a transformation's state for a single parameter.

    Kinds: `value` is a floating array, `counter` an integer, `flag` a boolean, `constant` an array
    that updates never change, and `held` a counter or flag whose value is fixed.
    """

    name: str
    kind: Literal["value", "counter", "flag", "constant", "held"]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of coordinates of the flat state."""
        return 0 if self.kind in ("constant", "held") else prod(self.shape)


def init_state(transformation: Any, parameters: PyTree[Array]) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        return transformation.init(parameters)


def arrays_of(tree: PyTree) -> list[Array]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def describe_state(transformation: Any) -> tuple[StateLeaf, ...]:
    """The state's arrays for one parameter; `ValueError` if the transformation refuses it.

    The parameter is an array of shape (1,), because some transformations fail on scalars.
    """
    one = jnp.zeros(1)
    try:
        start = init_state(transformation, one)
        with jax.numpy_dtype_promotion("standard"):
            traced, shapes = jax.make_jaxpr(transformation.update, return_shape=True)(
                one, start, one
            )
    except Exception as error:  # transformations raise many kinds of errors on one parameter
        raise ValueError(
            "`transformation` must update a single parameter from its gradient alone, got "
            f"{complaint(error)}."
        ) from error
    named = jax.tree_util.tree_leaves_with_path(start)
    before = [jax.typeof(leaf) for _, leaf in named]
    changed = [leaf.shape for leaf in jax.tree.leaves(shapes[1])]
    if [leaf.shape for leaf in before] != changed:
        raise ValueError(
            "`transformation` must keep the shapes of its state, got one that changes them from "
            f"{[leaf.shape for leaf in before]} to {changed}."
        )
    required, found = traced.jaxpr.invars[1:-1], traced.jaxpr.outvars[1:]
    return tuple(
        _describe_leaf(jax.tree_util.keystr(path), array, constant=first is last)
        for (path, _), array, first, last in zip(named, before, required, found, strict=True)
    )


def _describe_leaf(name: str, array: Any, *, constant: bool) -> StateLeaf:
    old_key = array.dtype == jnp.uint32 and array.shape[-1:] == (2,)
    if old_key or jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"`transformation` must not draw random numbers, got one with a key at `{name}`."
        )
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"`transformation` must keep real numbers, got {array.dtype} at `{name}`.")
    if constant:
        return StateLeaf(name, "constant", array.shape)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return StateLeaf(name, "value", array.shape)
    return StateLeaf(name, "flag" if array.dtype == jnp.bool_ else "counter", array.shape)


def complaint(error: Exception) -> str:
    """The arguments that a transformation lacks, or the first line of its error."""
    text = str(error).strip()
    if missing := re.search(r"missing \d+ required keyword-only arguments?: (.*)", text):
        return f"one that also asks for {missing[1]}"
    kind = type(error).__name__
    return f"a {kind}: {text.splitlines()[0].rstrip('.')}" if text else f"a {kind}"
