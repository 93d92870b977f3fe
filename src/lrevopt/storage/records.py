"""Records as .npz: an array for each field, by the name of the field.

A record that is loaded has the fields of its class, of the types and with the axes that the class
declares. An axis of one name has one length throughout the record.
"""

import dataclasses
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import numpy as np
from jaxtyping import jaxtyped

from lrevopt.storage.files import write_atomically
from lrevopt.storage.packed import SOURCE, npz_bytes, read_entries, shortened

Record = TypeVar("Record")


def save_record(path: Path | str, record: Any, source: Mapping[str, Any] | None = None) -> None:
    """A record (arrays, numbers, strings, tuples of strings, dicts of arrays) as one .npz.

    A field may be a record itself, whose fields are then named `field/its_field`. `source` is as in
    `save_npz`.
    """
    write_atomically(path, record_bytes(record, source))


def record_bytes(record: Any, source: Mapping[str, Any] | None = None) -> bytes:
    """What `save_record` writes."""
    return npz_bytes(_arrays_of(record), source)


def six_digits(record: Record, *names: str) -> Record:
    """The record with its fields of these names rounded by `shortened`; `a.b` is field b of a."""
    few: dict[str, Any] = {}
    for name in names:
        first, _, rest = name.partition(".")
        value = few.get(first, getattr(record, first))
        few[first] = six_digits(value, rest) if rest else shortened(value)
    whole: Any = record
    return dataclasses.replace(whole, **few)


def _arrays_of(record: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by name; the entry `field/` of a dict holds its keys."""
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(record):
        name, value = prefix + field.name, getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            arrays |= _arrays_of(value, f"{name}/")
        elif isinstance(value, dict):
            arrays |= {f"{name}/{key}": np.asarray(entry) for key, entry in value.items()}
            arrays[f"{name}/"] = np.asarray(list(value), dtype=np.str_)
        else:
            arrays[name] = np.asarray(value, dtype=np.str_ if _is_text(value) else None)
    return arrays


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, tuple) and all(isinstance(entry, str) for entry in value)
    )


def load_record(kind: type[Record], path: Path | str) -> Record:
    """The record of class `kind` that `save_record` wrote.

    Scalars come back as Python numbers, lists of strings as tuples. Fields that have a default
    may be missing. Raises `ValueError` for a file that is missing or damaged, or that has other
    fields, as those of earlier versions may, or fields of other types or shapes.
    """
    unread, _ = read_entries(path)
    unread.pop(SOURCE, None)
    lost: list[str] = []
    try:
        record = _record_of(kind, unread, "", lost)
    except ValueError as error:
        raise ValueError(f"`{path}` does not hold a sound {kind.__name__}: {error}") from None
    if record is None or unread:
        raise ValueError(
            f"`{path}` does not hold a {kind.__name__} of this version: "
            f"{_listed('missing', lost)}, {_listed('unknown', unread)}. Run the analysis that "
            "writes this file again."
        )
    return record


def _record_of(
    kind: type[Record], arrays: dict[str, np.ndarray], prefix: str, lost: list[str]
) -> Record | None:
    """The record made of the entries below `prefix`, which are taken out of `arrays`.

    If fields are missing: `None`, and their names are added to `lost`. Raises `ValueError` for
    fields that do not fit the class.
    """
    values: dict[str, Any] = {}
    missing: list[str] = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = prefix + field.name
        if dataclasses.is_dataclass(field.type):
            values[field.name] = _record_of(field.type, arrays, f"{name}/", lost)  # type: ignore[arg-type]
        elif f"{name}/" in arrays:
            keys = arrays.pop(f"{name}/").reshape(-1).tolist()
            missing += [f"{name}/{key}" for key in keys if f"{name}/{key}" not in arrays]
            entries = {key: arrays.pop(f"{name}/{key}", np.empty(0)) for key in keys}
            values[field.name] = {key: _unpacked(entry) for key, entry in entries.items()}
        elif name in arrays:
            array = arrays.pop(name)
            text = array.dtype.kind == "U" and array.ndim
            values[field.name] = tuple(array.tolist()) if text else _unpacked(array)
        elif not _has_default(field):
            missing.append(name)
    lost += missing
    if lost:
        return None
    if wrong := _misfits(kind, values):
        raise ValueError(f"{prefix}{wrong[0]} has another type or shape than its class declares.")
    return kind(**values)


def _misfits(kind: type, values: Mapping[str, Any]) -> list[str]:
    """Names of the values that are not of the type of their field, or whose axes do not agree."""
    with jaxtyped("context"):
        return [
            field.name
            for field in dataclasses.fields(kind)
            if field.name in values and not _fits(values[field.name], field.type)
        ]


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value that was read is of this type, as far as that is known."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(entry, parts[1]) for entry in value.values())
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(entry, parts[0]) for entry in value)
    if hasattr(kind, "array_type"):  # of jaxtyping; arrays without axes come back as numbers
        array = np.asarray(value) if isinstance(value, bool | int | float | complex) else value
        return isinstance(array, kind) or not issubclass(kind.array_type, np.ndarray)
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _listed(what: str, names: Iterable[str]) -> str:
    """Such as "missing 2 fields (a, b)"; the first four are named."""
    names = sorted(names)
    if not names:
        return f"{what} no field"
    said = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{what} {len(names)} field{'s' * (len(names) > 1)} ({said})"


def _has_default(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _unpacked(array: np.ndarray) -> Any:
    return array.item() if array.ndim == 0 else array
