"""Claims about adaptation to large gradients: Figures 6 and 12, section 5.4 and A.4."""

import math
from collections.abc import Mapping

import numpy as np

from lrevopt.analysis import Mechanisms
from lrevopt.paper.claims.verdicts import LENGTH, L, M, R, Statistic, between, claim
from lrevopt.text import number
from lrevopt.tuning.random_search import TuningResult

SMOOTH, ROUGH = 0.1, 0.3
"""Distance of a point from the middle of its neighbours, as a share of the curve's length."""

ALIKE, UNLIKE = 0.25, 0.5
"""Difference of both arms, as a share of the learning rate at zero."""

MATCHES, FAR = 2.0, 3.0
"""Factor between the least learning rate and that of tuned momentum."""

LARGE_GRADIENTS = 0.1
"""Held gradients of at least this share of the largest are large."""


@claim(
    "Each held gradient has one attracting fixed point, on an S-curve.",
    where="Figures 6a, 12",
    on=(L, R, M),
    there=0.95,
    absent=0.8,
    also=(
        f"and no point off its neighbours' middle by more than {100 * SMOOTH:.0f} % of the length",
        f"or {100 * ROUGH:.0f} %",
    ),
    causes="A saturated GRU creeps: the largest gradients have no point that a search reaches, or "
    "several.",
)
def s_curve(mechanisms: Mechanisms) -> Statistic:
    """Share of held gradients with exactly one fixed point, converged and attracting."""
    record = mechanisms.adaptation
    single = (record.distinct == 1) & record.converged & (record.spectral_radius < 1)
    points = record.points
    # Each inner point against the middle of its neighbours: a curve in g* is smooth.
    missed = np.linalg.norm(points[1:-1] - (points[:-2] + points[2:]) / 2, axis=1)
    length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    residual = float(missed.max()) / length if length > 0 else 0.0
    return Statistic(
        value=float(single.mean()),
        also=between(residual, SMOOTH, ROUGH),
        detail=f"No point is further from the middle of its neighbours than "
        f"{number(100 * residual)} % of the curve's length.",
    )


@claim(
    "The learning rate falls along both arms, symmetrically.",
    where="Figures 6c, 12",
    on=(L, R, M),
    there=0.8,
    absent=1,
    also=(f"and arms differ by no more than {ALIKE}", f"or by {UNLIKE}"),
    causes=f"Nothing makes a GRU odd in its input but training on gradients of both signs. "
    f"{LENGTH}",
)
def rate_falls(mechanisms: Mechanisms) -> Statistic:
    """Learning rate at the largest held gradient over that at zero, larger of both arms."""
    rates = mechanisms.adaptation.rates
    centre = float(rates[len(rates) // 2])
    if centre <= 0:
        return Statistic(math.nan, "The learning rate at the centre is not positive.")
    negative, positive = (float(rates[end]) / centre for end in (0, -1))
    return Statistic(
        value=max(negative, positive),
        also=between(abs(negative - positive), ALIKE, UNLIKE),
        detail=f"At the negative end {number(negative)}, at the positive {number(positive)} of "
        "the rate at zero.",
    )


@claim(
    "The smallest learning rate matches that of tuned momentum.",
    where="A.4, Figure 12",
    on=(L, R, M),
    there=f"within a factor of {MATCHES:.0f}",
    absent=f"beyond {FAR:.0f}",
    causes="The slope at zero gradient of a state that only large gradients hold is rarely used.",
)
def rate_floor(mechanisms: Mechanisms, tuning: Mapping[str, TuningResult]) -> Statistic:
    """Least learning rate under held gradients over that of tuned momentum."""
    least = float(mechanisms.adaptation.rates.min())
    tuned = float(tuning["momentum"].best["learning_rate"])
    ratio = least / tuned
    factor = max(ratio, 1 / ratio) if ratio > 0 else math.inf
    return Statistic(
        value=ratio,
        also=between(factor, MATCHES, FAR),
        detail=f"{number(least)} against {number(tuned)}.",
    )


@claim(
    "It acts after several large gradients in a row.",
    where="A.4",
    on=(L, R, M),
    there=3,
    absent=1,
    causes="Gates that a large gradient opens fully replace the state at once.",
)
def adapts_after_several(mechanisms: Mechanisms) -> Statistic:
    """Steps of a large held gradient until half the way to its fixed point is covered."""
    record = mechanisms.adaptation
    sizes = np.abs(record.gradients)
    steps = float(np.median(record.half_steps[sizes >= LARGE_GRADIENTS * sizes.max()]))
    if math.isinf(steps):
        return Statistic(steps, "Half the way is not covered within the run.", decides=False)
    return Statistic(steps)
