"""The numbers of an optimizer that a search without gradients moves, and coordinates for it.

A search by covariance matrix adaptation can move some tens of numbers, not thousands. So arrays of
few entries are searched entry by entry, and a larger one by a factor for each of its blocks, such
as the matrix of one gate. The optimizer that the search starts from is at 0.

Some directions are a thousand times as steep as others: a change of a readout that adds a constant
to every update moves all parameters at every step. Coordinates are chosen so that to first order
all directions matter alike. Gradients are recorded along runs of the optimizer and replayed, and
with J the derivative of the displacement (the sum of the updates so far) with respect to the
numbers, relative to its root mean square, one unit along any coordinate changes the displacement by
its own size. Along directions that hardly matter, it changes it by less.
"""

import math
from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.inner_loop.recorded_runs import RecordedRuns, record_runs, replayed
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask

MOST = 1000
"""Numbers that can be searched: their covariance is an array of the square of it."""

BLOCKS = 4
"""Most blocks of an array that is searched by factors: a recurrent cell has up to four gates."""

PROBLEMS = 2
"""Problems of the recorded runs."""

FURTHEST = 10.0
"""Most that one unit moves a number, in units of the root mean square of its array."""

FLAT = 0.03
"""Sensitivity, relative to the largest, below which a direction counts as flat."""


class SearchedNumbers(eqx.Module):
    """The searched numbers of an optimizer, as one vector, and search coordinates for it.

    A point is `axes @ coordinates`: what is added to entries, and the logarithms of factors, in the
    order of the optimizer's arrays.
    """

    optimizer: AbstractOptimizer
    entries: int = eqx.field(static=True)
    axes: Float[Array, "number coordinate"]

    def at(self, coordinates: Float[Array, " coordinate"]) -> AbstractOptimizer:
        """The optimizer at a point of the search."""
        return moved(self.optimizer, self.entries, self.axes @ coordinates)


def searched_numbers(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    entries: int,
    steps: int,
    key: Key[Array, ""],
) -> SearchedNumbers:
    """Numbers and coordinates for a search from `optimizer`; runs of `steps` updates are recorded.

    Arrays of at most `entries` numbers are searched entry by entry. Raises `ValueError` for too
    many numbers, or an optimizer that diverges on every recorded problem.
    """
    count = count_of(optimizer, entries)
    if count > MOST:
        raise ValueError(
            f"`cma_entries` must leave at most {MOST} numbers to search, got {entries}, which "
            f"leaves {count}."
        )
    recorded = record_runs(optimizer, task, key=key, problems=PROBLEMS, steps=steps)
    sensitivities = np.asarray(_sensitivities(optimizer, entries, recorded), float)
    axes = axes_of(sensitivities, _sizes(optimizer, entries))
    return SearchedNumbers(optimizer, entries, jnp.asarray(axes, float))


def axes_of(
    sensitivities: Float[np.ndarray, "sample number"], sizes: Float[np.ndarray, " number"]
) -> Float[np.ndarray, "number coordinate"]:
    """Axes along which a unit step has an effect of 1, or less where all that is near is flat.

    `sensitivities` are derivatives of an effect, `sizes` typical sizes of the numbers.
    """
    sound = np.isfinite(sensitivities).all(axis=0)
    slopes = np.where(sound, sensitivities, 0.0)
    effects = np.sqrt((slopes**2).mean(axis=0))
    met = effects > 0
    units = np.where(met, np.minimum(1 / np.where(met, effects, 1.0), FURTHEST * sizes), sizes)
    scaled = slopes * units / math.sqrt(len(slopes))
    squares, vectors = np.linalg.eigh(scaled.T @ scaled)
    squares = np.maximum(squares, 0.0)
    least = FLAT**2 * squares[-1] if squares[-1] > 0 else 1.0
    return units[:, None] * vectors / np.sqrt(squares + least)


def count_of(optimizer: AbstractOptimizer, entries: int) -> int:
    """How many numbers are searched."""
    leaves = _arrays(optimizer)
    width = _width(leaves)
    return sum(_numbers_of(leaf, entries, width) for leaf in leaves)


def moved(
    optimizer: AbstractOptimizer, entries: int, values: Float[Array, " number"]
) -> AbstractOptimizer:
    """The optimizer with `values` added to searched entries, and exp of them as factors."""
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(weights)
    width, taken, found = _width(leaves), 0, []
    for leaf in leaves:
        count = _numbers_of(leaf, entries, width)
        own = values[taken : taken + count].astype(leaf.dtype)
        taken += count
        if leaf.size <= entries:
            found.append(leaf + own.reshape(leaf.shape))
        else:
            blocks = leaf.reshape(count, -1) * jnp.exp(own)[:, None]
            found.append(blocks.reshape(leaf.shape))
    return eqx.combine(jax.tree.unflatten(structure, found), fixed)


@eqx.filter_jit
def _sensitivities(
    optimizer: AbstractOptimizer, entries: int, recorded: RecordedRuns
) -> Float[Array, "sample number"]:
    """Derivatives of relative displacements under the recorded gradients."""

    def displacements(values: Array) -> Array:
        return jnp.cumsum(replayed(moved(optimizer, entries, values), recorded.gradients), axis=0)

    start = jnp.zeros(count_of(optimizer, entries), recorded.updates.dtype)
    size = jnp.sqrt(jnp.mean(jnp.cumsum(recorded.updates, axis=0) ** 2))
    slopes = jax.jacfwd(displacements)(start).reshape(-1, start.size)
    return slopes / jnp.where(size > 0, size, 1.0)


def _sizes(optimizer: AbstractOptimizer, entries: int) -> Float[np.ndarray, " number"]:
    """Root mean square of the array of each searched entry; 1 for single numbers and factors."""
    leaves, found = _arrays(optimizer), []
    width = _width(leaves)
    for leaf in leaves:
        size = float(jnp.sqrt(jnp.mean(leaf**2))) if 1 < leaf.size <= entries else 1.0
        found.append(np.full(_numbers_of(leaf, entries, width), size if size > 0 else 1.0))
    return np.concatenate(found)


def _arrays(optimizer: AbstractOptimizer) -> list[Array]:
    return jax.tree.leaves(eqx.filter(optimizer, eqx.is_inexact_array))


def _width(leaves: list[Array]) -> int:
    """Rows of a block: what the lengths of all axes have in common, the width of a cell."""
    return reduce(math.gcd, (length for leaf in leaves for length in leaf.shape if length > 1), 0)


def _numbers_of(leaf: Array, entries: int, width: int) -> int:
    """Numbers that are searched of an array."""
    if leaf.size <= entries:
        return leaf.size
    blocks = leaf.shape[0] // width if leaf.shape[0] > 1 else 1
    return blocks if blocks <= BLOCKS else 1
