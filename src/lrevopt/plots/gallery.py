"""Well-known optimizers beside each other: update functions and eigenvalues of each."""

import string
from typing import Any

import numpy as np
from jaxtyping import Complex
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from lrevopt.plots.style import (
    GREY,
    PAGE,
    Drawing,
    journal_style,
    readable,
    shades,
    short,
    zero_lines,
)
from lrevopt.studies.gallery import Gallery
from lrevopt.text import number, signed_complex

COLUMNS = 3

FAINTEST = 1e-6
"""Learning rate of a mode, over the largest of its optimizer, below which its mark is hollow."""

RATE_COLORS = ScalarMappable(LogNorm(FAINTEST, 1), "flare")
"""Colours of learning rates over the largest."""

CIRCLE: dict[str, Any] = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (3, 2))}
"""The unit circle."""

WINDOW, SHAPE = (-0.25, 1.35), 1.35
"""Real parts that are shown at least, and height over width of the panel."""

LABELS = {
    "sgd": "SGD",
    "rprop": "RProp",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adamax": "AdaMax",
    "amsgrad": "AMSGrad",
    "adabelief": "AdaBelief",
    "nadam": "NAdam",
    "radam": "RAdam",
}
"""Names as their authors write them, where that is not one capital."""


def update_panel(ax: Axes, gallery: Gallery, place: int) -> None:
    """Update functions of one optimizer at the steps shown, from light to dark.

    Both axes end where the numbers do, and have these ends as their ticks.
    """
    gradients, updates = gallery.gradients[place], gallery.updates[place]
    reach, largest = gradients[-1], np.abs(updates).max()
    largest = largest if largest > 0 else 1.0
    zero_lines(ax)
    for update, color in zip(updates, shades("crest", len(updates)), strict=True):
        ax.plot(gradients, update, color=color, linewidth=1.1)
    ax.set(xlim=(-reach, reach), ylim=(-1.1 * largest, 1.1 * largest))
    ax.set_xticks([-reach, 0, reach], [short(-reach), "0", short(reach)])
    ax.set_yticks([-largest, 0, largest], [short(-largest), "0", short(largest)])
    ax.tick_params(axis="y", pad=1)


def mode_panel(
    ax: Axes, eigenvalues: Complex[np.ndarray, " mode"], rates: Complex[np.ndarray, " mode"]
) -> None:
    """Eigenvalues in the right part of the unit circle, coloured by learning rate.

    Below, those that are not 0 are written. Modes at 0 without a learning rate, mostly the update
    itself, are left out.
    """
    sizes = np.abs(rates)
    largest = sizes.max() if sizes.max() > 0 else 1.0  # NaN is not above 0
    zero_lines(ax)
    ax.add_patch(Circle((0, 0), 1, fill=False, **CIRCLE))
    for index in np.argsort(sizes, kind="stable"):  # the largest on top
        eigenvalue, rate = eigenvalues[index], rates[index]
        if eigenvalue or rate:
            look = mark_of(rate, sizes[index] / largest)
            ax.plot(eigenvalue.real, eigenvalue.imag, **look)
    left = min(WINDOW[0], eigenvalues.real.min() - 0.15)
    right = max(WINDOW[1], eigenvalues.real.max() + 0.15)
    half = max(SHAPE * (right - left) / 2, np.abs(eigenvalues.imag).max() + 0.15)
    ax.set(xlim=(left, right), ylim=(-half, half), aspect="equal", anchor="N", xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    written = [signed_complex(value) for value in eigenvalues if value] or ["0"]
    ax.set_xlabel(rf"$\lambda$: {', '.join(written)}", fontsize=7, labelpad=1)


def mark_of(rate: complex, share: float) -> dict[str, Any]:
    """How a mode is marked, by its learning rate and the share this is of the largest."""
    plain: dict[str, Any] = {"marker": "o", "markersize": 4.8, "linestyle": "none", "zorder": 3}
    if np.isnan(share):
        return plain | {"marker": "x", "color": GREY}
    if share < FAINTEST:
        return plain | {"color": "white", "markeredgecolor": GREY, "zorder": 2}
    marker = "v" if rate.real < 0 else "o"
    color = RATE_COLORS.get_cmap()(RATE_COLORS.norm(np.asarray(share)))
    return plain | {"marker": marker, "color": color, "markeredgecolor": "white",
                    "markeredgewidth": 0.3}  # fmt: skip


@journal_style
def figure_gallery(gallery: Gallery) -> Figure:
    """One panel per optimizer: update functions on the left, eigenvalues on the right."""
    columns = min(COLUMNS, len(gallery.names))
    rows = -(-len(gallery.names) // columns)
    size = (PAGE * columns / COLUMNS, 1.15 + 1.42 * rows)
    figure = Drawing(figsize=size, layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1.2, 1] * columns)
    for ax in grid.flat[2 * len(gallery.names) :]:
        ax.set_axis_off()
    left, right = grid[:, ::2].flat, grid[:, 1::2].flat
    for place, name in enumerate(gallery.names):
        update_panel(left[place], gallery, place)
        mode_panel(right[place], gallery.eigenvalues[name], gallery.mode_rates[name])
        letter, label = string.ascii_lowercase[place], LABELS.get(name, readable(name))
        left[place].set_title(rf"$\mathbf{{({letter})}}$ {label}")
        rate, score = gallery.learning_rates[place], gallery.scores[place]
        right[place].set_title(f"rate {number(rate, 2)}", loc="right", fontsize=7)
        right[place].set_xlabel(f"{right[place].get_xlabel()}\nscore {number(score, 2)}")
        if place % columns == 0:
            left[place].set_ylabel(r"update $\Delta x$", labelpad=0)
        if place + columns >= len(gallery.names):
            left[place].set_xlabel("gradient $g$")
    figure.align_ylabels(grid[:, 0])
    label = r"learning rate $|\alpha|$ of a mode, over the largest of its optimizer"
    figure.colorbar(RATE_COLORS, ax=grid, location="bottom", label=label, aspect=40, pad=0.01,
                    shrink=0.6)  # fmt: skip
    figure.legend(handles=_marks(gallery), loc="outside upper center", ncols=5)
    return figure


def _marks(gallery: Gallery) -> list[Line2D]:
    colors = shades("crest", len(gallery.shown))
    lines = [
        Line2D([], [], color=color, label=f"after {step} updates")
        for step, color in zip(gallery.shown, colors, strict=True)
    ]
    kinds = {
        "mode": mark_of(1.0, 1.0),
        "negative rate": mark_of(-1.0, 1.0),
        r"rate below $10^{-6}$": mark_of(0.0, 0.0),
    }
    if any(gallery.inseparable):
        kinds["no rate of its own"] = mark_of(np.nan, np.nan)
    marks = [Line2D([], [], label=label, **look) for label, look in kinds.items()]
    circle = Line2D([], [], label="unit circle", **CIRCLE)
    return [*lines, *marks, circle]


GALLERY_CAPTION = (
    "One panel per optimizer. Left: update functions of a typical parameter at five moments of its "
    "run, the later the darker. Curves that are shifted up and down mean momentum, curves that "
    "tilt adaptation, curves that bend clipping. Right: eigenvalues of the last of these updates "
    "beside the unit circle; the colour is the learning rate of the mode over the largest of the "
    "optimizer, hollow marks have less than a millionth of it, triangles a negative one."
)
