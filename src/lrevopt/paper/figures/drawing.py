"""Figures from saved numbers."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrevopt import storage
from lrevopt.analysis import Manifold, Mechanisms, ModeShifts, ParameterTypes, Textbook
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.meta_training import History
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.paper.appendices.stage import DYNAMICS, MIMIC
from lrevopt.paper.contents import APPENDIX_B
from lrevopt.paper.figures.figure_data import save_sidecars
from lrevopt.paper.figures.registry import FigureNumbers, FigureSpec, available
from lrevopt.plots.style import save_figure
from lrevopt.runs.evaluate import TUNING, load_tuning
from lrevopt.runs.experiment import TaskName, task_name
from lrevopt.studies.gradient_replay import GradientReplay
from lrevopt.studies.interventions import Interventions
from lrevopt.studies.scorecard import Scorecard
from lrevopt.tasks.pictures import TaskPicture


def load_numbers(directories: Iterable[Path]) -> FigureNumbers:
    """All numbers of figures from the folders of one run per task.

    Folders that lack a stage lack its figures. Raises `ValueError` for two runs of one task, or
    a folder that is no run.
    """
    numbers = FigureNumbers()
    textbook, history, seen = None, None, dict[TaskName, Path]()
    mimic, dynamics = None, None
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
        by_task: list[tuple[dict[str, Any], type, str]] = [
            (numbers.parameter_types, ParameterTypes, "parameter_types.npz"),
            (numbers.manifolds, Manifold, "manifold.npz"),
            (numbers.mode_shifts, ModeShifts, "mode_shifts.npz"),
            (numbers.interventions, Interventions, "interventions.npz"),
            (numbers.replay, GradientReplay, "gradient_replay.npz"),
            (numbers.scorecards, Scorecard, "scorecard/scorecard.npz"),
        ]
        for records, kind, name in by_task:
            if (directory / name).exists():
                records[task] = storage.load_record(kind, directory / name)
        if (directory / APPENDIX_B / MIMIC).exists():
            mimic = storage.load_record(MomentumMimic, directory / APPENDIX_B / MIMIC)
            dynamics = storage.load_record(MetaDynamics, directory / APPENDIX_B / DYNAMICS)
        if (directory / "history.npz").exists():
            history = storage.load_record(History, directory / "history.npz")
    only = history if len(seen) == 1 else None
    return dataclasses.replace(
        numbers, textbook=textbook, history=only, momentum_mimic=mimic, meta_dynamics=dynamics
    )


def draw_figures(
    directories: Iterable[Path], output: Path, figure: int | None = None
) -> list[tuple[FigureSpec, Path]]:
    """Draw what the saved numbers suffice for, as PNG and SVG; specs and paths of the PNGs.

    Each figure comes with its numbers and its caption (see `figures.sidecars`). Raises
    `ValueError` for a figure that the numbers do not suffice for.
    """
    numbers = load_numbers(directories)
    specs = [spec for spec in available(numbers) if figure in (None, spec.number)]
    if not specs:
        possible = ", ".join(str(spec.number) for spec in available(numbers))
        raise ValueError(f"`figure` must be one of {possible or 'none'} here, got {figure}.")
    storage.writable_directory(output)
    drawn = []
    for spec in specs:
        png, _ = save_figure(spec.draw(numbers), output, spec.number)
        save_sidecars(spec, numbers, output)
        drawn.append((spec, png))
    return drawn
