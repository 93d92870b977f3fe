"""Claims about adaptation to large gradients: Figures 6 and 12, section 5.4 and A.4."""

import math
from collections.abc import Mapping

import numpy as np

from lrevopt.analysis import Dynamics, Mechanisms
from lrevopt.paper.claims.verdicts import UNTUNED, L, M, R, Statistic, between, claim
from lrevopt.studies.interventions import Interventions
from lrevopt.text import number
from lrevopt.tuning.random_search import TuningResult

SMOOTH, ROUGH = 0.1, 0.3
"""Distance of a point from the middle of its neighbours, as a share of the curve's length."""

ALIKE, UNLIKE = 0.25, 0.5
"""Difference of both arms, as a share of the learning rate at zero."""

MATCHES, FAR = 1.25, 2.0
"""Factor between the least learning rate and that of tuned momentum. Two rates that differ by a
factor of 2 do not match: momentum at twice its tuned rate diverges on linear regression."""

SETTLED = 0.8
"""Share of held gradients under which states have to settle, or nothing is said of the others."""

REACHES = 0.1
"""Arms count if they converge at least up to this share of the largest held gradient."""

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
    causes="Large gradients saturate a GRU's gates, so that it creeps.",
    shown_by="iteration under each held gradient from eight states (`dynamics.npz`): small "
    "gradients leave as many attractors as there are without gradient.",
)
def s_curve(dynamics: Dynamics, mechanisms: Mechanisms) -> Statistic:
    """Share with exactly one attractor of the held gradients under which all states settle."""
    settled = dynamics.held_settled
    record = mechanisms.adaptation
    points = record.points[record.converged]
    # Each inner point against the middle of its neighbours: a curve in g* is smooth.
    missed = np.linalg.norm(points[1:-1] - (points[:-2] + points[2:]) / 2, axis=1)
    length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    residual = float(missed.max(initial=0.0)) / length if length > 0 else 0.0
    single = dynamics.held_attractors[settled] == 1
    return Statistic(
        value=float(single.mean()) if settled.any() else math.nan,
        also=between(residual, SMOOTH, ROUGH),
        detail=f"States settle under {int(settled.sum())} of {len(settled)} held gradients; under "
        f"{int(single.sum())} of these in one attractor. No converged point is further from the "
        f"middle of its neighbours than {number(100 * residual)} % of the curve's length.",
        decides=bool(settled.mean() >= SETTLED),
    )


@claim(
    "The learning rate falls along both arms, symmetrically.",
    where="Figures 6c, 12",
    on=(L, R, M),
    there=0.8,
    absent=1,
    also=(f"and arms differ by no more than {ALIKE}", f"or by {UNLIKE}"),
    causes="Nothing makes a GRU odd in its input but training on gradients of both signs.",
    shown_by="the learning rates along both arms themselves (Figures 6c and 12), which differ "
    "from seed to seed.",
)
def rate_falls(mechanisms: Mechanisms) -> Statistic:
    """Learning rate at the largest converged held gradient over that at zero, larger arm."""
    record = mechanisms.adaptation
    rates, middle = record.rates, len(record.rates) // 2
    centre = float(rates[middle])
    if centre <= 0:
        return Statistic(math.nan, "The learning rate at the centre is not positive.")
    # Ends are where both signs of a gradient have a converged point.
    both_ends = record.converged[:middle][::-1] & record.converged[middle + 1 :]
    if not both_ends.any():
        return Statistic(math.nan, "No held gradient has converged points of both signs.")
    place = int(np.flatnonzero(both_ends)[-1]) + 1
    negative, positive = (float(rates[middle + sign * place]) / centre for sign in (-1, 1))
    reach = float(record.gradients[middle + place] / record.gradients[-1])
    return Statistic(
        value=max(negative, positive),
        also=between(abs(negative - positive), ALIKE, UNLIKE),
        detail=f"At the negative end {number(negative)}, at the positive {number(positive)} of "
        f"the rate at zero; both arms converge up to {number(reach)} of the largest gradient.",
        decides=reach >= REACHES,
    )


@claim(
    "The smallest learning rate matches that of tuned momentum.",
    where="A.4, Figure 12",
    on=(L, R, M),
    there=f"within a factor of {MATCHES}",
    absent=f"beyond {FAR}",
    causes="The slope at zero gradient of a state that only large gradients hold is rarely used. "
    "On linear regression 21 of 36 trained GRUs have it from input weights of deviation 1, and "
    "1 of 36 from the authors' start (`results/factorial`).",
    shown_by="updates without saturation (`interventions.csv`). Tuned momentum has no saturation, "
    "and its learning rate must suit the largest gradients, too.",
)
def rate_floor(
    mechanisms: Mechanisms,
    tuning: Mapping[str, TuningResult],
    interventions: Interventions | None = None,
) -> Statistic:
    """Least learning rate at converged held points over that of tuned momentum."""
    record = mechanisms.adaptation
    if not record.converged.any():
        return Statistic(math.nan, "No held gradient has a converged point.", decides=False)
    if "momentum" not in tuning:
        return Statistic(math.nan, UNTUNED, decides=False)
    least = float(record.rates[record.converged].min())
    tuned = float(tuning["momentum"].best["learning_rate"])
    ratio = least / tuned
    factor = max(ratio, 1 / ratio) if ratio > 0 else math.inf
    return Statistic(
        value=ratio,
        also=between(factor, MATCHES, FAR),
        detail=f"{number(least)} against {number(tuned)}.{_without_saturation(interventions)}",
    )


def _of_momentum(tuning: Mapping[str, TuningResult]) -> str:
    """How long a state keeps what it had that adapts nothing."""
    if "momentum" not in tuning:
        return UNTUNED
    momentum = float(tuning["momentum"].best["momentum"])
    half = math.log(0.5) / math.log(momentum) if 0 < momentum < 1 else 0.0
    return f"The state of tuned momentum, which adapts nothing, takes {number(half)} steps."


def _without_saturation(interventions: Interventions | None) -> str:
    """What straight updates cost, as a sentence after a space; "" where it was not measured."""
    if interventions is None or "straight_updates" not in interventions.names:
        return ""
    place = interventions.names.index("straight_updates")
    diverged, ratio = int(interventions.diverged[place]), float(interventions.log_ratios[place])
    costs = [f"{diverged} of {len(interventions.original)} test problems diverge"] * bool(diverged)
    if math.isfinite(ratio):
        on = "on the others " * bool(diverged)
        costs.append(f"{on}the meta-objective is {number(math.exp(ratio))} times as large")
    return f" Without saturation of its updates {', and '.join(costs)}."


@claim(
    "It acts after several large gradients in a row.",
    where="A.4",
    on=(L, R, M),
    there=3,
    absent=1,
    causes="Gates that a large gradient opens fully replace the state at once.",
    shown_by="learning rates along runs under held gradients (`dynamics.npz`).",
)
def adapts_after_several(dynamics: Dynamics, tuning: Mapping[str, TuningResult]) -> Statistic:
    """Steps of a large held gradient until half of the learning rate's fall is done, median."""
    sizes = np.abs(dynamics.held)
    large = sizes >= LARGE_GRADIENTS * sizes.max()
    steps = dynamics.rate_half_steps[large]
    falls = np.isfinite(steps) & (dynamics.rate_change[large] < 1)
    changes = dynamics.rate_change[large]
    said = (
        f"Learning rates end at {number(float(changes.min()))} to {number(float(changes.max()))} "
        f"of what they were. {_of_momentum(tuning)}"
    )
    if 2 * int(falls.sum()) < len(steps):
        why = "Most large gradients do not lower the learning rate by 10 %."
        return Statistic(math.nan, f"{why} {said}", decides=False)
    return Statistic(float(np.median(steps[falls])), said)
