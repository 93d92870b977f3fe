"""The folder of a meta-training run, signals that stop it, and its progress bar."""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from tqdm import tqdm

from lrevopt import storage
from lrevopt.inner_loop.devices import idle_cores
from lrevopt.inner_loop.hosts import at_hand, check_same, from_first, is_first
from lrevopt.meta_training.memory import MemoryPlan
from lrevopt.meta_training.outer_step import OuterState
from lrevopt.meta_training.settings import current_names, saved_training
from lrevopt.optimizers import saved
from lrevopt.optimizers.interface import AbstractOptimizer

PUBLISHED = ("checkpoints", storage.WEIGHTS, storage.OLD_WEIGHTS, "snapshots", "history.npz")
"""Contents of a run's folder beside its settings."""

OF_OPTIMIZER = (
    "evaluation.npz", "evaluation.json", "comparisons.csv", "horizons.npz", "horizons.csv",
    "mechanisms.npz", "analysis.json",
    "dynamics.npz", "parameter_types.npz", "manifold.npz", "mode_shifts.npz", "textbook.npz",
    "task_picture.npz",
    "scorecard/scorecard.npz", "scorecard/scorecard.csv", "scorecard/scorecard.png",
    "scorecard/scorecard.svg", "certificates.npz", "interventions.npz", "interventions.csv",
    "gradient_replay.npz", "streams.npz", "figures", "report.html",
)  # fmt: skip
"""What later stages make from the optimizer, as the table of `runs.contents` has it."""

OF_SETTINGS = ("tuning", storage.UNFINISHED, "evaluation")
"""What they make from the settings alone."""

PLAN = "memory_plan"


@contextmanager
def progress_bar(
    steps: int, first: int, shown: bool
) -> Iterator[Callable[[OuterState, np.ndarray], None]]:
    """A progress bar on standard error with the batch objective and the best selection score.

    Of a population, with the mean objective of the members at hand and the best score of all.
    """
    with tqdm(
        total=steps, initial=first, disable=not shown, unit="meta-step", file=sys.stderr,
        mininterval=1.0, smoothing=0.05, dynamic_ncols=True,
    ) as bar:  # fmt: skip

        def report(state: OuterState, scores: np.ndarray) -> None:
            # Wait for the step, so that the rate is right; the next is queued in microseconds.
            jax.block_until_ready(state.skipped)
            if bar.update() and shown:
                objective = float(at_hand(state.objectives)[..., int(bar.n) - 1].mean())
                best = np.nanmin(scores) if np.any(~np.isnan(scores)) else math.nan
                bar.set_postfix_str(f"objective {objective:.4f}, best {best:.4f}", refresh=False)

        yield report


MEMBER = "member_"
"""How the folders of members begin, in the folder of a population."""


def member_name(number: int) -> str:
    """Name of the folder of a member, in the folder of its population."""
    return f"{MEMBER}{number:03d}"


def member_folders(directory: Path) -> list[Path]:
    """Folders of the members of a population, in order."""
    return sorted(path for path in directory.glob(f"{MEMBER}[0-9]*") if path.is_dir())


def _remove_run(directory: Path) -> None:
    """Remove the folder of a run, and keep it if somebody else's files are in it."""
    with storage.claimed(directory):
        for name in (*OF_OPTIMIZER, *OF_SETTINGS, *PUBLISHED, storage.SETTINGS):
            storage.remove(directory / name)
    with contextlib.suppress(OSError):
        directory.rmdir()


class Found(NamedTuple):
    """A saved state to continue from, and its path."""

    arrays: dict[str, np.ndarray]
    path: Path


class RunDirectory:
    """A run's folder: its identity, its last two states, and the results that it publishes.

    Without a path nothing is saved and nothing can be resumed. Where several processes train
    together, the first alone has one.
    """

    def __init__(self, path: Path | str | None, identity: dict[str, Any]):
        self.path = None if path is None or not is_first() else Path(path)
        self.identity = identity
        self.saved: list[Path] = []

    def claimed(self) -> AbstractContextManager[None]:
        """The folder for this process alone, as `storage.claimed`; nothing without one."""
        return nullcontext() if self.path is None else storage.claimed(self.path)

    def check_same(self) -> None:
        """Raise `ValueError` unless all processes are about to train the same."""
        check_same("task, optimizer, settings and key", json.dumps(self.identity, sort_keys=True))

    def plan(
        self,
        make: Callable[[], MemoryPlan],
        *,
        resume: bool,
        overwrite: bool,
        report: bool,
        heading: str = "",
    ) -> dict[str, int]:
        """The memory plan of the run that is resumed, or else a new one, printed with `report`.

        Where there are several processes, it is that of the first. Raises as `check` does.
        """
        planned = {"micro_batch": 0, "checkpoint_every": 0}
        if is_first():
            self.check(resume=resume, overwrite=overwrite)
            recorded = self.recorded_plan() if resume else None
            if recorded is None:
                made = make()
                recorded = {name: getattr(made, name) for name in planned}
                if report:
                    lines = filter(None, (heading, str(made), idle_cores()))
                    print(*lines, sep="\n", file=sys.stderr)
            planned = recorded
        numbers = from_first(np.array([planned[name] for name in sorted(planned)]))
        return dict(zip(sorted(planned), map(int, numbers), strict=True))

    def recorded_plan(self) -> dict[str, int] | None:
        """The memory plan with which the run in the folder was begun, if there is one."""
        if self.path is None or not (self.path / storage.SETTINGS).is_file():
            return None
        plan = storage.load_settings(self.path).get(PLAN)
        return None if plan is None else current_names(plan)

    def open(self, plan: dict[str, int], *, resume: bool, overwrite: bool) -> Found | None:
        """Prepare the folder. With `resume`, the saved state to continue from, if there is one.

        A new run saves its identity and `plan`. Raises as `check` does.
        """
        if not is_first():
            return None
        self.check(resume=resume, overwrite=overwrite)
        if self.path is None:
            return None
        settings = self.path / storage.SETTINGS
        storage.writable_directory(self.path)
        if resume:
            self.saved = sorted(self.checkpoints.glob("step_*"))
            return self._newest() if self.saved else None
        # What is stale goes first: killed from here on, the folder holds less, but nothing false.
        for name in (*OF_OPTIMIZER, *OF_SETTINGS, *PUBLISHED):
            storage.remove(self.path / name)
        for path in member_folders(self.path):
            _remove_run(path)
        record = self.identity | {PLAN: plan, "versions": storage.versions()}
        storage.save_json(settings, record)
        return None

    def _newest(self) -> Found:
        """The newest saved state. Raises `ValueError` where it is damaged."""
        *earlier, newest = self.saved
        try:
            return Found(storage.load_arrays(newest), newest)
        except ValueError as error:
            if not earlier:
                raise
            before = earlier[-1].name
            raise ValueError(
                f"{str(error).rstrip('.')}; remove it to continue from `{before}` before it."
            ) from None

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Raise `ValueError` for a folder that holds something else, or no run to resume."""
        if self.path is None:
            if resume:
                raise ValueError("`resume` needs a `directory` that holds the run to continue.")
            return
        settings = self.path / storage.SETTINGS
        if settings.exists():
            self._check_settings(settings, resume=resume, overwrite=overwrite)
        elif resume:
            raise ValueError(f"`{self.path}` holds no run to resume.")
        elif self.path.is_dir() and {path.name for path in self.path.iterdir()} - {storage.LOCK}:
            raise ValueError(f"`{self.path}` holds files that are no run: choose an empty folder.")

    def _check_settings(self, settings: Path, *, resume: bool, overwrite: bool) -> None:
        if overwrite and not resume:
            return
        found = storage.load_settings(settings)
        if isinstance(found.get("training"), dict):
            found["training"] = saved_training(found["training"])
        different = storage.other_settings(found, self.identity)
        if different:
            raise ValueError(
                f"`{self.path}` holds another run (different: {', '.join(different)}): choose "
                f"another folder, or pass overwrite."
            )
        if not resume:
            raise ValueError(
                f"`{self.path}` holds this run already: pass resume to continue it, or overwrite "
                f"to start again."
            )

    def begun(self) -> bool:
        """Whether there is a saved state to continue from."""
        return self.path is not None and any(self.checkpoints.glob("step_*"))

    @property
    def checkpoints(self) -> Path:
        """Folder of the states to continue from."""
        assert self.path is not None
        return self.path / "checkpoints"

    def save(self, step: int, tree: PyTree) -> None:
        """Save `tree` as the state after `step` meta-steps; the one before it is kept too."""
        if self.path is None:
            return
        path = self.checkpoints / f"step_{step:08d}"
        storage.save_arrays(path, storage.tree_to_arrays(tree))
        self.saved = [*[kept for kept in self.saved if kept != path], path]
        while len(self.saved) > 2:
            storage.remove(self.saved.pop(0))

    def publish(self, optimizer: AbstractOptimizer, snapshots: PyTree, history: Any) -> None:
        """Write what `load` and reports read: the best weights, all snapshots, the history.

        What speaks of other weights is removed first.
        """
        if self.path is None:
            return
        if not saved.holds(self.path, optimizer):
            for name in OF_OPTIMIZER:
                storage.remove(self.path / name)
        storage.save_arrays(self.path / "snapshots", storage.tree_to_arrays(snapshots))
        storage.save_record(self.path / "history.npz", history)
        saved.save_optimizer(self.path, optimizer)


class PopulationDirectory:
    """The folder of a population: its identity and last states, and a run's folder per member."""

    def __init__(
        self,
        path: Path | str | None,
        identity: dict[str, Any],
        members: Sequence[dict[str, Any]],
    ):
        self.whole = RunDirectory(path, identity)
        self.members = [
            RunDirectory(None if path is None else Path(path) / member_name(number), own)
            for number, own in enumerate(members)
        ]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The folder and those of its members for this process alone."""
        with ExitStack() as claims:
            for each in (self.whole, *self.members):
                claims.enter_context(each.claimed())
            yield

    def open(self, plan: dict[str, int], *, resume: bool, overwrite: bool) -> Found | None:
        """As `RunDirectory.open`. Members that a killed process had not opened yet begin now."""
        found = self.whole.open(plan, resume=resume, overwrite=overwrite)
        for each in self.members:
            begun = each.path is not None and (each.path / storage.SETTINGS).is_file()
            each.open(plan, resume=resume and begun, overwrite=overwrite)
        return found
