"""Locks of folders: one process writes into a folder at a time."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from lrevopt.storage.files import LOCK, remove_leftovers, writable_directory

try:
    import fcntl
except ImportError:  # no locks on this system
    fcntl = None  # type: ignore[assignment]

_HELD: set[Path] = set()
"""Folders that this process has claimed."""


@contextlib.contextmanager
def claimed(directory: Path | str) -> Iterator[None]:
    """Lock a folder for this process while the block runs; make it if it is missing.

    The lock is one of the operating system, which releases it when the process ends. Inside a block
    of the same process and folder it does nothing. Files that a killed process left half-written
    are removed. A folder that was made for the lock and stays empty is removed again.

    Raises `ValueError` for a folder that another process has claimed, naming that process, and for
    one that cannot be written.
    """
    path = Path(os.path.abspath(directory))
    if path in _HELD:
        yield
        return
    made = _missing(path)
    try:
        writable_directory(directory)
        handle = _locked(path / LOCK, directory)
        _HELD.add(path)
        try:
            remove_leftovers(path)
            yield
        finally:
            _HELD.discard(path)
            remove_leftovers(path)
            (path / LOCK).unlink(missing_ok=True)
            os.close(handle)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _missing(path: Path) -> list[Path]:
    """The folders that do not exist yet, innermost first."""
    try:
        return [folder for folder in (path, *path.parents) if not folder.exists()]
    except OSError:
        return []


def _locked(path: Path, directory: Path | str) -> int:
    """Handle of the lock file, locked. Raises `ValueError` if another process holds it.

    `directory` is the folder as the caller names it.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            os.close(handle)
            raise ValueError(
                f"`{directory}` is in use by {holder or 'another process'}: wait until it has "
                f"ended, or choose another folder."
            ) from None
        except (OSError, AttributeError):  # this file system, or this system, has no locks
            pass
        # The holder before may have removed the file between the two calls.
        if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
            break
        os.close(handle)
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
    return handle
