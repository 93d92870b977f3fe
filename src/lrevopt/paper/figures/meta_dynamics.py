"""Figures 14 and 15: an optimizer that is momentum, and how it came to be (paper, appendix B)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerBase, HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.paper.contents import META_DYNAMICS, MOMENTUM_MIMIC
from lrevopt.plots.momentum import RING, eigenvalue_plane
from lrevopt.plots.panel import Arrays, Panel, Records, letter_panels, of
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOOKS,
    PATH_COLOR,
    VERMILLION,
    color_bar,
    from_zero,
    grid_of_panels,
    journal_style,
    shades,
)
from lrevopt.plots.textbook import update_curves

INSET = (0.5, 0.3)
"""Width and height of the inset of explained variance, in shares of the panel."""

STEPS = "viridis_r"
"""Meta-steps, from the first (yellow) to the last (purple), as in the paper."""

STAR: dict[str, Any] = {
    "marker": "*",
    "markersize": 10,
    "color": VERMILLION,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
    "linestyle": "none",
}
CROSS: dict[str, Any] = {
    "marker": "x",
    "markersize": 5.5,
    "color": BLACK,
    "markeredgewidth": 1.1,
    "linestyle": "none",
}
DIAMOND: dict[str, Any] = {
    "marker": "D",
    "markersize": 5,
    "color": BLUE,
    "markerfacecolor": "white",
    "markeredgewidth": 1.1,
    "linestyle": "none",
}
CURVES: dict[str, dict[str, Any]] = {
    "learned": LOOKS["learned"].line,
    "one_mode": {"color": GREEN, "linestyle": (0, (4, 2))},
    "one_momentum": {"color": VERMILLION, "linestyle": (0, (2, 1))},
    "momentum": LOOKS["momentum"].line,
    "analytic": {"color": BLACK, "linestyle": (0, (1, 1.5))},
}
TOGETHER: dict[str, Any] = {"color": VERMILLION, "linewidth": 1.1, "linestyle": (0, (4, 1.5))}
SEVERAL_MARKS: dict[type, HandlerBase] = {tuple: HandlerTuple(ndivide=None, pad=0.5)}
"""Legends: several marks of one thing."""
NAMES = {
    "learned": "learned optimizer",
    "one_mode": "its dominant mode, alone",
    "one_momentum": "its best fit by one momentum",
    "momentum": "tuned momentum",
    "analytic": "analytic optimum",
}


def example_paths(ax: Axes, record: MomentumMimic) -> None:
    """States of one example problem on the first two components; inset: explained variance."""
    ax.plot(*record.paths[..., :2].T, color=PATH_COLOR, linewidth=0.8, zorder=1)
    ax.plot(*record.paths[:, 0, :2].T, color=GREY, marker="^", markersize=4, linestyle="none")
    ax.plot(
        *record.fixed_point[:2], color=BLACK, marker="o", markersize=4.5, linestyle="none", zorder=3
    )
    first, second = (100 * share for share in record.explained_variance[:2])
    ax.set(xlabel=f"PC 1 ({first:.1f} %)", ylabel=f"PC 2 ({second:.1f} %)")
    ax.locator_params(nbins=5)
    ax.margins(0.06)
    # The upper part of the panel is the inset's.
    low, high = ax.get_ylim()
    ax.set_ylim(low, low + (high - low) / (0.86 - INSET[1]))
    inset = ax.inset_axes((1 - INSET[0], 0.99 - INSET[1], *INSET))
    count = np.arange(1, len(record.explained_variance) + 1)
    inset.bar(count, 100 * record.explained_variance, color=BLUE, width=0.7)
    inset.set(ylim=(0, 105), yticks=[0, 100], xticks=[1, len(count)])
    inset.set_xlabel("PC", labelpad=-6)
    inset.set_ylabel("variance, %", labelpad=1)


def mode_scatter(ax: Axes, record: MomentumMimic) -> None:
    """Learning rate and timescale of every mode, beside tuned and analytic momentum."""
    rates, momenta = record.learning_rates.real, np.abs(record.eigenvalues)
    ax.plot(rates, momenta, color=BLUE, marker="o", markersize=3.5, markeredgecolor="white",
            markeredgewidth=0.3, linestyle="none", zorder=2)  # fmt: skip
    ax.plot(rates[record.dominant_mode], momenta[record.dominant_mode], **RING, zorder=5)
    ax.plot(record.tuned["learning_rate"], record.tuned["momentum"], **STAR, zorder=3)
    ax.plot(record.optimum["learning_rate"], record.optimum["momentum"], **CROSS, zorder=4)
    ax.plot(record.together["learning_rate"], record.together["momentum"], **DIAMOND, zorder=2)
    ax.set(xlabel=r"learning rate Re $\alpha$", ylabel=r"momentum $|\lambda|$")
    ax.set_ylim(-0.03, max(1.03, 0.03 + momenta.max()))
    ax.margins(x=0.08)


def mimic_losses(ax: Axes, record: MomentumMimic) -> None:
    """Mean losses on the test problems; what diverged on any of them is named below."""
    lost = []
    for name in record.names:
        curve = record.curve(name)
        if np.all(np.isfinite(curve)):
            ax.plot(np.arange(curve.size), curve, **CURVES[name], zorder=3)
        else:
            lost.append(NAMES[name])
    note = [f"diverges: {', '.join(lost)}"] if lost else []
    ax.set(yscale="log", xlabel="\n".join(["inner step", *note]), ylabel="loss")
    ax.set_xlim(0, record.losses.shape[-1] - 1)


def component_updates(ax: Axes, record: MomentumMimic) -> None:
    """Update functions of the fixed point moved along the first component."""
    colors = shades("crest", len(record.shifts))
    update_curves(ax, record.gradients, record.shift_updates, colors)
    ax.set(xlabel="gradient $g$", ylabel=r"update $\Delta x$")


def mode_plane(ax: Axes, record: MomentumMimic) -> None:
    """Eigenvalues, with a ring around the dominant mode."""
    eigenvalue_plane(ax, record.eigenvalues, record.learning_rates, [record.dominant_mode])


@journal_style
def figure_14(panels: Sequence[Panel], run: Records) -> Figure:
    """Panels of the optimizer that is momentum, and a legend for all of them in a cell."""
    figure, axes = grid_of_panels(2, 3, height=2.3)
    *shown, key = axes.flat
    for ax, panel in zip(shown, panels, strict=True):
        panel.draw(ax, run)
    letter_panels(shown, [panel.heading(None) for panel in panels])
    key.set_axis_off()
    record = run.momentum_mimic
    meanings = _meanings(shades("crest", len(record.shifts)), record.names)
    key.legend(list(meanings.values()), list(meanings), handler_map=SEVERAL_MARKS,
               handlelength=3.6, loc="center left")  # fmt: skip
    return figure


def _meanings(colors: list[Any], names: Sequence[str]) -> dict[str, Line2D | tuple[Line2D, Line2D]]:
    """One legend for all panels, of the curves `names`: what has a mark and a line has both."""

    def mark(**look: Any) -> Line2D:
        plain: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
        return Line2D([], [], **plain | look)

    lines = {name: Line2D([], [], **look) for name, look in CURVES.items()}
    return {
        "states, one problem": Line2D([], [], color=PATH_COLOR),
        "initial state": mark(color=GREY, marker="^", markersize=4),
        "fixed point": mark(color=BLACK, marker="o", markersize=4.5),
        "moved against PC 1": Line2D([], [], color=colors[0]),
        "moved along PC 1": Line2D([], [], color=colors[-1]),
        "modes": mark(color=BLUE, marker="o", markersize=3.5),
        "all modes together": mark(**DIAMOND),
        NAMES["learned"]: lines["learned"],
        NAMES["one_mode"]: (mark(**RING), lines["one_mode"]),
        **{NAMES[name]: lines[name] for name in ("one_momentum",) if name in names},
        NAMES["momentum"]: (mark(**STAR), lines["momentum"]),
        NAMES["analytic"]: (mark(**CROSS), lines["analytic"]),
    }


def step_scale(record: MetaDynamics) -> Normalize:
    """Colour scale of meta-steps."""
    first, last = record.steps.min(), record.steps.max()
    return Normalize(first, last if last > first else first + 1)


def mode_history(ax: Axes, record: MetaDynamics) -> None:
    """Learning rate and timescale of every mode of every snapshot, the later the darker."""
    rates, momenta = record.learning_rates.real, np.abs(record.eigenvalues)
    colors = np.repeat(record.steps, rates.shape[1])
    scale = step_scale(record)
    ax.scatter(rates.ravel(), momenta.ravel(), c=colors, norm=scale, cmap=STEPS, s=6,
               linewidths=0, zorder=2, rasterized=True)  # fmt: skip
    ax.plot(record.optimum["learning_rate"], record.optimum["momentum"], **STAR, zorder=3)
    ax.set(xlabel=r"learning rate Re $\alpha$", ylabel=r"momentum $|\lambda|$")
    ax.margins(0.06)
    color_bar(ax, ScalarMappable(scale, STEPS), "meta-step", ticks=MaxNLocator(5))


def dominant_history(
    ax: Axes,
    record: MetaDynamics,
    values: Float[np.ndarray, " snapshot"],
    together: Float[np.ndarray, " snapshot"],
    best: float,
) -> None:
    """One number of the dominant mode over meta-training, that of all modes, and its optimum.

    Hollow where no fixed point was found.
    """
    scale = step_scale(record)
    ax.axhline(best, color=BLACK, linewidth=0.9, zorder=1)
    ax.plot(record.steps, values, color=GREY, linewidth=0.6, zorder=2)
    ax.plot(record.steps, together, **TOGETHER, zorder=4)
    colors = ScalarMappable(scale, STEPS).to_rgba(record.steps)
    faces = np.where(record.converged[:, None], colors, 1.0)
    ax.scatter(record.steps, values, facecolors=faces, edgecolors=list(colors), s=9,
               linewidths=0.7, zorder=3)  # fmt: skip
    ax.set(xlabel="meta-step")
    from_zero(ax)


def dominant_rates(ax: Axes, record: MetaDynamics) -> None:
    """Learning rate of the dominant mode over meta-training."""
    together, best = record.together()[0], record.optimum["learning_rate"]
    dominant_history(ax, record, record.dominant_learning_rates, together, best)
    ax.set_ylabel(r"learning rate $|\alpha|$")


def dominant_momenta(ax: Axes, record: MetaDynamics) -> None:
    """Size of the eigenvalue of the dominant mode over meta-training."""
    together, best = record.together()[1], record.optimum["momentum"]
    dominant_history(ax, record, record.dominant_momenta, together, best)
    ax.set_ylabel(r"momentum $|\lambda|$")


@journal_style
def figure_15(panels: Sequence[Panel], run: Records) -> Figure:
    """Panels of meta-training, and what their lines mean."""
    figure, axes = grid_of_panels(1, 3, height=2.2)
    for ax, panel in zip(axes[0], panels, strict=True):
        panel.draw(ax, run)
    letter_panels(axes[0], [panel.heading(None) for panel in panels])
    both: Any = Line2D([], [], **STAR), Line2D([], [], color=BLACK, linewidth=0.9)
    marks = [both, Line2D([], [], **TOGETHER)]
    names = ["analytic optimum", "all modes together (b, c)"]
    figure.legend(marks, names, ncols=2, handler_map=SEVERAL_MARKS, handlelength=3.6,
                  loc="outside upper center")  # fmt: skip
    return figure


def mean_losses(run: Records) -> Arrays:
    """Mean losses over problems, a row per optimizer."""
    record: MomentumMimic = run.momentum_mimic
    return {"mean_losses": np.stack([record.curve(name) for name in record.names])}


def together(run: Records) -> Arrays:
    """The momentum that all modes of a snapshot are together."""
    rates, momenta = run.meta_dynamics.together()
    return {"together/learning_rate": rates, "together/momentum": momenta}


MIMIC = (
    Panel(
        of(MOMENTUM_MIMIC.name, example_paths),
        ("momentum_mimic.explained_variance",),
        "States of the five parameters of one problem, from the initial state (triangle) to the "
        "fixed point, on the principal components of visited states; the inset shows how much of "
        "their variance each component explains.",
        "States",
        plane=("momentum_mimic.paths", "momentum_mimic.fixed_point"),
    ),
    Panel(
        of(MOMENTUM_MIMIC.name, component_updates),
        (
            "momentum_mimic.shifts",
            "momentum_mimic.gradients",
            "momentum_mimic.shift_updates",
        ),
        "Update functions of the fixed point moved along the first component: curves that are "
        "shifted and not bent are momentum's, as in Figure 2c.",
        "Along PC 1",
    ),
    Panel(
        of(MOMENTUM_MIMIC.name, mode_plane),
        (
            "momentum_mimic.eigenvalues",
            "momentum_mimic.learning_rates",
            "momentum_mimic.dominant_mode",
        ),
        "Eigenvalues at the fixed point, as in Figure 8; the ring marks the dominant mode, which "
        "gives most of the steady response.",
        "Modes",
    ),
    Panel(
        of(MOMENTUM_MIMIC.name, mode_scatter),
        ("momentum_mimic.tuned", "momentum_mimic.optimum", "momentum_mimic.together"),
        "The same modes as settings of momentum, beside tuned momentum (star) and the optimum from "
        "theory (cross); the diamond is the momentum that all modes are together, with their "
        "immediate and their total response.",
        "Modes as momenta",
    ),
    Panel(
        of(MOMENTUM_MIMIC.name, mimic_losses),
        ("momentum_mimic.names",),
        "Mean loss on test problems of the whole optimizer, of the ringed mode run alone, and of "
        "momentum. If one mode is all there is, its curve lies on the whole's; modes of opposite "
        "signs need each other.",
        "Losses",
        made=mean_losses,
    ),
)
"""Figure 14."""

DYNAMICS = (
    Panel(
        of(META_DYNAMICS.name, mode_history),
        ("meta_dynamics",),
        "Learning rate and timescale of every mode, the later in meta-training the darker, and the "
        "optimum from theory (star).",
        "All modes",
    ),
    Panel(
        of(META_DYNAMICS.name, dominant_rates),
        (),
        "Learning rate of the dominant mode, the one that gives most of the steady response, with "
        "the optimum as a line. Dashed: the momentum that all modes are together.",
        "Dominant mode",
        made=together,
        needs=("meta_dynamics",),
    ),
    Panel(
        of(META_DYNAMICS.name, dominant_momenta),
        (),
        "Its eigenvalue, likewise. Complex values are shown by their size; hollow points are "
        "snapshots where no fixed point was found.",
        "Dominant mode",
        needs=("meta_dynamics",),
    ),
)
"""Figure 15."""
