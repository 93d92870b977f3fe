"""Draw figures from saved numbers, without training, each with its numbers and its caption.

python scripts/make_figures.py                                  # all that is shipped in results/
python scripts/make_figures.py --figure 12                      # one of them
python scripts/make_figures.py runs/rosenbrock                  # a run of your own
python scripts/make_figures.py runs/rosenbrock runs/two_moons --output both
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.paper.figures.drawing import draw_figures
from lrevopt.paper.front_page import FIGURES_FOLDER, RESULTS, shipped_runs
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw figures from saved numbers, without training, each with its numbers and its caption."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs, one per task: the columns of the figures (default: all in `results/`)."""
    output: Path | None = None
    """Folder that gets `figure_NN.png`, `.svg`, `.npz` and `.txt` (default: `results/figures`,
    or `figures` in the folder of a single run)."""
    figure: int | None = None
    """Only the figure of this number, as in the paper."""

    def folder(self) -> Path:
        """Where figures go. Raises `ValueError` if several runs leave that open."""
        if self.output is None and len(self.runs) > 1:
            raise ValueError(f"`output` must name a folder for figures of {len(self.runs)} runs.")
        parent = self.runs[0] if self.runs else RESULTS
        return parent / FIGURES_FOLDER if self.output is None else self.output


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        folder = settings.folder()
        runs = settings.runs or shipped_runs(RESULTS)
        for spec, path in draw_figures(runs, folder, settings.figure):
            print(f"{path}  {spec.label}: {spec.title}")
