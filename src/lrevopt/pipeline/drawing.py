"""Figures and reports from saved numbers."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrevopt import storage
from lrevopt.analysis import Manifold, Mechanisms, ModeShifts, ParameterTypes, Textbook
from lrevopt.evaluation import Evaluation, evaluate
from lrevopt.experiments import LEARNED, TaskName, key_stream, task_name
from lrevopt.figures import FigureNumbers, FigureSpec, available, save_figure
from lrevopt.figures.style import readable
from lrevopt.meta_training import History
from lrevopt.pipeline.comparing import TUNING, load_tuning
from lrevopt.report import ReportInputs, write_report
from lrevopt.task_pictures import TaskPicture
from lrevopt.tasks import LinearRegression
from lrevopt.tuning import analytic_momentum


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
