"""States visited on test problems, and the plane in which figures show them (paper, 5.1).

The paper runs principal component analysis over states visited during test runs (footnote 4).
"""

import equinox as eqx
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from lrevopt.checks import positive_integer
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask, sample_problems
from lrevopt.unroll import unroll

MEMORY = 2**28
"""Bytes of states that test runs may hold at one time."""

KEPT_GRADIENTS = 1000
"""Parameters of each problem whose gradients are kept."""


class Visits(eqx.Module):
    """What some parameters of test problems went through. A *path* is one parameter of one.

    `states[:, k]` met `gradients[:, k]`. `met` are gradients of more parameters, in no order.
    Host arrays in float64. Paths that left the finite numbers are gone; `lost` counts them.
    """

    states: Float[np.ndarray, "path visited state"]
    gradients: Float[np.ndarray, "path step"]
    met: Float[np.ndarray, " met"]
    lost: int


class Projection(eqx.Module):
    """Principal components, by falling share of the variance.

    A point h is shown at `components @ (h - mean)`. Rows beyond the rank of the data are 0.
    """

    mean: Float[np.ndarray, " state"]
    components: Float[np.ndarray, "component state"]
    explained_variance: Float[np.ndarray, " component"]

    def __call__(
        self, states: Float[np.ndarray, "*point state"]
    ) -> Float[np.ndarray, "*point component"]:
        """Coordinates of states in the projection."""
        return (states - self.mean) @ self.components.T


def visit(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    parameters: int = 20,
) -> Visits:
    """Run an optimizer on fresh problems and keep `parameters` random paths of each.

    Problems go through a few at a time, so that large ones fit into memory.
    Raises `ValueError` for counts below 1, or if no run stayed finite.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    parameters = positive_integer("parameters", parameters)
    start = eqx.filter_eval_shape(task.sample, key).initial_parameters
    needed = (steps + 1) * start.size * state_size(optimizer) * start.dtype.itemsize
    batch = max(1, min(problems, MEMORY // needed))
    kept = min(parameters, start.size), min(KEPT_GRADIENTS, start.size)
    states, gradients, met = _visit(optimizer, task, key, problems, steps, kept, batch)
    states = np.asarray(states, float).reshape(-1, *states.shape[2:])
    gradients = np.asarray(gradients, float).reshape(-1, steps)
    met = np.asarray(met, float).reshape(-1, steps)
    whole = np.isfinite(states).all(axis=(1, 2)) & np.isfinite(gradients).all(axis=1)
    if not whole.any():
        raise ValueError(
            f"`optimizer` must stay finite on some problem of {type(task).__name__}, but "
            f"this {type(optimizer).__name__} diverged on all {problems}."
        )
    return Visits(
        states=states[whole],
        gradients=gradients[whole],
        met=met[np.isfinite(met).all(axis=1)].ravel(),
        lost=int(np.sum(~whole)),
    )


@eqx.filter_jit
def _visit(optimizer, task, key, problems, steps, kept, batch):
    problem_key, parameter_key = jr.split(key)
    # Drawn together, as everywhere else, so that the same key gives the same problems.
    drawn = sample_problems(task, problem_key, problems)

    def one(problem, key):
        run = unroll(optimizer, task, problem, steps)
        order = jr.permutation(key, run.parameters.shape[1])
        states = run.states[:, order[: kept[0]]].swapaxes(0, 1)
        gradients = run.gradients[:, order[: kept[1]]].T
        return states, gradients[: kept[0]], gradients

    keys = jr.split(parameter_key, problems)
    return lax.map(lambda each: one(*each), (drawn, keys), batch_size=batch)


def fit_projection(states: Float[np.ndarray, "point state"], components: int = 3) -> Projection:
    """Principal components of a cloud of states, padded with zeros to `components` rows.

    Raises `ValueError` for fewer than two states.
    """
    points, size = states.shape
    if points < 2:
        raise ValueError(f"`states` must hold at least two points, got {points}.")
    found = min(components, points, size)
    with np.errstate(invalid="ignore", divide="ignore"):  # a cloud without extent
        from sklearn.decomposition import PCA  # half a second and 50 MB, only here

        fitted = PCA(found, svd_solver="full" if points < size else "covariance_eigh").fit(states)
        shares = np.nan_to_num(fitted.explained_variance_ratio_)
    rows = np.where(shares[:, None] > 0, fitted.components_, 0.0)
    missing = components - found
    return Projection(
        mean=fitted.mean_,
        components=np.pad(rows, ((0, missing), (0, 0))),
        explained_variance=np.pad(shares, (0, missing)),
    )


def state_variance(
    states: Float[np.ndarray, "path visited state"],
) -> Float[np.ndarray, " visited"]:
    """Total variance over paths at each step: 0 where all paths have met (Figure 3a, inset)."""
    return states.var(axis=0).sum(axis=-1)


def spread(array: np.ndarray, count: int) -> np.ndarray:
    """At most `count` entries, evenly spaced along the first axis."""
    if len(array) <= count:
        return array
    return array[np.linspace(0, len(array) - 1, count).round().astype(int)]
