"""All stages, one after another."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from lrevopt import storage
from lrevopt.checks import positive_integer
from lrevopt.paper.claims.saved_runs import claims_of
from lrevopt.paper.figures.drawing import draw_figures
from lrevopt.paper.report_sections import claims_section
from lrevopt.runs.analyze import analyze_run
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import evaluate_run, tested_problems
from lrevopt.runs.experiment import Experiment
from lrevopt.runs.intervene import intervene_run
from lrevopt.runs.pages import Picture
from lrevopt.runs.report import report_run
from lrevopt.runs.scorecard import scorecard_run
from lrevopt.runs.train import adopt, train
from lrevopt.runs.tune import Say, baseline_settings, tune_baselines
from lrevopt.tuning.settings import Tuning


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens besides training. Raises `ValueError` for a count below 1."""

    tuning: Tuning = Tuning()
    """How baselines are tuned."""
    test_problems: int | None = None
    """Problems of the evaluation; by default as many as `tested_problems` says."""
    trained: bool = True
    """Whether the optimizer is trained, or taken as it is."""
    scorecard: bool = True
    """Whether the scorecard is measured."""
    interventions: bool = True
    """Whether mechanisms are removed, and statements proved."""

    def __post_init__(self) -> None:
        if self.test_problems is not None:
            positive_integer("test_problems", self.test_problems)


def reproduce(
    chosen: Experiment,
    directory: Path,
    plan: Plan = Plan(),
    *,
    overwrite: bool = False,
    say: Say = print,
    **running: Any,
) -> str:
    """All stages for one experiment; the outcome of its training.

    A folder that holds this run already is continued. After a time limit the best optimizer so
    far goes through the later stages; after a signal nothing follows. Baselines are tuned, and all
    are tested, on runs as long as those that chose the optimizer, whatever `plan.tuning` says of
    that. `running` are further options of `runs.train.train`. Raises `ValueError` as the stages do.
    """
    steps = chosen.training.selection_unroll or chosen.training.unroll
    settings = dataclasses.replace(plan.tuning, steps=steps)
    baseline_settings(settings)
    with storage.claimed(directory):
        return _all_stages(
            chosen, directory, plan, settings, steps=steps, overwrite=overwrite, say=say, **running
        )


def _all_stages(
    chosen: Experiment,
    directory: Path,
    plan: Plan,
    settings: Tuning,
    *,
    steps: int,
    overwrite: bool,
    say: Say,
    **running: Any,
) -> str:
    """`reproduce` in a folder that is claimed."""
    begin, outcome = time.monotonic(), "finished"

    def stage(name: str) -> None:
        say(f"[{time.monotonic() - begin:4.0f} s] {name}")

    if plan.trained:
        stage(f"meta-training on {chosen.task}")
        resume = (directory / storage.SETTINGS).exists() and not overwrite
        trained = train(chosen, directory, resume=resume, overwrite=overwrite, **running)
        say(trained.history.summary())
        outcome = trained.history.outcome
        if outcome.startswith("SIG"):
            say(f"stopped ({outcome}); the same command continues")
            return outcome
    else:
        stage(f"an optimizer as it is, on {chosen.task}")
        adopt(chosen, directory, overwrite=overwrite, steps=steps, say=say)
    run = Run(directory, data_dir=chosen.data_dir)
    tested = tested_problems(run.task) if plan.test_problems is None else plan.test_problems
    stage("tuning baselines")
    tune_baselines(run.task, settings, directory, say=say)
    stage(f"evaluating on {tested} test problems")
    evaluate_run(run, problems=tested, steps=steps, say=say)
    stage("analysing")
    analyze_run(run, steps=steps)
    if plan.scorecard:
        stage("scorecard")
        scorecard_run(run, steps=steps, say=say)
    if plan.interventions:
        stage("interventions")
        intervene_run(run, problems=tested, steps=steps, say=say)
    stage("drawing figures")
    report = figures_and_report(run, begin)
    stage(f"done: {report}")
    return outcome


def figures_and_report(run: Run, begin: float | None = None) -> Path:
    """Draw the figures of a run and write its report with the paper's sentences; its path.

    `begin` is when the whole run began, by `time.monotonic`.
    """
    with storage.claimed(run.folder):
        drawn = draw_figures([run.folder], run.folder / Run.figures.file)
        return report_run(
            Run(run.folder, data_dir=run.data_dir),
            figures=[Picture(spec, png) for spec, png in drawn],
            sections=claims_section(claims_of(run.folder)),
            seconds=None if begin is None else time.monotonic() - begin,
        )
