"""The first stage: an experiment trained into a folder."""

from pathlib import Path
from typing import Any

import numpy as np

from lrevopt import storage
from lrevopt.meta_training import MetaTrainingRun, meta_train
from lrevopt.optimizers import saved
from lrevopt.runs.contents import remove_stale
from lrevopt.runs.experiment import Experiment, key_stream


def train(
    chosen: Experiment,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
    memory_limit: float | None = None,
    start: Path | None = None,
) -> MetaTrainingRun:
    """Meta-train one experiment into a folder; see `meta_train`.

    With `start`, a folder of a run, it is that run's optimizer that is trained on: the next of
    several stages, which the settings of the run list. Where such a run stopped by itself, by
    its time limit or on a signal, `start` need not be named again to resume it.

    What later stages left there goes when the optimizer that they speak of is replaced.
    """
    weights = directory / storage.WEIGHTS
    before = storage.load_arrays(weights) if weights.is_dir() and resume else {}
    if resume and start is None and (directory / storage.SETTINGS).is_file():
        known = storage.load_json(directory / storage.SETTINGS).get("start")
        start = None if known is None else Path(known)
    optimizer = chosen.optimizer.build(key_stream("initial_weights", chosen.seed))
    run = meta_train(
        chosen.make_task(),
        optimizer if start is None else saved.load(start),
        chosen.training,
        key=key_stream("training", chosen.seed),
        directory=directory,
        resume=resume,
        overwrite=overwrite,
        time_limit=time_limit,
        save_every=save_every,
        memory_limit=memory_limit,
    )
    after = storage.tree_to_arrays(run.optimizer)
    if after.keys() != before.keys() or any(
        not np.array_equal(array, before[name]) for name, array in after.items()
    ):
        remove_stale(directory, "optimizer", *(() if resume else ("settings",)))
    settings = storage.load_json(directory / storage.SETTINGS)
    facts: dict[str, Any] = {"seed": chosen.seed}
    if start is not None:
        earlier = storage.load_json(start / storage.SETTINGS)
        known = ("task", "training", "seed", "scales")
        this = {name: earlier[name] for name in known if name in earlier}
        facts |= {"start": str(start), "stages": [*earlier.get("stages", []), this]}
    storage.save_json(directory / storage.SETTINGS, settings | facts)
    return run
