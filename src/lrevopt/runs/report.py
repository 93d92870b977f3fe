"""The last stage: the report of a run, from saved numbers."""

from collections.abc import Sequence
from pathlib import Path

from lrevopt import storage
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.pages import Picture, Section
from lrevopt.runs.report_page import render_report
from lrevopt.tasks import LinearRegression
from lrevopt.tuning.random_search import analytic_momentum


def report_run(
    run: Run,
    *,
    figures: Sequence[Picture] = (),
    sections: Sequence[Section] = (),
    seconds: float | None = None,
) -> Path:
    """Write the report of a run that was evaluated; its path.

    `figures`, `sections` and `seconds` are as in `render_report`. Raises `ValueError` for a run
    that has no evaluation, or a folder that cannot be written.
    """
    path = run.folder / Run.report.file
    settings, score = _analytic(run)
    page = render_report(
        run,
        figures=figures,
        sections=sections,
        analytic_momentum=settings,
        analytic_score=score,
        seconds=seconds,
    )
    storage.write_atomically(path, page)
    return path


def _analytic(run: Run) -> tuple[dict[str, float] | None, float | None]:
    """Theoretically best momentum on linear regression, and its meta-objective on test problems."""
    tested = run.stages().get("evaluation")
    if tested is None or run.settings["task"].get("kind") != LinearRegression.__name__:
        return None, None
    task = run.task
    assert isinstance(task, LinearRegression)
    best = analytic_momentum(task.log10_eigenvalues)
    again = evaluate(
        {"analytic": best},
        task,
        problems=tested["problems"],
        steps=tested["steps"],
        key=key_stream("test", tested["seed"]),
    )
    settings = {"learning_rate": float(best.learning_rate), "momentum": float(best.momentum)}
    return settings, float(again.meta_objectives()[0].mean())
