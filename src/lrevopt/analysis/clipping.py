"""Saturation of update functions, and gradients beyond it (paper, 5.2 and A.2).

    knee = max |u(g) - u(0)| / |u'(0)|

is where the tangent at zero reaches the plateau: the threshold itself for clipped gradient
descent, the scale of a tanh, and the end of the gradient axis for a straight line, beyond which
no gradient lies.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import rate_table, update_table
from lrevopt.inner_loop.sampled_states import SampledStates
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Facts, number, percent

DECADES = 1e-6
"""Least gradient of the logarithmic half of an axis, as a share of the largest."""

BINS = 101
"""Odd, so that the many gradients near 0 fall into one bin."""

NO_TANGENT = "the update, or its slope at zero gradient, is not finite"
"""Why saturation is missing."""


class Clipping(eqx.Module):
    """Saturation of update functions on a wide axis, beside the density of gradients (Figure 4).

    Host arrays in float64. Update functions and knees are those of all states, ratios those of the
    first.

    - `gradients`: symmetric axis out to the largest pooled gradient, half of its points evenly
      spaced and half on a logarithmic scale; `updates`: `w . F(h, g)` on it, one row per state.
    - `edges`, `density`: histogram of pooled gradients on the same range, as a density.
    - `knees`: for each state, the gradient magnitude at which the tangent at zero gradient
      reaches the largest update on the axis.
    - `beyond_knee`: share of pooled gradients beyond the first state's knee.
    - `saturation`: update of the first state at the 99.9 % gradient magnitude over its linear
      extrapolation, mean of both signs: 1 for a straight line.
    - `affine_fit`: R^2 of a line through the updates of the first state on the central 80 % of
      pooled gradients.
    - Where the update has no finite slope at zero gradient, knees are NaN, and so are
      `beyond_knee` and `saturation` of such a first state.
    """

    gradients: Float[np.ndarray, " wide"]
    updates: Float[np.ndarray, "point wide"]
    edges: Float[np.ndarray, " edge"]
    density: Float[np.ndarray, " bin"]
    knees: Float[np.ndarray, " point"]
    beyond_knee: float
    saturation: float
    affine_fit: float


def measure_clipping(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    pooled: Float[np.ndarray, " gradient"],
    points: int = 2001,
) -> Clipping:
    """Saturation of the update functions of `states` over the gradients `pooled`.

    `points` is odd, so that 0 is on the axis; a knee is resolved to 3 % wherever it lies. Ratios to
    a tangent of slope 0 are infinite, but an update that is constant is straight. Where there is no
    tangent, knees are NaN, and so are the numbers of the first state.
    """
    magnitude = np.abs(pooled)
    largest = _positive(magnitude.max())
    axis = _both_scales(largest, points)
    updates, rates = update_table(opt, states, axis), np.abs(rate_table(opt, states))
    offsets = updates[:, points // 2]
    far = _positive(np.quantile(magnitude, 0.999))
    rises = np.abs(update_table(opt, states[:1], np.array([-far, far])) - offsets[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        largest_rises = np.abs(updates - offsets[:, None]).max(axis=1)
        knees = np.where((rates == 0) & (largest_rises == 0), np.inf, largest_rises / rates)
        saturation = rises.mean() / (rates[0] * far)
    constant = rates[0] == 0 and not rises.any()
    # A straight line's knee is the largest gradient, up to round-off.
    beyond = np.where(np.isnan(knees[0]), np.nan, magnitude > knees[0] * (1 + 1e-9))
    low, high = np.quantile(pooled, [0.1, 0.9])
    central = evenly_spaced(np.sort(pooled[(pooled >= low) & (pooled <= high)]), points)
    density, edges = np.histogram(pooled, BINS, (-largest, largest), density=True)
    return Clipping(
        gradients=axis,
        updates=updates,
        edges=edges,
        density=density,
        knees=knees,
        beyond_knee=float(np.mean(beyond)),
        saturation=1.0 if constant else float(saturation),
        affine_fit=_line_fit(central, update_table(opt, states[:1], central)[0]),
    )


def clipping_of_runs(optimizer: AbstractOptimizer, sampled: SampledStates) -> Clipping:
    """Clipping at the initial state, beside five states sampled later in test runs."""
    start = np.asarray(optimizer.initial_state(), float)
    # Later states come from paths and times that differ: evenly spaced over both.
    cloud = sampled.states.reshape(-1, len(start))
    later = evenly_spaced(cloud[:: max(1, sampled.gradients.shape[1] // 3)], 5)
    return measure_clipping(
        optimizer, np.concatenate([start[None], later]), sampled.pooled_gradients
    )


def clipping_facts(record: Clipping) -> Facts:
    """Saturation of the first state, as pairs of a name and a sentence."""
    names = ("Saturation", "Gradients beyond the knee")
    if np.isnan([record.saturation, record.beyond_knee]).any():
        return [(name, f"cannot tell: {NO_TANGENT}") for name in names]
    said = (
        f"at the 99.9 % gradient, updates are {number(record.saturation)} of what they would be "
        "without clipping",
        percent(record.beyond_knee, 2),
    )
    return list(zip(names, said, strict=True))


def _line_fit(x: Float[np.ndarray, " grid"], values: Float[np.ndarray, " grid"]) -> float:
    """R^2 of a least-squares line; 1 for constant values."""
    x, values = x - x.mean(), values - values.mean()
    slope = values @ x / _positive(x @ x)
    whole = float(np.sum(values**2))
    missed = float(np.sum((values - slope * x) ** 2))
    return 1 - missed / (whole if whole > 0 else 1.0)


def _both_scales(largest: float, points: int) -> Float[np.ndarray, " wide"]:
    """Symmetric axis of an odd number of points, half of them evenly spaced, half in decades.

    Gradients have heavy tails: of even spacing alone, knees would lie between the first two points.
    """
    half = points // 2
    even = np.linspace(0, largest, half - half // 2 + 1)[1:]
    decades = np.geomspace(DECADES * largest, largest, half // 2 + 1)[:-1]
    arm = np.sort(np.concatenate([even, decades]))
    return np.concatenate([-arm[::-1], [0.0], arm])


def _positive(value: float) -> float:
    return float(value) if value > 0 else 1.0
