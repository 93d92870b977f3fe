"""Values of a transformation's step counters at a given step."""

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lrevopt.optimizers.optax.recipe import Recipe
from lrevopt.optimizers.optax.state_leaves import COUNTING, StateLeaf, arrays_of
from lrevopt.optimizers.optax.trial_runs import CACHED, Key, arrays_of_key, key_of, trial_run

LONGEST = 10_000
"""Updates that are run; beyond them counters are extrapolated."""


@lru_cache(maxsize=CACHED)
def _cached_paths(recipe: Recipe, values: Key) -> dict[int, Array]:
    return _counter_paths(recipe, arrays_of_key(values))


def _counter_paths(recipe: Recipe, values: Sequence[Array]) -> dict[int, Array]:
    """Integers and booleans along two runs, one with zero and one with random gradients, by their
    place in the state: arrays (run, visited, ...).
    """
    random = np.random.default_rng(0)
    drawn = 10 ** random.uniform(-3, 3, LONGEST) * random.normal(size=LONGEST)
    gradients = jnp.asarray(np.stack([np.zeros(LONGEST), drawn])[..., None], float)
    transformation = recipe.build(values)

    def visited(gradients: Array) -> dict[int, Array]:
        states = arrays_of(trial_run(transformation, gradients, jnp.zeros_like(gradients))[1])
        return {
            place: path
            for place, path in enumerate(states)
            if not jnp.issubdtype(path.dtype, jnp.floating)
        }

    return jax.jit(jax.vmap(visited))(gradients)


def held_counters(
    recipe: Recipe, values: Sequence[Array], leaves: tuple[StateLeaf, ...], at_step: int
) -> tuple[Array, ...]:
    """Integers and booleans of the state after `at_step` updates."""
    places = [place for place, leaf in enumerate(leaves) if leaf.kind in COUNTING]
    if not places:
        return ()
    key = key_of(values)
    paths = _counter_paths(recipe, values) if key is None else _cached_paths(recipe, key)
    if isinstance(paths[places[0]], jax.core.Tracer):
        if at_step > LONGEST:
            raise ValueError(
                f"`at_step` must be at most {LONGEST} where hyperparameters are traced, "
                f"got {at_step}."
            )
        return tuple(paths[place][0, at_step] for place in places)
    held = []
    for place in places:
        name, (quiet, driven) = leaves[place].name, np.asarray(paths[place])
        if not np.array_equal(quiet, driven):
            raise ValueError(
                "`transformation` must have counters that do not depend on gradients, to be held "
                f"at a step, got one with `{name}`: leave `at_step` out."
            )
        held.append(jnp.asarray(_extrapolate(name, quiet, at_step)))
    return tuple(held)


def _extrapolate(name: str, path: np.ndarray, at_step: int) -> np.ndarray:
    """Entry `at_step` of a counter's path, extrapolated at an even pace beyond its end."""
    last = len(path) - 1
    if at_step <= last:
        return np.asarray(path[at_step])
    moves = np.diff(path.astype(np.int64), axis=0)[last // 2 :]
    if np.any(moves != moves[0]):
        raise ValueError(
            f"`at_step` must be at most {LONGEST} for a transformation whose counter `{name}` "
            f"does not count evenly, got {at_step}."
        )
    end = path[-1].astype(object) + moves[0].astype(object) * (at_step - last)
    largest = 1 if path.dtype == bool else np.iinfo(path.dtype).max
    return np.asarray(np.minimum(end, largest), path.dtype)
