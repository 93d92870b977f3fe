"""The command `lrevopt distill`: a learned optimizer as a few numbers."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lrevopt import specs
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.objective_kinds import Objective
from lrevopt.meta_training.settings import Estimator
from lrevopt.runs.options import RunSettings

if TYPE_CHECKING:
    from lrevopt.runs.distill import DistillSettings
    from lrevopt.tasks import AbstractTask

COUNTS = (
    "starts", "candidates", "screening_problems", "tried", "trained_starts", "seeds", "numbers",
    "training_steps", "training_problems", "selection_problems", "fit_starts", "fit_problems",
    "problems", "steps",
)  # fmt: skip
"""Options that are counts."""


@dataclasses.dataclass(frozen=True)
class Distill(RunSettings):
    """Fit a white box of a few numbers to a run's optimizer, and measure the worth of its parts.

    The gain that is shared is that over the run's tuned baselines, which
    `lrevopt tune TASK --output RUN` makes.
    """

    output: Path = Path("runs/distillation")
    """Folder that gets records, tables, figures, and the white box as JSON, optax and LaTeX."""
    studies: tuple[str, ...] = ("fit", "path", "parts")
    """Which studies: fit, to the optimizer's updates and losses; path, white boxes of 1, 2, ...
    numbers; elimination, from all numbers of the white box down to 1; parts, the worth of each
    part, for which every subset of parts is trained."""
    white_box: Annotated[str | None, tyro.conf.arg(metavar="OPTIMIZER")] = None
    """White box for fit, elimination and parts: module:factory, or JSON as in distilled.json.
    Elimination and parts start from its numbers as well (default: all parts, 15 numbers)."""
    starts: int | None = None
    """Random starts of every white box that is trained (default: 4, or 1 on networks)."""
    candidates: int | None = None
    """Random white boxes drawn for each start, of which the best one is taken (default: 128, or 6
    on networks)."""
    screening_problems: int | None = None
    """Problems on which these are scored (default: 64, or 2 on networks)."""
    tried: int | None = None
    """Moves or removals of a round of a path that are trained (default: 3, or 2 on networks)."""
    trained_starts: int | None = None
    """Starts of each subset of parts that are trained, those that score best on the screening
    problems (default: all, or 2 on networks)."""
    seeds: int | None = None
    """Training seeds of the study of parts (default: 3, or 1 on networks)."""
    numbers: int = 8
    """Number of free numbers at which the path ends."""
    training_steps: int | None = None
    """Meta-steps of every white box that is trained (default: 1000, or 20 on networks)."""
    training_problems: int | None = None
    """Problems of each meta-step (default: 64, or 2 on networks)."""
    selection_problems: int | None = None
    """Problems on which trained white boxes are compared (default: 256, or 8 on networks)."""
    estimator: Estimator | None = None
    """Meta-gradient: exact, clipped, first_order, es or pes, or cma for none, as in `lrevopt train`
    (default: exact, or clipped on networks)."""
    objective: Objective = "log_mean"
    """Meta-objective of their training: mean is what scores are, log_mean is less noisy."""
    fit_starts: int | None = None
    """Random starts of the fit (default: 10, or 2 on networks)."""
    fit_problems: int | None = None
    """Problems of the fit, and as many others for selection (default: 64, or 2 on networks)."""
    problems: int | None = None
    """Number of test problems (default: 256, or 64 on networks)."""
    steps: int = 200
    """Updates of each run."""

    def main(self) -> None:
        """Distil, save, print tables. Work done before an interruption is not repeated."""
        for name in COUNTS:
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))
        from lrevopt.runs.distill import distill_run

        box = None if self.white_box is None else _white_box(self.white_box)
        run = self.open(self.steps)
        distill_run(run, self.output, self._settings(run.task), white_box=box)
        print(f"written to {self.output}")

    def _settings(self, task: "AbstractTask") -> "DistillSettings":
        """Those of the task, with what is given here."""
        from lrevopt.runs.distill import DistillSettings

        usual = DistillSettings.for_task(task)
        training = dataclasses.replace(
            usual.boxes.training, unroll=self.steps, objective=self.objective, **self._given(
                steps="training_steps", problems="training_problems", estimator="estimator",
                selection_problems="selection_problems"),
        )  # fmt: skip
        names = ("starts", "candidates", "screening_problems", "tried", "trained_starts")
        boxes = dataclasses.replace(
            usual.boxes, training=training, **self._given(**{name: name for name in names})
        )
        distilling = dataclasses.replace(
            usual.distilling, steps=self.steps,
            **self._given(starts="fit_starts", problems="fit_problems", test_problems="problems"),
        )  # fmt: skip
        return dataclasses.replace(
            usual, studies=self.studies, distilling=distilling, boxes=boxes, numbers=self.numbers,
            problems=self.problems, seed=self.seed, **self._given(seeds="seeds"),
        )  # fmt: skip

    def _given(self, **names: str) -> dict[str, Any]:
        """Options that are given, under the names of the settings."""
        found = {name: getattr(self, option) for name, option in names.items()}
        return {name: value for name, value in found.items() if value is not None}


def _white_box(spec: str) -> Any:
    """A white box from a JSON file or from `module:factory`."""
    from lrevopt.optimizers.white_box_documents import load_box

    if specs.is_box(spec):
        return load_box(spec)
    if ":" not in spec:
        raise ValueError(
            f"`white_box` must be the JSON file of a white box, whose name ends in .json, or "
            f"module:factory, got {spec!r}."
        )
    made = specs.find_object("white_box", spec)
    return specs.call("white_box", spec, made, {}) if callable(made) else made
