"""Training an optimizer by gradient descent on how well it optimizes (paper, D.2).

One outer step draws a batch of problems, unrolls the optimizer on each, differentiates the mean
meta-objective through every update, clips the meta-gradient entry by entry, and takes an Adam
step. A meta-gradient with a non-finite entry is skipped and counted. Everything random in step
i comes from `fold_in(key, i)`, so that a run that was interrupted and resumed gives the same
bits as one that was not.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from lrevopt import storage
from lrevopt.checks import finite
from lrevopt.meta_training.estimators import first_particles
from lrevopt.meta_training.memory import plan_memory
from lrevopt.meta_training.outer_step import first_state, outer_step, restarted, selection_score
from lrevopt.meta_training.run_directory import RunDirectory, progress_bar, stop_requests
from lrevopt.meta_training.settings import (
    MetaTraining,
    learning_rate_at,
    snapshot_steps,
    without_schedule,
)
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask, check_task, sample_problems


class History(eqx.Module):
    """What was recorded while training. Entries of steps not yet taken are NaN.

    `objectives` are of each step's own batch, before its update and without the penalty;
    `selection_scores` are mean(losses) / losses[0] over the selection problems, per snapshot.
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

    def summary(self) -> str:
        """One line: how far, how good, which snapshot, how many skipped, how long."""
        best = self.selection_scores[self.selected]
        chosen = self.snapshot_steps[self.selected]
        return (
            f"{self.steps} of {len(self.objectives)} meta-steps in {self.seconds:.0f} s, "
            f"{self.skipped} skipped, {self.rollbacks} rollbacks; "
            f"best on selection problems {best:.4f} at meta-step {chosen}"
        )


class MetaTrainingRun(eqx.Module):
    """A finished or interrupted run.

    `optimizer` is the best snapshot on the selection problems, `last` the weights at the last
    step, `snapshots` all of them, stacked. `history.outcome` is "finished", "time limit" or the
    name of the signal that stopped it.
    """

    optimizer: AbstractOptimizer
    last: AbstractOptimizer
    snapshots: AbstractOptimizer
    history: History


class _Progress(eqx.Module):
    """What the loop keeps on the host; arrays are written in place."""

    step: Int[np.ndarray, ""]
    seconds: Float[np.ndarray, ""]
    snapshots: PyTree[np.ndarray]
    scores: Float[np.ndarray, " snapshot"]
    rollbacks: Int[np.ndarray, ""]


def _identity(
    task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining, key: Key[Array, ""]
) -> dict[str, Any]:
    """What makes two runs the same run, as JSON."""
    return {
        "task": storage.describe(task),
        "optimizer": storage.describe(optimizer),
        "training": dataclasses.asdict(settings),
        "key": np.asarray(jr.key_data(key)).tolist(),
        "initial_weights": storage.digest_of(optimizer),
    }


def meta_train(
    task: AbstractTask,
    optimizer: AbstractOptimizer,
    settings: MetaTraining,
    *,
    key: Key[Array, ""],
    directory: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
    memory_limit: float | None = None,
    progress: bool = True,
) -> MetaTrainingRun:
    """Train `optimizer` on problems of `task`; all its floating-point leaves are trained.

    `key` is split into the streams of training and of selection problems; test problems must
    come from another key. With a `directory`, settings and weights are kept there and the run
    can be continued with `resume`: the result has the same bits as without the interruption
    (on the same machine and number of threads). The whole state is saved every `save_every`
    seconds. The run stops early, saving, after `time_limit` seconds (and one step at least), on
    SIGINT and on SIGTERM.

    What `settings` leave open of the micro-batch and the segment is planned so that it fits into
    `memory_limit` GiB (see `plan_memory`), said with `progress`, and kept for resumption.

    Raises `ValueError` for a directory that holds another run (unless `overwrite`), for one to
    resume that holds none, for a damaged checkpoint, times that are not positive, an optimizer
    or task that does not fit (see `unroll`), or a memory limit that nothing fits into.
    """
    if time_limit is not None:
        finite("time_limit", time_limit, above=0.0)
    finite("save_every", save_every, above=0.0)
    state_size(optimizer)
    training_key, selection_key = jr.split(key)
    check_task(task, task.sample(training_key))
    selection = sample_problems(task, selection_key, settings.selection_problems)
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    taken = snapshot_steps(settings)
    folder = RunDirectory(directory, _identity(task, optimizer, settings, key))
    planned = folder.recorded_plan() if resume else None
    if planned is None:
        plan = plan_memory(task, optimizer, settings, memory_limit=memory_limit)
        planned = {"micro_batch": plan.micro_batch, "checkpoint_every": plan.checkpoint_every}
        if progress:
            print(plan, file=sys.stderr)
    found = folder.open(planned, resume=resume, overwrite=overwrite)

    outer_settings = dataclasses.replace(
        without_schedule(settings),
        micro_batch=planned["micro_batch"],
        checkpoint_every=planned["checkpoint_every"],
    )
    particles = None
    if settings.estimator == "pes":
        particles = first_particles(optimizer, task, jr.fold_in(key, 2), settings)
    state = first_state(weights, settings, particles)
    progressed = _Progress(
        step=np.zeros((), np.int32),
        seconds=np.zeros((), np.float32),
        snapshots=jax.tree.map(
            lambda leaf: np.zeros((len(taken), *leaf.shape), leaf.dtype), weights
        ),
        scores=np.full(len(taken), np.nan, np.float32),
        rollbacks=np.zeros((), np.int32),
    )
    if found is not None:
        state, progressed = storage.arrays_to_tree(found.arrays, (state, progressed), found.path)
        progressed = jax.tree.map(np.array, progressed)

    def snapshot(step: int) -> None:
        nonlocal state
        index = taken.index(step)
        pairs = zip(
            jax.tree.leaves(progressed.snapshots), jax.tree.leaves(state.weights), strict=True
        )
        for kept, leaf in pairs:
            kept[index] = leaf
        current = eqx.combine(state.weights, fixed)
        progressed.scores[index] = selection_score(
            current, task, selection, settings.selection_unroll or settings.unroll
        )
        best = int(np.nanargmin(progressed.scores))
        bound = np.inf if settings.rollback_ratio is None else settings.rollback_ratio
        if progressed.scores[index] > bound * progressed.scores[best]:
            good = jax.tree.map(lambda leaf: jnp.array(leaf[best]), progressed.snapshots)
            state = restarted(state, good, settings)
            progressed.rollbacks[...] += 1

    before, begun = float(progressed.seconds), time.monotonic()

    def save(step: int) -> None:
        progressed.step[...] = step
        progressed.seconds[...] = before + time.monotonic() - begun
        folder.save(step, (state, progressed))

    first = int(progressed.step)
    step, saved, outcome = first, begun, "finished"
    with stop_requests() as requested, progress_bar(settings.steps, first, progress) as report:
        while True:
            if step in taken and np.isnan(progressed.scores[taken.index(step)]):
                snapshot(step)
            if step == settings.steps:
                break
            now = time.monotonic()
            late = time_limit is not None and now - begun > time_limit and step > first
            if requested or late:
                outcome = requested[0] if requested else "time limit"
                break
            if now - saved > save_every:
                save(step)
                saved = now
            rate = learning_rate_at(settings, step) * 0.5 ** int(progressed.rollbacks)
            inputs = (
                fixed,
                task,
                training_key,
                jnp.asarray(step, jnp.int32),
                jnp.asarray(rate, jnp.float32),
            )
            state = outer_step(inputs, state, outer_settings)
            report(state, progressed.scores)
            step += 1
        save(step)

    scores = np.where(np.isnan(progressed.scores), np.inf, progressed.scores)
    selected = int(np.argmin(scores))
    history = History(
        objectives=np.asarray(state.objectives),
        gradient_norms=np.asarray(state.gradient_norms),
        skipped=int(state.skipped),
        rollbacks=int(progressed.rollbacks),
        snapshot_steps=np.asarray(taken),
        selection_scores=progressed.scores,
        selected=selected,
        steps=step,
        seconds=float(progressed.seconds),
        outcome=outcome,
    )
    snapshots = jax.tree.map(jnp.asarray, progressed.snapshots)
    run = MetaTrainingRun(
        optimizer=eqx.combine(jax.tree.map(lambda leaf: leaf[selected], snapshots), fixed),
        last=eqx.combine(state.weights, fixed),
        snapshots=eqx.combine(snapshots, fixed),
        history=history,
    )
    folder.publish(run.optimizer, run.snapshots, run.history)
    return run
