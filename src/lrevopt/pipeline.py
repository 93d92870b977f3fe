"""From nothing to a report: train, tune, evaluate, analyse, draw, write.

Each stage reads what the stages before it left in the run's folder and leaves its own numbers
there, so that any of them can be repeated alone:

    settings.json  weights/  snapshots/  history.npz     train
    tuning/settings.json  tuning/<baseline>.npz          tune_baselines
    evaluation.npz  evaluation.json  comparisons.csv     evaluate_run
    mechanisms.npz  textbook.npz  task_picture.npz       analyze_run
    analysis.json; where parameters have groups also
    parameter_types.npz  manifold.npz  mode_shifts.npz
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

import equinox as eqx
import numpy as np

from lrevopt import storage
from lrevopt.analysis import (
    Manifold,
    Mechanisms,
    ModeShifts,
    ParameterTypes,
    Textbook,
    analyze_visits,
    measure_manifold,
    measure_modes,
    measure_parameter_types,
    textbook_update_functions,
    visit,
)
from lrevopt.checks import positive_integer
from lrevopt.evaluation import Evaluation, evaluate
from lrevopt.experiments import (
    BASELINES,
    LEARNED,
    Experiment,
    TaskName,
    key_stream,
    load_task,
    task_name,
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
    "parameter_types.npz",
    "manifold.npz",
    "mode_shifts.npz",
    "analysis.json",
    "textbook.npz",
    "task_picture.npz",
    "figures",
    "report.html",
)
"""What stages after training leave, and that speaks of the trained optimizer."""

ANALYSED_PROBLEMS, ANALYSED_LARGE_PROBLEMS, LARGE = 64, 8, 50_000
"""Problems whose states and gradients are looked at: the paper's number of test runs, and fewer
of problems with more parameters than the last number, whose runs take 7 s each."""


def train(
    chosen: Experiment,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
    memory_limit: float | None = None,
    start: Path | None = None,
) -> MetaTrainingRun:
    """Meta-train one experiment into a folder; see `meta_train`.

    With `start`, a folder of a run, it is that run's optimizer that is trained on: the next of
    several stages, which the settings of the run list. When a run that began so is resumed,
    `start` need not be named again.

    What later stages left there goes when the optimizer that they speak of is replaced.
    """
    weights = directory / storage.WEIGHTS
    before = storage.load_arrays(weights) if weights.is_dir() and resume else {}
    if resume and start is None and (directory / storage.SETTINGS).is_file():
        known = storage.load_json(directory / storage.SETTINGS).get("start")
        start = None if known is None else Path(known)
    optimizer = chosen.optimizer.build(key_stream("initial_weights", chosen.seed))
    run = meta_train(
        chosen.make_task(),
        optimizer if start is None else storage.load(start),
        chosen.training,
        key=key_stream("training", chosen.seed),
        directory=directory,
        resume=resume,
        overwrite=overwrite,
        time_limit=time_limit,
        save_every=save_every,
        memory_limit=memory_limit,
    )
    after = storage.tree_to_arrays(run.optimizer)
    if after.keys() != before.keys() or any(
        not np.array_equal(array, before[name]) for name, array in after.items()
    ):
        for name in LATER if resume else (*LATER, TUNING):
            storage.remove(directory / name)
    settings = storage.load_json(directory / storage.SETTINGS)
    facts: dict[str, Any] = {"seed": chosen.seed}
    if start is not None:
        earlier = storage.load_json(start / storage.SETTINGS)
        this = {name: earlier[name] for name in ("task", "training", "seed") if name in earlier}
        facts |= {"start": str(start), "stages": [*earlier.get("stages", []), this]}
    storage.save_json(directory / storage.SETTINGS, settings | facts)
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
        found = storage.load_json(directory / storage.SETTINGS)
        _check_same_task(found, storage.describe(task), directory)
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
    return {LEARNED: storage.load(directory), **tuned}


def evaluate_run(
    directory: Path,
    problems: int,
    steps: int,
    say: Say = print,
    seed: int = 0,
    baselines: Path | None = None,
    data_dir: Path | None = None,
) -> Evaluation:
    """Run everything on test problems, save the losses and a table of paired comparisons.

    `baselines` is a folder with tuned baselines of the same task, by default the run's own;
    `data_dir` one with the task's data, where it has any (see `load_images`).
    """
    _, task = load_task(directory, data_dir)
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


def _comparisons(evaluation: Evaluation) -> str:
    rows = [evaluation.compare(LEARNED, name) for name in BASELINES]
    columns = [field.name for field in dataclasses.fields(rows[0])]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([getattr(row, column) for column in columns] for row in rows)
    return text.getvalue()


def analyze_run(
    directory: Path,
    problems: int | None,
    steps: int,
    seed: int = 0,
    data_dir: Path | None = None,
) -> Mechanisms:
    """Take the learned optimizer of a folder apart, and save the numbers of its figures.

    Without `problems`, as many as `analysed_problems` says. `data_dir` is as in `evaluate_run`.
    """
    _, task = load_task(directory, data_dir)
    optimizer, key = storage.load(directory), key_stream("analysis", seed)
    problems = analysed_problems(task) if problems is None else problems
    visits = visit(optimizer, task, key=key, problems=problems, steps=steps)
    record = analyze_visits(optimizer, visits)
    storage.save_record(directory / "mechanisms.npz", record)
    if len(task.parameter_groups) > 1:
        types = measure_parameter_types(optimizer, task, key=key, problems=problems, steps=steps)
        storage.save_record(directory / "parameter_types.npz", types)
        storage.save_record(directory / "manifold.npz", measure_manifold(optimizer, visits))
        storage.save_record(directory / "mode_shifts.npz", measure_modes(optimizer, visits))
    facts = {"problems": problems, "steps": steps, "seed": seed}
    storage.save_json(directory / "analysis.json", facts)
    storage.save_record(directory / "textbook.npz", textbook_update_functions())
    storage.save_record(directory / "task_picture.npz", task_picture(task, key=key))
    return record


def analysed_problems(task: AbstractTask) -> int:
    """How many problems of a task to look at."""
    problem = eqx.filter_eval_shape(task.sample, key_stream("analysis", 0))
    large = problem.initial_parameters.size > LARGE
    return ANALYSED_LARGE_PROBLEMS if large else ANALYSED_PROBLEMS


def load_numbers(directories: Iterable[Path]) -> FigureNumbers:
    """All numbers of figures from the folders of one run per task.

    Folders that lack a stage lack its figures. Raises `ValueError` for two runs of one task, or
    a folder that is no run.
    """
    numbers = FigureNumbers()
    textbook, history, seen = None, None, dict[TaskName, Path]()
    for directory in directories:
        task = task_name(directory)
        if task in seen:
            raise ValueError(f"`{seen[task]}` and `{directory}` are both runs of {task}.")
        seen[task] = directory
        if (directory / "evaluation.npz").exists():
            numbers.evaluations[task] = storage.load_record(
                Evaluation, directory / "evaluation.npz"
            )
        if (directory / TUNING).is_dir():
            numbers.tuning[task] = load_tuning(directory)
            rate = numbers.tuning[task]["momentum"].best["learning_rate"]
            numbers.momentum_rates[task] = float(rate)
        if (directory / "mechanisms.npz").exists():
            numbers.mechanisms[task] = storage.load_record(Mechanisms, directory / "mechanisms.npz")
            numbers.pictures[task] = storage.load_record(
                TaskPicture, directory / "task_picture.npz"
            )
            textbook = storage.load_record(Textbook, directory / "textbook.npz")
        grouped: list[tuple[dict[str, Any], type, str]] = [
            (numbers.parameter_types, ParameterTypes, "parameter_types.npz"),
            (numbers.manifolds, Manifold, "manifold.npz"),
            (numbers.mode_shifts, ModeShifts, "mode_shifts.npz"),
        ]
        for records, kind, name in grouped:
            if (directory / name).exists():
                records[task] = storage.load_record(kind, directory / name)
        if (directory / "history.npz").exists():
            history = storage.load_record(History, directory / "history.npz")
    only = history if len(seen) == 1 else None
    return dataclasses.replace(numbers, textbook=textbook, history=only)


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
    task = task_name(directory)
    settings = storage.load_json(directory / storage.SETTINGS)
    versions = settings.pop("versions", {})
    tuning = load_tuning(directory)
    stages = {
        "tuning": storage.load_json(directory / TUNING / storage.SETTINGS),
        "evaluation": storage.load_json(directory / "evaluation.json"),
    }
    if (directory / "analysis.json").exists():
        stages["analysis"] = storage.load_json(directory / "analysis.json")
    numbers = load_numbers([directory])
    inputs = ReportInputs(
        title=f"{readable(task)}: a learned optimizer",
        settings=settings | stages,
        evaluation=storage.load_record(Evaluation, directory / "evaluation.npz"),
        history=storage.load_record(History, directory / "history.npz"),
        tuning=tuning,
        mechanisms=storage.load_record(Mechanisms, directory / "mechanisms.npz"),
        parameter_types=numbers.parameter_types.get(task),
        manifold=numbers.manifolds.get(task),
        mode_shifts=numbers.mode_shifts.get(task),
        figures=figures,
        learned=LEARNED,
        analytic_momentum=_analytic(task, directory),
        versions=versions,
        key=f"seed {settings.get('seed', 'unknown')}",
        seconds=seconds,
    )
    return write_report(inputs, directory / "report.html")


def _analytic(name: TaskName, directory: Path) -> dict[str, float] | None:
    """Theoretically best momentum on linear regression, and its score on the test problems."""
    if name != "linear_regression":
        return None
    task = LinearRegression()
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
    memory_limit: float | None = None,
    start: Path | None = None,
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
        memory_limit=memory_limit,
        start=start,
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
    analyze_run(directory, None, steps)
    stage("drawing figures")
    figures = draw_figures([directory], directory / "figures")
    report = report_run(directory, figures, time.monotonic() - begin)
    stage(f"done: {report}")
    return run.history.outcome
