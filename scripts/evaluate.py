"""Run a learned optimizer and its tuned baselines on test problems that neither has seen.

python scripts/evaluate.py results/rosenbrock --problems 256
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.runs.command_line import parse, plain_errors
from lrevopt.runs.evaluate import evaluate_run


@dataclasses.dataclass(frozen=True)
class Settings:
    """Run a learned optimizer and its tuned baselines on test problems that neither has seen."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, with its tuned baselines; gets `evaluation.npz` and `comparisons.csv`."""
    problems: int | None = None
    """Test problems (default: 256, or 64 of networks)."""
    steps: int = 200
    """Inner updates."""
    baselines: Path | None = None
    """Folder whose tuned baselines to use, if the run has none of its own."""
    data_dir: Path | None = None
    """Folder with MNIST's files, for a run on MNIST (default: $LREVOPT_DATA, the cache)."""
    seed: int = 0
    """Of the test problems."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        evaluate_run(
            settings.run,
            settings.problems,
            settings.steps,
            seed=settings.seed,
            baselines=settings.baselines,
            data_dir=settings.data_dir,
        )
