"""A scorecard of one optimizer that is named by its run, its baseline or its name in optax."""

import dataclasses
from pathlib import Path

from lrevopt import storage
from lrevopt.checks import finite, one_of, required
from lrevopt.optimizers import AbstractOptimizer, from_optax, saved
from lrevopt.plots.scorecard import figure_scorecard
from lrevopt.plots.style import readable, render
from lrevopt.runs.analyze import analysed_problems
from lrevopt.runs.contents import task_title
from lrevopt.runs.evaluate import load_tuning
from lrevopt.runs.experiment import BASELINES, Images, TaskName, key_stream, load_task, make_task
from lrevopt.studies.scorecard import measure_scorecard, scorecard_table
from lrevopt.tasks import AbstractTask
from lrevopt.tuning.well_known import WELL_KNOWN, tune_rate


@dataclasses.dataclass(frozen=True)
class CardSettings:
    """Measure one optimizer on one task: timescales, clipping, schedule, adaptation, curvature."""

    optax: str | None = None
    """A well-known optimizer of optax, by name."""
    run: Path | None = None
    """Or folder of a run, for its learned optimizer."""
    baseline: str | None = None
    """Instead of the run's learned optimizer, one of its tuned baselines."""
    task: TaskName | None = None
    """What it runs on (default: the run's task)."""
    learning_rate: float | None = None
    """Of the optax optimizer (default: the best of those that are tried on the task)."""
    output: Path | None = None
    """Folder that gets `scorecard.npz`, `.csv`, `.png`, `.svg` (default: in runs/scorecards)."""
    problems: int | None = None
    """Problems that are looked at and tuned on (default: 64, or 8 of large networks)."""
    steps: int = 200
    """Inner updates."""
    data_dir: Path | None = None
    """Folder with MNIST's files, for MNIST (default: $LREVOPT_DATA, the cache)."""
    seed: int = 0
    """Of the problems."""


def chosen_task(settings: CardSettings) -> tuple[TaskName, AbstractTask]:
    """Name and task that the settings ask for. Raises `ValueError` if they name none."""
    if settings.task is not None:
        return settings.task, make_task(settings.task, Images(data_dir=settings.data_dir))
    if settings.run is None:
        raise ValueError("`task` must name what the optimizer runs on, got none.")
    return load_task(settings.run, settings.data_dir)


def chosen_rate(settings: CardSettings, name: str, task: AbstractTask, problems: int) -> float:
    """The learning rate given, or else the best one, which is said."""
    if settings.learning_rate is not None:
        return finite("learning_rate", settings.learning_rate, above=0.0)
    key = key_stream("tuning", settings.seed)
    found = tune_rate(WELL_KNOWN[name], task, key=key, problems=problems, steps=settings.steps)
    edge = ", at an edge of those tried" if found.on_edge else ""
    print(f"{name}: learning rate {found.best:.4g}, score {found.scores.min():.4g} on {problems} "
          f"tuning problems, best of {found.scores.size}{edge}", flush=True)  # fmt: skip
    return found.best


def chosen_optimizer(
    settings: CardSettings, task: AbstractTask, problems: int
) -> tuple[str, AbstractOptimizer, AbstractOptimizer | None]:
    """Name, optimizer and, where it keeps a counter, the same at the last step."""
    if settings.optax is not None:
        make = WELL_KNOWN[settings.optax]
        made = make(chosen_rate(settings, settings.optax, task, problems))
        return settings.optax, from_optax(made), from_optax(made, at_step=settings.steps)
    run = required(settings.run)
    if settings.baseline is not None:
        tuned = load_tuning(run)[settings.baseline].optimizer(BASELINES[settings.baseline])
        return f"{run.resolve().name}_{settings.baseline}", tuned, None
    return f"{run.resolve().name}_learned", saved.load(run), None


def check(settings: CardSettings) -> None:
    """Raises `ValueError` for settings that do not go together, or unknown names."""
    if (settings.optax is None) == (settings.run is None):
        both = "neither" if settings.run is None else "both"
        raise ValueError(f"Exactly one of `optax` and `run` must be given, got {both}.")
    if settings.optax is not None:
        one_of("optax", settings.optax, tuple(WELL_KNOWN))
    for name in ("baseline",) if settings.run is None else ("learning_rate",):
        if getattr(settings, name) is not None:
            other = "run" if settings.run is None else "optax"
            raise ValueError(f"`{name}` must be left out without `{other}`.")
    if settings.baseline is not None:
        one_of("baseline", settings.baseline, tuple(BASELINES))


def write_scorecard(settings: CardSettings) -> Path:
    """Measure a scorecard, print it, and save it with its table and figure; the folder they are in.

    Raises `ValueError` for settings that do not go together, unknown names, a folder that is no
    run, or one that cannot be written.
    """
    check(settings)
    task_name, task = chosen_task(settings)
    problems = analysed_problems(task) if settings.problems is None else settings.problems
    name, optimizer, at_rest = chosen_optimizer(settings, task, problems)
    card = measure_scorecard(
        optimizer, task, key=key_stream("analysis", settings.seed), problems=problems,
        steps=settings.steps, at_rest=at_rest,
    )  # fmt: skip
    output = settings.output or Path("runs", "scorecards", f"{name}_on_{task_name}")
    storage.save_record(output / "scorecard.npz", card)
    storage.write_atomically(output / "scorecard.csv", scorecard_table(card))
    figure = figure_scorecard(card, f"{readable(name)} on {task_title(storage.describe(task))}")
    for kind in ("png", "svg"):
        storage.write_atomically(output / f"scorecard.{kind}", render(figure, kind))
    print(card)
    print(f"written to {output}")
    return output
