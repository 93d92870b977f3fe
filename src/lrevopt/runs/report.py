"""Reports from saved numbers."""

from pathlib import Path

from lrevopt import storage
from lrevopt.analysis import Mechanisms
from lrevopt.inner_loop.evaluation import Evaluation, evaluate
from lrevopt.meta_training import History
from lrevopt.paper.claims.saved_runs import claims_of
from lrevopt.paper.figures.drawing import load_numbers
from lrevopt.paper.figures.registry import FigureSpec
from lrevopt.plots.style import readable
from lrevopt.runs.evaluate import TUNING, load_tuning
from lrevopt.runs.experiment import LEARNED, TaskName, key_stream, task_name
from lrevopt.runs.report_page import ReportInputs, write_report
from lrevopt.tasks import LinearRegression
from lrevopt.tuning.random_search import analytic_momentum


def report_run(
    directory: Path, figures: list[tuple[FigureSpec, Path]], seconds: float | None = None
) -> Path:
    """Write the report of a folder whose stages are all there; its path."""
    task = task_name(directory)
    settings = storage.load_json(directory / storage.SETTINGS)
    versions = settings.pop("versions", {})
    tuning = load_tuning(directory)
    stages = {
        "tuning": storage.load_json(directory / TUNING / storage.SETTINGS),
        "evaluation": storage.load_json(directory / "evaluation.json"),
    }
    if (directory / "analysis.json").exists():
        stages["analysis"] = storage.load_json(directory / "analysis.json")
    numbers = load_numbers([directory])
    inputs = ReportInputs(
        title=f"{readable(task)}: a learned optimizer",
        settings=settings | stages,
        evaluation=storage.load_record(Evaluation, directory / "evaluation.npz"),
        history=storage.load_record(History, directory / "history.npz"),
        tuning=tuning,
        mechanisms=storage.load_record(Mechanisms, directory / "mechanisms.npz"),
        parameter_types=numbers.parameter_types.get(task),
        manifold=numbers.manifolds.get(task),
        mode_shifts=numbers.mode_shifts.get(task),
        interventions=numbers.interventions.get(task),
        replay=numbers.replay.get(task),
        scorecard=numbers.scorecards.get(task),
        figures=figures,
        learned=LEARNED,
        claims=claims_of(directory),
        analytic_momentum=_analytic(task, directory),
        versions=versions,
        key=f"seed {settings.get('seed', 'unknown')}",
        seconds=seconds,
    )
    return write_report(inputs, directory / "report.html")


def _analytic(name: TaskName, directory: Path) -> dict[str, float] | None:
    """Theoretically best momentum on linear regression, and its score on the test problems."""
    if name != "linear_regression":
        return None
    task = LinearRegression()
    best = analytic_momentum(task.log10_eigenvalues)
    tested = storage.load_json(directory / "evaluation.json")
    again = evaluate(
        {"analytic": best},
        task,
        problems=tested["problems"],
        steps=tested["steps"],
        key=key_stream("test", tested["seed"]),
    )
    return {
        "learning_rate": float(best.learning_rate),
        "momentum": float(best.momentum),
        "score": float(again.meta_objectives()[0].mean()),
    }
