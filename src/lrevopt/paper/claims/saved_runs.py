"""The paper's sentences measured on saved runs, without training or running anything."""

import dataclasses
from pathlib import Path

from lrevopt import storage
from lrevopt.paper.claims import Row, RunNumbers, as_markdown, measure_claims
from lrevopt.paper.figures.drawing import load_numbers
from lrevopt.paper.front_page import shipped_runs
from lrevopt.runs.evaluate import TUNING, load_tuning
from lrevopt.runs.experiment import task_name
from lrevopt.text import csv_text

SEEDS = "seeds"
"""Folder within a run's that has runs of the same task from other training seeds."""

CLAIMS_PAGE, CLAIMS_TABLE = "claims.md", "claims.csv"


def run_numbers(directory: Path, baselines: Path | None = None) -> RunNumbers:
    """What the stages of a run left, for claims.

    `baselines` is a folder with tuned baselines of the same task, for a run without its own.
    Raises `ValueError` for a folder that is no run.
    """
    numbers, task = load_numbers([directory]), task_name(directory)
    tuning = numbers.tuning.get(task, {})
    if not tuning and baselines is not None and (baselines / TUNING).is_dir():
        tuning = load_tuning(baselines)
    return RunNumbers(
        evaluation=numbers.evaluations.get(task),
        tuning=tuning,
        mechanisms=numbers.mechanisms.get(task),
        parameter_types=numbers.parameter_types.get(task),
        manifold=numbers.manifolds.get(task),
        mode_shifts=numbers.mode_shifts.get(task),
        momentum_mimic=numbers.momentum_mimic,
        meta_dynamics=numbers.meta_dynamics,
    )


def seed_numbers(directory: Path, front: RunNumbers) -> dict[int, RunNumbers]:
    """Numbers of a run's training seeds: those in its `seeds/`, and `front`, its own, if it is none
    of them.
    """
    found = {
        int(folder.name): run_numbers(folder, directory)
        for folder in (directory / SEEDS).glob("*")
        if folder.name.isdigit()
    }
    own = storage.load_json(directory / storage.SETTINGS).get("seed")
    if isinstance(own, int) and own not in found:
        found[own] = front
    return dict(sorted(found.items()))


def claims_of(directory: Path) -> list[Row]:
    """Rows of the claims about one run, without those about several tasks."""
    task, front = task_name(directory), run_numbers(directory)
    rows = measure_claims({task: front}, {task: seed_numbers(directory, front)})
    return [row for row in rows if row.task == task]


def claims_of_all(results: Path) -> list[Row]:
    """Rows of every claim over the runs in a folder, which are named by their task.

    Raises `ValueError` if there is none.
    """
    runs = {task_name(folder): folder for folder in shipped_runs(results)}
    fronts: dict[str, RunNumbers] = {task: run_numbers(folder) for task, folder in runs.items()}
    seeds: dict[str, dict[int, RunNumbers]] = {
        task: seed_numbers(folder, fronts[task]) for task, folder in runs.items()
    }
    return measure_claims(fronts, seeds)


def write_claims(results: Path) -> list[Row]:
    """Measure all claims on the runs in a folder, and save `claims.md` and `claims.csv` there."""
    rows = claims_of_all(results)
    storage.write_atomically(results / CLAIMS_PAGE, as_markdown(rows))
    heads = [field.name for field in dataclasses.fields(Row)]
    table = csv_text(heads, (dataclasses.astuple(row) for row in rows))
    storage.write_atomically(results / CLAIMS_TABLE, table)
    return rows
