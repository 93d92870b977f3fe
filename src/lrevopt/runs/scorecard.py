"""A stage: the scorecard of a run, or of any optimizer on any task."""

import dataclasses
from pathlib import Path

from lrevopt import storage
from lrevopt.checks import finite, one_of
from lrevopt.optimizers import AbstractOptimizer, from_optax, hold_counters
from lrevopt.plots.scorecard import figure_scorecard
from lrevopt.plots.style import readable, render
from lrevopt.runs.analyze import analysed_problems, at_rest_of
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import Named, key_stream
from lrevopt.runs.tune import (
    Say,
    best_rate,
    load_tuning,
    tuned_baselines,
    with_learning_rate,
)
from lrevopt.runs.writing import write
from lrevopt.studies.scorecard import Scorecard, measure_scorecard, scorecard_table
from lrevopt.tasks import AbstractTask
from lrevopt.tuning.well_known import WELL_KNOWN

DRAWN = "initial_update", "later_updates"
"""Fields of a scorecard that are drawn alone, and large: they are kept with six digits."""


@dataclasses.dataclass(frozen=True)
class Entrant:
    """An optimizer as a scorecard takes it."""

    name: str
    """What files and figures call it."""
    optimizer: AbstractOptimizer
    at_rest: AbstractOptimizer | None = None
    """The same with its step counter held, if it has one."""


def scorecard_run(
    run: Run, *, problems: int | None = None, steps: int = 200, seed: int = 0, say: Say = print
) -> Scorecard:
    """Measure the scorecard of a run's optimizer on its own task, and save it in the run's folder.

    Without `problems`, as many as `analysed_problems` says. Raises `ValueError` for a run without
    weights, or an optimizer that diverges on every problem.
    """
    entrant = run_entrant(run, steps)
    with storage.claimed(run.folder):
        card = measure(entrant, run.task, run.folder, problems=problems, steps=steps, seed=seed)
        card = storage.six_digits(card, *DRAWN)
        write(run.folder, "scorecard", card, **_beside(card, f"Learned on {run.title}"))
    say(str(card))
    return card


def save_scorecard(
    entrant: Entrant,
    task: AbstractTask,
    output: Path,
    *,
    problems: int | None = None,
    steps: int = 200,
    seed: int = 0,
    say: Say = print,
) -> Scorecard:
    """Measure a scorecard, and write it with its table and figure into a folder."""
    with storage.claimed(output):
        card = measure(entrant, task, output, problems=problems, steps=steps, seed=seed)
        card = storage.six_digits(card, *DRAWN)
        beside = _beside(card, f"{readable(entrant.name)} on {task.title}")
        files = {output / f"scorecard.{kind}": content for kind, content in beside.items()}
        storage.replace_together(files | {output / "scorecard.npz": storage.record_bytes(card)})
    say(str(card))
    return card


def _beside(card: Scorecard, title: str) -> dict[str, str | bytes]:
    """Table and figure of a scorecard, by suffix."""
    figure = figure_scorecard(card, title)
    return {
        "csv": scorecard_table(card),
        "png": render(figure, "png"),
        "svg": render(figure, "svg"),
    }


def measure(
    entrant: Entrant,
    task: AbstractTask,
    folder: Path,
    *,
    problems: int | None,
    steps: int,
    seed: int,
) -> Scorecard:
    """A scorecard on problems of the stream of analyses.

    `folder` keeps what was measured when a call was interrupted.
    """
    facts = {
        "problems": analysed_problems(task) if problems is None else problems,
        "steps": steps,
        "seed": seed,
    }
    with storage.resumable(folder, "scorecard", facts | {"task": storage.describe(task)}):
        return measure_scorecard(
            entrant.optimizer,
            task,
            key=key_stream("analysis", seed),
            problems=facts["problems"],
            steps=steps,
            at_rest=entrant.at_rest,
        )


def run_entrant(run: Run, steps: int, baseline: str | None = None) -> Entrant:
    """The optimizer of a run, or one of its tuned baselines.

    Raises `ValueError` for a run without weights, or without this baseline.
    """
    name = run.folder.resolve().name
    if baseline is None:
        return Entrant(f"{name}_learned", *at_rest_of(run, steps))
    tuning = load_tuning(run.folder)
    one_of("baseline", baseline, tuple(tuning))
    return Entrant(f"{name}_{baseline}", tuned_baselines(tuning)[baseline])


def well_known_entrant(
    name: str,
    task: AbstractTask,
    learning_rate: float | None = None,
    *,
    problems: int | None = None,
    steps: int = 200,
    seed: int = 0,
    say: Say = print,
) -> Entrant:
    """A well-known optimizer of optax, at the learning rate given or else the best that is tried.

    Raises `ValueError` for an unknown name, or a learning rate that is not positive.
    """
    make = WELL_KNOWN[one_of("optax", name, tuple(WELL_KNOWN))]
    if learning_rate is None:
        count = analysed_problems(task) if problems is None else problems
        learning_rate = best_rate(name, make, task, problems=count, steps=steps, seed=seed, say=say)
    made = make(finite("learning_rate", learning_rate, above=0.0))
    return Entrant(name, from_optax(made), from_optax(made, at_step=steps))


def named_entrant(
    chosen: Named,
    task: AbstractTask,
    *,
    problems: int | None = None,
    steps: int = 200,
    seed: int = 0,
    say: Say = print,
) -> Entrant:
    """An optimizer by name; of optax without a learning rate, with the best that is tried.

    Raises `ValueError` as `Named.build` does.
    """
    count = analysed_problems(task) if problems is None else problems
    chosen = with_learning_rate(chosen, task, problems=count, steps=steps, seed=seed, say=say)
    key = key_stream("initial_weights", seed)
    optimizer = chosen.build(key)
    resting = hold_counters(optimizer, steps) if chosen.spec.startswith("optax:") else None
    name = chosen.spec.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    return Entrant(name, optimizer, resting)
