"""Tuning per layer and parameter type (paper, 5.5)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrevopt.analysis.parameter_types import BIAS, WEIGHT, ParameterTypes, layers_of
from lrevopt.plots.panel import Panel, Records, letter_panels, of
from lrevopt.plots.style import (
    BLACK,
    PAGE,
    SKY,
    Drawing,
    from_zero,
    journal_style,
    shades,
)

KINDS: dict[str, tuple[str, Any]] = {
    WEIGHT: ("Blues", "-"),
    BIAS: ("Oranges", (0, (4, 1.2))),
}
"""Colour map, from the first layer to the last, and line style."""
OTHER_KINDS = ("Greens", (0, (1.5, 1.2)))


class GroupLook(NamedTuple):
    """How a group of parameters is drawn."""

    color: Any
    dashes: Any


def group_looks(record: ParameterTypes) -> dict[str, GroupLook]:
    """Colours by kind, darker with depth."""
    layers = layers_of(record.groups)
    looks = {}
    for depth, kinds in enumerate(layers.values()):
        for kind, group in kinds.items():
            colormap, dashes = KINDS.get(kind, OTHER_KINDS)
            looks[group] = GroupLook(shades(colormap, len(layers), 0.35, 1.0)[depth], dashes)
    return looks


def mean_paths(ax: Axes, record: ParameterTypes, plane: tuple[int, int]) -> None:
    """Mean states of the groups over a run, on two of the principal components."""
    across, up = plane
    for look, path in zip(group_looks(record).values(), record.paths, strict=True):
        ax.plot(*path[:, [across, up]].T, color=look.color, linestyle=look.dashes, linewidth=1.0)
        ax.plot(*path[-1, [across, up]], color=look.color, marker="o", markersize=4, zorder=4,
                markeredgecolor="white", markeredgewidth=0.4, linestyle="none")  # fmt: skip
    ax.plot(*record.paths[0, 0, [across, up]], marker="^", markersize=5.5, color=SKY,
            markeredgecolor=BLACK, markeredgewidth=0.6, linestyle="none", zorder=5)  # fmt: skip
    shares = 100 * record.explained_variance
    ax.set(xlabel=f"PC {across + 1} ({shares[across]:.0f} %)",
           ylabel=f"PC {up + 1} ({shares[up]:.0f} %)")  # fmt: skip
    ax.locator_params(nbins=5)


def rates_by_group(ax: Axes, record: ParameterTypes) -> None:
    """Effective learning rate at the mean states."""
    for look, rates in zip(group_looks(record).values(), record.rates, strict=True):
        ax.plot(np.arange(rates.size), rates, color=look.color, linestyle=look.dashes)
    ax.set(xlabel="inner step", ylabel="effective learning rate")
    ax.set_xlim(0, record.rates.shape[1] - 1)
    low, high = record.rates.min(), record.rates.max()
    if low > 0 and high > 20 * low:
        ax.set_yscale("log")
    else:
        from_zero(ax)


def gradient_sizes(ax: Axes, record: ParameterTypes, layer: str) -> None:
    """Densities of gradient sizes before the first update in one layer, and their medians."""
    groups = layers_of(record.groups)[layer].values()
    looks, edges = group_looks(record), 10.0**record.log10_edges
    for group in groups:
        index, look = record.groups.index(group), looks[group]
        density = record.histograms[index]
        ax.stairs(density, edges, fill=True, color=look.color, alpha=0.3)
        ax.stairs(density, edges, color=look.color, linestyle=look.dashes, linewidth=1.0)
        if record.medians[index] > 0:
            ax.axvline(record.medians[index], color=look.color, linewidth=0.9, ymax=0.9,
                       linestyle=look.dashes, zorder=1)  # fmt: skip
    ax.annotate(layer, (0, 1), (3, -1), xycoords="axes fraction", textcoords="offset points",
                va="top")  # fmt: skip
    ax.set(xscale="log", ylabel="density", xlim=(edges[0], edges[-1]))
    ax.set_ylim(0, 1.35 * max(record.histograms.max(), 1e-9))
    ax.locator_params(axis="y", nbins=3)


@journal_style
def figure_types(panels: Sequence[Panel], run: Records) -> Figure:
    """Mean states in two planes (a), learning rates (b) and first gradients by layer (c)."""
    record: ParameterTypes = run.parameter_types
    layers = layers_of(record.groups)
    figure = Drawing(figsize=(PAGE, max(3.4, 0.5 + 0.85 * len(layers))), layout="constrained")
    columns = figure.add_gridspec(1, 3, width_ratios=[1, 1, 1])
    upper, lower = columns[0].subgridspec(2, 1).subplots(squeeze=False)[:, 0]
    middle = figure.add_subplot(columns[1])
    right = columns[2].subgridspec(len(layers), 1).subplots(sharex=True, squeeze=False)[:, 0]
    states, rates, gradients = panels
    for ax, plane in zip((upper, lower), states.items(run), strict=True):
        states.fill(ax, run, plane)
    rates.fill(middle, run, None)
    for ax, layer in zip(right, gradients.items(run), strict=True):
        gradients.fill(ax, run, layer)
    right[-1].set_xlabel("gradient size $|g|$ at the start")
    titles = [f"{run.title}: mean states", "Learning rates", "First gradients"]
    letter_panels([upper, middle, right[0]], titles)
    _legend(figure, record)
    return figure


def _legend(figure: Figure, record: ParameterTypes) -> None:
    """Groups, a column of the legend for each layer, and the mark of the start."""
    handles = [
        Line2D([], [], color=look.color, linestyle=look.dashes, label=group)
        for group, look in group_looks(record).items()
    ]
    start = Line2D([], [], marker="^", markersize=5.5, color=SKY, markeredgecolor=BLACK,
                   markeredgewidth=0.6, linestyle="none", label="initial state")  # fmt: skip
    rows = max(len(kinds) for kinds in layers_of(record.groups).values())
    columns = -(-(len(handles) + 1) // rows)
    figure.legend(handles=[*handles, start], loc="outside upper center", ncols=columns)


MEAN_STATES = Panel(
    of("parameter_types", mean_paths),
    ("parameter_types.groups", "parameter_types.paths", "parameter_types.explained_variance"),
    "States averaged over the parameters of one layer and type and over test problems, from "
    "the initial state (triangle) to the end of the run (dots), on three principal components of "
    "single parameters' states. Blue solid lines are weights, orange dashed ones biases, darker "
    "in later layers: lines that part mean that the optimizer tells these parameters apart.",
    each=lambda run: ((0, 1), (0, 2)),
)
GROUP_RATES = Panel(
    of("parameter_types", rates_by_group),
    ("parameter_types.rates",),
    "Effective learning rate at each of these mean states.",
)
FIRST_GRADIENTS = Panel(
    of("parameter_types", gradient_sizes),
    (
        "parameter_types.log10_edges",
        "parameter_types.histograms",
        "parameter_types.medians",
    ),
    "How large the first gradients of each layer are, with their medians: what the optimizer may "
    "tell parameters apart by. This is a correlation, not yet a cause.",
    each=lambda run: list(layers_of(run.parameter_types.groups)),
)
