"""Figures 5 and 11: learning-rate schedules without gradients (paper, sections 5.3 and A.3)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREY,
    LOOKS,
    SKY,
    from_zero,
    grid_of_panels,
    journal_style,
    letter_panels,
    one_task,
    readable,
    tasks_of,
)


def autonomous_path(ax: Axes, record: Mechanisms) -> None:
    """Path of the state under zero gradient, among the slow points, on its own components."""
    path = record.schedule.path
    ax.plot(
        *record.schedule.slow_points.T,
        color=GREY,
        marker="o",
        markersize=2.8,
        alpha=0.7,
        markeredgewidth=0,
        linestyle="none",
        label="slow points",
    )
    ax.plot(
        *path.T,
        color=BLUE,
        linewidth=0.8,
        marker="o",
        markersize=2.2,
        markeredgewidth=0,
        zorder=3,
        label="path without gradient (a dot per step)",
    )
    ax.plot(
        *path[0],
        marker="^",
        markersize=5.5,
        color=SKY,
        markeredgecolor=BLACK,
        markeredgewidth=0.6,
        linestyle="none",
        zorder=4,
        label="initial state",
    )
    ax.plot(
        *record.schedule.fixed_point,
        marker="s",
        markersize=4.5,
        color=BLACK,
        linestyle="none",
        zorder=4,
        label="fixed point",
    )
    shown = np.concatenate([path, record.schedule.fixed_point[None]])
    low, high = shown.min(axis=0), shown.max(axis=0)
    if np.isfinite([low, high]).all() and (high > low).all():
        # Near the path: slow points lie far out, and would shrink it to a dot.
        margin = 0.25 * (high - low)
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]))
        ax.set(ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.set(xlabel="PC 1 of the path", ylabel="PC 2 of the path")
    ax.locator_params(nbins=5)


def schedule(ax: Axes, record: Mechanisms, momentum_rate: float | None) -> None:
    """Effective learning rate along the zero-gradient path, beside tuned momentum's rate."""
    rates = record.schedule.rates
    ax.plot(np.arange(rates.size), rates, color=BLUE)
    momentum_line(ax, momentum_rate)
    ax.set(xlabel="inner step", ylabel="effective learning rate", xlim=(0, rates.size - 1))
    from_zero(ax)


def momentum_line(ax: Axes, rate: float | None) -> None:
    """Dashed line at the learning rate of tuned momentum, where it is known."""
    if rate is not None:
        ax.axhline(
            rate,
            color=LOOKS["momentum"].color,
            linestyle=(0, (4, 2)),
            linewidth=1.0,
            label="learning rate of tuned momentum",
            zorder=1,
        )


@journal_style
def figure_05(mechanisms: dict[str, Mechanisms], momentum_rates: Mapping[str, float]) -> Figure:
    """Zero-gradient path (a) and the learning rates along it (b); one task."""
    task = one_task(mechanisms, "mechanisms", "linear_regression")
    figure, axes = grid_of_panels(1, 2, height=2.3)
    return _finished(figure, axes, mechanisms, momentum_rates, [task], axes.T)


@journal_style
def figure_11(mechanisms: dict[str, Mechanisms], momentum_rates: Mapping[str, float]) -> Figure:
    """Zero-gradient paths (top) and learning rates along them (bottom), one column per task."""
    tasks = tasks_of(mechanisms, "mechanisms")
    figure, axes = grid_of_panels(2, len(tasks), height=1.9)
    _finished(figure, axes, mechanisms, momentum_rates, tasks, axes)
    if len(tasks) > 2:
        for ax in axes[:, 1:].flat:
            ax.set_ylabel("")
            ax.locator_params(axis="x", nbins=4)
    return figure


def _finished(
    figure: Figure,
    panels: np.ndarray,
    mechanisms: dict[str, Mechanisms],
    momentum_rates: Mapping[str, float],
    tasks: list[str],
    axes: np.ndarray,
) -> Figure:
    """Fill `axes`, paths in its first row and learning rates in its second."""
    for column, task in enumerate(tasks):
        autonomous_path(axes[0, column], mechanisms[task])
        schedule(axes[1, column], mechanisms[task], momentum_rates.get(task))
    letter_panels(panels.flat, [readable(task) for task in tasks])
    entries = [
        pair
        for ax in (axes[0, 0], axes[1, 0])
        for pair in zip(*ax.get_legend_handles_labels(), strict=True)
    ]
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=3 if figure.get_figwidth() > COLUMN else 1,
    )
    return figure
