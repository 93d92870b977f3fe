"""How far apart two optimizers are as maps from gradients to updates.

A distance between states says little. The coordinates of a hidden state are arbitrary: an
invertible linear change of them, with the readout changed along, is the same optimizer. And states
of different cells have different numbers of coordinates. What an optimizer is to the outside is the
map

    g^0, g^1, ..., g^k  ->  u^k = w . h^(k+1),        h^(k+1) = F(h^k, g^k)

from the gradients that a parameter has met to its next update. So all optimizers are driven by the
same recorded gradients, and their updates are compared. Coordinates do not enter: two optimizers
that do the same have distance 0, whatever they keep in their states.

Updates of a run are compared as one vector, relative to their own size, and runs have equal weight,
so that heavy-tailed gradients of a few runs do not decide:

    d(a, b)^2 = mean over runs of ||u_a - u_b||^2 / (||u_a||^2 + ||u_b||^2)

Each term is the square of a relative distance, ||x - y|| / (||x||^2 + ||y||^2)^(1/2), which is
symmetric, has no unit and is a metric (Hästö 2002, "A new weighted metric: the relative metric I",
for p = 2); the root of a mean of squared metrics is one again. So d lies from 0 to sqrt(2): 0 means
equal updates, 1 unrelated ones (orthogonal, or of different orders of magnitude), sqrt(2) opposite
ones. Updates that differ by a factor c have the distance |1 - c| / sqrt(1 + c^2), 0.45 for c = 2.

Nothing is removed from the runs unless `skip` says so: warm-up and other autonomous schedules are
in the first updates and nowhere else. Updates fall by orders of magnitude in a run, so that the
large ones, which move the parameter, decide. With `window` the pieces of a run have equal weight
instead. Late pieces then say how optimizers come to rest, and for networks that is mostly a drift
of a few percent of their first updates, which differs from seed to seed.

Two limits: gradients are replayed and do not answer, so that small differences which build up in a
run of one's own do not show; and d speaks of gradients like the recorded ones.
"""

from collections.abc import Mapping
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.checks import (
    finite_leaves,
    integer_of_at_least,
    mapping,
    positive_integer,
    real_array,
)
from lrevopt.inner_loop.sampled_states import SampledStates
from lrevopt.inner_loop.steps import updates_on_gradients
from lrevopt.optimizers.interface import AbstractOptimizer, check_optimizer
from lrevopt.optimizers.wrappers import at_parameter

PATHS = 4
"""Recorded runs of single parameters that each optimizer brings into the pool."""


def own_gradients(sampled: SampledStates, paths: int = PATHS) -> Float[np.ndarray, "run step"]:
    """Gradients of some parameters along test runs: what an optimizer brings into a pool.

    Each brings as many, so that none is compared on gradients of others alone.
    """
    return evenly_spaced(sampled.gradients, paths)


def response_distances(
    optimizers: Mapping[str, AbstractOptimizer],
    gradients: Float[np.ndarray, "run step"],
    *,
    window: int | None = None,
    skip: int = 0,
) -> Float[np.ndarray, "optimizer optimizer"]:
    """Distances between optimizers as maps from gradients to updates, from 0 to sqrt(2).

        gradients = np.random.default_rng(0).normal(size=(8, 200))
        lo.response_distances({"a": lo.Momentum(0.1, 0.9), "b": lo.Adam(0.1)}, gradients)

    The number does not depend on the coordinates of states; see the head of this module for its
    definition and limits.

    - `optimizers`: by name; the order is that of rows and columns. One that takes x is held at
      x = 0.
    - `gradients`: of single parameters, a row for each run; every optimizer gets every row, from
      its initial state.
    - `window`: number of updates in pieces of equal weight, of which the last may be shorter; by
      default a run is one piece.
    - `skip`: first updates of every run that are left out.

    A piece in which neither optimizer moves counts as 0. Updates that are not finite make the
    distances of their optimizer NaN; those of the others do not depend on it. Host float64. Raises
    `ValueError` for no optimizers, gradients that are no table of finite numbers, a window below 1,
    or as much skipped as there is.
    """
    mapping("optimizers", optimizers, "optimizers")
    for name, one in optimizers.items():
        check_optimizer(one, f"optimizers[{name!r}]")
    held = [at_parameter(one, 0.0) for one in optimizers.values()]
    window = None if window is None else positive_integer("window", window)
    skip = integer_of_at_least(0, "skip", skip)
    given = np.asarray(real_array("gradients", gradients), float)
    if given.ndim != 2 or not given.size:
        raise ValueError(f"`gradients` must be a table (run, step), got shape {given.shape}.")
    finite_leaves("gradients", given)
    if skip >= given.shape[1]:
        raise ValueError(f"`skip` must be less than the {given.shape[1]} updates, got {skip}.")
    updates = [updates_under(one, given)[:, skip:] for one in held]
    length = updates[0].shape[1] if window is None else window
    return _distances(np.stack([_in_windows(each, length) for each in updates]))


def updates_under(
    optimizer: AbstractOptimizer, gradients: Float[np.ndarray, "run step"]
) -> Float[np.ndarray, "run step"]:
    """Updates `w . h'` of a parameter that meets each row of gradients. Host float64."""
    with double_precision():
        return np.asarray(_updates(as_double(optimizer), jnp.asarray(gradients)))


@eqx.filter_jit
def _updates(opt, gradients):
    return jax.vmap(partial(updates_on_gradients, opt))(gradients)


def _in_windows(
    updates: Float[np.ndarray, "run step"], window: int
) -> Float[np.ndarray, "piece window"]:
    """Windows of all runs as rows; the last one of a run is filled up with zeros."""
    padded = np.pad(updates, ((0, 0), (0, -updates.shape[1] % window)))
    return padded.reshape(-1, window)


def _distances(
    pieces: Float[np.ndarray, "optimizer piece window"],
) -> Float[np.ndarray, "optimizer optimizer"]:
    """Root of the mean over pieces of squared relative distances, NaN where one is not finite.

    Each pair and piece is in units of its own largest update, so that squares neither under- nor
    overflow, whatever others do.
    """
    found = np.zeros((len(pieces), len(pieces)))
    largest = np.abs(pieces).max(axis=-1, keepdims=True)
    for row, own in enumerate(pieces):
        unit = np.maximum(largest, largest[row])
        unit = np.where(unit == 0, 1.0, unit)
        with np.errstate(invalid="ignore"):  # infinity over infinity is NaN, as it should be
            others, this = pieces / unit, own / unit
        both = np.sum(others**2, axis=-1) + np.sum(this**2, axis=-1)
        missed = np.sum((others - this) ** 2, axis=-1)
        found[row] = np.sqrt(np.mean(missed / np.where(both > 0, both, 1.0), axis=-1))
    return found
