"""Evaluation on tasks, gradient scales, sizes and horizons that optimizers were not trained for.

A learned optimizer is trained on one task, and the learning rate of a hand-written one is tuned on
one. `measure_transfer` runs optimizers of several tasks on one of them. `sweep_scales`,
`sweep_horizons` and `sweep_tasks` vary one quantity at a time.
"""

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt import storage
from lrevopt.checks import (
    finite,
    integer_of_at_least,
    mapping,
    one_of,
    positive_integer,
    positive_of_type,
    random_key,
    shown,
)
from lrevopt.inner_loop.evaluation import (
    Comparison,
    Evaluation,
    comparison,
    evaluate,
    paired_interval,
)
from lrevopt.inner_loop.objectives import log_objectives
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.wrappers import ScaledGradients, wrapped
from lrevopt.studies.scorecard import Scorecard, distance, measure_scorecard
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Facts, Printed, Table, csv_text, number


class Transfer(eqx.Module):
    """Optimizers of several tasks on one task.

    - `names`: the optimizers; `home_optimizer`: the one that was trained on this task.
    - `objectives`: meta-objective of every run, mean(losses) / losses[0]; +inf where it diverged.
    - `distances`: between the scorecards of each optimizer and of the home optimizer, both measured
      on this task; NaN where a scorecard could not be measured (as when every run diverged), or
      none was asked for.
    """

    names: tuple[str, ...]
    home_optimizer: str
    objectives: Float[np.ndarray, "optimizer problem"]
    distances: Float[np.ndarray, " optimizer"]

    def __check_init__(self) -> None:
        one_of("home_optimizer", self.home_optimizer, self.names)
        _check_names(self.names, self.objectives)

    def diverged(self) -> np.ndarray:
        """Number of problems on which each optimizer diverged."""
        return np.isinf(self.objectives).sum(axis=1)

    def log_ratios(self, reference: str) -> Float[np.ndarray, "optimizer 3"]:
        """Mean natural log of the ratio of objectives to `reference`'s, with its 95 % interval.

        Ratios are taken problem by problem. Columns are mean, low and high, as `paired_interval`
        returns them; a mean with a diverged run is +inf, one with a meta-objective of 0 or less,
        which has no ratio, NaN. Raises `ValueError` for an unknown name.
        """
        one_of("reference", reference, self.names)
        logs = log_objectives(self.objectives)
        row = logs[self.names.index(reference)]
        return np.array([paired_interval(own, row) for own in logs])


class Sweep(Printed, eqx.Module):
    """Optimizers while one quantity varies.

    - `names`: the optimizers.
    - `values`: of that quantity, such as numbers of updates.
    - `objectives`: meta-objective of every run, mean(losses) / losses[0]; +inf where it diverged.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, " value"]
    objectives: Float[np.ndarray, "optimizer value problem"]

    def __check_init__(self) -> None:
        _check_names(self.names, self.objectives)

    def table(self) -> Table:
        """A row for each optimizer: its mean at each value, and how often it diverged."""
        means, lost = self.means(), self.diverged()
        rows = [
            (name, *(number(mean, 4) for mean in means[place]), str(int(lost[place].max())))
            for place, name in enumerate(self.names)
        ]
        problems = self.objectives.shape[-1]
        heads = ("optimizer", *(f"{value:g}" for value in self.values), "diverged")
        notes = [f"Mean meta-objective, mean(losses) / losses[0], of {problems} problems at each "
                 "value: lower is better. Infinite where a run diverged; the last column has the "
                 "largest number of diverged runs at any value."]  # fmt: skip
        return Table(f"Meta-objective at {len(self.values)} values", heads, rows, notes)

    def means(self) -> Float[np.ndarray, "optimizer value"]:
        """Mean over problems; +inf if any diverged."""
        return self.objectives.mean(axis=-1)

    def diverged(self) -> np.ndarray:
        """Number of diverged problems, (optimizer, value)."""
        return np.isinf(self.objectives).sum(axis=-1)

    def compare(self, name: str, baseline: str) -> list[Comparison]:
        """Paired comparison of two of the optimizers at each value.

        Raises `ValueError` for a name that was not measured.
        """
        one_of("name", name, self.names)
        one_of("baseline", baseline, self.names)
        both = (self.objectives[self.names.index(which)] for which in (name, baseline))
        return [comparison(name, baseline, *pair) for pair in zip(*both, strict=True)]


def _check_names(names: tuple[str, ...], objectives: np.ndarray) -> None:
    if len(names) != len(objectives):
        raise ValueError(f"`names` must be {len(objectives)} optimizers, got {len(names)}.")


def measure_transfer(
    optimizers: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    home_optimizer: str,
    *,
    key: Key[Array, ""],
    analysis_key: Key[Array, ""],
    problems: int = 64,
    analysed: int = 16,
    steps: int = 200,
) -> Transfer:
    """Run every optimizer on the same problems of a task, and compare their scorecards.

    `home_optimizer` names the one that was trained on this task. `key` draws the `problems` test
    problems. Scorecards are measured on `analysed` other problems, from `analysis_key`; with 0 none
    are measured, and distances are NaN. `steps` are the updates of each run. Raises `ValueError`
    for other counts below 1, a home optimizer that is not among the optimizers, or one that has no
    scorecard because it diverges.
    """
    mapping("optimizers", optimizers, "optimizers")
    one_of("home_optimizer", home_optimizer, tuple(optimizers))
    analysis_key = random_key("analysis_key", analysis_key)
    problems = positive_integer("problems", problems)
    analysed = integer_of_at_least(0, "analysed", analysed)
    evaluation = evaluate(optimizers, task, problems=problems, steps=steps, key=key)
    cards: dict[str, Scorecard] = {}
    for name, optimizer in optimizers.items() if analysed else ():
        measure = functools.partial(
            measure_scorecard, optimizer, task, key=analysis_key, problems=analysed, steps=steps
        )
        try:
            cards[name] = storage.part(name, Scorecard, measure, of=optimizer)
        except ValueError:
            if name == home_optimizer:
                raise
    distances = [
        distance(cards[n], cards[home_optimizer]) if n in cards else np.nan for n in optimizers
    ]
    return Transfer(
        names=tuple(optimizers),
        home_optimizer=home_optimizer,
        objectives=np.asarray(evaluation.meta_objectives(), float),
        distances=np.array(distances, float),
    )


def sweep_scales(
    optimizers: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    scales: Sequence[float],
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
) -> Sweep:
    """Meta-objectives with every gradient multiplied by a scale, as a loss in other units does.

    Raises `ValueError` for no scales, or one that is not positive, or too large or too small for
    the default floating type.
    """
    mapping("optimizers", optimizers, "optimizers")
    for scale in _some("scales", scales):
        positive_of_type("scales", scale, jnp.result_type(float))
    rows = []
    for optimizer in optimizers.values():
        # By place: scales may be equal to six digits.
        scaled = {
            str(place): wrapped(optimizer, partial(ScaledGradients, scale=as_float(s)))
            for place, s in enumerate(scales)
        }
        evaluation = evaluate(scaled, task, problems=problems, steps=steps, key=key)
        rows.append(evaluation.meta_objectives())
    return _sweep(optimizers, scales, np.stack(rows))


def sweep_horizons(
    optimizers: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    horizons: Sequence[int],
    *,
    key: Key[Array, ""],
    problems: int = 64,
) -> Sweep:
    """Meta-objectives of the first updates of a run, for each number of updates in `horizons`.

    Whether an optimizer that was trained on 200 updates holds on 2,000: each optimizer runs once
    on each of `problems` test problems, drawn from `key`, for `max(horizons)` updates. `values` of
    the record are the horizons.

    Raises `ValueError` for no optimizers or horizons, or counts below 1.
    """
    for horizon in _some("horizons", horizons):
        positive_integer("horizons", horizon)
    evaluation = evaluate(optimizers, task, problems=problems, steps=max(horizons), key=key)
    names, losses = evaluation.names, evaluation.losses
    each = [Evaluation(names, losses[..., : steps + 1]).meta_objectives() for steps in horizons]
    return _sweep(optimizers, horizons, np.stack(each, axis=1))


def sweep_tasks(
    optimizers: Mapping[str, AbstractOptimizer],
    tasks: Mapping[float, AbstractTask],
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
) -> Sweep:
    """Meta-objectives on variants of a task, each with the number that varies (its dimension, say).

    Raises `ValueError` for no tasks, or keys that are no finite numbers.
    """
    if not isinstance(tasks, Mapping):
        raise ValueError(f"`tasks` must be a dictionary of tasks by number, got {shown(tasks)}.")
    values = [finite("tasks", value) for value in _some("tasks", tuple(tasks))]
    each = [
        evaluate(optimizers, task, problems=problems, steps=steps, key=key).meta_objectives()
        for task in tasks.values()
    ]
    return _sweep(optimizers, values, np.stack(each, axis=1))


def _some(name: str, values: Sequence) -> Sequence:
    listed = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    if not listed or isinstance(values, str | bytes | Mapping):
        raise ValueError(f"`{name}` must be a list of numbers, got {shown(values)}.")
    if not len(values):
        raise ValueError(f"`{name}` must not be empty, got {values!r}.")
    return values


def _sweep(names: Mapping[str, object], values: Sequence, objectives: np.ndarray) -> Sweep:
    return Sweep(tuple(names), np.asarray(values, float), np.asarray(objectives, float))


def horizon_table(sweep: Sweep) -> str:
    """CSV with a row for each optimizer and number of updates.

    Columns after `problems` compare the first optimizer with that of the row: mean difference of
    meta-objectives with its 95 % interval, and the ratio of means. They are empty in its own rows.
    """
    columns = ["updates", "optimizer", "mean_objective", "diverged", "problems",
               "difference", "low", "high", "ratio_of_means"]  # fmt: skip
    rows: list[list[Any]] = []
    means, lost, first = sweep.means(), sweep.diverged(), sweep.names[0]
    for place, name in enumerate(sweep.names):
        for column, pair in enumerate(sweep.compare(first, name)):
            compared = (pair.difference, pair.low, pair.high, pair.ratio_of_means)
            rows.append([
                int(sweep.values[column]), name, f"{means[place, column]:.6g}",
                int(lost[place, column]), pair.problems,
                *("" if name == first else f"{value:.6g}" for value in compared),
            ])  # fmt: skip
    return csv_text(columns, rows)


def horizon_facts(sweep: Sweep) -> Facts:
    """How the first optimizer of a sweep of horizons stands beside each of the others."""
    means, lost, problems = sweep.means(), sweep.diverged(), sweep.objectives.shape[-1]
    against = {name: sweep.compare(sweep.names[0], name) for name in sweep.names[1:]}
    facts = []
    for column, updates in enumerate(sweep.values):
        said = f"{sweep.names[0]} has {number(means[0, column])}"
        said += f" and diverges on {lost[0, column]} of {problems} problems"
        for place, (name, pairs) in enumerate(against.items(), 1):
            pair = pairs[column]
            said += f"; {name} {number(means[place, column])}"
            if pair.baseline_diverged:
                said += f", diverges on {pair.baseline_diverged}"
            ends = f"[{number(pair.low)}, {number(pair.high)}]"
            said += f", difference {number(pair.difference)} {ends}"
        facts.append((f"After {int(updates):,} updates", said))
    return facts
