"""The plane in which figures show states (paper, 5.1): principal components of sampled states."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lrevopt.analysis.precision import AnyArray
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.inner_loop.sampled_states import SampledStates

PATHS = 20
"""Sampled parameters whose path through the projection is kept."""

ROUNDING = 10.0
"""Round-off of a variance, in units of the floating type's precision times the mean square of the
states and the number of their coordinates. More than was seen with up to 100,000 points."""


class Projection(eqx.Module):
    """Principal components, by falling share of the variance.

    A point h is shown at `components @ (h - mean)`. Rows beyond the rank of the data are 0, and so
    are their shares: those whose variance is not above round-off of the squared states.
    """

    mean: Float[np.ndarray, " state"]
    components: Float[np.ndarray, "component state"]
    explained_variance: Float[np.ndarray, " component"]

    def __call__(
        self, states: Float[np.ndarray, "*point state"]
    ) -> Float[np.ndarray, "*point component"]:
        """Coordinates of states in the projection."""
        return (states - self.mean) @ self.components.T


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
        ratios = np.nan_to_num(fitted.explained_variance_ratio_)
    real = fitted.explained_variance_ > _round_off(states, fitted.components_.dtype)
    shares = np.where(real, ratios, 0.0).astype(ratios.dtype)
    rows = np.where(real[:, None], fitted.components_, 0.0)
    missing = components - found
    return Projection(
        mean=fitted.mean_,
        components=np.pad(rows, ((0, missing), (0, 0))),
        explained_variance=np.pad(shares, (0, missing)),
    )


def _round_off(states: Float[np.ndarray, "point state"], dtype: Any) -> float:
    """Variance that a cloud of this size has by rounding errors alone."""
    points, size = states.shape
    level = ROUNDING * size * float(np.finfo(dtype).eps)
    if points < size:  # from singular values, whose squares are the variances
        level = level**2
    return level * float(np.mean(np.sum(np.asarray(states, float) ** 2, axis=1)))


class ProjectedStates(eqx.Module):
    """States along test runs, in the plane of their principal components (Figure 3a). Float64.

    - `explained_variance`: share of the variance of sampled states in each component.
    - `paths`: projected states of up to 20 parameters of test problems.
    - `variance`: total variance (summed over coordinates) over sampled parameters, at each step.
    - `typical_update`: root mean square over sampled parameters and steps of the update `w . h'`.
    """

    explained_variance: Float[np.ndarray, " component"]
    paths: Float[np.ndarray, "path visited component"]
    variance: Float[np.ndarray, " visited"]
    typical_update: float


def project_states(
    sampled: SampledStates,
    projection: Projection,
    readout: Float[AnyArray, " state"],
) -> ProjectedStates:
    """Paths, variance and updates of sampled states; `readout` is the optimizer's w."""
    updates = sampled.states[:, 1:] @ np.asarray(readout, float)
    return ProjectedStates(
        explained_variance=projection.explained_variance,
        paths=projection(evenly_spaced(sampled.states, PATHS)),
        variance=state_variance(sampled.states),
        typical_update=float(np.sqrt(np.mean(updates**2))),
    )


def state_variance(
    states: Float[np.ndarray, "path visited state"],
) -> Float[np.ndarray, " visited"]:
    """Total variance over paths at each step: 0 where all states are equal (Figure 3a, inset)."""
    return states.var(axis=0).sum(axis=-1)
