"""The first stage: an experiment trained into a folder, or an optimizer put there as it is."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from lrevopt import specs, storage
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.hosts import is_first
from lrevopt.meta_training import (
    MetaTrainingRun,
    PopulationRun,
    meta_train,
    meta_train_population,
)
from lrevopt.meta_training.run_directory import member_name
from lrevopt.meta_training.settings import current_settings
from lrevopt.optimizers import AbstractOptimizer, saved
from lrevopt.runs.analyze import analysed_problems
from lrevopt.runs.contents import CONTENTS
from lrevopt.runs.experiment import Experiment, Learned, Named, key_stream
from lrevopt.runs.numbers import check_seed
from lrevopt.runs.tune import Say, with_learning_rate
from lrevopt.runs.writing import remove_stale
from lrevopt.tasks import AbstractTask


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

    What later stages left there goes when the optimizer that they speak of is replaced. Raises
    `ValueError` as `meta_train` does, for an optimizer that has nothing to train, and for names
    that stand for no task or optimizer.
    """
    start = start or _recorded_start(directory, resume)
    task = chosen.make_task()
    optimizer = _untrained(chosen, start)
    with _claimed_by_first(directory):
        run = meta_train(
            task,
            optimizer,
            chosen.training,
            key=key_stream("training", chosen.seed),
            directory=directory,
            resume=resume,
            overwrite=overwrite,
            time_limit=time_limit,
            save_every=save_every,
            memory_limit=memory_limit,
        )
        _add_facts(directory, _facts(chosen, task, start) | _stage_facts(start))
    return run


def train_seeds(
    chosen: Experiment,
    directory: Path,
    seeds: int,
    *,
    resume: bool = False,
    start: Path | None = None,
    **running: Any,
) -> PopulationRun:
    """Meta-train `seeds` experiments at once, of the seeds from `chosen.seed` on; see `train`.

    Each gets a folder within `directory`, `member_000` and so on, as if it were trained alone.
    `running` is for `meta_train_population`. Raises `ValueError` as `train` does, and for fewer
    than one seed.
    """
    count = positive_integer("seeds", seeds)
    each = [dataclasses.replace(chosen, seed=chosen.seed + number) for number in range(count)]
    for one in each:
        check_seed(one.seed)
    start = start or _recorded_start(directory, resume)
    task = chosen.make_task()
    optimizers = [_untrained(one, start) for one in each]
    with _claimed_by_first(directory):
        run = meta_train_population(
            task,
            optimizers,
            chosen.training,
            keys=jnp.stack([key_stream("training", one.seed) for one in each]),
            directory=directory,
            resume=resume,
            **running,
        )
        facts = _stage_facts(start)
        folders = (directory, *(directory / member_name(number) for number in range(count)))
        for folder, one in zip(folders, (chosen, *each), strict=True):
            _add_facts(folder, _facts(one, task, start) | facts)
    return run


def _claimed_by_first(directory: Path) -> contextlib.AbstractContextManager[None]:
    """The folder for this process alone, if it is the one that writes."""
    return storage.claimed(directory) if is_first() else contextlib.nullcontext()


def _add_facts(directory: Path, facts: dict[str, Any]) -> None:
    """Add to the settings of a run, in the process that writes."""
    if is_first():
        settings = storage.load_settings(directory)
        storage.save_json(directory / storage.SETTINGS, settings | facts)


def _recorded_start(directory: Path, resume: bool) -> Path | None:
    """The run whose optimizer an interrupted run trains on, if it is one of several stages."""
    if not resume or not (directory / storage.SETTINGS).is_file():
        return None
    known = storage.load_settings(directory).get("start")
    return None if known is None else Path(known)


def _untrained(chosen: Experiment, start: Path | None) -> AbstractOptimizer:
    """The optimizer that training begins with. Raises `ValueError` if it has nothing to train."""
    if start is None:
        optimizer = chosen.optimizer.build(key_stream("initial_weights", chosen.seed))
    else:
        optimizer = saved.load(start)
    if not trainable(optimizer):
        raise ValueError(
            f"`optimizer` must have floating-point arrays to train, but "
            f"{type(optimizer).__name__} has none."
        )
    return optimizer


def _stage_facts(start: Path | None) -> dict[str, Any]:
    """What a run's settings keep of the stages before it."""
    if start is None:
        return {}
    earlier = current_settings(saved.load_settings(start))
    known = ("task", "training", "seed", "scales", "drawn")
    this = {name: earlier[name] for name in known if name in earlier}
    return {"start": str(start), "stages": [*earlier.get("stages", []), this]}


def adopt(
    chosen: Experiment,
    directory: Path,
    *,
    overwrite: bool = False,
    steps: int = 200,
    say: Say = print,
) -> AbstractOptimizer:
    """Put the optimizer of an experiment into a folder as it is, for the stages after training.

    A folder that holds the same already stays. An optimizer of optax that is given no learning
    rate takes the best of those that are tried, in runs of `steps` updates. Raises `ValueError` for
    a folder that holds another run (unless `overwrite`) or somebody else's files, and for names
    that stand for no task or optimizer.
    """
    task = chosen.make_task()
    if isinstance(chosen.optimizer, Named):
        found = with_learning_rate(
            chosen.optimizer,
            task,
            problems=analysed_problems(task),
            steps=steps,
            seed=chosen.seed,
            say=say,
        )
        chosen = dataclasses.replace(chosen, optimizer=found)
    optimizer = chosen.optimizer.build(key_stream("initial_weights", chosen.seed))
    identity: dict[str, Any] = {
        "task": storage.describe(task),
        "optimizer": storage.describe(optimizer),
        "initial_weights": storage.digest_of(optimizer),
    }
    facts = _facts(chosen, task)
    if saved.SPEC in facts and not specs.is_box(facts[saved.SPEC]["spec"]):
        identity[saved.SPEC] = facts[saved.SPEC]  # has constants that are no arrays
    different = _differing_entries(directory, identity, overwrite=overwrite)
    with storage.claimed(directory):
        if different or not saved.holds(directory, optimizer):
            remove_stale(directory, "optimizer", *(("settings",) if overwrite else ()))
        for name in ("history", "checkpoints", "snapshots"):
            for path in CONTENTS[name].files(directory):
                storage.remove(path)
        versions = {"versions": storage.versions()}
        storage.save_json(directory / storage.SETTINGS, identity | facts | versions)
        saved.save_optimizer(directory, optimizer)
    return optimizer


def _differing_entries(directory: Path, identity: dict[str, Any], *, overwrite: bool) -> list[str]:
    """Entries of the settings in a folder that are others than those of `identity`.

    Raises `ValueError` if there are any, unless `overwrite`, and for somebody else's files. A
    folder of an older version may have no `optimizer_spec`; one of tuned baselines alone passes.
    """
    settings, different = directory / storage.SETTINGS, []
    if settings.exists():
        found = storage.load_settings(settings)
        known = {name: identity[name] for name in identity if name != saved.SPEC or name in found}
        different = storage.other_settings(found, known)
        different += ["training"] * ("training" in found)
        if different and not overwrite:
            raise ValueError(
                f"`{directory}` holds another run (different: {', '.join(different)}): choose "
                f"another folder, or pass overwrite."
            )
        return different
    ours = {storage.LOCK, CONTENTS["tuning"].file}
    if directory.is_dir() and {path.name for path in directory.iterdir()} - ours:
        raise ValueError(f"`{directory}` holds files that are no run: choose an empty folder.")
    return different


def _facts(chosen: Experiment, task: AbstractTask, start: Path | None = None) -> dict[str, Any]:
    """What a run's settings keep besides what `meta_train` writes."""
    optimizer = chosen.optimizer
    source = start
    if source is None and isinstance(optimizer, Named) and optimizer.stored:
        source = Path(optimizer.spec)
    earlier = {} if source is None else saved.load_settings(source)
    known = {name: earlier[name] for name in (saved.SPEC,) if name in earlier}
    drawn = (
        {"drawn": optimizer.drawn()} if source is None and isinstance(optimizer, Learned) else {}
    )
    return {"title": task.title} | known | drawn | chosen.spec()


def trainable(optimizer: AbstractOptimizer) -> bool:
    """Whether an optimizer has anything that a meta-gradient changes."""
    return bool(jax.tree.leaves(eqx.filter(optimizer, eqx.is_inexact_array)))
