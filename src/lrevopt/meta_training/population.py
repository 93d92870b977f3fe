"""Many optimizers meta-trained at once, in one program: seeds, initial scales, learning rates.

The state of an outer step is stacked over the members of the population and the step is mapped over
them. Members share nothing but the task and the settings: each has its own keys, schedule peak,
selection problems, skipped steps and rollbacks, as if it were trained alone.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from lrevopt import storage
from lrevopt.checks import finite, instance, random_keys, sequence
from lrevopt.inner_loop.devices import (
    crowded,
    on_devices_of_members,
    on_every_device,
    population_mesh,
)
from lrevopt.inner_loop.hosts import fetched
from lrevopt.meta_training.estimators import first_particles
from lrevopt.meta_training.loop import check_running, identity, train_on
from lrevopt.meta_training.members import Members, members_of
from lrevopt.meta_training.memory import MemoryPlan, plan_memory
from lrevopt.meta_training.outer_step import (
    OuterState,
    first_state,
    population_scores,
    population_step,
    restarted_where,
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
from lrevopt.meta_training.run_directory import PopulationDirectory
from lrevopt.meta_training.settings import (
    MetaTraining,
    learning_rate_at,
    of_each_step,
    snapshot_steps,
)
from lrevopt.meta_training.training_checks import check_training, selection_problems
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import counted


class PopulationRun(eqx.Module):
    """Runs of the members of a population, in the order of their keys."""

    members: tuple[MetaTrainingRun, ...]

    @property
    def scores(self) -> Float[np.ndarray, " seed"]:
        """Score of each member's selected snapshot on its own selection problems."""
        histories = [run.history for run in self.members]
        return np.array([float(each.selection_scores[each.selected]) for each in histories])

    @property
    def outcome(self) -> str:
        """The outcome of all, as in a `History`."""
        return self.members[0].history.outcome

    def summary(self) -> str:
        """A line for each member, as `History.summary` has it."""
        lines = (run.history.summary() for run in self.members)
        return "\n".join(f"member {number:03d}: {line}" for number, line in enumerate(lines))


def meta_train_population(
    task: AbstractTask,
    optimizers: AbstractOptimizer | Sequence[AbstractOptimizer],
    settings: MetaTraining,
    *,
    keys: Key[Array, " seed"],
    learning_rates: Sequence[float] | Float[np.ndarray, " seed"] | None = None,
    directory: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
    memory_limit: float | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> PopulationRun:
    """Train many optimizers at once on problems of `task`: one program, one run that resumes.

        keys = jax.random.split(key, 16)
        optimizers = [lo.GRUOptimizer(16, key=k) for k in jax.random.split(init_key, 16)]
        found = lo.meta_train_population(task, optimizers, settings, keys=keys)

    - `optimizers`: one for each key, as a list or stacked (every array with a first axis). They
      have one structure. Recurrent optimizers may differ in their scales.
    - `keys`: member k is what `meta_train` makes of optimizer k and key k, up to round-off. Equal
      keys give members the same problems.
    - `learning_rates`: peak meta learning rate of each member (default: that of `settings`).
    - `directory`: the state of all is kept there, and each member is a run's folder within it,
      `member_000` and so on, for `load` and all later stages.
    - `mesh`: devices, as in `meta_train` (default: see `problem_mesh`). Members are spread over as
      many devices as divide their number, and problems over the others; or as the axes `seed` and
      `problem` of the mesh say. A run may be resumed on another number of devices.

    `resume`, `overwrite`, `time_limit`, `save_every`, `memory_limit` and `progress` are those of
    `meta_train`, for all members together. `seconds` of a member's history are those of all.

    Raises `ValueError` as `meta_train` does, for optimizers of several structures, and for other
    numbers of optimizers or learning rates than keys.
    """
    check_running(
        time_limit, save_every, memory_limit, resume=resume, overwrite=overwrite, progress=progress
    )
    members = _checked_members(task, optimizers, settings, keys)
    peaks = _peaks(learning_rates, settings, keys.shape[0])
    folder = PopulationDirectory(
        directory, *_identities(task, members, settings, keys=keys, peaks=peaks)
    )
    folder.whole.check_same()
    with folder.whole.claimed():
        training = Population.prepare(
            task, members, settings, folder, keys=keys, peaks=peaks, resume=resume,
            overwrite=overwrite, memory_limit=memory_limit, report_plan=progress,
            mesh=population_mesh(keys.shape[0], mesh),
        )  # fmt: skip
        with folder.claimed():
            outcome = train_on(
                training, time_limit=time_limit, save_every=save_every, progress=progress
            )
            return training.finish(outcome)


def _checked_members(
    task: AbstractTask,
    optimizers: AbstractOptimizer | Sequence[AbstractOptimizer],
    settings: MetaTraining,
    keys: Key[Array, " seed"],
) -> Members:
    """The members, each of which can be trained with its key."""
    keys = random_keys("keys", keys)
    instance("settings", settings, MetaTraining, "MetaTraining settings")
    if settings.estimator == "cma":
        raise ValueError(
            "`settings.estimator` must not be cma for a population: train its members in turn."
        )
    members = members_of(optimizers, keys.shape[0])
    for number, optimizer in enumerate(members.each):
        check_training(task, optimizer, settings, keys[number], f"optimizers[{number}]")
    return members


def _peaks(learning_rates: Any, settings: MetaTraining, count: int) -> Float[np.ndarray, " seed"]:
    """Peak learning rate of each member."""
    if learning_rates is None:
        return np.full(count, float(settings.learning_rate))
    rates = sequence("learning_rates", learning_rates, "learning rate")
    if len(rates) != count:
        raise ValueError(f"`learning_rates` must be as many as `keys`, {count}, got {len(rates)}.")
    return np.array([finite("learning_rates", rate, above=0.0) for rate in rates])


def _identities(
    task: AbstractTask, members: Members, settings: MetaTraining, *, keys: Any, peaks: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What makes two populations the same, and for each member, two runs the same run."""
    each = [
        identity(task, optimizer, dataclasses.replace(settings, learning_rate=float(peak)), key)
        for optimizer, key, peak in zip(members.each, keys, peaks, strict=True)
    ]
    whole = {
        "task": storage.describe(task),
        "training": dataclasses.asdict(settings),
        "members": [
            {name: own[name] for name in ("optimizer", "key", "initial_weights")}
            | {"learning_rate": own["training"]["learning_rate"]}
            for own in each
        ],
    }
    return whole, each


@dataclasses.dataclass
class Population:
    """A population whose training has begun; see `meta_training.loop.Training`.

    `state` and `progress` are stacked, and all that changes.
    """

    task: AbstractTask
    members: Members
    fixed: PyTree
    settings: MetaTraining
    step_settings: MetaTraining
    keys: Key[Array, " seed"]
    selection_keys: Key[Array, " seed"]
    peaks: Float[np.ndarray, " seed"]
    folder: PopulationDirectory
    state: OuterState
    progress: Progress
    begun: float
    seconds_before: float
    mesh: Mesh | None

    @classmethod
    def prepare(
        cls,
        task: AbstractTask,
        members: Members,
        settings: MetaTraining,
        folder: PopulationDirectory,
        *,
        keys: Key[Array, " seed"],
        peaks: Float[np.ndarray, " seed"],
        resume: bool,
        overwrite: bool,
        memory_limit: float | None,
        report_plan: bool,
        mesh: Mesh | None,
    ) -> "Population":
        """Plan the memory, open the folder, and begin or continue."""
        count = len(members.each)

        def make() -> MemoryPlan:
            limit: Any = {"memory_limit": memory_limit, "members": count}
            return plan_memory(task, members.each[0], settings, **limit)

        at_once = f"{counted(count, 'member')} at once; for each of them"
        planned = folder.whole.plan(
            make,
            resume=resume,
            overwrite=overwrite,
            report=report_plan,
            heading="; ".join(filter(None, (crowded() if mesh is None else "", at_once))),
        )
        training_keys, selection_keys = jax.vmap(jr.split, out_axes=1)(keys)
        for own in selection_keys:
            selection_problems(task, own, settings)
        found = folder.open(planned, resume=resume, overwrite=overwrite)
        state, progress = begun_or_found(*_begun(task, members, settings, keys), found)
        return cls(
            task=on_every_device(task, mesh),
            members=members,
            fixed=on_devices_of_members(
                eqx.partition(members.stacked, eqx.is_inexact_array)[1], mesh
            ),
            settings=settings,
            step_settings=of_each_step(settings, planned),
            keys=on_devices_of_members(training_keys, mesh),
            selection_keys=on_devices_of_members(selection_keys, mesh),
            peaks=peaks,
            folder=folder,
            state=on_devices_of_members(state, mesh),
            progress=progress,
            begun=time.monotonic(),
            seconds_before=float(progress.seconds),
            mesh=mesh,
        )

    def step(self) -> None:
        """One meta-step of all, at the rate of the schedule, halved at each member's rollbacks."""
        step = int(self.progress.step)
        rates = learning_rate_at(self.settings, step, self.peaks) * 0.5**self.progress.rollbacks
        numbers = (
            jnp.asarray(step, jnp.int32),
            on_devices_of_members(jnp.asarray(rates, jnp.float32), self.mesh),
        )
        inputs = (self.fixed, self.task, self.keys, *numbers)
        self.state = population_step(inputs, self.state, self.step_settings, self.mesh)
        self.progress.step[...] = step + 1

    def snapshot(self) -> None:
        """Keep and score all weights, if a snapshot is due; members that are bad go back.

        See `MetaTraining.rollback_ratio`.
        """
        settings, progress = self.settings, self.progress
        taken, step = snapshot_steps(settings), int(progress.step)
        if step not in taken or not np.isnan(progress.scores[taken.index(step)]).any():
            return
        index = taken.index(step)
        kept, weights = jax.tree.leaves(progress.snapshots), jax.tree.leaves(self.state.weights)
        for array, leaf in zip(kept, fetched(weights), strict=True):
            array[index] = leaf
        optimizers = eqx.combine(self.state.weights, self.fixed)
        progress.scores[index] = fetched(
            population_scores(optimizers, self.task, self.selection_keys, settings, self.mesh)
        )
        best = np.nanargmin(progress.scores, axis=0)
        members = np.arange(best.size)
        scores = progress.scores
        bad = collapsed(scores[index], scores[best, members], settings.rollback_ratio)
        if bad.any():
            progress.rollbacks[bad] += 1
            good = jax.tree.map(lambda leaf: jnp.asarray(leaf[best, members]), progress.snapshots)
            bad, good = on_devices_of_members((jnp.asarray(bad), good), self.mesh)
            self.state = restarted_where(bad, good, self.state, settings, self.mesh)

    def save(self) -> None:
        """Write the whole state to the folder, if there is one."""
        self.progress.seconds[...] = self.seconds_before + time.monotonic() - self.begun
        self.folder.whole.save(int(self.progress.step), (fetched(self.state), self.progress))

    def finish(self, outcome: str) -> PopulationRun:
        """The runs as records, and published in the folders of the members."""
        state, progress = fetched(without_particles(self.state)), self.progress
        runs = []
        for number, folder in enumerate(self.folder.members):
            own = dataclasses.replace(
                progress,
                snapshots=jax.tree.map(lambda leaf, k=number: leaf[:, k], progress.snapshots),
                scores=progress.scores[:, number],
                rollbacks=np.asarray(progress.rollbacks[number]),
            )

            def with_weights(weights: PyTree, number: int = number) -> AbstractOptimizer:
                return self.members.with_weights(number, weights)

            one = jax.tree.map(lambda leaf, k=number: jnp.asarray(leaf[k]), state)
            run = run_record(self.settings, one, own, with_weights, outcome)
            folder.publish(run.optimizer, run.snapshots, run.history)
            runs.append(run)
        return PopulationRun(tuple(runs))


def _begun(
    task: AbstractTask, members: Members, settings: MetaTraining, keys: Any
) -> tuple[OuterState, Progress]:
    """State and progress before the first meta-step."""
    weights, fixed = eqx.partition(members.stacked, eqx.is_inexact_array)
    arrays, rest = eqx.partition(fixed, eqx.is_array)

    def start(weights: PyTree, arrays: PyTree, key: Any) -> OuterState:
        particles = None
        if settings.estimator == "pes":
            optimizer = eqx.combine(weights, arrays, rest)
            particles = first_particles(optimizer, task, jr.fold_in(key, 2), settings)
        return first_state(weights, settings, particles)

    state = jax.vmap(start)(weights, arrays, keys)
    return state, no_progress(weights, len(snapshot_steps(settings)), keys.shape)
