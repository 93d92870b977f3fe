"""Claims about networks: parameter types and the line of fixed points (Figures 7 and 13)."""

import math

import numpy as np

from lrevopt.analysis import Manifold, ParameterTypes
from lrevopt.paper.claims.clipping import FEW, against_chance
from lrevopt.paper.claims.verdicts import LENGTH, TRAINED, N, Statistic, between, both, claim
from lrevopt.text import number

LATER = 2
"""The last layers are the later ones."""

LONG, SHORT = 0.1, 0.05
"""Extent of the line over that of sampled states."""

STAYS, GOES = 0.5, 0.2
"""Share of the extent that is left after another run."""

NEAR_ONE, OFF_ONE = 0.02, 0.1
"""Distance of an eigenvalue from 1."""

FILLED, BROKEN = 0.5, 0.75
"""Largest gap between neighbours over the length of the line. Any two isolated fixed points lie on
a line, and three that are far apart may have a participation ratio near 1, too."""


@claim(
    "States separate by layer, and by weight or bias.",
    where="Figure 7a",
    on=(N,),
    there=0.5,
    absent=0.1,
    causes=f"The difference can only enter through gradients. {LENGTH}",
    shown_by="exchanged and replayed gradients (`gradient_replay.npz`).",
)
def types_separate(parameter_types: ParameterTypes) -> Statistic:
    """Distance between mean states of groups over that between parameters of one, maximum."""
    separation = parameter_types.separation
    last = number(float(separation[-1]))
    return Statistic(float(separation.max()), f"At the end of the run {last}.")


@claim(
    "Biases have much smaller learning rates than weights.",
    where="Figure 7b",
    on=(N,),
    there=0.5,
    absent=1,
    causes=f"Rates are those of mean states, as in the paper. {TRAINED}",
    shown_by="exchanged and replayed gradients (`gradient_replay.npz`).",
)
def bias_slower(parameter_types: ParameterTypes) -> Statistic:
    """Learning rate of biases over that of weights, median over steps."""
    slowness = parameter_types.bias_slowness
    return Statistic(
        value=float(np.median(slowness)),
        detail=f"From {number(float(slowness.min()))} to {number(float(slowness.max()))} along "
        "the trajectories.",
    )


@claim(
    "Later layers have larger learning rates than earlier ones.",
    where="Figure 7b",
    on=(N,),
    there=0.8,
    absent=0,
    also=(f"each kind's order alone one that chance gives in at most {100 * FEW:.0f} %",
          f"a lesser of the kinds' orders that chance gives in at most {100 * FEW:.0f} %"),
    causes=f"Four layers have few ranks. {TRAINED}",
    shown_by="exchanged and replayed gradients (`gradient_replay.npz`).",
)  # fmt: skip
def later_faster(parameter_types: ParameterTypes) -> Statistic:
    """Rank correlation of depth with learning rate, lesser of weights' and biases'."""
    found = parameter_types.depth_correlation
    each = ", ".join(f"{kind} {number(float(value))}" for kind, value in found.items())
    value = float(np.min(list(found.values()) or [math.nan]))  # NaN if any is
    layers = range(len(parameter_types.bias_gradients))
    decides, by_chance = against_chance(value, layers, layers, orders=len(found))
    return Statistic(value, f"By type: {each}. {by_chance}", decides=decides)


@claim(
    "At the start biases have larger gradients than weights in the later layers.",
    where="Figure 7c",
    on=(N,),
    there="above 1",
    absent="1 or less",
    causes="It depends on how weights are drawn, which the paper does not say.",
    shown_by="gradients of each layer at the start (Figure 7c).",
)
def bias_gradients(parameter_types: ParameterTypes) -> Statistic:
    """Median first |gradient| of biases over that of weights, least of the last two layers."""
    ratios = {layer: float(ratio) for layer, ratio in parameter_types.bias_gradients.items()}
    least = min(list(ratios.values())[-LATER:], default=math.nan)
    each = ", ".join(f"{layer} {number(ratio)}" for layer, ratio in ratios.items())
    return Statistic(
        value=least,
        also=None if math.isnan(least) else least > 1,
        detail=f"By layer: {each}.",
    )


@claim(
    "Without gradient the fixed points form a one-dimensional manifold.",
    where="Figure 13a",
    on=(N,),
    there=1.5,
    absent=2,
    also=(
        f"extended over at least {100 * LONG:.0f} % of sampled states, {100 * STAYS:.0f} % of "
        f"which stays after another run, with an eigenvalue within {NEAR_ONE} of 1 and no gap over "
        f"{100 * FILLED:.0f} % of the length",
        f"or at most {100 * SHORT:.0f} %, {100 * GOES:.0f} %, none within {OFF_ONE}, or a gap of "
        f"{100 * BROKEN:.0f} %",
    ),
    causes=f"A line of fixed points takes a balance that training finds late. {LENGTH}",
    shown_by="the gap between neighbours, which a line does not have (`manifold.npz`), and the "
    "proof of an isolated fixed point (`certificates.npz`).",
)
def manifold(manifold: Manifold) -> Statistic:
    """Participation ratio of approximate fixed points; 1 for a line."""
    if not len(manifold.speeds):
        return Statistic(math.nan, "No search ended in an approximate fixed point.", also=False)
    gap = float(np.median(np.abs(manifold.nearest - 1)))
    return Statistic(
        value=manifold.participation_ratio,
        also=both(
            between(manifold.extent, LONG, SHORT),
            between(manifold.persistence, STAYS, GOES),
            between(gap, NEAR_ONE, OFF_ONE),
            between(manifold.largest_gap, FILLED, BROKEN),
        ),
        detail=f"They extend over {number(100 * manifold.extent)} % of what sampled states do, "
        f"{number(100 * manifold.persistence)} % of which is left after another run; the "
        f"eigenvalue nearest to 1 is {number(gap)} away (median); speeds span "
        f"{number(manifold.speed_decades)} decades; the largest gap between neighbours is "
        f"{number(100 * manifold.largest_gap)} % of the length.",
    )


@claim(
    "The learning rate varies along the manifold.",
    where="Figure 13b",
    on=(N,),
    there=2,
    absent=1.2,
    causes=LENGTH,
    shown_by="the gap between approximate fixed points (`manifold.npz`).",
)
def manifold_rate(manifold: Manifold) -> Statistic:
    """Largest over smallest learning rate of the approximate fixed points."""
    broken = between(manifold.largest_gap, FILLED, BROKEN) is False
    if broken or not manifold.extent > SHORT:  # also NaN
        return Statistic(manifold.rate_ratio, "There is no line to move along.", decides=False)
    return Statistic(manifold.rate_ratio)
