"""Claims about convergence and momentum: Figures 3, 8 and 9, section 5.1, A.1 and C."""

import math

import numpy as np

from lrevopt.analysis import Dynamics, Mechanisms
from lrevopt.analysis.dynamics import order_in_words
from lrevopt.paper.claims.verdicts import (
    LENGTH,
    L,
    M,
    N,
    R,
    Statistic,
    between,
    claim,
)
from lrevopt.text import number

REACHED = 0.95
"""Share of visited states that have to end in the one attractor."""

MOST = 0.5
"""Share of late states that have to end in an attractor, or nothing is said of linearity."""

IN_ORDER, CROSSED, TILTED = 0.99, 0.5, 0.5
"""Shares of the gradient axis on which shifted update functions stand in order, and the relative
change of their slope: curves that cross are not shifted."""

CARRIED, SPREAD_OUT = 0.9, 0.7
"""Share of the energy of the impulse response that two momenta carry, or no more."""

NONE_LEFT, MUCH_LEFT = 0.1, 0.3
"""Third Hankel value over the first. It is the least relative error of any optimizer of two
momenta, so that it has the thresholds of the table's other relative errors."""

BASIN = 0.05
"""Attractors in which fewer states end are not looked at."""


@claim(
    "States converge: their total variance over test problems goes to zero.",
    where="Figures 3a, 8",
    on=(L, R, M),
    not_on=(N,),
    there=0.05,
    absent=0.25,
    causes="Gradients that have not died out after 200 updates, noise, or several attractors "
    "keep states apart.",
    shown_by="basins (`dynamics.npz`): where states end when gradients are switched off.",
)
def converge(mechanisms: Mechanisms, dynamics: Dynamics | None = None) -> Statistic:
    """Variance of states at the last step over its maximum."""
    variance = mechanisms.states.variance
    top = float(variance.max())
    return Statistic(float(variance[-1]) / top if top > 0 else 0.0, _basins(dynamics))


def _basins(dynamics: Dynamics | None) -> str:
    """Where visited states end, as a sentence."""
    if dynamics is None:
        return ""
    shares = ", ".join(f"{number(100 * float(share))} %" for share in dynamics.shares)
    return (
        f"Without gradient, visited states end in {dynamics.count} attractor"
        f"{'s' * (dynamics.count != 1)}{f' ({shares})' if shares else ''}, "
        f"{number(100 * dynamics.unsettled)} % in none."
    )


@claim(
    "Without gradient there is a single, global fixed point.",
    where="Figures 3a, 8",
    on=(L, R, M),
    there=f"1, in which {100 * REACHED:.0f} % of states end",
    absent="any other number, or points of a line",
    causes="Meta-training may go on to a second attractor, of another learning rate, once the "
    "first is momentum.",
    shown_by="iteration of F(h, 0) from states of test runs, which ends in each of them "
    "(`dynamics.npz`); fits by momenta there say what each does.",
)
def one_fixed_point(dynamics: Dynamics, mechanisms: Mechanisms | None = None) -> Statistic:
    """Attractors in which states of test runs end when F(h, 0) is iterated."""
    single = dynamics.count == 1
    decided: bool | None = single
    if not dynamics.count or (single and dynamics.marginal):
        decided = None  # nothing is settled, or by round-off alone
    if single and dynamics.unsettled > 1 - REACHED:
        decided = None
    detail = [_basins(dynamics)]
    detail += [f"Attractor {place + 1}: {order_in_words(dynamics, place)}."
               for place in range(min(len(dynamics.shares), 2)) if dynamics.count > 1]  # fmt: skip
    if mechanisms is not None:
        found = mechanisms.fixed_points.distinct
        detail.append(f"A solver, which finds saddles too, finds {found} in all.")
    return Statistic(float(dynamics.count), " ".join(detail), also=decided)


@claim(
    "Near the fixed point the optimizer is linear.",
    where="section 5.1, C",
    on=(L, R, M),
    there=0.1,
    absent=0.3,
    causes="States may still be on their way after 150 updates, or gradients still be large.",
    shown_by="linearization of each late state at the attractor in which it ends "
    "(`dynamics.npz`), and the cost of making everything linear (`linear` in "
    "`interventions.csv`).",
)
def linear_near_fixed_point(dynamics: Dynamics) -> Statistic:
    """Relative error over the last quarter of test runs, each state linearized where it ends."""
    return Statistic(
        dynamics.linear_error,
        f"{number(100 * dynamics.linear_share)} % of these states end in an attractor.",
        decides=dynamics.linear_share >= MOST,
    )


@claim(
    "Moving along the dominant mode shifts the update function up or down.",
    where="Figures 3b, 8",
    on=(L, R, M),
    there=IN_ORDER,
    absent=CROSSED,
    also=(f"and the slope changes by no more than {100 * TILTED:.0f} %", "or more"),
    causes="Where states travel far, one mode does several things at once. How far the paper "
    "displaces states is not printed; ours are displaced as far as states of test runs go.",
    shown_by="the update functions of the displaced states themselves (Figures 3b and 8).",
)
def momentum_offset(mechanisms: Mechanisms) -> Statistic:
    """Share of central gradients at which updates of five displaced states stand in order."""
    record = mechanisms.momentum
    middle = len(record.gradients) // 2
    offsets = record.updates[:, middle]
    step = record.gradients[middle + 1] - record.gradients[middle - 1]
    slopes = (record.updates[:, middle + 1] - record.updates[:, middle - 1]) / step
    centre = slopes[len(slopes) // 2]
    # Round-off of an offset that is not there has an order, too.
    lift = float(np.ptp(offsets))
    rise = float(np.ptp(record.updates[len(slopes) // 2]))
    if lift <= 1e-9 * max(rise, np.finfo(float).tiny):
        return Statistic(0.0, "Moving along the mode does not shift updates at all.", also=False)
    # Up or down: the real part of a complex mode has no sense of its own, and a mode whose learning
    # rate is negative shifts updates up.
    apart = np.diff(record.updates, axis=0)
    in_order = max(np.all(apart < 0, axis=0), np.all(apart > 0, axis=0), key=np.sum)
    change = float(np.abs(slopes - centre).max() / abs(centre)) if centre else math.inf
    return Statistic(
        value=float(in_order.mean()),
        also=change <= TILTED,
        detail=f"Offsets range over {number(lift / rise if rise else math.inf)} of the updates "
        f"that gradients cause; the slope changes by {number(100 * change)} % at most.",
    )


@claim(
    "One or two eigenmodes carry the dynamics.",
    where="Figures 3c, 8",
    on=(L, R, M),
    there=NONE_LEFT,
    absent=MUCH_LEFT,
    also=(f"and two momenta carry {CARRIED} of the energy of the response", f"or {SPREAD_OUT}"),
    causes="Rosenbrock's valley may pay for momenta of several timescales, or for oscillation.",
    shown_by="fits of the impulse response by one and by two momenta (`dynamics.npz`), and the "
    "cost of keeping one, two or four modes (`interventions.csv`).",
)
def dominant_mode(dynamics: Dynamics) -> Statistic:
    """Third Hankel value over the first, largest over attractors in which 5 % of states end."""
    third, energy = _order(dynamics)
    return Statistic(
        third, also=between(energy, CARRIED, SPREAD_OUT), detail=_order_detail(dynamics)
    )


@claim(
    "On MNIST momentum is spread over several modes.",
    where="Figure 9",
    on=(N,),
    there=MUCH_LEFT,
    absent=NONE_LEFT,
    also=(f"and two momenta carry at most {SPREAD_OUT} of the energy of the response",
          f"or {CARRIED}"),
    causes="One of 32 units has as few (third Hankel value 0.007, `results/mnist/units_32`), so it "
    f"is not the width alone. {LENGTH}",
    shown_by="fits of the impulse response by one and by two momenta (`dynamics.npz`), and the "
    "cost of keeping one, two or four modes (`interventions.csv`).",
)  # fmt: skip
def many_modes(dynamics: Dynamics) -> Statistic:
    """Third Hankel value over the first, largest over attractors in which 5 % of states end."""
    third, energy = _order(dynamics)
    return Statistic(
        third, also=between(energy, SPREAD_OUT, CARRIED), detail=_order_detail(dynamics)
    )


def _order(dynamics: Dynamics) -> tuple[float, float]:
    """Largest third Hankel value over the first, and least energy that two momenta carry."""
    large = dynamics.shares >= BASIN
    if not large.any():
        return math.nan, math.nan
    energy = 1 - dynamics.two_residual[large] ** 2
    return float(dynamics.hankel[large, 2].max()), float(energy.min())


def _order_detail(dynamics: Dynamics) -> str:
    return " ".join(
        f"Attractor {place + 1}: {order_in_words(dynamics, place)}."
        for place in np.flatnonzero(dynamics.shares >= BASIN).tolist()
    )
