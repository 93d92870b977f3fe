"""Runs of an optax transformation on given gradients and parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

CACHED = 32
"""Transformations whose trial runs are cached."""


def trial_run(transformation: Any, gradients: PyTree[Array], parameters: PyTree[Array]) -> Any:
    """Updates of a run, and states from its start on, stacked along a first axis of steps."""
    start = transformation.init(jax.tree.map(lambda path: path[0], parameters))
    start = jax.tree.map(jnp.asarray, start)

    def body(state: Any, required: Any) -> Any:
        gradient, parameter = required
        update, after = transformation.update(gradient, state, parameter)
        # A scan's carry must not change its dtype.
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        return after, (update, after)

    _, (updates, states) = lax.scan(body, start, (gradients, parameters))
    visited = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
    return updates, visited
