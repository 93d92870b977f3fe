"""A stage: the optimizer of a run and the tuned baselines on test problems."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from lrevopt import storage
from lrevopt.inner_loop.evaluation import Evaluation, evaluate
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import AbstractOptimizer, saved
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import LEARNED, key_stream
from lrevopt.runs.readers import BASELINES, SHARED, evaluation_files
from lrevopt.runs.tune import Say, load_tuning, tuned_baselines
from lrevopt.runs.writing import write
from lrevopt.tasks import AbstractTask
from lrevopt.text import csv_text

TESTED_PROBLEMS, TESTED_NETWORKS, NETWORK = 256, 64, 1_000
"""Problems that optimizers are tested on, and fewer of problems with more parameters than the last
number."""


def on_network(task: AbstractTask) -> bool:
    """Whether problems have so many parameters that fewer of them are run by default."""
    problem = eqx.filter_eval_shape(task.sample, key_stream("test", 0))
    return bool(problem.initial_parameters.size > NETWORK)


def tested_problems(task: AbstractTask) -> int:
    """Number of test problems of a task."""
    return TESTED_NETWORKS if on_network(task) else TESTED_PROBLEMS


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

    Losses are kept, and returned, with six digits. What was run when a call was interrupted is not
    run again.

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
    check_runs(task, problems=problems, steps=steps, optimizers=4)
    facts: dict[str, Any] = {"problems": problems, "steps": steps, "seed": seed}
    entered, shared = contestants(run, baselines), _shared(run, baselines, facts)
    if shared is not None:
        facts[SHARED] = os.path.relpath(Path(str(baselines)), run.folder)
        facts[BASELINES] = [name for name in entered if name != LEARNED]
        entered = {LEARNED: entered[LEARNED]}
    with (
        storage.claimed(run.folder),
        storage.resumable(run.folder, "evaluate", facts | {"task": storage.describe(task)}),
    ):
        key = key_stream("test", seed)
        own = evaluate(entered, task, problems=problems, steps=steps, key=key)
        own = storage.six_digits(own, "losses")  # before they are compared, as who loads it does
        evaluation = own if shared is None else own.beside(shared)
        write(run.folder, "evaluation", own, json=facts, csv=_comparisons(evaluation))
    for line in _said(evaluation):
        say(line)
    return evaluation


def _shared(run: Run, baselines: Path | None, facts: dict[str, Any]) -> Evaluation | None:
    """Evaluation of another run that has its tuned baselines on the same problems, if it is one.

    One that takes them from the evaluation of `run`, which is to be replaced, is none.
    """
    if baselines is None or not (baselines / storage.SETTINGS).is_file():
        return None
    other = Run(baselines)
    same = other.stages().get("evaluation", {})
    if other.evaluation is None or any(same.get(name) != facts[name] for name in facts):
        return None
    files = evaluation_files(other.folder / Run.evaluation.file)
    if any(file.parent.resolve() == run.folder.resolve() for file in files):
        return None
    return other.evaluation if set(other.tuning) <= set(other.evaluation.names) else None


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
        ratio = f"learned / {name} = {pair.ratio_of_means:.3f}"
        if np.isnan(pair.ratio_of_means):
            ratio = "no ratio, as a mean is below 0"
        lines.append(
            f"{name}: {means[name]:.4f}; {ratio}, difference "
            f"{pair.difference:.4f} [{pair.low:.4f}, {pair.high:.4f}], {problems} problems"
            f"{beside(name)}"
        )
    return lines
