"""Cells of the factorial: which there are, in what order they are made, how they are trained.

A *training* is a population of seeds that share task, initialisation, width and estimator. Its
snapshots after several numbers of meta-steps are its *cells*.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, cast, get_args

from lrevopt import storage
from lrevopt.checks import one_of, positive_integer
from lrevopt.meta_training import PopulationRun
from lrevopt.meta_training.settings import Estimator, MetaTraining, PopulationEstimator
from lrevopt.paper.experiments import suggested
from lrevopt.paper.tasks import TITLES
from lrevopt.runs.experiment import Experiment
from lrevopt.runs.numbers import check_seed
from lrevopt.runs.train import train_seeds

DEVIATIONS: dict[str, float | None] = {"unit": 1.0, "scaled": None}
"""Deviation of the initial input weights by initialisation; `None` is 1 / sqrt(units)."""

LEFT_OUT = re.compile(r"([1-9]\d*)x([1-9]\d*)")
"""A width and a number of meta-steps, such as 256x5000."""


@dataclasses.dataclass(frozen=True)
class FactorialSettings:
    """Levels of the factors, and how their cells are trained and measured.

    Raises `ValueError` for counts below 1, factors without levels or with equal ones, levels that
    are not known, settings that do not go with an estimator, and cells to leave out that are not
    among the others or are all there are.
    """

    tasks: tuple[str, ...]
    initialisations: tuple[str, ...]
    widths: tuple[int, ...]
    meta_steps: tuple[int, ...]
    estimators: tuple[str, ...]
    leave_out: tuple[str, ...]
    seeds: int
    training: MetaTraining
    problems: int
    test_problems: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("seeds", "problems", "test_problems", "steps"):
            positive_integer(name, getattr(self, name))
        check_seed(self.seed)
        known = {"tasks": tuple(TITLES), "initialisations": tuple(DEVIATIONS),
                 "estimators": get_args(PopulationEstimator)}  # fmt: skip
        for name in ("tasks", "initialisations", "widths", "meta_steps", "estimators"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"`{name}` must be different levels, at least one, got {given!r}.")
            for each in given:
                if name in known:
                    one_of(name, each, known[name])
                else:
                    positive_integer(name, each)
        if len(self.left_out()) == len(self.widths) * len(self.meta_steps):
            raise ValueError("`leave_out` must leave some cells, got all of them.")
        for training in self.trainings():
            training.experiment(self)

    def left_out(self) -> set[tuple[int, int]]:
        """Widths and meta-steps of the cells that are not made."""
        found = set()
        for each in self.leave_out:
            match = LEFT_OUT.fullmatch(each)
            pair = (0, 0) if match is None else (int(match[1]), int(match[2]))
            if pair[0] not in self.widths or pair[1] not in self.meta_steps:
                raise ValueError(
                    f"`leave_out` must be a width and a number of meta-steps that are asked for, "
                    f"such as {self.widths[-1]}x{self.meta_steps[-1]}, got {each!r}."
                )
            found.add(pair)
        return found

    def trainings(self) -> list["CellTraining"]:
        """All trainings, the most informative first.

        First come the first width and estimator, then those one level further on, so that an
        interrupted study has cells of every task and initialisation to compare.
        """
        absent, found = self.left_out(), []
        for e, estimator in enumerate(self.estimators):
            for w, width in enumerate(self.widths):
                taken = tuple(step for step in sorted(self.meta_steps)
                              if (width, step) not in absent)  # fmt: skip
                found += [
                    (e + w, e, CellTraining(task, start, width, estimator, taken))
                    for task in self.tasks for start in self.initialisations if taken
                ]  # fmt: skip
        return [one for _, _, one in sorted(found, key=lambda entry: entry[:2])]


@dataclasses.dataclass(frozen=True)
class CellTraining:
    """A population of seeds: levels of all factors but the last, and where it is looked at."""

    task: str
    initialisation: str
    width: int
    estimator: str
    meta_steps: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task}_{self.initialisation}_{self.width}_{self.estimator}"

    def experiment(self, settings: FactorialSettings) -> Experiment:
        """The training of its first seed: scales of the paper's optimizer, a readout bias."""
        learned = dataclasses.replace(
            suggested(self.task, "released").optimizer,
            units=self.width,
            input_deviation=DEVIATIONS[self.initialisation],
        )
        training = dataclasses.replace(
            settings.training,
            steps=self.meta_steps[-1],
            estimator=cast(Estimator, self.estimator),
            snapshot_every=math.gcd(*self.meta_steps),
            early_snapshots=False,
        )
        return Experiment(self.task, learned, training, seed=settings.seed)


def train_cells(
    training: CellTraining, output: Path, settings: FactorialSettings, **running: Any
) -> PopulationRun:
    """Train the seeds of one training, or go on with them; `running` is for `train_seeds`."""
    folder = output / training.name
    resume = (folder / storage.SETTINGS).is_file()
    return train_seeds(
        training.experiment(settings), folder, settings.seeds, resume=resume, **running
    )
