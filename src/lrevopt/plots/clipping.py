"""Gradient clipping: saturating update functions beside the density of gradients (paper, 5.2)."""

import numpy as np
from matplotlib.axes import Axes

from lrevopt.analysis.clipping import Clipping
from lrevopt.plots.panel import Panel, of
from lrevopt.plots.style import (
    BLUE,
    GREY,
    zero_lines,
)


def saturating_update(ax: Axes, record: Clipping) -> None:
    """Update function of the initial state, of states visited later, and its linear part.

    The axis reaches out to the largest gradient met, so that saturation shows.
    """
    gradients, update = record.gradients, record.updates[0]
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
    for number, later in enumerate(record.updates[1:]):
        label = "later states" if number == 0 else None
        ax.plot(gradients, later, color=GREY, linewidth=0.6, zorder=2, label=label)
    top = 1.15 * max(np.abs(record.updates[1:]).max(initial=0), np.abs(update).max())
    if np.isfinite(top) and top > 0:
        ax.set_ylim(-top, top)
    ax.set(xlim=(gradients[0], gradients[-1]), xlabel="gradient $g$", ylabel=r"update $\Delta x$")


def gradient_histogram(ax: Axes, record: Clipping) -> None:
    """Density of the gradients met on test problems, on a logarithmic axis."""
    density = np.where(record.density > 0, record.density, np.nan)
    ax.bar(
        record.edges[:-1],
        density,
        np.diff(record.edges),
        align="edge",
        color="#B7C4CF",
        linewidth=0,
    )
    ax.set(
        yscale="log",
        xlabel="gradient $g$",
        ylabel="density",
        xlim=(record.edges[0], record.edges[-1]),
    )
    if np.isfinite(density).any():
        # A lone gradient in its bin must still be seen.
        ax.set_ylim(bottom=np.nanmin(density) / 3)


SATURATION = Panel(
    of("mechanisms.clipping", saturating_update),
    ("mechanisms.clipping.gradients", "mechanisms.clipping.updates"),
    "Update function of the initial state out to the largest gradient met (thick), what it would "
    "be if it were linear (dotted), and the update functions of states visited later (grey). "
    "Where the thick curve leaves the dotted line, gradients are clipped.",
)
GRADIENTS = Panel(
    of("mechanisms.clipping", gradient_histogram),
    ("mechanisms.clipping.edges", "mechanisms.clipping.density"),
    "Density of the gradients met on test problems, on a logarithmic axis: how much of it lies "
    "beyond the straight part of the update function says how much clipping is used.",
)
