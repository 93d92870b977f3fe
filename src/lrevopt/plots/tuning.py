"""Random search of baselines' hyperparameters (paper, D.3)."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lrevopt.plots.panel import Arrays, Panel, Records, letter_panels, of
from lrevopt.plots.style import (
    BLACK,
    PAGE,
    Drawing,
    color_bar,
    journal_style,
    looks,
    readable,
)
from lrevopt.tuning.random_search import TuningResult

COLUMNS = 3
DIVERGED: dict[str, Any] = {
    "color": "#BDBDBD",
    "marker": "x",
    "linestyle": "none",
    "markersize": 2.2,
}
STOPPED = ("#B9C6D0", "#52626F")
"""Colours of settings that successive halving stopped at the first rung and at the last."""
STOPPED_SIZES = (1.2, 2.2)
IN_FULL_SIZE = 14.0
"""Area of settings that ran in full, where not all did."""
BEST: dict[str, Any] = {"color": "#FFFFFF", "marker": "*", "linestyle": "none", "markersize": 9}
SCORES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Tick marks of a logarithmic colour scale."""
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


def score_scale(tuning: Mapping[str, TuningResult]) -> tuple[Normalize, str]:
    """One colour scale for all scores, from the best to that of not moving at all, and its label.

    The latter is 1, or 0 for the logarithmic meta-objective, which alone is negative.
    """
    scores = np.concatenate([result.scores[result.in_full()] for result in tuning.values()])
    finite = scores[np.isfinite(scores)]
    best = float(finite.min(initial=0.5))
    if best <= 0:
        return Normalize(min(best, -0.1), 0), "meta-objective\n(log of mean loss / first loss)"
    return LogNorm(best, 1), "meta-objective\n(mean loss / first loss)"


def _stopped_marks(results: Iterable[TuningResult]) -> dict[int, dict[str, Any]]:
    """How settings are drawn that were stopped early, by the updates that they ran.

    The longer, the larger and darker. Their scores are of different lengths, so that colours
    could not be compared.
    """
    stops = sorted(
        {int(s) for result in results if result.steps.size for s in result.steps[~result.in_full()]}
    )
    colors = sns.blend_palette(STOPPED, len(stops), as_cmap=False)
    sizes = np.linspace(*STOPPED_SIZES, len(stops))
    return {
        steps: {"color": color, "marker": "o", "linestyle": "none", "markersize": float(size)}
        for steps, color, size in zip(stops, colors, sizes, strict=True)
    }


def search_panel(ax: Axes, tuning: Mapping[str, TuningResult], cell: tuple[str, str, str]) -> None:
    """Every setting tried of an optimizer, in the plane of two hyperparameters.

    Those that ran in full are coloured by their score, on one scale for all optimizers of
    `tuning`; the others are marked by where they were stopped.
    """
    name, across, up = cell
    result, scale, stopped = tuning[name], score_scale(tuning)[0], _stopped_marks(tuning.values())
    x, y, scores = result.values[across], result.values[up], result.scores
    finite, in_full = np.isfinite(scores), result.in_full()
    ax.plot(x[~finite], y[~finite], **DIVERGED, markeredgewidth=0.5, rasterized=True, zorder=1)
    for steps, mark in stopped.items():
        here = finite & ~in_full & (result.steps == steps)
        ax.plot(x[here], y[here], **mark, markeredgewidth=0, rasterized=True, zorder=1)
    finite &= in_full
    order = np.flatnonzero(finite)[np.argsort(-scores[finite])]  # the best on top
    ax.scatter(x[order], y[order], c=scores[order], norm=scale, cmap="viridis",
               s=3.5 if in_full.all() else IN_FULL_SIZE,
               marker="s", linewidths=0, antialiased=False, rasterized=True, zorder=2)  # fmt: skip
    ax.plot(result.best[across], result.best[up], **BEST, markeredgecolor=BLACK,
            markeredgewidth=0.8, zorder=3)  # fmt: skip
    for which, name in (("x", across), ("y", up)):
        label, divide = SCALES.get(name, Scale(readable(name), _logarithmic))
        divide(ax, which)
        low, high = result.ranges[name]
        ax.set(**{f"{which}label": label, f"{which}lim": (low, high)})


def _places(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Row and column of each panel, and of the key, which takes the first free cell.

    An optimizer's panels, of which `counts` has the number, share a row where they fit in one.
    """
    places: list[tuple[int, int]] = []
    row = column = 0
    for own in counts:
        if column and column + own > COLUMNS:
            row, column = row + 1, 0
        for _ in range(own):
            if column == COLUMNS:
                row, column = row + 1, 0
            places.append((row, column))
            column += 1
    cells = itertools.product(range(row + 2), range(COLUMNS))
    return [*places, next(cell for cell in cells if cell not in places)]


def pairs_of_hyperparameters(run: Records) -> list[tuple[str, str, str]]:
    """Optimizer and two of its hyperparameters, for every pair."""
    return [
        (name, *pair)
        for name, result in run.tuning.items()
        for pair in itertools.combinations(result.parameter_names, 2)
    ]


@journal_style
def figure_tuning(run: Records) -> Figure:
    """One panel per pair of hyperparameters, on one colour scale; purple is best.

    Raises `ValueError` without an optimizer that has two hyperparameters.
    """
    tuning: dict[str, TuningResult] = run.tuning
    cells = pairs_of_hyperparameters(run)
    if not cells:
        raise ValueError(
            f"`tuning` must hold an optimizer with two hyperparameters or more, got {list(tuning)}."
        )
    counts = [len(list(own)) for _, own in itertools.groupby(cells, key=lambda cell: cell[0])]
    *places, key = _places(counts)
    rows = 1 + max(row for row, _ in [*places, key])
    figure = Drawing(figsize=(PAGE, 2.0 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)
    axes = [figure.add_subplot(grid[place]) for place in places]
    for ax, cell in zip(axes, cells, strict=True):
        search_panel(ax, tuning, cell)
    letter_panels(axes, [looks([name])[name].label for name, *_ in cells])
    _key(figure.add_subplot(grid[key]), tuning)
    return figure


def _key(ax: Axes, tuning: Mapping[str, TuningResult]) -> None:
    """Colour scale and marks, in a cell of their own."""
    (scale, label), stopped = score_scale(tuning), _stopped_marks(tuning.values())
    ax.set_axis_off()
    handles = [
        Line2D([], [], **BEST, markeredgecolor=BLACK, markeredgewidth=0.8, label="best setting"),
        Line2D([], [], **(DIVERGED | {"markersize": 4}), label="diverged on some problem"),
    ]
    for steps in sorted(stopped, reverse=True):
        larger = stopped[steps] | {"markersize": 2 * stopped[steps]["markersize"]}
        handles.append(Line2D([], [], **larger, label=f"stopped after {steps} updates"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 0.98))
    bar = color_bar(
        ax, ScalarMappable(scale, "viridis"), label,
        cax=ax.inset_axes((0.05, 0.52 - 0.09 * len(stopped), 0.9, 0.07)),
        orientation="horizontal", extend="max",
    )  # fmt: skip
    if isinstance(scale, LogNorm):
        low, high = bar.ax.get_xlim()
        bar.set_ticks([score for score in SCORES if low <= score <= high])
        bar.ax.minorticks_off()


def searched(run: Records) -> Arrays:
    """Every setting tried, by baseline. `steps` is empty where all ran in full."""
    found: Arrays = {}
    for name, result in run.tuning.items():
        own: Arrays = {f"values/{key}": array for key, array in result.values.items()}
        own |= {f"best/{key}": np.asarray(value) for key, value in result.best.items()}
        own |= {f"ranges/{key}": np.asarray(pair) for key, pair in result.ranges.items()}
        own |= {"scores": result.scores, "steps": result.steps}
        found |= {f"{name}/{key}": array for key, array in own.items()}
    return found


SEARCHES = Panel(
    of("tuning", search_panel),
    (),
    "Each point is one random setting of a baseline, in the plane of two of its "
    "hyperparameters; its colour is the meta-objective on the tuning problems, on one scale for "
    "all panels: purple is best, yellow is no better than not moving. Grey crosses diverged on "
    "some problem. The star is the best setting, which is the baseline everywhere else. Grey dots "
    "are settings that successive halving stopped, the darker the later; only those that ran in "
    "full have a colour, because scores of unequal length cannot be compared.",
    made=searched,
    needs=("tuning",),
    each=pairs_of_hyperparameters,
)
