"""Meta-train a learned optimizer on one task, and save the run.

python scripts/meta_train.py rosenbrock --output my_run --time-limit 600
python scripts/meta_train.py rosenbrock --output my_run --resume
"""

import dataclasses
import sys
from pathlib import Path

from lrevopt.runs.command_line import TrainingSettings, exit_code, parse_by_task, plain_errors
from lrevopt.runs.train import train


@dataclasses.dataclass(frozen=True)
class Settings(TrainingSettings):
    """Meta-train a learned optimizer on one task, and save the run."""

    output: Path = Path("runs/meta_train")
    """Folder of the run."""
    resume: bool = False
    """Continue the run in the folder; the result is the same as without the interruption."""


def main(settings: Settings) -> int:
    """Train, save, say what came out."""
    run = train(
        settings.experiment(),
        settings.output,
        resume=settings.resume,
        **settings.running(),
    )
    print(run.history.summary())
    if run.history.outcome != "finished":
        print(f"stopped ({run.history.outcome}); continue with the same command and --resume")
    return exit_code(run.history.outcome)


if __name__ == "__main__":
    settings = parse_by_task(Settings)
    with plain_errors():
        sys.exit(main(settings))
