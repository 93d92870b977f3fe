"""White boxes meta-trained from many starts, as one population."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.checks import instance, plain_fields, positive_integer
from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.meta_training import (
    MetaTraining,
    MetaTrainingRun,
    PopulationRun,
    meta_train,
    meta_train_population,
)
from lrevopt.meta_training.outer_step import selection_score
from lrevopt.meta_training.settings import of_selection
from lrevopt.meta_training.training_checks import selection_problems
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.stacking import stacked, unstacked
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import reordered
from lrevopt.storage.signals import pass_on
from lrevopt.studies.distillation.starts import random_boxes
from lrevopt.tasks.interface import AbstractTask, sample_problems

TRAINING = MetaTraining(
    steps=1000, problems=64, objective="log_mean", learning_rate=3e-2, warm_up=20, clip=1.0,
    penalty=0.0, early_snapshots=False, selection_problems=256, cma_deviation=0.1,
)  # fmt: skip
"""How white boxes are trained. Few numbers of size 1 allow a large learning rate and no penalty."""


@dataclasses.dataclass(frozen=True)
class BoxTraining:
    """Starts and settings of trained white boxes.

    Raises `ValueError` for counts below 1, or a `training` that is no `MetaTraining`.
    """

    training: MetaTraining = TRAINING
    """Settings of the meta-training of each white box."""
    starts: int = 4
    """Random starts, besides those that are given."""
    candidates: int = 128
    """Random white boxes drawn for each start, of which the best one is taken."""
    screening_problems: int = 64
    """Problems on which these white boxes are scored."""
    tried: int = 3
    """Moves or removals of each round of a path that are trained, those of the best scores."""
    trained_starts: int | None = None
    """Random and given starts of a white box that are trained, those that score best on the
    screening problems (None: all). Paths and eliminations have rules of their own (`tried`)."""

    def __post_init__(self) -> None:
        plain_fields(self)
        instance("training", self.training, MetaTraining, "`MetaTraining` settings")
        if self.trained_starts is not None:
            positive_integer("trained_starts", self.trained_starts)
        for name in ("starts", "candidates", "screening_problems", "tried"):
            positive_integer(name, getattr(self, name))


BOX_TRAINING = BoxTraining()

NETWORK_BOX_TRAINING = BoxTraining(
    dataclasses.replace(
        TRAINING, steps=20, problems=2, warm_up=2, snapshot_every=10, selection_problems=8,
        estimator="clipped",
    ),
    starts=1, candidates=6, screening_problems=2, tried=2, trained_starts=2,
)  # fmt: skip
"""How white boxes are trained on networks, where one run of 200 updates takes from a tenth of a
second to seconds. Exact meta-gradients of white boxes near tuned Adam are useless on two moons: of
size 1e7 to 1e11, where the logarithm of the meta-objective is of size 1."""


class Trained(eqx.Module):
    """The best of several trained white boxes on common selection problems.

    `scores` are those of all starts, the given ones first: mean(losses) / losses[0]. NaN is the
    score of a start that was not trained.
    """

    box: WhiteBox
    scores: Float[np.ndarray, " start"]


def train_boxes(
    box: WhiteBox,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    typical: Typical,
    given: Sequence[WhiteBox] = (),
    settings: BoxTraining = BOX_TRAINING,
) -> Trained:
    """Train white boxes of the structure of `box` from random starts and from those `given`.

    All start on the same problems in the same order and are compared on the same selection
    problems; `typical` sizes are those that random starts are drawn around. `settings` may say that
    only the most promising starts are trained.
    """
    screen_key, start_key, training_key = jr.split(key, 3)
    count = settings.starts * settings.candidates
    drawn = random_boxes(box, count, typical, key=start_key)
    scores = screened(drawn, task, settings, key=screen_key)
    rows = np.argmin(scores.reshape(settings.starts, -1), axis=1)
    rows = rows + np.arange(settings.starts) * settings.candidates
    chosen = jax.tree.map(lambda leaf: leaf[rows] if eqx.is_array(leaf) else leaf, drawn)
    starts = [*given, *unstacked(chosen)]
    if settings.trained_starts is None or settings.trained_starts >= len(starts):
        return train_from(starts, task, settings.training, key=training_key)
    if given:
        scores = np.append(screened(stacked(given), task, settings, key=screen_key), scores[rows])
    else:
        scores = scores[rows]
    kept = np.sort(np.argsort(scores, kind="stable")[: settings.trained_starts])
    trained = train_from([starts[at] for at in kept], task, settings.training, key=training_key)
    found = np.full(len(starts), np.nan)
    found[kept] = trained.scores
    return Trained(trained.box, found)


def train_from(
    starts: Sequence[WhiteBox], task: AbstractTask, training: MetaTraining, *, key: Key[Array, ""]
) -> Trained:
    """Train these white boxes of one structure on the same problems."""
    best, scores = best_of(starts, task, training, key=key)
    assert isinstance(best, WhiteBox)
    return Trained(reordered(best), scores)


def best_of(
    starts: Sequence[AbstractOptimizer],
    task: AbstractTask,
    training: MetaTraining,
    *,
    key: Key[Array, ""],
) -> tuple[AbstractOptimizer, Float[np.ndarray, " start"]]:
    """The best of these optimizers after training on the same problems, and all scores.

    They are trained side by side, but in turn if they are searched without gradients. Those that
    have no number to train are scored as they are. A signal that stops a training is passed on:
    half of it would be taken for the whole.
    """
    if not any(map(eqx.is_inexact_array, jax.tree.leaves(starts[0]))):
        scores = _as_they_are(starts, task, training, key=key)
        return starts[int(np.argmin(scores))], scores
    if training.estimator == "cma":
        run = PopulationRun(tuple(_searched(start, task, training, key=key) for start in starts))
    else:
        keys = jnp.stack([key] * len(starts))
        run = meta_train_population(task, stacked(starts), training, keys=keys, progress=False)
        pass_on(run.outcome)
    scores = np.where(np.isfinite(run.scores), run.scores, np.inf)
    return run.members[int(np.argmin(scores))].optimizer, scores


def _searched(
    start: AbstractOptimizer, task: AbstractTask, training: MetaTraining, *, key: Key[Array, ""]
) -> MetaTrainingRun:
    """The run of one of them, to its end."""
    run = meta_train(task, start, training, key=key, progress=False)
    pass_on(run.history.outcome)
    return run


def _as_they_are(
    optimizers: Sequence[AbstractOptimizer],
    task: AbstractTask,
    training: MetaTraining,
    *,
    key: Key[Array, ""],
) -> Float[np.ndarray, " start"]:
    """Scores on the selection problems that training from `key` would have."""
    problems = selection_problems(task, jr.split(key)[1], training)
    settings = of_selection(training)
    found = [float(selection_score(one, task, problems, settings)) for one in optimizers]
    return np.where(np.isfinite(found), found, np.inf)


def first_and_best(scores: Float[np.ndarray, " box"], others: int) -> list[int]:
    """Places of the first white box, as it is, and of the best `others`, best first."""
    return [0, *(int(at) for at in np.argsort(scores, kind="stable") if at)][: others + 1]


def screened(
    boxes: AbstractOptimizer, task: AbstractTask, settings: BoxTraining, *, key: Key[Array, ""]
) -> Float[np.ndarray, " box"]:
    """Mean meta-objective of stacked white boxes on problems from `key`; inf where one diverged."""
    problems = eqx.filter_jit(sample_problems)(task, key, settings.screening_problems)
    training = settings.training
    scores, _ = score_settings(task, boxes, problems, training.unroll, training.objective)
    return np.asarray(scores, float)
