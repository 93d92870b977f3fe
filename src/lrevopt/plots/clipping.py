"""Figures 4 and 10: gradient clipping in learned optimizers (paper, sections 5.2 and A.2)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.plots.style import (
    BLUE,
    GREY,
    grid_of_panels,
    journal_style,
    letter_panels,
    one_task,
    readable,
    tasks_of,
    zero_lines,
)


def saturating_update(ax: Axes, record: Mechanisms) -> None:
    """Update function of the initial state, of states visited later, and its linear part.

    The axis reaches out to the largest gradient met, so that saturation shows.
    """
    gradients, update = record.clipping.gradients, record.clipping.updates[0]
    zero_lines(ax)
    ax.plot(gradients, update, color=BLUE, label="initial state", zorder=4)
    slope = np.gradient(update, gradients)[np.argmin(np.abs(gradients))]
    ax.plot(
        gradients,
        slope * gradients,
        color=BLUE,
        linewidth=0.8,
        linestyle=(0, (1.5, 1.5)),
        label="its linear part",
        zorder=3,
    )
    for number, later in enumerate(record.clipping.updates[1:]):
        label = "later states" if number == 0 else None
        ax.plot(gradients, later, color=GREY, linewidth=0.6, zorder=2, label=label)
    top = 1.15 * max(np.abs(record.clipping.updates[1:]).max(initial=0), np.abs(update).max())
    if np.isfinite(top) and top > 0:
        ax.set_ylim(-top, top)
    ax.set(xlim=(gradients[0], gradients[-1]), xlabel="gradient $g$", ylabel=r"update $\Delta x$")


def gradient_histogram(ax: Axes, record: Mechanisms) -> None:
    """Density of the gradients met on test problems, on a logarithmic axis."""
    density = np.where(record.clipping.density > 0, record.clipping.density, np.nan)
    ax.bar(
        record.clipping.edges[:-1],
        density,
        np.diff(record.clipping.edges),
        align="edge",
        color="#B7C4CF",
        linewidth=0,
    )
    ax.set(
        yscale="log",
        xlabel="gradient $g$",
        ylabel="density",
        xlim=(record.clipping.edges[0], record.clipping.edges[-1]),
    )
    if np.isfinite(density).any():
        # A lone gradient in its bin must still be seen.
        ax.set_ylim(bottom=np.nanmin(density) / 3)


@journal_style
def figure_04(mechanisms: dict[str, Mechanisms]) -> Figure:
    """Saturation of the update function (a) and where gradients fall (b); one task."""
    task = one_task(mechanisms, "mechanisms", "rosenbrock")
    figure, axes = grid_of_panels(1, 2, height=2.15)
    return _finished(figure, axes, mechanisms, [task], axes.T)


@journal_style
def figure_10(mechanisms: dict[str, Mechanisms]) -> Figure:
    """Saturation (top) over the density of gradients (bottom), one column per task."""
    tasks = tasks_of(mechanisms, "mechanisms")
    figure, axes = grid_of_panels(2, len(tasks), height=1.8)
    _finished(figure, axes, mechanisms, tasks, axes)
    if len(tasks) > 2:
        for ax in axes[:, 1:].flat:
            ax.set_ylabel("")
    return figure


def _finished(
    figure: Figure,
    panels: np.ndarray,
    mechanisms: dict[str, Mechanisms],
    tasks: list[str],
    axes: np.ndarray,
) -> Figure:
    """Fill `axes`, update functions in its first row and histograms in its second."""
    for column, task in enumerate(tasks):
        saturating_update(axes[0, column], mechanisms[task])
        gradient_histogram(axes[1, column], mechanisms[task])
    letter_panels(panels.flat, [readable(task) for task in tasks])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure
