"""The paper's sentences measured on saved runs, without training or running anything."""

import dataclasses
from pathlib import Path

from lrevopt import storage
from lrevopt.paper.claims import Row, as_markdown, measure_claims
from lrevopt.paper.front_page import shipped_runs
from lrevopt.runs.contents import Run, runs_by_task
from lrevopt.text import csv_text

CLAIMS_PAGE, CLAIMS_TABLE = "claims.md", "claims.csv"


def training_seeds(run: Run) -> dict[int, Run]:
    """Runs by training seed: those in a run's folder `seeds` and, if it is none of them, itself.

    The seed of a run in stages is that of the first, which drew the initial weights.
    """
    first = [*run.settings.get("stages", []), run.settings][0]
    own = first.get("seed")
    found = {own: run} if isinstance(own, int) else {}
    return dict(sorted((found | run.seeds).items()))


def claims_of(directory: Path) -> list[Row]:
    """Rows of the claims about one run, without those about several tasks.

    Raises `ValueError` for a folder that is no run.
    """
    run = Run(directory)
    rows = measure_claims({run.task_name: run}, {run.task_name: training_seeds(run)})
    return [row for row in rows if row.task == run.task_name]


def claims_of_all(results: Path) -> list[Row]:
    """Rows of every claim over the runs in a folder, which are named by their task.

    Raises `ValueError` if there is none.
    """
    runs = runs_by_task(shipped_runs(results))
    return measure_claims(runs, {task: training_seeds(run) for task, run in runs.items()})


def write_claims(results: Path) -> list[Row]:
    """Measure all claims on the runs in a folder, and save `claims.md` and `claims.csv` there."""
    rows = claims_of_all(results)
    heads = [field.name for field in dataclasses.fields(Row)]
    table = csv_text(heads, (dataclasses.astuple(row) for row in rows))
    page = {results / CLAIMS_PAGE: as_markdown(rows), results / CLAIMS_TABLE: table}
    with storage.claimed(results):
        storage.replace_together(page)
    return rows
