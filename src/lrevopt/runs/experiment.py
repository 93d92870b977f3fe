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
from lrevopt.optimizers.saved import CELLS
from lrevopt.storage import SETTINGS, describe, load_json
from lrevopt.tasks import MNIST, AbstractTask, LinearRegression, Rosenbrock, TwoMoons
from lrevopt.tasks.datasets import Source
from lrevopt.tuning.settings import LARGE_NETWORK_TUNING, NETWORK_TUNING, Tuning

TaskName = Literal["linear_regression", "rosenbrock", "two_moons", "mnist"]
Stream = Literal["initial_weights", "training", "tuning", "test", "analysis"]


@dataclasses.dataclass(frozen=True)
class Images:
    """What MNIST is made of; other tasks have no use for it."""

    source: Source = "mnist"
    """The real images, or scikit-learn's small ones, which need no files."""
    data_dir: Path | None = None
    """Folder with MNIST's four files (default: $LREVOPT_DATA, the user's cache, a download)."""
    side: int = 28
    """Height and width: 28, or a divisor of it for a smaller network to train on first."""

    def task(self) -> MNIST:
        """The task on these images."""
        return MNIST(self.source, self.data_dir, side=self.side)


KINDS: dict[TaskName, type[AbstractTask]] = {
    "linear_regression": LinearRegression,
    "rosenbrock": Rosenbrock,
    "two_moons": TwoMoons,
    "mnist": MNIST,
}
"""The paper's tasks (section 3.2)."""


def make_task(name: TaskName, images: Images = Images()) -> AbstractTask:
    """A task with the paper's settings. Raises `ValueError` if its data cannot be found."""
    return images.task() if name == "mnist" else KINDS[name]()


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
    images: Images = Images()

    def make_task(self) -> AbstractTask:
        """The task of this name."""
        return make_task(self.task, self.images)


LEARNED_BY_TASK: dict[TaskName, Learned] = {
    # Gradients reach 4,000 at the paper's starts, where a GRU saturates. With two parameters a
    # problem it affords 128 units, which linear regression does not need.
    "rosenbrock": Learned(128, 0.01, 0.1),
    # Gradients of a parameter among thousands are small: MNIST's dense weights meet 1e-3 at first
    # and 1e-5 after 100 updates, and a GRU acts alike on large and small ones only where it
    # saturates. Those of two moons' regulariser are smaller still.
    "two_moons": Learned(32, 1000.0, 0.1),
    "mnist": Learned(16, 1000.0, 0.03),
}
"""Width and scales where the defaults do not suit (the authors tuned both scales per task)."""

NETWORK_TRAINING = dataclasses.replace(
    PRESETS["quick"],
    steps=250,
    unroll=60,
    problems=1,
    estimator="clipped",
    objective="log_mean",
    learning_rate=1e-3,
    warm_up=20,
    schedule="constant",
    clip=1.0,
    snapshot_every=25,
    early_snapshots=False,
    selection_problems=16,
    selection_unroll=200,
)
"""Settings that train networks' optimizers on two cores. The exact meta-gradient has no use
there: its norm grows to 1e5 and beyond as soon as the optimizer works. Short unrolls teach most of
what 200 updates need, and the snapshot is chosen on these."""


TUNING_BY_TASK: dict[TaskName, Tuning] = {
    "two_moons": NETWORK_TUNING,
    "mnist": LARGE_NETWORK_TUNING,
}
"""How baselines are tuned where runs are too expensive for the default, all settings in full."""


def tested_problems(task: TaskName) -> int:
    """How many problems optimizers are tested on, unless asked for otherwise."""
    return 64 if task in TUNING_BY_TASK else 256


def experiment(task: TaskName, preset: Preset = "quick", seed: int = 0) -> Experiment:
    """Settings that work, per task and preset.

    Raises `ValueError` for an unknown name.
    """
    one_of("task", task, get_args(TaskName))
    one_of("preset", preset, tuple(PRESETS))
    learned, training = LEARNED_BY_TASK.get(task, Learned(64)), PRESETS[preset]
    if preset == "quick" and task in ("two_moons", "mnist"):
        training = NETWORK_TRAINING
    if preset == "released":
        learned = dataclasses.replace(learned, units=256)
    return Experiment(task, learned, training, seed)


def task_name(directory: Path | str) -> TaskName:
    """Name of the task of a run directory, from its settings; its data need not be there.

    Raises `ValueError` for a directory without settings, or with a task of your own.
    """
    path = Path(directory) / SETTINGS
    if not path.is_file():
        raise ValueError(f"`{directory}` is not a run directory: it has no {SETTINGS}.")
    found = load_json(path).get("task")
    kind = found.get("kind") if isinstance(found, dict) else None
    for name, known in KINDS.items():
        if kind == known.__name__:
            return name
    raise ValueError(f"`{path}` names no task of {', '.join(KINDS)}.")


def load_task(directory: Path | str, data_dir: Path | None = None) -> tuple[TaskName, AbstractTask]:
    """Name and task of a run directory, from its settings.

    Raises `ValueError` as `task_name` does, for settings that are not the paper's, and for data
    that cannot be found.
    """
    name, path = task_name(directory), Path(directory) / SETTINGS
    found = load_json(path)["task"]
    images = Images(found.get("source", "mnist"), data_dir, found.get("side", 28))
    task = make_task(name, images)
    if describe(task) != found:
        raise ValueError(f"`{path}` names no task of {', '.join(KINDS)} with the paper's settings.")
    return name, task


def key_stream(name: Stream, seed: int) -> Key[Array, ""]:
    """Key of one purpose. Streams of different names are disjoint, whatever their seeds."""
    index = get_args(Stream).index(one_of("name", name, get_args(Stream)))
    return jr.fold_in(jr.key(seed), index)
