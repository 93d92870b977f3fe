"""What each mechanism is worth, and what tells layers apart (beyond the paper)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lrevopt.plots.panel import Panel, Records, letter_panels, of, several
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PALE,
    PURPLE,
    VERMILLION,
    grid_of_panels,
    journal_style,
    readable,
    shades,
    short,
    zero_lines,
)
from lrevopt.studies.gradient_replay import EXCHANGED_HALFWAY, GradientReplay
from lrevopt.studies.interventions import (
    ADAPTATION,
    CLIPPING,
    LINEAR,
    MOMENTUM,
    SCHEDULE,
    Interventions,
)

MECHANISM_COLORS = {
    MOMENTUM: ORANGE,
    CLIPPING: PURPLE,
    SCHEDULE: GREEN,
    ADAPTATION: BLUE,
    LINEAR: VERMILLION,
}

WIDEST = 100.0
"""Ratios are shown up to this factor in either direction; an arrow and a number stand for more."""

MARGIN = 1.25
"""Factor of the axis beyond what is shown."""

LABELS = {
    "no_slow_memory": "no memory of the dominant mode",
    "gain_at_once": "its steady gain at once",
    "straight_updates": "straight updates",
    "straight_states": "straight updates and states",
    "started_at_rest": "started at rest",
    "one_update_function": "one update function",
    "slow_memory_only": "memory of the dominant mode only",
    "linear": "linear",
    "four_modes": "linear, four modes",
    "two_modes": "linear, two modes",
    "one_mode": "linear, one mode",
    "replayed": "one mode, written schedule",
    "exchanged": "exchanged",
    "exchanged_halfway": "exchanged halfway",
    "one_size": "of one size",
    "one_size_at_each_step": "of one size at each step",
    "random_order": "in random order",
    "random_signs": "of random signs",
    "one_sign": "of one sign",
    "own": "as they are",
}
"""Short names of interventions and of changes of recorded gradients."""


def costs(ax: Axes, record: Interventions, names: Sequence[str] | None = None) -> None:
    """Ratio of meta-objectives, changed over original, with its interval; one row per name.

    By default a row for each intervention of the record, in their order.

    Diverged runs have no place on the axis: their number stands beside it, and the marker of what
    is left of the others is hollow.
    """
    names = record.names if names is None else names
    places = {name: len(names) - 1 - row for row, name in enumerate(names)}
    ax.axvline(1, color=BLACK, linewidth=0.8, zorder=1)
    for index, name in enumerate(record.names):
        place, diverged = places[name], int(record.diverged[index])
        color = MECHANISM_COLORS.get(record.mechanisms[index], GREY)
        ratio, low, high = np.exp([
            record.log_ratios[index], record.log_ratio_lows[index], record.log_ratio_highs[index],
        ])  # fmt: skip
        if diverged:
            ax.annotate(str(diverged), (1, place), (20, 0), xycoords=("axes fraction", "data"),
                        textcoords="offset points", ha="right", va="center")  # fmt: skip
        if not np.isfinite(ratio):
            if record.without_ratio(index):
                ax.annotate("no ratio", (1, place), ha="center", va="center")
            continue
        shown = float(np.clip(ratio, 1 / WIDEST, WIDEST))
        ends = np.clip([low, high], 1 / WIDEST, WIDEST)
        beyond = ">" if ratio > WIDEST else "<" if ratio < 1 / WIDEST else ""
        # At the edge of the axis, where no dot hides it; a ratio beyond has an arrow of its own.
        if low < 1 / WIDEST and beyond != "<":
            ends[0] /= MARGIN
            ax.plot(ends[0], place, marker=CARETLEFT, color=color, markersize=4.2, clip_on=False)
        if high > WIDEST and beyond != ">":
            ends[1] *= MARGIN
            ax.plot(ends[1], place, marker=CARETRIGHT, color=color, markersize=4.2, clip_on=False)
        ax.plot(ends, [place, place], color=color, linewidth=1.4, zorder=2)
        face = "white" if diverged else color
        ax.plot(shown, place, beyond or "o", color=color, markerfacecolor=face, markersize=4.2,
                zorder=3, clip_on=False)  # fmt: skip
        if beyond:
            left = beyond == ">"
            away, side = (-6, "right") if left else (6, "left")
            ax.annotate(_powers(ratio), (ends[0] if left else ends[1], place), (away, 0),
                        textcoords="offset points", ha=side, va="center", zorder=4,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip
    label, lost = "meta-objective over original", record.original_diverged
    if lost:
        label += f"\noriginal diverged on {lost} of {record.problems}"
    if record.diverged.any():
        ax.annotate(f"diverged\nof {record.problems}", (1, 1), (24, 2), xycoords="axes fraction",
                    textcoords="offset points", ha="right", va="bottom")  # fmt: skip
    ax.set(xscale="log", xlabel=label, ylim=(-0.6, len(names) - 0.4))
    _limits(ax, record)
    ax.set_yticks(list(places.values()), [LABELS.get(name, readable(name)) for name in places])
    ax.tick_params(axis="y", length=0)
    for place in places.values():
        ax.axhline(place, color=PALE, linewidth=0.5, zorder=0)


def _limits(ax: Axes, record: Interventions) -> None:
    """An axis as wide as what is shown, at least from a half to 2."""
    seen = np.exp(np.concatenate([record.log_ratio_lows, record.log_ratio_highs]))
    seen = np.clip(seen[np.isfinite(seen)], 1 / WIDEST, WIDEST)
    low, high = seen.min(initial=0.625) / MARGIN, MARGIN * seen.max(initial=1.6)
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 30 else (1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _powers(value: float) -> str:
    """A number with its power of ten, where it has more than four digits."""
    if 1e-3 < value < 1e4:
        return short(value)
    leading, power = f"{value:.0e}".split("e")
    return rf"${leading}\times10^{{{int(power)}}}$"


@journal_style
def figure_interventions(runs: Sequence[Records]) -> Figure:
    """What each removal costs, one panel per run with the same rows; colours are mechanisms.

    Raises `ValueError` for no run.
    """
    records: list[Interventions] = [run.interventions for run in several(runs)]
    names = list(dict.fromkeys(name for record in records for name in record.names))
    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    height = 0.8 + 0.17 * len(names)
    figure, axes = grid_of_panels(rows, columns, height=height, width=PAGE, sharey=True)
    panels = list(axes.flat)
    for ax, record in zip(panels, records, strict=False):
        costs(ax, record, names)
    for ax in panels[len(runs) :]:
        ax.set_axis_off()
    letter_panels(panels[: len(runs)], [run.title for run in runs])
    figure.legend(handles=mechanism_marks(records), loc="outside upper center", ncols=5,
                  columnspacing=1.0, handletextpad=0.4, handlelength=1.4,
                  title="what is taken away")  # fmt: skip
    return figure


def mechanism_marks(records: Sequence[Interventions]) -> list[Line2D]:
    """Colours of the mechanisms that are taken away."""
    mechanisms = dict.fromkeys(one for record in records for one in record.mechanisms)
    return [
        Line2D([], [], color=MECHANISM_COLORS.get(one, GREY), marker="o", markersize=4.2,
               linewidth=1.4, label=one)
        for one in mechanisms
    ]  # fmt: skip


def rates_of_groups(ax: Axes, record: GradientReplay) -> None:
    """Effective learning rate of each group under its own gradients."""
    colors = shades("viridis", len(record.groups), 0.0, 0.9)
    for name, rates, color in zip(record.groups, record.rates[0], colors, strict=True):
        dashes = (0, (3, 1)) if name.endswith("bias") else "-"
        ax.plot(rates, color=color, linestyle=dashes, label=name)
    zero_lines(ax)
    ax.set(xlabel="inner step", ylabel="effective learning rate")
    ax.set_xlim(0, record.rates.shape[-1] - 1)


def remaining_separation(ax: Axes, record: GradientReplay) -> None:
    """How much of the difference between groups is left when their gradients are changed."""
    rows = list(enumerate(record.names))
    ax.axvline(1, color=BLACK, linewidth=0.8, zorder=1)
    ax.axvline(0, color=PALE, linewidth=0.8, zorder=0)
    for place, (index, _) in zip(reversed(range(len(rows))), rows, strict=True):
        ends = record.remaining_lows[index], record.remaining_highs[index]
        ax.plot(ends, [place, place], color=BLUE, linewidth=1.4, zorder=2)
        ax.plot(record.remaining[index], place, "o", color=BLUE, markersize=4.2, zorder=3)
        ax.axhline(place, color=PALE, linewidth=0.5, zorder=0)
    ax.set_yticks(
        list(reversed(range(len(rows)))), [LABELS.get(name, readable(name)) for _, name in rows]
    )
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="share of separation left", ylim=(-0.6, len(rows) - 0.4))
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]) - 0.04)


def following(ax: Axes, record: GradientReplay) -> None:
    """How fast groups take over the rates of another group whose gradients they get halfway."""
    shares = record.followed[EXCHANGED_HALFWAY]
    steps = np.arange(shares.size)
    ax.axhline(1, color=BLACK, linewidth=0.8, zorder=1)
    zero_lines(ax)
    ax.axvline((shares.size - 1) // 2, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)))
    ax.plot(steps, shares, color=BLUE)
    ax.set(xlabel="inner step", ylabel="relative learning rate")
    ax.set_xlim(0, shares.size - 1)
    low, high = (float(end(shares[np.isfinite(shares)], initial=1.0)) for end in (np.min, np.max))
    ax.set_ylim(min(-0.15, 1.05 * low), max(1.25, 1.05 * high))


COSTS = Panel(
    of("interventions", costs),
    (
        "interventions.names",
        "interventions.mechanisms",
        "interventions.log_ratios",
        "interventions.log_ratio_lows",
        "interventions.log_ratio_highs",
        "interventions.original_diverged",
        "interventions.diverged",
    ),
    "Each row takes something away from the learned optimizer and runs what is "
    "left on the test problems; the colour says which mechanism that belongs to. Dots are the "
    "geometric mean, over problems, of its meta-objective over the original's, bars 95 % intervals "
    "of that mean, on a logarithmic axis: at 1 nothing is lost, to the right the mechanism was "
    "worth something. Arrows with a number stand for values beyond the axis, bars with an "
    "arrowhead for intervals that go on beyond it. Where runs diverged, "
    "their number stands at the right, and the hollow dot is of the others. Where the original "
    "itself diverged, its number stands below the axis, and dots leave those problems out.",
)
REPLAYED_RATES = Panel(
    of("gradient_replay", rates_of_groups),
    ("gradient_replay.groups", "gradient_replay.rates"),
    "Effective learning rate of the states of each group of parameters during test runs, mean "
    "over parameters and problems; dashed lines are biases. All states start alike: what differs "
    "is the gradients they meet.",
)
SEPARATION = Panel(
    of("gradient_replay", remaining_separation),
    (
        "gradient_replay.names",
        "gradient_replay.separations",
        "gradient_replay.remaining",
        "gradient_replay.remaining_lows",
        "gradient_replay.remaining_highs",
    ),
    "These gradients, changed in one property and replayed to fresh states: how much of the "
    "separation between groups is left, with 95 % intervals; at 1 the property had not told them "
    "apart.",
    "Gradients changed",
)
EXCHANGED = Panel(
    of("gradient_replay", following),
    ("gradient_replay.followed",),
    "Groups that are given another group's gradients from the middle of the run (dotted line) on: "
    "0 is the learning rate with their own gradients, 1 with those of the other group.",
    "Exchanged halfway",
)
