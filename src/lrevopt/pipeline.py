"""From nothing to a report: train, tune, evaluate, analyse, draw, write.

Each stage reads what the stages before it left in the run's folder and leaves its own numbers
there, so that any of them can be repeated alone:

    settings.json  weights/  snapshots/  history.npz     train
    tuning/settings.json  tuning/<baseline>.npz          tune_baselines
    evaluation.npz  evaluation.json  comparisons.csv     evaluate_run
    mechanisms.npz  textbook.npz  task_picture.npz       analyze_run
    figures/                                             draw_figures
    report.html                                          report_run
"""

import csv
import dataclasses
import inspect
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt import storage
from lrevopt.analysis import Mechanisms, Textbook, analyze, textbook_update_functions
from lrevopt.checks import positive_integer
from lrevopt.evaluation import Evaluation, evaluate
from lrevopt.experiments import (
    BASELINES,
    LEARNED,
    Experiment,
    TaskName,
    key_stream,
    load_task,
)
from lrevopt.figures import FigureNumbers, FigureSpec, available, save_figure
from lrevopt.figures.style import readable
from lrevopt.meta_training import History, MetaTrainingRun, meta_train
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.report import ReportInputs, write_report
from lrevopt.task_pictures import TaskPicture, task_picture
from lrevopt.tasks import AbstractTask, LinearRegression
from lrevopt.tuning import Tuning, TuningResult, analytic_momentum, search_axes, tune

Say = Callable[[str], None]

TUNING = "tuning"
LATER = (
    "evaluation.npz",
    "evaluation.json",
    "comparisons.csv",
    "mechanisms.npz",
    "textbook.npz",
    "task_picture.npz",
    "figures",
    "report.html",
)
"""What stages after training leave, and that speaks of the trained optimizer."""

ANALYSED_PROBLEMS = 64
"""Problems whose states and gradients are looked at; the paper's number of test runs."""


def train(
    chosen: Experiment,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
) -> MetaTrainingRun:
    """Meta-train one experiment into a folder; see `meta_train`.

    What later stages left there goes when the optimizer that they speak of is replaced.
    """
    weights = directory / storage.WEIGHTS
    before = storage.load_arrays(weights) if weights.is_dir() and resume else {}
    run = meta_train(
        chosen.make_task(),
        chosen.optimizer.build(key_stream("initial_weights", chosen.seed)),
        chosen.training,
        key=key_stream("training", chosen.seed),
        directory=directory,
        resume=resume,
        overwrite=overwrite,
        time_limit=time_limit,
        save_every=save_every,
    )
    after = storage.tree_to_arrays(run.optimizer)
    if after.keys() != before.keys() or any(
        not np.array_equal(array, before[name]) for name, array in after.items()
    ):
        for name in LATER if resume else (*LATER, TUNING):
            storage.remove(directory / name)
    settings = storage.load_json(directory / storage.SETTINGS)
    storage.save_json(directory / storage.SETTINGS, settings | {"seed": chosen.seed})
    return run


def tune_baselines(
    task: AbstractTask, settings: Tuning, directory: Path, say: Say = print, seed: int = 0
) -> dict[str, TuningResult]:
    """Tune every baseline on problems of its own key stream, and save the searches.

    A baseline takes what of `settings.ranges` names its arguments. Raises `ValueError` for a
    range that no baseline has, or a folder whose run is of another task.
    """
    each = baseline_settings(settings)
    if (directory / storage.SETTINGS).exists():
        _check_same_task(storage.load_json(directory / storage.SETTINGS), task, directory)
    storage.writable_directory(directory / TUNING)
    record = dataclasses.asdict(settings) | {"seed": seed, "task": storage.describe(task)}
    storage.save_json(directory / TUNING / storage.SETTINGS, record)
    results = {}
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


def load_tuning(directory: Path, task: AbstractTask) -> dict[str, TuningResult]:
    """The searches that `tune_baselines` saved.

    Raises `ValueError` if one is missing, or if they are of another task.
    """
    _check_same_task(storage.load_json(directory / TUNING / storage.SETTINGS), task, directory)
    return {
        name: storage.load_record(TuningResult, directory / TUNING / f"{name}.npz")
        for name in BASELINES
    }


def _check_same_task(settings: dict[str, Any], task: AbstractTask, directory: Path) -> None:
    if settings.get("task") != storage.describe(task):
        kind = (settings.get("task") or {}).get("kind")
        raise ValueError(
            f"`{directory}` belongs to the task {kind}, not to this {type(task).__name__}."
        )


def contestants(
    directory: Path, baselines: Path, task: AbstractTask
) -> dict[str, AbstractOptimizer]:
    """The learned optimizer of a folder and the baselines tuned in another, by name."""
    tuning = load_tuning(baselines, task)
    tuned = {name: tuning[name].optimizer(make) for name, make in BASELINES.items()}
    return {LEARNED: storage.load(directory), **tuned}


def evaluate_run(
    directory: Path,
    problems: int,
    steps: int,
    say: Say = print,
    seed: int = 0,
    baselines: Path | None = None,
) -> Evaluation:
    """Run everything on test problems, save the losses and a table of paired comparisons.

    `baselines` is a folder with tuned baselines of the same task, by default the run's own.
    """
    _, task = load_task(directory)
    evaluation = evaluate(
        contestants(directory, baselines or directory, task),
        task,
        problems=problems,
        steps=steps,
        key=key_stream("test", seed),
    )
    storage.save_record(directory / "evaluation.npz", evaluation)
    facts = {"problems": problems, "steps": steps, "seed": seed}
    storage.save_json(directory / "evaluation.json", facts)
    storage.write_atomically(directory / "comparisons.csv", _comparisons(evaluation))
    means = dict(zip(evaluation.names, evaluation.meta_objectives().mean(axis=1), strict=True))
    say(f"{LEARNED}: {means[LEARNED]:.4f} on {problems} test problems")
    for name in BASELINES:
        pair = evaluation.compare(LEARNED, name)
        say(
            f"{name}: {means[name]:.4f}; learned / {name} = {pair.ratio_of_means:.3f}, difference "
            f"{pair.difference:.4f} [{pair.low:.4f}, {pair.high:.4f}], {problems} problems"
        )
    return evaluation


def _comparisons(evaluation: Evaluation) -> str:
    rows = [evaluation.compare(LEARNED, name) for name in BASELINES]
    columns = [field.name for field in dataclasses.fields(rows[0])]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([getattr(row, column) for column in columns] for row in rows)
    return text.getvalue()


def analyze_run(directory: Path, problems: int, steps: int, seed: int = 0) -> Mechanisms:
    """Take the learned optimizer of a folder apart, and save the numbers of its figures."""
    _, task = load_task(directory)
    key = key_stream("analysis", seed)
    record = analyze(storage.load(directory), task, problems=problems, steps=steps, key=key)
    storage.save_record(directory / "mechanisms.npz", record)
    storage.save_record(directory / "textbook.npz", textbook_update_functions())
    storage.save_record(directory / "task_picture.npz", task_picture(task, key=key))
    return record


def load_numbers(directories: Iterable[Path]) -> FigureNumbers:
    """All numbers of figures from the folders of one run per task.

    Folders that lack a stage lack its figures. Raises `ValueError` for two runs of one task, or
    a folder that is no run.
    """
    numbers = FigureNumbers()
    textbook, history, seen = None, None, dict[TaskName, Path]()
    for directory in directories:
        task, made = load_task(directory)
        if task in seen:
            raise ValueError(f"`{seen[task]}` and `{directory}` are both runs of {task}.")
        seen[task] = directory
        if (directory / "evaluation.npz").exists():
            numbers.evaluations[task] = storage.load_record(
                Evaluation, directory / "evaluation.npz"
            )
        if (directory / TUNING).is_dir():
            numbers.tuning[task] = load_tuning(directory, made)
            rate = numbers.tuning[task]["momentum"].best["learning_rate"]
            numbers.momentum_rates[task] = float(rate)
        if (directory / "mechanisms.npz").exists():
            numbers.mechanisms[task] = storage.load_record(Mechanisms, directory / "mechanisms.npz")
            numbers.pictures[task] = storage.load_record(
                TaskPicture, directory / "task_picture.npz"
            )
            textbook = storage.load_record(Textbook, directory / "textbook.npz")
        if (directory / "history.npz").exists():
            history = storage.load_record(History, directory / "history.npz")
    return FigureNumbers(
        numbers.evaluations,
        numbers.pictures,
        numbers.mechanisms,
        numbers.momentum_rates,
        numbers.tuning,
        textbook,
        history if len(seen) == 1 else None,
    )


def draw_figures(
    directories: Iterable[Path], output: Path, figure: int | None = None
) -> list[tuple[FigureSpec, Path]]:
    """Draw what the saved numbers suffice for, as PNG and SVG; specs and paths of the PNGs.

    Raises `ValueError` for a figure that they do not suffice for.
    """
    numbers = load_numbers(directories)
    specs = [spec for spec in available(numbers) if figure in (None, spec.number)]
    if not specs:
        possible = ", ".join(str(spec.number) for spec in available(numbers))
        raise ValueError(f"`figure` must be one of {possible or 'none'} here, got {figure}.")
    storage.writable_directory(output)
    return [(spec, save_figure(spec.draw(numbers), output, spec.number)[0]) for spec in specs]


def report_run(
    directory: Path, figures: list[tuple[FigureSpec, Path]], seconds: float | None = None
) -> Path:
    """Write the report of a folder whose stages are all there."""
    task, made = load_task(directory)
    settings = storage.load_json(directory / storage.SETTINGS)
    versions = settings.pop("versions", {})
    tuning = load_tuning(directory, made)
    stages = {
        "tuning": storage.load_json(directory / TUNING / storage.SETTINGS),
        "evaluation": storage.load_json(directory / "evaluation.json"),
    }
    inputs = ReportInputs(
        title=f"{readable(task)}: a learned optimizer",
        settings=settings | stages,
        evaluation=storage.load_record(Evaluation, directory / "evaluation.npz"),
        history=storage.load_record(History, directory / "history.npz"),
        tuning=tuning,
        mechanisms=storage.load_record(Mechanisms, directory / "mechanisms.npz"),
        figures=figures,
        learned=LEARNED,
        analytic_momentum=_analytic(made, directory),
        versions=versions,
        key=f"seed {settings.get('seed', 'unknown')}",
        seconds=seconds,
    )
    return write_report(inputs, directory / "report.html")


def _analytic(task: AbstractTask, directory: Path) -> dict[str, float] | None:
    """Theoretically best momentum on linear regression, and its score on the test problems."""
    if not isinstance(task, LinearRegression):
        return None
    best = analytic_momentum(task.log10_eigenvalues)
    tested = storage.load_json(directory / "evaluation.json")
    again = evaluate(
        {"analytic": best},
        task,
        problems=tested["problems"],
        steps=tested["steps"],
        key=key_stream("test", tested["seed"]),
    )
    return {
        "learning_rate": float(best.learning_rate),
        "momentum": float(best.momentum),
        "score": float(again.meta_objectives()[0].mean()),
    }


def reproduce(
    chosen: Experiment,
    directory: Path,
    *,
    tuning: Tuning,
    test_problems: int = 256,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
    say: Say = print,
) -> str:
    """All stages for one experiment; the outcome of its training.

    A folder that holds this run already is continued. After a time limit the best optimizer so
    far goes through the later stages; after a signal nothing follows. Baselines are tuned with
    the steps and the objective of the training, whatever `tuning` says of these two.
    """
    positive_integer("test_problems", test_problems)
    settings = dataclasses.replace(
        tuning, steps=chosen.training.unroll, objective=chosen.training.objective
    )
    baseline_settings(settings)
    begin = time.monotonic()

    def stage(name: str) -> None:
        say(f"[{time.monotonic() - begin:4.0f} s] {name}")

    stage(f"meta-training on {chosen.task}")
    resume = (directory / storage.SETTINGS).exists() and not overwrite
    run = train(
        chosen,
        directory,
        resume=resume,
        overwrite=overwrite,
        time_limit=time_limit,
        save_every=save_every,
    )
    say(run.history.summary())
    if run.history.outcome.startswith("SIG"):
        say(f"stopped ({run.history.outcome}); the same command continues")
        return run.history.outcome
    steps = chosen.training.unroll
    stage("tuning baselines")
    tune_baselines(chosen.make_task(), settings, directory, say)
    stage(f"evaluating on {test_problems} test problems")
    evaluate_run(directory, test_problems, steps, say)
    stage("analysing")
    analyze_run(directory, ANALYSED_PROBLEMS, steps)
    stage("drawing figures")
    figures = draw_figures([directory], directory / "figures")
    report = report_run(directory, figures, time.monotonic() - begin)
    stage(f"done: {report}")
    return run.history.outcome
