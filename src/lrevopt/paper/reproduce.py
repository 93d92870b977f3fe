"""All stages, one after another."""

import dataclasses
import time
from pathlib import Path

from lrevopt import storage
from lrevopt.checks import positive_integer
from lrevopt.paper.claims.saved_runs import claims_of
from lrevopt.paper.figures.drawing import draw_figures
from lrevopt.paper.report_sections import claims_section
from lrevopt.runs.analyze import analyze_run
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import Say, baseline_settings, evaluate_run, tune_baselines
from lrevopt.runs.experiment import Experiment
from lrevopt.runs.pages import Picture
from lrevopt.runs.report import report_run
from lrevopt.runs.train import train
from lrevopt.tuning.settings import Tuning


def reproduce(
    chosen: Experiment,
    directory: Path,
    *,
    tuning: Tuning,
    test_problems: int = 256,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
    memory_limit: float | None = None,
    start: Path | None = None,
    say: Say = print,
) -> str:
    """All stages for one experiment; the outcome of its training.

    A folder that holds this run already is continued. After a time limit the best optimizer so
    far goes through the later stages; after a signal nothing follows. Baselines are tuned, and all
    are tested, on runs as long as those that chose the optimizer, whatever `tuning` says of that.
    """
    positive_integer("test_problems", test_problems)
    steps = chosen.training.selection_unroll or chosen.training.unroll
    settings = dataclasses.replace(tuning, steps=steps)
    baseline_settings(settings)
    begin = time.monotonic()

    def stage(name: str) -> None:
        say(f"[{time.monotonic() - begin:4.0f} s] {name}")

    stage(f"meta-training on {chosen.task}")
    resume = (directory / storage.SETTINGS).exists() and not overwrite
    run = train(
        chosen,
        directory,
        resume=resume,
        overwrite=overwrite,
        time_limit=time_limit,
        save_every=save_every,
        memory_limit=memory_limit,
        start=start,
    )
    say(run.history.summary())
    if run.history.outcome.startswith("SIG"):
        say(f"stopped ({run.history.outcome}); the same command continues")
        return run.history.outcome
    data_dir = chosen.images.data_dir
    stage("tuning baselines")
    tune_baselines(chosen.make_task(), settings, directory, say)
    stage(f"evaluating on {test_problems} test problems")
    evaluate_run(directory, test_problems, steps, say, data_dir=data_dir)
    stage("analysing")
    analyze_run(directory, None, steps, data_dir=data_dir)
    stage("drawing figures")
    report = figures_and_report(directory, begin)
    stage(f"done: {report}")
    return run.history.outcome


def figures_and_report(directory: Path, begin: float | None = None) -> Path:
    """Draw the figures of a run and write its report with the paper's sentences; its path.

    `begin` is when the whole run began, by `time.monotonic`.
    """
    drawn = draw_figures([directory], directory / Run.figures.file)
    return report_run(
        directory,
        figures=[Picture(spec, png) for spec, png in drawn],
        sections=claims_section(claims_of(directory)),
        seconds=None if begin is None else time.monotonic() - begin,
    )
