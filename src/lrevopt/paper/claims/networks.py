"""Claims about networks: parameter types and the line of fixed points (Figures 7 and 13)."""

import math

import numpy as np

from lrevopt.checks import required
from lrevopt.paper.claims.verdicts import Measured, RunNumbers, between, both
from lrevopt.text import number

APART, ALIKE = 0.5, 0.1
MUCH_SLOWER, NOT_SLOWER = 0.5, 1.0
RISES, DOES_NOT = 0.8, 0.0
LATER = 2
"""The last layers are the later ones."""
LINE, MORE = 1.5, 2.0
LONG, SHORT = 0.1, 0.05
STAYS, GOES = 0.5, 0.2
NEAR_ONE, OFF_ONE = 0.02, 0.1
CHANGES, SAME = 2.0, 1.2


def types_separate(numbers: RunNumbers) -> Measured:
    """Distance between mean states of groups over that between parameters of one; maximum."""
    separation = required(numbers.parameter_types).separation
    largest = float(separation.max())
    return Measured(
        value=largest,
        holds=between(largest, APART, ALIKE),
        detail=f"At the end of the run {number(float(separation[-1]))}.",
    )


def bias_slower(numbers: RunNumbers) -> Measured:
    """Learning rate of biases over that of weights, median over steps."""
    slowness = required(numbers.parameter_types).bias_slowness
    middle = float(np.median(slowness))
    return Measured(
        value=middle,
        holds=between(middle, MUCH_SLOWER, NOT_SLOWER),
        detail=f"From {number(float(slowness.min()))} to {number(float(slowness.max()))} along "
        "the trajectories.",
    )


def later_faster(numbers: RunNumbers) -> Measured:
    """Rank correlation of depth with learning rate; the lesser of weights' and biases'."""
    found = required(numbers.parameter_types).depth_correlation
    least = min(found.values(), default=math.nan)
    said = ", ".join(f"{kind} {number(float(value))}" for kind, value in found.items())
    return Measured(float(least), between(least, RISES, DOES_NOT), f"By type: {said}.")


def bias_gradients(numbers: RunNumbers) -> Measured:
    """Median first |gradient| of biases over that of weights; least of the later layers."""
    ratios = {
        layer: float(r) for layer, r in required(numbers.parameter_types).bias_gradients.items()
    }
    later = list(ratios.values())[-LATER:]
    least = min(later, default=math.nan)
    said = ", ".join(f"{layer} {number(ratio)}" for layer, ratio in ratios.items())
    return Measured(least, None if math.isnan(least) else least > 1, f"By layer: {said}.")


def manifold(numbers: RunNumbers) -> Measured:
    """Participation ratio of approximate fixed points without gradient: 1 for a line."""
    record = required(numbers.manifold)
    if not len(record.speeds):
        return Measured(math.nan, False, "No search ended in an approximate fixed point.")
    gap = float(np.median(np.abs(record.nearest - 1)))
    extended = both(
        between(record.extent, LONG, SHORT),
        between(record.persistence, STAYS, GOES),
        between(gap, NEAR_ONE, OFF_ONE),
    )
    ratio = record.participation_ratio
    return Measured(
        value=ratio,
        holds=both(extended, between(ratio, LINE, MORE)),
        detail=f"They extend over {number(100 * record.extent)} % of what visited states do, "
        f"{number(100 * record.persistence)} % of which is left after another run; the eigenvalue "
        f"nearest to 1 is {number(gap)} away (median); speeds span "
        f"{number(record.speed_decades)} decades.",
    )


def manifold_rate(numbers: RunNumbers) -> Measured:
    """Largest over smallest learning rate along the approximate fixed points."""
    record = required(numbers.manifold)
    if not record.extent > SHORT:  # also NaN
        return Measured(record.rate_ratio, None, "There is no line to move along.")
    return Measured(record.rate_ratio, between(record.rate_ratio, CHANGES, SAME))
