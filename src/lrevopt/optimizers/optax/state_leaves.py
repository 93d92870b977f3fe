"""The arrays of optax's state for one parameter, and what kind each is of."""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from lrevopt.optimizers.optax.dependence import Analysis, Traced, unlabelled
from lrevopt.optimizers.optax.recipe import Recipe

COUNTING = ("counter", "flag")
"""Kinds of arrays that `at_step` holds."""


class StateLeaf(NamedTuple):
    """One array of a transformation's state for a single parameter.

    Kinds: `value` is a floating array, `counter` an integer, `flag` a boolean, `constant` an array
    that updates never change, `hyperparameter` a floating one of those, and `held` a counter or
    flag whose value is fixed.
    """

    name: str
    kind: Literal["value", "counter", "flag", "constant", "hyperparameter", "held"]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of coordinates of the flat state."""
        return 0 if self.kind in ("constant", "hyperparameter", "held") else prod(self.shape)


ROUNDS = 4
"""Updates after which the types of a state no longer change."""


def init_state(transformation: Any, parameters: PyTree[Array]) -> Any:
    """The state before the first update, in the types that its arrays have after updates.

    A counter that begins as an integer and grows by 0.5 is a floating-point number from the first
    update on. In its first type it would be cut off at every update.
    """

    def types(state: Any) -> list[Any]:
        after = transformation.update(parameters, state, parameters)[1]
        return carried_on(state, after)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = transformation.init(parameters)
        for _ in range(ROUNDS):
            structure: Any
            leaves, structure = jax.tree.flatten(state)
            wanted = [leaf.dtype for leaf in jax.eval_shape(types, state)]
            typed = [
                leaf if jnp.result_type(leaf) == dtype else jnp.asarray(leaf).astype(dtype)
                for leaf, dtype in zip(leaves, wanted, strict=True)
            ]
            if all(one is other for one, other in zip(typed, leaves, strict=True)):
                return state
            state = structure.unflatten(typed)
    raise ValueError("its state has other types after every update")


def with_constants(transformation: Any, constants: Mapping[str, Array]) -> Any:
    """The transformation whose state begins with these values of constants, by their paths.

    A constant that each parameter has of its own, so that its path goes on with that of a
    parameter, is the same for all of them.
    """
    if not constants:
        return transformation

    def replaced(path: Any, array: Any) -> Any:
        keys = (jax.tree_util.keystr(path[:end]) for end in range(len(path) + 1))
        for name in filter(constants.__contains__, keys):
            old = jnp.asarray(array)
            return jnp.broadcast_to(constants[name], old.shape).astype(old.dtype)
        return array

    def init(parameters: PyTree[Array]) -> Any:
        return jax.tree_util.tree_map_with_path(replaced, init_state(transformation, parameters))

    extra = isinstance(transformation, optax.GradientTransformationExtraArgs)
    kind = optax.GradientTransformationExtraArgs if extra else optax.GradientTransformation
    return kind(init, transformation.update)


def arrays_of(tree: PyTree) -> list[Array]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def carried_on(before: PyTree, after: PyTree) -> list[Array]:
    """Arrays of the state `after` an update, one for each array `before` it, by their place.

    `optax.monitor` adds arrays at its first update, which no later update reads: those are left
    out.
    """
    found = dict(jax.tree_util.tree_leaves_with_path(after))
    return [jnp.asarray(found[path]) for path, _ in jax.tree_util.tree_leaves_with_path(before)]


def describe_state(
    recipe: Recipe, values: Sequence[Array], uses_parameter: bool
) -> tuple[StateLeaf, ...]:
    """The state's arrays for one parameter; `ValueError` if the transformation refuses it.

    The parameter is an array of shape (1,), because some transformations fail on scalars. With
    `uses_parameter`, what depends on the parameter at the start is no constant.
    """
    one = jax.ShapeDtypeStruct((1,), jnp.result_type(float))
    shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]

    def start(values: Any, parameter: Array) -> Any:
        return init_state(recipe.build(values), parameter)

    def update(values: Any, state: Any, gradient: Array, parameter: Array) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            move, after = recipe.build(values).update(gradient, state, parameter)
        return move, carried_on(state, after)

    try:
        begun, state = jax.make_jaxpr(start, return_shape=True)(shapes, one)
        traced, (move, after) = jax.make_jaxpr(update, return_shape=True)(shapes, state, one, one)
    except Exception as error:  # transformations raise many kinds of errors on one parameter
        raise ValueError(
            "`transformation` must update a single parameter from its gradient alone, got "
            f"{complaint(error)}."
        ) from error
    for program in (begun, traced):
        require_no_tracers(program)
    if getattr(move, "shape", None) != one.shape:
        raise ValueError(
            "`transformation` must give an update of the shape (1,) of the gradient, got "
            f"{getattr(move, 'shape', type(move).__name__)}."
        )
    named = jax.tree_util.tree_leaves_with_path(state)
    changed = [leaf.shape for leaf in after]
    if [leaf.shape for _, leaf in named] != changed:
        raise ValueError(
            "`transformation` must keep the shapes of its state, got one that changes them from "
            f"{[leaf.shape for _, leaf in named]} to {changed}."
        )
    passed = [
        first is last
        for first, last in zip(
            traced.jaxpr.invars[len(values) : -2], traced.jaxpr.outvars[1:], strict=True
        )
    ]
    moving = _reached_by_parameter(begun, len(values)) if uses_parameter else [False] * len(named)
    return tuple(
        _describe_leaf(jax.tree_util.keystr(path), array, recipe.made, same and not moves)
        for (path, array), same, moves in zip(named, passed, moving, strict=True)
    )


def _reached_by_parameter(begun: Any, settings: int) -> list[bool]:
    """Whether the start of each array of the state depends on the parameter."""
    inputs = [unlabelled(variable.aval) for variable in begun.jaxpr.invars]
    inputs[settings] = Traced(np.ones(1, np.uint64))
    return [bool(np.any(each.mask)) for each in Analysis(lambda mask: False).run(begun, inputs)]


def require_no_tracers(program: Any) -> None:
    """Refuse a traced program that closes over traced values: their derivatives would be lost."""
    if any(isinstance(value, jax.core.Tracer) for value in program.consts):
        raise ValueError(
            "`transformation` must not close over traced values, such as a learning rate inside "
            "`jax.jit`, `jax.grad` or `jax.vmap`: pass the factory and its arguments, as in "
            "`from_optax(optax.adam, learning_rate=rate)`."
        )


def _describe_leaf(name: str, array: Any, made: bool, constant: bool) -> StateLeaf:
    old_key = array.dtype == jnp.uint32 and array.shape[-1:] == (2,)
    if old_key or jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"`transformation` must not draw random numbers, got one with a key at `{name}`."
        )
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"`transformation` must keep real numbers, got {array.dtype} at `{name}`.")
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    if constant:
        return StateLeaf(name, "hyperparameter" if floating and made else "constant", array.shape)
    if floating:
        return StateLeaf(name, "value", array.shape)
    return StateLeaf(name, "flag" if array.dtype == jnp.bool_ else "counter", array.shape)


def complaint(error: Exception) -> str:
    """The arguments that a transformation lacks, or the first line of its error."""
    text = str(error).strip()
    if missing := re.search(r"missing \d+ required keyword-only arguments?: (.*)", text):
        return f"one that also asks for {missing[1]}"
    if isinstance(error, AttributeError) and (found := re.search(r"attribute '?(\w+)'?", text)):
        hint = ": `optax.lookahead` keeps two copies of each parameter" * (found[1] == "fast")
        return f"one that asks for parameters with a field `{found[1]}` instead of an array{hint}"
    kind = type(error).__name__
    return f"a {kind}: {text.splitlines()[0].rstrip('.')}" if text else f"a {kind}"
