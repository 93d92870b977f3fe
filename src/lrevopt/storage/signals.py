"""Signals that wait until a piece of work is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """A list to which SIGINT and SIGTERM append their names instead of ending the process."""
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: object) -> None:
        received.append(signal.Signals(number).name)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let SIGINT and SIGTERM arrive after the block.

    For Orbax, which runs coroutines: what a signal raises between the making of one and its first
    step leaves it behind, and Python warns of it later on.
    """
    received: list[str] = []
    try:
        with stop_requests() as received:
            yield
    finally:
        for name in received[:1]:
            signal.raise_signal(signal.Signals[name])


def pass_on(outcome: str) -> None:
    """Let a signal that stopped a training reach the caller of what needs the whole of it.

    A training saves and returns what it has when a signal arrives. `outcome` is the name of the
    signal, or what does nothing here, such as "finished". Raises what the caller's handler of the
    signal raises, else `KeyboardInterrupt`.
    """
    if outcome in signal.Signals.__members__:
        signal.raise_signal(signal.Signals[outcome])
        raise KeyboardInterrupt
