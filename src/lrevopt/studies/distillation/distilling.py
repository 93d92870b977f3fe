"""A learned optimizer as a few numbers: fitted to its updates, then to its losses."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lrevopt import storage
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.checks import (
    instance,
    integer_of_at_least,
    one_of,
    positive_integer,
    random_key,
)
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.inner_loop.recorded_runs import RecordedRuns, r_squared, record_runs
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.optimizers.stacking import stacked, unstacked
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import box_of, document_of
from lrevopt.optimizers.white_box_numbers import in_range_of_type
from lrevopt.studies.distillation import fitting
from lrevopt.studies.distillation.contestants import (
    check_baselines,
    check_free,
    check_moves,
    check_scored,
)
from lrevopt.studies.distillation.gain import (
    Share,
    best_baseline,
    divergences,
    gain_kept,
    no_gain,
)
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Printed, Table, counted, number, percent
from lrevopt.tuning.baselines import BASELINES
from lrevopt.tuning.random_search import tune
from lrevopt.tuning.settings import Tuning

LEARNED, FITTED, CLOSED = "learned", "fitted to updates", "fitted to losses"
"""Names of the optimizers of a distillation beside the baselines."""

TUNING = Tuning(settings=500, problems=64, finalists=10)


class Distillation(Printed, eqx.Module):
    """A white box fitted to a learned optimizer, from several random starts.

    - `names` are the free numbers; `fitted` and `closed` their values in plain units after the fit
      to updates and after the fit to losses that follows it, a row for each start. `chosen` and
      `closed_chosen` are the rows that are best on selection problems.
    - `r_squared` are shares of the learned optimizer's updates that replayed ones explain, all
      steps weighing alike, on the problems of the fit and on selection problems;
      `test_r_squared` those of the two chosen ones on test problems.
    - `mismatch` is the mean square difference of log losses in closed loop, selection problems;
      inf where a white box diverged. `diverged` are the problems of the fit and of selection on
      which the learned optimizer diverged, which both fits leave out.
    - `standard_errors` (of coordinates; for positive numbers relative ones) and `identifiable`
      are those of the chosen fit to updates: see `Identification`.
    - `objectives` are meta-objectives on test problems, inf where a run diverged.
    """

    document: str
    names: tuple[str, ...]
    fitted: Float[np.ndarray, "start number"]
    closed: Float[np.ndarray, "start number"]
    r_squared: Float[np.ndarray, " start"]
    selection_r_squared: Float[np.ndarray, " start"]
    mismatch: Float[np.ndarray, " start"]
    diverged: Int[np.ndarray, "2"]
    chosen: int
    closed_chosen: int
    test_r_squared: Float[np.ndarray, "2"]
    standard_errors: Float[np.ndarray, " number"]
    identifiable: Bool[np.ndarray, " number"]
    contestants: tuple[str, ...]
    objectives: Float[np.ndarray, "contestant problem"]
    baseline: str

    @property
    def white_box(self) -> WhiteBox:
        """The white box fitted to losses, of the start that is best on selection problems."""
        return _with(box_of(json.loads(self.document)), self.closed[self.closed_chosen])

    def gain_kept(self, name: str = CLOSED) -> Share:
        """Share of the learned optimizer's gain over the best baseline that one of them keeps."""
        one_of("name", name, self.contestants)
        rows = dict(zip(self.contestants, self.objectives, strict=True))
        return gain_kept(rows[name], rows[LEARNED], rows[self.baseline])

    def table(self) -> Table:
        """The numbers, fitted to updates and to losses, and below them what they are worth."""
        both = self.fitted[self.chosen], self.closed[self.closed_chosen]
        rows: list[tuple[str, ...]] = [
            (name, number(float(one), 4), number(float(other), 4),
             number(float(error), 2) if known else "not identifiable")
            for name, one, other, error, known in zip(
                self.names, *both, self.standard_errors, self.identifiable, strict=True)
        ]  # fmt: skip
        each = dict(zip(self.contestants, self.objectives, strict=True))
        means = {name: row.mean() for name, row in each.items()}
        rows.append(
            ("R^2 of updates, test", *(number(float(r), 4) for r in self.test_r_squared), "")
        )
        pair = [number(float(means[name]), 4) for name in (FITTED, CLOSED)]
        rows.append(("meta-objective, test", *pair, ""))
        kept = [percent(self.gain_kept(name).value) for name in (FITTED, CLOSED)]
        rows.append(("share of the gain kept", *kept, ""))
        share = self.gain_kept()
        notes = [
            f"{self.objectives.shape[1]} test problems: learned optimizer "
            f"{number(float(means[LEARNED]), 4)}, best baseline ({self.baseline}) "
            f"{number(float(means[self.baseline]), 4)}. "
            f"Gain kept, fitted to losses: {share.words()}, 95 % bootstrap interval over problems. "
            f"{len(self.fitted)} random starts; R^2 of updates on selection problems from "
            f"{number(float(self.selection_r_squared.min()), 3)} to "
            f"{number(float(self.selection_r_squared.max()), 3)}. Standard errors are of "
            "coordinates: for positive numbers relative ones."
        ]  # fmt: skip
        if reason := no_gain(each[LEARNED], each[self.baseline], self.baseline):
            notes.append(f"There is no gain to keep: {reason}.")
        notes += divergences({name: each[name] for name in (FITTED, CLOSED)})
        if self.diverged.any():
            notes.append(
                f"The learned optimizer diverged on {self.diverged[0]} problems of the fit and on "
                f"{self.diverged[1]} of selection, which the fits leave out."
            )
        if not np.isfinite(self.mismatch).any():
            notes.append(
                "White boxes of all starts diverged on selection problems after the fit to losses: "
                "the first is shown."
            )
        heads = ("number", FITTED, CLOSED, "standard error")
        title = f"White box of {counted(len(self.names), 'number')}"
        return Table(title, heads, rows, notes)


@dataclasses.dataclass(frozen=True)
class Distilling:
    """How a learned optimizer is distilled. Raises `ValueError` for counts out of range."""

    starts: int = 10
    """Random starts."""
    candidates: int = 64
    """Random white boxes drawn for each start, of which the best one is taken."""
    iterations: int = 200
    """Largest number of Levenberg-Marquardt steps in the fit to updates."""
    refinement: int = 200
    """Steps of Adam in the fit to losses of the white box's own runs; 0 leaves this fit out."""
    problems: int = 64
    """Problems of the fit, and as many others for selection."""
    test_problems: int = 256
    """Test problems."""
    steps: int = 200
    """Updates in each run."""

    def __post_init__(self) -> None:
        for name in ("starts", "candidates", "iterations", "problems", "test_problems", "steps"):
            positive_integer(name, getattr(self, name))
        integer_of_at_least(0, "refinement", self.refinement)


def distill(
    optimizer: AbstractOptimizer,
    white_box: WhiteBox,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    baselines: Mapping[str, AbstractOptimizer] | None = None,
    settings: Distilling = Distilling(),
) -> Distillation:
    """The numbers with which `white_box` does what `optimizer` does on problems of `task`.

    First the updates: gradients that the learned optimizer meets along its own runs are replayed
    to the white box, whose updates are fitted to the learned ones by Levenberg-Marquardt. Then the
    losses: from each of these fits the white box runs by itself, and its log losses are fitted to
    those of the learned optimizer on the same problems.

    - `white_box`: its parts, and numbers that are held; values of free numbers are not used.
    - `baselines`: tuned optimizers by name (default: momentum, RMSProp and Adam are tuned here, 500
      settings each). The best on selection problems is the one that gains refer to.
    - `key`: split into those of the fit, selection, test, starts and tuning.

    Raises `ValueError` for what is no white box or baseline, a baseline that is named as one of
    the others in the record, an optimizer that does not fit the task, one that never moves or
    diverges on every problem, or a task of negative first losses.
    """
    _check(white_box, settings)
    key = random_key("key", key)
    check_run(optimizer, task, key)
    if baselines is not None:
        _check_rivals(baselines, task, key)
    fit_key, selection_key, test_key, start_key, tuning_key = jr.split(key, 5)
    _check_scored(task, settings, test_key, selection_key, fit_key)
    found = storage.part(
        "fit", _Fits,
        lambda: _fits(
            optimizer, white_box, task, settings, keys=(fit_key, selection_key, start_key)),
        of=(optimizer, white_box),
    )  # fmt: skip
    if baselines is None:
        baselines = tuned(task, steps=settings.steps, key=tuning_key)
    best, closed_best = int(np.argmax(found.selection_r_squared)), int(np.argmin(found.mismatch))
    both = [_with(white_box, row) for row in (found.fitted[best], found.closed[closed_best])]
    return Distillation(
        document=json.dumps(document_of(white_box)),
        names=tuple(sorted(white_box.numbers())),
        fitted=found.fitted,
        closed=found.closed,
        r_squared=found.r_squared,
        selection_r_squared=found.selection_r_squared,
        mismatch=found.mismatch,
        diverged=found.diverged,
        chosen=best,
        closed_chosen=closed_best,
        standard_errors=found.standard_errors[best],
        identifiable=found.identifiable[best],
        baseline=best_baseline(
            baselines, task, problems=settings.problems, steps=settings.steps, key=selection_key
        ),
        **_tested(optimizer, both, baselines, task, settings=settings, key=test_key),
    )


def _check(white_box: WhiteBox, settings: Distilling) -> None:
    instance("white_box", white_box, WhiteBox, "a `WhiteBox`")
    instance("settings", settings, Distilling, "`Distilling` settings")
    check_free(white_box)


def _check_rivals(
    baselines: Mapping[str, AbstractOptimizer], task: AbstractTask, key: Key[Array, ""]
) -> None:
    """Raise `ValueError` for baselines as `check_baselines` does, or named as others here are."""
    check_baselines(baselines, task, key)
    own = (LEARNED, FITTED, CLOSED)
    if taken := [name for name in own if name in baselines]:
        raise ValueError(
            f"`baselines` must have other names than {', '.join(own)}, got {taken[0]!r}."
        )


def _check_scored(
    task: AbstractTask, settings: Distilling, test_key: Any, selection_key: Any, fit_key: Any
) -> None:
    """Raise `ValueError` for problems of test, baselines or fits that have no score."""
    few, fits = settings.problems, [jr.split(key)[0] for key in (selection_key, fit_key)]
    draws = [(test_key, settings.test_problems), *((key, few) for key in (selection_key, *fits))]
    check_scored(task, settings.steps, draws, 4)


def _with(box: WhiteBox, row: Float[np.ndarray, " number"]) -> WhiteBox:
    """The white box with these values of its free numbers, in alphabetical order.

    They are from double precision, where a number that no update depends on may go anywhere.
    """
    named = zip(sorted(box.numbers()), row.tolist(), strict=True)
    return box.with_numbers({name: in_range_of_type(name, value) for name, value in named})


def _tested(
    optimizer: AbstractOptimizer,
    both: list[WhiteBox],
    baselines: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    *,
    settings: Distilling,
    key: Key[Array, ""],
) -> dict[str, Any]:
    """Fields of a distillation that are measured on test problems."""
    steps = settings.steps
    contestants = {**baselines, LEARNED: optimizer, FITTED: both[0], CLOSED: both[1]}
    tested = evaluate(contestants, task, problems=settings.test_problems, steps=steps, key=key)
    test = record_runs(optimizer, task, key=key, problems=settings.problems, steps=steps)
    return {
        "test_r_squared": _r_squared(stacked(both), test),
        "contestants": tested.names,
        "objectives": np.asarray(tested.meta_objectives(), float),
    }


def tuned(task: AbstractTask, *, steps: int, key: Key[Array, ""]) -> dict[str, AbstractOptimizer]:
    """The baselines, tuned by a short random search."""
    settings = dataclasses.replace(TUNING, steps=steps)
    return {
        name: tune(task, constructor, settings, key=key).optimizer(constructor)
        for name, constructor in BASELINES.items()
    }


class _Fits(eqx.Module):
    """Numbers after the two fits, by start."""

    fitted: Float[np.ndarray, "start number"]
    closed: Float[np.ndarray, "start number"]
    r_squared: Float[np.ndarray, " start"]
    selection_r_squared: Float[np.ndarray, " start"]
    mismatch: Float[np.ndarray, " start"]
    diverged: Int[np.ndarray, "2"]
    standard_errors: Float[np.ndarray, "start number"]
    identifiable: Bool[np.ndarray, "start number"]


def _fits(
    optimizer: AbstractOptimizer,
    white_box: WhiteBox,
    task: AbstractTask,
    settings: Distilling,
    *,
    keys: tuple[Any, Any, Any],
) -> _Fits:
    """Both fits from all starts."""
    fit_key, selection_key, start_key = keys
    counts = {"problems": settings.problems, "steps": settings.steps}
    recorded, selection = (
        record_runs(optimizer, task, key=key, **counts) for key in (fit_key, selection_key)
    )
    check_moves(recorded)
    with double_precision():
        # Fits to 1e-3 of planted numbers need residuals below single precision.
        box, recorded = as_double(white_box), as_double(recorded)
        starts = fitting.best_starts(
            box, recorded, starts=settings.starts, candidates=settings.candidates, key=start_key
        )
        fits = fitting.fit_from_starts(
            starts, recorded, candidates=settings.candidates, iterations=settings.iterations,
            key=jr.fold_in(start_key, 1),
        )  # fmt: skip
        fits = fitting.sorted_modes(fits)
        known = [fitting.identify(one, recorded) for one in unstacked(fits)]
        fitted = _values(fits)
    own = stacked([_in_precision_of(white_box, one) for one in unstacked(fits)])
    closed, mismatch, diverged = _closed(
        own, optimizer, task, settings, keys=(fit_key, selection_key)
    )
    return _Fits(
        fitted=fitted,
        closed=_values(fitting.sorted_modes(closed)),
        r_squared=_r_squared(fits, recorded),
        selection_r_squared=_r_squared(fits, selection),
        mismatch=mismatch,
        diverged=diverged,
        standard_errors=np.stack([each.standard_errors for each in known]),
        identifiable=np.stack([each.identifiable for each in known]),
    )


def _in_precision_of(box: WhiteBox, other: WhiteBox) -> WhiteBox:
    """`other` with its numbers in the type of `box`."""
    arrays, rest = eqx.partition(other, eqx.is_array)
    dtype = jax.tree.leaves(eqx.filter(box, eqx.is_array))[0].dtype
    return eqx.combine(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), arrays), rest)


def _closed(
    boxes: WhiteBox,
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    settings: Distilling,
    *,
    keys: tuple[Any, Any],
) -> tuple[WhiteBox, Float[np.ndarray, " start"], Int[np.ndarray, "2"]]:
    """The fit to losses, mismatches on selection problems, and how many problems were left out."""
    (problems, targets, some), (others, wanted, more) = (
        fitting.finite_losses(optimizer, task, key, settings.problems, settings.steps)
        for key in keys
    )
    if settings.refinement:
        boxes, _ = fitting.fit_losses(boxes, task, problems, targets, steps=settings.refinement)
    found = np.array([
        float(eqx.filter_jit(fitting.loss_mismatch)(one, task, others, wanted))
        for one in unstacked(boxes)
    ])  # fmt: skip
    return boxes, np.where(np.isfinite(found), found, np.inf), np.array([some, more])


def _values(boxes: WhiteBox) -> Float[np.ndarray, "start number"]:
    """Free numbers in plain units, by name in alphabetical order."""
    numbers = boxes.numbers()
    return np.stack([np.asarray(numbers[name], float) for name in sorted(numbers)], axis=1)


def _r_squared(boxes: WhiteBox, recorded: RecordedRuns) -> Float[np.ndarray, " start"]:
    with double_precision():
        boxes, recorded = as_double(boxes), as_double(recorded)
        found = [float(eqx.filter_jit(r_squared)(one, recorded)) for one in unstacked(boxes)]
        return np.array(found)
