"""A gallery of well-known optimizers on one task, written into a folder."""

from pathlib import Path

from lrevopt import storage
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.plots.gallery import figure_gallery
from lrevopt.plots.style import render
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune import Say
from lrevopt.runs.writing import announce_replaced
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

    The folder `output` gets `gallery.npz`, its tables and its figure. A gallery that is there is
    replaced at the end; if other settings made it, that is said first. Raises `ValueError` for an
    unknown name, or a folder that cannot be written.
    """
    chosen = galleries.well_known_names(tuple(WELL_KNOWN) if names is None else names)
    facts = {"problems": problems, "steps": steps, "seed": seed, "names": chosen,
             "task": storage.describe(task)}  # fmt: skip
    check_runs(task, problems=problems, steps=steps)
    with (
        storage.claimed(output),
        storage.resumable(output, "gallery", facts),
    ):
        announce_replaced(output / "gallery.npz", facts, say)
        record = galleries.measure_gallery(
            task,
            key=key_stream("test", seed),
            tuning_key=key_stream("tuning", seed),
            problems=problems,
            steps=steps,
            names=chosen,
            report=say,
        )
        table, figure = galleries.gallery_markdown(record), figure_gallery(record)
        contents: dict[str, str | bytes] = {
            "csv": galleries.gallery_table(record),
            "md": table,
            "png": render(figure, "png"),
            "svg": render(figure, "svg"),
            "npz": storage.record_bytes(record, facts),
        }
        storage.replace_together(
            {output / f"gallery.{kind}": content for kind, content in contents.items()}
        )
    say(table.rstrip())
    return record
