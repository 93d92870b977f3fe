"""Transfer of all runs in a folder: measured piece by piece, drawn and tabulated."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lrevopt import storage
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.optimizers.white_box_documents import distilled_box, load_box
from lrevopt.paper.experiments import TransferSettings
from lrevopt.paper.front_page import shipped_runs
from lrevopt.paper.tasks import TITLES
from lrevopt.plots.style import save_figure
from lrevopt.plots.transfers import figure_sweeps, figure_transfer, home_and_kind
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import contestants
from lrevopt.runs.experiment import LEARNED, key_stream
from lrevopt.studies.transfer import (
    Sweep,
    Transfer,
    measure_transfer,
    sweep_horizons,
    sweep_scales,
    sweep_tasks,
)
from lrevopt.tasks import AbstractTask, LinearRegression
from lrevopt.text import csv_text

SIZED = "linear_regression"
"""The task whose dimension is swept: the only one that has one to choose."""

WHITE_BOX = "white_box"
"""Row of a white box among the optimizers of its task."""

WEIGHTS = "weights"
"""Among what a record was made from: digests of the optimizers' weights, by name."""

TASKS = "tasks"
"""Likewise: the tasks of the runs, by name (not in records of before)."""

Record = TypeVar("Record", Transfer, Sweep)


def transfer(
    results: Path,
    output: Path,
    settings: TransferSettings = TransferSettings(),
    *,
    white_boxes: Sequence[str] = (),
    data_dir: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Measure what is not yet in `output`, then write tables and figures there.

    `TASK.npz`, `scales_TASK.npz`, `horizons_TASK.npz` and `dimensions.npz` are kept together with
    `settings.json`. In a folder that was measured before, only optimizers that are new, or whose
    weights have changed since then, are run again, and all of them on a task that has changed.

    `white_boxes` are measured as well: names of tasks whose optimizer the package has as a white
    box (`lo.distilled`), or `task=file` for the JSON file of another one.

    Raises `ValueError` for a folder without runs, runs without tuned baselines, a white box of a
    task that has no run, a folder that cannot be written, that another process writes into, or that
    was measured with other settings.
    """
    runs = {folder.name: Run(folder, data_dir=data_dir) for folder in shipped_runs(results, "runs")}
    boxes = _white_boxes(white_boxes, list(runs))
    with storage.claimed(output):
        _transfer(runs, output, settings, boxes=boxes, say=say)


def _white_boxes(
    given: Sequence[str], tasks: Sequence[str]
) -> dict[str, dict[str, AbstractOptimizer]]:
    """White boxes by name, by the task that they were made for."""
    found: dict[str, dict[str, AbstractOptimizer]] = {}
    for one in given:
        task, named, file = one.partition("=")
        if task not in tasks or task in found:
            raise ValueError(
                f"`white_boxes` must name tasks of runs, {', '.join(tasks)}, once each, got "
                f"{one!r}."
            )
        found[task] = {WHITE_BOX: load_box(file) if named else distilled_box(task)}
    return found


def _transfer(
    runs: Mapping[str, Run],
    output: Path,
    settings: TransferSettings,
    *,
    boxes: Mapping[str, dict[str, AbstractOptimizer]],
    say: Callable[[str], None],
) -> None:
    """`transfer` in a folder that is claimed."""
    tasks = {name: run.task for name, run in runs.items()}
    by_home = {name: contestants(run) | boxes.get(name, {}) for name, run in runs.items()}
    everyone = {
        f"{home}/{kind}": optimizer
        for home, own in by_home.items()
        for kind, optimizer in own.items()
    }
    made_from = _made_from(settings, everyone, tasks)
    storage.check_output(output, made_from, {WEIGHTS, TASKS})
    if not (output / storage.SETTINGS).exists():
        storage.save_json(output / storage.SETTINGS, made_from)
    once = functools.partial(_once, say=say, made_from=made_from)
    test, seen = (key_stream(name, settings.seed) for name in ("test", "analysis"))
    steps = settings.steps
    transfers: dict[str, Transfer] = {}
    scales: dict[str, Sweep] = {}
    horizons: dict[str, Sweep] = {}
    for name in runs:
        task, own = tasks[name], by_home[name]
        count = settings.problems_of(name)
        factors, lengths = settings.swept(name)
        shared: dict[str, Any] = {"key": test, "problems": count}
        scales[name] = once(
            Sweep, output / f"scales_{name}.npz", _of_home(own, name),
            sweep_scales, task, factors, steps=steps, **shared,
        )  # fmt: skip
        horizons[name] = once(
            Sweep, output / f"horizons_{name}.npz", _of_home(own, name),
            sweep_horizons, task, lengths, **shared,
        )  # fmt: skip
        analysed = settings.analysed_of(name)
        transfers[name] = once(
            Transfer, output / f"{name}.npz",
            Rows(everyone, task=name, home=f"{name}/{LEARNED}", distances=analysed > 0),
            measure_transfer, task, f"{name}/{LEARNED}", analysis_key=seen,
            analysed=analysed, steps=steps, **shared,
        )  # fmt: skip
    dimensions = None
    if SIZED in runs:
        variants = {float(dim): LinearRegression(dim) for dim in settings.dimensions}
        dimensions = once(
            Sweep, output / "dimensions.npz", Rows(by_home[SIZED], prefix=f"{SIZED}/"),
            sweep_tasks, variants, key=test, problems=settings.problems, steps=steps,
        )  # fmt: skip
    storage.save_json(output / storage.SETTINGS, made_from)
    storage.write_atomically(output / "matrix.csv", transfer_table(transfers))
    save_figure(figure_transfer(transfers, dimensions, TITLES), output, "transfer")
    save_figure(figure_sweeps(scales, horizons, TITLES), output, "sweeps")
    for line in transfer_lines(transfers):
        say(line)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Optimizers of a record, by the names of its rows.

    - `task`: name of the run whose task they are measured on, if it is one.
    - `prefix`: what stands before those names among all weights.
    - `home`: a row that is measured with any other, from which distances are taken, if any.
    """

    optimizers: Mapping[str, AbstractOptimizer]
    task: str | None = None
    prefix: str = ""
    home: str | None = None
    distances: bool = False

    def same_task(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Whether a record of tasks `before`, by name, is of the task that there is `now`."""
        if self.task is None or self.task not in before:
            return True
        return storage.agree(before[self.task], now[self.task])

    def to_measure(
        self, kept: Transfer | Sweep, before: Mapping[str, str], now: Mapping[str, str]
    ) -> dict[str, AbstractOptimizer]:
        """Optimizers that are not in a record as they are now.

        `before` and `now` have digests of weights. Where the home optimizer has changed, so have
        all distances.
        """
        changed = {
            name: optimizer
            for name, optimizer in self.optimizers.items()
            if name not in kept.names or before.get(self.prefix + name) != now[self.prefix + name]
        }
        if not changed or self.home is None:
            return changed
        if self.distances and self.home in changed:
            return dict(self.optimizers)
        return {self.home: self.optimizers[self.home], **changed}


def _of_home(optimizers: Mapping[str, AbstractOptimizer], home: str) -> Rows:
    return Rows(optimizers, task=home, prefix=f"{home}/")


def _once(
    kind: type[Record],
    path: Path,
    rows: Rows,
    measure: Callable[..., Record],
    *inputs: Any,
    say: Callable[[str], None],
    made_from: dict[str, Any],
    **options: Any,
) -> Record:
    """The record that is there, or else measured and saved. Its cells are kept until it is whole.

    Rows of optimizers that have not changed are taken from a record that is there, if it is of the
    same task. Raises `ValueError` for a record that was made from other settings.
    """
    names = tuple(rows.optimizers)
    kept, measured = None, dict(rows.optimizers)
    if path.exists():
        kept = storage.load_record(kind, path)
        before = storage.load_source(path) or made_from
        if storage.other_settings(before, made_from, {WEIGHTS, TASKS}):
            raise ValueError(f"`{path}` was made from other settings: remove it.")
    if kept is not None and not rows.same_task(before.get(TASKS, {}), made_from[TASKS]):
        kept = None
    if kept is not None:
        measured = rows.to_measure(kept, before[WEIGHTS], made_from[WEIGHTS])
        if not measured and kept.names == names:
            return kept
    start = time.monotonic()
    with storage.resumable(path.parent, path.stem, made_from):
        if kept is None:
            record = measure(measured, *inputs, **options)
        elif measured:
            record = _joined(names, measure(measured, *inputs, **options), kept)
        else:
            record = _joined(names, kept, kept)
        storage.save_record(path, record, made_from)
    say(f"{path.stem}: {len(measured)} optimizers, {time.monotonic() - start:.0f} s")
    return record


def _joined(names: tuple[str, ...], new: Record, old: Record) -> Record:
    """Rows of two records in the order of `names`, where both have one the new one's."""
    places = [
        (new, new.names.index(name)) if name in new.names else (old, old.names.index(name))
        for name in names
    ]
    arrays: dict[str, Any] = {
        field: np.stack([getattr(record, field)[place] for record, place in places])
        for field in ("objectives", "distances")
        if hasattr(new, field)
    }
    return dataclasses.replace(new, names=names, **arrays)


def _made_from(
    settings: TransferSettings,
    optimizers: Mapping[str, AbstractOptimizer],
    tasks: Mapping[str, AbstractTask],
) -> dict[str, Any]:
    """Settings, digests of the weights by optimizer, and tasks, as they are read from a file."""
    weights = {name: storage.digest_of(optimizer) for name, optimizer in optimizers.items()}
    described = {name: storage.describe(task) for name, task in tasks.items()}
    facts = dataclasses.asdict(settings) | {WEIGHTS: weights, TASKS: described}
    return json.loads(json.dumps(facts))


def transfer_table(transfers: Mapping[str, Transfer]) -> str:
    """CSV with a row for each optimizer on each task."""
    columns = ["task", "home", "optimizer", "mean_objective", "diverged", "problems",
               "ratio_to_home", "low", "high", "scorecard_distance"]  # fmt: skip
    rows: list[list[Any]] = []
    for task, record in transfers.items():
        ratios = np.exp(record.log_ratios(record.home_optimizer))
        for place, name in enumerate(record.names):
            row = record.objectives[place]
            rows.append([
                task, *home_and_kind(name), f"{row.mean():.6g}", int(record.diverged()[place]),
                row.size, *(f"{value:.6g}" for value in ratios[place]),
                f"{record.distances[place]:.6g}",
            ])  # fmt: skip
    return csv_text(columns, rows)


def transfer_lines(transfers: Mapping[str, Transfer]) -> list[str]:
    """For each task, what its own optimizer reaches, and how those from elsewhere compare."""
    lines = []
    for task, record in transfers.items():
        own = record.objectives[record.names.index(record.home_optimizer)].mean()
        logs, lost = record.log_ratios(record.home_optimizer), record.diverged()
        away = [i for i, name in enumerate(record.names) if home_and_kind(name)[0] != task]
        said = [f"{task}: {record.home_optimizer} has {own:.4f}"]
        if away:
            best = min(away, key=lambda index: logs[index, 0])
            ratio, low, high = np.exp(logs[best])
            said.append(
                f"best from elsewhere {record.names[best]}, "
                f"{ratio:.3g} [{low:.3g}, {high:.3g}] of it"
            )
        for index in away:
            if home_and_kind(record.names[index])[1] == LEARNED:
                times = f"{np.exp(logs[index, 0]):.3g} of it"
                outcome = f"diverged on {lost[index]}" if lost[index] else times
                said.append(f"{record.names[index]} {outcome}")
        lines.append("; ".join(said))
    return lines
