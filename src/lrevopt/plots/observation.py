"""Observed optimizers: rate, step, memory and saturation of groups, and the edge of stability."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.plots.panel import legend_above, letter_panels
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREY,
    SKY,
    VERMILLION,
    grid_of_panels,
    journal_style,
    shades,
)
from lrevopt.studies.observation import Observation
from lrevopt.studies.observation import observation as read

GROUPS = 12
"""Groups that are drawn, at most: at even distances."""

COLUMNS = {
    "rates": ("Effective learning rate", "learning rate", "log"),
    "ratios": ("Update over parameter", "ratio of norms", "log"),
    "timescales": ("Memory", "1/e time (updates)", "linear"),
    "saturated": ("Saturated gradients", "share of entries", "linear"),
}
"""Title, axis and scale of each panel of groups."""


@journal_style
def observation(record: Any) -> Figure:
    """What an observed optimizer did, group by group: of `lo.observation`, or of the state itself.

    Effective learning rate (a), update over parameter (b), 1/e time of the response to a gradient
    (c), and share of saturated gradients (d), for 12 groups at most. Where curvature was measured,
    the loss (e), and the sharpness over what is stable (f), along the update and in the stiffest
    direction; the red line is where the edge of stability is first crossed.

    Raises `ValueError` for a state without a record.
    """
    if not isinstance(record, Observation):
        record = read(record)
    if not len(record.steps):
        raise ValueError("`record` must hold at least one record, got none: make an update first.")
    rows = 3 if record.watched else 2
    figure, grid = grid_of_panels(rows, 2, height=2.0)
    axes = list(grid.flat)
    chosen = np.unique(np.linspace(0, len(record.groups) - 1, GROUPS).round().astype(int))
    colors = shades("viridis", len(chosen), 0.0, 0.9)
    for ax, (name, (_, label, scale)) in zip(axes, COLUMNS.items(), strict=False):
        values = getattr(record, name)
        for k, color in zip(chosen, colors, strict=True):
            ax.plot(record.steps, values[:, k], color=color, label=record.groups[k])
        ax.set(xlabel="update", ylabel=label)
        if scale == "log" and (values[np.isfinite(values)] > 0).all():
            ax.set_yscale("log")
        elif name == "saturated":
            ax.set_ylim(-0.02, max(1.05 * float(np.nanmax(values, initial=0.0)), 0.1))
    titles = [title for title, _, _ in COLUMNS.values()]
    if record.watched:
        _losses(axes[4], record)
        _stability(axes[5], record)
        titles += ["Loss", "Edge of stability"]
    letter_panels(axes, titles)
    handles = axes[0].get_legend_handles_labels()[0] if len(record.groups) > 1 else []
    legend_above(figure, handles)
    return figure


def _losses(ax: Axes, record: Observation) -> None:
    ax.plot(record.steps, record.losses, color=BLUE)
    positive = record.losses[np.isfinite(record.losses)] > 0
    ax.set(xlabel="update", ylabel="loss", yscale="log" if positive.all() else "linear")
    _crossings(ax, record)


def _stability(ax: Axes, record: Observation) -> None:
    """Curvature over its bound: along the update, and in the stiffest direction."""
    options: dict[str, Any] = {"linewidth": 1.0}
    with np.errstate(all="ignore"):
        along = record.sharpness / record.stable
        stiffest = record.top_sharpness / record.top_stable
    ax.plot(record.steps, along, color=SKY, label="along the update", **options)
    ax.plot(record.steps, stiffest, color=BLACK, label="stiffest", **options)
    ax.axhline(1.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    known = np.concatenate([along, stiffest])
    known = known[np.isfinite(known)]
    top = min(max(1.3, 1.1 * float(known.max(initial=1.0))), 5.0)
    ax.set(xlabel="update", ylabel="sharpness / stable", ylim=(min(0.0, *known, 0.0), top))
    _crossings(ax, record)
    ax.legend(loc="best")


def _crossings(ax: Axes, record: Observation) -> None:
    """Where the edge is crossed for the first time."""
    for k in record.crossed[:1]:
        ax.axvline(record.steps[k], color=VERMILLION, linewidth=0.8, zorder=0)
