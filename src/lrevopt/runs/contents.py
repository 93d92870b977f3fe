"""What the folder of a run holds: one table, and `Run`, which reads a folder by it.

Each row is a `Part`: its file, the stage that writes it, what it says, and what it depends on.
Loading, deletion of what has gone stale, reports and documentation follow from these rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from lrevopt import storage
from lrevopt.analysis import Dynamics, Manifold, Mechanisms, ModeShifts, ParameterTypes, Textbook
from lrevopt.analysis.dynamics import dynamics_facts
from lrevopt.analysis.manifolds import manifold_facts
from lrevopt.analysis.mechanisms import mechanism_facts
from lrevopt.analysis.mode_shifts import mode_facts
from lrevopt.analysis.parameter_types import type_facts
from lrevopt.certificates import Certificates
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.meta_training import History
from lrevopt.meta_training.settings import checked_settings
from lrevopt.optimizers import AbstractOptimizer, saved
from lrevopt.runs.readers import read_evaluation, read_settings_of, read_tuning
from lrevopt.studies.gradient_replay import GradientReplay, gradient_replay_facts
from lrevopt.studies.interventions import Interventions
from lrevopt.studies.interventions.costs import intervention_facts
from lrevopt.studies.scorecard import Scorecard, scorecard_facts
from lrevopt.studies.transfer import Sweep, horizon_facts
from lrevopt.tasks import AbstractTask
from lrevopt.tasks.named import (
    check_task_described,
    name_of_kind,
    short_name,
    task_of,
    title_of_name,
)
from lrevopt.tasks.pictures import TaskPicture
from lrevopt.text import Facts
from lrevopt.tuning.random_search import TuningResult

Kept = TypeVar("Kept")
Record = TypeVar("Record")


@dataclasses.dataclass(eq=False)
class Part(Generic[Kept]):
    """A row of the table: something that the folder of a run holds.

    As an attribute of `Run` it is what was read, on first use.
    """

    file: str
    """File or folder within the run's."""
    stage: str
    """Command that writes it."""
    says: str
    """What it is, in words."""
    read: Callable[[Path], Kept]
    """What is in the file. Raises `ValueError`, naming it, if it is damaged."""
    absent: Callable[[], Kept]
    """What stands for it where there is no file."""
    depends: tuple[str, ...] = ()
    """Parts that it was made from. When one of them is replaced, this one has gone stale."""
    beside: tuple[str, ...] = ()
    """Files that are written with it."""
    formerly: tuple[str, ...] = ()
    """Names of the file in older folders."""
    facts: Callable[["Run"], Facts] | None = None
    """The record in words: pairs of a name and a sentence, for a run that has it."""
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        CONTENTS[name] = self

    @overload
    def __get__(self, run: None, owner: type) -> "Part[Kept]": ...
    @overload
    def __get__(self, run: "Run", owner: type) -> Kept: ...
    def __get__(self, run: "Run | None", owner: type) -> Any:
        return self if run is None else run.get(self)

    def find(self, directory: Path) -> Path | None:
        """Its file in the folder of a run, if it is there."""
        paths = (directory / name for name in (self.file, *self.formerly))
        return next((path for path in paths if path.exists()), None)

    def files(self, directory: Path) -> list[Path]:
        """Everything in the folder of a run that belongs to it."""
        paths = (directory / name for name in (self.file, *self.formerly, *self.beside))
        return [path for path in paths if path.exists()]


CONTENTS: dict[str, Part[Any]] = {}
"""The table: everything that the folder of a run holds, by name."""

ALL = ("*",)
"""Depends on every record of the run."""


def register(name: str, part: Part[Kept]) -> Part[Kept]:
    """Add a row for something that a client of the package keeps in the folders of runs."""
    part.name = name
    CONTENTS[name] = part
    return part


def record(
    kind: type[Record], file: str, stage: str, says: str, **more: Any
) -> Part[Record | None]:
    """A row for a record of class `kind`; `None` where the run has none."""
    return Part(
        file, stage, says, functools.partial(storage.load_record, kind), lambda: None, **more
    )


def folder(file: str, stage: str, says: str, **more: Any) -> Part[Path | None]:
    """A row for a folder or a page, of which a run gives the path."""
    return Part(file, stage, says, lambda path: path, lambda: None, **more)


def read_seeds(directory: Path) -> "dict[int, Run]":
    """Runs by training seed."""
    folders = [path for path in directory.iterdir() if path.name.isdigit()]
    front = Run(directory.parent)
    found = {int(path.name): Run(path, tuned_by=front) for path in folders}
    return dict(sorted(found.items()))


def _scorecard_facts(card: Scorecard) -> Facts:
    return [
        (label, f"{said}: {reason}" if reason else said)
        for label, said, reason in scorecard_facts(card)
    ]


def of(name: str, words: Callable[[Any], Facts]) -> Callable[["Run"], Facts]:
    """Facts of one record alone."""
    return lambda run: words(getattr(run, name))


class Run:
    """A run: the records in its folder, each loaded once, on first use.

    `Run(path)` reads a folder; `Run.of(...)` is made of records in memory. An attribute is `None`
    (or empty, for `tuning` and `seeds`) where the run has no such thing.

    Raises `ValueError` for a folder that is no run and, on first use, for a file that is damaged
    or of another kind, naming it.
    """

    settings: Part[dict[str, Any]] = Part(
        storage.SETTINGS, "train", "Task, optimizer, settings of training, seed and versions.",
        lambda path: checked_settings(storage.load_settings(path), path), dict,
    )  # fmt: skip
    history = record(
        History, "history.npz", "train", "Meta-objective, gradient norm and selection scores.",
    )  # fmt: skip
    checkpoints = folder(
        "checkpoints", "train", "The last two states of meta-training, to resume from."
    )
    snapshots = folder(
        "snapshots", "train", "Weights of every snapshot that meta-training took, stacked."
    )
    optimizer: Part[AbstractOptimizer | None] = Part(
        storage.WEIGHTS, "train", "Weights of the optimizer.",
        lambda path: saved.load(path.parent), lambda: None, formerly=(storage.OLD_WEIGHTS,),
    )  # fmt: skip
    tuning: Part[dict[str, TuningResult]] = Part(
        "tuning", "tune", "Random search of each baseline, by its name.",
        read_tuning, dict, depends=("settings",),
    )  # fmt: skip
    unfinished = folder(
        storage.UNFINISHED, "all stages", "Parts of a stage that was interrupted.",
        depends=("settings",), formerly=("evaluation",),
    )  # fmt: skip
    evaluation: Part[Evaluation | None] = Part(
        "evaluation.npz", "evaluate", "Losses of every optimizer on test problems.",
        read_evaluation, lambda: None,
        depends=("optimizer", "tuning"), beside=("evaluation.json", "comparisons.csv"),
    )  # fmt: skip
    horizons = record(
        Sweep, "horizons.npz", "horizons", "Meta-objectives over more updates than training's.",
        depends=("optimizer", "tuning"), facts=of("horizons", horizon_facts),
        beside=("horizons.csv",),
    )  # fmt: skip
    mechanisms = record(
        Mechanisms, "mechanisms.npz", "analyze", "Momentum, clipping, schedule, adaptation.",
        depends=("optimizer",), beside=("analysis.json",), facts=of("mechanisms", mechanism_facts),
    )  # fmt: skip
    dynamics = record(
        Dynamics, "dynamics.npz", "analyze", "Attractors, their order, answers to large gradients.",
        depends=("optimizer",), facts=of("dynamics", dynamics_facts),
    )  # fmt: skip
    parameter_types = record(
        ParameterTypes, "parameter_types.npz", "analyze", "Differences between parameter groups.",
        depends=("optimizer",), facts=of("parameter_types", type_facts),
    )  # fmt: skip
    manifold = record(
        Manifold, "manifold.npz", "analyze", "Approximate fixed points of a slow manifold.",
        depends=("optimizer",), facts=of("manifold", manifold_facts),
    )  # fmt: skip
    mode_shifts = record(
        ModeShifts, "mode_shifts.npz", "analyze", "Update functions along the slowest modes.",
        depends=("optimizer",),
        facts=lambda run: mode_facts(run.mode_shifts, run.mechanisms) if run.mechanisms else [],
    )  # fmt: skip
    textbook = record(
        Textbook, "textbook.npz", "analyze", "Update functions of hand-written optimizers.",
        depends=("optimizer",),
    )  # fmt: skip
    task_picture = record(
        TaskPicture, "task_picture.npz", "analyze", "What the task looks like.",
        depends=("settings", "optimizer"),
    )  # fmt: skip
    scorecard = record(
        Scorecard, "scorecard/scorecard.npz", "scorecard", "The optimizer in one page of numbers.",
        depends=("optimizer",), facts=of("scorecard", _scorecard_facts),
        beside=("scorecard/scorecard.csv", "scorecard/scorecard.png", "scorecard/scorecard.svg"),
    )  # fmt: skip
    certificates = record(
        Certificates, "certificates.npz", "intervene", "Statements proved in interval arithmetic.",
        depends=("optimizer",),
    )  # fmt: skip
    interventions = record(
        Interventions, "interventions.npz", "intervene", "Cost of removing each mechanism.",
        depends=("optimizer",), facts=of("interventions", intervention_facts),
        beside=("interventions.csv",),
    )  # fmt: skip
    gradient_replay = record(
        GradientReplay, "gradient_replay.npz", "intervene",
        "Learning rates of parameter groups when recorded gradients are exchanged and replayed.",
        depends=("optimizer",), facts=of("gradient_replay", gradient_replay_facts),
        formerly=("streams.npz",),
    )  # fmt: skip
    figures = folder("figures", "figures", "Figures, their numbers and captions.", depends=ALL)
    report = folder("report.html", "report", "The report.", depends=ALL)
    seeds: Part["dict[int, Run]"] = Part(
        "seeds", "train", "Runs of the same task from other training seeds, by seed.",
        read_seeds, dict,
    )  # fmt: skip

    def __init__(
        self,
        path: Path | str,
        *,
        task: AbstractTask | None = None,
        data_dir: Path | None = None,
        tuned_by: "Run | None" = None,
    ):
        """Read the folder at `path`.

        - `task`: the run's task, where its settings cannot rebuild it.
        - `data_dir`: folder with the task's data, where it has any.
        - `tuned_by`: a run whose tuned baselines stand in where this one has none.
        """
        self.path: Path | None = Path(path)
        if not (self.path / storage.SETTINGS).is_file():
            raise ValueError(f"`{path}` is not a run directory: it has no {storage.SETTINGS}.")
        self._loaded: dict[str, Any] = {}
        self.data_dir, self._tuned_by = data_dir, tuned_by
        check_task_described(self.settings, self.path, task)
        if task is not None:
            self._loaded["task"] = task
        spec = self.settings.get("task_spec", {}).get("spec")
        kind = name_of_kind(self.settings["task"]["kind"])
        self.task_name: str = kind if spec is None else short_name(spec)

    @classmethod
    def of(cls, task_name: str, **records: Any) -> "Run":
        """A run of records in memory, by the names of the table, or `task`.

        Raises `ValueError` for a name that the table does not have.
        """
        run = cls.__new__(cls)
        run.path, run.task_name = None, task_name
        run.data_dir, run._tuned_by = None, None
        if unknown := [name for name in records if name not in CONTENTS and name != "task"]:
            raise ValueError(f"`records` must be of {', '.join(CONTENTS)}, got {unknown[0]!r}.")
        run._loaded = dict(records)
        return run

    @property
    def folder(self) -> Path:
        """The folder of the run. Raises `ValueError` for a run of records in memory."""
        if self.path is None:
            raise ValueError("`run` must be a run in a folder, got records in memory.")
        return self.path

    @property
    def title(self) -> str:
        """The task as headings and figures call it."""
        own = self.settings.get("title") or self.settings.get("task", {}).get("title")
        return str(own or title_of_name(self.task_name))

    @functools.cached_property
    def task(self) -> AbstractTask:
        """The task, made again as the settings say.

        Raises `ValueError` if that cannot be, or gives another task.
        """
        if "task" in self._loaded:
            return self._loaded["task"]
        if self.path is None:
            raise ValueError("`task` must be given to a run of records in memory.")
        return task_of(self.settings, self.path, self.data_dir)

    def get(self, part: Part[Kept]) -> Kept:
        """A part of this run, read on first use."""
        if part.name not in self._loaded:
            path = None if self.path is None else part.find(self.path)
            found = part.absent()
            if path is not None:
                file = path
                found = storage.read_settled(lambda: part.read(file), file)
            if part.name == "tuning" and not found and self._tuned_by is not None:
                found = self._tuned_by.get(part)
            self._loaded[part.name] = found
        return self._loaded[part.name]

    def record(self, name: str) -> Any:
        """A part by its name in the table. Raises `ValueError` for an unknown one."""
        if name not in CONTENTS:
            raise ValueError(f"`name` must be one of {', '.join(CONTENTS)}, got {name!r}.")
        return self.get(CONTENTS[name])

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A part that a client of the package has registered."""
            if name not in CONTENTS:
                raise AttributeError(f"A run has no {name!r}.")
            return self.get(CONTENTS[name])

    def has(self, *names: str) -> bool:
        """Whether the run has all of these parts."""
        found = [self.record(name) for name in names]
        return all(part is not None and part != {} for part in found)

    def stages(self) -> dict[str, dict[str, Any]]:
        """Settings of the stages that wrote some beside their records, by stage."""
        if self.path is None:
            return {}
        tuning = self.path / Run.tuning.file / storage.SETTINGS
        found = {"tuning": storage.load_json(tuning)} if tuning.is_file() else {}
        for name, part in {"evaluation": "evaluation", "analysis": "mechanisms"}.items():
            file = self.path / f"{name}.json"
            if file.is_file():
                found[name] = read_settings_of(self.path / CONTENTS[part].file, file)
        return found

    def facts(self, *names: str) -> Facts:
        """Facts in words of these parts, of those that the run has; of all by default."""
        chosen = [CONTENTS[name] for name in names] or list(CONTENTS.values())
        pairs: Facts = []
        for part in chosen:
            if part.facts is not None and self.has(part.name):
                pairs += part.facts(self)
        return pairs


def runs_by_task(directories: Mapping[str, Path] | list[Path]) -> dict[str, Run]:
    """Runs of several folders by task. Raises `ValueError` for two runs of one task."""
    found: dict[str, Run] = {}
    for directory in directories:
        run = Run(directory)
        if run.task_name in found:
            raise ValueError(
                f"`{found[run.task_name].path}` and `{directory}` are both runs of {run.task_name}."
            )
        found[run.task_name] = run
    return found
