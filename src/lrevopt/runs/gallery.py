"""A gallery of well-known optimizers on one task, written into a folder."""

from pathlib import Path

from lrevopt import storage
from lrevopt.plots.gallery import figure_gallery
from lrevopt.plots.style import render
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune import Say
from lrevopt.studies import gallery as galleries
from lrevopt.studies.gallery import Gallery
from lrevopt.tasks import AbstractTask
from lrevopt.tuning.well_known import WELL_KNOWN


def write_gallery(
    task: AbstractTask,
    output: Path,
    *,
    names: tuple[str, ...] | None = None,
    problems: int = 256,
    steps: int = 200,
    seed: int = 0,
    say: Say = print,
) -> Gallery:
    """Tune, run and linearize each of the `names` (default: all), and draw them together.

    The folder `output` gets `gallery.npz`, its tables and its figure. Raises `ValueError` for an
    unknown name, or a folder that cannot be written.
    """
    storage.writable_directory(output)
    record = galleries.measure_gallery(
        task,
        key=key_stream("test", seed),
        tuning_key=key_stream("tuning", seed),
        problems=problems,
        steps=steps,
        names=tuple(WELL_KNOWN) if names is None else names,
        report=say,
    )
    storage.save_record(output / "gallery.npz", record)
    storage.write_atomically(output / "gallery.csv", galleries.gallery_table(record))
    table = galleries.gallery_markdown(record)
    storage.write_atomically(output / "gallery.md", table)
    figure = figure_gallery(record)
    for kind in ("png", "svg"):
        storage.write_atomically(output / f"gallery.{kind}", render(figure, kind))
    say(table.rstrip())
    return record
