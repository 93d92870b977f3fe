"""Claims about losses: Figures 1, 17 and 18 to 21, footnote 2 and D.3."""

import math

import numpy as np

from lrevopt.checks import required
from lrevopt.inner_loop.evaluation import Evaluation, paired_interval
from lrevopt.paper.claims.verdicts import Measured, RunNumbers
from lrevopt.runs.experiment import LEARNED
from lrevopt.text import number

FLOOR = 1e-12
"""Final losses count as no less than this share of the first: below is round-off."""


def performance(numbers: RunNumbers) -> Measured:
    """Mean meta-objective minus that of the best tuned baseline, paired: below 0 is better."""
    evaluation = required(numbers.evaluation)
    means, best = evaluation.mean_scores(), required(evaluation.best_beside(LEARNED))
    pair = evaluation.compare(LEARNED, best)
    clear = pair.high < 0 or pair.low > 0
    return Measured(
        value=pair.difference,
        low=pair.low,
        high=pair.high,
        holds=pair.high < 0 if clear else None,
        detail=f"{number(means[LEARNED])} against {number(means[best])} of tuned {best}, a ratio "
        f"of {number(pair.ratio_of_means)}, on {pair.problems} problems.",
    )


def late_momentum(numbers: RunNumbers) -> Measured:
    """Mean log10 of final loss over momentum's, paired: above 0, momentum ends lower."""
    evaluation = required(numbers.evaluation)
    ours, theirs = (_final(evaluation, name) for name in (LEARNED, "momentum"))
    mean, low, high = paired_interval(np.log10(ours), np.log10(theirs))
    clear = low > 0 or high < 0
    ends = evaluation.mean_curve()[:, -1]
    ratio = ends[evaluation.names.index(LEARNED)] / ends[evaluation.names.index("momentum")]
    return Measured(
        value=mean,
        low=low,
        high=high,
        holds=low > 0 if clear else None,
        detail=f"Mean final losses have the ratio {number(float(ratio))}.",
    )


def _final(evaluation: Evaluation, name: str) -> np.ndarray:
    losses = evaluation.losses[evaluation.names.index(name)].astype(float)
    ends = np.where(np.isfinite(losses[:, -1]), losses[:, -1], np.inf)
    return np.maximum(ends, FLOOR * losses[:, 0])


def baseline_edge(numbers: RunNumbers) -> Measured:
    """Grid steps between the best hyperparameters of any baseline and the nearest edge."""
    nearest, whose = math.inf, ""
    for name, result in numbers.tuning.items():
        for parameter in result.parameter_names:
            grid = np.unique(np.append(result.values[parameter], result.ranges[parameter]))
            place = int(np.argmin(np.abs(grid - result.best[parameter])))
            steps = min(place, len(grid) - 1 - place)
            if steps < nearest:
                nearest, whose = steps, f"{name}'s {parameter.replace('_', ' ')}"
    return Measured(
        value=float(nearest), holds=nearest >= 1, detail=f"The nearest to an edge is {whose}."
    )
