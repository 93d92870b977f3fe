"""Transfer of all runs in a folder: measured piece by piece, drawn and tabulated."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lrevopt import storage
from lrevopt.optimizers import AbstractOptimizer
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
from lrevopt.tasks import LinearRegression
from lrevopt.text import csv_text

SIZED = "linear_regression"
"""The task whose dimension is swept: the only one that has one to choose."""


Record = TypeVar("Record", Transfer, Sweep)


def transfer(
    results: Path,
    output: Path,
    settings: TransferSettings = TransferSettings(),
    *,
    data_dir: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Measure what is not yet in `output`, then write tables and figures there.

    `TASK.npz`, `scales_TASK.npz`, `horizons_TASK.npz` and `dimensions.npz` are kept together with
    `settings.json`. Raises `ValueError` for a folder without runs, runs without tuned baselines,
    a folder that cannot be written, that another process writes into, or that was measured with
    other settings or weights.
    """
    with storage.claimed(output):
        _transfer(results, output, settings, data_dir=data_dir, say=say)


def _transfer(
    results: Path,
    output: Path,
    settings: TransferSettings,
    *,
    data_dir: Path | None,
    say: Callable[[str], None],
) -> None:
    """`transfer` in a folder that is claimed."""
    runs = {folder.name: Run(folder, data_dir=data_dir) for folder in shipped_runs(results)}
    tasks = {name: run.task for name, run in runs.items()}
    by_home = {name: contestants(run) for name, run in runs.items()}
    everyone = {
        f"{home}/{kind}": optimizer
        for home, own in by_home.items()
        for kind, optimizer in own.items()
    }
    once = functools.partial(_once, say, _check_or_keep(output, settings, everyone))
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
            Sweep, output / f"scales_{name}.npz",
            sweep_scales, own, task, factors, steps=steps, **shared,
        )  # fmt: skip
        horizons[name] = once(
            Sweep, output / f"horizons_{name}.npz",
            sweep_horizons, own, task, lengths, **shared,
        )  # fmt: skip
        transfers[name] = once(
            Transfer, output / f"{name}.npz",
            measure_transfer, everyone, task, f"{name}/{LEARNED}", analysis_key=seen,
            analysed=settings.analysed_of(name), steps=steps, **shared,
        )  # fmt: skip
    dimensions = None
    if SIZED in runs:
        variants = {float(dim): LinearRegression(dim) for dim in settings.dimensions}
        dimensions = once(
            Sweep, output / "dimensions.npz",
            sweep_tasks, by_home[SIZED], variants, key=test, problems=settings.problems,
            steps=steps,
        )  # fmt: skip
    storage.write_atomically(output / "matrix.csv", transfer_table(transfers))
    save_figure(figure_transfer(transfers, dimensions, TITLES), output, "transfer")
    save_figure(figure_sweeps(scales, horizons, TITLES), output, "sweeps")
    for line in transfer_lines(transfers):
        say(line)


def _once(
    say: Callable[[str], None],
    made_from: dict[str, Any],
    kind: type[Record],
    path: Path,
    measure: Callable[..., Record],
    *inputs: Any,
    **options: Any,
) -> Record:
    """The record that is there, or else measured and saved. Its cells are kept until it is whole.

    Raises `ValueError` for a record that was made from other settings or weights.
    """
    if path.exists():
        if (storage.load_source(path) or made_from) != made_from:
            raise ValueError(f"`{path}` was made from other settings or weights: remove it.")
        return storage.load_record(kind, path)
    start = time.monotonic()
    with storage.resumable(path.parent, path.stem, made_from):
        record = measure(*inputs, **options)
        storage.save_record(path, record, made_from)
    say(f"{path.stem}: {time.monotonic() - start:.0f} s")
    return record


def _check_or_keep(
    output: Path, settings: TransferSettings, optimizers: Mapping[str, AbstractOptimizer]
) -> dict[str, Any]:
    """Settings and weights that are measured, kept in a new folder.

    Raises `ValueError` for a folder that was measured with others.
    """
    own = json.loads(
        json.dumps(
            dataclasses.asdict(settings)
            | {"weights": {name: storage.digest_of(opt) for name, opt in optimizers.items()}}
        )
    )
    path = output / storage.SETTINGS
    if path.exists():
        found = storage.load_json(path)
        other = [key for key in own if found.get(key) != own[key]]
        if other:
            raise ValueError(
                f"`output` must be a folder that was measured with the same settings, got "
                f"`{output}`, whose `{other[0]}` differ: choose another folder, or remove it."
            )
    else:
        storage.save_json(path, own)
    return own


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
