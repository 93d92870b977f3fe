"""A stage between training and evaluation: the scales of a trained optimizer, searched."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lrevopt import storage
from lrevopt.optimizers import RecurrentOptimizer, rescaled, saved
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune import Say
from lrevopt.tasks import MNIST
from lrevopt.tuning.scales import ScaleSearch, search_scales

COPIED = {Run.history.file, Run.tuning.file, storage.SETTINGS, storage.LOCK}
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
    Raises `ValueError` for a folder that is no run or already holds one, a side for a run on
    another task, and as `search_scales` does.
    """
    task, directory = run.task, run.folder
    if side is not None:
        if not isinstance(task, MNIST):
            raise ValueError(f"`side` must be left out for a run on {run.task_name}, got {side}.")
        task = MNIST(task.source, run.data_dir, side=side)
    optimizer = saved.load(directory)
    if not isinstance(optimizer, RecurrentOptimizer):
        raise ValueError(f"`{directory}` must hold a recurrent optimizer: others have no scales.")
    if output.is_dir() and not {path.name for path in output.iterdir()} <= COPIED:
        raise ValueError(f"`output` must be an empty or a new folder, got `{output}`.")
    found = search_scales(
        task,
        optimizer,
        input_factors=input_factors,
        output_factors=output_factors,
        key=key_stream("training", seed),
        problems=problems,
        steps=steps,
    )
    rows = zip(found.input_factors, found.output_factors, found.scores, strict=True)
    for first, second, score in rows:
        say(f"input scale x {first:g}, output scale x {second:g}: {score:.4f}")
    for sentence in found.at_edge:
        say(sentence)
    best = rescaled(optimizer, *found.best)
    facts = {
        "input_factors": found.input_factors.tolist(),
        "output_factors": found.output_factors.tolist(),
        "scores": found.scores.tolist(),
        "chosen": list(found.best),
        "problems": problems,
        "steps": steps,
        "seed": seed,
        "task": storage.describe(task),
    }
    settings = run.settings | {"optimizer": storage.describe(best), SCALES: facts}
    with storage.claimed(output):
        for part in (Run.history, Run.tuning):
            source = directory / part.file
            if source.is_dir():
                shutil.copytree(source, output / part.file, dirs_exist_ok=True)
            elif source.is_file():
                shutil.copy2(source, output / part.file)
        storage.save_json(output / storage.SETTINGS, settings)
        saved.save_optimizer(output, best)
    say(f"chosen: input scale {best.input_scale:g}, output scale {best.output_scale:g}")
    return found
