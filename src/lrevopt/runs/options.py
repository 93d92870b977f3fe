"""Options that several commands have in common."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lrevopt import specs
from lrevopt.meta_training.settings import MetaTraining, Preset
from lrevopt.runs.experiment import Experiment, Learned, Named

if TYPE_CHECKING:
    from lrevopt.runs.contents import Run
    from lrevopt.tasks import AbstractTask

Task = Annotated[str, tyro.conf.arg(metavar="TASK")]
"""A task by name, or as `module:factory`."""

Spec = Annotated[str | None, tyro.conf.arg(name="optimizer", metavar="OPTIMIZER")]
"""An optimizer by name, besides the settings of one that is called `optimizer`."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of the task mnist; other tasks do not use these options."""

    source: str = "mnist"
    """mnist, the real images, or digits, scikit-learn's small ones, which need no files."""
    data_dir: Path | None = None
    """Folder with MNIST's four files (default: $LREVOPT_DATA, the user's cache, a download)."""
    side: int = 28
    """Height and width in pixels: 28, 14 or 7; smaller images have a smaller network."""

    def kwargs(self) -> dict[str, Any]:
        """Arguments of the task: those that are not the defaults."""
        plain = Images()
        names = ("source", "side")
        chosen = {name: getattr(self, name) for name in names}
        return {name: value for name, value in chosen.items() if value != getattr(plain, name)}


@dataclasses.dataclass(frozen=True)
class ExperimentSettings:
    """What commands that name an experiment have in common."""

    task: tyro.conf.Positional[Task]
    """The task on which the optimizer runs: linear_regression, rosenbrock, two_moons, mnist, or
    module:factory for a task of your own."""
    preset: Preset = "quick"
    """Defaults of all other settings: quick takes minutes on two cores, paper is the paper's D.2,
    released the configuration that its authors published, notebook that of their notebook. On a
    task of your own, quick without any option of `optimizer` and `training` chooses scales and
    settings by short trainings."""
    optimizer: Learned = Learned()
    named: Spec = None
    """Another optimizer than a GRU: module:factory, optax:name, the folder of a run, the name of a
    shipped one, or the JSON file of a white box."""
    kwargs: tuple[str, ...] = ()
    """Arguments with which that optimizer is made, as name=value."""
    task_kwargs: tuple[str, ...] = ()
    """Arguments with which the task is made, as name=value."""
    training: MetaTraining = MetaTraining()
    seed: int = 0
    """Seed of the initial weights and of training and selection problems."""
    images: Images = Images()

    def experiment(self) -> Experiment:
        """The experiment to run. Raises `ValueError` for arguments that are not name=value."""
        return Experiment(
            self.task,
            named(self.named, self.kwargs) or self.optimizer,
            self.training,
            self.seed,
            task_arguments(self.task_kwargs, self.images),
            self.images.data_dir,
        )


@dataclasses.dataclass(frozen=True)
class TrainingSettings(ExperimentSettings):
    """What commands that keep a training run have in common."""

    overwrite: bool = False
    """Start again, and replace the run in the folder."""
    time_limit: float | None = None
    """Seconds after which training saves and stops. On a task of your own, settings are chosen for
    a training of this length (default there: 120)."""
    save_every: float = 30.0
    """Seconds between saves of the whole state."""
    memory_limit: float | None = None
    """GiB that a meta-gradient may take (default: 80 % of what is free)."""
    start: Path | None = None
    """Folder of a run: training continues from its trained optimizer instead of random weights."""

    def running(self) -> dict[str, Any]:
        """How to run it, for `runs.train.train`."""
        names = ("overwrite", "time_limit", "save_every", "memory_limit", "start")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What commands on the folder of a run have in common."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    task: Task | None = None
    """Task of the run as module:factory, if the run's settings do not say how to make it."""
    task_kwargs: tuple[str, ...] = ()
    """Arguments with which the task is made, as name=value."""
    optimizer: Annotated[str | None, tyro.conf.arg(metavar="OPTIMIZER")] = None
    """Make the folder a run of this optimizer as it is, on `task`: optax:name, module:factory, the
    folder of another run, a shipped name, or the JSON file of a white box."""
    kwargs: tuple[str, ...] = ()
    """Arguments with which that optimizer is made, as name=value."""
    data_dir: Path | None = None
    """Folder with MNIST's files, for a run on MNIST (default: $LREVOPT_DATA, the cache)."""
    seed: int = 0
    """Seed of the problems."""

    def open(self, steps: int = 200) -> "Run":
        """The run, set up first if an optimizer is named. Raises `ValueError` for no run."""
        from lrevopt.runs.contents import Run
        from lrevopt.runs.train import adopt
        from lrevopt.tasks.named import make_task

        chosen = named(self.optimizer, self.kwargs)
        arguments = specs.parse_kwargs("task_kwargs", self.task_kwargs)
        check_task_named(self.task, self.task_kwargs)
        if chosen is not None:
            if self.task is None:
                raise ValueError("`task` must name the task on which the optimizer runs, got none.")
            experiment = Experiment(
                self.task, chosen, seed=self.seed, task_kwargs=arguments, data_dir=self.data_dir
            )
            adopt(experiment, self.run, steps=steps)
            return Run(self.run, data_dir=self.data_dir)
        task = None if self.task is None else make_task(self.task, arguments, self.data_dir)
        return Run(self.run, task=task, data_dir=self.data_dir)


def named(spec: str | None, kwargs: tuple[str, ...]) -> Named | None:
    """The optimizer that is named on the command line, if one is."""
    if spec is None:
        if kwargs:
            raise ValueError("`kwargs` must be left out without `optimizer`.")
        return None
    return Named(spec, specs.parse_kwargs("kwargs", kwargs))


def check_task_named(task: str | None, words: tuple[str, ...]) -> None:
    """Raise `ValueError` for arguments of a task that is not named: a run's has its own."""
    if task is None and words:
        raise ValueError("`task_kwargs` must be left out without `task`.")


def task_arguments(words: tuple[str, ...], images: Images = Images()) -> dict[str, Any]:
    """Arguments of a task on the command line."""
    return images.kwargs() | specs.parse_kwargs("task_kwargs", words)


def task_for(
    spec: str | None, words: tuple[str, ...], data_dir: Path | None, source: str | None = None
) -> "AbstractTask":
    """The task that is named, or else that of the run `source`, which may be a shipped one.

    Raises `ValueError` if there is none, and for arguments of a task that is not named.
    """
    from lrevopt.optimizers import saved
    from lrevopt.tasks.named import make_task, task_of

    check_task_named(spec, words)
    if spec is not None:
        return make_task(spec, specs.parse_kwargs("task_kwargs", words), data_dir)
    if source is None or ":" in source:
        raise ValueError("`task` must name the task on which the optimizer runs, got none.")
    return task_of(saved.load_settings(source), Path(source), data_dir)
