"""How the stages of a run write into its folder, and what they remove by that."""

from pathlib import Path
from typing import Any

from lrevopt import storage
from lrevopt.runs.contents import ALL, CONTENTS


def stale(*replaced: str) -> list[str]:
    """Names of the parts that depend, by whatever way, on parts that were replaced."""
    gone: set[str] = set()
    while True:
        sources = {*replaced, *gone}
        found = {
            name
            for name, part in CONTENTS.items()
            if part.depends == ALL or sources.intersection(part.depends)
        }
        if found <= gone:
            return [name for name in CONTENTS if name in gone]
        gone |= found


def remove_stale(directory: Path, *replaced: str) -> None:
    """Remove from a run's folder what depends on parts that were replaced."""
    for name in stale(*replaced):
        for path in CONTENTS[name].files(directory):
            storage.remove(path)


def write(directory: Path, name: str, record: Any, **beside: str | bytes | dict[str, Any]) -> None:
    """Save a record in the folder of a run, and remove what has gone stale by that.

    `beside` are the contents of the files that are written with it, by suffix: `csv="..."` for
    the one of its `beside` that ends in .csv; a dict is written as JSON.
    """
    part = CONTENTS[name]
    before = _bytes(directory / part.file)
    storage.save_record(directory / part.file, record)
    for file in part.beside:
        content = beside[Path(file).suffix[1:]]
        if isinstance(content, dict):
            storage.save_json(directory / file, content)
        else:
            storage.write_atomically(directory / file, content)
    if _bytes(directory / part.file) != before:
        remove_stale(directory, name)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
