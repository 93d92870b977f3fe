"""The settings file of a run's folder, its entries of the types that the package writes."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lrevopt.storage.documents import load_json
from lrevopt.storage.trees import agree

SETTINGS = "settings.json"

ENTRIES: Mapping[str, type] = {
    "task": dict,
    "task_spec": dict,
    "optimizer": dict,
    "optimizer_spec": dict,
    "drawn": dict,
    "training": dict,
    "memory_plan": dict,
    "scales": dict,
    "versions": dict,
    "stages": list,
    "key": list,
    "initial_weights": str,
    "title": str,
    "start": str,
    "seed": int,
}
"""Types of the entries; others may be there as well."""

PARTS: Mapping[str, Mapping[str, type]] = {
    "task": {"kind": str},
    "task_spec": {"spec": str, "kwargs": dict},
    "optimizer_spec": {"spec": str, "kwargs": dict},
    "scales": {"chosen": list, "scores": list, "problems": int},
}
"""What entries that are objects must have."""

STAGE: Mapping[str, type] = {"task": dict, "training": dict}
"""What each of the stages must have."""


def load_settings(directory: Path | str) -> dict[str, Any]:
    """The settings of a run's folder, or of the file itself.

    Raises `ValueError` if they are missing or damaged, an entry is not of its type, or they are of
    something else than a run.
    """
    path = Path(directory)
    path = path if path.suffix == ".json" else path / SETTINGS
    settings = load_json(path)
    if settings and not settings.keys() & {"task", "optimizer"}:
        raise ValueError(
            f"`{path.parent}` is not a run directory: its {path.name} describes no task."
        )
    _check(settings, ENTRIES, path, "", required=False)
    for name, entries in PARTS.items():
        if name in settings:
            _check(settings[name], entries, path, f"{name}.")
    for place, stage in enumerate(settings.get("stages", [])):
        if not isinstance(stage, dict):
            raise ValueError(f"`{path}` must have objects in `stages`, got {_short(stage)}.")
        _check(stage, STAGE, path, f"stages[{place}].")
    if any(not isinstance(version, str) for version in settings.get("versions", {}).values()):
        raise ValueError(f"`{path}` must have strings in `versions`.")
    return settings


def other_settings(
    found: Mapping[str, Any], made_from: Mapping[str, Any], but: Collection[str] = ()
) -> list[str]:
    """Entries of `made_from`, `but` some, that are others in `found`."""
    plain = json.loads(json.dumps(dict(made_from)))  # as read back: tuples are lists
    return [name for name in plain if name not in but and not agree(found.get(name), plain[name])]


def check_output(folder: Path, made_from: Mapping[str, Any], but: Collection[str] = ()) -> None:
    """Raise `ValueError` for a folder whose settings are others than those of what it is to hold.

    Such a folder holds a run, or results that were made otherwise. Entries of `made_from` are
    compared, `but` some. A folder without settings passes.
    """
    path = folder / SETTINGS
    if path.exists() and (other := other_settings(load_json(path), made_from, but)):
        raise ValueError(
            f"`output` must be a folder that was made with the same settings, got `{folder}`, "
            f"whose `{other[0]}` differ: choose another folder, or remove it."
        )


def _check(
    found: Mapping[str, Any],
    entries: Mapping[str, type],
    path: Path,
    prefix: str,
    *,
    required: bool = True,
) -> None:
    """Raise `ValueError` for an entry of another type, or one that is missing."""
    for name, kind in entries.items():
        if name not in found and not required:
            continue
        value = found.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(
                f"`{path}` must have {_NAMES[kind]} as `{prefix}{name}`, got {_short(value)}."
            )


_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer"}


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) < 60 else f"{said[:50]}..."
