"""Settings of meta-training: the learning-rate schedule, presets, snapshots (paper, D.2)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from lrevopt.checks import (
    finite,
    integer_of_at_least,
    one_of,
    plain_fields,
    positive_integer,
    yes_or_no,
)
from lrevopt.inner_loop.objective_kinds import OBJECTIVES, Objective

Schedule = Literal["constant", "cosine", "exponential"]
PopulationEstimator = Literal["exact", "clipped", "first_order", "es", "pes"]
Estimator = Literal[PopulationEstimator, "cma"]
Preset = Literal["quick", "paper", "released", "notebook"]

BACKPROPAGATING: tuple[Estimator, ...] = ("exact", "clipped", "first_order")
"""Estimators that differentiate runs."""

EARLY_SNAPSHOTS = (0, 1, 2, 5, 10, 20, 30, 40, 50, 75)
"""Meta-steps of the first snapshots, which are dense because the optimizer changes fastest."""


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """How an optimizer is meta-trained (paper, D.2).

    Raises `ValueError` for settings out of range.
    """

    steps: int = 1500
    """Meta-steps: updates of the optimizer's weights."""
    unroll: int = 200
    """Inner updates that each meta-gradient is backpropagated through."""
    problems: int = 32
    """Problems in a batch."""
    micro_batch: int | None = None
    """Problems differentiated at a time, a divisor of `problems` (default: planned)."""
    checkpoint_every: int | None = None
    """Inner updates between kept states (default: planned)."""
    estimator: Estimator = "exact"
    """Meta-gradient: exact, clipped or first-order backpropagation, evolution strategies (es), or
    persistent ones (pes). cma is a search without any gradient, by covariance matrix adaptation,
    for which learning rates, clips, outliers, rollback and the penalty on weights mean nothing."""
    cotangent_clip: float = 1.0
    """Estimator clipped: bound on the part of the parameters' cotangent that comes through
    Hessians, relative to the rest."""
    es_deviation: float = 0.01
    """Evolution strategies: standard deviation of the perturbations of the weights."""
    es_pairs: int = 1
    """Estimator es: antithetic pairs for each of `problems`. Each pair draws a problem of its own,
    so that a meta-step runs `problems` times as many."""
    es_window: int = 20
    """Estimator pes: inner updates in each meta-step, a divisor of `unroll`."""
    cma_deviation: float = 0.02
    """Estimator cma: standard deviation of the first candidates, in coordinates of which one unit
    changes the displacement of parameters, under recorded gradients, by at most its own size."""
    cma_population: int | None = None
    """Estimator cma: candidates of each meta-step (default: 4 + 3 log(number of coordinates))."""
    cma_entries: int = 64
    """Estimator cma: arrays of at most so many entries are searched entry by entry, larger ones by
    a factor for each block (the matrix of one gate)."""
    objective: Objective = "mean"
    """What is minimised, averaged over the batch: mean is mean(losses) / losses[0], log_mean its
    logarithm, final losses[-1] / losses[0]."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam."""
    warm_up: int = 100
    """Meta-steps of linear warm-up to the peak."""
    schedule: Schedule = "cosine"
    """After the warm-up: cosine to 0 at the end, exponential decay, or constant."""
    decay_factor: float = 0.8
    """Exponential schedule: factor on the learning rate every `decay_steps`."""
    decay_steps: int = 500
    """Exponential schedule: meta-steps in which the learning rate falls by `decay_factor`."""
    b1: float = 0.9
    """Adam's decay of the first moment."""
    b2: float = 0.999
    """Adam's decay of the second moment."""
    epsilon: float = 1e-8
    """Adam's epsilon."""
    clip: float = 2e-3
    """Bound on each entry of the meta-gradient. Typical entries are about 1e-4. With a bound far
    above them, one diverging problem inflates Adam's second moment for a thousand steps."""
    outlier_ratio: float | None = 3.0
    """Meta-gradients are scaled down to at most this many times the median norm of the last 100
    steps (None: never). A problem on which the optimizer begins to diverge has a huge gradient
    without a useful direction."""
    rollback_ratio: float | None = 2.0
    """When a snapshot scores more than this many times the best one, training returns to the best
    one, with new moments and half the learning rate (None: never). Of a best score below 0: more
    than `rollback_ratio` - 1 times its size above it."""
    penalty: float = 1e-5
    """Strength of the penalty on the weights."""
    penalty_form: Literal["squared_norm", "norm"] = "squared_norm"
    """Squared L2 norm, as in the paper, or the unsquared norm of the authors' code."""
    drift_penalty: float = 0.0
    """Strength of the penalty on drift, the mean of (w . h' / |w|)^2 over `drift_steps` updates
    without gradient, from the initial state and from states to which gradients have led. Also
    added to scores on selection problems."""
    drift_steps: int = 1000
    """Updates without gradient over which drift is measured."""
    snapshot_every: int = 100
    """Meta-steps between snapshots, after the early ones."""
    early_snapshots: bool = True
    """Whether more snapshots are taken at the start. Each is run on every selection problem."""
    selection_problems: int = 512
    """Number of problems, separate from all others, on which the best snapshot is selected."""
    selection_unroll: int | None = None
    """Inner updates of runs on selection problems (default: `unroll`)."""

    def __post_init__(self) -> None:
        plain_fields(self)
        for name in ("steps", "unroll", "problems", "decay_steps", "snapshot_every"):
            positive_integer(name, getattr(self, name))
        for name in ("es_pairs", "es_window", "cma_entries"):
            positive_integer(name, getattr(self, name))
        for name in ("selection_problems", "drift_steps"):
            positive_integer(name, getattr(self, name))
        for name in ("micro_batch", "checkpoint_every", "selection_unroll"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))
        if self.cma_population is not None:
            integer_of_at_least(4, "cma_population", self.cma_population)
        if self.problems % (self.micro_batch or self.problems):
            raise ValueError(
                f"`micro_batch` must divide `problems` ({self.problems}), got {self.micro_batch}."
            )
        integer_of_at_least(0, "warm_up", self.warm_up)
        for name in ("learning_rate", "clip", "epsilon", "decay_factor", "es_deviation",
                     "cma_deviation"):  # fmt: skip
            finite(name, getattr(self, name), above=0.0)
        finite("cotangent_clip", self.cotangent_clip, at_least=0.0)
        if self.outlier_ratio is not None:
            finite("outlier_ratio", self.outlier_ratio, above=0.0)
        if self.rollback_ratio is not None:
            finite("rollback_ratio", self.rollback_ratio, above=1.0)
        for name in ("penalty", "drift_penalty"):
            finite(name, getattr(self, name), at_least=0.0)
        for name in ("b1", "b2"):
            finite(name, getattr(self, name), at_least=0.0, below=1.0)
        yes_or_no("early_snapshots", self.early_snapshots)
        one_of("objective", self.objective, OBJECTIVES)
        one_of("estimator", self.estimator, get_args(Estimator))
        if self.estimator == "pes":
            self._check_persistent()
        one_of("schedule", self.schedule, get_args(Schedule))
        one_of("penalty_form", self.penalty_form, ("squared_norm", "norm"))

    def _check_persistent(self) -> None:
        """Windows must divide a run evenly, and the objective must be a sum over them."""
        if self.unroll % self.es_window:
            raise ValueError(
                f"`es_window` must divide `unroll` ({self.unroll}), got {self.es_window}."
            )
        if self.objective != "mean":
            raise ValueError(f"`objective` must be mean for pes, got {self.objective!r}.")


RENAMED = {
    "segment": "checkpoint_every",
    "outlier": "outlier_ratio",
    "rollback": "rollback_ratio",
}
"""Settings that older run folders keep under another name, and their name now."""


def current_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings, or a saved memory plan, under the names of today."""
    return {RENAMED.get(name, name): value for name, value in saved.items()}


def saved_training(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The `training` of a run folder as a run of today would write it, for comparison.

    Old names become the new ones. A setting that is younger than the run has its default, which
    is what runs did before it existed.
    """
    return dataclasses.asdict(MetaTraining()) | current_names(saved)


def current_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings file of a run folder under the names of today."""
    entries = (name for name in ("training", "memory_plan") if isinstance(saved.get(name), dict))
    return dict(saved) | {name: current_names(saved[name]) for name in entries}


def checked_settings(saved: Mapping[str, Any], path: object) -> dict[str, Any]:
    """As `current_settings`, of the file `path`.

    Raises `ValueError`, naming it, if its `training` are no settings of a training.
    """
    settings = current_settings(saved)
    if isinstance(settings.get("training"), dict):
        names = {field.name for field in dataclasses.fields(MetaTraining)}
        known = {name: value for name, value in settings["training"].items() if name in names}
        try:
            MetaTraining(**known)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{path}` holds no settings of a training: {error}") from None
    return settings


def of_each_step(settings: MetaTraining, planned: Mapping[str, Any]) -> MetaTraining:
    """What a compiled outer step needs of settings, with the memory as it is planned."""
    return dataclasses.replace(
        without_schedule(settings),
        micro_batch=planned["micro_batch"],
        checkpoint_every=planned["checkpoint_every"],
    )


def without_schedule(settings: MetaTraining) -> MetaTraining:
    """Settings with defaults for all that does not change a single outer step.

    Runs that differ only in these share one compiled step.
    """
    plain = MetaTraining()
    return dataclasses.replace(
        settings,
        learning_rate=plain.learning_rate,
        warm_up=plain.warm_up,
        schedule=plain.schedule,
        decay_factor=plain.decay_factor,
        decay_steps=plain.decay_steps,
        snapshot_every=plain.snapshot_every,
        early_snapshots=plain.early_snapshots,
        selection_problems=plain.selection_problems,
        selection_unroll=plain.selection_unroll,
        rollback_ratio=plain.rollback_ratio,
    )


def of_selection(settings: MetaTraining) -> MetaTraining:
    """Settings with defaults for all that does not change scores on selection problems."""
    return MetaTraining(
        unroll=settings.unroll,
        selection_unroll=settings.selection_unroll,
        drift_penalty=settings.drift_penalty,
        drift_steps=settings.drift_steps,
    )


PRESETS: dict[Preset, MetaTraining] = {
    "quick": MetaTraining(),
    # D.2 as printed; its learning rate "was tuned via random search" and is not given.
    "paper": MetaTraining(
        steps=5000,
        learning_rate=1e-3,
        warm_up=0,
        schedule="exponential",
        clip=5.0,
        outlier_ratio=None,
        rollback_ratio=None,
    ),
    # The configuration published with the authors' weights, which differs from D.2.
    "released": MetaTraining(
        steps=5000,
        problems=64,
        learning_rate=7.84e-4,
        warm_up=0,
        schedule="exponential",
        decay_factor=0.555,
        decay_steps=1000,
        b1=0.806,
        b2=0.594,
        epsilon=4.5e-6,
        clip=0.047,
        outlier_ratio=None,
        rollback_ratio=None,
        penalty=1e-6,
        penalty_form="norm",
    ),
    # The recipe of the authors' notebook, for a GRU of 64 units on linear regression.
    "notebook": MetaTraining(
        steps=2000,
        problems=64,
        learning_rate=8e-3,
        warm_up=0,
        schedule="exponential",
        decay_factor=0.5,
        decay_steps=1000,
        epsilon=0.1,
        clip=5.0,
        outlier_ratio=None,
        rollback_ratio=None,
        penalty=1e-4,
        penalty_form="norm",
    ),
}
"""Settings by name: `quick` takes minutes on two cores, `paper` is the paper's D.2, `released` the
configuration published with the authors' weights, `notebook` the recipe of their notebook."""

WITH_BIAS: tuple[Preset, ...] = ("released", "notebook")
"""Presets that follow the authors' code, whose readout has a bias."""


def learning_rate_at(settings: MetaTraining, step: int, peak: Any = None) -> Any:
    """Adam's learning rate in meta-step `step`, counted from 0.

    `peak` is the peak learning rate instead of `settings.learning_rate`: a number or an array.
    """
    rate = settings.learning_rate if peak is None else peak
    if step < settings.warm_up:
        return rate * (step + 1) / settings.warm_up
    after = step - settings.warm_up
    if settings.schedule == "exponential":
        return rate * settings.decay_factor ** (after / settings.decay_steps)
    if settings.schedule == "cosine":
        whole = max(settings.steps - settings.warm_up, 1)
        return rate * 0.5 * (1 + math.cos(math.pi * after / whole))
    return rate


def snapshot_steps(settings: MetaTraining) -> tuple[int, ...]:
    """Meta-steps before which a snapshot is taken; the last one is after the end."""
    regular = range(0, settings.steps + 1, settings.snapshot_every)
    early = [step for step in EARLY_SNAPSHOTS if step < settings.steps] * settings.early_snapshots
    return tuple(sorted({*early, *regular, settings.steps}))
