"""What the parts of a white box are worth, and how many numbers it needs."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.checks import instance
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    VERMILLION,
    journal_style,
    one_panel,
    readable,
)
from lrevopt.studies.distillation import Attribution, WhiteBoxPath
from lrevopt.text import percent

PART_COLORS = {
    "momentum": ORANGE,
    "saturation": PURPLE,
    "schedule": GREEN,
    "adaptation": BLUE,
    "agreement": VERMILLION,
}

ENOUGH = 0.9
"""Share of the gain that is marked."""

FAR_ABOVE = 5.0
"""Bars that end more than this many times their spread above 0 have an axis that begins there."""


@journal_style
def waterfall(record: Attribution, *, ax: Axes | None = None) -> Figure:
    """From the best tuned baseline to the learned optimizer, part by part of a white box.

    Bars are Shapley values in units of the meta-objective, largest first, with 95 % bootstrap
    intervals over seeds and problems. The grey bar is what no part explains. Where the learning
    rate alone, without any part, is better than the baseline, it has a bar of its own. The axis
    shows all of these, and begins at 0 unless they are far above it or go below. Where the
    gain has no size, a sentence says why (see `Attribution.unknown`).
    """
    instance("record", record, Attribution, "an attribution of `attribute`")
    figure, ax = one_panel(ax, width=1.25 * COLUMN)
    if (reason := record.unknown()) is not None:
        words = textwrap.fill(f"no gain to share: {reason}", 36)
        ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return figure
    worth = record.worth()
    top, bottom = float(record.baseline.mean()), float(record.learned.mean())
    gain = top - bottom
    order = np.argsort(-worth.values, kind="stable")
    steps = [(record.parts[place], worth.values[place], worth.lows[place], worth.highs[place],
              PART_COLORS[record.parts[place]]) for place in order]  # fmt: skip
    if worth.none:
        steps.insert(0, ("rate alone", worth.none, *worth.none_ends, BLACK))
    steps.append(("rest", *worth.rest, PALE))
    last = len(steps) + 1
    for place, height, color in ((0, top, GREY), (last, bottom, BLACK)):
        ax.bar(place, height, color=color, width=0.62)
    level, bars = top, [top, bottom]
    intervals: list[float] = []
    for place, (_, value, low, high, color) in enumerate(steps, start=1):
        after = level - gain * value
        ax.bar(place, after - level, bottom=level, color=color, width=0.62)
        ax.plot([place - 1.31 + 0.62, place + 0.31], [level, level], color=BLACK, linewidth=0.6)
        ends = [level - gain * low, level - gain * high]
        ax.plot([place, place], ends, color=BLACK, linewidth=0.9)
        ax.annotate(percent(value), (place, np.nanmax([level, after, *ends])), (0, 2),
                    textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
        bars.append(after)
        intervals += ends
        level = after
    ax.plot([last - 0.69, last + 0.31], [bottom, bottom], color=BLACK, linewidth=0.6)
    names = [readable(record.baseline_name), *(name for name, *_ in steps), "learned"]
    ax.set_xticks(range(last + 1), names, rotation=30, ha="right")
    ax.tick_params(axis="x", length=0)
    begin, end = _ends_of_axis(bars, intervals)
    note = "" if begin <= 0 else "\n(the axis does not begin at 0)"
    ax.set(ylabel=f"meta-objective{note}", ylim=(begin, end), xlim=(-0.5, last + 0.5))
    return figure


def _ends_of_axis(bars: Sequence[float], intervals: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shows levels of bars and intervals, with room for words above them.

    It begins at 0, or below if a level does; but near the lowest level where bars end so close
    together that they would not be told apart otherwise.
    """
    levels = [*bars, *intervals]
    low, high = float(np.nanmin(levels)), float(np.nanmax(levels))
    near = min(bars) > FAR_ABOVE * (max(bars) - min(bars))
    begin = 0.0 if low >= 0 and not near else low - 0.15 * (high - low)
    return begin, high + 0.12 * (high - begin)


@journal_style
def path(record: WhiteBoxPath, *, ax: Axes | None = None) -> Figure:
    """Share of the learned optimizer's gain that white boxes of 1, 2, ... numbers keep.

    Dots have 95 % bootstrap intervals over problems, and words say what the last numbers were. 0 is
    the best tuned baseline, 1 the learned optimizer, and the dotted line 90 %. White boxes that are
    worse than the baseline by much of the gain stand at the lower edge, as triangles. Above 1
    they are better than the learned optimizer. Nothing is drawn where the learned optimizer is not
    better than the baseline, since there is no gain to keep.
    """
    instance("record", record, WhiteBoxPath, "a path of `grow_path`")
    figure, ax = one_panel(ax, height=2.9, width=1.25 * COLUMN)
    for level, dashes in ((0.0, "-"), (1.0, "-"), (ENOUGH, (0, (1, 1.5)))):
        ax.axhline(level, color=GREY, linewidth=0.7, linestyle=dashes, zorder=0)
    lowest = -0.6
    shares, counts = np.array(record.gains()), record.counts
    seen = np.clip(shares, lowest + 0.06, None)
    ax.plot(counts, seen[:, 0], color=BLUE, linewidth=1.0, zorder=1)
    below = shares[:, 0] <= lowest
    for count, at, lower in zip(counts, seen, below, strict=True):
        ax.plot([count, count], at[1:], color=BLUE, linewidth=1.4)
        ax.plot(count, at[0], "v" if lower else "o", color=BLUE, markersize=4)
    note = "\n(triangle: below this range)" if below.any() else ""
    ax.set(
        ylabel=f"share of the gain kept{note}",
        ylim=(lowest, np.nanmax([1.07, *seen.ravel()]) + 0.05),
        xlabel="numbers, and what was added or removed last",
    )
    ax.set_xlim(counts.min() - 0.6, counts.max() + 0.6)
    names = [f"{name}  {count}" for name, count in zip(record.names, counts, strict=True)]
    ax.set_xticks(counts, names, rotation=30, ha="right", rotation_mode="anchor")
    return figure
