"""A stage: the optimizer of a run and its baselines over more updates than it was trained for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrevopt import storage
from lrevopt.checks import one_of, positive_integer, sequence
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import AbstractOptimizer, saved
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import contestants, tested_problems
from lrevopt.runs.experiment import LEARNED, key_stream
from lrevopt.runs.tune import Say
from lrevopt.runs.writing import announce_replaced, write
from lrevopt.studies.transfer import Sweep, horizon_facts, horizon_table, sweep_horizons

HORIZONS = (200, 500, 1000, 2000)
"""Numbers of updates by default: those of training, and up to ten times as many."""


def horizons_run(
    run: Run,
    *,
    horizons: Sequence[int] = HORIZONS,
    against: Sequence[str] | None = None,
    problems: int | None = None,
    seed: int = 0,
    baselines: Path | None = None,
    say: Say = print,
) -> Sweep:
    """Run everything for `max(horizons)` updates on test problems, and save how each stands.

    What was run when a call was interrupted is not run again: on networks, a few problems at a
    time are kept. A record that is there is replaced at the end; if other settings made it, that is
    said first.

    - `horizons`: numbers of updates after which meta-objectives are taken, each at least 1.
    - `against`: names of the tuned baselines that run as well, by default all; an empty tuple for
      none. They were tuned for the length of training.
    - `problems`: test problems, by default as many as `tested_problems` says.
    - `seed`: of the test problems, which are those of `evaluate_run`.
    - `baselines`: a folder with tuned baselines of the same task, by default the run's own.

    Raises `ValueError` for no horizons, or one below 1, a baseline that was not tuned, a run
    without weights, or folders without tuned baselines.
    """
    sequence("horizons", horizons, "number of updates")
    horizons = sorted({positive_integer("horizons", horizon) for horizon in horizons})
    task = run.task
    problems = tested_problems(task) if problems is None else problems
    entered = _entered(run, against, baselines)
    check_runs(task, problems=problems, steps=max(horizons), optimizers=len(entered))
    facts: dict[str, Any] = {"problems": problems, "seed": seed, "horizons": horizons}
    made_from = facts | {"optimizers": list(entered)}
    with (
        storage.claimed(run.folder),
        storage.resumable(run.folder, "horizons", facts | {"task": storage.describe(task)}),
    ):
        announce_replaced(run.folder / Run.horizons.file, made_from, say)
        key = key_stream("test", seed)
        record = sweep_horizons(entered, task, horizons, key=key, problems=problems)
        write(run.folder, "horizons", record, csv=horizon_table(record), json=made_from)
    for label, said in horizon_facts(record):
        say(f"{label}: {said}")
    return record


def _entered(
    run: Run, against: Sequence[str] | None, baselines: Path | None
) -> dict[str, AbstractOptimizer]:
    """The run's optimizer, and the baselines of these names, or all for `None`."""
    if against is not None and not against:
        return {LEARNED: saved.load(run.folder)}
    everyone = contestants(run, baselines)
    tuned = tuple(name for name in everyone if name != LEARNED)
    chosen = tuned if against is None else tuple(one_of("against", n, tuned) for n in against)
    return {name: everyone[name] for name in (LEARNED, *chosen)}
