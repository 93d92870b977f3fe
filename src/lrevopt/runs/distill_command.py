"""The command `lrevopt distill`: a learned optimizer as a few numbers."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from lrevopt import specs
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.objective_kinds import Objective
from lrevopt.runs.options import RunSettings


@dataclasses.dataclass(frozen=True)
class Distill(RunSettings):
    """Fit a white box of a few numbers to a run's optimizer, and measure the worth of its parts."""

    output: Path = Path("runs/distillation")
    """Folder that gets records, tables, figures, and the white box as JSON, optax and LaTeX."""
    studies: tuple[str, ...] = ("fit", "path", "parts")
    """Which studies: fit, to the optimizer's updates and losses; path, white boxes of 1, 2, ...
    numbers; elimination, from all numbers of the white box down to 1; parts, the worth of each
    part, for which every subset of parts is trained."""
    white_box: Annotated[str | None, tyro.conf.arg(metavar="OPTIMIZER")] = None
    """White box for fit, elimination and parts: module:factory, or JSON as in distilled.json
    (default: all parts, 15 numbers)."""
    starts: int = 4
    """Random starts of every white box that is trained."""
    candidates: int = 128
    """Random white boxes drawn for each start, of which the best one is taken."""
    seeds: int = 3
    """Training seeds of the study of parts."""
    numbers: int = 8
    """Number of free numbers at which the path ends."""
    training_steps: int = 1000
    """Meta-steps of every white box that is trained."""
    objective: Objective = "log_mean"
    """Meta-objective of their training: mean is what scores are, log_mean is less noisy."""
    problems: int | None = None
    """Number of test problems (default: 256, or 64 on networks)."""
    steps: int = 200
    """Updates of each run."""

    def main(self) -> None:
        """Distil, save, print tables. Work done before an interruption is not repeated."""
        for name in ("starts", "candidates", "seeds", "numbers", "training_steps", "steps"):
            positive_integer(name, getattr(self, name))
        if self.problems is not None:
            positive_integer("problems", self.problems)
        from lrevopt.runs.distill import DistillSettings, distill_run
        from lrevopt.studies.distillation import TRAINING, Distilling

        settings = DistillSettings(
            studies=self.studies,
            distilling=Distilling(steps=self.steps),
            training=dataclasses.replace(
                TRAINING, steps=self.training_steps, unroll=self.steps, objective=self.objective
            ),
            starts=self.starts,
            candidates=self.candidates,
            seeds=self.seeds,
            numbers=self.numbers,
            problems=self.problems,
            seed=self.seed,
        )
        box = None if self.white_box is None else _white_box(self.white_box)
        distill_run(self.open(self.steps), self.output, settings, white_box=box)
        print(f"written to {self.output}")


def _white_box(spec: str) -> Any:
    """A white box from a JSON file or from `module:factory`."""
    if spec.endswith(".json"):
        from lrevopt.optimizers.white_box_documents import load_box

        return load_box(spec)
    made = specs.find_object("white_box", spec)
    return specs.call("white_box", spec, made, {}) if callable(made) else made
