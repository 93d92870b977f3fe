"""Baselines tuned, and everything run on test problems."""

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt import storage
from lrevopt.inner_loop.evaluation import Evaluation, evaluate
from lrevopt.optimizers import AbstractOptimizer, saved
from lrevopt.runs.experiment import BASELINES, LEARNED, key_stream, load_task, tested_problems
from lrevopt.tasks import AbstractTask
from lrevopt.text import csv_text
from lrevopt.tuning.random_search import TuningResult, search_axes, tune
from lrevopt.tuning.settings import Tuning

Say = Callable[[str], None]

TUNING = "tuning"
"""Folder of the searches within a run's."""

RUNS = "evaluation"
"""Folder within a run's that keeps the runs of an evaluation that is not complete."""


def tune_baselines(
    task: AbstractTask, settings: Tuning, directory: Path, say: Say = print, seed: int = 0
) -> dict[str, TuningResult]:
    """Tune every baseline on problems of its own key stream, and save the searches.

    A baseline takes what of `settings.ranges` names its arguments. Raises `ValueError` for a
    range that no baseline has, or a folder whose run is of another task.
    """
    each = baseline_settings(settings)
    if (directory / storage.SETTINGS).exists():
        found = storage.load_json(directory / storage.SETTINGS)
        _check_same_task(found, storage.describe(task), directory)
    storage.writable_directory(directory / TUNING)
    record = dataclasses.asdict(settings) | {"seed": seed, "task": storage.describe(task)}
    storage.save_json(directory / TUNING / storage.SETTINGS, record)
    results = {}
    say(settings.rule())
    for name, constructor in BASELINES.items():
        start = time.monotonic()
        result = tune(task, constructor, each[name], key=key_stream("tuning", seed))
        storage.save_record(directory / TUNING / f"{name}.npz", result)
        best = ", ".join(f"{key} {value:.4g}" for key, value in result.best.items())
        say(
            f"{name}: {best}; {result.fresh_score:.4f} on fresh problems, "
            f"{np.sum(~np.isfinite(result.scores))} of {result.scores.size} settings diverged "
            f"({time.monotonic() - start:.0f} s)"
        )
        for sentence in result.widened + result.at_limit:
            say(f"  {sentence}")
        results[name] = result
    return results


def baseline_settings(settings: Tuning) -> dict[str, Tuning]:
    """Settings of each baseline, with the ranges that name its arguments.

    Raises `ValueError` for a range that no baseline has.
    """
    arguments = {name: inspect.signature(make).parameters for name, make in BASELINES.items()}
    known = {argument for names in arguments.values() for argument in names}
    if unknown := sorted(set(settings.ranges) - known):
        raise ValueError(f"`ranges` must name any of {sorted(known)}, got {unknown[0]!r}.")
    each = {}
    for name, names in arguments.items():
        ranges = {key: pair for key, pair in settings.ranges.items() if key in names}
        each[name] = dataclasses.replace(settings, ranges=ranges)
        search_axes(BASELINES[name], each[name])
    return each


def load_tuning(directory: Path, task: AbstractTask | None = None) -> dict[str, TuningResult]:
    """The searches that `tune_baselines` saved, of `task` or else of the folder's run.

    Raises `ValueError` if one is missing, or if they are of another task.
    """
    if task is not None:
        wanted = storage.describe(task)
    else:
        wanted = storage.load_json(directory / storage.SETTINGS)["task"]
    _check_same_task(storage.load_json(directory / TUNING / storage.SETTINGS), wanted, directory)
    return {
        name: storage.load_record(TuningResult, directory / TUNING / f"{name}.npz")
        for name in BASELINES
    }


def _check_same_task(settings: dict[str, Any], wanted: dict[str, Any], directory: Path) -> None:
    if settings.get("task") != wanted:
        kind = (settings.get("task") or {}).get("kind")
        raise ValueError(f"`{directory}` belongs to the task {kind}, not to this {wanted['kind']}.")


def contestants(
    directory: Path, baselines: Path, task: AbstractTask
) -> dict[str, AbstractOptimizer]:
    """The learned optimizer of a folder and the baselines tuned in another, by name."""
    tuning = load_tuning(baselines, task)
    tuned = {name: tuning[name].optimizer(make) for name, make in BASELINES.items()}
    return {LEARNED: saved.load(directory), **tuned}


def evaluate_run(
    directory: Path,
    problems: int | None,
    steps: int,
    say: Say = print,
    seed: int = 0,
    baselines: Path | None = None,
    data_dir: Path | None = None,
) -> Evaluation:
    """Run everything on test problems, save the losses and a table of paired comparisons.

    What was run when a call was interrupted is not run again: the folder keeps each optimizer's
    runs until all are there.

    `baselines` is a folder with tuned baselines of the same task, by default the run's own;
    `data_dir` one with the task's data, where it has any (see `load_images`).
    """
    known, task = load_task(directory, data_dir)
    problems = tested_problems(known) if problems is None else problems
    entered = contestants(directory, baselines or directory, task)
    runs = _Runs(directory / RUNS, task, problems, steps, seed)
    # The baselines first: they are what another optimizer of the folder would still be compared to.
    for name in [*BASELINES, LEARNED]:
        runs.of(name, entered[name])
    evaluation = runs.together(entered)
    storage.save_record(directory / "evaluation.npz", evaluation)
    storage.remove(directory / RUNS)
    facts = {"problems": problems, "steps": steps, "seed": seed}
    storage.save_json(directory / "evaluation.json", facts)
    storage.write_atomically(directory / "comparisons.csv", _comparisons(evaluation))
    means = evaluation.mean_scores()
    measured = {
        name: dict(zip(evaluation.names, values.mean(axis=1), strict=True))
        for name, values in evaluation.metrics.items()
    }

    def beside(which: str) -> str:
        return "".join(f"; {name} {values[which]:.4f}" for name, values in measured.items())

    say(f"{LEARNED}: {means[LEARNED]:.4f} on {problems} test problems{beside(LEARNED)}")
    for name in BASELINES:
        pair = evaluation.compare(LEARNED, name)
        say(
            f"{name}: {means[name]:.4f}; learned / {name} = {pair.ratio_of_means:.3f}, difference "
            f"{pair.difference:.4f} [{pair.low:.4f}, {pair.high:.4f}], {problems} problems"
            f"{beside(name)}"
        )
    return evaluation


class _Runs:
    """Runs of single optimizers on the same problems, kept in a folder until all are there."""

    def __init__(self, folder: Path, task: AbstractTask, problems: int, steps: int, seed: int):
        self.folder, self.task = folder, task
        self.counts = {"problems": problems, "steps": steps}
        self.seed = seed

    def of(self, name: str, optimizer: AbstractOptimizer) -> Evaluation:
        """One optimizer's runs: those kept, if they are of the same weights and problems."""
        path, facts = self.folder / f"{name}.npz", self.folder / f"{name}.json"
        own: dict[str, Any] = {
            "optimizer": type(optimizer).__name__,
            "weights": storage.digest_of(optimizer),
            "task": storage.describe(self.task),
            "seed": self.seed,
            **self.counts,
        }
        if path.exists() and facts.exists() and storage.load_json(facts) == own:
            return storage.load_record(Evaluation, path)
        key = key_stream("test", self.seed)
        found = evaluate({name: optimizer}, self.task, key=key, **self.counts)
        storage.remove(facts)
        storage.save_record(path, found)
        storage.save_json(facts, own)
        return found

    def together(self, optimizers: Mapping[str, AbstractOptimizer]) -> Evaluation:
        """All runs as one record, in the order of `optimizers`."""
        each = [self.of(name, optimizer) for name, optimizer in optimizers.items()]
        return Evaluation(
            tuple(optimizers),
            np.concatenate([one.losses for one in each]),
            {
                metric: np.concatenate([one.metrics[metric] for one in each])
                for metric in each[0].metrics
            },
        )


def _comparisons(evaluation: Evaluation) -> str:
    rows = [evaluation.compare(LEARNED, name) for name in BASELINES]
    columns = [field.name for field in dataclasses.fields(rows[0])]
    return csv_text(columns, ([getattr(row, column) for column in columns] for row in rows))
