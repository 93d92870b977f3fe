"""The chart at the head of a page: every optimizer relative to the best baseline, task by task.

    relative = 100 (mean meta-objective - best baseline's) / best baseline's          in percent

The interval is that of the paired difference (`Evaluation.compare`), in percent of the same mean.
Negative is better. Templates draw it as HTML, in the size of the page's text at any width.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.plots.style import looks
from lrevopt.runs.experiment import LEARNED
from lrevopt.text import number

WIDEST = 150.0
"""Percent above the baseline at which the chart ends."""

STEPS = (5.0, 10.0, 25.0, 50.0)
"""Distances of ticks in percent, of which the first that gives few enough is taken."""


def relative_scores(evaluation: Evaluation) -> list[tuple[str, float, float, float]]:
    """Name of each optimizer but the best baseline, with its relative score and the interval's
    ends, in percent. Infinite where runs diverged. Nothing without a baseline.
    """
    best = evaluation.best_beside(LEARNED)
    if best is None:
        return []
    mean = evaluation.mean_scores()[best]
    if not (np.isfinite(mean) and mean > 0):
        return []
    others = [name for name in evaluation.names if name != best]
    found = [(name, evaluation.compare(name, best)) for name in others]
    return [
        (name, 100 * c.difference / mean, 100 * c.low / mean, 100 * c.high / mean)
        for name, c in found
    ]


def summary(evaluations: Iterable[tuple[str, str, Evaluation]]) -> dict[str, Any] | None:
    """What the macro `summary_chart` draws of (title of the task, link or "", evaluation).

    None if there is no baseline to compare with.
    """
    scored = [(*each, scores) for each in evaluations if (scores := relative_scores(each[2]))]
    if not scored:
        return None
    low, high = _limits([end for *_, scores in scored for row in scores for end in row[1:]])
    groups = [_group(*each, (low, high)) for each in scored]
    return {
        "groups": groups,
        "zero": _place(0.0, low, high),
        "ticks": [(_place(at, low, high), _signed(at)) for at in _ticks(low, high)],
        "cut": any(row["beyond"] for group in groups for row in group["rows"]),
    }


def _limits(ends: list[float]) -> tuple[float, float]:
    """Ends of the axis in percent: those of the data with some room, but not beyond WIDEST."""
    finite = [end for end in ends if np.isfinite(end)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    room = 0.05 * max(high - low, 1.0)
    return max(low - room, -WIDEST), min(high + room, WIDEST)


def _ticks(low: float, high: float) -> list[float]:
    """At most six round numbers between the ends of the axis, whose labels do not reach them."""
    step = next((step for step in STEPS if (high - low) / step <= 5), STEPS[-1])
    room = 0.06 * (high - low)
    first, last = np.ceil((low + room) / step), np.floor((high - room) / step)
    return [float(at) for at in step * np.arange(first, last + 1)]


def _group(
    task: str,
    link: str,
    evaluation: Evaluation,
    scores: list[tuple[str, float, float, float]],
    limits: tuple[float, float],
) -> dict[str, Any]:
    """The rows of one task."""
    best = evaluation.best_beside(LEARNED)
    assert best is not None
    named = looks(evaluation.names)
    rows = []
    for name, middle, first, last in scores:
        left, right = _place(first, *limits), _place(last, *limits)
        rows.append(
            {
                "label": named[name].label,
                "color": named[name].color,
                "learned": name == LEARNED,
                "beyond": middle > limits[1],
                "left": left,
                "width": round(right - left, 2),
                "place": _place(middle, *limits),
                "words": _words(middle, first, last),
            }
        )
    mean = number(evaluation.mean_scores()[best])
    return {"task": task, "link": link, "baseline": named[best].label, "mean": mean, "rows": rows}


def _words(middle: float, low: float, high: float) -> str:
    """A relative score with its interval, such as "-12.0 % (-15.1 to -9.2)"."""
    if not np.isfinite(middle):
        return "diverged"
    ends = [_signed(end).removesuffix(" %") for end in (low, high)]
    return f"{_signed(middle)} ({ends[0]} to {ends[1]})"


def _signed(percent: float) -> str:
    """Percent with its sign, and a decimal where it is not round."""
    if not np.isfinite(percent):
        return "\N{INFINITY}"
    exact = abs(percent) < 100 and percent != round(percent)
    text = f"{percent:+.1f} %" if exact else f"{percent:+.0f} %"
    return "0" if percent == 0 else text.replace("-", "\N{MINUS SIGN}")


def _place(value: float, low: float, high: float) -> float:
    """Where on the strip, in percent of its width."""
    return round(float(100 * np.clip((value - low) / (high - low), 0, 1)), 2)
