"""Claims about convergence and momentum: Figures 3, 8 and 9, section 5.1, A.1 and C."""

import math

import numpy as np
from jaxtyping import Float

from lrevopt.analysis.linearization import modes_needed
from lrevopt.analysis.ranks import rank_correlation
from lrevopt.checks import required
from lrevopt.paper.claims.verdicts import Measured, RunNumbers, between, both
from lrevopt.text import number

VARIANCE_GONE, VARIANCE_LEFT = 0.05, 0.25
REACHED = 0.95
LINEAR, NOT_LINEAR = 0.1, 0.3
MONOTONE, TILTED = -0.9, 0.5
CARRIED, SPREAD_OUT = 0.9, 0.7


def converge(numbers: RunNumbers) -> Measured:
    """Variance of states over parameters and problems at the last step, over its maximum."""
    variance = required(numbers.mechanisms).states.variance
    top = float(variance.max())
    left = float(variance[-1]) / top if top > 0 else 0.0
    return Measured(left, between(left, VARIANCE_GONE, VARIANCE_LEFT))


def one_fixed_point(numbers: RunNumbers) -> Measured:
    """Number of distinct fixed points without gradient that visited states lead a solver to."""
    record = required(numbers.mechanisms).fixed_points
    count, share = record.distinct, float(record.converged_share)
    holds: bool | None = count == 1
    if holds and share < REACHED:
        holds = None
    return Measured(
        value=float(count),
        holds=holds,
        detail=f"{number(100 * share)} % of searches reached one; the speed at the convergence "
        f"point is {number(record.speed)} and its spectral radius "
        f"{number(record.spectral_radius)}.",
    )


def linear_near_fixed_point(numbers: RunNumbers) -> Measured:
    """Error of the linearized step over the last quarter of test runs, over the distance to h*."""
    error = float(required(numbers.mechanisms).momentum.linear_error)
    return Measured(error, between(error, LINEAR, NOT_LINEAR))


def momentum_offset(numbers: RunNumbers) -> Measured:
    """Rank correlation of the place on the dominant mode with the update at zero gradient."""
    record = required(numbers.mechanisms).momentum
    middle = len(record.gradients) // 2
    offsets = record.updates[:, middle]
    step = record.gradients[middle + 1] - record.gradients[middle - 1]
    slopes = (record.updates[:, middle + 1] - record.updates[:, middle - 1]) / step
    centre = slopes[len(slopes) // 2]
    # Round-off of an offset that is not there has a rank, too.
    lift = float(np.ptp(offsets))
    rise = float(np.ptp(record.updates[len(slopes) // 2]))
    if lift <= 1e-9 * max(rise, np.finfo(float).tiny):
        return Measured(0.0, False, "Moving along the mode does not shift updates at all.")
    correlation = rank_correlation(record.shifts, offsets)
    change = float(np.abs(slopes - centre).max() / abs(centre)) if centre else math.inf
    return Measured(
        value=correlation,
        holds=both(correlation <= MONOTONE, change <= TILTED),
        detail=f"Offsets range over {number(lift / rise if rise else math.inf)} of the updates "
        f"that gradients cause; the slope changes by {number(100 * change)} % at most.",
    )


def dominant_mode(numbers: RunNumbers) -> Measured:
    """Share of the energy of the impulse response in the best two modes."""
    return _energy(required(numbers.mechanisms).momentum.energy, there=CARRIED, absent=SPREAD_OUT)


def many_modes(numbers: RunNumbers) -> Measured:
    """The same share; that it is small is the claim."""
    return _energy(required(numbers.mechanisms).momentum.energy, there=SPREAD_OUT, absent=CARRIED)


def _energy(shares: Float[np.ndarray, " mode"], there: float, absent: float) -> Measured:
    if np.isnan(shares).any():
        return Measured(math.nan, None, "The Jacobian is near-defective: modes have no shares.")
    two = float(shares[min(1, len(shares) - 1)])
    return Measured(
        value=two,
        holds=between(two, there, absent),
        detail=f"One mode has {number(float(shares[0]))}; {modes_needed(shares, CARRIED)} are "
        f"needed for {100 * CARRIED:.0f} %.",
    )
