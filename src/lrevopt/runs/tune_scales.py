"""A stage between training and evaluation: the scales of a trained optimizer, searched."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt import storage
from lrevopt.optimizers import RecurrentOptimizer, rescaled, saved
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune import Say
from lrevopt.tasks import MNIST, AbstractTask
from lrevopt.tuning.scales import ScaleSearch, search_scales

COPIED = {Run.history.file, Run.tuning.file, storage.SETTINGS}
"""What a search that was interrupted may have left in the new folder: all but the weights."""

SCALES = "scales"
"""Entry of a run's settings that tells of the search."""


def rescale_run(
    run: Run,
    output: Path,
    *,
    input_factors: Sequence[float],
    output_factors: Sequence[float],
    problems: int,
    steps: int = 200,
    seed: int = 0,
    side: int | None = None,
    say: Say = print,
) -> ScaleSearch:
    """Search the scales of a run's optimizer, and save it with the best ones as another run.

    The new folder has the weights, the record of training and the tuned baselines of the old one,
    and can be evaluated or trained on from. Problems are from the training stream of `seed`, so
    that no test problem is among them. `side` is that of the images, for a run on smaller ones of
    MNIST that training goes on from on larger ones: scales that suit one size do not suit another.
    What the same search has left in `output` is kept, so that one that was interrupted goes on.
    Raises `ValueError` for a folder that is no run or already holds one, a side for a run on
    another task, and as `search_scales` does.
    """
    task, optimizer = _searched(run, side)
    factors = {"input_factors": input_factors, "output_factors": output_factors}
    facts = {"problems": problems, "steps": steps, "seed": seed, "task": storage.describe(task)}
    with storage.claimed(output):
        known = _found_before(run, optimizer, output, factors, facts)
        if known is None:
            _check_output(output)
        found = known or search_scales(
            task, optimizer, **factors, key=key_stream("training", seed), problems=problems,
            steps=steps,
        )  # fmt: skip
        rows = zip(found.input_factors, found.output_factors, found.scores, strict=True)
        for first, second, score in rows:
            say(f"input scale x {first:g}, output scale x {second:g}: {score:.4f}")
        for sentence in found.at_edge:
            say(sentence)
        best = rescaled(optimizer, *found.best)
        if known is None:
            record = {name: getattr(found, name).tolist() for name in (*factors, "scores")}
            _save(run, output, best, facts | record | {"chosen": list(found.best)})
    again = "" if known is None else "; searched before"
    say(f"chosen: input scale {best.input_scale:g}, output scale {best.output_scale:g}{again}")
    return found


def _found_before(
    run: Run,
    optimizer: RecurrentOptimizer,
    output: Path,
    factors: dict[str, Sequence[float]],
    facts: dict[str, Any],
) -> ScaleSearch | None:
    """What the same search found before, if its result is in the folder as it was left there."""
    if not (output / storage.SETTINGS).is_file():
        return None
    settings = storage.load_settings(output)
    before = settings.get(SCALES, {})
    names = (*factors, "scores")
    if (
        not before.keys() >= set(names)
        or storage.other_settings(before, facts)
        or storage.other_settings(settings, run.settings, {"optimizer", SCALES})
    ):
        return None
    found = ScaleSearch(**{name: np.array(before[name], float) for name in names})
    pairs = np.array(list(itertools.product(*factors.values())))
    if not np.array_equal(pairs, np.stack([found.input_factors, found.output_factors], axis=1)):
        return None
    return found if saved.holds(output, rescaled(optimizer, *found.best)) else None


def _searched(run: Run, side: int | None) -> tuple[AbstractTask, RecurrentOptimizer]:
    """The task of the search, and the optimizer whose scales are searched."""
    task = run.task
    if side is not None:
        if not isinstance(task, MNIST):
            raise ValueError(f"`side` must be left out for a run on {run.task_name}, got {side}.")
        task = MNIST(task.source, run.data_dir, side=side)
    optimizer = saved.load(run.folder)
    if not isinstance(optimizer, RecurrentOptimizer):
        raise ValueError(f"`{run.folder}` must hold a recurrent optimizer: others have no scales.")
    return task, optimizer


def _check_output(output: Path) -> None:
    """Raise `ValueError` for a folder that holds more than an interrupted search left there."""
    found = {path.name for path in output.iterdir()} - {storage.LOCK}
    settings = output / storage.SETTINGS
    left = found <= COPIED and storage.SETTINGS in found and SCALES in storage.load_json(settings)
    if found and not left:
        raise ValueError(f"`output` must be an empty or a new folder, got `{output}`.")


def _save(run: Run, output: Path, best: RecurrentOptimizer, facts: dict[str, Any]) -> None:
    """The new run. Its settings come first, and say what the copies are that come next."""
    settings = run.settings | {"optimizer": storage.describe(best), SCALES: facts}
    storage.save_json(output / storage.SETTINGS, settings)
    for part in (Run.history, Run.tuning):
        source, copy = run.folder / part.file, output / part.file
        storage.remove(copy)
        if source.is_dir():
            shutil.copytree(source, copy)
        elif source.is_file():
            shutil.copy2(source, copy)
    saved.save_optimizer(output, best)
