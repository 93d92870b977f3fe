"""Momentum in learned optimizers: states, modes, and what moving along a mode does (paper, 5.1)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.analysis.mode_shifts import ModeShifts
from lrevopt.plots.panel import Panel, Records, of
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREY,
    PATH_COLOR,
    color_bar,
    shades,
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


def shifted_modes_plane(ax: Axes, run: Records) -> None:
    """Eigenvalues with numbered rings around the modes that the states are moved along."""
    modes = run.mechanisms.momentum
    eigenvalue_plane(ax, modes.eigenvalues, modes.learning_rates, run.mode_shifts.modes.tolist(),
                     numbered=True, bar_below=True)  # fmt: skip


def updates_along_mode(ax: Axes, record: ModeShifts, place: int) -> None:
    """Update functions of the fixed point moved along one of the modes of the record."""
    colors = shades("crest", record.shifts.shape[1])
    update_curves(ax, record.gradients, record.updates[place], colors)
    ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")


def state_marks(runs: Sequence[Records] = ()) -> list[Line2D]:
    """What is seen in a projection of states."""
    blank: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
    return [
        Line2D([], [], color=PATH_COLOR, linewidth=0.8, label="test runs"),
        Line2D([], [], color=GREY, marker="o", markersize=2.4, label="slow points", **blank),
        Line2D([], [], color=BLACK, marker="s", markersize=4.5, label="fixed point", **blank),
    ]


def shift_marks(runs: Sequence[Records] = ()) -> list[Line2D]:
    """The triangles that stand for shifted states."""
    return [Line2D([], [], color=shades("crest", 3)[1], marker="v", markersize=5.5,
                   linestyle="none", markeredgewidth=0, label="shifted states")]  # fmt: skip


def along_marks(runs: Sequence[Records] = ()) -> list[Line2D]:
    """Colours of update functions, from one side of the fixed point to the other."""
    labels = ("moved against the mode", "not moved", "moved along the mode")
    return [
        Line2D([], [], color=color, label=label)
        for color, label in zip(shades("crest", 3), labels, strict=True)
    ]


STATES = Panel(
    of("mechanisms", state_projection),
    ("mechanisms.states.variance",),
    "Thin lines are the states of single parameters during test runs, projected on the first two "
    "principal components of all visited states; the black square is the point they converge to "
    "without gradient, grey dots are slow points nearby. The inset shows the total variance of "
    "the states over the inner steps: it goes to 0 when all runs end in the same point.",
    plane=(
        "mechanisms.states.explained_variance",
        "mechanisms.states.paths",
        "mechanisms.fixed_points.fixed_point",
        "mechanisms.fixed_points.slow_points",
    ),
    marks=state_marks,
)
OFFSETS = Panel(
    of("mechanisms", offset_updates),
    (
        "mechanisms.momentum.shifts",
        "mechanisms.momentum.gradients",
        "mechanisms.momentum.updates",
    ),
    "Update functions of states displaced from the fixed point along the dominant mode; "
    "triangles in the same colours mark these states in the projection. Curves that are shifted "
    "up and down mean momentum.",
    "Along the dominant mode",
    plane=("mechanisms.momentum.shifted_points",),
    marks=shift_marks,
)
MODES = Panel(
    of("mechanisms", dominant_mode_plane),
    (
        "mechanisms.momentum.eigenvalues",
        "mechanisms.momentum.learning_rates",
        "mechanisms.momentum.dominant_mode",
    ),
    "Eigenvalues of the Jacobian at the fixed point; the dashed line is the unit circle. "
    "An eigenvalue near 1 is a long memory, like the coefficient of momentum; the colour is the "
    "size of the learning rate with which that mode moves the parameter. The ring marks the "
    "dominant mode.",
    "Modes",
)
NUMBERED_MODES = Panel(
    shifted_modes_plane,
    MODES.fields,
    "Eigenvalues of the Jacobian at a fixed point, with the slowest modes numbered.",
    needs=("mode_shifts",),
)
ALONG_MODES = Panel(
    of("mode_shifts", updates_along_mode),
    (
        "mode_shifts.modes",
        "mode_shifts.shifts",
        "mode_shifts.gradients",
        "mode_shifts.updates",
    ),
    "Update functions of the state when it is moved along each of these modes, as far as test "
    "runs go to both sides. Curves that are shifted up and down mean momentum; curves that tilt "
    "mean that moving along the mode changes the learning rate.",
    title=lambda place: f"Along mode {place + 1}",
    marks=along_marks,
    each=lambda run: range(len(run.mode_shifts.modes)),
)
UNSHIFTED_STATES = dataclasses.replace(
    STATES.drawn(shifted=False),
    title="States",
    caption="States of single parameters during test runs on their principal components, with "
    "slow points (grey), a fixed point (square) and, inset, the variance of the states over the "
    "inner steps: where it stays up, runs of different parameters end in different states.",
)
