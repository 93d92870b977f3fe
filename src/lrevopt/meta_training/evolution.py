"""Meta-training without gradients: covariance matrix adaptation (Hansen, 2016).

Near a good optimizer of a network, runs are chaotic: exact meta-gradients have no useful direction,
and clipped ones are biased. A search that ranks candidates by their scores needs neither. Each
meta-step draws a population of candidates around a mean, runs all of them on the same new problems,
and moves mean and covariance by their ranks (`cmaes.CMA`). What is kept is the mean.

`searched_numbers` says what is searched, and in which coordinates.

Ranks amplify round-off: two candidates of almost the same score may change places on other devices,
and the search goes another way from there.
"""

import dataclasses
import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from cmaes import CMA
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from lrevopt.inner_loop.devices import check_mesh, on_every_device
from lrevopt.inner_loop.scoring import MEMORY, score_settings
from lrevopt.inner_loop.sizes import GIBIBYTE
from lrevopt.meta_training.loop import Training
from lrevopt.meta_training.memory import check_sizes
from lrevopt.meta_training.outer_step import OuterState, drift
from lrevopt.meta_training.records import begun_or_found, no_progress
from lrevopt.meta_training.run_directory import RunDirectory
from lrevopt.meta_training.searched_numbers import (
    SearchedNumbers,
    check_count,
    count_of,
    search_axes,
)
from lrevopt.meta_training.settings import MetaTraining, snapshot_steps
from lrevopt.meta_training.training_checks import selection_problems
from lrevopt.optimizers.interface import AbstractOptimizer, AbstractParameterOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems


@dataclasses.dataclass
class Evolving(Training):
    """A search that has begun; see `Training`.

    The state's `moments` are the axes of the search and the scores of all candidates so far. With
    the seed they are all that it follows from, so a run resumes by repeating the draws.
    """

    numbers: SearchedNumbers
    deviation: float
    seed: int
    memory: int
    search: CMA = dataclasses.field(init=False)

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
    ) -> "Evolving":
        """As `Training.prepare`. `memory_limit` bounds the runs that go on side by side."""
        _check(task, optimizer, settings)
        folder.check(resume=resume, overwrite=overwrite)
        training_key, selection_key = jr.split(key)
        selection = selection_problems(task, selection_key, settings)
        mesh = check_mesh(mesh, settings.problems)
        weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
        axes = None if resume and folder.begun() else search_axes(
            optimizer, task, entries=settings.cma_entries, steps=settings.unroll,
            key=jr.fold_in(key, 2),
        )  # fmt: skip
        state = _first_state(weights, settings, count_of(optimizer, settings.cma_entries), axes)
        progress = no_progress(weights, len(snapshot_steps(settings)))
        found = folder.open({}, resume=resume, overwrite=overwrite)
        state, progress = begun_or_found(state, progress, found)
        begun = cls(
            task=on_every_device(task, mesh), fixed=fixed,
            settings=dataclasses.replace(settings, rollback_ratio=None), step_settings=settings,
            key=training_key, selection=on_every_device(selection, mesh),
            folder=folder, state=state, progress=progress, begun=time.monotonic(),
            seconds_before=float(progress.seconds), mesh=mesh,
            numbers=SearchedNumbers(optimizer, settings.cma_entries, state.moments[0]),
            deviation=settings.cma_deviation,
            seed=int(jr.randint(jr.fold_in(key, 3), (), 0, 2**31 - 1)),
            memory=MEMORY if memory_limit is None else max(1, int(memory_limit * GIBIBYTE)),
        )  # fmt: skip
        begun._repeat()
        return begun

    def _repeat(self) -> None:
        """Begin, and make all moves so far. Raises `ValueError` if they lead elsewhere."""
        self._begin(np.zeros(self.numbers.axes.shape[1]))
        for scores in np.asarray(self.state.moments[1], float)[: int(self.progress.step)]:
            self._tell(self._candidates(), scores)
        there, saved = self._middle(), self.state.weights
        if not all(jax.tree.leaves(jax.tree.map(jnp.allclose, there, saved))):
            raise ValueError(
                f"`{self.folder.path}` was begun where the same search takes another way (another "
                f"version of NumPy or cmaes, or another machine): begin a new run from its weights."
            )

    def _begin(self, mean: Float[np.ndarray, " coordinate"]) -> None:
        size = self.state.moments[1].shape[1]
        self.search = CMA(mean, self.deviation, seed=self.seed, population_size=size)

    def _middle(self) -> PyTree[Array]:
        """Weights at the mean of the search."""
        middle = self.numbers.at(jnp.asarray(self.search.mean, float))
        return eqx.filter(middle, eqx.is_inexact_array)

    def step(self) -> None:
        """One generation: candidates on the same new problems, and a move by their ranks."""
        step = int(self.progress.step)
        candidates = self._candidates()
        objectives, penalties = self._scores(candidates, jr.fold_in(self.key, step))
        scores = np.asarray(objectives + penalties, float)
        self._tell(candidates, scores)
        finite = np.asarray(objectives, float)[np.isfinite(scores)]
        median = float(np.median(finite)) if finite.size else math.inf
        state = self.state
        self.state = dataclasses.replace(
            state,
            weights=self._middle(),
            moments=(state.moments[0], state.moments[1].at[step].set(scores)),
            objectives=state.objectives.at[step].set(median),
            skipped=state.skipped + (0 if finite.size else 1),
        )
        self.progress.step[...] = step + 1

    def _scores(
        self, candidates: Float[np.ndarray, "candidate coordinate"], key: Key[Array, ""]
    ) -> tuple[Float[Array, " candidate"], Float[Array, " candidate"]]:
        """Objective of each candidate on new problems, and its penalty on drift, 0 without one."""
        settings = self.step_settings
        optimizers = _stacked(self.numbers, jnp.asarray(candidates, float))
        problems = eqx.filter_jit(sample_problems)(self.task, key, settings.problems)
        scores, _ = score_settings(
            self.task, optimizers, problems, settings.unroll, settings.objective,
            memory=self.memory, mesh=self.mesh,
        )  # fmt: skip
        if not settings.drift_penalty:
            return scores, jnp.zeros_like(scores)
        drifts = _drifts(optimizers, settings.drift_steps)
        return scores, settings.drift_penalty * drifts.astype(scores.dtype)

    def _candidates(self) -> Float[np.ndarray, "candidate coordinate"]:
        return np.stack([self.search.ask() for _ in range(self.search.population_size)])

    def _tell(
        self,
        candidates: Float[np.ndarray, "candidate coordinate"],
        scores: Float[np.ndarray, " candidate"],
    ) -> None:
        """Move by the ranks of the scores.

        If every candidate diverged, the search begins again from its mean with half the deviation,
        and it stands still when it has converged.
        """
        if not np.isfinite(scores).any():
            self.deviation, self.seed = self.deviation / 2, self.seed + 1
            self._begin(self.search.mean)
        elif not self.search.should_stop():
            ranked = np.where(np.isfinite(scores), scores, np.inf)
            self.search.tell(list(zip(candidates, ranked, strict=True)))


def population_size(settings: MetaTraining, numbers: int) -> int:
    """Candidates of each meta-step: what Hansen (2016) advises, if `settings` leave it open."""
    return settings.cma_population or 4 + math.floor(3 * math.log(numbers))


def _check(task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining) -> None:
    """Raise `ValueError` for what cannot be searched."""
    if jax.process_count() > 1:
        raise ValueError("`settings.estimator` must not be cma in several processes.")
    if isinstance(optimizer, AbstractParameterOptimizer):
        raise ValueError(
            f"`settings.estimator` must not be cma for this {type(optimizer).__name__}, whose "
            f"updates depend on the value of x: recorded gradients alone do not repeat its runs."
        )
    check_sizes(task, optimizer, settings)
    check_count(optimizer, settings.cma_entries)


def _first_state(
    weights: PyTree[Array],
    settings: MetaTraining,
    count: int,
    axes: Float[np.ndarray, "number coordinate"] | None,
) -> OuterState:
    """Without axes, those of a saved state take their place. There is no meta-gradient."""
    steps = settings.steps
    return OuterState(
        weights=weights,
        moments=(
            jnp.asarray(np.zeros((count, count)) if axes is None else axes, float),
            jnp.zeros((steps, population_size(settings, count))),
        ),
        objectives=jnp.zeros(steps, jnp.float32),
        gradient_norms=jnp.full(steps, jnp.nan, jnp.float32),
        skipped=jnp.zeros((), jnp.int32),
        particles=None,
    )


@eqx.filter_jit
def _stacked(numbers: SearchedNumbers, candidates: Float[Array, "candidate coordinate"]) -> Any:
    return eqx.filter_vmap(numbers.at)(candidates)


@eqx.filter_jit
def _drifts(optimizers: Any, steps: int) -> Float[Array, " candidate"]:
    return eqx.filter_vmap(lambda optimizer: drift(optimizer, steps))(optimizers)
