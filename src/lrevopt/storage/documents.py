"""Settings and tables as JSON, with a checksum of their content."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lrevopt.storage.files import write_atomically

CHECKSUM, PREFIX = "sha256", "sha256:"
"""Entry of a JSON file with the checksum of all others, and how its value begins."""


def save_json(path: Path | str, content: dict[str, Any]) -> None:
    """Settings or tables as indented JSON with sorted keys, and a checksum of them."""
    write_atomically(path, json_text(content))


def json_text(content: dict[str, Any]) -> str:
    """What `save_json` writes."""
    plain = json.loads(json.dumps(content))  # tuples are lists, and all keys are strings
    sealed = plain | {CHECKSUM: _checksum(plain)}
    return json.dumps(sealed, indent=2, sort_keys=True) + "\n"


def load_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file, without its checksum. Files of version 0.1 have none.

    Raises `ValueError` for a file that is missing, is no JSON, or has changed since it was saved.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"`{path}` cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise ValueError(f"`{path}` is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"`{path}` is not valid JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    # One whose own name is damaged is still known by its value.
    found = [name for name, value in content.items() if str(value)[: len(PREFIX)] == PREFIX]
    if CHECKSUM in content or found:
        checksum = content.pop(CHECKSUM, None)
        if found != [CHECKSUM] or checksum != _checksum(content):
            raise ValueError(
                f"`{path}` is damaged, or was edited: its checksum does not match. If an edit is "
                f"meant, remove the entry {CHECKSUM}."
            )
    return content


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return PREFIX + hashlib.sha256(canonical.encode()).hexdigest()
