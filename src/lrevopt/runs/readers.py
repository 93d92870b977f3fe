"""Records of a run whose reading takes more than one file."""

from pathlib import Path
from typing import Any

from lrevopt import storage
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.tuning.random_search import TuningResult


def read_tuning(directory: Path) -> dict[str, TuningResult]:
    """Searches by baseline, whatever baselines there are.

    Raises `ValueError` for searches that were interrupted, or that were made with other settings
    than those beside them.
    """
    files = {file.stem: file for file in sorted(directory.glob("*.npz"))}
    settings = storage.load_json(directory / storage.SETTINGS)
    order = settings.get("baselines", USUAL_ORDER)
    if not isinstance(order, list | tuple):
        raise ValueError(f"`{directory / storage.SETTINGS}` must have a list as `baselines`.")
    if lost := [name for name in order if name not in files and "baselines" in settings]:
        raise ValueError(
            f"`{directory}` holds an unfinished search: {', '.join(lost)} must still be tuned."
        )
    for file in files.values():
        made_from = (storage.load_source(file) or {}).get("tuning", settings)
        if not all(storage.agree(made_from[name], settings.get(name)) for name in made_from):
            raise ValueError(
                f"`{file}` was made with other settings than `{storage.SETTINGS}` beside it has: "
                f"tune again."
            )
    results = {name: storage.load_record(TuningResult, file) for name, file in files.items()}
    return dict(sorted(results.items(), key=lambda pair: (*order, pair[0]).index(pair[0])))


USUAL_ORDER = ("momentum", "rmsprop", "adam")
"""Order of the baselines in folders whose settings do not name them."""


SHARED = "baselines_from"
"""Name, among the settings of an evaluation, of the folder whose evaluation has its baselines."""


BASELINES = "baselines"
"""Name, among the settings of such an evaluation, of the list of the baselines it takes from there.
Older ones have none."""


def read_evaluation(path: Path) -> Evaluation:
    """Losses on test problems. Baselines that another run's evaluation holds come from there.

    Raises `ValueError`, naming the file, if one is missing, damaged, or of other problems, and for
    a baseline that is in none of them.
    """
    files = evaluation_files(path)
    found = storage.load_record(Evaluation, path)
    for file in files[1:]:
        found = found.beside(storage.load_record(Evaluation, file))
    lost = [name for name in _settings_of(path).get(BASELINES, []) if name not in found.names]
    if lost:
        raise ValueError(
            f"`{path}` takes its baselines from `{files[-1]}`, which has no {lost[0]} by now: "
            f"evaluate this run again."
        )
    return found


def evaluation_files(path: Path) -> list[Path]:
    """An evaluation, and those of other runs that it takes baselines from, each from the next one.

    Raises `ValueError` if one of them is missing, or has other problems than the first.
    """
    files, known = [path], _settings_of(path)
    while SHARED in known:
        there = files[-1].parent / known[SHARED] / path.name
        if any(there.resolve() == file.resolve() for file in files):
            raise ValueError(
                f"`{path}` takes its baselines from `{there}`, which takes them from here: "
                f"evaluate one of these runs again with tuned baselines of its own."
            )
        other = storage.load_json(there.with_suffix(".json"))
        if any(other.get(name) != known.get(name) for name in ("problems", "steps", "seed")):
            raise ValueError(
                f"`{files[-1]}` takes its baselines from `{there}`, which has other problems by "
                f"now: evaluate this run again."
            )
        files.append(there)
        known = other
    return files


def _settings_of(evaluation: Path) -> dict[str, Any]:
    settings = evaluation.with_suffix(".json")
    return storage.load_json(settings) if settings.is_file() else {}


def read_settings_of(record: Path, file: Path) -> dict[str, Any]:
    """Settings in a file beside a record. Raises `ValueError` if that was made from others."""

    def read() -> dict[str, Any]:
        settings = storage.load_json(file)
        made_from = storage.load_source(record) if record.is_file() else None
        if made_from is not None and made_from != settings:
            raise ValueError(
                f"`{record}` was made from other settings than `{file.name}` beside it has: make "
                f"it again."
            )
        return settings

    return storage.read_settled(read, file, record)
