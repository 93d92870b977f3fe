"""Optimizers of this package as optax transformations."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from lrevopt.checks import instance
from lrevopt.optimizers.interface import (
    AbstractOptimizer,
    AbstractParameterOptimizer,
    moved_at,
    start_at,
    state_size,
)


class OptimizerState(NamedTuple):
    """State of `to_optax`: for every array of parameters, states of shape (state, *shape)."""

    states: PyTree[Float[Array, "state ..."]]


def to_optax(optimizer: AbstractOptimizer) -> optax.GradientTransformation:
    """Any optimizer, a learned one included, as an optax transformation.

        states' = F(states, gradients)        updates = w . states'

    It acts on any pytree of floating-point arrays, alone or in `optax.chain`, `optax.masked` and
    `optax.MultiSteps`, and its updates go to `optax.apply_updates`. `None` leaves, as in
    `eqx.filter(model, eqx.is_inexact_array)`, stay `None`. The state is an `OptimizerState`, a
    pytree of arrays: `states` has the structure of the parameters, with the state axis first, in
    the optimizer's dtype. Gradients of another dtype are converted, and updates have the dtype of
    the gradients.

    All parameters are updated together in the order of the tree, as in `unroll`. Given the same
    gradients, a compiled loop with a GRU repeats `unroll` to the last bit on a CPU. A hand-written
    optimizer may differ in the last place, because XLA fuses a product and a sum in some programs
    and not in others. Gradients of a network, too, can differ in the last place between programs.

    An `AbstractParameterOptimizer` needs the parameters in `update`, too.

    Raises `ValueError` for an optimizer without a flat state and a readout to match, and, when
    the transformation is used, for parameters or gradients that are not real floating-point
    arrays, and for gradients of another structure or shape than the parameters of `init`.
    """
    size = state_size(optimizer)

    def init(parameters: PyTree) -> OptimizerState:
        return OptimizerState(
            jax.tree_util.tree_map_with_path(partial(_first_states, optimizer, size), parameters)
        )

    def update(
        gradients: PyTree, state: OptimizerState, parameters: PyTree | None = None
    ) -> tuple[PyTree, OptimizerState]:
        structure: Any
        named, structure = jax.tree_util.tree_flatten_with_path(gradients)
        leaves = [jnp.asarray(_floating("gradients", path, leaf)) for path, leaf in named]
        instance("state", state, OptimizerState, "what `init` or `update` returned")
        states = _states_for(named, structure, state.states)
        if not leaves:
            return gradients, state
        dtype = states[0].dtype
        lanes = jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in leaves])
        places = lanes
        if isinstance(optimizer, AbstractParameterOptimizer):
            places = _lanes_of(parameters, structure, dtype)
        before = jnp.concatenate([array.reshape(size, -1) for array in states], axis=1)
        following = jax.vmap(partial(moved_at, optimizer), (-1, 0, 0), -1)(before, lanes, places)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        moved = jnp.split(optimizer.readout @ following, ends)
        parts = jnp.split(following, ends, axis=1)
        updates = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(moved, leaves, strict=True)
        ]
        kept = [part.reshape(old.shape) for part, old in zip(parts, states, strict=True)]
        return structure.unflatten(updates), OptimizerState(structure.unflatten(kept))

    return optax.GradientTransformation(init, update)


def _states_for(named: Any, structure: Any, states: PyTree) -> list[Any]:
    """States in the order of the gradients, which are named by their place in the tree."""
    if jax.tree.structure(states) != structure:
        raise ValueError(
            "`gradients` must have the tree structure of the parameters given to `init`, got "
            f"arrays at {_places(named)} instead of "
            f"{_places(jax.tree_util.tree_leaves_with_path(states))}."
        )
    found = jax.tree.leaves(states)
    for (path, leaf), state in zip(named, found, strict=True):
        if jnp.shape(state)[1:] != jnp.shape(leaf):
            raise ValueError(
                "`gradients` must have the shapes of the parameters given to `init`, "
                f"{jnp.shape(state)[1:]} at {_places([(path, leaf)])}, got {jnp.shape(leaf)}."
            )
    return found


def _places(named: Any) -> str:
    """Places of arrays in a tree, at most four by name."""
    words = [f"`{jax.tree_util.keystr(path)}`" if path else "its root" for path, _ in named]
    more = [f"{len(words) - 4} more"] if len(words) > 4 else []
    return ", ".join(words[:4] + more) or "no place"


def _first_states(
    optimizer: AbstractOptimizer, size: int, path: Any, leaf: Any
) -> Float[Array, "state ..."]:
    """States of all parameters of an array, before the first gradient."""
    shape = jnp.shape(_floating("parameters", path, leaf))
    if isinstance(optimizer, AbstractParameterOptimizer):
        lanes = jnp.reshape(leaf, -1).astype(optimizer.readout.dtype)
        start = jax.vmap(lambda x: start_at(optimizer, x), out_axes=-1)(lanes)
        return start.reshape(size, *shape)
    start = optimizer.initial_state().reshape(size, *(1 for _ in shape))
    return jnp.broadcast_to(start, (size, *shape))


def _lanes_of(parameters: PyTree | None, structure: Any, dtype: Any) -> Float[Array, " lane"]:
    """All parameters in one vector, in the order of the gradients."""
    if parameters is None:
        raise ValueError(
            "`parameters` must be given to `update` for an optimizer whose updates depend on them, "
            "got None."
        )
    if jax.tree.structure(parameters) != structure:
        raise ValueError(
            "`parameters` must have the tree structure of the gradients, got arrays at "
            f"{_places(jax.tree_util.tree_leaves_with_path(parameters))}."
        )
    leaves = jax.tree.leaves(parameters)
    return jnp.concatenate([jnp.reshape(leaf, -1).astype(dtype) for leaf in leaves])


def _floating(name: str, path: Any, leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", type(leaf))
    if not jnp.issubdtype(dtype, jnp.floating):
        found = getattr(dtype, "__name__", dtype)
        raise ValueError(
            f"`{name}` must be real floating-point arrays, got {found} at "
            f"`{jax.tree_util.keystr(path)}`: leave it out, as `eqx.filter(model, "
            "eqx.is_inexact_array)` does."
        )
    return leaf
