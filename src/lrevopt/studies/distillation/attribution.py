"""What each part of a white box is worth: every subset of parts is trained, and gains are shared.

With B, L and W(S) the mean meta-objectives of the best tuned baseline, of the learned optimizer
and of the white box with the parts S, the share of the gain that S explains is

    v(S) = max(0, B - W(S)) / (B - L)

A subset that diverged on any test problem explains nothing, in every resample of the problems too.
The worth of a part is its Shapley value: its contribution v(S + part) - v(S), averaged over the
orders in which parts can be added. Worths sum to v(all parts) - v(none), where v(none) is what the
learning rate explains alone. What is left to 1 is the rest, which no part explains.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from lrevopt import storage
from lrevopt.checks import (
    instance,
    integer_of_at_least,
    one_of,
    positive_integer,
    random_key,
    shown,
)
from lrevopt.inner_loop.evaluation import BOOTSTRAP_SEED, CONFIDENCE
from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import box_of, document_of, with_parts
from lrevopt.studies.distillation.contestants import (
    check_baselines,
    check_parts,
    check_scored,
    measured_beside,
    typical_sizes,
)
from lrevopt.studies.distillation.embedding import embedded
from lrevopt.studies.distillation.gain import RESAMPLES, divergences, no_gain, without_luck
from lrevopt.studies.distillation.games import all_subsets, ranking, shapley_values
from lrevopt.studies.distillation.training import (
    BOX_TRAINING,
    BoxTraining,
    Trained,
    train_boxes,
)
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Printed, Table, counted, number, percent


class Worth(NamedTuple):
    """Shapley values of the parts with 95 % bootstrap intervals, v(none) and the rest.

    `values`, `none` and `rest` sum to 1: `none` is what the learning rate explains alone, without
    any part. `none_ends` is its interval; `rest` has its own behind its value. All is NaN where
    the gain has no size (see `Attribution.unknown`), and so are intervals where it has none in more
    than 5 % of the resamples.
    """

    values: Float[np.ndarray, " part"]
    lows: Float[np.ndarray, " part"]
    highs: Float[np.ndarray, " part"]
    none: float
    none_ends: tuple[float, float]
    rest: tuple[float, float, float]


class Attribution(Printed, eqx.Module):
    """Meta-objectives of every subset of parts on test problems, and what parts are worth.

    - `subsets` says which parts a row has; `objectives` are by training seed, subset and test
      problem, inf where a run diverged; `learned` and `baseline` on the same problems.
    - `documents` are the trained white boxes as JSON, seed by seed; `selection_scores` those of the
      chosen starts, `start_scores` of all starts, NaN where a subset had fewer or a start was not
      trained.
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
        """The trained white box with these parts (default: all), of one training seed.

        Raises `ValueError` for a seed or a part that the record does not have.
        """
        wanted = set(self.parts if parts is None else self._known(parts))
        rows = [[part in wanted for part in self.parts] == row for row in self.subsets.tolist()]
        place = self._row(seed) * len(self.subsets) + rows.index(True)
        return box_of(json.loads(self.documents[place]))

    def _known(self, parts: Sequence[str]) -> Sequence[str]:
        if isinstance(parts, str) or not isinstance(parts, Iterable):
            raise ValueError(f"`parts` must be a list of names of parts, got {shown(parts)}.")
        return [one_of("parts", part, self.parts) for part in parts]

    def _row(self, seed: int) -> int:
        row, count = integer_of_at_least(0, "seed", seed), len(self.objectives)
        if row >= count:
            raise ValueError(f"`seed` must be below {count}, the number of seeds, got {seed}.")
        return row

    def unknown(self) -> str | None:
        """Why the gain of the learned optimizer has no size that could be shared out, or `None`."""
        return no_gain(self.learned, self.baseline, self.baseline_name)

    def explained(self) -> Float[np.ndarray, "seed subset"]:
        """v(S) by seed; NaN where the gain has no size (see `unknown`)."""
        return explained(
            self.objectives.mean(axis=2), float(self.learned.mean()), float(self.baseline.mean())
        )

    def worth(self, seed: int | None = None) -> Worth:
        """Shapley values of one seed, or of the mean over seeds, with intervals.

        Intervals are over test problems and, for the mean, over seeds as well. Raises `ValueError`
        for a seed that the record does not have.
        """
        scored = without_luck(self.objectives)
        chosen = scored if seed is None else scored[self._row(seed)][None]
        shares = self._shares_of(chosen, np.arange(len(chosen)), np.arange(self.learned.size))
        ends = np.full((2, shares.size), np.nan)
        if np.isfinite(shares).all():
            generator = np.random.default_rng(BOOTSTRAP_SEED)
            draws = np.array([self._shares_of(chosen, *self._pick(generator, len(chosen)))
                              for _ in range(RESAMPLES)])  # fmt: skip
            if np.isnan(draws[:, 0]).mean() <= 1 - CONFIDENCE:
                levels = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
                ends = np.nanquantile(draws, levels, axis=0)
        (none, *_, rest), lows, highs = shares.tolist(), *ends
        return Worth(
            values=shares[1:-1], lows=lows[1:-1], highs=highs[1:-1], none=none,
            none_ends=(float(lows[0]), float(highs[0])),
            rest=(rest, float(lows[-1]), float(highs[-1])),
        )  # fmt: skip

    def _pick(self, generator: np.random.Generator, seeds: int) -> tuple[np.ndarray, np.ndarray]:
        size = self.learned.size
        return generator.integers(seeds, size=seeds), generator.integers(size, size=size)

    def _shares_of(
        self, objectives: np.ndarray, seeds: np.ndarray, problems: np.ndarray
    ) -> Float[np.ndarray, " share"]:
        """v(none), values of the parts and the rest, on these seeds and problems.

        `objectives` are those `without_luck`, so that what diverged has done so on all problems.
        """
        learned, baseline = (float(row[problems].mean()) for row in (self.learned, self.baseline))
        means = objectives[seeds][:, :, problems].mean(axis=2)
        found = explained(means, learned, baseline).mean(axis=0)
        none, full = found[~self.subsets.any(axis=1)], found[self.subsets.all(axis=1)]
        return np.concatenate([none, shapley_values(self.subsets, found), 1 - full])

    def table(self) -> Table:
        """A row for the rate alone, each part and the rest; below, the ranking of each seed.

        Rows sum to the whole gain.
        """
        worth = self.worth()
        each = zip(self.parts, worth.values, worth.lows, worth.highs, strict=True)
        shares = [("rate alone", worth.none, *worth.none_ends), *each, ("rest", *worth.rest)]
        rows = [(name, *map(percent, found)) for name, *found in shares]
        full = self.subsets.all(axis=1)
        means = self.objectives[:, full].mean(axis=(1, 2))
        note = (
            f"Share of the gain of the learned optimizer ({number(float(self.learned.mean()), 4)}) "
            f"over {self.baseline_name} ({number(float(self.baseline.mean()), 4)}), mean "
            f"meta-objectives on {self.learned.size} test problems; all parts together reach "
            f"{', '.join(number(float(mean), 4) for mean in means)}, by seed. "
        )
        heads = ("part", "worth", "low", "high")
        title = f"Worth of {counted(len(self.parts), 'part')}"
        return Table(title, heads, rows, [note + self._certainty(worth), *self._divergences()])

    def _divergences(self) -> list[str]:
        """A note on the subsets that diverged, of a gain that there is."""
        if self.unknown() is not None:
            return []
        rows = {}
        for seed, objectives in enumerate(self.objectives):
            of = f" (seed {seed})" if len(self.objectives) > 1 else ""
            for has, row in zip(self.subsets, objectives, strict=True):
                name = " + ".join(np.array(self.parts)[has]) or "rate alone"
                rows[f"{name}{of}"] = row
        return divergences(rows, "explain nothing")

    def _certainty(self, worth: Worth) -> str:
        """Ranking by seed and what intervals are, or why there are none."""
        if (reason := self.unknown()) is not None:
            return f"There is no gain to share: {reason}."
        orders = [
            ranking(self.parts, self.worth_of_seed(seed)) for seed in range(len(self.objectives))
        ]
        bounds = "95 %, bootstrap over seeds and problems"
        if np.isnan(worth.rest[1]):
            bounds = (
                "not available, since the learned optimizer gains nothing in more than 5 % of "
                "the resamples"
            )
        return f"Ranking by seed: {'; '.join(orders)}. Intervals: {bounds}."

    def worth_of_seed(self, seed: int) -> Float[np.ndarray, " part"]:
        """Shapley values of one seed, without intervals. Raises `ValueError` as `worth` does."""
        every = np.arange(self.learned.size)
        chosen = without_luck(self.objectives)
        return self._shares_of(chosen, np.array([self._row(seed)]), every)[1:-1]


def explained(
    objectives: Float[np.ndarray, "seed subset"], learned: float, baseline: float
) -> Float[np.ndarray, "seed subset"]:
    """v(S) of mean meta-objectives; NaN where the learned optimizer has no gain of finite size."""
    if not (np.isfinite([learned, baseline]).all() and baseline > learned):
        return np.full(objectives.shape, np.nan)
    finite = np.where(np.isfinite(objectives), objectives, baseline)
    return np.maximum(0.0, baseline - finite) / (baseline - learned)


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

    Each subset starts at random and from the best of the subsets that lack one of its parts. Where
    `settings` limit `trained_starts`, only those of its starts are trained that score best.

    - `baselines`: tuned optimizers by name; the best on problems from `key` is the reference.
    - `key`: of training, selection and starts. `test_key`: of the test problems.
    - `distilled`: a white box of the same structure with good numbers, such as those of a fit to
      the learned optimizer; every subset starts from its parts, too.
    - `seeds`: repetitions with other training problems and starts.

    Raises `ValueError` for what is no white box or baseline, a white box without parts or with its
    rate held, a `distilled` of another structure, an optimizer that never moves, or losses below 0.
    """
    _check(white_box, distilled, settings)
    key, test_key = random_key("key", key), random_key("test_key", test_key)
    seeds, problems = positive_integer("seeds", seeds), positive_integer("problems", problems)
    check_run(optimizer, task, key)
    check_baselines(baselines, task, key)
    draws = (test_key, problems), (key, settings.training.selection_problems)
    steps, subsets = settings.training.unroll, all_subsets(len(white_box.parts))
    check_scored(task, steps, draws, seeds * len(subsets) + 2)
    typical = typical_sizes(optimizer, task, steps, key=key)
    trained = [
        _train_subsets(
            white_box, task, typical, settings, distilled=distilled, key=jr.fold_in(key, seed)
        )
        for seed in range(seeds)
    ]
    every = [one for runs in trained for one in runs]
    tested = measured_beside(
        [one.box for one in every], optimizer, baselines, task, settings=settings, key=key,
        test_key=test_key, problems=problems,
    )  # fmt: skip
    most = settings.starts + len(white_box.parts) + (distilled is not None)
    shape = (seeds, len(subsets), -1)
    return Attribution(
        parts=white_box.parts,
        subsets=subsets,
        objectives=tested.boxes.reshape(shape),
        learned=tested.learned,
        baseline=tested.baseline,
        baseline_name=tested.baseline_name,
        documents=tuple(json.dumps(document_of(one.box)) for one in every),
        selection_scores=np.array([np.nanmin(one.scores) for one in every]).reshape(shape[:2]),
        start_scores=np.stack([_padded(one.scores, most) for one in every]).reshape(shape),
    )


def _check(white_box: WhiteBox, distilled: WhiteBox | None, settings: BoxTraining) -> None:
    instance("white_box", white_box, WhiteBox, "a `WhiteBox`")
    instance("settings", settings, BoxTraining, "`BoxTraining` settings")
    check_parts(white_box)
    if distilled is not None:
        instance("distilled", distilled, WhiteBox, "a `WhiteBox`")
        _check_alike(distilled.description(), white_box.description())


def _check_alike(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless these are descriptions of white boxes of one structure."""
    odd = sorted(set(found["numbers"]) ^ set(wanted["numbers"]))
    if odd:
        owner = "`white_box`" if odd[0] in wanted["numbers"] else "it"
        raise ValueError(
            f"`distilled` must have the numbers of `white_box`, but {owner} alone has {odd[0]!r}."
        )
    for name in ("saturation_of", "adaptation_of", "floor_outside"):
        if found[name] != wanted[name]:
            raise ValueError(
                f"`distilled` must have the `{name}` of `white_box`, {wanted[name]!r}, got "
                f"{found[name]!r}."
            )
    mine, theirs = found["held"], wanted["held"]
    # Held numbers come back from JSON to round-off.
    if mine.keys() != theirs.keys() or not np.allclose(
        [mine[name] for name in mine], [theirs[name] for name in mine], rtol=1e-4, atol=0
    ):
        raise ValueError(
            f"`distilled` must hold the numbers that `white_box` holds, {theirs}, got {mine}."
        )


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
