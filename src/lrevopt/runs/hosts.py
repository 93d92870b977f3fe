"""A command in several processes, on one machine or on several, that compute one thing.

JAX connects the processes and notices when one of them is gone, and then ends the others where they
are, with the messages of its own. So the work is done in a child process: this one passes signals
on, and says in one sentence what has happened.
"""

import dataclasses
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import IO, Any

from lrevopt.checks import integer_of_at_least, positive_integer
from lrevopt.runs.errors import sentence
from lrevopt.runs.stopping import SIGNALS, Stopped

CONNECTING = 120
"""Seconds that processes wait for each other at the start."""

SILENCE = 20
"""Seconds without a sign of life after which a process counts as gone."""

LOST = (
    "another process of this run has ended or cannot be reached: start all of them again, with "
    "--resume, to continue from the last saved state"
)


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the processes of a distributed run find each other (default: from Slurm's variables)."""

    coordinator: str | None = None
    """Address of process 0 as name:port (default: $JAX_COORDINATOR_ADDRESS)."""
    processes: int | None = None
    """Number of processes (default: $JAX_NUM_PROCESSES)."""
    process: int | None = None
    """Number of this process, counted from 0 (default: $JAX_PROCESS_ID)."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of `jax.distributed.initialize`; none where a scheduler knows them.

        Raises `ValueError` if some of the three are missing, or out of range.
        """
        asked = {
            "coordinator": self.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS"),
            "processes": _number("JAX_NUM_PROCESSES", self.processes),
            "process": _number("JAX_PROCESS_ID", self.process),
        }
        missing = [name for name, value in asked.items() if value is None]
        if len(missing) == 3:
            if "SLURM_JOB_ID" in os.environ:
                return {}
            raise ValueError(
                "`distributed` needs `hosts.coordinator`, `hosts.processes` and `hosts.process` "
                "where no Slurm job gives them."
            )
        if missing:
            raise ValueError(f"`hosts.{missing[0]}` must be given with the others of `hosts`.")
        coordinator, processes, process = asked.values()
        if not str(coordinator).rpartition(":")[2].isdecimal():
            raise ValueError(f"`hosts.coordinator` must be name:port, got {coordinator!r}.")
        count = positive_integer("hosts.processes", processes)
        if integer_of_at_least(0, "hosts.process", process) >= count:
            raise ValueError(f"`hosts.process` must be below {count} processes, got {process}.")
        return {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": process,
            "cluster_detection_method": "deactivate",
        }


def _number(variable: str, given: int | None) -> int | None:
    """An option, or else a variable of the environment."""
    words = os.environ.get(variable)
    if given is not None or words is None:
        return given
    if not words.strip().isdecimal():
        raise ValueError(f"`{variable}` must be a number, got {words!r}.")
    return int(words)


def distributed(work: Callable[[], int], hosts: Hosts) -> int:
    """Do the work together with the other processes; the exit code.

    That is 1, after one sentence, where one of the others has ended. Raises `ValueError` as
    `Hosts.arguments` does, and in a process that has JAX already.
    """
    arguments = hosts.arguments()
    if "jax" in sys.modules:
        raise ValueError("`distributed` must be left out in a process that has imported JAX.")
    children: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        os.setpgrp()  # a terminal's signals come by way of the parent
        threading.Thread(target=_end_with_parent, args=(reader,), daemon=True).start()
        os._exit(_worker(work, arguments))
    children.append(child)
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
    if code >= 0:
        return code
    # On a line of its own: a progress bar may stand there unfinished.
    print(f"\nerror: {LOST} ({signal.Signals(-code).name}).", file=sys.stderr)
    return 1


def _end_with_parent(reader: int) -> None:
    """End this process when the parent, which alone has the other end of a pipe, has ended."""
    os.read(reader, 1)
    os._exit(1)


def _worker(work: Callable[[], int], arguments: dict[str, Any]) -> int:
    """Connect and work; the exit code. What JAX's own runtime prints is not shown."""
    streams = _quiet_runtime()
    try:
        import jax

        jax.distributed.initialize(
            **arguments, initialization_timeout=CONNECTING, heartbeat_timeout_seconds=SILENCE
        )
        code = work()
        jax.distributed.shutdown()
    except Stopped as stopped:
        print(stopped.sentence("the same command with --resume continues"), file=sys.stderr)
        code = stopped.exit_code
    except Exception as error:
        code = _said(error)
    for stream in streams:
        stream.flush()
    return code


def _said(error: Exception) -> int:
    """Say what went wrong, as every command does; the exit code."""
    said, code = sentence(error), 2
    if said is None and type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError"):
        reason = str(error).strip().splitlines()[0][:120].rstrip(".")
        said, code = f"{LOST} ({reason}).", 1
    if said is None:
        traceback.print_exception(error)
        return 1
    print(f"error: {said}", file=sys.stderr)
    return code


def _quiet_runtime() -> list[IO[str]]:
    """Keep both outputs for Python; what compiled code prints goes to a temporary file."""
    sink = tempfile.TemporaryFile()  # noqa: SIM115  # for as long as the process lives
    streams: list[IO[str]] = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        getattr(sys, name).flush()
        stream = os.fdopen(os.dup(number), "w", buffering=1)
        setattr(sys, name, stream)
        os.dup2(sink.fileno(), number)
        streams.append(stream)
    return streams
