"""What stays on disk: settings as JSON, weights with Orbax, arrays as .npz.

Everything is written beside its destination first and renamed into place, so that a run that
is killed leaves either the old file or the new one. Loaders raise `ValueError` with one sentence
for what is missing, damaged or somebody else's.
"""

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

SETTINGS = "settings.json"


WEIGHTS, OLD_WEIGHTS = "weights.npz", "weights"
"""Weights in the folder of a run; in older folders they are an Orbax checkpoint."""


DIGEST = "sha256"


Record = TypeVar("Record")


Tree = TypeVar("Tree")


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Replace the file at `path`, or leave it as it was."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    writable_directory(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def writable_directory(path: Path | str) -> Path:
    """`path`, made if need be; `ValueError` if that cannot be, or nothing can be written there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`{path}` must be a folder that can be written: {error.strerror}."
        ) from None
    return path


def save_json(path: Path | str, content: dict[str, Any]) -> None:
    """Settings or tables as indented JSON with sorted keys."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def load_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file."""
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"`{path}` cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ValueError(f"`{path}` is not valid JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    return content


def save_record(path: Path | str, record: Any) -> None:
    """A record (arrays, numbers, strings, tuples of strings, dicts of arrays) as one .npz.

    A field may be a record itself, whose fields are then named `field/its_field`.
    """
    _write_npz(path, _arrays_of(record))


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
    fields, as those of earlier versions may.
    """
    arrays = _read_npz(path)
    unread = dict(arrays)
    record, missing = _record_of(kind, unread)
    if record is None or unread:
        raise ValueError(
            f"`{path}` does not hold a {kind.__name__} of this version: "
            f"{_listed('missing', missing)}, {_listed('unknown', unread)}. Run the analysis that "
            "writes this file again."
        )
    return record


def _record_of(
    kind: type[Record], arrays: dict[str, np.ndarray], prefix: str = ""
) -> tuple[Record | None, list[str]]:
    """The record made of the entries below `prefix`, which are taken out of `arrays`.

    If fields are missing: `None`, and the names of these.
    """
    values: dict[str, Any] = {}
    missing: list[str] = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = prefix + field.name
        if dataclasses.is_dataclass(field.type):
            values[field.name], lost = _record_of(field.type, arrays, f"{name}/")  # type: ignore[arg-type]
            missing += lost
        elif f"{name}/" in arrays:
            keys = arrays.pop(f"{name}/").tolist()
            missing += [f"{name}/{key}" for key in keys if f"{name}/{key}" not in arrays]
            entries = {key: arrays.pop(f"{name}/{key}", np.empty(0)) for key in keys}
            values[field.name] = {key: _unpacked(entry) for key, entry in entries.items()}
        elif name in arrays:
            array = arrays.pop(name)
            text = array.dtype.kind == "U" and array.ndim
            values[field.name] = tuple(array.tolist()) if text else _unpacked(array)
        elif not _has_default(field):
            missing.append(name)
    return (None if missing else kind(**values)), missing


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


def save_npz(path: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Named arrays as one .npz. A digest of all bytes goes with them, as in `save_arrays`."""
    _write_npz(path, arrays | {DIGEST: _digest(arrays)})


def load_npz(path: Path | str) -> dict[str, np.ndarray]:
    """What `save_npz` wrote; `ValueError` if it is missing or damaged."""
    arrays = _read_npz(path)
    digest = arrays.pop(DIGEST, None)
    if digest is None or not np.array_equal(digest, _digest(arrays)):
        raise ValueError(f"`{path}` is damaged: its digest does not match.")
    return arrays


def _write_npz(path: Path | str, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # names are strings
    write_atomically(path, buffer.getvalue())


def _read_npz(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; `ValueError` if it is missing or damaged."""
    path = Path(path)
    try:
        content = io.BytesIO(path.read_bytes())
        with np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise ValueError(f"`{path}` cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"`{path}` is damaged: {error}.") from None


def save_arrays(directory: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Named arrays as one Orbax checkpoint, replacing what stood at `directory`.

    A digest of all bytes goes with them, so that damage is noticed on loading.
    """
    directory = Path(directory).absolute()
    writable_directory(directory.parent)
    fresh = directory.with_name(f".{directory.name}.new")
    old = directory.with_name(f".{directory.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with _checkpointer() as checkpointer:
        checkpointer.save(fresh, arrays | {DIGEST: _digest(arrays)})
    # Read by nobody on a file system that renames, and it names the folder that was written to.
    (fresh / "commit_success.txt").unlink(missing_ok=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(fresh, directory)
    shutil.rmtree(old, ignore_errors=True)


def load_arrays(directory: Path | str) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote; `ValueError` if it is missing or damaged."""
    directory = Path(directory).absolute()
    replaced = directory.with_name(f".{directory.name}.old")
    if not directory.is_dir() and replaced.is_dir():  # killed between two renamings
        directory = replaced
    if not directory.is_dir():
        raise ValueError(f"`{directory}` does not exist.")
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(directory)
        arrays = {name: np.asarray(array) for name, array in restored.items()}
        digest = arrays.pop(DIGEST)
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files.
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"`{directory}` is a damaged or foreign checkpoint: {reason}") from None
    if not np.array_equal(digest, _digest(arrays)):
        raise ValueError(f"`{directory}` is a damaged checkpoint: its digest does not match.")
    return arrays


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # two seconds, only here

    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        total.update(array.tobytes())
    return np.frombuffer(total.digest(), np.uint8).copy()


def digest_of(tree: PyTree) -> str:
    """A digest of all array leaves of a tree, as hexadecimal digits."""
    return _digest(tree_to_arrays(tree)).tobytes().hex()


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what results depend on, and the kind of device."""
    packages = ("lrevopt", "jax", "jaxlib", "equinox", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return found | {"python": platform.python_version(), "backend": jax.default_backend()}


def tree_to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Array leaves by their path in the tree, on the host."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def arrays_to_tree(arrays: dict[str, np.ndarray], like: Tree, source: Path | str) -> Tree:
    """`like` with its array leaves replaced; `ValueError` if names or shapes differ."""
    skeleton = tree_to_arrays(like)
    for name in sorted(skeleton.keys() | arrays.keys()):
        ours = skeleton[name].shape if name in skeleton else "nothing"
        theirs = arrays[name].shape if name in arrays else "nothing"
        if ours != theirs:
            raise ValueError(
                f"`{source}` holds {theirs} for weight {name} where this optimizer has {ours}."
            )
    named, others = eqx.partition(like, eqx.is_array)
    filled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.array(arrays[jax.tree_util.keystr(path)], leaf.dtype), named
    )
    return eqx.combine(filled, others)


def describe(module: eqx.Module) -> dict[str, Any]:
    """Class and settings of a task, optimizer or cell, as JSON: arrays by shape, not by value.

    A module with a method `description` says itself what stands beside its class.
    """
    kind = type(module)
    head = {"kind": kind.__name__, "package": package_of(kind)}
    if hasattr(module, "description"):
        return head | module.description()
    return head | {
        field.name: _plain(getattr(module, field.name)) for field in dataclasses.fields(module)
    }


def package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _plain(value: Any) -> Any:
    if isinstance(value, eqx.Module):
        return describe(value)
    if eqx.is_array(value):
        return {"shape": list(value.shape)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", type(value).__name__)
