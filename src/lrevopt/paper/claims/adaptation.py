"""Claims about adaptation to large gradients: Figures 6 and 12, section 5.4 and A.4."""

import math

import numpy as np

from lrevopt.checks import required
from lrevopt.paper.claims.verdicts import Measured, RunNumbers, between, both
from lrevopt.text import number

ALL_POINTS, MANY_POINTS = 0.95, 0.8
SMOOTH, ROUGH = 0.1, 0.3
FALLS, RISES = 0.8, 1.0
ALIKE, UNLIKE = 0.25, 0.5
MATCHES, FAR = 2.0, 3.0
SEVERAL, ONE = 3.0, 1.0
LARGE_GRADIENTS = 0.1
"""Held gradients of at least this share of the largest are large."""


def s_curve(numbers: RunNumbers) -> Measured:
    """Share of held gradients with exactly one fixed point, converged and attracting."""
    record = required(numbers.mechanisms).adaptation
    single = (record.distinct == 1) & record.converged & (record.spectral_radius < 1)
    share, points = float(single.mean()), record.points
    # Each inner point against the middle of its neighbours: a curve in g* is smooth.
    missed = np.linalg.norm(points[1:-1] - (points[:-2] + points[2:]) / 2, axis=1)
    length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    residual = float(missed.max()) / length if length > 0 else 0.0
    return Measured(
        value=share,
        holds=both(between(share, ALL_POINTS, MANY_POINTS), between(residual, SMOOTH, ROUGH)),
        detail=f"No point is further from the middle of its neighbours than "
        f"{number(100 * residual)} % of the curve's length.",
    )


def rate_falls(numbers: RunNumbers) -> Measured:
    """Learning rate at the largest held gradient over that at zero, the larger of both arms."""
    rates = required(numbers.mechanisms).adaptation.rates
    centre = float(rates[len(rates) // 2])
    if centre <= 0:
        return Measured(math.nan, None, "The learning rate at the centre is not positive.")
    ends = rates[[0, -1]] / centre
    worst, gap = float(ends.max()), float(abs(ends[0] - ends[1]))
    return Measured(
        value=worst,
        holds=both(between(worst, FALLS, RISES), between(gap, ALIKE, UNLIKE)),
        detail=f"At the negative end {number(float(ends[0]))}, at the positive "
        f"{number(float(ends[1]))} of the rate at zero.",
    )


def rate_floor(numbers: RunNumbers) -> Measured:
    """Least learning rate under held gradients over that of tuned momentum."""
    least = float(required(numbers.mechanisms).adaptation.rates.min())
    tuned = float(numbers.tuning["momentum"].best["learning_rate"])
    ratio = least / tuned
    factor = max(ratio, 1 / ratio) if ratio > 0 else math.inf
    return Measured(
        value=ratio,
        holds=between(factor, MATCHES, FAR),
        detail=f"{number(least)} against {number(tuned)}.",
    )


def adapts_after_several(numbers: RunNumbers) -> Measured:
    """Steps of a large held gradient until half the way to its fixed point is covered; median."""
    record = required(numbers.mechanisms).adaptation
    sizes = np.abs(record.gradients)
    steps = float(np.median(record.half_steps[sizes >= LARGE_GRADIENTS * sizes.max()]))
    if math.isinf(steps):
        return Measured(steps, None, "Half the way is not covered within the run.")
    return Measured(steps, between(steps, SEVERAL, ONE))
