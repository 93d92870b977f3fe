"""Claims about the optimizer that is momentum, and how it came to be: Figures 14 and 15."""

import math

import numpy as np
from jaxtyping import Float

from lrevopt.analysis.ranks import rank_correlation
from lrevopt.paper import contents as contents  # registers the records of appendix B
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.paper.claims.verdicts import L, Statistic, between, claim
from lrevopt.text import number

SAME_CURVE, OTHER_CURVE = 0.1, 0.5
"""Distance of two loss curves in decades: medians over problems, first 100 updates."""

SAME_SCORE, OTHER_SCORE = 0.1, 0.5
"""Relative difference of two meta-objectives."""

MOMENTUM, OTHER_MOMENTUM = 0.05, 0.1
"""Relative difference of two momenta. The paper calls an eigenvalue a timescale."""

NEAR, FAR = 0.25, 1.0
"""Distance of a mode to the optimum, see `optimum_distance`. A path that starts from almost no
optimizer has gone most of its way to whatever learns at all."""


@claim(
    "Early in training on linear regression the GRU is momentum.",
    where="Figure 14a",
    on=(L,),
    there=0.9,
    absent=0.7,
    also=(
        f"and the loss curve within {SAME_CURVE} decades of tuned momentum's",
        f"or {OTHER_CURVE} decades",
    ),
    causes="Equal means do not make equal curves: the first twenty updates make the mean, and a "
    "momentum nearer 1 than that of tuned momentum falls more slowly later.",
    shown_by="meta-objective and loss curve of every snapshot (`snapshots.csv`).",
)
def recovers_momentum(
    momentum_mimic: MomentumMimic, mimic_by_curves: MomentumMimic | None = None
) -> Statistic:
    """Share of the variance of states in the first principal component."""
    distance = momentum_mimic.gap("learned", "momentum")
    ours, theirs = (momentum_mimic.score(name) for name in ("learned", "momentum"))
    detail = (
        f"Its loss curve is {number(distance)} decades from tuned momentum's; meta-objective "
        f"{number(ours)} against {number(theirs)}. It is the snapshot after {momentum_mimic.step} "
        f"meta-steps, chosen by {momentum_mimic.chosen_by}."
    )
    if mimic_by_curves is not None:
        detail += (
            f" By loss curves it would be that after {mimic_by_curves.step}: meta-objective "
            f"{number(mimic_by_curves.score('learned'))}, dominant mode {_mode(mimic_by_curves)}."
        )
    return Statistic(
        value=float(momentum_mimic.explained_variance[0]),
        also=between(distance, SAME_CURVE, OTHER_CURVE),
        detail=detail,
    )


def _mode(mimic: MomentumMimic) -> str:
    return f"({number(mimic.dominant_learning_rate)}, {number(mimic.dominant_momentum)})"


@claim(
    "Its mode's learning rate and timescale are the analytic optimum.",
    where="Figure 14d",
    on=(L,),
    there=0.2,
    absent=0.5,
    also=(f"and of the momentum {MOMENTUM}", f"or {OTHER_MOMENTUM}"),
    causes="The optimum is that of the worst problem; the meta-objective is a mean over problems "
    "and 200 updates, whose own best momentum is elsewhere.",
    shown_by="the path of the dominant mode over all snapshots (Figure 15, `snapshots.csv`).",
)
def mode_is_optimal(momentum_mimic: MomentumMimic) -> Statistic:
    """Relative difference from the optimum of the learning rate of the best fit by one momentum."""
    fit, best = momentum_mimic.fit, momentum_mimic.optimum
    rate, momentum = float(fit.learning_rates[0].real), float(fit.eigenvalues[0].real)
    off = abs(momentum / best["momentum"] - 1)
    return Statistic(
        value=abs(rate / best["learning_rate"] - 1),
        also=between(off, MOMENTUM, OTHER_MOMENTUM),
        detail=f"Its momentum differs by {number(100 * off)} %: ({number(rate)}, "
        f"{number(momentum)}) against ({number(best['learning_rate'])}, "
        f"{number(best['momentum'])}). The fit misses {number(100 * fit.residual)} % of the "
        f"response of all modes; the dominant one of them is {_mode(momentum_mimic)}.",
    )


@claim(
    "That mode alone matches the full optimizer.",
    where="B.1",
    on=(L,),
    there=SAME_CURVE,
    absent=OTHER_CURVE,
    also=(f"and the meta-objective within {100 * SAME_SCORE:.0f} %",
          f"or beyond {100 * OTHER_SCORE:.0f} %"),
    causes="What large first gradients do is not linear, and one mode has no clipping.",
    shown_by="the mode, and the best one momentum, run on the same test problems (Figure 14e).",
)  # fmt: skip
def one_mode_suffices(momentum_mimic: MomentumMimic) -> Statistic:
    """Distance in decades of median loss curves, of one momentum and of the whole."""
    alone = "one_momentum" if "one_momentum" in momentum_mimic.names else "one_mode"
    said = {"one_momentum": "the best fit by one momentum", "one_mode": "the dominant mode"}
    scores = {name: momentum_mimic.score(name) for name in momentum_mimic.names}
    away = abs(scores[alone] / scores["learned"] - 1)
    each = "; ".join(
        f"{said[name]} {number(momentum_mimic.gap(name, 'learned'))} decades, meta-objective "
        f"{number(scores[name])}"
        for name in said
        if name in scores
    )
    return Statistic(
        momentum_mimic.gap(alone, "learned"),
        f"Alone: {each}; the whole {number(scores['learned'])}.",
        also=between(away, SAME_SCORE, OTHER_SCORE),
    )


@claim(
    "Over meta-training the dominant mode approaches the optimum.",
    where="Figure 15",
    on=(L,),
    there=0.25,
    absent=1,
    also=(
        f"and the least distance at most {NEAR} of a factor e",
        f"or the least distance at least {FAR:g}",
    ),
    causes="Once it is better than momentum, an optimizer has no reason to stay near it.",
    shown_by="the modes of every snapshot (Figure 15).",
)
def meta_path(meta_dynamics: MetaDynamics) -> Statistic:
    """Least distance of the dominant mode to the optimum on its path over that at its start."""
    # A readout that is still zero gives no rate, and no distance.
    moves = np.abs(meta_dynamics.dominant_learning_rates) > 0
    if not moves.any():
        return Statistic(math.nan, "No snapshot moves parameters.")
    steps, away = meta_dynamics.steps[moves], optimum_distance(meta_dynamics)[moves]
    nearest = int(np.argmin(away))
    return Statistic(
        value=float(away[nearest] / away[0]) if 0 < away[0] < math.inf else math.nan,
        also=between(float(away[nearest]), NEAR, FAR),
        detail=f"Nearest after {int(steps[nearest])} meta-steps, at {number(away[nearest])} "
        f"of a factor e; at the last snapshot {number(float(away[-1]))}. Rank correlation of the "
        f"distance with the meta-step: {number(rank_correlation(steps, away))}.",
    )


def optimum_distance(record: MetaDynamics) -> Float[np.ndarray, " snapshot"]:
    """Distance of the dominant mode to the optimum: in log learning rate and log (1 - momentum).

    Infinite for a momentum of 1 or more: such a mode is not stable.
    """
    best_rate, best = (float(record.optimum[name]) for name in ("learning_rate", "momentum"))
    tiny = np.finfo(float).tiny
    rates = np.log(np.maximum(np.abs(record.dominant_learning_rates), tiny) / best_rate)
    forgetting = np.maximum(1 - record.dominant_momenta, 1e-12)
    away = np.hypot(rates, np.log(forgetting / (1 - best)))
    return np.where(record.dominant_momenta < 1, away, np.inf)
