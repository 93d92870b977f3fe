"""As few numbers as possible: white boxes that grow by one move at a time.

Each round tries every move (`moves_from`): new numbers are drawn at random, the others stay, and
the draws are scored. The best few moves are trained from their best draws, and the one that is best
on selection problems is kept, whether it adds one number or more. Choosing by the progress for each
added number was tried on Rosenbrock and ends in a worse place.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt import storage
from lrevopt.checks import instance, positive_integer, random_key
from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.optimizers.stacking import unstacked
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import Document, box_of, document_of
from lrevopt.studies.distillation.contestants import (
    check_baselines,
    check_scored,
    measured_beside,
    typical_sizes,
)
from lrevopt.studies.distillation.gain import Share, divergences, gain_kept, no_gain
from lrevopt.studies.distillation.moves import moves_from, simplest
from lrevopt.studies.distillation.starts import random_boxes
from lrevopt.studies.distillation.training import (
    BOX_TRAINING,
    BoxTraining,
    Trained,
    first_and_best,
    screened,
    train_boxes,
    train_from,
)
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Printed, Table, counted, number, percent


class WhiteBoxPath(Printed, eqx.Module):
    """White boxes of ever more or fewer numbers and what they keep of a learned optimizer's gain.

    `names` are the moves, `counts` the free numbers after each, `objectives` meta-objectives on
    test problems, `selection_scores` those on selection problems. `tried` has a line for every
    move that was trained, with its selection score; `documents` are the white boxes as JSON.
    """

    names: tuple[str, ...]
    counts: Int[np.ndarray, " move"]
    documents: tuple[str, ...]
    objectives: Float[np.ndarray, "move problem"]
    selection_scores: Float[np.ndarray, " move"]
    learned: Float[np.ndarray, " problem"]
    baseline: Float[np.ndarray, " problem"]
    baseline_name: str
    tried: tuple[str, ...]

    def white_box(self, numbers: int) -> WhiteBox:
        """The best white box of at most so many free numbers.

        Raises `ValueError` if there is none, or none that has a score.
        """
        fitting = np.flatnonzero(self.counts <= positive_integer("numbers", numbers))
        if not fitting.size:
            raise ValueError(
                f"`numbers` must be at least {self.counts.min()}, the least of this path, got "
                f"{numbers}."
            )
        scores = self.selection_scores[fitting]
        if np.isnan(scores).all():
            raise ValueError(
                f"`numbers` must be those of a white box with a selection score, but of at most "
                f"{numbers} none has any: all scores are NaN."
            )
        best = fitting[np.nanargmin(scores)]
        return box_of(json.loads(self.documents[best]))

    def gains(self) -> list[Share]:
        """Share of the gain that each white box keeps."""
        return [gain_kept(row, self.learned, self.baseline) for row in self.objectives]

    def table(self) -> Table:
        """A row for each move."""
        rows = [
            (str(count), name, number(float(row.mean()), 4), *map(percent, share))
            for count, name, row, share in zip(
                self.counts.tolist(), self.names, self.objectives, self.gains(), strict=True)
        ]  # fmt: skip
        notes = [
            f"Learned optimizer {number(float(self.learned.mean()), 4)}, {self.baseline_name} "
            f"{number(float(self.baseline.mean()), 4)} on {self.learned.size} test problems. "
            f"Intervals: 95 %, bootstrap over problems. {len(self.tried)} white boxes were trained."
        ]
        if reason := no_gain(self.learned, self.baseline, self.baseline_name):
            notes.append(f"There is no gain to keep: {reason}.")
        moves = (f"{name} ({count})" for name, count in zip(self.names, self.counts, strict=True))
        notes += divergences(dict(zip(moves, self.objectives, strict=True)))
        heads = ("numbers", "move", "meta-objective", "gain kept", "low", "high")
        return Table(self._title(), heads, rows, notes)

    def _title(self) -> str:
        """Where the path leads; one of a single white box leads nowhere."""
        first, last = int(self.counts[0]), int(self.counts[-1])
        if first == last:
            return f"White box of {counted(first, 'number')}"
        return f"White boxes of ever {'more' if last > first else 'fewer'} numbers"


@dataclasses.dataclass(frozen=True)
class PathPoint:
    """A white box of a path: what was done last, JSON, what runs it, score, and what was tried."""

    name: str
    document: Document
    optimizer: AbstractOptimizer
    score: float
    tried: tuple[str, ...]


def tested_path(
    points: Sequence[PathPoint],
    optimizer: AbstractOptimizer,
    baselines: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    *,
    settings: BoxTraining,
    key: Key[Array, ""],
    test_key: Key[Array, ""],
    problems: int,
) -> WhiteBoxPath:
    """The record of a path, with meta-objectives on test problems (see `measured_beside`)."""
    tested = measured_beside(
        [point.optimizer for point in points], optimizer, baselines, task, settings=settings,
        key=key, test_key=test_key, problems=problems,
    )  # fmt: skip
    return WhiteBoxPath(
        names=tuple(point.name for point in points),
        counts=np.array([len(box_of(point.document).numbers()) for point in points]),
        documents=tuple(json.dumps(point.document) for point in points),
        objectives=tested.boxes,
        selection_scores=np.array([point.score for point in points]),
        learned=tested.learned,
        baseline=tested.baseline,
        baseline_name=tested.baseline_name,
        tried=sum((point.tried for point in points), ()),
    )


def grow_path(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    test_key: Key[Array, ""],
    baselines: Mapping[str, AbstractOptimizer],
    settings: BoxTraining = BOX_TRAINING,
    numbers: int = 8,
    problems: int = 256,
) -> WhiteBoxPath:
    """White boxes of 1, 2, ... up to `numbers` free numbers, each grown from the one before.

    A *move* adds one or two free numbers to a white box. In each round moves are tried, the
    resulting white boxes are meta-trained, and the best one on selection problems is kept.

    - `optimizer`: the learned optimizer that they are compared with.
    - `baselines`: tuned optimizers by name; the best on problems from `key` is the reference.
    - `key`: of training, selection and starts. `test_key`: of the `problems` test problems.

    Raises `ValueError` where `baselines` are no optimizers by name, for counts below 1, for an
    optimizer that never moves, or a task of negative first losses.
    """
    instance("settings", settings, BoxTraining, "`BoxTraining` settings")
    numbers, problems = positive_integer("numbers", numbers), positive_integer("problems", problems)
    key, test_key = random_key("key", key), random_key("test_key", test_key)
    check_run(optimizer, task, key)
    check_baselines(baselines, task, key)
    steps = settings.training.unroll
    check_scored(task, steps, ((test_key, problems), (key, settings.training.selection_problems)))
    typical = typical_sizes(optimizer, task, steps, key=key)
    points = _points(task, typical, settings, numbers, key=jr.fold_in(key, 0))
    return tested_path(
        points, optimizer, baselines, task, settings=settings, key=key, test_key=test_key,
        problems=problems,
    )  # fmt: skip


def _points(
    task: AbstractTask,
    typical: Typical,
    settings: BoxTraining,
    numbers: int,
    *,
    key: Key[Array, ""],
) -> list[PathPoint]:
    """Every white box of the path. Each round is kept when it is done."""

    def first() -> _Round:
        box = box_of(simplest())
        trained = train_boxes(box, task, key=key, typical=typical, settings=settings)
        return _Round.of("learning rate", trained, ())

    # As in `train_boxes`: all rounds are compared on the same selection problems.
    training_key = jr.split(key, 3)[2]
    points = [storage.part("path 1", _Round, first).point()]
    while True:
        document = points[-1].document
        box = box_of(document)
        count, place = len(box.numbers()), len(points)
        larger = {
            name: move for name, move in moves_from(document, typical).items()
            if len(move[0]["numbers"]) - len(move[0]["held"]) <= numbers
        }  # fmt: skip
        if count >= numbers or not larger:
            return points
        points.append(
            storage.part(
                f"path {place + 1}", _Round,
                lambda larger=larger, place=place: _round(  # type: ignore[misc]
                    larger, task, typical, settings=settings, key=jr.fold_in(key, place),
                    training_key=training_key),
                of=box,
            ).point()
        )  # fmt: skip


def _round(
    larger: Mapping[str, tuple[Document, tuple[str, ...]]],
    task: AbstractTask,
    typical: Typical,
    *,
    settings: BoxTraining,
    key: Key[Array, ""],
    training_key: Key[Array, ""],
) -> "_Round":
    """The best of the moves to `larger` white boxes."""
    screen_key, draw_key = jr.split(key)
    drawn, least = {}, {}
    for place, (name, (document, new)) in enumerate(larger.items()):
        boxes = _drawn(
            box_of(document), new, settings.candidates, typical, key=jr.fold_in(draw_key, place)
        )
        scores = screened(boxes, task, settings, key=screen_key)
        # The white box as it is comes first: most moves begin by changing nothing.
        each, order = unstacked(boxes), first_and_best(scores, settings.starts)
        drawn[name] = [each[at] for at in order]
        least[name] = float(scores.min())
    chosen = sorted(least, key=lambda name: least[name])[: settings.tried]
    found = {name: train_from(drawn[name], task, settings.training, key=training_key)
             for name in chosen}  # fmt: skip

    best = min(found, key=lambda name: found[name].scores.min())
    tried = tuple(
        f"{len(one.box.numbers())} numbers, {name}: {one.scores.min():.5f}"
        for name, one in found.items()
    )
    return _Round.of(best, found[best], tried)


def _drawn(
    box: WhiteBox, new: tuple[str, ...], count: int, typical: Typical, *, key: Key[Array, ""]
) -> WhiteBox:
    """White boxes, stacked, with new numbers at random, and learning rates up to a factor 10 away.

    Adaptation changes the units of the learning rate, which then is random as well. The first is
    `box` itself.
    """
    other_units = {"memory", "exponent"} & set(new)
    drawn = {*new, "learning_rate"} if other_units else set(new)
    random = random_boxes(box, count, typical, key=key, keep=set(box.numbers()) - drawn)
    mixed = {
        name: random.coordinates[name].at[0].set(value) if eqx.is_array(value) else value
        for name, value in box.coordinates.items()
    }
    if not other_units:
        shift = jnp.linspace(-1.0, 1.0, count) * jnp.log(10.0)
        turned = jr.permutation(key, shift).at[0].set(0.0)
        mixed["learning_rate"] += turned.astype(mixed["learning_rate"].dtype)
    return eqx.tree_at(lambda b: b.coordinates, random, mixed)


class _Round(eqx.Module):
    """A point of a path as a record."""

    name: str
    document: str
    scores: Float[np.ndarray, " start"]
    tried: tuple[str, ...]

    @classmethod
    def of(cls, name: str, trained: Trained, tried: tuple[str, ...]) -> "_Round":
        """The record."""
        return cls(name, json.dumps(document_of(trained.box)), trained.scores, tried)

    def point(self) -> PathPoint:
        """What it is a record of."""
        document = json.loads(self.document)
        score = float(np.nanmin(self.scores))
        return PathPoint(self.name, document, box_of(document), score, tuple(self.tried))
