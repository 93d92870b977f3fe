"""Writing records into the folder of a run, and removal of what they make stale."""

from collections.abc import Callable
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


def announce_replaced(path: Path, made_from: dict[str, Any], say: Callable[[str], None]) -> None:
    """Say that a record is there which other settings made, before it is made again.

    Entries of `made_from` are compared that the record says of itself.
    """
    if not path.is_file():
        return
    try:
        found = storage.load_source(path) or {}
    except ValueError:
        say(f"Replaces {path}, which is damaged.")
        return
    if other := storage.other_settings(found, made_from, but=made_from.keys() - found.keys()):
        say(f"Replaces {path}, which was made with other settings: {', '.join(other)}.")


def write(directory: Path, name: str, record: Any, **beside: str | bytes | dict[str, Any]) -> None:
    """Save a record in the folder of a run. What goes stale by that is removed first.

    `beside` are the contents of the files that are written with it, by suffix: `csv="..."` for
    the one of its `beside` that ends in .csv; a dict is written as JSON, and is kept in the record
    too. Nothing is removed unless there is room for all of them. Raises `OSError` if there is not.
    """
    part = CONTENTS[name]
    settings = next((content for content in beside.values() if isinstance(content, dict)), None)
    contents: dict[Path, str | bytes] = {}
    for file in part.beside:
        content = beside[Path(file).suffix[1:]]
        plain = storage.json_text(content) if isinstance(content, dict) else content
        contents[directory / file] = plain
    path = directory / part.file
    contents[path] = storage.record_bytes(record, settings)
    fresh = not path.is_file() or path.read_bytes() != contents[path]
    storage.replace_together(contents, lambda: remove_stale(directory, name) if fresh else None)
