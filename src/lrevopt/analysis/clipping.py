"""Do updates saturate, and do gradients get that far? (paper, 5.2 and A.2)

    knee = max |u(g) - u(0)| / |u'(0)|

is where the tangent at zero reaches the plateau: the threshold itself for clipped gradient
descent, the scale of a tanh, and the end of the gradient axis for a straight line, beyond which
no gradient lies.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lrevopt.analysis.update_functions import rate_table, update_table
from lrevopt.inner_loop.sampled_states import evenly_spaced
from lrevopt.optimizers.interface import AbstractOptimizer

BINS = 101
"""Odd, so that the many gradients near 0 fall into one bin."""


class Clipping(eqx.Module):
    """Update functions of some states on a wide axis, beside the density of met gradients.

    - `gradients`: symmetric axis out to the largest met magnitude; `updates` on it.
    - `edges`, `density`: histogram of met gradients on the same range.
    - `knees`; `beyond_knee`: share of met gradients whose magnitude exceeds it.
    - `saturation`: update at the 99.9 % magnitude over its linear extrapolation, mean of both
      signs: 1 for a straight line.
    - `affine_fit`: R^2 of a line through the updates of the central 80 % of met gradients.
    """

    gradients: Float[np.ndarray, " wide"]
    updates: Float[np.ndarray, "point wide"]
    edges: Float[np.ndarray, " edge"]
    density: Float[np.ndarray, " bin"]
    knees: Float[np.ndarray, " point"]
    beyond_knee: Float[np.ndarray, " point"]
    saturation: Float[np.ndarray, " point"]
    affine_fit: Float[np.ndarray, " point"]


def measure_clipping(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    pooled: Float[np.ndarray, " met"],
    points: int = 2001,
) -> Clipping:
    """Saturation of the update functions of `states` over the gradients `pooled`.

    `points` is odd, so that 0 is on the axis; a knee is resolved to one spacing of it.
    Ratios to a tangent of slope 0 are infinite.
    """
    magnitude = np.abs(pooled)
    largest = _positive(magnitude.max())
    axis = np.linspace(-largest, largest, points)
    updates, rates = update_table(opt, states, axis), np.abs(rate_table(opt, states))
    offsets = updates[:, points // 2]
    far = _positive(np.quantile(magnitude, 0.999))
    rises = np.abs(update_table(opt, states, np.array([-far, far])) - offsets[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        knees = np.abs(updates - offsets[:, None]).max(axis=1) / rates
        saturation = rises.mean(axis=1) / (rates * far)
    knees = np.where(np.isnan(knees), np.inf, knees)
    low, high = np.quantile(pooled, [0.1, 0.9])
    central = evenly_spaced(np.sort(pooled[(pooled >= low) & (pooled <= high)]), points)
    density, edges = np.histogram(pooled, BINS, (-largest, largest), density=True)
    return Clipping(
        gradients=axis,
        updates=updates,
        edges=edges,
        density=density,
        knees=knees,
        # A straight line's knee is the largest gradient, up to round-off.
        beyond_knee=np.array([np.mean(magnitude > knee * (1 + 1e-9)) for knee in knees]),
        saturation=np.where(np.isnan(saturation), 1.0, saturation),
        affine_fit=_line_fits(central, update_table(opt, states, central)),
    )


def _line_fits(
    x: Float[np.ndarray, " grid"], rows: Float[np.ndarray, "point grid"]
) -> Float[np.ndarray, " point"]:
    """R^2 of a least-squares line through each row; 1 for a constant row."""
    x, rows = x - x.mean(), rows - rows.mean(axis=1, keepdims=True)
    slopes = rows @ x / _positive(x @ x)
    whole = np.sum(rows**2, axis=1)
    rest = np.sum((rows - slopes[:, None] * x) ** 2, axis=1)
    return 1 - rest / np.where(whole > 0, whole, 1.0)


def _positive(value: float) -> float:
    return float(value) if value > 0 else 1.0
