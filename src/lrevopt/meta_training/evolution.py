"""Meta-training without gradients: covariance matrix adaptation (Hansen, 2016).

Near a good optimizer of a network, runs are chaotic: exact meta-gradients have no useful direction,
and clipped ones are biased. A search that ranks candidates by their scores needs neither. Each
meta-step draws a population of candidates around a mean, runs all of them on the same new problems,
and moves mean and covariance by their ranks (`cmaes.CMA`). What is kept is the mean.

`searched_numbers` says what is searched, and in which coordinates.
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
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.meta_training.loop import Training
from lrevopt.meta_training.memory import check_sizes
from lrevopt.meta_training.outer_step import OuterState, drift
from lrevopt.meta_training.records import begun_or_found, no_progress
from lrevopt.meta_training.run_directory import RunDirectory
from lrevopt.meta_training.searched_numbers import SearchedNumbers, count_of, searched_numbers
from lrevopt.meta_training.settings import MetaTraining, snapshot_steps
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems


@dataclasses.dataclass
class Evolving(Training):
    """A search that has begun; see `Training`.

    The state's `moments` are the scores of all candidates so far. With the seed of the search they
    are all that it follows from, so a run resumes by repeating the draws.
    """

    numbers: SearchedNumbers
    search: CMA

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
        """As `Training.prepare`. Candidates take the memory that scores of settings take."""
        if jax.process_count() > 1:
            raise ValueError("`settings.estimator` must not be cma in several processes.")
        check_sizes(task, optimizer, settings)
        training_key, selection_key = jr.split(key)
        mesh = check_mesh(mesh, settings.problems)
        folder.check(resume=resume, overwrite=overwrite)
        numbers = searched_numbers(
            optimizer, task, entries=settings.cma_entries, steps=settings.unroll,
            key=jr.fold_in(key, 2),
        )  # fmt: skip
        weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
        size = population_size(settings, count_of(optimizer, settings.cma_entries))
        state = _first_state(weights, settings.steps, size)
        progress = no_progress(weights, len(snapshot_steps(settings)))
        found = folder.open({}, resume=resume, overwrite=overwrite)
        state, progress = begun_or_found(state, progress, found)
        selection = sample_problems(task, selection_key, settings.selection_problems)
        begun = cls(
            task=on_every_device(task, mesh),
            fixed=fixed,
            settings=dataclasses.replace(settings, rollback_ratio=None),
            step_settings=settings,
            key=training_key,
            selection=on_every_device(selection, mesh),
            folder=folder,
            state=state,
            progress=progress,
            begun=time.monotonic(),
            seconds_before=float(progress.seconds),
            mesh=mesh,
            numbers=numbers,
            search=CMA(
                np.zeros(numbers.axes.shape[1]), settings.cma_deviation,
                seed=int(jr.randint(jr.fold_in(key, 3), (), 0, 2**31 - 1)), population_size=size,
            ),
        )  # fmt: skip
        for scores in np.asarray(state.moments)[: int(progress.step)]:
            begun._tell(begun._candidates(), scores)
        return begun

    def step(self) -> None:
        """One generation: candidates on the same new problems, and a move by their ranks."""
        step = int(self.progress.step)
        candidates = self._candidates()
        scores = np.asarray(self._scores(candidates, jr.fold_in(self.key, step)))
        self._tell(candidates, scores)
        middle = self.numbers.at(jnp.asarray(self.search.mean, float))
        finite = scores[np.isfinite(scores)]
        median = float(np.median(finite)) if finite.size else math.inf
        state = self.state
        self.state = dataclasses.replace(
            state,
            weights=eqx.filter(middle, eqx.is_inexact_array),
            moments=state.moments.at[step].set(scores.astype(np.float32)),
            objectives=state.objectives.at[step].set(median),
            skipped=state.skipped + (0 if finite.size else 1),
        )
        self.progress.step[...] = step + 1

    def _scores(
        self, candidates: Float[np.ndarray, "candidate coordinate"], key: Key[Array, ""]
    ) -> Float[Array, " candidate"]:
        """Score of each candidate on new problems, with the penalty on drift if there is one."""
        settings = self.step_settings
        optimizers = _stacked(self.numbers, jnp.asarray(candidates, float))
        problems = eqx.filter_jit(sample_problems)(self.task, key, settings.problems)
        scores, _ = score_settings(
            self.task, optimizers, problems, settings.unroll, settings.objective, mesh=self.mesh
        )
        if not settings.drift_penalty:
            return scores
        drifts = _drifts(optimizers, settings.drift_steps)
        return scores + settings.drift_penalty * drifts.astype(scores.dtype)

    def _candidates(self) -> Float[np.ndarray, "candidate coordinate"]:
        return np.stack([self.search.ask() for _ in range(self.search.population_size)])

    def _tell(
        self,
        candidates: Float[np.ndarray, "candidate coordinate"],
        scores: Float[np.ndarray, " candidate"],
    ) -> None:
        """Move by the ranks of the scores; not at all if every candidate diverged."""
        if np.isfinite(scores).any():
            ranked = np.where(np.isfinite(scores), scores, np.inf).astype(float)
            self.search.tell(list(zip(candidates, ranked, strict=True)))


def population_size(settings: MetaTraining, numbers: int) -> int:
    """Candidates of each meta-step: what Hansen (2016) advises, if `settings` leave it open."""
    return settings.cma_population or 4 + math.floor(3 * math.log(numbers))


def _first_state(weights: PyTree[Array], steps: int, size: int) -> OuterState:
    """There is no meta-gradient, so its norms stay NaN."""
    return OuterState(
        weights=weights,
        moments=jnp.zeros((steps, size), jnp.float32),
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
