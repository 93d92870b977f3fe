"""A stage: the optimizer of a run and the tuned baselines on test problems."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from lrevopt import storage
from lrevopt.inner_loop.evaluation import Evaluation, evaluate
from lrevopt.optimizers import AbstractOptimizer, saved
from lrevopt.runs.contents import SHARED, Run
from lrevopt.runs.experiment import LEARNED, key_stream
from lrevopt.runs.tune import Say, load_tuning, tuned_baselines
from lrevopt.runs.writing import write
from lrevopt.tasks import AbstractTask
from lrevopt.text import csv_text

TESTED_PROBLEMS, TESTED_NETWORKS, NETWORK = 256, 64, 1_000
"""Problems that optimizers are tested on, and fewer of problems with more parameters than the last
number."""


def tested_problems(task: AbstractTask) -> int:
    """How many problems of a task to test on."""
    problem = eqx.filter_eval_shape(task.sample, key_stream("test", 0))
    return TESTED_NETWORKS if problem.initial_parameters.size > NETWORK else TESTED_PROBLEMS


def contestants(run: Run, baselines: Path | None = None) -> dict[str, AbstractOptimizer]:
    """The optimizer of a run, and the baselines tuned there or in another folder, by name.

    Raises `ValueError` if there are none, or they are of another task.
    """
    tuning = load_tuning(run.folder if baselines is None else baselines, run.task)
    return {LEARNED: saved.load(run.folder), **tuned_baselines(tuning)}


def evaluate_run(
    run: Run,
    *,
    problems: int | None = None,
    steps: int = 200,
    seed: int = 0,
    baselines: Path | None = None,
    say: Say = print,
) -> Evaluation:
    """Run everything on test problems, save the losses and a table of paired comparisons.

    What was run when a call was interrupted is not run again: the folder keeps each optimizer's
    runs until all are there.

    - `problems`: test problems, by default as many as `tested_problems` says.
    - `steps`: updates in each run.
    - `seed`: of the test problems.
    - `baselines`: a folder with tuned baselines of the same task, by default the run's own. Where
      that folder is a run whose evaluation has them on the same problems, they are not run again,
      and the record refers to it.

    Raises `ValueError` for a run without weights, or folders without tuned baselines.
    """
    task = run.task
    problems = tested_problems(task) if problems is None else problems
    facts: dict[str, Any] = {"problems": problems, "steps": steps, "seed": seed}
    entered, shared = contestants(run, baselines), _shared(baselines, facts)
    if shared is not None:
        facts[SHARED] = os.path.relpath(Path(str(baselines)), run.folder)
        entered = {LEARNED: entered[LEARNED]}
    runs = _Runs(run.folder / Run.unfinished_evaluation.file, task, problems, steps, seed)
    # The baselines first: they are what another optimizer of the folder would still be compared to.
    for name in [*(name for name in entered if name != LEARNED), LEARNED]:
        runs.of(name, entered[name])
    own = runs.together(entered)
    evaluation = own if shared is None else own.beside(shared)
    write(run.folder, "evaluation", own, json=facts, csv=_comparisons(evaluation))
    storage.remove(runs.folder)
    for line in _said(evaluation):
        say(line)
    return evaluation


def _shared(baselines: Path | None, facts: dict[str, Any]) -> Evaluation | None:
    """Evaluation of another run that has its tuned baselines on the same problems, if it is one."""
    if baselines is None or not (baselines / storage.SETTINGS).is_file():
        return None
    other = Run(baselines)
    same = other.stages().get("evaluation", {})
    if other.evaluation is None or any(same.get(name) != facts[name] for name in facts):
        return None
    return other.evaluation if set(other.tuning) <= set(other.evaluation.names) else None


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
        problems, steps = self.counts["problems"], self.counts["steps"]
        found = evaluate({name: optimizer}, self.task, key=key, problems=problems, steps=steps)
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


def _others(evaluation: Evaluation) -> list[str]:
    return [name for name in evaluation.names if name != LEARNED]


def _comparisons(evaluation: Evaluation) -> str:
    """CSV of the paired comparison with each baseline."""
    rows = [evaluation.compare(LEARNED, name) for name in _others(evaluation)]
    columns = [field.name for field in dataclasses.fields(rows[0])]
    return csv_text(columns, ([getattr(row, column) for column in columns] for row in rows))


def _said(evaluation: Evaluation) -> list[str]:
    """A line for the optimizer of the run, and one for each baseline."""
    means, problems = evaluation.mean_scores(), evaluation.losses.shape[1]
    measured = {
        name: dict(zip(evaluation.names, values.mean(axis=1), strict=True))
        for name, values in evaluation.metrics.items()
    }

    def beside(which: str) -> str:
        return "".join(f"; {name} {values[which]:.4f}" for name, values in measured.items())

    lines = [f"{LEARNED}: {means[LEARNED]:.4f} on {problems} test problems{beside(LEARNED)}"]
    for name in _others(evaluation):
        pair = evaluation.compare(LEARNED, name)
        lines.append(
            f"{name}: {means[name]:.4f}; learned / {name} = {pair.ratio_of_means:.3f}, difference "
            f"{pair.difference:.4f} [{pair.low:.4f}, {pair.high:.4f}], {problems} problems"
            f"{beside(name)}"
        )
    return lines
