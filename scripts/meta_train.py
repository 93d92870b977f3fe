"""Meta-train a learned optimizer on one task, and save the run.

    python scripts/meta_train.py rosenbrock --output my_run --time-limit 600
    python scripts/meta_train.py rosenbrock --output my_run --resume
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from lrevopt.console import exit_code, parse, plain_errors, requested_experiment
from lrevopt.experiments import Experiment, Learned, TaskName, key_stream
from lrevopt.meta_training import MetaTraining, meta_train
from lrevopt.meta_training.settings import Preset


@dataclasses.dataclass(frozen=True)
class Settings:
    """Meta-train a learned optimizer on one task, and save the run."""

    task: tyro.conf.Positional[TaskName]
    """What it is trained on."""
    preset: Preset = "quick"
    """Defaults for all else: minutes on two cores, the paper's D.2, or the published settings."""
    optimizer: Learned = Learned()
    training: MetaTraining = MetaTraining()
    seed: int = 0
    """Of the initial weights and of training and selection problems."""
    output: Path = Path("runs/meta_train")
    """Folder of the run."""
    resume: bool = False
    """Continue the run in the folder; the result is the same as without the interruption."""
    overwrite: bool = False
    """Start again even if the folder holds a run."""
    time_limit: float | None = None
    """Seconds after which the run saves and stops."""


def main(settings: Settings) -> int:
    """Train, save, say what came out."""
    chosen = Experiment(settings.task, settings.optimizer, settings.training, settings.seed)
    run = meta_train(
        chosen.make_task(),
        chosen.optimizer.build(key_stream("initial_weights", chosen.seed)),
        chosen.training,
        key=key_stream("training", chosen.seed),
        directory=settings.output,
        resume=settings.resume,
        overwrite=settings.overwrite,
        time_limit=settings.time_limit,
    )
    print(run.history.summary())
    if run.history.outcome != "finished":
        print(f"stopped ({run.history.outcome}); continue with the same command and --resume")
    return exit_code(run.history.outcome)


if __name__ == "__main__":
    base = requested_experiment()
    default = base and Settings(base.task, optimizer=base.optimizer, training=base.training)
    settings = parse(Settings, default)
    with plain_errors():
        sys.exit(main(settings))
