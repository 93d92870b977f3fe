"""One page for one optimizer on one task (beyond the paper)."""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.plots.adaptation import ARMS
from lrevopt.plots.momentum import eigenvalue_plane
from lrevopt.plots.panel import letter_panels
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PAGE,
    VERMILLION,
    Drawing,
    from_zero,
    journal_style,
    zero_lines,
)
from lrevopt.studies.scorecard import ENTRIES, Scorecard, in_words, sentences
from lrevopt.text import number

RATE = "effective learning rate\n(x / gradient)"

WIDE = 30.0
"""Rates that span a larger factor are shown on a logarithmic axis."""

NARROW = 30.0
"""A knee is invisible on a linear axis that reaches further than this many knees."""

LINE, NOTE_WIDTH = 0.15, 125
"""Height of a line of the table in inches, and characters in a line below it."""

ROWS = -(-len(ENTRIES) // 2)
"""Rows of the table."""


def modes(ax: Axes, card: Scorecard) -> None:
    """Eigenvalues at the fixed point; rings around the leading modes."""
    if card.eigenvalues.size:
        eigenvalue_plane(ax, card.eigenvalues, card.learning_rates, card.leading.tolist(),
                         numbered=True, bar_below=True)  # fmt: skip
    else:
        _say(ax, card.reasons["timescale"])


def update_functions(ax: Axes, card: Scorecard) -> None:
    """Updates of the initial state and of visited ones, out to the largest gradient met.

    The gradient axis is logarithmic beyond a knee that a linear one would not show.
    """
    zero_lines(ax)
    ax.plot(card.gradients, card.initial_update, color=BLUE, label="initial state", zorder=4)
    for index, later in enumerate(card.later_updates):
        label = None if index else "later states"
        ax.plot(card.gradients, later, color=GREY, linewidth=0.6, zorder=2, label=label)
    _knee(ax, card)
    drawn = np.abs(np.concatenate([card.initial_update[None], card.later_updates]))
    top = drawn.max(initial=0.0, where=np.isfinite(drawn))
    if top > 0:
        ax.set_ylim(-1.15 * top, 2.2 * top)  # room for the legend
    ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")
    end = card.gradients[-1]
    if 0 < card.knee < end / NARROW:
        ax.set_xscale("symlog", linthresh=card.knee)
        ticks = (-end, 0, end)
        ax.set_xticks(ticks, [number(tick, 2) for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("gradient $g$ (log beyond the knee)")
    ax.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)


def gradients_met(ax: Axes, card: Scorecard) -> None:
    """Density of met gradients, on the axis of the update functions."""
    density = np.where(card.density > 0, card.density, np.nan)
    ax.bar(card.edges[:-1], density, np.diff(card.edges), align="edge", color="#B7C4CF")
    _knee(ax, card)
    ax.set(yscale="log", xlabel="gradient $g$", ylabel="density (1 / gradient)")
    ax.set_ylim(bottom=np.nanmin(density) / 3)


def _knee(ax: Axes, card: Scorecard) -> None:
    for sign in (-1, 1) if np.isfinite(card.knee) else ():
        ax.axvline(sign * card.knee, color=VERMILLION, linewidth=0.9, linestyle=(0, (3, 1.5)),
                   label=None if sign < 0 else "knee", zorder=3)  # fmt: skip
    ax.set_xlim(card.gradients[0], card.gradients[-1])
    ax.locator_params(axis="x", nbins=4)


def schedule(ax: Axes, card: Scorecard) -> None:
    """Effective learning rate along the path without gradient."""
    ax.plot(np.arange(card.schedule_rates.size), card.schedule_rates, color=BLUE)
    ax.set(xlabel="inner step", ylabel=RATE, xlim=(0, card.schedule_rates.size - 1))
    _rate_axis(ax, card.schedule_rates)


def adaptation(ax: Axes, card: Scorecard) -> None:
    """Effective learning rate under held gradients; hollow where no fixed point was reached."""
    sizes = np.abs(card.held_gradients)
    for sign, (name, color, marker) in ARMS.items():
        arm = sign * card.held_gradients > 0
        ax.plot(sizes[arm], card.held_rates[arm], color=color, linewidth=0.8, zorder=2)
        for reached, face in ((True, color), (False, "white")):
            shown = arm & (card.held_converged == reached)
            ax.plot(sizes[shown], card.held_rates[shown], marker, color=color, markersize=3,
                    markerfacecolor=face, label=name if reached else None, zorder=3)  # fmt: skip
    ax.set(xscale="log", xlabel="held gradient, size $|g^*|$", ylabel=RATE)
    _rate_axis(ax, card.held_rates[sizes > 0])
    ax.legend(loc="best")


def _rate_axis(ax: Axes, rates: np.ndarray) -> None:
    finite = rates[np.isfinite(rates)]
    if finite.size and finite.min() > 0 and finite.max() > WIDE * finite.min():
        ax.set_yscale("log")
    else:
        from_zero(ax)


def curvature_response(ax: Axes, card: Scorecard) -> None:
    """Spectral radius of state and parameter together, over curvatures of a quadratic."""
    if not card.curvatures.size:
        _say(ax, card.reasons["largest_stable"])
        return
    ax.axhline(1, color=BLACK, linewidth=0.8, zorder=1)
    ax.plot(card.curvatures, card.radii, color=BLUE, zorder=2)
    ax.plot(card.fastest, card.fastest_radius, "v", color=GREEN, markersize=5, zorder=3,
            label="fastest", clip_on=False)  # fmt: skip
    for end in {card.stable_up_to, card.largest_stable} - {0.0, np.inf}:
        label = "stable up to" if end == card.stable_up_to else None
        ax.plot(end, 1, "s", color=VERMILLION, markersize=4, zorder=3, label=label)
    ax.set(xscale="log", xlabel="curvature (gradient / x)", ylim=(0, 1.5))
    ax.set(ylabel="spectral radius\n(per update)", xlim=(card.curvatures[0], card.curvatures[-1]))
    ax.legend(loc="lower left")


def _say(ax: Axes, reason: str) -> None:
    """A panel without numbers says why."""
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, textwrap.fill(f"not available: {reason}", 24), ha="center", va="center",
            transform=ax.transAxes, color=GREY)  # fmt: skip


def table(ax: Axes, card: Scorecard) -> None:
    """All numbers with their units, in two columns, and why some are missing."""
    ax.set_axis_off()
    below = _notes(card)
    lines = ROWS + 0.5 + len(below)
    for index, (name, entry) in enumerate(ENTRIES.items()):
        column, row = divmod(index, ROWS)
        height = 1 - row / lines
        ax.text(0.51 * column, height, entry.label, va="top", color=GREY)
        ax.text(0.51 * column + 0.26, height, in_words(card, name), va="top")
    for index, line in enumerate(below):
        ax.text(0, 1 - (ROWS + 0.5 + index) / lines, line, va="top", color=GREY)
    for text in ax.texts:
        text.set_in_layout(False)  # panels need not make room beside the page for it


def _notes(card: Scorecard) -> list[str]:
    return [
        line
        for place, sentence in enumerate(sentences(card), 1)
        for line in textwrap.wrap(f"[{place}] {sentence}.", NOTE_WIDTH)
    ]


@journal_style
def figure_scorecard(card: Scorecard, title: str) -> Figure:
    """Six panels and a table of one scorecard.

    Modes (a), update functions (b), gradients met (c), rates without gradient (d), rates under
    held gradients (e), curvature response (f).
    """
    panel, text = 2.1, LINE * (ROWS + 1 + len(_notes(card)))
    figure = Drawing(figsize=(PAGE, 2 * panel + text + 0.25), layout="constrained")
    places = figure.add_gridspec(3, 3, height_ratios=[panel, panel, text])
    axes = [figure.add_subplot(places[row, column]) for row in range(2) for column in range(3)]
    panels = {
        "Modes": modes,
        "Update functions": update_functions,
        "Gradients met": gradients_met,
        "Without gradient": schedule,
        "Under held gradients": adaptation,
        "On quadratics": curvature_response,
    }
    for ax, draw in zip(axes, panels.values(), strict=True):
        draw(ax, card)
    letter_panels(axes, list(panels))
    table(figure.add_subplot(places[2, :]), card)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
