"""Look at well-known optimizers on a task: tune, run and linearize each, and draw them together.

python scripts/gallery.py rosenbrock --output results/gallery
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt import storage
from lrevopt.plots.gallery import figure_gallery
from lrevopt.plots.style import render
from lrevopt.runs.command_line import parse, plain_errors
from lrevopt.runs.experiment import Images, TaskName, key_stream, make_task
from lrevopt.studies import gallery as galleries
from lrevopt.tuning.well_known import WELL_KNOWN


@dataclasses.dataclass(frozen=True)
class Settings:
    """Put well-known optimizers of optax under the microscope, on problems of one task."""

    task: tyro.conf.Positional[TaskName] = "rosenbrock"
    """What they run on."""
    output: Path = Path("results/gallery")
    """Folder that gets `gallery.npz`, `.csv`, `.md`, `.png` and `.svg`."""
    names: tuple[str, ...] = tuple(WELL_KNOWN)
    """Which optimizers."""
    problems: int = 256
    """Problems that learning rates are tuned on, and as many others to look at (networks: few)."""
    steps: int = 200
    """Inner updates."""
    seed: int = 0
    """Of the problems, those of tuning and those of the test."""
    images: Images = Images()


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        output = storage.writable_directory(settings.output)
        record = galleries.measure_gallery(
            make_task(settings.task, settings.images),
            key=key_stream("test", settings.seed),
            tuning_key=key_stream("tuning", settings.seed),
            problems=settings.problems,
            steps=settings.steps,
            names=settings.names,
            report=lambda line: print(line, flush=True),
        )
        storage.save_record(output / "gallery.npz", record)
        storage.write_atomically(output / "gallery.csv", galleries.gallery_table(record))
        table = galleries.gallery_markdown(record)
        storage.write_atomically(output / "gallery.md", table)
        figure = figure_gallery(record)
        for kind in ("png", "svg"):
            storage.write_atomically(output / f"gallery.{kind}", render(figure, kind))
        print(table, end="")
