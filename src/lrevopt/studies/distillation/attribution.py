"""What each part of a white box is worth: every subset of parts is trained, and gains are shared.

With B, L and W(S) the mean meta-objectives of the best tuned baseline, of the learned optimizer
and of the white box with the parts S, the share of the gain that S explains is

    v(S) = max(0, B - W(S)) / (B - L)

The worth of a part is its Shapley value: its contribution v(S + part) - v(S), averaged over the
orders in which parts can be added. Worths sum to v(all parts) - v(none). What is left to 1 is the
rest, which no part explains.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from lrevopt import storage
from lrevopt.checks import instance, mapping, positive_integer, random_key
from lrevopt.inner_loop.evaluation import BOOTSTRAP_SEED, CONFIDENCE, evaluate
from lrevopt.inner_loop.recorded_runs import Typical, record_runs, typical_of
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import box_of, document_of, with_parts
from lrevopt.studies.distillation.embedding import embedded
from lrevopt.studies.distillation.gain import RESAMPLES, best_baseline
from lrevopt.studies.distillation.training import (
    BOX_TRAINING,
    BoxTraining,
    Trained,
    train_boxes,
)
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Printed, Table, number, percent

LEARNED = "learned"


class Worth(NamedTuple):
    """Shapley values of the parts with 95 % bootstrap intervals, and the rest."""

    values: Float[np.ndarray, " part"]
    lows: Float[np.ndarray, " part"]
    highs: Float[np.ndarray, " part"]
    none: float
    rest: tuple[float, float, float]


class Attribution(Printed, eqx.Module):
    """Meta-objectives of every subset of parts on test problems, and what parts are worth.

    - `subsets` says which parts a row has; `objectives` are by training seed, subset and test
      problem, inf where a run diverged; `learned` and `baseline` on the same problems.
    - `documents` are the trained white boxes as JSON, seed by seed; `selection_scores` those of the
      chosen starts, `start_scores` of all starts, NaN where a subset had fewer.
    """

    parts: tuple[str, ...]
    subsets: Bool[np.ndarray, "subset part"]
    objectives: Float[np.ndarray, "seed subset problem"]
    learned: Float[np.ndarray, " problem"]
    baseline: Float[np.ndarray, " problem"]
    baseline_name: str
    documents: tuple[str, ...]
    selection_scores: Float[np.ndarray, "seed subset"]
    start_scores: Float[np.ndarray, "seed subset start"]

    def white_box(self, seed: int = 0, parts: Sequence[str] | None = None) -> WhiteBox:
        """The trained white box with these parts (default: all), of one training seed."""
        wanted = self.parts if parts is None else parts
        rows = [[part in wanted for part in self.parts] == row for row in self.subsets.tolist()]
        return box_of(json.loads(self.documents[seed * len(self.subsets) + rows.index(True)]))

    def explained(self) -> Float[np.ndarray, "seed subset"]:
        """v(S) by seed."""
        return explained(
            self.objectives.mean(axis=2), float(self.learned.mean()), float(self.baseline.mean())
        )

    def worth(self, seed: int | None = None) -> Worth:
        """Shapley values of one seed, or of the mean over seeds, with intervals.

        Intervals are over test problems and, for the mean, over seeds as well.
        """
        chosen = self.objectives if seed is None else self.objectives[seed : seed + 1]
        generator = np.random.default_rng(BOOTSTRAP_SEED)
        draws = [self._worth_of(chosen, *self._pick(generator, len(chosen)))
                 for _ in range(RESAMPLES)]  # fmt: skip
        every = np.arange(self.learned.size)
        values, none, rest = self._worth_of(chosen, np.arange(len(chosen)), every)
        ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        lows, highs = np.nanquantile([draw[0] for draw in draws], ends, axis=0)
        low, high = np.nanquantile([draw[2] for draw in draws], ends)
        return Worth(values, lows, highs, none, (rest, float(low), float(high)))

    def _pick(self, generator: np.random.Generator, seeds: int) -> tuple[np.ndarray, np.ndarray]:
        size = self.learned.size
        return generator.integers(seeds, size=seeds), generator.integers(size, size=size)

    def _worth_of(
        self, objectives: np.ndarray, seeds: np.ndarray, problems: np.ndarray
    ) -> tuple[np.ndarray, float, float]:
        """Values, v(none) and the rest, on these seeds and problems."""
        means = objectives[seeds][:, :, problems].mean(axis=2)
        found = explained(
            means, float(self.learned[problems].mean()), float(self.baseline[problems].mean())
        ).mean(axis=0)
        values = shapley_values(self.subsets, found)
        none = float(found[~self.subsets.any(axis=1)][0])
        return values, none, 1 - float(found[self.subsets.all(axis=1)][0])

    def table(self) -> Table:
        """A row for each part and for the rest; below, the ranking of each seed."""
        worth = self.worth()
        rows: list[tuple[str, ...]] = [
            (part, percent(value), percent(low), percent(high))
            for part, value, low, high in zip(
                self.parts, worth.values, worth.lows, worth.highs, strict=True)
        ]  # fmt: skip
        rows.append(("rest", *map(percent, worth.rest)))
        seeds = range(len(self.objectives))
        ranks = (np.argsort(-self.worth_of_seed(seed), kind="stable") for seed in seeds)
        orders = [" > ".join(self.parts[place] for place in order) for order in ranks]
        full = self.subsets.all(axis=1)
        means = self.objectives[:, full].mean(axis=(1, 2))
        notes = [
            f"Share of the gain of the learned optimizer ({number(float(self.learned.mean()), 4)}) "
            f"over {self.baseline_name} ({number(float(self.baseline.mean()), 4)}), mean "
            f"meta-objectives on {self.learned.size} test problems; all parts together reach "
            f"{', '.join(number(float(mean), 4) for mean in means)}, by seed. Ranking by seed: "
            f"{'; '.join(orders)}. Intervals: 95 %, bootstrap over seeds and problems."
        ]
        heads = ("part", "worth", "low", "high")
        return Table(f"Worth of {len(self.parts)} parts", heads, rows, notes)

    def worth_of_seed(self, seed: int) -> Float[np.ndarray, " part"]:
        """Shapley values of one seed, without intervals."""
        every = np.arange(self.learned.size)
        return self._worth_of(self.objectives, np.array([seed]), every)[0]


def explained(
    objectives: Float[np.ndarray, "seed subset"], learned: float, baseline: float
) -> Float[np.ndarray, "seed subset"]:
    """v(S) of mean meta-objectives; NaN where the learned optimizer gains nothing."""
    if not (np.isfinite(learned) and baseline > learned):
        return np.full(objectives.shape, np.nan)
    if not np.isfinite(baseline):  # any white box that did not diverge explains all of it
        return np.isfinite(objectives).astype(float)
    finite = np.where(np.isfinite(objectives), objectives, baseline)
    return np.maximum(0.0, baseline - finite) / (baseline - learned)


def all_subsets(count: int) -> Bool[np.ndarray, "subset part"]:
    """Every subset of parts, smaller ones first."""
    rows = itertools.product((False, True), repeat=count)
    return np.array(sorted(rows, key=lambda row: (sum(row), [not one for one in row])), bool)


def shapley_values(
    subsets: Bool[np.ndarray, "subset part"], values: Float[np.ndarray, " subset"]
) -> Float[np.ndarray, " part"]:
    """Shapley values of a game from its value on every subset."""
    of = {tuple(row): value for row, value in zip(subsets.tolist(), values, strict=True)}
    count = subsets.shape[1]
    found = np.zeros(count)
    for row, value in of.items():
        size = sum(row)
        for part in range(count):
            if not row[part]:
                weight = math.factorial(size) * math.factorial(count - size - 1)
                more = (*row[:part], True, *row[part + 1 :])
                found[part] += weight / math.factorial(count) * (of[more] - value)
    return found


def attribute(
    optimizer: AbstractOptimizer,
    white_box: WhiteBox,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    test_key: Key[Array, ""],
    baselines: Mapping[str, AbstractOptimizer],
    settings: BoxTraining = BOX_TRAINING,
    distilled: WhiteBox | None = None,
    seeds: int = 1,
    problems: int = 256,
) -> Attribution:
    """Train every subset of the parts of a white box, and share the gain of `optimizer` out.

    Each subset starts at random and from the best of the subsets that lack one of its parts.

    - `baselines`: tuned optimizers by name; the best on problems from `key` is the reference.
    - `key`: of training, selection and starts. `test_key`: of the test problems.
    - `distilled`: a white box of the same parts with good numbers, such as those of a fit to the
      learned optimizer; every subset starts from its parts, too.
    - `seeds`: repetitions with other training problems and starts.

    Raises `ValueError` for what is no white box or baseline, or a white box without parts.
    """
    _check(white_box, baselines, settings)
    key, test_key = random_key("key", key), random_key("test_key", test_key)
    seeds, problems = positive_integer("seeds", seeds), positive_integer("problems", problems)
    check_run(optimizer, task, key)
    steps = settings.training.unroll
    typical = typical_sizes(optimizer, task, steps, key=key)
    trained = [
        _train_subsets(
            white_box, task, typical, settings, distilled=distilled, key=jr.fold_in(key, seed)
        )
        for seed in range(seeds)
    ]
    rows, best = tested_beside(
        {f"{seed} {row}": one.box for seed, runs in enumerate(trained)
         for row, one in enumerate(runs)},
        optimizer, baselines, task, settings=settings, key=key, test_key=test_key,
        problems=problems,
    )  # fmt: skip
    most = settings.starts + len(white_box.parts) + (distilled is not None)
    every = [one for runs in trained for one in runs]
    subsets = all_subsets(len(white_box.parts))
    shape = (seeds, len(subsets), -1)
    return Attribution(
        parts=white_box.parts,
        subsets=subsets,
        objectives=np.stack(list(rows.values())[: len(every)]).reshape(shape),
        learned=rows[LEARNED],
        baseline=rows[best],
        baseline_name=best,
        documents=tuple(json.dumps(document_of(one.box)) for one in every),
        selection_scores=np.array([one.scores.min() for one in every]).reshape(shape[:2]),
        start_scores=np.stack([_padded(one.scores, most) for one in every]).reshape(shape),
    )


def _check(
    white_box: WhiteBox, baselines: Mapping[str, AbstractOptimizer], settings: BoxTraining
) -> None:
    instance("white_box", white_box, WhiteBox, "a `WhiteBox`")
    instance("settings", settings, BoxTraining, "`BoxTraining` settings")
    mapping("baselines", baselines, "optimizers")
    if not white_box.parts:
        raise ValueError("`white_box` must have at least one part, got none.")


def tested_beside(
    boxes: Mapping[str, AbstractOptimizer],
    optimizer: AbstractOptimizer,
    baselines: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    *,
    settings: BoxTraining,
    key: Key[Array, ""],
    test_key: Key[Array, ""],
    problems: int,
) -> tuple[dict[str, Float[np.ndarray, " problem"]], str]:
    """Meta-objectives on test problems, white boxes first, and the name of the best baseline.

    That is the one with the least mean meta-objective on problems from `key`.
    """
    count, steps = settings.training.selection_problems, settings.training.unroll
    best = best_baseline(baselines, task, problems=count, steps=steps, key=key)
    tested = evaluate(
        {**boxes, LEARNED: optimizer, **baselines}, task, problems=problems, steps=steps,
        key=test_key,
    )  # fmt: skip
    rows = np.asarray(tested.meta_objectives(), float)
    return dict(zip(tested.names, rows, strict=True)), best


def typical_sizes(
    optimizer: AbstractOptimizer, task: AbstractTask, steps: int, *, key: Key[Array, ""]
) -> Typical:
    """Sizes of gradients along runs of a learned optimizer, around which random starts lie."""
    return typical_of(record_runs(optimizer, task, key=key, problems=16, steps=steps).gradients)


def _train_subsets(
    white_box: WhiteBox,
    task: AbstractTask,
    typical: Typical,
    settings: BoxTraining,
    *,
    distilled: WhiteBox | None,
    key: Key[Array, ""],
) -> list[Trained]:
    """The trained white box of every subset, smaller ones first. Each is kept when it is done."""
    found: dict[tuple[bool, ...], Trained] = {}
    for place, row in enumerate(all_subsets(len(white_box.parts)).tolist()):
        parts = [part for part, there in zip(white_box.parts, row, strict=True) if there]
        box = with_parts(white_box, parts)
        smaller = [found[(*row[:at], False, *row[at + 1 :])] for at in range(len(row)) if row[at]]
        given = [embedded(one.box, box, typical) for one in smaller]
        given += [] if distilled is None else [with_parts(distilled, parts)]
        record = storage.part(
            "+".join(parts) or "none", Kept,
            lambda box=box, given=given, place=place: Kept.of(train_boxes(  # type: ignore[misc]
                box, task, key=jr.fold_in(key, place), typical=typical, given=given,
                settings=settings)),
            of=(box, given),
        )  # fmt: skip
        found[tuple(row)] = record.trained()
    return list(found.values())


class Kept(eqx.Module):
    """A trained white box as a record."""

    document: str
    scores: Float[np.ndarray, " start"]

    @classmethod
    def of(cls, trained: Trained) -> "Kept":
        """The record."""
        return cls(json.dumps(document_of(trained.box)), trained.scores)

    def trained(self) -> Trained:
        """What it is a record of."""
        return Trained(box_of(json.loads(self.document)), self.scores)


def _padded(scores: Float[np.ndarray, " start"], count: int) -> Float[np.ndarray, " most"]:
    return np.concatenate([scores, np.full(count - scores.size, np.nan)])
