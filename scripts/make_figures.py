"""Draw the figures of one or more runs from their saved numbers, without training.

python scripts/make_figures.py results/linear_regression results/rosenbrock --output figures
python scripts/make_figures.py results/rosenbrock --figure 3 --output figures
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.console import parse, plain_errors
from lrevopt.pipeline import draw_figures


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw the figures of one or more runs from their saved numbers, without training."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, one per task: the columns of the figures."""
    output: Path
    """Folder that gets `figure_NN.png` and `figure_NN.svg`."""
    figure: int | None = None
    """Only the figure of this number, as in the paper."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        if not settings.runs:
            raise ValueError("`runs` must name at least one folder of a run, got none.")
        for spec, path in draw_figures(settings.runs, settings.output, settings.figure):
            print(f"{path}  {spec.label}: {spec.title}")
