"""The numbers of an optimizer that a search without gradients moves, and coordinates for it.

A search by covariance matrix adaptation can move some tens of numbers, not thousands. So arrays of
few entries are searched entry by entry, and a larger one by a factor for each of its blocks, such
as the matrix of one gate. The optimizer that the search starts from is at 0.

Some directions are a thousand times as steep as others: a change of a readout that adds a constant
to every update moves all parameters at every step. Coordinates are chosen so that to first order
all directions matter alike. Gradients are recorded along runs of the optimizer and replayed, and
with J the derivative of the displacement (the sum of the updates so far) with respect to the
numbers, relative to its root mean square, one unit along any coordinate changes the displacement
under the same gradients by its own size, and along directions that hardly matter by less.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.inner_loop.recorded_runs import record_runs
from lrevopt.inner_loop.steps import updates_on_gradients
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask

MOST = 1000
"""Numbers that can be searched: their covariance is an array of the square of it."""

BLOCKS = 4
"""Most blocks of an array that is searched by factors: a recurrent cell has up to four gates."""

PROBLEMS = 2
"""Problems of the recorded runs."""

AT_A_TIME = 32
"""Recorded parameters whose displacements are differentiated at a time."""

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


def search_axes(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    entries: int,
    steps: int,
    key: Key[Array, ""],
) -> Float[np.ndarray, "number coordinate"]:
    """Axes for a search from `optimizer`; runs of `steps` updates are recorded for them.

    Arrays of at most `entries` numbers are searched entry by entry. Raises `ValueError` for an
    optimizer that diverges on every recorded problem, or moves parameters beyond all numbers.
    """
    recorded = record_runs(optimizer, task, key=key, problems=PROBLEMS, steps=steps)
    size = float(np.sqrt(np.mean(np.cumsum(np.asarray(recorded.updates, float), axis=0) ** 2)))
    effects = np.asarray(_effects(optimizer, entries, recorded.gradients, size or 1.0), float)
    return axes_of(effects, _sizes(optimizer, entries))


def check_count(optimizer: AbstractOptimizer, entries: int) -> None:
    """Raise `ValueError` for more numbers than can be searched."""
    count = count_of(optimizer, entries)
    if count > MOST:
        raise ValueError(
            f"`cma_entries` must leave at most {MOST} numbers to search, got {entries}, which "
            f"leaves {count}."
        )


def axes_of(
    effects: Float[np.ndarray, "number number"], sizes: Float[np.ndarray, " number"]
) -> Float[np.ndarray, "number coordinate"]:
    """Axes along which a unit step has an effect of 1, or less where all that is near is flat.

    `effects` are mean products of the derivatives of an effect with respect to two numbers, `sizes`
    typical sizes of the numbers. Along no axis a unit step moves a number by more than `FURTHEST`
    of them. A number without an effect, or whose derivatives are not finite, has an axis of its own
    and its own size.
    """
    alone = np.sqrt(np.where(np.isfinite(np.diag(effects)), np.diag(effects), 0.0))
    met = alone > 0
    places = np.flatnonzero(met)
    axes = np.diag(sizes.astype(float))
    if not places.size:
        return axes
    units = 1 / alone[met]
    squares, vectors = np.linalg.eigh(effects[np.ix_(places, places)] * np.outer(units, units))
    least = FLAT**2 * squares[-1]
    found = units[:, None] * vectors / np.sqrt(np.maximum(squares, 0.0) + least)
    furthest = (np.abs(found) / sizes[met][:, None]).max(axis=0)
    axes[np.ix_(places, places)] = found * np.minimum(1.0, FURTHEST / furthest)
    return axes


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
def _effects(
    optimizer: AbstractOptimizer,
    entries: int,
    gradients: Float[Array, "step lane"],
    size: float,
) -> Float[Array, "number number"]:
    """Mean products of derivatives of displacements, relative to `size`, under these gradients."""
    start = jnp.zeros(count_of(optimizer, entries), gradients.dtype)

    def of_lane(gradients: Float[Array, " step"]) -> Float[Array, "number number"]:
        def displacements(values: Array) -> Array:
            box = moved(optimizer, entries, values)
            return jnp.cumsum(updates_on_gradients(box, gradients)) / size

        slopes = jax.jacfwd(displacements)(start)
        return slopes.T @ slopes / len(slopes)

    each = jax.lax.map(of_lane, gradients.T, batch_size=AT_A_TIME)
    return each.mean(axis=0)


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
    """Rows of a block: the width of the cell, by its recurrent matrices; 0 where there are none."""
    square = [
        leaf.shape[1]
        for leaf in leaves
        if leaf.ndim == 2 and leaf.shape[1] > 1
        and leaf.shape[0] % leaf.shape[1] == 0 and leaf.shape[0] <= BLOCKS * leaf.shape[1]
    ]  # fmt: skip
    return max(square, default=0)


def _numbers_of(leaf: Array, entries: int, width: int) -> int:
    """Numbers that are searched of an array."""
    if leaf.size <= entries:
        return leaf.size
    if not width or leaf.shape[0] % width or leaf.shape[0] > BLOCKS * width:
        return 1
    return leaf.shape[0] // width
