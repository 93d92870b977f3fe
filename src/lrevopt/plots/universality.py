"""Populations of optimizers: a map of their distances, and shares of seeds for each statement."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrevopt.plots.panel import letter_panels
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
    grid_of_panels,
    journal_style,
    looks,
    short,
)
from lrevopt.plots.transfers import titled
from lrevopt.studies.universality.cells import title_of_cell
from lrevopt.studies.universality.record import TEXTBOOK, Universality

MARKS = (("o", BLUE), ("s", ORANGE), ("^", GREEN), ("D", PURPLE), ("v", VERMILLION), ("P", SKY))
"""Marker and colour of each cell, in order; they repeat beyond six."""

ROW, LINE = 0.14, 0.07
"""Height of a statement in the figure of shares, in inches, and what each of its cells adds."""

CLOSE, BESIDE = 0.08, 0.05
"""Shares of the height of a map within which names of two points would meet, and of its width by
which a name stands beside its point."""

HALO = [patheffects.withStroke(linewidth=1.8, foreground="white")]
"""Around names, so that they can be read over points."""


def cell_marks(record: Universality) -> dict[str, tuple[str, str]]:
    """Marker and colour of each cell of a record."""
    cells = dict.fromkeys(kind for kind in record.kinds if kind != TEXTBOOK)
    return {cell: MARKS[place % len(MARKS)] for place, cell in enumerate(cells)}


@journal_style
def figure_map(record: Universality, titles: Mapping[str, str] = {}) -> Figure:
    """One panel a task: optimizers in a plane, near where they answer gradients alike.

    A panel says so where no optimizer has distances.
    """
    tasks = record.task_names
    figure, axes = grid_of_panels(1, len(tasks), height=3.1, width=PAGE * min(1, len(tasks) / 2))
    for ax, task in zip(axes[0], tasks, strict=True):
        _map(ax, record, task)
    letter_panels(axes[0], [titled(task, titles) for task in tasks])
    _legend(figure, record)
    return figure


def _map(ax: Axes, record: Universality, task: str) -> None:
    rows, plane = record.map_of(task)
    if not rows.size:
        ax.text(0.5, 0.5, "no distances:\nno updates are finite", ha="center", va="center",
                transform=ax.transAxes)  # fmt: skip
        ax.set(xticks=[], yticks=[])
        return
    for cell, (marker, color) in cell_marks(record).items():
        own = plane.points[[record.kinds[row] == cell for row in rows]]
        ax.plot(*own.T, marker, color=color, markersize=4, alpha=0.85, linestyle="none",
                markeredgecolor="white", markeredgewidth=0.3)  # fmt: skip
    books = [place for place, row in enumerate(rows.tolist()) if record.kinds[row] == TEXTBOOK]
    names = [looks([record.names[rows[place]]])[record.names[rows[place]]].label for place in books]
    for place, name, at in zip(books, names, _places_of_names(plane.points, books), strict=True):
        point = plane.points[place]
        ax.plot(*point, "X", color=BLACK, markersize=5.5, markeredgecolor="white",
                markeredgewidth=0.4, zorder=5)  # fmt: skip
        ax.annotate(name, point, xytext=at, zorder=4, va="center", path_effects=HALO,
                    ha="left" if at[0] > point[0] else "right",
                    arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5})  # fmt: skip
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.08)
    ax.set(xlabel="first coordinate", ylabel="second coordinate")
    ax.text(1, 1.01, f"shows {short(100 * plane.shown)} %, stress {short(plane.stress)}",
            transform=ax.transAxes, ha="right", va="bottom")  # fmt: skip


def _places_of_names(
    points: Float[np.ndarray, "entrant 2"], books: list[int]
) -> Float[np.ndarray, "book 2"]:
    """Where the name of each textbook optimizer stands: beside it, inwards, clear of the others.

    Where names would meet, their heights move apart, evenly up and down, not far above all points.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(high - low, 1e-12)
    own = points[books]
    order = np.argsort(own[:, 1], kind="stable")
    heights = own[order, 1].copy()
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + CLOSE * span[1])
    heights -= np.mean(heights - own[order, 1]) if len(heights) else 0.0
    top = high[1] + CLOSE / 3 * span[1]  # the title stands above
    heights -= max(0.0, heights.max(initial=-np.inf) - top)
    found = own.copy()
    found[order, 1] = heights
    inwards = np.where(own[:, 0] <= low[0] + span[0] / 2, 1.0, -1.0)
    found[:, 0] += BESIDE * inwards * span[0]
    return found


@journal_style
def figure_shares(record: Universality, titles: Mapping[str, str] = {}) -> Figure:
    """One panel a task: for each statement and cell, the share of seeds in which it holds.

    A statement stands in one row of all panels, which is empty where it says nothing of the task.
    Lines are 95 % intervals; a pale bar reaches on by the share of seeds that cannot tell.
    """
    tasks = record.task_names
    asked = sorted({place for task in tasks for place in record.asked_of(task).tolist()})
    height = 0.7 + len(asked) * (ROW + LINE * len(cell_marks(record)))
    figure, axes = grid_of_panels(1, len(tasks), height=height, width=PAGE)
    for ax, task in zip(axes[0], tasks, strict=True):
        _shares(
            ax, record, task, {record.statements[place]: row for row, place in enumerate(asked)}
        )
    letter_panels(axes[0], [titled(task, titles) for task in tasks])
    _legend(figure, record, textbook=False)
    return figure


def _shares(ax: Axes, record: Universality, task: str, places: Mapping[str, int]) -> None:
    marks, cells = cell_marks(record), record.cells_of(task)
    apart = LINE / (ROW + LINE * len(marks))
    labels = dict.fromkeys(places, "")
    for one in record.shares():
        if one.task != task:
            continue
        labels[one.statement] = _label(one.statement, one.expected)
        offset = (cells.index(one.cell) - (len(cells) - 1) / 2) * apart
        height = places[one.statement] + offset
        marker, color = marks[one.cell]
        if one.undecided:
            ax.plot([one.share, one.share + one.undecided / one.seeds], [height] * 2,
                    color=PALE, linewidth=3.2, solid_capstyle="butt", zorder=1)  # fmt: skip
        ax.plot([one.low, one.high], [height] * 2, color=color, linewidth=0.9, zorder=2)
        ax.plot(one.share, height, marker, color=color, markersize=3.6, clip_on=False,
                markeredgecolor="white", markeredgewidth=0.3, zorder=3)  # fmt: skip
    ax.set_yticks(list(places.values()), list(labels.values()))
    ax.set_ylim(len(places) - 0.5, -0.5)
    for row in range(1, len(places)):
        ax.axhline(row - 0.5, color=PALE, linewidth=0.4, zorder=0)
    ax.set_xticks(np.linspace(0, 1, 5), ["0", "25", "50", "75", "100"])
    ax.set(xlim=(-0.02, 1.02), xlabel="% of seeds in which it holds")
    ax.tick_params(axis="y", length=0)


def _label(statement: str, expected: bool) -> str:
    plain = statement.replace("-", " ")
    return plain if expected else f"no {plain}"


def _legend(figure: Figure, record: Universality, *, textbook: bool = True) -> None:
    handles = [
        Line2D([], [], marker=marker, color=color, linestyle="none", markersize=4,
               label=title_of_cell(cell))
        for cell, (marker, color) in cell_marks(record).items()
    ]  # fmt: skip
    if textbook:
        handles.append(Line2D([], [], marker="X", color=BLACK, linestyle="none", markersize=5,
                              label="textbook, tuned"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles),
                  columnspacing=1.4, handletextpad=0.3)  # fmt: skip
