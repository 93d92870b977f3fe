"""How meta-training went: objective, selection scores, size of the meta-gradient (paper, D.2)."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.meta_training import History
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    PATH_COLOR,
    SKY,
    grid_of_panels,
    journal_style,
    letter_panels,
)

WINDOW = 51
"""Meta-steps in the running median that is drawn over noisy curves."""


def noisy_curve(ax: Axes, values: Float[np.ndarray, " step"], label: str) -> None:
    """A value per meta-step, and its running median; skipped steps leave gaps."""
    shown = np.where(np.isfinite(values), values, np.nan)
    steps = np.arange(shown.size)
    ax.plot(steps, shown, color=PATH_COLOR, linewidth=0.5, rasterized=True, label="each meta-step")
    median = pd.Series(shown).rolling(WINDOW, center=True, min_periods=1).median()
    ax.plot(steps, median, color=BLUE, label=f"running median of {WINDOW} meta-steps")
    # The logarithmic objective is negative.
    positive = bool(np.all(shown[np.isfinite(shown)] > 0))
    ax.set(xlabel="meta-step", ylabel=label, yscale="log" if positive else "linear")


def selection_curve(ax: Axes, history: History) -> None:
    """Scores of the snapshots on selection problems, with the one that was kept."""
    ax.plot(history.snapshot_steps, history.selection_scores, color=BLUE, marker="o",
            markersize=2, linewidth=0.8)  # fmt: skip
    ax.plot(history.snapshot_steps[history.selected], history.selection_scores[history.selected],
            marker="*", markersize=9, color=SKY, markeredgecolor=BLACK, markeredgewidth=0.6,
            linestyle="none", label="selected snapshot")  # fmt: skip
    ax.set(xlabel="meta-step", ylabel="mean loss / first loss", yscale="log")


@journal_style
def figure_training(history: History) -> Figure:
    """Objective of each batch (a), scores of snapshots (b), norm of the meta-gradient (c)."""
    figure, axes = grid_of_panels(1, 3, height=2.3)
    noisy_curve(axes[0, 0], history.objectives, "meta-objective of the batch")
    selection_curve(axes[0, 1], history)
    noisy_curve(axes[0, 2], history.gradient_norms, "norm of the meta-gradient")
    letter_panels(axes[0], ["Training batches", "Selection problems", "Meta-gradient"])
    handles = [line for ax in axes[0, :2] for line in ax.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
