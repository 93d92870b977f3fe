"""Runs of an optax transformation on given gradients and parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from lrevopt.optimizers.optax.state_leaves import carried_on, init_state

CACHED = 32
"""Transformations whose trial runs are cached."""

Key = tuple[tuple[tuple[int, ...], str, bytes], ...]
"""Arrays as something that has a hash: shape, dtype and bytes of each."""


def key_of(values: Sequence[Array]) -> Key | None:
    """Arrays as a key; none for traced arrays, which have no bytes yet."""
    if any(isinstance(value, jax.core.Tracer) for value in values):
        return None
    arrays = [np.asarray(value) for value in values]
    return tuple((array.shape, array.dtype.name, array.tobytes()) for array in arrays)


def arrays_of_key(key: Key) -> list[Array]:
    return [
        jnp.asarray(np.frombuffer(data, jnp.dtype(kind)).reshape(shape))
        for shape, kind, data in key
    ]


def trial_run(transformation: Any, gradients: PyTree[Array], parameters: PyTree[Array]) -> Any:
    """Updates of a run, and states from its start on, stacked along a first axis of steps."""
    start = init_state(transformation, jax.tree.map(lambda path: path[0], parameters))
    start = jax.tree.map(jnp.asarray, start)

    def body(state: Any, required: Any) -> Any:
        gradient, parameter = required
        update, after = transformation.update(gradient, state, parameter)
        # A scan's carry must keep its structure and its dtypes.
        structure: Any
        arrays, structure = jax.tree.flatten(state)
        kept = [
            jnp.asarray(new, old.dtype)
            for new, old in zip(carried_on(state, after), arrays, strict=True)
        ]
        after = structure.unflatten(kept)
        return after, (update, after)

    _, (updates, states) = lax.scan(body, start, (gradients, parameters))
    visited = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
    return updates, visited
