"""Choice of scales and settings on a user's own task, where the command line leaves them open."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrevopt import storage
from lrevopt.inner_loop.hosts import several
from lrevopt.meta_training.run_directory import member_folders
from lrevopt.meta_training.settings import MetaTraining, saved_training
from lrevopt.meta_training.suggestion import suggest_training
from lrevopt.optimizers import GRUCell
from lrevopt.runs.experiment import TASK_DEFAULTS, Experiment, Learned, key_stream, task_defaults
from lrevopt.runs.options import TrainingSettings

SECONDS = 120.0
"""Time of training that settings are chosen for, unless a time limit is given."""


def experiment_to_train(
    options: TrainingSettings, directory: Path, *, say: Callable[[str], None] = print
) -> Experiment:
    """The experiment of a command line, its scales and settings chosen if they are left open.

    They are open on a task that the package has no settings for, in preset quick, without any
    option of `optimizer` or `training`, a named optimizer or `start`. Then `suggest_training`
    chooses them, for a training of `time_limit` seconds (default: `SECONDS`). A folder that holds
    a run keeps what it was begun with, so that an interrupted one goes on as it began.

    Raises `ValueError` as `suggest_training` does, and where several processes would choose.
    """
    chosen = options.experiment()
    if not left_open(options):
        return chosen
    if (directory / storage.SETTINGS).is_file() and not options.overwrite:
        members = member_folders(directory)
        return _as_begun(chosen, storage.load_settings(members[0] if members else directory))
    if several():
        raise ValueError(
            "`distributed` must be left out where settings are chosen by the time that trainings "
            "take: give some of `optimizer` or `training`."
        )
    seconds = SECONDS if options.time_limit is None else options.time_limit
    say(f"choosing scales and settings for {seconds:g} s of training on {options.task}")
    found = suggest_training(
        chosen.make_task(),
        key=key_stream("suggestion", options.seed),
        time_limit=seconds,
        steps=options.training.unroll,
    )
    say(str(found))
    learned = Learned(found.units, found.input_scale, found.output_scale)
    return dataclasses.replace(chosen, optimizer=learned, training=found.settings)


def left_open(options: TrainingSettings) -> bool:
    """Whether a command line says nothing of how to train on a task of one's own."""
    usual = task_defaults(options.task, options.preset)
    return (
        options.task not in TASK_DEFAULTS
        and options.preset == "quick"
        and options.named is None
        and options.start is None
        and (options.optimizer, options.training) == (usual.optimizer, usual.training)
    )


def _as_begun(chosen: Experiment, saved: Mapping[str, Any]) -> Experiment:
    """The experiment with the optimizer and the training that a run's settings hold.

    Settings of another kind of run are left for `meta_train` to refuse.
    """
    try:
        begun: Any = saved["optimizer"]
        kind = (storage.package_of(GRUCell), GRUCell.__name__)
        if (begun["cell"]["package"], begun["cell"]["kind"]) != kind:
            return chosen
        scales = {name: begun[name] for name in ("input_scale", "output_scale")}
        (units,) = begun["start"]["shape"]
        learned = Learned(units, bias=begun["bias"] is not None, **scales)
        training = MetaTraining(**saved_training(saved["training"]))
    except (KeyError, TypeError):
        return chosen
    return dataclasses.replace(chosen, optimizer=learned, training=training)
