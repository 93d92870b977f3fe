"""Figures 18 to 21: random search of the baselines' hyperparameters (paper, section D.3)."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lrevopt.figures.style import (
    BLACK,
    PAGE,
    color_bar,
    journal_style,
    letter_panels,
    looks,
    readable,
)
from lrevopt.tuning import TuningResult

COLUMNS = 3
DIVERGED: dict[str, Any] = {
    "color": "#BDBDBD",
    "marker": "x",
    "linestyle": "none",
    "markersize": 2.2,
}
STOPPED: dict[str, Any] = {
    "color": "#B7C4CF",
    "marker": "o",
    "linestyle": "none",
    "markersize": 1.2,
}
BEST: dict[str, Any] = {"color": "#FFFFFF", "marker": "*", "linestyle": "none", "markersize": 9}
NEAR_ONE = np.array([0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999])
"""Tick marks of hyperparameters that crowd towards 1."""


class Scale(NamedTuple):
    """Label of a hyperparameter's axis, and how the axis is divided."""

    label: str
    divide: Callable[[Axes, str], None]


def _logarithmic(ax: Axes, which: str) -> None:
    ax.set(**{f"{which}scale": "log"})


def _towards_one(ax: Axes, which: str) -> None:
    """Logarithmic in the distance from 1."""
    functions = (lambda v: -np.log10(np.maximum(1 - v, 1e-9)), lambda u: 1 - 10.0**-u)
    getattr(ax, f"set_{which}scale")("function", functions=functions)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(NEAR_ONE.tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


SCALES = {
    "learning_rate": Scale(r"learning rate $\alpha$", _logarithmic),
    "momentum": Scale(r"momentum $\beta$", _towards_one),
    "decay": Scale(r"decay $\gamma$", _towards_one),
    "b1": Scale(r"decay of the mean $\beta_1$", _towards_one),
    "b2": Scale(r"decay of the square $\beta_2$", _towards_one),
}


def color_scale(scores: Float[np.ndarray, " setting"]) -> tuple[Normalize, str]:
    """One colour scale for all scores, from the best to that of not moving at all, and its label.

    The latter is 1, or 0 for the logarithmic meta-objective, which alone is negative.
    """
    finite = scores[np.isfinite(scores)]
    best = float(finite.min(initial=0.5))
    if best <= 0:
        return Normalize(min(best, -0.1), 0), "meta-objective\n(log of mean loss / first loss)"
    return LogNorm(best, 1), "meta-objective\n(mean loss / first loss)"


def search_panel(ax: Axes, result: TuningResult, across: str, up: str, scale: Normalize) -> None:
    """Every setting tried, coloured by its score, in the plane of two hyperparameters."""
    x, y, scores = result.values[across], result.values[up], result.scores
    finite, in_full = np.isfinite(scores), result.in_full()
    ax.plot(x[~finite], y[~finite], **DIVERGED, markeredgewidth=0.5, rasterized=True, zorder=1)
    stopped = finite & ~in_full
    ax.plot(x[stopped], y[stopped], **STOPPED, markeredgewidth=0, rasterized=True, zorder=1)
    finite &= in_full
    order = np.flatnonzero(finite)[np.argsort(-scores[finite])]  # the best on top
    ax.scatter(x[order], y[order], c=scores[order], norm=scale, cmap="viridis",
               s=3.5 if result.in_full().all() else 14,
               marker="s", linewidths=0, antialiased=False, rasterized=True, zorder=2)  # fmt: skip
    ax.plot(result.best[across], result.best[up], **BEST, markeredgecolor=BLACK,
            markeredgewidth=0.8, zorder=3)  # fmt: skip
    for which, name in (("x", across), ("y", up)):
        label, divide = SCALES.get(name, Scale(readable(name), _logarithmic))
        divide(ax, which)
        low, high = result.ranges[name]
        ax.set(**{f"{which}label": label, f"{which}lim": (low, high)})


def _places(pairs: Mapping[str, Sequence[tuple[str, str]]]) -> list[tuple[int, int]]:
    """Row and column of each panel, and of the key, which takes the first free cell.

    An optimizer's panels share a row where they fit in one.
    """
    places: list[tuple[int, int]] = []
    row = column = 0
    for own in pairs.values():
        if column and column + len(own) > COLUMNS:
            row, column = row + 1, 0
        for _ in own:
            if column == COLUMNS:
                row, column = row + 1, 0
            places.append((row, column))
            column += 1
    cells = itertools.product(range(row + 2), range(COLUMNS))
    return [*places, next(cell for cell in cells if cell not in places)]


def _figure(tuning: dict[str, TuningResult]) -> Figure:
    """One panel per pair of hyperparameters, on one colour scale; purple is best."""
    pairs = {
        name: list(itertools.combinations(result.parameter_names, 2))
        for name, result in tuning.items()
    }
    if not any(pairs.values()):
        raise ValueError(
            f"`tuning` must hold an optimizer with two hyperparameters or more, got {list(tuning)}."
        )
    found = [result.scores[result.in_full()] for result in tuning.values()]
    scale, label = color_scale(np.concatenate(found))
    *places, key = _places(pairs)
    rows = 1 + max(row for row, _ in [*places, key])
    figure = Figure(figsize=(PAGE, 2.0 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)
    axes, titles = [], []
    panels = [(name, *pair) for name, own in pairs.items() for pair in own]
    for (name, across, up), place in zip(panels, places, strict=True):
        axes.append(figure.add_subplot(grid[place]))
        search_panel(axes[-1], tuning[name], across, up, scale)
        titles.append(looks([name])[name].label)
    letter_panels(axes, titles)
    halved = any(not result.in_full().all() for result in tuning.values())
    _key(figure.add_subplot(grid[key]), scale, label, halved=halved)
    return figure


def _key(ax: Axes, scale: Normalize, label: str, *, halved: bool) -> None:
    """Colour scale and marks, in a cell of their own."""
    ax.set_axis_off()
    color_bar(
        ax, ScalarMappable(scale, "viridis"), label,
        cax=ax.inset_axes((0.05, 0.52, 0.9, 0.07)), orientation="horizontal", extend="max",
    )  # fmt: skip
    handles = [
        Line2D([], [], **BEST, markeredgecolor=BLACK, markeredgewidth=0.8, label="best setting"),
        Line2D([], [], **(DIVERGED | {"markersize": 4}), label="diverged on some problem"),
    ]
    if halved:
        handles.append(Line2D([], [], **(STOPPED | {"markersize": 4}), label="stopped early"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 0.98))


@journal_style
def figure_18(tuning: dict[str, TuningResult]) -> Figure:
    """Settings tried for each baseline on linear regression."""
    return _figure(tuning)


@journal_style
def figure_19(tuning: dict[str, TuningResult]) -> Figure:
    """Settings tried for each baseline on Rosenbrock."""
    return _figure(tuning)


@journal_style
def figure_20(tuning: dict[str, TuningResult]) -> Figure:
    """Settings tried for each baseline on two moons."""
    return _figure(tuning)


@journal_style
def figure_21(tuning: dict[str, TuningResult]) -> Figure:
    """Settings tried for each baseline on MNIST."""
    return _figure(tuning)
