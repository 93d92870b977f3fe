"""Course of meta-training: objective, selection scores, norm of the meta-gradient (paper, D.2)."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from lrevopt.meta_training import History
from lrevopt.plots.panel import Panel, of
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    PATH_COLOR,
    SKY,
)

WINDOW = 51
"""Meta-steps in the running median that is drawn over noisy curves."""


def meta_gradient_norms(ax: Axes, history: History) -> None:
    """Norm of each meta-gradient, or that there was none."""
    if np.isfinite(history.gradient_norms).any():
        noisy_curve(ax, history.gradient_norms, "norm of the meta-gradient")
        return
    ax.set_axis_off()
    ax.text(0.5, 0.5, "no meta-gradient:\na search by ranks", ha="center", va="center",
            transform=ax.transAxes)  # fmt: skip


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


OBJECTIVES = Panel(
    lambda ax, run: noisy_curve(ax, run.history.objectives, "meta-objective of the batch"),
    ("history.objectives",),
    "Meta-objective of each batch of training problems and its running median.",
    "Training batches",
)
SELECTION = Panel(
    of("history", selection_curve),
    ("history.snapshot_steps", "history.selection_scores", "history.selected"),
    "Mean loss over first loss on selection problems, which no meta-gradient sees, for each "
    "snapshot; the star is the snapshot that was kept.",
    "Selection problems",
)
META_GRADIENTS = Panel(
    of("history", meta_gradient_norms),
    ("history.gradient_norms",),
    "Norm of the meta-gradient before clipping. Gaps are skipped meta-steps, and a training "
    "without meta-gradients has none.",
    "Meta-gradient",
)
