"""Signals that stop a command: raised as an exception, reported in one sentence, exit code 128 + n.

Training handles signals itself while it runs: it saves its state and stops.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

GRACE = 10.0
"""Seconds after which a command that has not stopped is ended: a compiled program hears no signal,
and a callback of somebody else's may lose the exception."""


SHORTLY = 0.05
"""Seconds after which an exception that was dropped is raised again."""


class Stopped(KeyboardInterrupt):
    """A signal has asked the command to stop."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal."""
        return 128 + self.number

    def sentence(self, then: str) -> str:
        """What happened, and how to continue."""
        return f"stopped ({signal.Signals(self.number).name}); {then}"


@contextlib.contextmanager
def stoppable(then: Callable[[], str]) -> Iterator[None]:
    """Raise `Stopped` in the block when SIGINT or SIGTERM arrives, or after it if that was lost.

    After `GRACE` seconds the process ends with the sentence and the exit code that `Stopped` has.
    Files are replaced as a whole, so that nothing is lost by that. `then` says how to go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Stopped(number)

    def stop_again(number: int, frame: FrameType | None) -> None:
        if received:
            raise Stopped(received[0])

    def lost(found: Any) -> None:
        """Python drops what is raised within a callback of its garbage collector, say."""
        if not isinstance(found.exc_value, Stopped):
            unraisable(found)
        elif received:
            signal.setitimer(signal.ITIMER_REAL, SHORTLY)

    unraisable, sys.unraisablehook = sys.unraisablehook, lost
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, stop_again)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(reader, stop, then), daemon=True).start()
    try:
        yield
        if received:
            raise Stopped(received[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = unraisable
        signal.set_wakeup_fd(woken)
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_late(reader: int, stop: Callable[..., None], then: Callable[[], str]) -> None:
    """End the process some time after a signal, unless the block has ended by then."""
    while said := os.read(reader, 1):
        number = said[0]
        # Training has handlers of its own, under which a signal is answered.
        if number not in SIGNALS or signal.getsignal(number) is not stop:
            continue
        time.sleep(GRACE)
        if signal.getsignal(number) is stop:
            stopped = Stopped(number)
            print(stopped.sentence(then()), file=sys.stderr, flush=True)
            os._exit(stopped.exit_code)
    os.close(reader)
