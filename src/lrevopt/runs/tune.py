"""A stage: baselines tuned on problems of their own."""

import dataclasses
import inspect
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float

from lrevopt import storage
from lrevopt.inner_loop.sizes import check_fits, check_runs
from lrevopt.optimizers import AbstractOptimizer, named
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import Named, key_stream
from lrevopt.runs.writing import remove_stale
from lrevopt.storage.contents import root_package
from lrevopt.tasks import AbstractTask
from lrevopt.tasks.named import differences
from lrevopt.tuning.baselines import BASELINES
from lrevopt.tuning.constructors import name_of, search_axes
from lrevopt.tuning.random_search import TuningResult, check_drawn_losses, tune
from lrevopt.tuning.settings import Tuning
from lrevopt.tuning.well_known import MakeOptax, tune_rate

Say = Callable[[str], None]


def tune_baselines(
    task: AbstractTask,
    settings: Tuning,
    directory: Path,
    *,
    seed: int = 0,
    baselines: Mapping[str, Callable[..., AbstractOptimizer]] | None = None,
    say: Say = print,
) -> dict[str, TuningResult]:
    """Tune every baseline on problems of its own key stream, and save the searches.

    - `directory`: gets `tuning/`; the folder of a run of the same task, to evaluate against them.
    - `seed`: of the problems and of the settings drawn.
    - `baselines`: constructors by name, `BASELINES` by default. Each takes what of
      `settings.ranges` names its arguments.

    Searches that are there already, of the same settings, seed, task and constructor, are kept, so
    that a call that was interrupted goes on. Others, and what was made from them, are removed
    before anything starts.

    Raises `ValueError` for a range that no baseline has, sizes that do not fit into memory, a first
    loss that is negative or not finite, or a folder whose run is of another task.
    """
    chosen = BASELINES if baselines is None else baselines
    each = baseline_settings(settings, chosen)
    check_runs(task, problems=settings.problems, steps=settings.steps)
    check_runs(task, problems=settings.fresh_problems, steps=settings.steps)
    check_fits(f"`settings` {settings.settings}", 200.0 * settings.settings)
    if (directory / storage.SETTINGS).exists():
        check_same_task(storage.load_settings(directory), task, directory)
    check_drawn_losses(task, settings, key_stream("tuning", seed))
    folder = directory / Run.tuning.file
    record = dataclasses.asdict(settings) | {"seed": seed, "task": storage.describe(task)}
    results = {}
    with storage.claimed(directory):
        sources = _begin(folder, record, chosen, each)
        say(settings.rule())
        for name, constructor in chosen.items():
            file = folder / f"{name}.npz"
            if file.is_file():
                results[name] = storage.load_record(TuningResult, file)
                say(f"{name}: {_best(results[name])}; tuned before")
                continue
            start = time.monotonic()
            with storage.resumable(directory, f"tune-{name}", sources[name]):
                result = tune(task, constructor, each[name], key=key_stream("tuning", seed))
                storage.save_record(file, result, sources[name])
            say(f"{name}: {_found(result)} ({time.monotonic() - start:.0f} s)")
            for sentence in result.widened + result.at_limit + result.decisions:
                say(f"  {sentence}")
            results[name] = result
    return results


def _begin(
    folder: Path,
    record: dict[str, Any],
    baselines: Mapping[str, Callable[..., AbstractOptimizer]],
    each: Mapping[str, Tuning],
) -> dict[str, dict[str, Any]]:
    """Prepare the folder of the searches; what each of them is made from, by baseline.

    What is there of other settings goes first, and with it what was made from that.
    """
    made_from = {"tuning": record, "versions": storage.versions()}
    sources = {
        name: json.loads(json.dumps(made_from | {"constructor": _searched(make, each[name])}))
        for name, make in baselines.items()
    }
    gone = [
        file
        for file in folder.glob("*.npz")
        if file.stem not in sources or not _made_from(file, sources[file.stem])
    ]

    def remove_others() -> None:
        for file in gone:
            storage.remove(file)
        if gone:
            remove_stale(folder.parent, "tuning")

    settings = storage.json_text(record | {"baselines": list(baselines)})
    storage.replace_together({folder / storage.SETTINGS: settings}, remove_others)
    return sources


def _searched(constructor: Callable[..., AbstractOptimizer], settings: Tuning) -> dict[str, Any]:
    """A constructor and what of it is searched, as JSON.

    Code counts for a constructor of your own; those of this package have a version.
    """
    kind = constructor
    while isinstance(kind, partial):
        kind = kind.func
    package = root_package(kind)
    own = package if package != "lrevopt" else ""
    axes = search_axes(constructor, settings)
    return {
        "name": name_of(constructor),
        "digest": storage.digest_of_contents(constructor, own),
        "axes": {name: dataclasses.asdict(axis) for name, axis in axes.items()},
    }


def _made_from(file: Path, source: dict[str, Any]) -> bool:
    """Whether a search was made from this. One of an older version may not name its constructor."""
    try:
        found = storage.load_source(file) or {}
    except ValueError:  # damaged
        return False
    return storage.agree({"constructor": source["constructor"]} | found, source)


def _best(result: TuningResult) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in result.best.items())


def _found(result: TuningResult) -> str:
    return (
        f"{_best(result)}; {result.fresh_score:.4f} on {result.decided_on} fresh problems, "
        f"{result.checked_score:.4f} on further ones, "
        f"{np.sum(~np.isfinite(result.scores))} of {result.scores.size} settings diverged"
    )


def baseline_settings(
    settings: Tuning, baselines: Mapping[str, Callable[..., AbstractOptimizer]] | None = None
) -> dict[str, Tuning]:
    """Settings of each baseline, with the ranges that name its arguments.

    Raises `ValueError` for a range that no baseline has.
    """
    chosen = BASELINES if baselines is None else baselines
    arguments = {name: inspect.signature(make).parameters for name, make in chosen.items()}
    known = {argument for names in arguments.values() for argument in names}
    if unknown := sorted(set(settings.ranges) - known):
        raise ValueError(f"`ranges` must name any of {sorted(known)}, got {unknown[0]!r}.")
    each = {}
    for name, names in arguments.items():
        ranges = {key: pair for key, pair in settings.ranges.items() if key in names}
        each[name] = dataclasses.replace(settings, ranges=ranges)
        search_axes(chosen[name], each[name])
    return each


def load_tuning(directory: Path, task: AbstractTask | None = None) -> dict[str, TuningResult]:
    """The searches in a folder, by baseline.

    Raises `ValueError` if there are none, or they are of another task than `task`.
    """
    folder = directory / Run.tuning.file
    if task is not None and (folder / storage.SETTINGS).is_file():
        check_same_task(storage.load_json(folder / storage.SETTINGS), task, directory)
    results = Run.tuning.read(folder) if (folder / storage.SETTINGS).is_file() else {}
    if not results:
        raise ValueError(
            f"`{directory}` has no tuned baselines: tune them first, by `lrevopt tune TASK "
            f"--output {directory}`."
        )
    return results


def tuned_baselines(results: Mapping[str, TuningResult]) -> dict[str, AbstractOptimizer]:
    """The best optimizer of each search. Raises `ValueError` for one of an unknown baseline."""
    if unknown := [name for name in results if name not in BASELINES]:
        raise ValueError(
            f"`BASELINES` must have the constructor of every tuned baseline, but has none of "
            f"{unknown[0]!r}."
        )
    for name, result in results.items():
        if result.name != BASELINES[name].__name__:
            raise ValueError(
                f"`{name}` must be a search of {BASELINES[name].__name__}, but it is one of "
                f"{result.name}."
            )
    return {name: result.optimizer(BASELINES[name]) for name, result in results.items()}


def with_learning_rate(
    chosen: Named, task: AbstractTask, *, problems: int, steps: int, seed: int, say: Say = print
) -> Named:
    """An optimizer of optax with the best of the learning rates that are tried, if it names none.

    `problems` of the tuning stream of `seed` are run for `steps` updates each. Other optimizers
    come back as they are. Raises `ValueError` for an unknown name, or arguments that do not fit.
    """
    if chosen.stored or not named.needs_learning_rate(chosen.spec, chosen.kwargs):
        return chosen
    kwargs = dict(chosen.kwargs)

    def make(rate: float | Float[Array, ""]) -> optax.GradientTransformation:
        return named.make_transformation(chosen.spec, kwargs | {"learning_rate": rate})

    try:
        best = best_rate(
            chosen.spec, make, task, problems=problems, steps=steps, seed=seed, say=say
        )
    except ValueError as error:
        raise named.blamed(chosen.spec, kwargs, error) from error
    return dataclasses.replace(chosen, kwargs=kwargs | {"learning_rate": best})


def best_rate(
    name: str,
    make: MakeOptax,
    task: AbstractTask,
    *,
    problems: int,
    steps: int,
    seed: int,
    say: Say = print,
) -> float:
    """The best learning rate for `make` on problems of the tuning stream of `seed`.

    `say` gets a sentence about the search, which begins with `name`.
    """
    key = key_stream("tuning", seed)
    found = tune_rate(make, task, key=key, problems=problems, steps=steps)
    edge = ", at an edge of those tried" if found.on_edge else ""
    say(
        f"{name}: learning rate {found.best:.4g}, score {found.scores.min():.4g} on {problems} "
        f"tuning problems, best of {found.scores.size}{edge}"
    )
    return found.best


def check_same_task(settings: dict[str, Any], task: AbstractTask, directory: Path) -> None:
    """Raise `ValueError` unless settings, those of a run or of searches, are of this task."""
    found, kind = settings.get("task") or {}, type(task).__name__
    if other := differences(task, found):
        means = f", which differs in {', '.join(other)}" if found.get("kind") == kind else ""
        raise ValueError(
            f"`{directory}` belongs to the task {found.get('kind')}, not to this {kind}{means}."
        )
