"""A line of fixed points, along which the learning rate changes (paper, A.4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from lrevopt.analysis.manifolds import Manifold
from lrevopt.plots.panel import Panel, Records, of
from lrevopt.plots.style import (
    BLACK,
    GREY,
    PATH_COLOR,
    SKY,
    color_bar,
    from_zero,
    shades,
)
from lrevopt.plots.textbook import update_curves

COLORS = "flare"
"""From small learning rates (light) to large ones (dark), as in the plane of eigenvalues."""

CHOSEN: dict[str, Any] = {
    "marker": "D",
    "markersize": 5.5,
    "markeredgecolor": BLACK,
    "markeredgewidth": 0.6,
    "linestyle": "none",
}
VISITED: dict[str, Any] = {
    "marker": "o",
    "markersize": 2.4,
    "color": PATH_COLOR,
    "markeredgewidth": 0,
    "linestyle": "none",
}
START: dict[str, Any] = {
    "marker": "^",
    "markersize": 5.5,
    "color": SKY,
    "markeredgecolor": BLACK,
    "markeredgewidth": 0.6,
    "linestyle": "none",
}


def rate_scale(record: Manifold) -> Normalize:
    """Colour scale of learning rates, from 0, so that equal rates have one colour."""
    low, high = record.rates.min(initial=0.0), record.rates.max(initial=0.0)
    return Normalize(low, high if high > low else low + 1.0)


def chosen_colors(record: Manifold) -> list[Any]:
    """Colours of the chosen points, by their learning rates."""
    places = rate_scale(record)(record.rates[record.chosen])
    return [shades(COLORS, 1, float(place))[0] for place in np.atleast_1d(places)]


def slow_points(ax: Axes, record: Manifold) -> None:
    """Approximate fixed points on the principal components, coloured by learning rate.

    Visited states behind them set the scale: with one fixed point, all points lie on one place.
    """
    ax.plot(*record.visited[:, :2].T, **VISITED, zorder=1)
    across, up = record.points[:, :2].T
    drawn = ax.scatter(across, up, c=record.rates, norm=rate_scale(record), cmap=COLORS, s=14,
                       linewidths=0.3, edgecolors="white", zorder=2)  # fmt: skip
    ax.plot(*record.initial[:2], **START, zorder=3)
    for index, color in zip(record.chosen, chosen_colors(record), strict=True):
        ax.plot(*record.points[index, :2], color=color, **CHOSEN, zorder=4)
    first, second = (100 * share for share in record.explained_variance[:2])
    ax.set(xlabel=f"PC 1 ({first:.0f} %)", ylabel=f"PC 2 ({second:.0f} %)")
    ax.margins(0.08)
    ax.locator_params(nbins=5)
    color_bar(ax, drawn, "effective learning rate")


def rates_along(ax: Axes, record: Manifold) -> None:
    """Effective learning rate against the position along the points' own first component.

    The axis is at least as wide as visited states spread, so that one point is one place.
    """
    ax.scatter(record.positions, record.rates, c=record.rates, norm=rate_scale(record),
               cmap=COLORS, s=14, linewidths=0.3, edgecolors="white", zorder=2)  # fmt: skip
    for index, color in zip(record.chosen, chosen_colors(record), strict=True):
        ax.plot(record.positions[index], record.rates[index], color=color, **CHOSEN, zorder=3)
    ax.set(xlabel="position (spread of states)", ylabel="effective learning rate")
    reach = 1.08 * np.abs(record.positions).max(initial=1.0)
    ax.set_xlim(-reach, reach)
    ax.locator_params(axis="x", nbins=5)
    from_zero(ax)


def chosen_updates(ax: Axes, record: Manifold) -> None:
    """Update functions at the chosen points."""
    update_curves(ax, record.gradients, record.updates, chosen_colors(record))
    ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")


def point_marks(runs: Sequence[Records]) -> list[Line2D]:
    """Marks of the points on their principal components."""
    return [
        Line2D([], [], marker="o", markersize=4, color=GREY, markeredgewidth=0, linestyle="none",
               label="approximate fixed points"),
        Line2D([], [], color=shades(COLORS, 3)[1], **CHOSEN, label="chosen points"),
        Line2D([], [], **VISITED, label="visited states"),
        Line2D([], [], **START, label="initial state"),
    ]  # fmt: skip


SLOW_POINTS = Panel(
    of("manifold", slow_points),
    ("manifold.rates", "manifold.chosen"),
    "Approximate fixed points without gradient, found from visited states (pale), on the "
    "principal components of these; the colour is the effective learning rate at each. One place "
    "means that the optimizer always comes to rest in the same state, a line that it may rest "
    "anywhere along it.",
    plane=(
        "manifold.explained_variance",
        "manifold.visited",
        "manifold.points",
        "manifold.initial",
    ),
    marks=point_marks,
)
CHOSEN_UPDATES = Panel(
    of("manifold", chosen_updates),
    ("manifold.gradients", "manifold.updates"),
    "Update functions at the points marked by diamonds of the same colours.",
    "Update functions",
)
RATES_ALONG = Panel(
    of("manifold", rates_along),
    ("manifold.positions",),
    "Effective learning rate along the points' own first principal component, in units of the "
    "spread of visited states: where it changes, the place on the line sets the learning rate.",
    "Learning rates",
)
