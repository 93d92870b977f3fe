"""Parts of a stage that was interrupted: what was computed is not computed again.

A stage declares itself with `resumable`. Whatever runs inside, at any depth, hands each expensive
result to `part`. Outside of a stage `part` just computes.
"""

import contextlib
import contextvars
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lrevopt.storage.contents import digest_of_contents
from lrevopt.storage.files import remove
from lrevopt.storage.packed import load_source
from lrevopt.storage.records import load_record, save_record
from lrevopt.storage.trees import versions

Record = TypeVar("Record")

UNFINISHED = "unfinished"
"""Folder of the parts, in that of the run."""


@dataclasses.dataclass
class _Stage:
    """The stage that runs: where its parts are, what they are made from, how many there were."""

    folder: Path
    name: str
    source: Mapping[str, Any]
    count: int = 0


_RUNNING: contextvars.ContextVar[_Stage | None] = contextvars.ContextVar("running", default=None)


@contextlib.contextmanager
def resumable(directory: Path, name: str, source: Mapping[str, Any]) -> Iterator[None]:
    """Keep the results of all `part`s in the block until it ends without an error.

    - `directory`: a folder that this process has claimed, of a run say; gets `unfinished/`.
    - `name`: of the stage.
    - `source`: all that the results depend on, as JSON: settings, seeds, digests of weights. Parts
      that were made from something else, or by other versions, are made again.
    """
    made_from = json.loads(json.dumps(dict(source) | {"versions": versions()}))
    folder = directory / UNFINISHED
    token = _RUNNING.set(_Stage(folder, name, made_from))
    try:
        yield
        _remove_parts(folder, f"{name}.")
    finally:
        _RUNNING.reset(token)
        with contextlib.suppress(OSError):  # not there, or there are parts in it
            folder.rmdir()


def part(name: str, kind: type[Record], compute: Callable[[], Record], of: Any = None) -> Record:
    """The record that `compute` returns, or that it returned before the stage was interrupted.

    - `name`: of the part. Parts of a stage come in the same order each time.
    - `kind`: class of the record.
    - `of`: on what it depends besides the source of the stage: arrays, and what is static about an
      optimizer, all by value.
    """
    stage = _RUNNING.get()
    if stage is None:
        return compute()
    label = re.sub(r"[^\w-]", "_", name)[:60]
    own = f"{stage.name}.{stage.count:03d}-{label}"
    stage.count += 1
    path = stage.folder / f"{own}.npz"
    source = dict(stage.source) | ({} if of is None else {"of": digest_of_contents(of)})
    with contextlib.suppress(ValueError):  # not there, damaged, or of an older class
        if path.exists() and load_source(path) == source:
            return load_record(kind, path)
    token = _RUNNING.set(_Stage(stage.folder, own, source))
    try:
        record = compute()
    finally:
        _RUNNING.reset(token)
    save_record(path, record, source)
    _remove_parts(stage.folder, f"{own}.", but=path)
    return load_record(kind, path)  # the same, to the bit and the type, as after an interruption


def _remove_parts(folder: Path, prefix: str, but: Path | None = None) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(prefix) and path != but:
                remove(path)
