"""Figures 3, 8 and 9: momentum in learned optimizers (paper, sections 5.1 and A.1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.analysis.mode_shifts import ModeShifts
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    COLUMN,
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
from lrevopt.plots.textbook import update_curves

RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 7,
    "color": BLACK,
    "markerfacecolor": "none",
    "markeredgewidth": 0.8,
    "linestyle": "none",
}
"""Mark of a mode that is meant."""

INSET = (0.42, 0.30)
"""Width and height of the inset of the state projection, in shares of the panel."""


def state_projection(ax: Axes, record: Mechanisms, *, shifted: bool = True) -> None:
    """States of test runs on their principal components, around the fixed point.

    Inset: total variance of the states over steps. `shifted` shows the states displaced along
    the dominant mode as well.
    """
    ax.plot(*record.states.paths[..., :2].T, color=PATH_COLOR, linewidth=0.4, zorder=1)
    ax.plot(
        *record.fixed_points.slow_points[:, :2].T,
        color=GREY,
        marker="o",
        markersize=2.4,
        markeredgewidth=0,
        linestyle="none",
        zorder=2,
    )
    ax.plot(
        *record.fixed_points.fixed_point[:2],
        color=BLACK,
        marker="s",
        markersize=4,
        linestyle="none",
        zorder=5,
    )
    triangles = zip(record.momentum.shifted_points, shift_colors(record), strict=True)
    for point, color in triangles if shifted else ():
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
    drawn = np.concatenate(
        [record.states.paths[..., :2].reshape(-1, 2), record.momentum.shifted_points[:, :2]]
    )
    variance_inset(ax, record.states.variance, _room_for_inset(ax, drawn))


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
    first, second = (100 * share for share in record.states.explained_variance[:2])
    ax.set(xlabel=f"PC 1 ({first:.0f} %)", ylabel=f"PC 2 ({second:.0f} %)")


def shift_colors(record: Mechanisms) -> list[tuple[float, ...]]:
    """One colour per displacement along the dominant mode."""
    return shades("crest", len(record.momentum.shifts))


def offset_updates(ax: Axes, record: Mechanisms) -> None:
    """Update functions of states displaced along the dominant mode."""
    update_curves(ax, record.momentum.gradients, record.momentum.updates, shift_colors(record))
    ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")


def eigenvalue_plane(
    ax: Axes,
    modes: Complex[np.ndarray, " mode"],
    learning_rates: Complex[np.ndarray, " mode"],
    ringed: Sequence[int],
    *,
    numbered: bool = False,
    bar_below: bool = False,
) -> None:
    """Eigenvalues `modes` of the Jacobian at the fixed point, coloured by learning rate.

    The window holds all eigenvalues and the right end of the unit circle. Rings mark the modes
    `ringed`, with numbers if asked. Modes without rates of their own are grey.
    """
    rates = np.abs(learning_rates)
    order = np.argsort(rates)  # the largest on top
    eigenvalues = modes[order]
    ax.add_patch(Circle((0, 0), 1, fill=False, color=GREY, linewidth=0.7, linestyle=(0, (3, 2))))
    zero_lines(ax)
    largest = rates.max() if rates.max() > 0 else 1.0  # NaN is not above 0
    points = ax.scatter(eigenvalues.real, eigenvalues.imag, c=rates[order], cmap="flare",
                        vmin=0, vmax=largest, s=15, linewidths=0.3, edgecolors="white",
                        plotnonfinite=True, zorder=3)  # fmt: skip
    points.set_cmap(points.get_cmap().with_extremes(bad=GREY))
    rings = modes[list(ringed)]
    ax.plot(rings.real, rings.imag, **RING, zorder=4)
    right = max(1.08, 0.08 + eigenvalues.real.max())
    left = min(-0.08, eigenvalues.real.min() - 0.08)
    half = max((right - left) / 2, 1.1 * np.abs(eigenvalues.imag).max())
    if numbered:
        half = max(half, 1.4 * np.abs(rings.imag).max())  # room for the numbers
        _number_rings(ax, rings, half)
    ax.set(xlim=(right - 2 * half, right), ylim=(-half, half), aspect="equal")
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$")
    place = "bottom" if bar_below else "right"
    marks = MaxNLocator(4 if bar_below else 6)
    color_bar(ax, points, r"learning rate $|\alpha|$", location=place, ticks=marks)


def dominant_mode_plane(ax: Axes, record: Mechanisms, *, bar_below: bool = False) -> None:
    """Eigenvalues of a record, with a ring around the dominant mode."""
    modes = record.momentum
    eigenvalue_plane(ax, modes.eigenvalues, modes.learning_rates, [modes.dominant_mode],
                     bar_below=bar_below)  # fmt: skip


def _number_rings(ax: Axes, rings: Complex[np.ndarray, " shown"], height: float) -> None:
    """1, 2, ... in a row above, with lines to the rings, which may lie on top of each other."""
    place = np.inf
    for index in np.argsort(-rings.real, kind="stable"):
        place = min(rings[index].real, place - 0.16 * height)
        ax.annotate(
            str(index + 1),
            (rings[index].real, rings[index].imag),
            (place, 0.86 * height),
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkB": 3.5},
        )


@journal_style
def figure_03(mechanisms: dict[str, Mechanisms]) -> Figure:
    """States (a), offsets (b) and eigenvalues (c) of the optimizer of one task."""
    task = one_task(mechanisms, "mechanisms", "rosenbrock")
    figure, axes = grid_of_panels(1, 3, height=2.35)
    state_projection(axes[0, 0], mechanisms[task])
    offset_updates(axes[0, 1], mechanisms[task])
    dominant_mode_plane(axes[0, 2], mechanisms[task])
    letter_panels(axes[0], [readable(task), "Along the dominant mode", "Modes"])
    _legend(figure)
    return figure


@journal_style
def figure_08(mechanisms: dict[str, Mechanisms]) -> Figure:
    """States (top), offsets (middle) and eigenvalues (bottom), one column per task."""
    tasks = tasks_converging(mechanisms)
    figure, axes = grid_of_panels(3, len(tasks), height=2.25)
    for column, task in enumerate(tasks):
        state_projection(axes[0, column], mechanisms[task])
        offset_updates(axes[1, column], mechanisms[task])
        dominant_mode_plane(axes[2, column], mechanisms[task], bar_below=True)
    letter_panels(axes.flat, [readable(task) for task in tasks])
    _legend(figure)
    return figure


def tasks_converging(mechanisms: dict[str, Mechanisms]) -> list[str]:
    """The paper's columns of figures 8 and 12: all tasks but MNIST, unless it is the only one.

    Its optimizer does not converge to one point: figures 9 and 13 are about that.
    """
    tasks = tasks_of(mechanisms, "mechanisms")
    return [task for task in tasks if task != "mnist"] or tasks


@journal_style
def figure_09(mechanisms: dict[str, Mechanisms], mode_shifts: dict[str, ModeShifts]) -> Figure:
    """Eigenvalues (a), what moving along the slowest modes does (b to e), states; one task."""
    both = {task: record for task, record in mode_shifts.items() if task in mechanisms}
    task = one_task(both, "mode_shifts", "mnist")
    record, shifts = mechanisms[task], mode_shifts[task]
    figure, axes = grid_of_panels(2, 3, height=2.3)
    panels = list(axes.flat)
    modes = record.momentum
    eigenvalue_plane(panels[0], modes.eigenvalues, modes.learning_rates, shifts.modes.tolist(),
                     numbered=True, bar_below=True)  # fmt: skip
    shown = panels[1 : 1 + len(shifts.modes)]
    colors = shades("crest", shifts.shifts.shape[1])
    for ax, updates in zip(shown, shifts.updates, strict=True):
        update_curves(ax, shifts.gradients, updates, colors)
        ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")
    last = panels[1 + len(shown)]
    state_projection(last, record, shifted=False)
    for ax in panels[2 + len(shown) :]:
        ax.set_axis_off()
    titles = [f"Along mode {number + 1}" for number in range(len(shown))]
    letter_panels([panels[0], *shown, last], [readable(task), *titles, "States"])
    labels = ["moved against the mode", "not moved", "moved along the mode"]
    lines = [
        Line2D([], [], color=colors[place], label=label)
        for place, label in zip([0, len(colors) // 2, -1], labels, strict=True)
    ]
    # Legends are filled column by column.
    pairs = [handle for pair in zip(lines, _marks()[:3], strict=True) for handle in pair]
    figure.legend(handles=pairs, loc="outside upper center", ncols=3)
    return figure


def _legend(figure: Figure) -> None:
    """What the marks of the state projection mean."""
    columns = 4 if figure.get_figwidth() > COLUMN else 2
    figure.legend(handles=_marks(), loc="outside upper center", ncols=columns)


def _marks() -> list[Line2D]:
    blank: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
    middle = shades("crest", 3)[1]
    return [
        Line2D([], [], color=PATH_COLOR, linewidth=0.8, label="test runs"),
        Line2D([], [], color=GREY, marker="o", markersize=2.4, label="slow points", **blank),
        Line2D([], [], color=BLACK, marker="s", markersize=4.5, label="fixed point", **blank),
        Line2D([], [], color=middle, marker="v", markersize=5.5, label="shifted states", **blank),
    ]
