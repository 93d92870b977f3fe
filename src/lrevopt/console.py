"""What scripts share: a command line, one sentence for bad input, exit codes.

Exit code 2 stands for bad input, 128 + n for a run that signal n stopped.
"""

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import tyro

from lrevopt.experiments import TASKS, Experiment, experiment
from lrevopt.meta_training import PRESETS

Settings = TypeVar("Settings")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a `ValueError` into its sentence on standard error and exit code 2."""
    try:
        yield
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse(settings: Callable[..., Settings], default: Settings | None = None) -> Settings:
    """Settings from the command line; exit code 2 and one message for what cannot be used."""
    with plain_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if default is None:
            return tyro.cli(settings)
        return tyro.cli(settings, default=default)


def requested_experiment() -> Experiment | None:
    """The experiment whose task and preset stand on the command line, for use as defaults."""
    task = next((word for word in TASKS if word in sys.argv[1:]), None)
    preset = next((word for word in PRESETS if word in sys.argv[1:]), "quick")
    return None if task is None else experiment(task, preset)


def exit_code(outcome: str) -> int:
    """Exit code of a run with this outcome: 0, or 128 + the signal that stopped it."""
    return 128 + signal.Signals[outcome].value if outcome.startswith("SIG") else 0
