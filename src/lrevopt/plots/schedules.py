"""Learning-rate schedules without gradients (paper, 5.3)."""

import numpy as np
from matplotlib.axes import Axes

from lrevopt.analysis.schedules import Schedule
from lrevopt.plots.panel import Arrays, Panel, Records, of
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    GREY,
    LOOKS,
    SKY,
    from_zero,
    is_narrow,
)


def autonomous_path(ax: Axes, record: Schedule) -> None:
    """Path of the state under zero gradient, among the slow points, on its own components."""
    path = record.path
    ax.plot(
        *record.slow_points.T,
        color=GREY,
        marker="o",
        markersize=2.8,
        alpha=0.7,
        markeredgewidth=0,
        linestyle="none",
        label="slow points",
    )
    ax.plot(
        *path.T,
        color=BLUE,
        linewidth=0.8,
        marker="o",
        markersize=2.2,
        markeredgewidth=0,
        zorder=3,
        label="path without gradient (a dot per step)",
    )
    ax.plot(
        *path[0],
        marker="^",
        markersize=5.5,
        color=SKY,
        markeredgecolor=BLACK,
        markeredgewidth=0.6,
        linestyle="none",
        zorder=4,
        label="initial state",
    )
    ax.plot(
        *record.fixed_point,
        marker="s",
        markersize=4.5,
        color=BLACK,
        linestyle="none",
        zorder=4,
        label="fixed point",
    )
    shown = np.concatenate([path, record.fixed_point[None]])
    low, high = shown.min(axis=0), shown.max(axis=0)
    if np.isfinite([low, high]).all() and (high > low).all():
        # Near the path: slow points lie far out, and would shrink it to a dot.
        margin = 0.25 * (high - low)
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]))
        ax.set(ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.set(xlabel="PC 1 of the path", ylabel="PC 2 of the path")
    ax.locator_params(nbins=4 if is_narrow(ax) else 5)


def schedule(ax: Axes, record: Schedule, momentum_rate: float | None) -> None:
    """Effective learning rate along the zero-gradient path, beside tuned momentum's rate."""
    rates = record.rates
    ax.plot(np.arange(rates.size), rates, color=BLUE)
    momentum_line(ax, momentum_rate)
    ax.set(xlabel="inner step", ylabel="effective learning rate", xlim=(0, rates.size - 1))
    if is_narrow(ax):
        ax.locator_params(axis="x", nbins=4)
    from_zero(ax)


def momentum_line(ax: Axes, rate: float | None) -> None:
    """Dashed line at the learning rate of tuned momentum, where it is known."""
    if rate is not None:
        ax.axhline(
            rate,
            color=LOOKS["momentum"].color,
            linestyle=(0, (4, 2)),
            linewidth=1.0,
            label="learning rate of tuned momentum",
            zorder=1,
        )


def momentum_rate(run: Records) -> float | None:
    """Learning rate of tuned momentum, for a run whose baselines were tuned."""
    searched = (getattr(run, "tuning", None) or {}).get("momentum")
    return None if searched is None else float(searched.best["learning_rate"])


def made_momentum_rate(run: Records) -> Arrays:
    """The same as a number of a panel."""
    rate = momentum_rate(run)
    return {} if rate is None else {"momentum_rate": np.asarray(rate)}


PATH = Panel(
    of("mechanisms.schedule", autonomous_path),
    (
        "mechanisms.schedule.path",
        "mechanisms.schedule.slow_points",
        "mechanisms.schedule.fixed_point",
    ),
    "Path of the state when every gradient is 0, from the initial state (triangle) to the "
    "fixed point (square), on its own principal components, among slow points (grey).",
)
SCHEDULE = Panel(
    lambda ax, run: schedule(ax, run.mechanisms.schedule, momentum_rate(run)),
    ("mechanisms.schedule.rates",),
    "Effective learning rate, minus the slope of the update function at zero gradient, along "
    "that path: a learning-rate schedule that runs without input. Dashed: the learning rate of "
    "tuned momentum.",
    made=made_momentum_rate,
)
