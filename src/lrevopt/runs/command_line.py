"""What scripts share: a command line, one sentence for bad input, exit codes.

Exit code 2 stands for bad input, 128 + n for a run that signal n stopped.
"""

import dataclasses
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import tyro

from lrevopt.meta_training import MetaTraining
from lrevopt.meta_training.settings import Preset
from lrevopt.runs.experiment import (
    TUNING_BY_TASK,
    Experiment,
    Images,
    Learned,
    TaskName,
    experiment,
    tested_problems,
)
from lrevopt.tuning.settings import Tuning

Settings = TypeVar("Settings")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a `ValueError` into its sentence on standard error and exit code 2."""
    try:
        yield
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse(settings: type[Settings], default: Settings | None = None) -> Settings:
    """Settings from the command line; exit code 2 and one message for what cannot be used."""
    with plain_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if default is None:
            return tyro.cli(settings)
        return tyro.cli(settings, default=default)


@dataclasses.dataclass(frozen=True)
class ExperimentSettings:
    """What scripts that name an experiment have in common."""

    task: tyro.conf.Positional[TaskName]
    """What the optimizer is trained on."""
    preset: Preset = "quick"
    """Defaults for all else: minutes on two cores, the paper's D.2, or the published settings."""
    optimizer: Learned = Learned()
    training: MetaTraining = MetaTraining()
    seed: int = 0
    """Of the initial weights and of training and selection problems."""
    images: Images = Images()

    def experiment(self) -> Experiment:
        """The experiment to run."""
        return Experiment(self.task, self.optimizer, self.training, self.seed, self.images)


@dataclasses.dataclass(frozen=True)
class TrainingSettings(ExperimentSettings):
    """What scripts that keep a training run have in common."""

    overwrite: bool = False
    """Start again even if the folder holds a run."""
    time_limit: float | None = None
    """Seconds after which training saves and stops."""
    save_every: float = 30.0
    """Seconds between saves of the whole state."""
    memory_limit: float | None = None
    """GiB that a meta-gradient may take (default: 80 % of what is free)."""
    start: Path | None = None
    """Folder of a run whose trained optimizer is trained on, instead of random weights."""

    def running(self) -> dict[str, Any]:
        """How to run it, for `runs.train.train` and `paper.reproduce.reproduce`."""
        names = ("overwrite", "time_limit", "save_every", "memory_limit", "start")
        return {name: getattr(self, name) for name in names}


Named = TypeVar("Named")


def parse_by_task(settings: type[Named]) -> Named:
    """As `parse`, with defaults that depend on the task and preset on the command line.

    `settings` begins with a `task` and has any of the fields `preset`, `optimizer`, `training`,
    `tuning` and `test_problems`. The command line is read twice: once to learn the first two,
    and again with their defaults.
    """
    words = sys.argv[1:]
    asked = [word for word in words if word not in ("-h", "--help")]
    try:
        with plain_errors():
            named: Any = tyro.cli(settings, args=asked, console_outputs=asked == words)
    except SystemExit:
        if asked == words:
            raise
        return parse(settings)
    preset: Preset = getattr(named, "preset", "quick")
    chosen = experiment(named.task, preset)
    known = {
        "preset": preset,
        "optimizer": chosen.optimizer,
        "training": chosen.training,
        "tuning": TUNING_BY_TASK.get(named.task, Tuning()),
        "test_problems": tested_problems(named.task),
    }
    fields = {field.name for field in dataclasses.fields(named)}
    defaults = {name: value for name, value in known.items() if name in fields}
    return parse(settings, type(named)(named.task, **defaults))


def exit_code(outcome: str) -> int:
    """Exit code of a run with this outcome: 0, or 128 + the signal that stopped it."""
    return 128 + signal.Signals[outcome].value if outcome.startswith("SIG") else 0
