"""Everything for one task: train, tune, evaluate, analyse, draw, and write the report.

    python scripts/reproduce.py linear_regression

A run that was stopped continues where it was when the same command is given again.
"""

import dataclasses
import sys
from pathlib import Path

from lrevopt.paper.reproduce import reproduce
from lrevopt.runs.command_line import TrainingSettings, exit_code, parse_by_task, plain_errors
from lrevopt.tuning.settings import Tuning


@dataclasses.dataclass(frozen=True)
class Settings(TrainingSettings):
    """Everything for one task: train, tune, evaluate, analyse, draw, and write the report."""

    tuning: Tuning = Tuning()
    test_problems: int = 256
    """Problems of the evaluation, which neither training nor tuning has seen."""
    output: Path | None = None
    """Folder of the run (default: runs/<task>)."""


def main(settings: Settings) -> int:
    """Run all stages into one folder."""
    outcome = reproduce(
        settings.experiment(),
        settings.output or Path("runs", settings.task),
        tuning=settings.tuning,
        test_problems=settings.test_problems,
        **settings.running(),
    )
    return exit_code(outcome)


if __name__ == "__main__":
    settings = parse_by_task(Settings)
    with plain_errors():
        sys.exit(main(settings))
