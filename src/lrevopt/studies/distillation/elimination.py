"""As few numbers as possible, from the other end: a white box that loses a number at a time.

Growth is greedy, and what it finds depends on its first steps. Backward elimination begins with all
numbers, where they can work together. Each round tries every removal (`removals`): the numbers that
are left start from where they are and from random places nearby, which are scored. The best few
removals are trained, and the one that is best on selection problems is kept.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from lrevopt import storage
from lrevopt.checks import instance, positive_integer, random_key
from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.meta_training.settings import BACKPROPAGATING
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.optimizers.stacking import stacked, unstacked
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.studies.distillation.contestants import (
    check_baselines,
    check_scored,
    typical_sizes,
)
from lrevopt.studies.distillation.path import PathPoint, WhiteBoxPath, tested_path
from lrevopt.studies.distillation.removals import (
    Kept,
    Tied,
    Ties,
    all_free,
    reduced,
    removals,
    tied,
)
from lrevopt.studies.distillation.starts import random_boxes
from lrevopt.studies.distillation.training import (
    BOX_TRAINING,
    BoxTraining,
    best_of,
    first_and_best,
    screened,
)
from lrevopt.tasks.interface import AbstractTask

NEARBY = 0.3
"""Deviation of the coordinates of starts near a trained white box, besides the learning rate's."""


def prune_path(
    optimizer: AbstractOptimizer,
    white_box: WhiteBox,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    test_key: Key[Array, ""],
    baselines: Mapping[str, AbstractOptimizer],
    settings: BoxTraining = BOX_TRAINING,
    problems: int = 256,
) -> WhiteBoxPath:
    """White boxes of ever fewer numbers, down to the learning rate: backward elimination.

    A *removal* leaves a part or a mode out, makes an oscillating mode a real one, or ties a number
    to a textbook value. Each round keeps the removal that costs least after training.

    - `optimizer`: the learned optimizer that they are compared with.
    - `white_box`: all parts, with at most two modes. It is trained first, from its own numbers and
      from random ones.
    - `settings.starts`: random starts of the first training, and of each removal besides the
      numbers as they are; `settings.candidates` are drawn for each, of which the best are taken.
    - `baselines`: tuned optimizers by name; the best on problems from `key` is the reference.
    - `key`: of training, selection and starts. `test_key`: of the `problems` test problems.

    Raises `ValueError` for what is no white box or baseline, a white box of more than two modes,
    an optimizer that never moves, or a task of negative first losses.
    """
    instance("white_box", white_box, WhiteBox, "a `WhiteBox`")
    instance("settings", settings, BoxTraining, "`BoxTraining` settings")
    problems = positive_integer("problems", problems)
    key, test_key = random_key("key", key), random_key("test_key", test_key)
    box, ties = all_free(white_box)
    check_run(optimizer, task, key)
    check_baselines(baselines, task, key)
    steps = settings.training.unroll
    check_scored(task, steps, ((test_key, problems), (key, settings.training.selection_problems)))
    typical = typical_sizes(optimizer, task, steps, key=key)
    points = _points(box, ties, task, typical, settings=settings, key=key)
    return tested_path(
        points, optimizer, baselines, task, settings=settings, key=key, test_key=test_key,
        problems=problems,
    )  # fmt: skip


def _points(
    box: WhiteBox,
    ties: Ties,
    task: AbstractTask,
    typical: Typical,
    *,
    settings: BoxTraining,
    key: Key[Array, ""],
) -> list[PathPoint]:
    """Every white box of the path. What is trained is kept when it is done."""
    training_key, screen_key, draw_key = jr.split(jr.fold_in(key, 0), 3)
    train = _Training(task, settings, screen_key, training_key)
    count = settings.starts * settings.candidates
    random = random_boxes(box, count, typical, key=draw_key, keep=ties)
    begin = train.starts(stacked([box, *unstacked(random)]), ties)
    kept = storage.part("all numbers", Kept, partial(train.best, begin, ties), of=begin)
    points = [_point("all", box, kept, ())]
    while True:
        now, ties = kept.state(box)
        options = removals(now, ties, typical)
        if not options:
            return points
        place, starts = len(points), {}
        for name, each in zip(
            options, jr.split(jr.fold_in(draw_key, place), len(options)), strict=True
        ):
            nearby = _nearby(now, settings.candidates, key=each)
            starts[name] = train.starts(nearby, ties | options[name])
        chosen = sorted(starts, key=lambda name: starts[name].score)[: settings.tried]
        found = {
            name: storage.part(
                f"{place} {name}", Kept, partial(train.best, starts[name], ties | options[name]),
                of=starts[name])
            for name in chosen
        }  # fmt: skip
        best = min(found, key=lambda name: found[name].scores.min())
        kept = found[best]
        tried = tuple(f"without {name}: {one.scores.min():.5f}" for name, one in found.items())
        points.append(_point(f"without {best}", box, kept, tried))


class _Starts(eqx.Module):
    """White boxes to train, stacked, and the best score of those that they were taken from."""

    boxes: Tied
    score: float


@dataclasses.dataclass(frozen=True)
class _Training:
    """How white boxes with ties are chosen and trained, always on the same problems."""

    task: AbstractTask
    settings: BoxTraining
    screen_key: Key[Array, ""]
    training_key: Key[Array, ""]

    def starts(self, drawn: WhiteBox, ties: Ties) -> _Starts:
        """The first of stacked white boxes and the best of the others."""
        each = [tied(one, ties) for one in unstacked(drawn)]
        scores = screened(stacked(each), self.task, self.settings, key=self.screen_key)
        chosen = stacked([each[at] for at in first_and_best(scores, self.settings.starts)])
        return _Starts(chosen, float(scores.min()))

    def best(self, starts: _Starts, ties: Ties) -> Kept:
        """The best of these white boxes after training on the same problems.

        Ties have no derivative, so that a meta-gradient leaves them. Perturbations of weights and a
        penalty on them would not: there white boxes hold what ties fix.
        """
        each: Sequence[AbstractOptimizer] = unstacked(starts.boxes)
        training = self.settings.training
        if training.estimator not in BACKPROPAGATING or training.penalty:
            each = [one.box.holding(*ties) for one in unstacked(starts.boxes)]
        best, scores = best_of(each, self.task, training, key=self.training_key)
        box = best.holding() if isinstance(best, WhiteBox) else cast(Tied, best).box
        return Kept.of(box, ties, scores)


def _point(name: str, structure: WhiteBox, kept: Kept, tried: tuple[str, ...]) -> PathPoint:
    """A point of the path. What runs it has the structure of all, so that one program runs all."""
    box, ties = kept.state(structure)
    return PathPoint(name, reduced(box, ties), tied(box, ties).box, float(kept.scores.min()), tried)


def _nearby(box: WhiteBox, count: int, *, key: Key[Array, ""]) -> WhiteBox:
    """White boxes near one, stacked, with learning rates up to a factor 10 away; itself first."""
    keys = jr.split(key, len(box.coordinates) + 1)
    found = {
        name: value + NEARBY * jr.normal(one, (count,), value.dtype).at[0].set(0.0)
        for (name, value), one in zip(box.coordinates.items(), keys[1:], strict=True)
    }
    shift = jr.permutation(keys[0], jnp.linspace(-1.0, 1.0, count) * jnp.log(10.0))
    rate = box.coordinates["learning_rate"]
    found["learning_rate"] = rate + shift.at[0].set(0.0).astype(rate.dtype)
    return eqx.tree_at(lambda b: b.coordinates, box, found)
