"""What a meta-training keeps while it runs, and the record that it becomes."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from lrevopt import storage
from lrevopt.inner_loop.hosts import from_first
from lrevopt.meta_training.outer_step import OuterState
from lrevopt.meta_training.run_directory import Found
from lrevopt.meta_training.settings import MetaTraining, snapshot_steps
from lrevopt.optimizers.interface import AbstractOptimizer


class History(eqx.Module):
    """Record of a meta-training. Entries of meta-steps not yet taken are NaN.

    - `objectives`: mean meta-objective of each step's own batch, before its update and without the
      penalty; with the estimator "cma" the median over candidates of this.
      `gradient_norms`: L2 norm of each step's meta-gradient before clipping.
    - `skipped`: number of steps whose meta-gradient, or gradient of the penalties, was not finite,
      which changed nothing.
      `rollbacks`: how often training returned to the best snapshot.
    - `snapshot_steps`: number of meta-steps before each snapshot of the weights;
      `selection_scores`: mean(losses) / losses[0] of each over the selection problems, plus the
      penalty on drift, if there is one;
      `selected`: index of the best one.
    - `steps`: meta-steps taken, `seconds` of them, and `outcome`: "finished", "time limit" or the
      name of the signal that stopped the training.

    Raises `ValueError` for a `selected` that is not an index of a snapshot.
    """

    objectives: Float[np.ndarray, " step"]
    gradient_norms: Float[np.ndarray, " step"]
    skipped: Int[np.ndarray, ""] | int
    rollbacks: Int[np.ndarray, ""] | int
    snapshot_steps: Int[np.ndarray, " snapshot"]
    selection_scores: Float[np.ndarray, " snapshot"]
    selected: Int[np.ndarray, ""] | int
    steps: Int[np.ndarray, ""] | int
    seconds: float
    outcome: str

    def __check_init__(self) -> None:
        if not 0 <= self.selected < len(self.snapshot_steps):
            raise ValueError(
                f"`selected` must be one of {len(self.snapshot_steps)} snapshots, got "
                f"{self.selected}."
            )

    def summary(self) -> str:
        """One line with steps, time, skipped steps, rollbacks, and the selected snapshot.

        It says so if no snapshot after the first, which is untrained, has a finite score.
        """
        later = self.selection_scores[1:][~np.isnan(self.selection_scores[1:])]
        lost = later.size and not np.isfinite(later).any()
        warning = ": untrained, because all later scores are infinite" if lost else ""
        best = self.selection_scores[self.selected]
        chosen = self.snapshot_steps[self.selected]
        return (
            f"{self.steps} of {len(self.objectives)} meta-steps in {self.seconds:.0f} s, "
            f"{self.skipped} skipped, {self.rollbacks} rollbacks; "
            f"best on selection problems {best:.4f} at meta-step {chosen}{warning}"
        )


class MetaTrainingRun(eqx.Module):
    """A finished or interrupted meta-training.

    `optimizer` is the best snapshot on the selection problems, `last` the weights at the last
    step, `snapshots` all of them, stacked. `history.outcome` is "finished", "time limit" or the
    name of the signal that stopped it.
    """

    optimizer: AbstractOptimizer
    last: AbstractOptimizer
    snapshots: AbstractOptimizer
    history: History


class Progress(eqx.Module):
    """What the loop keeps on the host; arrays are written in place.

    `scores` of snapshots not yet taken are NaN. `seconds` counts earlier stretches of the run too.
    A population has a last axis `seed` in scores and rollbacks, and a second one in snapshots.
    """

    step: Int[np.ndarray, ""]
    seconds: Float[np.ndarray, ""]
    snapshots: PyTree[np.ndarray]
    scores: Float[np.ndarray, "snapshot *seed"]
    rollbacks: Int[np.ndarray, "*seed"]


def without_particles(state: OuterState) -> OuterState:
    """What of a state goes into the record of a run."""
    return eqx.tree_at(lambda s: s.particles, state, None, is_leaf=lambda leaf: leaf is None)


def collapsed(
    scores: Float[np.ndarray, "*seed"] | np.floating,
    best: Float[np.ndarray, "*seed"] | np.floating,
    ratio: float | None,
) -> Bool[np.ndarray, "*seed"] | np.bool_:
    """Whether snapshots score so much worse than the best that training goes back to it.

    More than `ratio` times the best score (None: never). Losses may become negative, and so may
    scores: then more than `ratio - 1` times its size above it, which for positive ones is the same.
    """
    if ratio is None:
        return np.zeros(np.shape(scores), bool)
    return scores > best + (ratio - 1) * np.abs(best)


def run_record(
    settings: MetaTraining,
    state: OuterState,
    progress: Progress,
    with_weights: Callable[[PyTree], AbstractOptimizer],
    outcome: str,
) -> MetaTrainingRun:
    """A run as a record, its best snapshot selected."""
    scores = np.where(np.isnan(progress.scores), np.inf, progress.scores)
    selected = int(np.argmin(scores))
    history = History(
        objectives=recorded(state.objectives, int(progress.step)),
        gradient_norms=recorded(state.gradient_norms, int(progress.step)),
        skipped=int(state.skipped),
        rollbacks=int(progress.rollbacks),
        snapshot_steps=np.asarray(snapshot_steps(settings)),
        selection_scores=progress.scores,
        selected=selected,
        steps=int(progress.step),
        seconds=float(progress.seconds),
        outcome=outcome,
    )
    snapshots = jax.tree.map(jnp.asarray, progress.snapshots)
    return MetaTrainingRun(
        optimizer=with_weights(jax.tree.map(lambda leaf: leaf[selected], snapshots)),
        last=with_weights(state.weights),
        snapshots=with_weights(snapshots),
        history=history,
    )


def recorded(values: Float[Array, " step"], steps: int) -> Float[np.ndarray, " step"]:
    """The entries of steps that were taken; NaN for the others."""
    found = np.asarray(values)
    return np.where(np.arange(len(found)) < steps, found, np.nan)


def begun_or_found(
    state: OuterState, progress: Progress, found: Found | None
) -> tuple[OuterState, Progress]:
    """State and progress to go on from: those of a beginning, unless saved ones were found.

    Where there are several processes, all have those of the first.
    """
    if found is not None:
        state, progress = storage.arrays_to_tree(found.arrays, (state, progress), found.path)
    return from_first((state, jax.tree.map(np.array, progress)))


def no_progress(weights: PyTree[Array], snapshots: int, members: tuple[int, ...] = ()) -> Progress:
    """Progress before the first meta-step, of one optimizer or of stacked ones."""
    return Progress(
        step=np.zeros((), np.int32),
        seconds=np.zeros((), np.float32),
        snapshots=jax.tree.map(
            lambda leaf: np.zeros((snapshots, *leaf.shape), leaf.dtype), weights
        ),
        scores=np.full((snapshots, *members), np.nan, np.float32),
        rollbacks=np.zeros(members, np.int32),
    )
