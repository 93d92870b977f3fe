"""An experiment: a task, an optimizer, how it is trained, its keys. All of it by name.

Nothing here imports JAX before it computes, so that a command line can be read at once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lrevopt import specs
from lrevopt.checks import finite, one_of, plain_fields, positive_integer
from lrevopt.meta_training.settings import PRESETS, WITH_BIAS, MetaTraining, Preset
from lrevopt.runs.numbers import check_seed
from lrevopt.tuning.settings import Tuning

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from lrevopt.optimizers import AbstractOptimizer
    from lrevopt.tasks import AbstractTask

Stream = Literal["initial_weights", "training", "tuning", "test", "analysis", "suggestion"]

LEARNED = "learned"
"""Name of the optimizer of a run beside the baselines that it is compared with."""


BYTES_OF_A_PAIR = 48.0
"""Memory for each pair of units while weights are drawn: three gates, and copies of them."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """A recurrent optimizer before training.

    Raises `ValueError` for settings out of range.
    """

    units: int = 64
    """Number of units, which are the coordinates of the state."""
    input_scale: float = 1.0
    """Factor on each gradient before the cell sees it."""
    output_scale: float = 1.0
    """Factor on each step."""
    cell: Literal["gru", "equinox_gru"] = "gru"
    """The paper's GRU (Cho et al. 2014), or Equinox's, which resets after the recurrent product."""
    bias: bool = False
    """Whether the readout has a bias, as in the authors' code but not in the paper's equations."""
    input_deviation: float | None = None
    """Cell gru: standard deviation of the initial input weights (default: 1 / sqrt(units), as the
    authors draw them)."""

    def __post_init__(self) -> None:
        plain_fields(self)
        positive_integer("units", self.units)
        finite("input_scale", self.input_scale, above=0.0)
        finite("output_scale", self.output_scale, above=0.0)
        one_of("cell", self.cell, ("gru", "equinox_gru"))
        if self.input_deviation is not None:
            finite("input_deviation", self.input_deviation, above=0.0)
            if self.cell != "gru":
                raise ValueError(
                    f"`input_deviation` must be left out for cell {self.cell}, which draws its own "
                    f"weights, got {self.input_deviation}."
                )

    def drawn(self) -> dict[str, Any]:
        """How weights are drawn, as JSON, with the deviation that input weights have by default."""
        found = dataclasses.asdict(self)
        if self.cell == "gru" and self.input_deviation is None:
            found["input_deviation"] = self.units**-0.5
        return found

    def build(self, key: "Key[Array, '']") -> "AbstractOptimizer":
        """The optimizer with weights drawn from `key`.

        Raises `ValueError` for more units than there is memory for.
        """
        from lrevopt.inner_loop.sizes import check_fits
        from lrevopt.optimizers import GRUCell, RecurrentOptimizer
        from lrevopt.optimizers.saved import CELLS

        check_fits(f"`units` {self.units}", BYTES_OF_A_PAIR * self.units**2)
        return RecurrentOptimizer(
            CELLS[self.cell](self.units, key)
            if self.input_deviation is None
            else GRUCell(self.units, key=key, input_deviation=self.input_deviation),
            self.units,
            input_scale=self.input_scale,
            output_scale=self.output_scale,
            bias=self.bias,
        )


@dataclasses.dataclass(frozen=True)
class Named:
    """An optimizer by name: a run's folder, a shipped name, `optax:name`, `module:factory`, or the
    JSON file of a white box.
    """

    spec: str
    """The name."""
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the function that the name stands for."""

    @property
    def stored(self) -> bool:
        """Whether it is read from the folder of a run, or a shipped one."""
        if specs.is_box(self.spec):
            return False
        return ":" not in self.spec or Path(self.spec).exists()

    @property
    def trainable(self) -> bool:
        """Whether a run trains it unless told otherwise: `module:factory` makes it, or a file."""
        return not self.stored and not self.spec.startswith("optax:")

    def build(self, key: "Key[Array, '']") -> "AbstractOptimizer":
        """The optimizer. `key` is as in `make_optimizer`.

        Raises `ValueError` for a name that stands for no optimizer, or arguments that do not fit.
        """
        from lrevopt.optimizers import named, saved

        if not self.stored:
            return named.make_optimizer(self.spec, self.kwargs, key=key)
        if self.kwargs:
            raise ValueError(f"`kwargs` must be left out for `{self.spec}`, which is not made.")
        return saved.load(self.spec)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One optimizer on one task. Raises `ValueError` for an optimizer that is not a known kind."""

    task: str
    """A name among `TASKS`, or `module:factory`."""
    optimizer: Learned | Named = Learned()
    training: MetaTraining = MetaTraining()
    seed: int = 0
    """Seed of the initial weights and of training and selection problems."""
    task_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments with which the task is made."""
    data_dir: Path | None = None
    """Folder with the task's data, where it has any."""

    def make_task(self) -> "AbstractTask":
        """The task. Raises `ValueError` as `tasks.named.make_task` does."""
        from lrevopt.tasks.named import make_task

        return make_task(self.task, self.task_kwargs, self.data_dir)

    def spec(self) -> dict[str, Any]:
        """What a run's settings keep, so that its task and optimizer can be made again."""
        found: dict[str, Any] = {
            "task_spec": {"spec": self.task, "kwargs": dict(self.task_kwargs)},
            "seed": self.seed,
        }
        if isinstance(self.optimizer, Named) and not self.optimizer.stored:
            own = {"spec": self.optimizer.spec, "kwargs": dict(self.optimizer.kwargs)}
            found["optimizer_spec"] = own
        return found


@dataclasses.dataclass(frozen=True)
class TaskDefaults:
    """Defaults of the options of a task that settle how it is trained and tuned on."""

    optimizer: Learned = Learned()
    training: MetaTraining = MetaTraining()
    tuning: Tuning = Tuning()


TASK_DEFAULTS: dict[str, Callable[[Preset], TaskDefaults]] = {}
"""Settings by name of the task, where somebody knows better than the defaults."""


def task_defaults(task: str, preset: Preset = "quick") -> TaskDefaults:
    """Settings for a task by name and preset. Raises `ValueError` for an unknown preset."""
    one_of("preset", preset, tuple(PRESETS))
    if task in TASK_DEFAULTS:
        return TASK_DEFAULTS[task](preset)
    return TaskDefaults(Learned(bias=preset in WITH_BIAS), PRESETS[preset])


def key_stream(name: Stream, seed: int) -> "Key[Array, '']":
    """Key of one purpose. Streams of different names are disjoint, whatever their seeds."""
    import jax.random as jr

    check_seed(seed)
    index = get_args(Stream).index(one_of("name", name, get_args(Stream)))
    return jr.fold_in(jr.key(seed), index)
