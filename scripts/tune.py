"""Tune momentum, RMSProp and Adam on one task by random search, and save the searches.

python scripts/tune.py rosenbrock --output runs/rosenbrock
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.runs.command_line import parse_by_task, plain_errors
from lrevopt.runs.evaluate import tune_baselines
from lrevopt.runs.experiment import Images, TaskName, make_task
from lrevopt.tuning.settings import Tuning


@dataclasses.dataclass(frozen=True)
class Settings:
    """Tune momentum, RMSProp and Adam on one task by random search, and save the searches."""

    task: tyro.conf.Positional[TaskName]
    """What they are tuned on."""
    tuning: Tuning = Tuning()
    images: Images = Images()
    output: Path = Path("runs/tune")
    """Folder that gets `tuning/<baseline>.npz`; a run's folder, to evaluate against them."""
    seed: int = 0
    """Of the problems and of the settings drawn."""


def main(settings: Settings) -> None:
    """Tune, save, say what came out."""
    task = make_task(settings.task, settings.images)
    tune_baselines(task, settings.tuning, settings.output, seed=settings.seed)


if __name__ == "__main__":
    settings = parse_by_task(Settings)
    with plain_errors():
        main(settings)
