"""What must hold for the paper's sentences to hold: a factorial, trained and measured cell by cell.

Each of the paper's sentences that speaks of a task is measured on each member of each cell, as
`claims` does on one run, with the same functions and thresholds.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from lrevopt import storage
from lrevopt.checks import finite
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.meta_training import MetaTrainingRun, PopulationRun
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.paper.claims import Claim
from lrevopt.paper.factorial_cells import (
    CellTraining,
    FactorialSettings,
    train_cells,
)
from lrevopt.paper.population_members import Entrants, Measuring, asked_claims, measure_member
from lrevopt.paper.tasks import TITLES
from lrevopt.plots.factorial import figure_factorial
from lrevopt.plots.style import render
from lrevopt.runs.experiment import Experiment, key_stream
from lrevopt.runs.tune import Say, load_tuning, tuned_baselines
from lrevopt.studies.factorial import Factorial
from lrevopt.studies.factorial.tables import cells_table, factorial_markdown, members_table

NAME = "factorial"
"""Of the files."""

FACTORS = ("initialisation", "width", "meta-steps", "estimator")
"""Factors, as tables name them."""

INITIALISATIONS = {"unit": "1", "scaled": "1/\N{SQUARE ROOT}N"}
"""Deviation of the input weights, as tables name it."""


class CellRecord(eqx.Module):
    """What is kept of one cell, a row for each seed; as in `Factorial`."""

    objectives: Float[np.ndarray, " seed"]
    diverged: Int[np.ndarray, " seed"]
    statistics: Float[np.ndarray, "seed statement"]
    verdicts: Int[np.ndarray, "seed statement"]


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the members of one task are measured beside."""

    entrants: Entrants
    rivals: Evaluation
    claims: tuple[Claim, ...]
    measuring: Measuring

    def measure(self, optimizers: list[AbstractOptimizer]) -> CellRecord:
        """Score and take apart the members of one cell."""
        each = [
            measure_member(self.entrants, one, self.claims, self.rivals, self.measuring)
            for one in optimizers
        ]
        return CellRecord(
            objectives=np.array([float(one.objectives.mean()) for one in each]),
            diverged=np.array([int(np.isinf(one.objectives).sum()) for one in each]),
            statistics=np.stack([one.statistics for one in each]),
            verdicts=np.stack([one.verdicts for one in each]),
        )


Cells = dict[tuple[CellTraining, int], CellRecord]
"""Measured cells, by training and meta-step."""


def factorial(
    output: Path,
    baselines: Mapping[str, Path],
    settings: FactorialSettings,
    *,
    say: Say = print,
    time_limit: float | None = None,
    **running: Any,
) -> tuple[Factorial | None, str]:
    """Train and measure cell after cell, write record, tables and a figure into `output`.

    - `baselines`: for each task, a folder with its tuned baselines.
    - `time_limit`: seconds after which no training goes on. What is trained by then is measured.
    - `running`: how to train, as for `train_seeds` (`save_every`, ...).

    Each training has a folder of its own, each cell a record in `cells/`, and a call that was
    interrupted goes on where it stopped. What is not there yet is listed as missing. Returns the
    record, `None` if no cell is there, and "finished" or why it stopped. Raises `ValueError` for
    folders that hold something else, or have no tuned baselines of the task.
    """
    end = None
    if time_limit is not None:
        end = time.monotonic() + finite("time_limit", time_limit, above=0.0)
    benches = {name: _bench(name, baselines[name], settings) for name in settings.tasks}
    with storage.claimed(output):
        cells, outcome = Cells(), "finished"
        for training in settings.trainings():
            bench = benches[training.task]
            found = _known(training, bench, output, settings)
            if len(found) < len(training.meta_steps) and outcome == "finished":
                left = None if end is None else end - time.monotonic()
                outcome = "time limit"
                if left is None or left > 0:
                    run = train_cells(training, output, settings, time_limit=left, **running)
                    outcome = run.outcome
                    say(f"{training.name}: {outcome}")
                    if not outcome.startswith("SIG"):
                        found |= _measured(
                            training, run, bench, output, settings, known=found, say=say
                        )
            cells |= {(training, step): found[step] for step in sorted(found)}
        record = _joined(cells, benches, settings)
        if record is not None:
            _write(record, output)
    return record, outcome


def _bench(name: str, baselines: Path, settings: FactorialSettings) -> Bench:
    """What the members of a task are measured beside: tuned baselines on the test problems."""
    task = Experiment(name).make_task()
    tuned = load_tuning(baselines, task)
    books = tuned_baselines(tuned)
    measuring = Measuring(
        test=key_stream("test", settings.seed), analysis=key_stream("analysis", settings.seed),
        test_problems=settings.test_problems, problems=settings.problems, steps=settings.steps,
    )  # fmt: skip
    for training in settings.trainings():
        if training.task == name:
            chosen = training.experiment(settings).optimizer
            measuring.check(chosen.build(measuring.test), task)
    entrants = Entrants(name, task, books, tuned, {}, settings.seed)
    return Bench(entrants, measuring.scored(books, task), asked_claims(settings.tasks), measuring)


def _path(training: CellTraining, step: int, output: Path) -> Path:
    """File of a measured cell."""
    return output / "cells" / f"{training.name}_{step}.npz"


def _source(training: CellTraining, bench: Bench, settings: FactorialSettings) -> dict[str, Any]:
    """All that the numbers of a cell depend on, as JSON."""
    chosen = training.experiment(settings)
    facts = {
        "task": storage.describe(bench.entrants.task),
        "optimizer": dataclasses.asdict(chosen.optimizer),
        "training": dataclasses.asdict(chosen.training),
        "baselines": bench.entrants.digests(),
        "claims": [(claim.name, claim.threshold) for claim in bench.claims],
    }
    measuring = ("seeds", "problems", "test_problems", "steps", "seed")
    facts |= {name: getattr(settings, name) for name in measuring}
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def _known(
    training: CellTraining, bench: Bench, output: Path, settings: FactorialSettings
) -> dict[int, CellRecord]:
    """Cells of a training that were measured before, from the same."""
    source, found = _source(training, bench, settings), {}
    for step in training.meta_steps:
        path = _path(training, step, output)
        if path.is_file() and storage.agree(storage.load_source(path), source):
            found[step] = storage.load_record(CellRecord, path)
    return found


def _measured(
    training: CellTraining,
    run: PopulationRun,
    bench: Bench,
    output: Path,
    settings: FactorialSettings,
    *,
    known: Mapping[int, CellRecord],
    say: Say,
) -> dict[int, CellRecord]:
    """Cells of a training that has come far enough for them, and that are not known."""
    found = {}
    for step in training.meta_steps:
        if step in known or step > int(run.members[0].history.steps):
            continue
        begun = time.monotonic()
        found[step] = bench.measure([_snapshot(member, step) for member in run.members])
        source = _source(training, bench, settings)
        storage.save_record(_path(training, step, output), found[step], source)
        scores = ", ".join(f"{score:.4f}" for score in found[step].objectives)
        say(f"{training.name}, {step} meta-steps: meta-objectives {scores}, "
            f"{time.monotonic() - begun:.0f} s")  # fmt: skip
    return found


def _snapshot(run: MetaTrainingRun, step: int) -> AbstractOptimizer:
    """The optimizer after a number of meta-steps."""
    place = run.history.snapshot_steps.tolist().index(step)
    weights, fixed = eqx.partition(run.snapshots, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda leaf: leaf[place], weights), fixed)


def _joined(
    cells: Cells, benches: Mapping[str, Bench], settings: FactorialSettings
) -> Factorial | None:
    """The record of all measured cells; `None` if there are none."""
    if not cells:
        return None
    levels = {
        "initialisation": [INITIALISATIONS[name] for name in settings.initialisations],
        "width": [str(width) for width in settings.widths],
        "meta-steps": [f"{step:,}" for step in settings.meta_steps],
        "estimator": [name.replace("_", " ") for name in settings.estimators],
    }
    tasks: list[str] = []
    design: list[list[int]] = []
    for (training, step), cell in cells.items():
        tasks += [training.task] * len(cell.objectives)
        design += [_levels(training, step, settings)] * len(cell.objectives)
    claims = next(iter(benches.values())).claims
    scores = {name: bench.rivals.mean_scores() for name, bench in benches.items()}
    best = {name: bench.rivals.best() for name, bench in benches.items()}
    whole = {field.name: np.concatenate([getattr(cell, field.name) for cell in cells.values()])
             for field in dataclasses.fields(CellRecord)}  # fmt: skip
    return Factorial(
        tasks=tuple(tasks),
        design=np.array(design),
        seeds=np.tile(settings.seed + np.arange(settings.seeds), len(cells)),
        factors=FACTORS,
        within=("meta-steps",),
        level_factors=tuple(factor for factor in FACTORS for _ in levels[factor]),
        levels=tuple(level for factor in FACTORS for level in levels[factor]),
        statements=tuple(claim.name for claim in claims),
        says=tuple(claim.says for claim in claims),
        task_names=settings.tasks,
        expected=np.array([[int(claim.expected.get(task, -1)) for claim in claims]
                           for task in settings.tasks]),
        rivals=tuple(best[task] for task in settings.tasks),
        rival_scores=np.array([scores[task][best[task]] for task in settings.tasks]),
        missing=_missing(cells, settings),
        **whole,
    )  # fmt: skip


def _levels(training: CellTraining, step: int, settings: FactorialSettings) -> list[int]:
    """Index of the level of each factor."""
    return [settings.initialisations.index(training.initialisation),
            settings.widths.index(training.width), settings.meta_steps.index(step),
            settings.estimators.index(training.estimator)]  # fmt: skip


def _missing(cells: Cells, settings: FactorialSettings) -> tuple[str, ...]:
    """Cells that were asked for and are not there, in words."""
    lines = [f"all cells of {width} units after {step:,} meta-steps (left out)"
             for width, step in sorted(settings.left_out())]  # fmt: skip
    for training in settings.trainings():
        steps = [f"{step:,}" for step in training.meta_steps if (training, step) not in cells]
        if steps:
            deviation = INITIALISATIONS[training.initialisation]
            lines.append(
                f"{TITLES[training.task]}, input weights {deviation}, {training.width} units, "
                f"{training.estimator.replace('_', ' ')}: after {', '.join(steps)} meta-steps"
            )
    return tuple(lines)


def _write(record: Factorial, output: Path) -> None:
    """Record, tables and figure."""
    figure = figure_factorial(record, TITLES)
    files: dict[str, str | bytes] = {
        f"{NAME}.npz": storage.record_bytes(record),
        f"{NAME}.md": factorial_markdown(record, TITLES),
        f"{NAME}.csv": cells_table(record),
        f"{NAME}_members.csv": members_table(record),
    }
    files |= {f"{NAME}.{kind}": render(figure, kind) for kind in ("png", "svg")}
    storage.replace_together({output / name: content for name, content in files.items()})
