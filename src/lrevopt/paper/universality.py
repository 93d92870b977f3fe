"""Which of the paper's sentences hold for populations of other cells and seeds: trained, measured.

Members of a population are trained together and taken apart one by one. Each of the
paper's sentences that speaks of a task is measured on each of its members, as `claims` does on one
run, with the same functions and thresholds.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrevopt import specs, storage
from lrevopt.checks import finite, one_of, positive_integer
from lrevopt.meta_training import PopulationRun
from lrevopt.meta_training.settings import MetaTraining
from lrevopt.optimizers import ClippedGradientDescent
from lrevopt.paper.experiments import suggested
from lrevopt.paper.population_members import (
    Entrants,
    Measuring,
    asked_claims,
    joined,
    task_record,
)
from lrevopt.paper.tasks import TITLES
from lrevopt.plots.style import render
from lrevopt.plots.universality import figure_map, figure_shares
from lrevopt.runs.experiment import Experiment, Named, key_stream
from lrevopt.runs.train import train_seeds
from lrevopt.runs.tune import Say, load_tuning, tune_baselines, tuned_baselines
from lrevopt.studies.universality import CELLS, Universality, factory_of
from lrevopt.studies.universality.record import TEXTBOOK
from lrevopt.studies.universality.tables import (
    members_table,
    shares_table,
    universality_markdown,
    verdicts_table,
)
from lrevopt.tasks import AbstractTask
from lrevopt.tuning.random_search import TuningResult
from lrevopt.tuning.settings import Tuning

NAME = "universality"
"""Of the files."""

CLIPPED = "clipped_descent"
"""Name of tuned clipped gradient descent."""


@dataclasses.dataclass(frozen=True)
class UniversalitySettings:
    """What the study consists of.

    Raises `ValueError` for counts below 1, no tasks or cells, or cells that have one name.
    """

    tasks: tuple[str, ...]
    cells: tuple[str, ...]
    seeds: int
    units: int
    training: MetaTraining
    clipping: Tuning
    problems: int
    test_problems: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("seeds", "units", "problems", "test_problems", "steps"):
            positive_integer(name, getattr(self, name))
        for name, known in {"tasks": tuple(TITLES), "cells": tuple(CELLS)}.items():
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"`{name}` must be different names, at least one, got {given!r}.")
            for each in given:
                if name == "tasks" or ":" not in each:
                    one_of(name, each, known)
        names = [TEXTBOOK, *map(_folder_name, self.cells)]
        if twice := [cell for cell, name in zip(self.cells, names[1:], strict=True)
                     if names.count(name) > 1]:  # fmt: skip
            raise ValueError(
                f"`cells` must differ in their names without a module, none of them {TEXTBOOK!r}, "
                f"since folders are named by them, got {', '.join(twice)}."
            )


def universality(
    output: Path,
    baselines: Mapping[str, Path],
    settings: UniversalitySettings,
    *,
    say: Say = print,
    **running: Any,
) -> tuple[Universality | None, str]:
    """Train populations, take all members apart, write record, tables and figures into `output`.

    - `baselines`: for each task, a folder with its tuned baselines.
    - `running`: how to train, as for `train_seeds` (`time_limit`, `save_every`, ...).

    Each population has a folder of its own, `TASK_CELL`, and a call that was interrupted goes on
    where it stopped. Returns the record and "finished", or `None` and why training stopped. Raises
    `ValueError` for a cell that cannot be made, times that are not positive, folders that hold
    something else, or have no tuned baselines of the task.
    """
    if running.get("time_limit") is not None:
        finite("time_limit", running["time_limit"], above=0.0)
    tasks = {name: Experiment(name).make_task() for name in settings.tasks}
    measuring = _measuring(settings)
    for cell in settings.cells:
        specs.find_object("cells", factory_of(cell))
        for name, task in tasks.items():
            chosen = _population(name, cell, settings).optimizer
            measuring.check(chosen.build(measuring.test), task)
    tuned = {name: load_tuning(baselines[name], task) for name, task in tasks.items()}
    with storage.claimed(output):
        each = []
        for name, task in tasks.items():
            members = {}
            for cell in settings.cells:
                found = train_population(name, cell, output, settings, **running)
                scores = ", ".join(f"{score:.4f}" for score in found.scores)
                say(f"{name}, {cell}: {found.outcome}; on selection problems {scores}")
                if found.outcome != "finished":
                    return None, found.outcome
                members[cell] = tuple(run.optimizer for run in found.members)
            books = _textbook(name, task, tuned[name], output, settings, say=say)
            each.append(Entrants(name, task, books, tuned[name], members, settings.seed))
        record = _measured(each, output, settings, say)
        _write(record, output)
    return record, "finished"


def train_population(
    task: str, cell: str, output: Path, settings: UniversalitySettings, **running: Any
) -> PopulationRun:
    """Members of one cell on one task, with the scales of the paper's optimizer there."""
    chosen = _population(task, cell, settings)
    folder = output / f"{task}_{_folder_name(cell)}"
    resume = (folder / storage.SETTINGS).is_file()
    return train_seeds(chosen, folder, settings.seeds, resume=resume, **running)


def _population(task: str, cell: str, settings: UniversalitySettings) -> Experiment:
    """What the members of one cell are trained as on one task."""
    suits = suggested(task, "quick").optimizer
    kwargs = {"units": settings.units, "input_scale": suits.input_scale,
              "output_scale": suits.output_scale}  # fmt: skip
    return Experiment(task, Named(factory_of(cell), kwargs), settings.training, seed=settings.seed)


def _folder_name(cell: str) -> str:
    """A cell without its module."""
    return cell.rpartition(":")[2]


def _textbook(
    name: str,
    task: AbstractTask,
    tuned: Mapping[str, TuningResult],
    output: Path,
    settings: UniversalitySettings,
    *,
    say: Say,
) -> dict[str, Any]:
    """Tuned hand-written optimizers: the baselines, and clipped gradient descent, tuned here."""
    found = tune_baselines(
        task, settings.clipping, output / f"{name}_{TEXTBOOK}", seed=settings.seed,
        baselines={CLIPPED: ClippedGradientDescent}, say=say,
    )  # fmt: skip
    return tuned_baselines(tuned) | {CLIPPED: found[CLIPPED].optimizer(ClippedGradientDescent)}


def _measuring(settings: UniversalitySettings) -> Measuring:
    """How members are measured."""
    return Measuring(
        test=key_stream("test", settings.seed), analysis=key_stream("analysis", settings.seed),
        test_problems=settings.test_problems, problems=settings.problems, steps=settings.steps,
    )  # fmt: skip


def _measured(
    each: list[Entrants], output: Path, settings: UniversalitySettings, say: Say
) -> Universality:
    """The record that is there, if it was made from the same, or else a new one."""
    claims = asked_claims(settings.tasks)
    facts = json.loads(json.dumps(
        dataclasses.asdict(settings)
        | {"distances": "whole runs",
           "claims": [(claim.name, claim.threshold) for claim in claims],
           "described": {one.name: storage.describe(one.task) for one in each},
           "weights": {one.name: one.digests() for one in each}}
    ))  # fmt: skip
    path = output / f"{NAME}.npz"
    if path.is_file() and storage.agree(storage.load_source(path), facts):
        say(f"{path}: measured before")
        return storage.load_record(Universality, path)
    measuring = _measuring(settings)
    with storage.resumable(output, NAME, facts):
        record = joined([task_record(one, claims, measuring, say) for one in each])
        record = storage.six_digits(record, "distances", "statistics")
        storage.save_record(path, record, facts)
    return record


def _write(record: Universality, output: Path) -> None:
    """Tables and figures of the record, beside it."""
    files: dict[str, str | bytes] = {
        f"{NAME}.md": universality_markdown(record, TITLES),
        f"{NAME}.csv": shares_table(record),
        f"{NAME}_members.csv": members_table(record),
        f"{NAME}_verdicts.csv": verdicts_table(record),
    }
    figures = {"map": figure_map(record, TITLES), "shares": figure_shares(record, TITLES)}
    for name, figure in figures.items():
        files |= {f"{NAME}_{name}.{kind}": render(figure, kind) for kind in ("png", "svg")}
    storage.replace_together({output / name: content for name, content in files.items()})
