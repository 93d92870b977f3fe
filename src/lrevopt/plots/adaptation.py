"""Learning-rate adaptation: fixed points and learning rates under held gradients (paper, 5.4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, SymLogNorm
from matplotlib.lines import Line2D

from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.plots.momentum import component_labels
from lrevopt.plots.panel import Panel, Records, of
from lrevopt.plots.schedules import made_momentum_rate, momentum_line, momentum_rate
from lrevopt.plots.style import (
    BLACK,
    PALE,
    color_bar,
    from_zero,
    level_bar,
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
    """Fixed points for gradients held fixed; those not converged to are hollow, chosen ones too.

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
            markerfacecolor=color if converged[index] else "white",
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
    """Effective learning rate along both arms, against the size of the held gradient.

    Marks of points that are not fixed are hollow.
    """
    for sign, (name, color, marker) in ARMS.items():
        arm = sign * record.adaptation.gradients > 0
        sizes, rates = np.abs(record.adaptation.gradients[arm]), record.adaptation.rates[arm]
        creeps = ~record.adaptation.converged[arm]
        look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 2.8}
        ax.plot(sizes, rates, **look, linewidth=0.8, label=name)
        ax.plot(
            sizes[creeps], rates[creeps], **look, linestyle="none", markerfacecolor="white",
            markeredgewidth=0.6,
        )  # fmt: skip
    momentum_line(ax, momentum_rate)
    ax.set(xscale="log", xlabel="held gradient, size $|g^*|$", ylabel="effective learning rate")
    from_zero(ax)


def curve_marks(runs: Sequence[Records]) -> list[Line2D]:
    """Marks of S-curves; points that are not fixed only where a run has them."""
    square = Line2D([], [], marker="s", markersize=4.5, color=BLACK, linestyle="none",
                    label="fixed point")  # fmt: skip
    diamond = Line2D([], [], marker="D", markersize=5, color=shades("viridis", 3)[1],
                     linestyle="none", markeredgecolor=BLACK, markeredgewidth=0.6,
                     label="chosen points")  # fmt: skip
    hollow = Line2D([], [], **HOLLOW, label="only nearly fixed")
    missed = any(not run.mechanisms.adaptation.converged.all() for run in runs)
    return [square, diamond, *([hollow] if missed else [])]


S_CURVE = Panel(
    of("mechanisms", s_curve),
    (
        "mechanisms.adaptation.gradients",
        "mechanisms.adaptation.converged",
        "mechanisms.adaptation.arm",
    ),
    "Fixed points of the state when one gradient is held for ever, one point per gradient, on "
    "the principal components of visited states; green for positive, pink for negative gradients, "
    "hollow where the search did not converge. The square is the fixed point without gradient.",
    plane=("mechanisms.states.explained_variance", "mechanisms.adaptation.points"),
    marks=curve_marks,
)
ARM = Panel(
    of("mechanisms", arm_updates),
    ("mechanisms.adaptation.axis", "mechanisms.adaptation.arm_updates"),
    "Update functions at the points marked by diamonds of the same colours. A flatter curve is a "
    "smaller learning rate.",
    "Along the positive arm",
)
RATES = Panel(
    lambda ax, run: arm_rates(ax, run.mechanisms, momentum_rate(run)),
    ("mechanisms.adaptation.rates", "mechanisms.adaptation.converged"),
    "Effective learning rate at each fixed point against the size of its gradient; hollow where "
    "the search did not converge. Where it falls, large gradients make the optimizer cautious. "
    "Dashed: tuned momentum.",
    "Learning rates",
    made=made_momentum_rate,
)
