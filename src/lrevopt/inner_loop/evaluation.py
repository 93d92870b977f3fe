"""Optimizers on held-out problems: curves, meta-objectives, paired comparisons.

All optimizers run on the same draws. Initial losses differ between problems by orders of
magnitude (those of the paper's linear regression are heavy-tailed), so two optimizers are compared
problem by problem, and the mean difference has a bootstrap interval.

A run with a loss that is not finite has *diverged*, and so has one that leaves a start of loss 0,
which no ratio measures. Its meta-objective is +inf, and diverged runs are counted. Nothing here
returns NaN.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from lrevopt import storage
from lrevopt.checks import instance, mapping, one_of, positive_integer, random_key
from lrevopt.inner_loop.devices import check_mesh, over_problems
from lrevopt.inner_loop.objectives import Objective, meta_objective, ratio_of_means
from lrevopt.inner_loop.run_checks import check_first_losses, check_run
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.inner_loop.unroll import run_all
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems
from lrevopt.text import Printed, Table, number

RESAMPLES = 10_000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 0
"""Seed of all resampling, so that the same losses always give the same interval."""

PIECE = 2 * 10**8
"""Updates of single parameters on a device that are run, and kept, at a time: on a network minutes
of work, which an interruption loses."""


class Comparison(Printed, eqx.Module):
    """Mean over problems of `name`'s meta-objective minus `baseline`'s, and its interval.

    Negative is better for `name`. `low` and `high` bound the 95 % interval. `ratio_of_means`
    divides the two mean meta-objectives, and is NaN where one of them is below 0. Where runs
    diverged, see `paired_interval`; a ratio is then inf if `name` diverged anywhere, else 0.
    """

    name: str
    baseline: str
    difference: float
    low: float
    high: float
    ratio_of_means: float
    problems: int
    diverged: int
    baseline_diverged: int

    def table(self) -> Table:
        """The difference with its interval, the ratio, and how many runs diverged."""
        rows = [
            ("difference of means", number(self.difference, 4), ".difference"),
            ("lower end of its 95 % interval", number(self.low, 4), ".low"),
            ("upper end", number(self.high, 4), ".high"),
            ("ratio of means", number(self.ratio_of_means, 4), ".ratio_of_means"),
            ("problems", str(self.problems), ".problems"),
            (f"of these, {self.name} diverged on", str(self.diverged), ".diverged"),
            (f"{self.baseline} diverged on", str(self.baseline_diverged), ".baseline_diverged"),
        ]
        notes = [
            f"Meta-objective, mean over problems: {self.name} minus {self.baseline}, paired by "
            f"problem; below 0, {self.name} is better. Bootstrap interval of {RESAMPLES:,} "
            "resamples of the problems."
        ]
        title = f"{self.name} compared with {self.baseline}"
        return Table(title, ("number", "value", "field"), rows, notes)


class Evaluation(Printed, eqx.Module):
    """Losses of named optimizers on the same problems, counted from the start.

    `losses[i, j, k]` is optimizer i on problem j after k updates. `metrics` are what the task
    measures of final parameters beside the loss, by name (see `AbstractTask.metrics`).
    """

    names: tuple[str, ...]
    losses: Float[np.ndarray, "optimizer problem visited"]
    metrics: dict[str, Float[np.ndarray, "optimizer problem"]] = dataclasses.field(
        default_factory=dict
    )

    def __check_init__(self) -> None:
        if len(self.names) != len(self.losses):
            raise ValueError(
                f"`names` must have one name for each of the {len(self.losses)} optimizers in "
                f"`losses`, got {len(self.names)}."
            )

    def table(self) -> Table:
        """A row for each optimizer: its meta-objective, diverged runs and final metrics."""
        means = self.mean_scores()
        medians = np.median(self.meta_objectives(), axis=1)
        rows = [
            (name, number(means[name], 4), number(float(medians[place]), 4),
             str(self.diverged()[place]),
             *(number(float(values[place].mean()), 4) for values in self.metrics.values()))
            for place, name in enumerate(self.names)
        ]  # fmt: skip
        problems, visited = self.losses.shape[1:]
        title = f"Meta-objective on {problems} problems, {visited - 1} updates each"
        notes = ["Meta-objective, mean(losses) / losses[0]: lower is better, 1 is not moving. The "
                 "mean is infinite where a run diverged (or left a start of loss 0)."]  # fmt: skip
        heads = ("optimizer", "mean", "median", "diverged", *self.metrics)
        return Table(title, heads, rows, notes)

    def only(self, names: Sequence[str]) -> "Evaluation":
        """The record of some of its optimizers. Raises `ValueError` for a name that it lacks."""
        places = [self.names.index(one_of("names", name, self.names)) for name in names]
        metrics = {name: values[places] for name, values in self.metrics.items()}
        return Evaluation(tuple(names), self.losses[places], metrics)

    def beside(self, other: "Evaluation") -> "Evaluation":
        """Join this record with the optimizers of `other` that it lacks, on the same problems.

        Raises `ValueError` for runs of another number of problems or updates or of other first
        losses, or without metrics that this record has.
        """
        instance("other", other, Evaluation, "an evaluation")
        if self.losses.shape[1:] != other.losses.shape[1:]:
            raise ValueError(
                f"`other` must have runs of shape {self.losses.shape[1:]}, got "
                f"{other.losses.shape[1:]}."
            )
        firsts = (self.losses[:1, :, 0], other.losses[:1, :, 0])  # a record may have no optimizer
        if not np.allclose(*firsts, rtol=1e-3, atol=0, equal_nan=True):
            raise ValueError("`other` must have runs on the same problems, got other first losses.")
        missing = [name for name in self.metrics if name not in other.metrics]
        if missing:
            raise ValueError(
                f"`other` must have the metrics of this record, got none named {missing[0]!r}."
            )
        new = [place for place, name in enumerate(other.names) if name not in self.names]
        return Evaluation(
            (*self.names, *(other.names[place] for place in new)),
            np.concatenate([self.losses, other.losses[new]]),
            {
                name: np.concatenate([values, other.metrics[name][new]])
                for name, values in self.metrics.items()
            },
        )

    def finite(self) -> np.ndarray:
        """Whether a run did not diverge, (optimizer, problem)."""
        left = (self.losses[..., 0] == 0) & (self.losses > 0).any(axis=-1)
        return np.isfinite(self.losses).all(axis=-1) & ~left

    def diverged(self) -> Int[np.ndarray, " optimizer"]:
        """Number of problems on which each optimizer diverged."""
        return (~self.finite()).sum(axis=-1)

    def meta_objectives(
        self, objective: Objective = "mean"
    ) -> Float[np.ndarray, "optimizer problem"]:
        """Meta-objective of each run, by default mean(losses) / losses[0]; +inf if diverged.

        It is +inf, too, where a mean loss of 0 or less has no finite logarithm.
        """
        finite = self.finite()
        # Losses of 1 stand in for diverged runs, so that no operation meets infinities.
        losses = np.where(finite[..., None], self.losses, 1.0)
        objectives = np.asarray(meta_objective(jnp.asarray(losses), objective))
        return np.where(finite & np.isfinite(objectives), objectives, np.inf)

    def mean_scores(self, objective: Objective = "mean") -> dict[str, float]:
        """Mean meta-objective by name; +inf if any run diverged."""
        scores = self.meta_objectives(objective)
        return {name: float(np.mean(row)) for name, row in zip(self.names, scores, strict=True)}

    def best(self) -> str:
        """Name of the optimizer with the least mean meta-objective.

        Where all diverged on some problem, it is the one that did on the fewest and, of several,
        has the least mean on the others.
        """
        finite, scores = self.finite(), self.meta_objectives()
        left = [float(row[sound].mean()) if sound.any() else math.inf
                for row, sound in zip(scores, finite, strict=True)]  # fmt: skip
        ranks = zip(scores.mean(axis=1), self.diverged(), left, self.names, strict=True)
        return min(ranks, key=lambda rank: rank[:3])[3]

    def best_beside(self, name: str) -> str | None:
        """Name of the best optimizer of all but `name` (see `best`), if there is another."""
        others = [other for other in self.names if other != name]
        return self.only(others).best() if others else None

    def mean_curve(self) -> Float[np.ndarray, "optimizer visited"]:
        """Mean loss over problems; +inf from the step on at which a problem diverges."""
        finite = np.isfinite(self.losses)
        mean = np.where(finite, self.losses, 0.0).mean(axis=1)
        return np.where(finite.all(axis=1), mean, np.inf)

    def standard_error(self) -> Float[np.ndarray, "optimizer visited"]:
        """Standard error of `mean_curve`; +inf where a problem diverged, 0 for one problem."""
        problems = self.losses.shape[1]
        finite = np.isfinite(self.losses)
        kept = np.where(finite, self.losses, 0.0)
        deviation = kept.std(axis=1, ddof=1) if problems > 1 else np.zeros_like(kept[:, 0])
        return np.where(finite.all(axis=1), deviation / np.sqrt(problems), np.inf)

    def compare(self, name: str, baseline: str, objective: Objective = "mean") -> Comparison:
        """Paired comparison of two of the optimizers, `name` minus `baseline`.

        Raises `ValueError` for a name that was not evaluated.
        """
        one_of("name", name, self.names)
        one_of("baseline", baseline, self.names)
        objectives = self.meta_objectives(objective)
        ours, theirs = (objectives[self.names.index(which)] for which in (name, baseline))
        return comparison(name, baseline, ours, theirs)


def comparison(
    name: str,
    baseline: str,
    ours: Float[np.ndarray, " problem"],
    theirs: Float[np.ndarray, " problem"],
) -> Comparison:
    """Compare meta-objectives of two optimizers on the same problems; +inf where one diverged."""
    difference, low, high = paired_interval(ours, theirs)
    diverged, baseline_diverged = (int(np.isinf(run).sum()) for run in (ours, theirs))
    ratio = np.inf if diverged else 0.0
    if not (diverged or baseline_diverged):
        ratio = ratio_of_means(float(ours.mean()), float(theirs.mean()))
    return Comparison(
        name=name,
        baseline=baseline,
        difference=difference,
        low=low,
        high=high,
        ratio_of_means=ratio,
        problems=ours.size,
        diverged=diverged,
        baseline_diverged=baseline_diverged,
    )


def evaluate(
    optimizers: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    *,
    problems: int = 64,
    steps: int = 200,
    key: Key[Array, ""],
    mesh: Mesh | None = None,
) -> Evaluation:
    """Run each optimizer for `steps` updates on the same `problems` problems, drawn from `key`.

    `key` must not be one from which an optimizer was trained or tuned. Optimizers of one structure
    (the same class and shapes) share one compiled program, also across calls. Problems are spread
    over the devices of `mesh` (default: see `problem_mesh`), or their parameters where there are
    fewer problems than devices and many parameters.

    Raises `ValueError` if there are no optimizers, for fewer than one problem or step, for what
    does not fit together (see `unroll`), and for a task whose first loss is negative: the
    meta-objective is relative to it.
    """
    mapping("optimizers", optimizers, "optimizers")
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    key = random_key("key", key)
    for name, own in optimizers.items():
        parameters = check_run(own, task, key, f"optimizers[{name!r}]")
    mesh = check_mesh(mesh, problems, parameters.size)
    check_runs(task, problems=problems, steps=steps, optimizers=len(optimizers))
    draws = _sample(task, key, problems)
    check_first_losses(task, draws)
    pieces = _pieces(draws, steps, parameters.size, mesh)

    def run(own: AbstractOptimizer, piece: Any) -> Runs:
        return Runs(*_run(own, task, piece, steps, mesh))

    # All runs are dispatched before the first result is fetched, unless they are kept one by one.
    # Pieces depend on the number of devices, so that a part that is kept is one of these problems.
    parts = [
        [
            storage.part(name, Runs, partial(run, own, piece), of=(own, place))
            for place, piece in pieces.items()
        ]
        for name, own in optimizers.items()
    ]
    runs = [_joined(each, problems) for each in parts]
    losses = np.stack([one.losses for one in runs])
    metrics = {name: np.stack([one.metrics[name] for one in runs]) for name in runs[0].metrics}
    return Evaluation(tuple(optimizers), losses, metrics)


def _pieces(
    draws: Any, steps: int, parameters: int, mesh: Mesh | None
) -> dict[tuple[int, int], Any]:
    """Stacked problems in pieces of about equal size that keep all devices busy, by their place.

    The place is the index of the first problem of a piece, and of the first one after it.

    Each device has at most `PIECE` updates of parameters in a piece, but at least one problem.
    """
    devices = 1 if mesh is None else mesh.size
    count = draws.initial_parameters.shape[0]
    rounds = math.ceil(count / devices)
    pieces = math.ceil(rounds / max(1, PIECE // (steps * parameters)))
    if pieces == 1:
        return {(0, count): draws}
    size = devices * math.ceil(rounds / pieces)
    places = [(first, min(first + size, count)) for first in range(0, count, size)]
    return {place: jax.tree.map(lambda leaf, at=place: leaf[slice(*at)], draws) for place in places}


class Runs(eqx.Module):
    """Runs of one optimizer: losses, and the task's metrics at the end."""

    losses: Float[Array, "problem visited"] | Float[np.ndarray, "problem visited"]
    metrics: dict[str, Any]


def _joined(parts: list[Runs], problems: int) -> Runs:
    """Runs on several pieces of the problems as one record of NumPy arrays."""
    joined = jax.tree.map(lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *parts)
    assert len(joined.losses) == problems, f"{len(joined.losses)} problems were run, not {problems}"
    return joined


@eqx.filter_jit
def _sample(task: AbstractTask, key: Key[Array, ""], count: int) -> Any:
    return sample_problems(task, key, count)


@eqx.filter_jit
def _run(
    optimizer: AbstractOptimizer, task: AbstractTask, problems: Any, steps: int, mesh: Mesh | None
) -> tuple[Float[Array, "problem visited"], dict[str, Array]]:
    def measure(task: AbstractTask, runs: Any) -> dict[str, Array]:
        return jax.lax.map(lambda run: task.metrics(*run), runs)

    losses, ends = run_all(optimizer, task, problems, steps, mesh)
    return losses, over_problems(measure, task, (problems, ends), mesh)


def paired_interval(
    values: Float[np.ndarray, " problem"], baseline: Float[np.ndarray, " problem"]
) -> tuple[float, float, float]:
    """Mean of `values - baseline` with the ends of its 95 % bootstrap interval.

    Bias-corrected and accelerated, 10,000 resamples of the problems, always the same seed.
    Equal differences (so also a single problem) have an interval of zero width.

    Entries may be +inf (diverged). A problem on which both diverged counts as a tie, a difference
    of 0. Where only one diverged the difference is infinite. A mean with infinities is +inf if
    `values` diverged on any problem in it, else -inf: an optimizer that diverged never wins. The
    interval is then the percentile interval of resampled means. With a NaN both ends are NaN.
    """
    both = np.isinf(values) & np.isinf(baseline)
    differences = np.where(both, 0.0, values).astype(float) - np.where(both, 0.0, baseline)
    mean = _mean_of_extended(differences)
    if np.isnan(differences).any():
        return mean, np.nan, np.nan  # resamples without a NaN would bound a mean of other problems
    if np.all(differences == differences[0]):
        return mean, mean, mean
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    if np.all(np.isfinite(differences)):
        from scipy import stats  # most of a second and 60 MB, only here

        # Powers of large differences would overflow in the acceleration.
        scale = np.ldexp(1.0, min(np.frexp(np.abs(differences).max())[1], 1023))
        result = stats.bootstrap(
            (differences / scale,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            batch=max(1, 2**22 // differences.size),
            method="BCa",
            rng=generator,
        )
        low, high = (float(scale * end) for end in result.confidence_interval)
        if np.isfinite([low, high]).all():
            return mean, low, high
    picks = generator.integers(differences.size, size=(RESAMPLES, differences.size))
    means = np.sort([_mean_of_extended(differences[pick]) for pick in picks])
    # Order statistics, because interpolation between infinities gives NaN.
    outside = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return mean, float(means[outside]), float(means[-1 - outside])


def _mean_of_extended(values: Float[np.ndarray, " problem"]) -> float:
    if np.any(values == np.inf):
        return np.inf
    return -np.inf if np.any(values == -np.inf) else float(values.mean())
