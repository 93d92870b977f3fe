"""Claims about the optimizer that is momentum, and how it came to be: Figures 14 and 15."""

import math

import numpy as np
from jaxtyping import Float

from lrevopt.analysis.ranks import rank_correlation
from lrevopt.checks import required
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.claims.verdicts import Measured, RunNumbers, between, both
from lrevopt.text import number

NEARLY_ALL, NOT_ALL = 0.9, 0.7
SAME_CURVE, OTHER_CURVE = 0.1, 0.5
RATE, OTHER_RATE = 0.2, 0.5
TIMESCALE, OTHER_TIMESCALE = 0.05, 0.1
NEAR, STILL_FAR = 0.25, 1.0


def recovers_momentum(numbers: RunNumbers) -> Measured:
    """Share of the variance of visited states in their first principal component."""
    record = required(numbers.momentum_mimic)
    share = float(record.explained_variance[0])
    distance = record.gap("learned", "momentum")
    return Measured(
        value=share,
        holds=both(between(share, NEARLY_ALL, NOT_ALL), between(distance, SAME_CURVE, OTHER_CURVE)),
        detail=f"Its loss curve is {number(distance)} decades from tuned momentum's (root mean "
        f"square over steps); it is the snapshot after {int(record.step)} meta-steps.",
    )


def mode_is_optimal(numbers: RunNumbers) -> Measured:
    """Relative difference of the dominant mode's learning rate from the analytic optimum."""
    record = required(numbers.momentum_mimic)
    rate, timescale = record.dominant_learning_rate, record.dominant_momentum
    best_rate, best = (float(record.optimum[name]) for name in ("learning_rate", "momentum"))
    off_rate, off = abs(rate / best_rate - 1), abs(timescale / best - 1)
    return Measured(
        value=off_rate,
        holds=both(between(off_rate, RATE, OTHER_RATE), between(off, TIMESCALE, OTHER_TIMESCALE)),
        detail=f"Its timescale differs by {number(100 * off)} %: ({number(rate)}, "
        f"{number(timescale)}) against ({number(best_rate)}, {number(best)}).",
    )


def one_mode_suffices(numbers: RunNumbers) -> Measured:
    """Root mean square over steps of log10 mean loss of one mode alone over the whole's."""
    distance = required(numbers.momentum_mimic).gap("one_mode", "learned")
    return Measured(distance, between(distance, SAME_CURVE, OTHER_CURVE))


def meta_path(numbers: RunNumbers) -> Measured:
    """Least distance of the dominant mode to the optimum on its path, over that at the start."""
    record = required(numbers.meta_dynamics)
    # A readout that is still zero gives no rate, and no distance.
    moves = np.abs(record.dominant_learning_rates) > 0
    if not moves.any():
        return Measured(math.nan, None, "No snapshot moves parameters.")
    steps, away = record.steps[moves], optimum_distance(record)[moves]
    trend = rank_correlation(steps, away)
    nearest = int(np.argmin(away))
    ratio = float(away[nearest] / away[0]) if away[0] > 0 else math.nan
    return Measured(
        value=ratio,
        holds=between(ratio, NEAR, STILL_FAR),
        detail=f"Nearest after {int(steps[nearest])} meta-steps, at {number(away[nearest])} "
        f"of a factor e; at the last snapshot {number(float(away[-1]))}. Rank correlation of the "
        f"distance with the meta-step: {number(trend)}.",
    )


def optimum_distance(record: MetaDynamics) -> Float[np.ndarray, " snapshot"]:
    """Distance of the dominant mode to the optimum: in log learning rate and log (1 - momentum)."""
    best_rate, best = (float(record.optimum[name]) for name in ("learning_rate", "momentum"))
    tiny = np.finfo(float).tiny
    rates = np.log(np.maximum(np.abs(record.dominant_learning_rates), tiny) / best_rate)
    forgetting = np.maximum(np.abs(1 - record.dominant_momenta), 1e-12)
    return np.hypot(rates, np.log(forgetting / (1 - best)))
