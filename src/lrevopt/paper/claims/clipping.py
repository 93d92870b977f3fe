"""Claims about saturation: Figures 4 and 10, section 5.2, A.2 and footnote 3."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lrevopt.analysis import Dynamics, Mechanisms
from lrevopt.analysis.clipping import NO_TANGENT
from lrevopt.analysis.ranks import chance_of_ranks, rank_correlation
from lrevopt.paper.claims.verdicts import NOT_THE_TRAINING, L, M, N, R, Statistic, claim
from lrevopt.text import number, percent

FEW = 0.05
"""Share of all orders that may correlate as much, or as little, where a rank correlation decides:
four ranks have to agree, or to disagree, in full (1 of 24)."""

BY_CHANCE = f"in an order that chance gives in at most {100 * FEW:.0f} %"


@claim(
    "The update function saturates for large gradients; on linear regression less.",
    where="Figures 4, 10",
    on=(R,),
    not_on=(L,),
    there=0.5,
    absent=0.8,
    causes="Starting gradients of linear regression are heavy-tailed. Of trained GRUs, those of 64 "
    "units from the authors' start, after at most 2,000 meta-steps along the first-order "
    "meta-gradient, do not saturate there (6 of 6, elsewhere 2 of 66, `results/factorial`).",
    shown_by="the update with its saturation removed (`straight_updates` in `interventions.csv`).",
)
def saturation(mechanisms: Mechanisms) -> Statistic:
    """Update at the 99.9 % gradient over its linear extrapolation."""
    record = mechanisms.clipping
    if np.isnan(record.saturation):
        return Statistic(math.nan, f"Cannot tell: {NO_TANGENT}.")
    return Statistic(
        value=record.saturation,
        detail=f"{percent(record.beyond_knee)} of pooled gradients lie beyond the knee.",
    )


@claim(
    "The likelier large gradients are, the more clipping is used.",
    where="section 5.2",
    on=(L, R, M, N),
    there=0.8,
    absent=0,
    also=(BY_CHANCE, BY_CHANCE),
    causes="Four tasks have few ranks, and each has an input scale of its own here.",
    shown_by="saturation and gradients of each task (Figures 4 and 10).",
    joint=True,
)
def saturation_follows_task(mechanisms: Mapping[str, Mechanisms]) -> Statistic:
    """Rank correlation over tasks of the share beyond the knee with 1 - saturation."""
    records = {task: record.clipping for task, record in mechanisms.items()}
    order = sorted(records, key=lambda task: records[task].beyond_knee)
    shares = ", ".join(
        f"{task.replace('_', ' ')} {percent(records[task].beyond_knee)}" for task in order
    )
    if len(records) < 3:
        return Statistic(math.nan, f"Fewer than three tasks. Beyond the knee: {shares}.")
    beyond = [record.beyond_knee for record in records.values()]
    clipped = [1 - record.saturation for record in records.values()]
    value = rank_correlation(beyond, clipped)
    decides, by_chance = against_chance(value, beyond, clipped)
    return Statistic(
        value=value,
        decides=decides,
        detail=f"Gradients beyond the knee, from the least: {shares}. {by_chance}",
    )


def against_chance(
    value: float, first: Sequence[float], second: Sequence[float], orders: int = 1
) -> tuple[bool, str]:
    """Whether a rank correlation of these values decides, and how many of their orders have it.

    It may be the least of several independent `orders`. All of them are then at least as much, and
    each alone has to be more than chance; but one that is as little is as many times as likely.
    """
    if math.isnan(value):
        return False, "There is no rank correlation."
    sign, word = (-1, "little") if value <= 0 else (1, "much")
    share = chance_of_ranks(sign * value, first, [sign * each for each in second])
    said = "Of all orders" if orders == 1 else "Of all orders of one kind"
    if orders > 1 and sign < 0:
        share, said = 1 - (1 - share) ** orders, f"Of all lesser ones of {orders} orders"
    return share <= FEW, f"{said}, {number(100 * share)} % correlate as {word}."


@claim(
    "The saturating threshold is the same throughout state space.",
    where="section 5.2",
    on=(R,),
    there=2,
    absent=4,
    causes="A gate that adapts the learning rate moves the knee with it.",
    shown_by="knees of six states (Figure 4).",
)
def threshold_constant(mechanisms: Mechanisms) -> Statistic:
    """Largest over smallest knee of the initial and of five sampled states."""
    knees = mechanisms.clipping.knees
    if np.isnan(knees).any():
        return Statistic(math.nan, f"Cannot tell: of a state, {NO_TANGENT}.")
    return Statistic(
        value=float(knees.max() / knees.min()) if np.all(np.isfinite(knees)) else math.inf,
        detail=f"Knees lie from {number(float(knees.min()))} to {number(float(knees.max()))}.",
    )


@claim(
    "Update functions are always affine in the middle.",
    where="footnote 3",
    on=(L, R, M, N),
    there=0.99,
    absent=0.95,
    causes=f"Most gradients may already saturate the GRU. {NOT_THE_TRAINING}",
    shown_by="shares of gradients beyond the knee (Figures 4 and 10).",
)
def affine_centre(mechanisms: Mechanisms) -> Statistic:
    """R^2 of a line through the update function on the central 80 % of pooled gradients."""
    return Statistic(mechanisms.clipping.affine_fit)


@claim(
    "On MNIST the update function slopes backwards for large gradients.",
    where="A.2, Figure 10",
    on=(N,),
    there=0.02,
    absent=1e-6,  # round-off of a plateau is no bend
    causes="The paper calls its use a mystery; nothing need call for it.",
    shown_by="update functions on a logarithmic axis of 81 gradients (`dynamics.npz`).",
)
def backward_bend(dynamics: Dynamics) -> Statistic:
    """Fall of the initial state's update from its extreme to the largest gradient, lesser side."""
    falls, steady = (
        [_fall(side) for side in np.abs(updates - zero)]
        for updates, zero in zip(
            (dynamics.initial_updates, dynamics.steady_updates), dynamics.zero_updates, strict=True
        )
    )
    return Statistic(
        value=min(falls),
        detail=f"For negative gradients {number(100 * falls[0])} %, for positive "
        f"{number(100 * falls[1])} %; where each gradient is held until states rest, "
        f"{number(100 * steady[0])} % and {number(100 * steady[1])} %.",
    )


def _fall(away: np.ndarray) -> float:
    """Fall of an update function from its extreme to its last settled value, over the extreme."""
    kept = away[np.isfinite(away)]
    return float(1 - kept[-1] / kept.max()) if len(kept) and kept.max() > 0 else 0.0
