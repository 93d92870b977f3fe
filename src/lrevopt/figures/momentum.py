"""Figures 3 and 8: momentum in learned optimizers (paper, sections 5.1 and A.1)."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.figures.style import (
    BLACK,
    BLUE,
    GREY,
    PATH_COLOR,
    color_bar,
    grid_of_panels,
    journal_style,
    letter_panels,
    one_task,
    readable,
    shades,
    tasks_of,
    zero_lines,
)
from lrevopt.figures.textbook import update_curves

INSET = (0.42, 0.30)
"""Width and height of the inset of the state projection, in shares of the panel."""


def state_projection(ax: Axes, record: Mechanisms) -> None:
    """States of test runs on their principal components, around the convergence point.

    Inset: total variance of the states over steps.
    """
    ax.plot(*record.paths[..., :2].T, color=PATH_COLOR, linewidth=0.4, zorder=1)
    ax.plot(
        *record.slow_points[:, :2].T,
        color=GREY,
        marker="o",
        markersize=2.4,
        markeredgewidth=0,
        linestyle="none",
        zorder=2,
    )
    ax.plot(
        *record.fixed_point[:2], color=BLACK, marker="s", markersize=4, linestyle="none", zorder=5
    )
    for point, color in zip(record.shift_points, shift_colors(record), strict=True):
        ax.plot(
            *point[:2],
            color=color,
            marker="v",
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linestyle="none",
            zorder=4,
        )
    component_labels(ax, record)
    ax.locator_params(nbins=5)
    drawn = np.concatenate([record.paths[..., :2].reshape(-1, 2), record.shift_points[:, :2]])
    variance_inset(ax, record.state_variance, _room_for_inset(ax, drawn))


def _room_for_inset(ax: Axes, points: Float[np.ndarray, "point 2"]) -> tuple[float, float]:
    """Lower left corner of an inset that covers no point; the panel grows if none is free."""
    finite = points[np.isfinite(points).all(axis=1)]
    low, high = finite.min(axis=0), finite.max(axis=0)
    span = np.maximum(high - low, 1e-9 + 1e-3 * np.abs(high).max())
    low, high = low - 0.05 * span, high + 0.05 * span
    size = np.array(INSET) + 0.16  # with room for its tick labels
    shares = (finite - low) / (high - low)
    for x, y in ((1, 1), (0, 1), (1, 0), (0, 0)):
        near = np.abs(shares - (x, y)) < size
        if not near.all(axis=1).any():
            break
    else:
        # Upper right corner, above everything.
        x, y = 1, 1
        high[1] = low[1] + (high[1] - low[1]) / (1 - size[1])
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    left = 1 - INSET[0] if x else 0.14
    return left, 0.97 - INSET[1] if y else 0.17


def variance_inset(
    ax: Axes, variance: Float[np.ndarray, " visited"], corner: tuple[float, float]
) -> None:
    """Total variance of the states over steps, in a corner of the state projection."""
    inset = ax.inset_axes((*corner, *INSET))
    inset.plot(np.arange(variance.size), variance, color=BLUE, linewidth=1.0)
    top = np.nanmax(variance, initial=0, where=np.isfinite(variance))
    inset.set(
        xlim=(0, variance.size - 1),
        ylim=(0, 1.1 * top if top > 0 else 1),
        xticks=[0, variance.size - 1],
        yticks=[0],
    )
    inset.set_xlabel("step", labelpad=-6)
    inset.set_ylabel("variance", labelpad=1)
    inset.patch.set_alpha(0.85)


def component_labels(ax: Axes, record: Mechanisms) -> None:
    """Axis labels with the share of variance that each component explains."""
    first, second = (100 * share for share in record.explained_variance[:2])
    ax.set(xlabel=f"PC 1 ({first:.0f} %)", ylabel=f"PC 2 ({second:.0f} %)")


def shift_colors(record: Mechanisms) -> list[tuple[float, ...]]:
    """One colour per displacement along the slow mode."""
    return shades("crest", len(record.shifts))


def offset_updates(ax: Axes, record: Mechanisms) -> None:
    """Update functions of states displaced along the slow mode."""
    update_curves(ax, record.gradients, record.shift_updates, shift_colors(record))
    ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")


def eigenvalue_plane(ax: Axes, record: Mechanisms) -> None:
    """Eigenvalues of the Jacobian at the convergence point, coloured by learning rate.

    The window holds all eigenvalues and the right end of the unit circle.
    """
    rates = np.abs(record.learning_rates)
    order = np.argsort(rates)  # the largest on top
    eigenvalues = record.eigenvalues[order]
    ax.add_patch(Circle((0, 0), 1, fill=False, color=GREY, linewidth=0.7, linestyle=(0, (3, 2))))
    zero_lines(ax)
    points = ax.scatter(eigenvalues.real, eigenvalues.imag, c=rates[order], cmap="flare",
                        vmin=0, vmax=rates.max() if rates.max() > 0 else 1, s=15,
                        linewidths=0.3, edgecolors="white", zorder=3)  # fmt: skip
    slow = record.eigenvalues[int(record.slow_mode)]
    ax.plot(slow.real, slow.imag, color=BLACK, marker="o", markersize=7, markerfacecolor="none",
            markeredgewidth=0.8, linestyle="none", zorder=4)  # fmt: skip
    right = max(1.08, 0.08 + eigenvalues.real.max())
    left = min(-0.08, eigenvalues.real.min() - 0.08)
    half = max((right - left) / 2, 1.1 * np.abs(eigenvalues.imag).max())
    ax.set(xlim=(right - 2 * half, right), ylim=(-half, half), aspect="equal")
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$")
    color_bar(ax, points, r"learning rate $|\alpha|$")


@journal_style
def figure_03(mechanisms: dict[str, Mechanisms]) -> Figure:
    """States (a), offsets (b) and eigenvalues (c) of the optimizer of one task."""
    task = one_task(mechanisms, "mechanisms", "rosenbrock")
    figure, axes = grid_of_panels(1, 3, height=2.35)
    state_projection(axes[0, 0], mechanisms[task])
    offset_updates(axes[0, 1], mechanisms[task])
    eigenvalue_plane(axes[0, 2], mechanisms[task])
    letter_panels(axes[0], [readable(task), "Along the slow mode", "Modes"])
    _legend(figure)
    return figure


@journal_style
def figure_08(mechanisms: dict[str, Mechanisms]) -> Figure:
    """States (top), offsets (middle) and eigenvalues (bottom), one column per task."""
    tasks = tasks_of(mechanisms, "mechanisms")
    figure, axes = grid_of_panels(3, len(tasks), height=2.15)
    for column, task in enumerate(tasks):
        state_projection(axes[0, column], mechanisms[task])
        offset_updates(axes[1, column], mechanisms[task])
        eigenvalue_plane(axes[2, column], mechanisms[task])
    letter_panels(axes.flat, [readable(task) for task in tasks])
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """What the marks of the state projection mean."""
    blank: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
    middle = shades("crest", 3)[1]
    handles = [
        Line2D([], [], color=PATH_COLOR, linewidth=0.8, label="test runs"),
        Line2D([], [], color=GREY, marker="o", markersize=2.4, label="slow points", **blank),
        Line2D([], [], color=BLACK, marker="s", markersize=4.5, label="convergence point", **blank),
        Line2D([], [], color=middle, marker="v", markersize=5.5, label="shifted states", **blank),
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=4 if figure.get_figwidth() > 4 else 2
    )
