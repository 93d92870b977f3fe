"""Figures 6 and 12: learning-rate adaptation (paper, sections 5.4 and A.4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.plots.momentum import component_labels, tasks_converging
from lrevopt.plots.schedules import momentum_line
from lrevopt.plots.style import (
    BLACK,
    COLUMN,
    PALE,
    color_bar,
    from_zero,
    grid_of_panels,
    journal_style,
    letter_panels,
    level_bar,
    one_task,
    readable,
    shades,
    short,
)
from lrevopt.plots.textbook import update_curves

ARMS = {-1: ("negative gradients", "#C2277F", "v"), 1: ("positive gradients", "#3E8A1B", "^")}
"""Label, colour and marker by sign, from the colour-blind-safe pink to green map "PiYG"."""


HOLLOW: dict[str, Any] = {
    "marker": "o",
    "markersize": 4,
    "markerfacecolor": "white",
    "markeredgecolor": BLACK,
    "markeredgewidth": 0.5,
    "linestyle": "none",
}
"""Held points where the state keeps creeping: no fixed point was converged to."""


def gradient_scale(record: Mechanisms) -> SymLogNorm:
    """Colour scale of held gradients: logarithmic to both sides of 0."""
    sizes = np.abs(record.adaptation.gradients)
    smallest, largest = sizes[sizes > 0].min(), sizes.max()
    return SymLogNorm(linthresh=smallest, linscale=0.3, vmin=-largest, vmax=largest)


def s_curve(ax: Axes, record: Mechanisms, *, bar_below: bool = False) -> None:
    """Fixed points for gradients held fixed; those not converged to are hollow.

    The colour bar stands on the right or, to leave columns their width, below.
    """
    points, converged = record.adaptation.points[:, :2], record.adaptation.converged
    scale = gradient_scale(record)
    ax.plot(*points.T, color=PALE, linewidth=0.8, zorder=1)
    ax.plot(
        *points[~converged].T,
        **HOLLOW,
        zorder=2,
    )
    drawn = ax.scatter(
        points[converged, 0],
        points[converged, 1],
        c=record.adaptation.gradients[converged],
        norm=scale,
        cmap="PiYG",
        s=16,
        linewidths=0.4,
        edgecolors=BLACK,
        zorder=3,
    )
    for index, color in zip(record.adaptation.arm, arm_colors(record), strict=True):
        ax.plot(
            *points[index],
            marker="D",
            markersize=5.5,
            color=color,
            markeredgecolor=BLACK,
            markeredgewidth=0.6,
            linestyle="none",
            zorder=4,
        )
    ax.plot(
        *points[np.argmin(np.abs(record.adaptation.gradients))],
        marker="s",
        markersize=4.5,
        color=BLACK,
        linestyle="none",
        zorder=5,
    )
    component_labels(ax, record)
    ax.margins(0.08)
    ax.locator_params(nbins=4 if bar_below else 5)
    high = np.floor(np.log10(np.abs(record.adaptation.gradients).max()))
    low = np.ceil(np.log10(scale.linthresh))
    decades = 10.0 ** np.unique([np.ceil((low + high) / 2), high])
    if bar_below:
        ends = [-decades[-1], 0, decades[-1]]
        color_bar(ax, drawn, "held gradient $g^*$", ticks=ends, location="bottom")
    else:
        color_bar(ax, drawn, "held gradient $g^*$", ticks=[*-decades[::-1], 0, *decades])


def arm_colors(record: Mechanisms) -> list[tuple[float, ...]]:
    """One colour per chosen point, from the centre (darkest) to the end of the positive arm."""
    return shades("viridis", len(record.adaptation.arm), 0.0, 0.92)


def arm_updates(ax: Axes, record: Mechanisms, *, bar_below: bool = False) -> None:
    """Update functions from the centre of the S-curve to the end of its positive arm."""
    colors = arm_colors(record)
    update_curves(ax, record.adaptation.axis, record.adaptation.arm_updates, colors)
    ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")
    levels, label = record.adaptation.gradients[record.adaptation.arm], "held gradient $g^*$"
    if bar_below:
        _levels_below(ax, colors, levels, label)
    else:
        level_bar(ax, colors, levels, label)


def _levels_below(
    ax: Axes, colors: list[tuple[float, ...]], levels: Float[np.ndarray, " arm"], label: str
) -> None:
    """`level_bar` below a panel, where there is room for the first, the middle and the last."""
    shown = sorted({0, len(levels) // 2, len(levels) - 1})
    norm = BoundaryNorm(np.arange(len(colors) + 1) - 0.5, len(colors))
    bar = color_bar(
        ax, ScalarMappable(norm, ListedColormap(colors)), label, ticks=shown, location="bottom"
    )
    bar.set_ticks(shown, labels=[short(levels[index]) for index in shown])


def arm_rates(ax: Axes, record: Mechanisms, momentum_rate: float | None) -> None:
    """Effective learning rate along both arms, against the size of the held gradient."""
    for sign, (name, color, marker) in ARMS.items():
        arm = sign * record.adaptation.gradients > 0
        ax.plot(
            np.abs(record.adaptation.gradients[arm]),
            record.adaptation.rates[arm],
            color=color,
            marker=marker,
            markersize=2.8,
            linewidth=0.8,
            label=name,
        )
    momentum_line(ax, momentum_rate)
    ax.set(xscale="log", xlabel="held gradient, size $|g^*|$", ylabel="effective learning rate")
    from_zero(ax)


@journal_style
def figure_06(mechanisms: dict[str, Mechanisms], momentum_rates: Mapping[str, float]) -> Figure:
    """S-curve (a), update functions along an arm (b), learning rates (c); one task."""
    task = one_task(mechanisms, "mechanisms", "rosenbrock")
    figure, axes = grid_of_panels(1, 3, height=2.35)
    _fill(axes[0], mechanisms[task], momentum_rates.get(task))
    letter_panels(axes[0], [readable(task), "Along the positive arm", "Learning rates"])
    _legend(figure, axes[0, 2], [mechanisms[task]])
    return figure


@journal_style
def figure_12(mechanisms: dict[str, Mechanisms], momentum_rates: Mapping[str, float]) -> Figure:
    """S-curves (top), update functions (middle), learning rates (bottom), a column per task."""
    tasks = tasks_converging(mechanisms)
    figure, axes = grid_of_panels(3, len(tasks), height=2.3)
    for column, task in enumerate(tasks):
        _fill(axes[:, column], mechanisms[task], momentum_rates.get(task), bar_below=True)
    letter_panels(axes.flat, [readable(task) for task in tasks])
    _legend(figure, axes[2, 0], [mechanisms[task] for task in tasks])
    return figure


def _fill(
    axes: np.ndarray, record: Mechanisms, momentum_rate: float | None, *, bar_below: bool = False
) -> None:
    """The three panels of one task."""
    s_curve(axes[0], record, bar_below=bar_below)
    arm_updates(axes[1], record, bar_below=bar_below)
    arm_rates(axes[2], record, momentum_rate)


def _legend(figure: Figure, ax: Axes, records: Sequence[Mechanisms]) -> None:
    """Marks of the S-curves of `records`, and the lines of the learning rates in `ax`."""
    square = Line2D([], [], marker="s", markersize=4.5, color=BLACK, linestyle="none",
                    label="fixed point")  # fmt: skip
    diamond = Line2D(
        [],
        [],
        marker="D",
        markersize=5,
        color=shades("viridis", 3)[1],
        linestyle="none",
        markeredgecolor=BLACK,
        markeredgewidth=0.6,
        label="chosen points",
    )
    hollow = Line2D([], [], **HOLLOW, label="only nearly fixed")
    missed = [hollow] * any(not record.adaptation.converged.all() for record in records)
    lines, _ = ax.get_legend_handles_labels()
    figure.legend(
        handles=[square, diamond, *missed, *lines],
        loc="outside upper center",
        ncols=3 if figure.get_figwidth() > COLUMN else 1,
    )
