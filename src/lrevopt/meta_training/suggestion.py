"""Initial settings for a task on which nothing was trained yet: scales, sizes, length.

A GRU saturates for inputs well above 1, so that its input scale decides which gradients it can tell
apart by their size. Its steps are about as large as its output scale. Both scales are chosen from
runs of Adam, whose learning rate is tuned first:

    input scale     3 sqrt(N) / q   q: 99 % quantile of |gradient| along Adam's runs, without zeros
    output scale    alpha           alpha: the best learning rate of Adam

The factor sqrt(N), for a GRU of N units, compensates its input weights, whose standard deviation is
1 / sqrt(N).

Short trainings with these scales and with three times larger and smaller ones decide. A batch has
as many problems as keep the noise of a meta-gradient low, by their number of parameters. The number
of meta-steps is what fits into the time given.
"""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt.checks import finite, positive_integer, random_key
from lrevopt.inner_loop.devices import check_mesh
from lrevopt.inner_loop.objectives import meta_objective
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.inner_loop.unroll import run_all
from lrevopt.meta_training.estimators import independent
from lrevopt.meta_training.memory import plan_memory
from lrevopt.meta_training.outer_step import first_state, outer_step
from lrevopt.meta_training.settings import PRESETS, MetaTraining, without_schedule
from lrevopt.optimizers import Adam, GRUOptimizer, RecurrentOptimizer
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask, drawn_parameters, sample_problems
from lrevopt.tuning.constructors import stack_settings

QUANTILE = 0.99
INPUT, OUTPUT = 3.0, 1.0
"""The first scales, in the units of the formulas above."""

STEP = 3.0
NEIGHBOURS = ((1.0, 1.0), (1 / STEP, 1.0), (STEP, 1.0), (1.0, 1 / STEP), (1.0, STEP))
"""Factors on the input and output scale of each short training."""

RATES = np.geomspace(1e-5, 10.0, 25)
"""Learning rates of Adam that are tried."""

LARGE = 400
"""Parameters above which a smaller GRU and fewer problems keep a meta-step affordable."""

LANES, MOST_PROBLEMS = 1024, 32
"""Parameters of all problems of a batch together, and problems at most."""

ENOUGH = 300
"""Meta-steps that training should at least have: batches get smaller and then unrolls shorter
until it has."""

FEW_PROBLEMS = 4

TRIAL_SHARE = 1 / 3
"""Share of the time that all short trainings together may take."""

TRAINING = dataclasses.replace(
    PRESETS["quick"],
    estimator="clipped",
    objective="log_mean",
    learning_rate=2e-3,
    clip=1.0,
    early_snapshots=False,
)
"""Meta-gradients that stay finite where the exact one explodes, of an objective to which every
problem contributes alike."""


class Suggestion(eqx.Module):
    """A learned optimizer to train, settings of its training, and what they were chosen from.

    - `units`, `input_scale`, `output_scale`: of the GRU, which `optimizer(key)` builds.
    - `settings`: of its meta-training.
    - `gradient` and `learning_rate`: the q and the alpha that the scales are made of. `adam` is the
      score of Adam with that learning rate.
    - `input_scales`, `output_scales`, `scores`: of the short trainings, each of `trial_steps`
      meta-steps. Scores are means over selection problems of log(mean(losses) / losses[0]), inf if
      a run diverged.
    - `seconds`: what a meta-step took on this machine.
    """

    units: int
    input_scale: float
    output_scale: float
    settings: MetaTraining = eqx.field(static=True)
    gradient: float
    learning_rate: float
    adam: float
    input_scales: Float[np.ndarray, " trial"]
    output_scales: Float[np.ndarray, " trial"]
    scores: Float[np.ndarray, " trial"]
    trial_steps: int
    seconds: float

    def optimizer(self, key: Key[Array, ""]) -> RecurrentOptimizer:
        """The untrained GRU, with weights drawn from `key`."""
        return GRUOptimizer(
            self.units, key=key, input_scale=self.input_scale, output_scale=self.output_scale
        )

    def __str__(self) -> str:
        tried = zip(self.input_scales, self.output_scales, self.scores, strict=True)
        lines = [f"  {i:<12.3g} {o:<12.3g} {score:.3f}" for i, o, score in tried]
        settings = self.settings
        return "\n".join(
            [
                f"short trainings ({self.trial_steps} meta-steps), log(mean loss / first loss):",
                "  input scale  output scale  score",
                *lines,
                f"  Adam, learning rate {self.learning_rate:.3g}: {self.adam:.3f}",
                f"suggested: GRU of {self.units} units, input scale {self.input_scale:.3g}, output "
                f"scale {self.output_scale:.3g}",
                f"{settings.steps} meta-steps ({1000 * self.seconds:.0f} ms each) of "
                f"{settings.problems} problems, unrolls of {settings.unroll} updates",
            ]
        )


def suggest_training(
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    time_limit: float = 60.0,
    steps: int = 200,
) -> Suggestion:
    """Choose scales and settings of meta-training for a task of your own.

        suggestion = suggest_training(task, key=search_key, time_limit=120)
        run = meta_train(task, suggestion.optimizer(init_key), suggestion.settings, key=key)

    - `key`: draws the problems of this choice; use other keys for training and for tests.
    - `time_limit`: seconds that training may take on this machine. Choosing takes about half as
      long, and compilation is added to both. The time is converted into a number of meta-steps, so
      that the settings give the same run anywhere.
    - `steps`: inner updates of the runs for which the optimizer is trained.

    Raises `ValueError` for a time limit that is not positive, steps below 1, a task that does not
    fit (see `unroll`), or one on which Adam diverges with every learning rate.
    """
    finite("time_limit", time_limit, above=0.0)
    steps = positive_integer("steps", steps)
    adam_key, weights_key, training_key, selection_key = jr.split(random_key("key", key), 4)
    dim = drawn_parameters(task, adam_key).size
    chosen = sample_problems(task, selection_key, 16 if dim <= LARGE else 4)
    rate, adam = _tuned_adam(task, chosen, steps)
    gradient = _typical_gradient(Adam(rate), task, adam_key, steps)
    units = 32 if dim <= LARGE else 16
    cell = GRUOptimizer(units, key=weights_key)
    trial = _Trial(cell, task, training_key, INPUT * units**0.5 / gradient, OUTPUT * rate)
    settings, seconds = _affordable(trial, _roomy(dim, steps), time_limit)
    total = max(ENOUGH // 6, int(0.85 * time_limit / seconds))
    trial_steps = int(np.clip(TRIAL_SHARE * total / len(NEIGHBOURS), 10, 60))
    scores = []
    for factors in NEIGHBOURS:
        trained, _ = trial.train(settings, factors, trial_steps)
        scores.append(float(_score(trained, task, chosen, steps)))
    best = NEIGHBOURS[int(np.argmin(scores))]
    inputs, outputs = np.array(NEIGHBOURS).T
    return Suggestion(
        units=units,
        input_scale=trial.input_scale * best[0],
        output_scale=trial.output_scale * best[1],
        settings=dataclasses.replace(
            settings, steps=total, warm_up=max(5, total // 20), snapshot_every=max(1, total // 10)
        ),
        gradient=gradient,
        learning_rate=rate,
        adam=adam,
        input_scales=inputs * trial.input_scale,
        output_scales=outputs * trial.output_scale,
        scores=np.array(scores),
        trial_steps=trial_steps,
        seconds=seconds,
    )


def _roomy(dim: int, steps: int) -> MetaTraining:
    """Settings for problems of `dim` parameters if there is time for them."""
    problems = int(np.clip(LANES // dim, 1, MOST_PROBLEMS))
    return dataclasses.replace(
        TRAINING,
        unroll=steps,
        problems=problems,
        selection_problems=min(64, 16 * problems),
        selection_unroll=steps,
    )


def _tuned_adam(task: AbstractTask, problems: Any, steps: int) -> tuple[float, float]:
    """The best learning rate of Adam, its other settings left alone, and its score."""
    stacked = stack_settings(Adam, {"learning_rate": RATES})
    scores, _ = score_settings(task, stacked, problems, steps, "log_mean")
    best = int(np.argmin(scores))
    if not np.isfinite(scores[best]):
        raise ValueError(
            f"`task` must have a learning rate with which Adam does not diverge, but {task.title} "
            f"has none from {RATES[0]:g} to {RATES[-1]:g}."
        )
    return float(RATES[best]), float(scores[best])


def _typical_gradient(adam: Adam, task: AbstractTask, key: Key[Array, ""], steps: int) -> float:
    """The quantile of |gradient| over parameters, problems and updates of Adam; 1 if all are 0."""
    sampled = sample_states(adam, task, key=key, problems=8, steps=steps)
    sizes = np.abs(sampled.pooled_gradients)
    return float(np.quantile(sizes[sizes > 0], QUANTILE)) if np.any(sizes > 0) else 1.0


class _Scaled(AbstractOptimizer):
    """An optimizer with other scales. Exponents of 10 in thousandths, as integers: they are data
    of a compiled program, and meta-gradients leave them alone.
    """

    optimizer: AbstractOptimizer
    exponents: Int[Array, "2"]

    def _factors(self) -> Float[Array, "2"]:
        return 10.0 ** (self.exponents.astype(self.optimizer.readout.dtype) / 1000)

    @property
    def readout(self) -> Float[Array, " state"]:
        return self._factors()[1] * self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.optimizer.transition(state, self._factors()[0] * gradient)


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Short trainings of one GRU with several scales, from the same weights and problems."""

    cell: RecurrentOptimizer
    task: AbstractTask
    key: Key[Array, ""]
    input_scale: float
    output_scale: float

    def train(
        self, settings: MetaTraining, factors: tuple[float, float], steps: int
    ) -> tuple[AbstractOptimizer, list[float]]:
        """The optimizer after `steps` meta-steps, and the time at the end of each."""
        scales = np.array([self.input_scale, self.output_scale]) * factors
        exponents = np.rint(1000 * np.log10(scales)).astype(np.int32)
        optimizer = _Scaled(self.cell, jnp.asarray(exponents))
        weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
        # The length is part of the compiled step: the same for all.
        settings = dataclasses.replace(without_schedule(settings), steps=ENOUGH)
        parameters = drawn_parameters(self.task, self.key).size
        mesh = check_mesh(None, *independent(settings, parameters))
        state, times = first_state(weights, settings), []
        for step in range(steps):
            rate = TRAINING.learning_rate * min(1.0, (step + 1) / 5)
            inputs = (
                fixed,
                self.task,
                self.key,
                jnp.asarray(step, jnp.int32),
                jnp.asarray(rate, jnp.float32),
            )
            state = outer_step(inputs, state, settings, mesh)
            jax.block_until_ready(state.skipped)
            times.append(time.monotonic())
        return eqx.combine(state.weights, fixed), times


def _affordable(
    trial: _Trial, settings: MetaTraining, time_limit: float
) -> tuple[MetaTraining, float]:
    """Settings that leave time for enough meta-steps, and predicted seconds of one."""
    planned = plan_memory(trial.task, trial.cell, settings).apply(settings)
    _, times = trial.train(planned, (1.0, 1.0), 4)
    seconds, problems, unroll = float(np.median(np.diff(times))), settings.problems, settings.unroll
    while time_limit / seconds < ENOUGH:
        if problems > FEW_PROBLEMS:
            seconds *= (problems // 2) / problems
            problems //= 2
        elif unroll >= 2 and unroll > settings.unroll // 4:
            seconds *= (unroll // 2) / unroll
            unroll //= 2
        else:
            break
    smaller = dataclasses.replace(settings, problems=problems, unroll=unroll)
    return plan_memory(trial.task, trial.cell, smaller).apply(smaller), seconds


@eqx.filter_jit
def _score(
    optimizer: AbstractOptimizer, task: AbstractTask, problems: Any, steps: int
) -> Float[Array, ""]:
    """Mean log objective; inf if a run diverged."""
    scores = meta_objective(run_all(optimizer, task, problems, steps)[0], "log_mean")
    return jnp.where(jnp.all(jnp.isfinite(scores)), scores.mean(), jnp.inf)
