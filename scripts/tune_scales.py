"""Search the two scales of a trained optimizer, which training does not change.

python scripts/tune_scales.py runs/mnist --output runs/mnist_scaled --output-factors 0.5 0.7 1
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.runs.command_line import parse, plain_errors
from lrevopt.runs.tune_scales import rescale_run


@dataclasses.dataclass(frozen=True)
class Settings:
    """Search the two scales of a trained optimizer, which training does not change."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    output: Path
    """New folder, for a run with the best scales."""
    input_factors: tuple[float, ...] = (1.0,)
    """Factors on the input scale that are tried, with each of those on the output scale."""
    output_factors: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4)
    """Factors on the output scale."""
    problems: int = 8
    """Selection problems that every pair runs on."""
    steps: int = 200
    """Updates in each run."""
    seed: int = 0
    """Of the problems, from the stream of training; take one that training has not used."""
    side: int | None = None
    """Side of MNIST's images, if it is not that of the run: where training is to go on."""
    data_dir: Path | None = None
    """Folder with MNIST's files (default: $LREVOPT_DATA, the user's cache, a download)."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        rescale_run(
            settings.run,
            settings.output,
            input_factors=settings.input_factors,
            output_factors=settings.output_factors,
            problems=settings.problems,
            steps=settings.steps,
            seed=settings.seed,
            data_dir=settings.data_dir,
            side=settings.side,
        )
