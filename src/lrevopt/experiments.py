"""The paper's experiments by name: a task, a learned optimizer, how it is trained, its keys."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import jax.random as jr
from jaxtyping import Array, Key

from lrevopt.checks import finite, one_of, positive_integer
from lrevopt.meta_training import PRESETS, MetaTraining
from lrevopt.meta_training.settings import Preset
from lrevopt.optimizers import AbstractOptimizer, Adam, Momentum, RecurrentOptimizer, RMSProp
from lrevopt.storage import CELLS, SETTINGS, describe, load_json
from lrevopt.tasks import AbstractTask, LinearRegression, Rosenbrock

TaskName = Literal["linear_regression", "rosenbrock"]
Stream = Literal["initial_weights", "training", "tuning", "test", "analysis"]

TASKS: dict[TaskName, Callable[[], AbstractTask]] = {
    "linear_regression": LinearRegression,
    "rosenbrock": Rosenbrock,
}
"""The paper's tasks with their settings (section 3.2)."""


BASELINES: dict[str, Callable[..., AbstractOptimizer]] = {
    "momentum": Momentum,
    "rmsprop": RMSProp,
    "adam": Adam,
}
"""The hand-written optimizers that learned ones are compared with (section 3.2 and D.3)."""

LEARNED = "learned"
"""Name of the learned optimizer beside them."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """A recurrent optimizer before training. Raises `ValueError` for settings out of range."""

    units: int = 64
    """Width of the state."""
    input_scale: float = 1.0
    """Factor on each gradient before the cell sees it."""
    output_scale: float = 1.0
    """Factor on each step."""
    cell: Literal["gru", "equinox_gru"] = "gru"
    """The paper's GRU (Cho et al. 2014), or Equinox's, which resets after the recurrent product."""

    def __post_init__(self) -> None:
        positive_integer("units", self.units)
        finite("input_scale", self.input_scale, above=0.0)
        finite("output_scale", self.output_scale, above=0.0)
        one_of("cell", self.cell, tuple(CELLS))

    def build(self, key: Key[Array, ""]) -> RecurrentOptimizer:
        """The optimizer with weights drawn from `key`."""
        return RecurrentOptimizer(
            CELLS[self.cell](self.units, key),
            self.units,
            input_scale=self.input_scale,
            output_scale=self.output_scale,
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One learned optimizer on one task."""

    task: TaskName
    optimizer: Learned = Learned()
    training: MetaTraining = MetaTraining()
    seed: int = 0
    """Of the initial weights and of training and selection problems."""

    def make_task(self) -> AbstractTask:
        """The task of this name."""
        return TASKS[self.task]()


def experiment(task: TaskName, preset: Preset = "quick", seed: int = 0) -> Experiment:
    """Settings that work, per task and preset.

    Rosenbrock gradients reach 4,000 at the paper's starts, where a GRU saturates: its inputs are
    scaled by 0.01 and its steps by 0.1 (the authors tuned both scales per task). With two
    parameters a problem it affords 128 units, which linear regression does not need.

    Raises `ValueError` for an unknown name.
    """
    one_of("task", task, get_args(TaskName))
    one_of("preset", preset, tuple(PRESETS))
    learned = Learned(128, 0.01, 0.1) if task == "rosenbrock" else Learned(64)
    if preset == "released":
        learned = dataclasses.replace(learned, units=256)
    return Experiment(task, learned, PRESETS[preset], seed)


def load_task(directory: Path | str) -> tuple[TaskName, AbstractTask]:
    """Name and task of a run directory, from its settings.

    Raises `ValueError` for a directory without settings, or with a task of your own.
    """
    path = Path(directory) / SETTINGS
    if not path.is_file():
        raise ValueError(f"`{directory}` is not a run directory: it has no {SETTINGS}.")
    found = load_json(path).get("task")
    for name, make in TASKS.items():
        if found == describe(make()):
            return name, make()
    raise ValueError(f"`{path}` names no task of {', '.join(TASKS)} with the paper's settings.")


def key_stream(name: Stream, seed: int) -> Key[Array, ""]:
    """Key of one purpose. Streams of different names are disjoint, whatever their seeds."""
    index = get_args(Stream).index(one_of("name", name, get_args(Stream)))
    return jr.fold_in(jr.key(seed), index)
