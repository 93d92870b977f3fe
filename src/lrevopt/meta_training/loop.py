"""The outer loop: gradient descent on how well an optimizer optimizes (paper, D.2).

One outer step draws a batch of problems, unrolls the optimizer on each, differentiates the mean
meta-objective through every update, clips the meta-gradient entry by entry, and takes an Adam
step. A step whose meta-gradient, or gradient of the penalties, has a non-finite entry is skipped
and counted. All randomness of step i comes from `fold_in(key, i)`, so an interrupted and resumed
run gives the same bits as an uninterrupted one.
"""

import dataclasses
import time
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from lrevopt import storage
from lrevopt.checks import finite, yes_or_no
from lrevopt.inner_loop.devices import on_every_device, spread_in_words, training_mesh
from lrevopt.inner_loop.hosts import fetched, is_first, largest
from lrevopt.meta_training.estimators import first_particles, independent
from lrevopt.meta_training.memory import plan_memory
from lrevopt.meta_training.outer_step import (
    OuterState,
    first_state,
    outer_step,
    restarted,
    selection_score,
)
from lrevopt.meta_training.records import (
    MetaTrainingRun,
    Progress,
    begun_or_found,
    collapsed,
    no_progress,
    run_record,
    without_particles,
)
from lrevopt.meta_training.run_directory import RunDirectory, progress_bar
from lrevopt.meta_training.settings import (
    MetaTraining,
    learning_rate_at,
    of_each_step,
    of_selection,
    snapshot_steps,
)
from lrevopt.meta_training.training_checks import selection_problems
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.storage.signals import stop_requests
from lrevopt.tasks.interface import AbstractTask, drawn_parameters


def check_running(
    time_limit: float | None, save_every: float, memory_limit: float | None, **switches: bool
) -> None:
    """Raise `ValueError` for limits that are not positive, and switches that are not booleans."""
    for name, limit in (("time_limit", time_limit), ("memory_limit", memory_limit)):
        if limit is not None:
            finite(name, limit, above=0.0)
    finite("save_every", save_every, above=0.0)
    for name, value in switches.items():
        yes_or_no(name, value)


def identity(
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


@runtime_checkable
class Stretch(Protocol):
    """A training that has begun, of one optimizer or of several."""

    settings: MetaTraining
    state: OuterState
    progress: Any
    begun: float

    def step(self) -> None: ...
    def snapshot(self) -> None: ...
    def save(self) -> None: ...


def train_on(
    training: Stretch, *, time_limit: float | None, save_every: float, progress: bool
) -> str:
    """Take steps until the last, a signal or the time limit, and save: the outcome.

    A signal that arrives within the last step, or while the end is saved, is the outcome, too:
    whoever sent it does not want the stages that follow.
    """
    first, last = int(training.progress.step), training.settings.steps
    saved, shown = training.begun, progress and is_first()
    with stop_requests() as requested, progress_bar(last, first, shown) as report:
        while True:
            step = int(training.progress.step)
            training.snapshot()
            if step == last:
                outcome = "finished"
                break
            now = time.monotonic()
            late = time_limit is not None and now - training.begun > time_limit and step > first
            asked = requested[0] if requested else "time limit" if late else OUTCOMES[0]
            stop, due = largest(OUTCOMES.index(asked), int(now - saved > save_every))
            if stop:
                outcome = OUTCOMES[stop]
                break
            if due:
                training.save()
                saved = now
            training.step()
            report(training.state, training.progress.scores)
        training.save()
        (asked_at_end,) = largest(OUTCOMES.index(requested[0]) if requested else 0)
    return OUTCOMES[asked_at_end] or outcome


OUTCOMES = ("", "time limit", "SIGINT", "SIGTERM")
"""Why a training stops before its end; the last that any process asks for counts."""


@dataclasses.dataclass
class Training:
    """A meta-training that has begun: `prepare` it, `step` and `snapshot` in turn, `finish` it.

    `state` and `progress` are all that changes. They are saved together, and a run continues
    from them.
    """

    task: AbstractTask
    fixed: PyTree
    settings: MetaTraining
    step_settings: MetaTraining
    key: Key[Array, ""]
    selection: PyTree[Array]
    folder: RunDirectory
    state: OuterState
    progress: Progress
    begun: float
    seconds_before: float
    mesh: Mesh | None

    @classmethod
    def prepare(
        cls,
        task: AbstractTask,
        optimizer: AbstractOptimizer,
        settings: MetaTraining,
        folder: RunDirectory,
        *,
        key: Key[Array, ""],
        resume: bool,
        overwrite: bool,
        memory_limit: float | None,
        report_plan: bool,
        mesh: Mesh | None = None,
    ) -> "Training":
        """Plan the memory, open the folder, and begin or continue. Raises as `meta_train` does."""
        training_key, selection_key = jr.split(key)
        spread = independent(settings, drawn_parameters(task, key).size)
        mesh = training_mesh(mesh, *spread)
        planned = folder.plan(
            lambda: plan_memory(task, optimizer, settings, memory_limit=memory_limit),
            resume=resume, overwrite=overwrite, report=report_plan,
            heading=spread_in_words(mesh, *spread),
        )  # fmt: skip
        selection = selection_problems(task, selection_key, settings)
        weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
        particles = None
        if settings.estimator == "pes":
            particles = first_particles(optimizer, task, jr.fold_in(key, 2), settings)
        state = first_state(weights, settings, particles)
        progress = no_progress(weights, len(snapshot_steps(settings)))
        found = folder.open(planned, resume=resume, overwrite=overwrite)
        state, progress = begun_or_found(state, progress, found)
        return cls(
            task=on_every_device(task, mesh),
            fixed=on_every_device(fixed, mesh),
            settings=settings,
            step_settings=of_each_step(settings, planned),
            key=on_every_device(training_key, mesh),
            selection=on_every_device(selection, mesh),
            folder=folder,
            state=on_every_device(state, mesh),
            progress=progress,
            begun=time.monotonic(),
            seconds_before=float(progress.seconds),
            mesh=mesh,
        )

    def step(self) -> None:
        """One meta-step, at the learning rate of the schedule, halved at each rollback so far."""
        step = int(self.progress.step)
        rate = learning_rate_at(self.settings, step) * 0.5 ** int(self.progress.rollbacks)
        numbers = jnp.asarray(step, jnp.int32), jnp.asarray(rate, jnp.float32)
        inputs = (self.fixed, self.task, self.key, *numbers)
        self.state = outer_step(inputs, self.state, self.step_settings, self.mesh)
        self.progress.step[...] = step + 1

    def snapshot(self) -> None:
        """Keep and score the weights, if a snapshot is due; go back to the best, if they are bad.

        See `MetaTraining.rollback_ratio`.
        """
        settings, progress = self.settings, self.progress
        taken, step = snapshot_steps(settings), int(progress.step)
        if step not in taken or not np.isnan(progress.scores[taken.index(step)]):
            return
        index = taken.index(step)
        kept, weights = jax.tree.leaves(progress.snapshots), jax.tree.leaves(self.state.weights)
        for array, leaf in zip(kept, weights, strict=True):
            array[index] = leaf
        optimizer = eqx.combine(self.state.weights, self.fixed)
        progress.scores[index] = selection_score(
            optimizer, self.task, self.selection, of_selection(settings), self.mesh
        )
        best = int(np.nanargmin(progress.scores))
        if collapsed(progress.scores[index], progress.scores[best], settings.rollback_ratio):
            good = jax.tree.map(lambda leaf: jnp.array(leaf[best]), progress.snapshots)
            self.state = restarted(self.state, on_every_device(good, self.mesh), settings)
            progress.rollbacks[...] += 1

    def save(self) -> None:
        """Write the whole state to the folder, if there is one."""
        self.progress.seconds[...] = self.seconds_before + time.monotonic() - self.begun
        self.folder.save(int(self.progress.step), (fetched(self.state), self.progress))

    def finish(self, outcome: str) -> MetaTrainingRun:
        """The run as a record, its best snapshot selected, and published in the folder."""
        arrays, rest = eqx.partition(self.fixed, eqx.is_array)
        fixed = eqx.combine(jax.tree.map(jnp.asarray, fetched(arrays)), rest)

        def with_weights(weights: PyTree) -> AbstractOptimizer:
            return eqx.combine(weights, fixed)

        state = jax.tree.map(jnp.asarray, fetched(without_particles(self.state)))
        run = run_record(self.settings, state, self.progress, with_weights, outcome)
        self.folder.publish(run.optimizer, run.snapshots, run.history)
        return run
