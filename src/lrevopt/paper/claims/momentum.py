"""Claims about convergence and momentum: Figures 3, 8 and 9, section 5.1, A.1 and C."""

import math

import numpy as np
from jaxtyping import Float

from lrevopt.analysis import Mechanisms
from lrevopt.analysis.linearization import modes_needed
from lrevopt.analysis.ranks import rank_correlation
from lrevopt.paper.claims.verdicts import LENGTH, WIDTH, L, M, N, R, Statistic, both, claim
from lrevopt.text import number

REACHED = 0.95
"""Share of searches that have to reach the one fixed point."""

MONOTONE, TILTED = -0.9, 0.5
"""Offsets are monotone in the shift, and slopes change by no more than this share."""

CARRIED, SPREAD_OUT = 0.9, 0.7
"""Share of the energy of the impulse response that two modes carry, or no more."""


@claim(
    "States converge: their total variance over test problems goes to zero.",
    where="Figures 3a, 8",
    on=(L, R, M),
    not_on=(N,),
    there=0.05,
    absent=0.25,
    causes="Gradients that have not died out after 200 updates, noise, or several fixed points "
    "keep states apart.",
)
def converge(mechanisms: Mechanisms) -> Statistic:
    """Variance of states at the last step over its maximum."""
    variance = mechanisms.states.variance
    top = float(variance.max())
    return Statistic(float(variance[-1]) / top if top > 0 else 0.0)


@claim(
    "Without gradient there is a single, global fixed point.",
    where="Figures 3a, 8",
    on=(L, R, M),
    there=f"1, reached by {100 * REACHED:.0f} % of searches",
    absent="any other number",
    causes="A solver finds unstable points too, and points of a slow line can pass for several.",
)
def one_fixed_point(mechanisms: Mechanisms) -> Statistic:
    """Distinct fixed points reached by a solver from 500 sampled states."""
    record = mechanisms.fixed_points
    single = record.distinct == 1
    return Statistic(
        value=float(record.distinct),
        also=None if single and record.converged_share < REACHED else single,
        detail=f"{number(100 * record.converged_share)} % of searches reached one; the speed at "
        f"the fixed point is {number(record.speed)} and its spectral radius "
        f"{number(record.spectral_radius)}.",
    )


@claim(
    "Near the fixed point the optimizer is linear.",
    where="section 5.1, C",
    on=(L, R, M),
    there=0.1,
    absent=0.3,
    causes=f"States may still be on their way after 150 updates. {WIDTH}",
)
def linear_near_fixed_point(mechanisms: Mechanisms) -> Statistic:
    """Relative error of the linearized step over the last quarter of test runs."""
    return Statistic(mechanisms.momentum.linear_error)


@claim(
    "Moving along the dominant mode shifts the update function up or down.",
    where="Figures 3b, 8",
    on=(L, R, M),
    there=f"at most {MONOTONE}, and the slope changes by no more than {100 * TILTED:.0f} %",
    absent="otherwise",
    causes=f"Where states travel far, one mode does several things at once. {WIDTH}",
)
def momentum_offset(mechanisms: Mechanisms) -> Statistic:
    """Rank correlation of the place on the dominant mode with the update at zero gradient."""
    record = mechanisms.momentum
    middle = len(record.gradients) // 2
    offsets = record.updates[:, middle]
    step = record.gradients[middle + 1] - record.gradients[middle - 1]
    slopes = (record.updates[:, middle + 1] - record.updates[:, middle - 1]) / step
    centre = slopes[len(slopes) // 2]
    # Round-off of an offset that is not there has a rank, too.
    lift = float(np.ptp(offsets))
    rise = float(np.ptp(record.updates[len(slopes) // 2]))
    if lift <= 1e-9 * max(rise, np.finfo(float).tiny):
        return Statistic(0.0, "Moving along the mode does not shift updates at all.", also=False)
    correlation = rank_correlation(record.shifts, offsets)
    change = float(np.abs(slopes - centre).max() / abs(centre)) if centre else math.inf
    return Statistic(
        value=correlation,
        also=both(correlation <= MONOTONE, change <= TILTED),
        detail=f"Offsets range over {number(lift / rise if rise else math.inf)} of the updates "
        f"that gradients cause; the slope changes by {number(100 * change)} % at most.",
    )


@claim(
    "One or two eigenmodes carry the dynamics.",
    where="Figures 3c, 8",
    on=(L, R, M),
    there=CARRIED,
    absent=SPREAD_OUT,
    causes="Conjugate pairs count as two modes; two oscillations are four.",
)
def dominant_mode(mechanisms: Mechanisms) -> Statistic:
    """Share of the impulse response's energy in the best two modes."""
    return _energy_of_two(mechanisms.momentum.energy)


@claim(
    "On MNIST momentum is spread over several modes.",
    where="Figure 9",
    on=(N,),
    there=SPREAD_OUT,
    absent=CARRIED,
    causes=f"A narrower GRU has fewer modes. {LENGTH}",
)
def many_modes(mechanisms: Mechanisms) -> Statistic:
    """Share of the impulse response's energy in the best two modes."""
    return _energy_of_two(mechanisms.momentum.energy)


def _energy_of_two(shares: Float[np.ndarray, " mode"]) -> Statistic:
    if np.isnan(shares).any():
        return Statistic(math.nan, "The Jacobian is near-defective: modes have no shares.")
    return Statistic(
        value=float(shares[min(1, len(shares) - 1)]),
        detail=f"One mode has {number(float(shares[0]))}; {modes_needed(shares, CARRIED)} are "
        f"needed for {100 * CARRIED:.0f} %.",
    )
