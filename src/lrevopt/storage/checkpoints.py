"""Named arrays as Orbax checkpoints, for the states of training."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt.storage.files import read_settled, remove, writable_directory
from lrevopt.storage.packed import DIGEST, digest_of_arrays
from lrevopt.storage.signals import signals_wait


@signals_wait()
def save_arrays(directory: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Named arrays as one Orbax checkpoint, replacing what stood at `directory`.

    A digest of all bytes goes with them, so that damage is noticed on loading. Raises `OSError`,
    naming the folder, if it cannot be written. SIGINT and SIGTERM arrive when it is done.
    """
    directory = Path(os.path.abspath(directory))
    writable_directory(directory.parent)
    fresh = directory.with_name(f".{directory.name}.new")
    old = directory.with_name(f".{directory.name}.old")
    for leftover in (fresh, old):
        remove(leftover)
    try:
        with _said_once(), _checkpointer() as checkpointer:
            checkpointer.save(fresh, arrays | {DIGEST: digest_of_arrays(arrays)})
        # Read by nobody on a file system that renames, and it names the folder written to.
        (fresh / "commit_success.txt").unlink(missing_ok=True)
        if os.path.lexists(directory):
            os.replace(directory, old)
        os.replace(fresh, directory)
        remove(old)
    except Exception as error:  # Orbax and TensorStore raise many kinds for a disk that is full.
        for path in directory.parent.glob(f".{directory.name}.new*"):
            shutil.rmtree(path, ignore_errors=True)
        raise OSError(f"`{directory}` cannot be written: {_reason(error)}.") from None


def load_arrays(directory: Path | str) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote; `ValueError` if it is missing or damaged."""
    directory = Path(os.path.abspath(directory))
    return read_settled(lambda: _load_arrays(directory), directory)


@signals_wait()
def _load_arrays(directory: Path) -> dict[str, np.ndarray]:
    replaced = directory.with_name(f".{directory.name}.old")
    if not directory.is_dir() and replaced.is_dir():  # between two renamings
        directory = replaced
    if not directory.is_dir():
        raise ValueError(f"`{directory}` does not exist.")
    try:
        with _said_once(), _checkpointer() as checkpointer:
            restored = checkpointer.restore(directory)
        arrays = {name: np.asarray(array) for name, array in restored.items()}
        digest = arrays.pop(DIGEST)
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files.
        reason = _reason(error)
        raise ValueError(f"`{directory}` is a damaged or foreign checkpoint: {reason}.") from None
    if not np.array_equal(digest, digest_of_arrays(arrays)):
        raise ValueError(f"`{directory}` is a damaged checkpoint: its digest does not match.")
    return arrays


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep Orbax from logging, with their tracebacks, the errors that it raises as well."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _reason(error: Exception) -> str:
    """What the operating system says, which TensorStore quotes last, or else the first line."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0][:160] if lines else type(error).__name__).rstrip(".")


def _checkpointer() -> Any:
    """Orbax, for this process alone where there are several: it waits for none of the others."""
    import jax
    import orbax.checkpoint as ocp  # two seconds, only here

    own, handler = jax.process_index(), ocp.StandardCheckpointHandler
    if jax.process_count() == 1:
        return ocp.Checkpointer(handler())
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )
    return ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone)
