"""A factorial experiment: shares by statement and factor level, as numbers on colours."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lrevopt.plots.panel import letter_panels
from lrevopt.plots.style import BLACK, PAGE, Drawing, journal_style, shades
from lrevopt.plots.transfers import titled
from lrevopt.studies.factorial.effects import Effect, main_effect
from lrevopt.studies.factorial.record import Factorial

ROW, HEAD = 0.19, 0.75
"""Height of a statement, and of what stands over and under all of a panel, in inches."""

GAP = 0.5
"""Space between factors, in columns."""

DARK = 0.5
"""Share from which a number is white."""

COLORS = shades("cividis_r", 256, 0.05, 0.95)
"""From yellow (0 %) to dark blue (100 %); their lightness alone gives the order."""


@journal_style
def figure_factorial(record: Factorial, titles: Mapping[str, str] = {}) -> Figure:
    """One panel a task: rows are statements, columns the levels of each factor, numbers per cent.

    A box around the levels of a factor says that it decides: the intervals of two of them are
    apart. A star marks a level that is missing in some cells.
    """
    tasks = [task for task in record.task_names if len(record.rows_of(task))]
    heights = [HEAD + ROW * len(record.asked_of(task)) for task in tasks]
    figure = Drawing(figsize=(PAGE, sum(heights)), layout="constrained")
    axes = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, task in zip(axes, tasks, strict=True):
        _panel(ax, record, task)
    letter_panels(axes, [titled(task, titles) for task in tasks])
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 100), ListedColormap(COLORS)), ax=list(axes), aspect=40,
        pad=0.02, shrink=0.6, label="% of trained optimizers in which it is as the paper says",
    )  # fmt: skip
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(length=2, width=0.4)
    return figure


def columns_of(record: Factorial) -> dict[str, list[float]]:
    """Where the levels of each factor stand: side by side, with a gap between factors."""
    found: dict[str, list[float]] = {}
    place = 0.0
    for factor in record.factors:
        found[factor] = [place + level for level in range(len(record.levels_of(factor)))]
        place = found[factor][-1] + 1 + GAP
    return found


def _panel(ax: Axes, record: Factorial, task: str) -> None:
    asked, columns = record.asked_of(task), columns_of(record)
    for row, place in enumerate(asked):
        for factor, where in columns.items():
            _cells(ax, main_effect(record, task, place, factor), where, row)
    for factor, where in columns.items():
        ax.text(float(np.mean(where)), -2.0, factor, ha="center", va="center", weight="bold")
        for x, level in zip(where, record.levels_of(factor), strict=True):
            ax.text(x, -1.0, level, ha="center", va="center")
    ax.set_yticks(range(len(asked)), [record.label(task, place) for place in asked])
    ax.set_xticks([])
    ax.set(xlim=(-0.55, columns[record.factors[-1]][-1] + 0.55), ylim=(len(asked) - 0.45, -2.5))
    ax.tick_params(axis="y", length=0)
    ax.spines[:].set_visible(False)


def _cells(ax: Axes, effect: Effect, where: list[float], row: int) -> None:
    """The shares of one statement at the levels of one factor."""
    for x, own, whole in zip(where, effect.shares, effect.compared, strict=True):
        if own is None:
            continue
        color = COLORS[round(own.share * (len(COLORS) - 1))]
        ax.add_patch(Rectangle((x - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="white",
                               linewidth=0.6))  # fmt: skip
        ax.text(x, row, f"{100 * own.share:.0f}{'' if whole else '*'}", ha="center",
                va="center_baseline", color="white" if own.share >= DARK else BLACK)  # fmt: skip
    if effect.decides:
        box = Rectangle((where[0] - 0.5, row - 0.5), len(where), 1, fill=False)
        box.set(edgecolor=BLACK, linewidth=1.3, zorder=3, clip_on=False)
        ax.add_patch(box)
