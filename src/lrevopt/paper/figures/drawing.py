"""Figures from saved numbers."""

from collections.abc import Sequence
from pathlib import Path

from lrevopt import storage
from lrevopt.paper.figures.figure_data import save_figure_data
from lrevopt.paper.figures.registry import available
from lrevopt.paper.figures.specs import FigureSpec
from lrevopt.paper.tasks import in_order
from lrevopt.plots.style import save_figure
from lrevopt.runs.contents import runs_by_task


def draw_figures(
    directories: Sequence[Path], output: Path, figure: int | str | None = None
) -> list[tuple[FigureSpec, Path]]:
    """Draw what the runs in these folders suffice for, as PNG and SVG; specs and paths of the PNGs.

    Each figure comes with its numbers and its caption (see `save_figure_data`). `figure` is the
    number or the name of the only one to draw, by default all. Raises
    `ValueError` for two runs of one task, a folder that is no run, or a figure that the numbers
    do not suffice for.
    """
    runs = in_order(runs_by_task(list(directories)))
    possible = available(runs)
    specs = [spec for spec in possible if figure in (None, spec.number)]
    if not specs:
        numbers = ", ".join(str(spec.number) for spec in possible)
        raise ValueError(f"`figure` must be one of {numbers or 'none'} here, got {figure}.")
    drawn = []
    with storage.claimed(output):
        for spec in specs:
            png, _ = save_figure(spec.draw(runs), output, spec.number)
            save_figure_data(spec, runs, output)
            drawn.append((spec, png))
    return drawn
