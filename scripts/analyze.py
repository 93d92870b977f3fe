"""Take the learned optimizer of a run apart, and save the numbers of its figures.

python scripts/analyze.py results/rosenbrock
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.analysis.mechanisms import mechanism_facts
from lrevopt.runs.analyze import analyze_run
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Take the learned optimizer of a run apart, and save the numbers of its figures."""

    run: tyro.conf.Positional[Path]
    """Folder of a run; gets `mechanisms.npz`."""
    problems: int | None = None
    """Problems whose states and gradients are looked at (default: 64, or 8 of large networks)."""
    steps: int = 200
    """Inner updates."""
    data_dir: Path | None = None
    """Folder with MNIST's files, for a run on MNIST (default: $LREVOPT_DATA, the cache)."""
    seed: int = 0
    """Of these problems."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        record = analyze_run(
            settings.run,
            settings.problems,
            settings.steps,
            seed=settings.seed,
            data_dir=settings.data_dir,
        )
        for name, value in mechanism_facts(record):
            print(f"{name}: {value}")
