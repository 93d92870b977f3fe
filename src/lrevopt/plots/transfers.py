"""Optimizers on tasks that they were not trained for: transfer matrix, sweeps of one quantity."""

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from lrevopt.plots.panel import letter_panels, several
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PAGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
    Drawing,
    color_bar,
    grid_of_panels,
    journal_style,
    looks,
    readable,
    short,
)
from lrevopt.studies.transfer import Sweep, Transfer

WORSE = "PuOr_r"
"""Ratios: orange is worse than the home optimizer, purple better."""

DECADES = 1.0
"""Ratios beyond a factor of ten have the last colour; their number is in the cell."""

LONG = 1e4
"""Ratios from here on are written with one digit, so that a cell has room."""

NARROW = 30.0
"""Within a factor like this there are too few powers of ten to label an axis by."""

MARKERS = (("o", BLUE), ("s", ORANGE), ("^", GREEN), ("D", VERMILLION), ("v", PURPLE), ("P", SKY))
"""Marker and colour of each task, in the order given."""


def home_and_kind(name: str) -> tuple[str, str]:
    """Task and kind of an optimizer called `task/kind`, as in "rosenbrock/adam"."""
    home, _, kind = name.partition("/")
    return home, kind


def titled(task: str, titles: Mapping[str, str]) -> str:
    """Title of a task: the one given, or its name as a label."""
    return titles.get(task, readable(task))


def matrix(ax: Axes, transfers: Mapping[str, Transfer], titles: Mapping[str, str]) -> None:
    """Rows are optimizers, columns tasks; a cell is the objective over the home optimizer's.

    A number with a cross counts the problems on which a run diverged.
    """
    tasks = list(transfers)
    names = transfers[tasks[0]].names
    logs = np.full((len(names), len(tasks)), np.inf)
    for column, task in enumerate(tasks):
        logs[:, column] = transfers[task].log_ratios(transfers[task].home_optimizer)[:, 0] / np.log(
            10
        )
    shown = np.clip(logs, -DECADES, DECADES)
    image = ax.imshow(shown, cmap=WORSE, vmin=-DECADES, vmax=DECADES, aspect="auto")
    for row, name in enumerate(names):
        for column, task in enumerate(tasks):
            lost = int(transfers[task].diverged()[row])
            ratio = 10 ** logs[row, column]
            times = short(ratio) if ratio < LONG else f"{ratio:.0e}"
            said = f"{lost} \N{BALLOT X}" if lost else times
            color = "white" if abs(shown[row, column]) > 0.75 * DECADES else BLACK
            ax.text(column, row, said, ha="center", va="center", color=color)
            if home_and_kind(name)[0] == task:
                ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False,
                                       edgecolor=BLACK, linewidth=1.2))  # fmt: skip
    labels = [f"{titled(home, titles)}: {looks([kind])[kind].label}" for home, kind in
              map(home_and_kind, names)]  # fmt: skip
    ax.set_yticks(range(len(names)), labels)
    ax.set_xticks(range(len(tasks)), [titled(task, titles) for task in tasks], rotation=30,
                  ha="right", rotation_mode="anchor")  # fmt: skip
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="run on", ylabel="trained or tuned on")
    color_bar(ax, image, r"$\log_{10}$ of meta-objective over the home optimizer's", aspect=40)


def likeness(ax: Axes, transfers: Mapping[str, Transfer], titles: Mapping[str, str]) -> None:
    """Distance of scorecards from the home optimizer's against performance."""
    looks_of_tasks = itertools.cycle(MARKERS)
    for (task, record), (marker, color) in zip(transfers.items(), looks_of_tasks, strict=False):
        if np.isnan(record.distances).all():
            continue
        ratios = np.exp(record.log_ratios(record.home_optimizer)[:, 0])
        others = [index for index, name in enumerate(record.names) if name != record.home_optimizer]
        there = [i for i in others if np.isfinite(ratios[i]) and np.isfinite(record.distances[i])]
        ax.plot(record.distances[there], ratios[there], marker, color=color, markersize=4,
                linestyle="none", markeredgecolor="white", markeredgewidth=0.3,
                label=titled(task, titles))  # fmt: skip
    ax.axhline(1, color=BLACK, linewidth=0.8, zorder=1)
    ax.set(yscale="log", xlabel="scorecard distance to the home optimizer",
           ylabel="meta-objective over home optimizer")  # fmt: skip


def curves(ax: Axes, sweep: Sweep, xlabel: str) -> None:
    """Mean meta-objective against what is swept; a curve ends where a run diverges."""
    means = sweep.means()
    for look, row in zip(looks(sweep.names).values(), means, strict=True):
        finite = np.isfinite(row)
        ax.plot(sweep.values[finite], row[finite], **look.line, marker="o", markersize=2.4,
                label=look.label)  # fmt: skip
        lost = np.flatnonzero(~finite)
        if lost.size:
            ax.plot(sweep.values[lost], np.full(lost.size, 1.0), "x", color=look.color,
                    markersize=3.5, clip_on=False, transform=ax.get_xaxis_transform())  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=xlabel)
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    if sweep.values.max() < NARROW * sweep.values.min():
        ax.set_xticks(sweep.values, [short(value) for value in sweep.values])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="y", color=PALE, linewidth=0.5)


@journal_style
def figure_transfer(
    transfers: Mapping[str, Transfer],
    dimensions: Sweep | None = None,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """The matrix (a), likeness against performance (b) and the dimension of a problem (c).

    `titles` are of tasks, by name. Raises `ValueError` for no task.
    """
    titles = titles or {}
    first = several(list(transfers.values()), "transfers")[0]
    rows = len(first.names)
    panels = 2 if dimensions is None else 3
    height = max(4.2, 1.3 + 0.2 * rows)
    figure = Drawing(figsize=(PAGE, height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.45, 1], squeeze=False)[0]
    whole = left.subplots()
    beside = np.atleast_1d(right.subplots(panels - 1, 1))
    matrix(whole, transfers, titles)
    likeness(beside[0], transfers, titles)
    headings = ["Performance on other tasks", "Similarity and performance"]
    if dimensions is not None:
        curves(beside[1], dimensions, "dimension")
        beside[1].set_ylabel("meta-objective")
        low, high = beside[1].get_ylim()
        beside[1].set_ylim(low, high * (high / low) ** 0.45)
        beside[1].legend(loc="upper center", ncols=2)
        headings.append("Linear regression of other sizes")
    letter_panels([whole, *beside], headings)
    right.legend(*beside[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@journal_style
def figure_sweeps(
    scales: Mapping[str, Sweep],
    horizons: Mapping[str, Sweep],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Factor on every gradient (top) and length of the run (bottom), one column per task.

    `titles` are of tasks, by name. Raises `ValueError` for no task.
    """
    titles = titles or {}
    tasks = several(list(dict.fromkeys([*scales, *horizons])), "scales")
    figure, axes = grid_of_panels(2, len(tasks), height=2.1, width=PAGE)
    for column, task in enumerate(tasks):
        for ax, sweeps, label in zip(
            axes[:, column], (scales, horizons), ("factor on gradients", "updates"), strict=True
        ):
            if task in sweeps:
                curves(ax, sweeps[task], label)
            else:
                ax.set_axis_off()
    for row in axes:
        row[0].set_ylabel("meta-objective")
    letter_panels(axes.flat, [titled(task, titles) for task in tasks] * 2)
    handles = {
        label: handle
        for ax in axes.ravel()
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


TRANSFER_CAPTION = (
    "(a) Every learned optimizer and every tuned baseline, on every task: geometric mean over test "
    "problems of its meta-objective over that of the task's own learned optimizer. Framed: the "
    "task that they were trained or tuned on. A number with a cross counts the problems on which a "
    "run diverged. (b) The same ratio against the distance between scorecards, both measured on "
    "that task: if similar optimizers performed similarly, points would rise from the lower left. "
    "(c) Mean meta-objective on linear regression with other numbers of parameters."
)
SWEEPS_CAPTION = (
    "Each task's learned optimizer and baselines, one column per task. Top: every gradient is "
    "multiplied by the same factor; at 1 is what they were trained and tuned for. Bottom: runs of "
    "other lengths than those that they were trained and tuned for. Crosses stand where runs "
    "diverged."
)
