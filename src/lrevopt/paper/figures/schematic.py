"""Figure 16: a learned optimizer, unrolled (paper, equations 1 and 2, and section D.2)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREY,
    PAGE,
    VERMILLION,
    Drawing,
    journal_style,
)

Point = tuple[float, float]

LEARNED_FILL, PROBLEM_FILL = "#D6E8F5", "#F1F1F1"
STRIDE = 1.8
"""Inches from one inner step to the next. All coordinates are inches on the page."""
HEIGHT = 2.9
TOP, MIDDLE, BOTTOM, SCORE = 2.15, 1.45, 0.78, 0.22
"""Heights of the rows: states, gradients and readouts, parameters, meta-objective."""
STEPS = 3


def box(
    ax: Axes, fixed_point: Point, text: str, *, learned: bool, size: Point = (0.52, 0.34)
) -> None:
    """A box with a label, blue if it is learned."""
    x, y = fixed_point
    width, height = size
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height,
            boxstyle="round,pad=0,rounding_size=0.06", linewidth=0.8,
            edgecolor=BLUE if learned else GREY,
            facecolor=LEARNED_FILL if learned else PROBLEM_FILL, zorder=2,
        )
    )  # fmt: skip
    ax.text(x, y, text, ha="center", va="center", zorder=3)


def node(
    ax: Axes, fixed_point: Point, text: str, radius: float = 0.17, fill: str = "white"
) -> None:
    """A round node with a label."""
    ax.add_patch(
        Circle(fixed_point, radius, facecolor=fill, edgecolor=GREY, linewidth=0.8, zorder=2)
    )
    ax.text(*fixed_point, text, ha="center", va="center", zorder=3)


def arrow(ax: Axes, start: Point, end: Point, *, color: str = BLACK, dashed: bool = False) -> None:
    """A straight arrow."""
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=6, linewidth=0.8, color=color,
            shrinkA=0, shrinkB=0, linestyle=(0, (3, 2)) if dashed else "-", zorder=1,
        )
    )  # fmt: skip


def inner_step(ax: Axes, step: int, left: float) -> None:
    """One inner step, from parameters `x^k` and state `h^k` to `x^(k+1)` and `h^(k+1)`."""
    turn = left + 0.9  # where the new state is read out
    node(ax, (left, BOTTOM), f"$x^{step}$")
    arrow(ax, (left, BOTTOM + 0.17), (left, MIDDLE - 0.17))
    box(ax, (left, MIDDLE), r"$\nabla f$", learned=False)
    arrow(ax, (left, MIDDLE + 0.17), (left, TOP - 0.17))
    ax.text(left + 0.06, (MIDDLE + TOP) / 2, f"$g^{step}$", va="center")
    box(ax, (left, TOP), "GRU $F$", learned=True)
    arrow(ax, (left + 0.26, TOP), (left + STRIDE - 0.26, TOP))
    ax.text(left + 0.58, TOP + 0.05, f"$h^{step + 1}$", ha="center", va="bottom")
    arrow(ax, (turn, TOP), (turn, MIDDLE + 0.17))
    box(ax, (turn, MIDDLE), "readout $w$", learned=True, size=(0.68, 0.34))
    arrow(ax, (turn, MIDDLE - 0.17), (turn, BOTTOM + 0.1))
    ax.text(turn + 0.06, (MIDDLE + BOTTOM) / 2, rf"$\Delta x^{step}$", va="center")
    node(ax, (turn, BOTTOM), "$+$", radius=0.1)
    arrow(ax, (left + 0.17, BOTTOM), (turn - 0.1, BOTTOM))
    arrow(ax, (turn + 0.1, BOTTOM), (left + STRIDE - 0.17, BOTTOM))
    arrow(ax, (left, BOTTOM - 0.17), (left, SCORE + 0.13), color=GREY)
    ax.text(left + 0.06, (BOTTOM - 0.17 + SCORE + 0.13) / 2, f"$f(x^{step})$", va="center")


@journal_style
def figure_16() -> Figure:
    """Schematic: problem, gradient, GRU state, readout, step; unrolled over inner steps."""
    figure = Drawing(figsize=(PAGE, HEIGHT))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, PAGE), ylim=(0, HEIGHT), aspect="equal")
    ax.set_axis_off()
    first = 1.25
    for step in range(STEPS):
        inner_step(ax, step, first + step * STRIDE)
    last = first + STEPS * STRIDE
    ax.text(last, TOP, r"$\cdots$", ha="center", va="center", fontsize=10)
    ax.text(last, BOTTOM, r"$\cdots$", ha="center", va="center", fontsize=10)
    box(ax, (0.45, TOP), "$h^0$", learned=True, size=(0.4, 0.34))
    arrow(ax, (0.65, TOP), (first - 0.26, TOP))
    box(ax, (0.45, BOTTOM), "problem\n$f,\\ x^0$", learned=False, size=(0.68, 0.44))
    arrow(ax, (0.79, BOTTOM), (first - 0.17, BOTTOM))
    end = last - 0.55
    box(
        ax,
        ((first + end) / 2, SCORE),
        "meta-objective: mean of $f(x^k)\\,/\\,f(x^0)$",
        learned=False,
        size=(end - first + 0.6, 0.26),
    )
    arrow(ax, (last - 0.3, HEIGHT - 0.32), (0.45, HEIGHT - 0.32), color=VERMILLION, dashed=True)
    ax.text(
        (0.45 + last) / 2,
        HEIGHT - 0.27,
        "meta-gradient: backpropagation through all inner steps trains what is blue",
        ha="center",
        va="bottom",
        color=VERMILLION,
    )
    return figure
