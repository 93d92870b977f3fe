"""Share of a learned optimizer's gain over a baseline that another optimizer keeps."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.inner_loop.evaluation import BOOTSTRAP_SEED, CONFIDENCE, evaluate
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import counted, percent

RESAMPLES = 4000
"""Bootstrap resamples of the problems."""


class Share(NamedTuple):
    """A share with the ends of its 95 % bootstrap interval over problems."""

    value: float
    low: float
    high: float

    def words(self) -> str:
        """Such as `61.2 % (55.1 % to 66.9 %)`, or `not available`."""
        if np.isnan(self.value):
            return percent(self.value)
        return f"{percent(self.value)} ({percent(self.low)} to {percent(self.high)})"


def gain_kept(
    box: Float[np.ndarray, " problem"],
    learned: Float[np.ndarray, " problem"],
    baseline: Float[np.ndarray, " problem"],
) -> Share:
    """`(baseline - box) / (baseline - learned)` of mean meta-objectives, problems paired.

    1 is all of the gain, 0 none, negative worse than the baseline. If `box` diverged on any problem
    it is minus infinity, and so are both ends of its interval: that some resamples miss the problem
    makes no other share. NaN where the learned optimizer is not better than the baseline.
    """
    picks = resampled(box.size)
    values = np.array([without_luck(box), learned, baseline], float)
    shares = _share(*(row[picks].mean(axis=1) for row in values))
    value = float(_share(*values.mean(axis=1)[:, None])[0])
    if np.isnan(value) or np.isnan(shares).mean() > 1 - CONFIDENCE:
        return Share(value, np.nan, np.nan)
    low, high = np.nanquantile(
        shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest"
    )
    return Share(value, float(low), float(high))


def no_gain(
    learned: Float[np.ndarray, " problem"],
    baseline: Float[np.ndarray, " problem"],
    baseline_name: str,
) -> str | None:
    """Why the gain of the learned optimizer has no size of which others have a share, or `None`."""
    for row, name in ((learned, "learned optimizer"), (baseline, baseline_name)):
        if diverged := int(np.sum(~np.isfinite(row))):
            return f"{name} diverged on {diverged} of {counted(learned.size, 'test problem')}"
    better = learned.mean() < baseline.mean()
    return None if better else f"learned optimizer is not better than {baseline_name}"


def without_luck(objectives: Float[np.ndarray, "*rows problem"]) -> np.ndarray:
    """Rows of meta-objectives; inf on all problems in those that diverged on any.

    So what diverged stays so in every resample of the problems.
    """
    finite = np.isfinite(objectives).all(axis=-1, keepdims=True)
    return np.where(finite, objectives, np.inf)


def divergences(
    rows: Mapping[str, Float[np.ndarray, " problem"]],
    so: str = "count as infinitely worse, whichever problems are drawn",
) -> list[str]:
    """A note on which of these diverged on how many test problems and what they do `so`, if any."""
    counts = {name: int((~np.isfinite(row)).sum()) for name, row in rows.items()}
    found = [f"{name} on {counts[name]} of {row.size}" for name, row in rows.items()
             if counts[name]]  # fmt: skip
    return [f"Diverged on test problems, and so {so}: {'; '.join(found)}."] if found else []


def best_baseline(
    baselines: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    *,
    problems: int,
    steps: int,
    key: Key[Array, ""],
) -> str:
    """The baseline with the least mean meta-objective on problems from `key`."""
    return evaluate(baselines, task, problems=problems, steps=steps, key=key).best()


def resampled(count: int) -> np.ndarray:
    """Places of problems, one row a resample, always the same."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    return generator.integers(count, size=(RESAMPLES, count))


def _share(box: np.ndarray, learned: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    gain = baseline - learned
    better = np.isfinite(gain) & (gain > 0)
    kept = np.where(np.isfinite(box), baseline - np.where(np.isfinite(box), box, 0.0), -np.inf)
    return np.where(better, kept / np.where(better, gain, 1.0), np.nan)
