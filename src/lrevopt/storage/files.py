"""Files and folders: replaced as a whole or not at all, removed, cleaned of what a kill left."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

NEW = ".new."
"""How names of files begin that are written before they are renamed into place."""

OLDER = r"\.[\w-]+\.(npz|json|csv|md|txt|html|png|svg)\.[a-z0-9_]{8}"
"""Such names in version 0.1."""

LEFT_FILE = re.compile(rf"{re.escape(NEW)}[a-z0-9_]{{8}}|{OLDER}")
LEFT_FOLDER = re.compile(r"\.[\w-]+\.(new|old)|.*\.orbax-checkpoint-tmp.*")
"""Names of files and of folders that are there only while something is being replaced."""

LOCK = ".lock"
"""File in a claimed folder; it names the process that claims it."""

WAITS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between attempts to read what is being replaced."""


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Replace the file at `path`, or leave it as it was. Raises `OSError`, naming the file."""
    replace_together({Path(path): content})


def replace_together(
    contents: Mapping[Path, bytes | str], before: Callable[[], None] | None = None
) -> None:
    """Replace several files. Nothing is touched until all new contents are on disk.

    `before` is called then, and removes what does not go with the new files. They are renamed into
    place in the order given. Raises `OSError`, naming the file that cannot be written.
    """
    written: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            written[path] = _written_beside(path, content)
        if before is not None:
            before()
        for path, temporary in written.items():
            with _naming(path):
                os.replace(temporary, path)
    finally:
        for temporary in written.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _written_beside(path: Path, content: bytes | str) -> str:
    """Path of a new file in the same folder with this content, on disk."""
    data = content.encode() if isinstance(content, str) else content
    writable_directory(path.parent)
    temporary = ""
    with _naming(path):
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=NEW)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
        except BaseException:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise
    return temporary


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an `OSError` name this file instead of a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def writable_directory(path: Path | str) -> Path:
    """`path`, made if need be; `ValueError` if that cannot be, or nothing can be written there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _try_to_write(path)
    except OSError as error:
        reason = "it is a link to nothing" if _dangling(path) else error.strerror
        raise ValueError(f"`{path}` must be a folder that can be written: {reason}.") from None
    return path


def page_file(name: str, path: Path) -> Path:
    """`path`, if it is free for a page, or has a page that is to be replaced.

    Raises `ValueError`, naming the argument `name`, for a folder, for a file of another kind, and
    where nothing can be written. Folders that are missing are not made.
    """
    if path.is_dir():
        raise ValueError(f"`{name}` must be a file for the page, got the folder `{path}`.")
    if path.is_file():
        with path.open("rb") as file:
            begins = file.read(64).lstrip()[:1]
        if begins not in (b"", b"<"):
            raise ValueError(
                f"`{name}` must be a new file, or a page that is to be replaced, got `{path}`, "
                f"which is no page."
            )
    try:
        _try_to_write(next(above for above in path.absolute().parents if os.path.lexists(above)))
    except OSError as error:
        raise ValueError(
            f"`{name}` must be a file that can be written, got `{path}`: {error.strerror}."
        ) from None
    return path


def _try_to_write(folder: Path) -> None:
    """Raise `OSError` where a folder takes no file. None is left there."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _dangling(path: Path) -> bool:
    try:
        return path.is_symlink() and not path.exists()
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder, if it is there. Of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a process that was killed left in a folder, and in folders right below it.

    A folder that was about to be replaced, of which the old content alone is there, is put back.
    Only the process that has claimed the folder may do this. A folder below it that is claimed by
    itself, a run in a folder of runs say, is left to whoever has claimed it, or does so next.
    """
    for folder in (directory, *_entries(directory)):
        if folder.is_symlink() or not folder.is_dir():
            continue
        entries = _entries(folder)
        if folder != directory and folder / LOCK in entries:
            continue
        for path in entries:
            if path.is_symlink():
                continue
            if path.is_dir() and LEFT_FOLDER.fullmatch(path.name):
                _put_back_or_remove(path)
            elif path.is_file() and LEFT_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing, if it is none any more."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _put_back_or_remove(path: Path) -> None:
    final = path.with_name(path.name.removeprefix(".").removesuffix(".old"))
    if path.suffix == ".old" and not final.exists():
        os.replace(path, final)
    else:
        shutil.rmtree(path, ignore_errors=True)


def read_settled(read: Callable[[], Value], *paths: Path) -> Value:
    """What `read` returns. If it fails while another process replaces `paths`, it is tried again.

    Raises what `read` raises, if nothing has changed there.
    """
    for wait in WAITS:
        before = [_stamp(path) for path in paths]
        try:
            return read()
        except ValueError:
            time.sleep(wait)
            if [_stamp(path) for path in paths] == before:
                raise
    return read()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file or folder is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
