"""Claims about losses: Figures 1, 17 and 18 to 21, footnote 2 and D.3."""

import math
from collections.abc import Mapping

import numpy as np

from lrevopt.inner_loop.evaluation import Evaluation, paired_interval
from lrevopt.paper.claims.verdicts import UNTUNED, L, M, N, R, Statistic, claim
from lrevopt.runs.experiment import LEARNED
from lrevopt.text import number
from lrevopt.tuning.random_search import TuningResult

FLOOR = 1e-12
"""Final losses count as no less than this share of the first: below is round-off."""


@claim(
    "The learned optimizer has the lowest meta-objective, on average.",
    where="Figures 1, 17",
    on=(L, R, M, N),
    there="the 95 % bootstrap interval lies below 0",
    absent="above 0",
    causes="The baselines' ranges and the length of meta-training are ours.",
    shown_by="paired losses on test problems (`comparisons.csv`).",
    seeds=3,
)
def performance(evaluation: Evaluation) -> Statistic:
    """Meta-objective minus the best tuned baseline's, mean over test problems."""
    means, best = evaluation.mean_scores(), evaluation.best_beside(LEARNED)
    if best is None:
        return Statistic(math.nan, "No baseline was run on the same problems.", also=None)
    pair = evaluation.compare(LEARNED, best)
    clear = pair.high < 0 or pair.low > 0
    return Statistic(
        value=pair.difference,
        low=pair.low,
        high=pair.high,
        also=pair.high < 0 if clear else None,
        detail=f"{number(means[LEARNED])} against {number(means[best])} of tuned {best}, a ratio "
        f"of {number(pair.ratio_of_means)}, on {pair.problems} problems.",
    )


@claim(
    "Momentum may still win late on linear regression.",
    where="footnote 2",
    on=(L,),
    there="the 95 % bootstrap interval lies above 0",
    absent="below 0",
    causes="An optimizer that is trained for longer, or in float32 reaches round-off first, has "
    "no late phase to lose.",
    shown_by="paired losses on test problems (`comparisons.csv`), and runs of other lengths "
    "(`transfer/`).",
)
def late_momentum(evaluation: Evaluation) -> Statistic:
    """Mean log10 of final loss over momentum's, paired."""
    if "momentum" not in evaluation.names:
        return Statistic(math.nan, UNTUNED, also=None)
    ours, theirs = (_final(evaluation, name) for name in (LEARNED, "momentum"))
    mean, low, high = paired_interval(np.log10(ours), np.log10(theirs))
    clear = low > 0 or high < 0
    ends = evaluation.mean_curve()[:, -1]
    ratio = ends[evaluation.names.index(LEARNED)] / ends[evaluation.names.index("momentum")]
    return Statistic(
        value=mean,
        low=low,
        high=high,
        also=low > 0 if clear else None,
        detail=f"Mean final losses have the ratio {number(float(ratio))}.",
    )


def _final(evaluation: Evaluation, name: str) -> np.ndarray:
    losses = evaluation.losses[evaluation.names.index(name)].astype(float)
    ends = np.where(np.isfinite(losses[:, -1]), losses[:, -1], np.inf)
    return np.maximum(ends, FLOOR * losses[:, 0])


@claim(
    "The best hyperparameters are not on an edge of the grid.",
    where="D.3, Figures 18-21",
    on=(L, R, M, N),
    there=1,
    absent=0,
    causes="Ranges that end at a natural limit, such as no momentum at all, cannot be widened.",
    shown_by="scores of all settings (Figures 18 to 21).",
)
def baseline_edge(tuning: Mapping[str, TuningResult]) -> Statistic:
    """Grid steps from the best setting of any baseline to the nearest edge."""
    nearest, whose = math.inf, ""
    for name, result in tuning.items():
        for parameter in result.parameter_names:
            grid = np.unique(np.append(result.values[parameter], result.ranges[parameter]))
            place = int(np.argmin(np.abs(grid - result.best[parameter])))
            steps = min(place, len(grid) - 1 - place)
            if steps < nearest:
                nearest, whose = steps, f"{name}'s {parameter.replace('_', ' ')}"
    return Statistic(float(nearest), f"The nearest to an edge is {whose}.")
