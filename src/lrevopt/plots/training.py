"""Course of meta-training: objective, selection scores, norm of the meta-gradient (paper, D.2)."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from lrevopt.meta_training import History
from lrevopt.plots.panel import Panel, Records, of
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    PATH_COLOR,
    SKY,
    shades,
)

FRONT = "front run"
"""Label of the run that is analysed, beside those of other training seeds."""

DASHES: tuple[Any, ...] = ((0, (5, 1.2)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (2, 1)), "-")
"""Lines of the other training seeds, in turn."""

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


def curves_of_seeds(run: Records) -> dict[str, History]:
    """Course of meta-training by training seed, first of the run itself."""
    others = {f"seed {seed}": other.history for seed, other in run.seeds.items()}
    return {FRONT: run.history} | {
        name: history for name, history in others.items() if history is not None
    }


def seed_curves(ax: Axes, run: Records) -> None:
    """Scores of the snapshots of every training seed, with the one that was kept of each.

    A seed has the same line on every task.
    """
    scored: list[float] = []
    colors = shades("crest", len(DASHES))
    for name, history in curves_of_seeds(run).items():
        steps, scores, kept = history.snapshot_steps, history.selection_scores, history.selected
        place = int(name.split()[1]) % len(DASHES) if name != FRONT else 0
        color, dashes = (BLACK, "-") if name == FRONT else (colors[place], DASHES[place])
        ax.plot(steps, scores, color=color, linestyle=dashes, linewidth=1.0, label=name)
        ax.plot(steps[kept], scores[kept], marker="*", markersize=7, color=color,
                markeredgecolor=BLACK, markeredgewidth=0.5, linestyle="none")  # fmt: skip
        scored += scores[np.isfinite(scores) & (scores > 0)].tolist()
    wide = bool(scored) and max(scored) > 3 * min(scored)
    ax.set(xlabel="meta-step", ylabel="mean loss / first loss", yscale="log" if wide else "linear")


def _numbers_of_seeds(run: Records) -> dict[str, np.ndarray]:
    return {
        f"{name.replace(' ', '_')}/{field}": np.asarray(getattr(history, field))
        for name, history in curves_of_seeds(run).items()
        for field in ("snapshot_steps", "selection_scores", "selected")
    }


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
SELECTION_OF_SEEDS = Panel(
    seed_curves,
    (),
    "Mean loss over first loss on selection problems for each snapshot of every training seed, of "
    "the last stage where there are several; stars are the snapshots that were kept.",
    "Selection problems",
    made=_numbers_of_seeds,
    needs=("history", "seeds"),
)
META_GRADIENTS = Panel(
    of("history", meta_gradient_norms),
    ("history.gradient_norms",),
    "Norm of the meta-gradient before clipping. Gaps are skipped meta-steps, and a training "
    "without meta-gradients has none.",
    "Meta-gradient",
)
