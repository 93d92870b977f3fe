"""Baselines tuned by random search (paper, section 3.2 and D.3).

Settings are drawn at random from a grid that is uniform in the logarithm of the learning rate,
and of 1 - value for momenta and decays. They are scored with the meta-objective of training.
The paper does not print its grids; it says that the best setting was on no edge. Here a grid is
widened until that holds, and the result says so.

Where runs are expensive, most settings are stopped early (`successive_halving`). See `decision`.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from lrevopt import storage
from lrevopt.checks import increasing_pair, random_key
from lrevopt.inner_loop.objectives import Objective
from lrevopt.inner_loop.run_checks import check_first_losses
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.optimizers.classical import Momentum, as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems
from lrevopt.tuning.constructors import name_of, search_axes, stack_settings
from lrevopt.tuning.decision import Decided, decide
from lrevopt.tuning.settings import SearchRange, Tuning
from lrevopt.tuning.successive_halving import successive_halving

EDGE = 0.02
"""A best setting within this share of an axis from its end counts as on the edge."""

DECADE = 10.0
"""Factor by which an axis is widened."""

WIDENINGS, HALVING_WIDENINGS = 8, 2
"""Most repetitions of a search in wider ranges, without and with successive halving."""


class TuningResult(eqx.Module):
    """Result of a search: every setting with its score, and the best one.

    Arrays describe the last search, if ranges were widened. `scores` are mean meta-objectives
    over the tuning problems, inf for a setting that diverged on any of them; `diverged` counts
    these problems. `ranges` holds the lowest and highest value searched. `best` is the finalist
    with the least mean over fresh problems, `fresh_score`. Its score on the tuning problems,
    `best_score`, is optimistic, because it is the least of many. Both are inf if all diverged.

    With successive halving, `steps` holds the updates that each setting ran, and the score of a
    stopped setting is its last loss over its first. `steps` is empty where all ran in full.
    `rule` is the search in one sentence.

    `widened` has a sentence for each range that was widened, or that still has the best setting
    on its edge after the last repetition. `at_limit` has one for each hyperparameter whose best
    value is at an end that cannot be widened, such as momentum 0.

    `checked_score` is the winner's mean over as many further problems, on which nothing was chosen,
    and `decided_on` the number of fresh problems on which it was chosen: more than were asked for
    where a winner's score did not hold, of which `decisions` has a sentence each. They are NaN and
    0 in records of older versions.
    """

    name: str
    parameter_names: tuple[str, ...]
    values: dict[str, Float[np.ndarray, " setting"]]
    scores: Float[np.ndarray, " setting"]
    diverged: Int[np.ndarray, " setting"]
    ranges: dict[str, Float[np.ndarray, "2"]]
    best: dict[str, float]
    best_score: float
    fresh_score: float
    widened: tuple[str, ...]
    at_limit: tuple[str, ...]
    steps: Int[np.ndarray, " _"] = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    rule: str = ""
    checked_score: float = math.nan
    decided_on: int = 0
    decisions: tuple[str, ...] = ()

    def __check_init__(self) -> None:
        for field in ("values", "ranges", "best"):
            if getattr(self, field).keys() != set(self.parameter_names):
                raise ValueError(
                    f"`{field}` must have {', '.join(self.parameter_names)}, got "
                    f"{', '.join(getattr(self, field))}."
                )

    def in_full(self) -> Bool[np.ndarray, " setting"]:
        """Which settings ran in full; only their scores are meta-objectives."""
        if not self.steps.size:
            return np.ones(self.scores.size, bool)
        return self.steps == self.steps.max()

    def optimizer(self, constructor: Callable[..., AbstractOptimizer]) -> AbstractOptimizer:
        """The tuned optimizer, built by the constructor that was tuned."""
        return constructor(**self.best)


class Rung(eqx.Module):
    """Scores of the settings that ran side by side, and on how many problems each diverged."""

    scores: Float[np.ndarray, " setting"]
    diverged: Int[np.ndarray, " setting"]


def tune(
    task: AbstractTask,
    constructor: Callable[..., AbstractOptimizer],
    settings: Tuning = Tuning(),
    *,
    key: Key[Array, ""],
    mesh: Mesh | None = None,
) -> TuningResult:
    """Search the hyperparameters of any optimizer at random.

    An argument of `constructor` is searched if `settings.ranges` or `DEFAULT_RANGES` has a range
    for its name; otherwise it keeps its default. `functools.partial(Momentum, momentum=0.9)` keeps
    an argument at a value. The `settings.finalists` best settings are scored
    again on fresh problems, and the least mean wins. If the winner's score on further problems
    differs by more than 10 %, finalists are compared on more problems, at most four times as many.
    If the winner is on an edge, that end of its axis moves out by a decade, and the search is
    repeated: at most 8 times, or twice with successive halving. Test problems must come from
    another `key`. Problems are spread over the devices of `mesh` (default: see `problem_mesh`).

    Raises `ValueError` for an argument with neither a range nor a default, a range for one that
    does not exist, nothing to search, or a first loss that is negative or not finite.
    """
    axes = search_axes(constructor, settings)
    points = dict.fromkeys(axes, settings.grid)
    check_drawn_losses(task, settings, key)
    settings_key, problems_key, fresh_key = jr.split(random_key("key", key), 3)
    problems = _sample(task, problems_key, settings.problems)
    fresh = partial(_fresh, task, fresh_key, settings.fresh_problems)
    score = _Scorer(task, constructor, settings.objective, mesh)

    widened: list[str] = []
    attempts = HALVING_WIDENINGS if settings.rungs else WIDENINGS
    for attempt in range(attempts + 1):
        places = _draw(jr.fold_in(settings_key, attempt), points, settings.settings)
        values = {name: axes[name].values(points[name])[place] for name, place in places.items()}
        search = _search(score, values, settings, problems, fresh)
        ends = {
            name: _nearest_end(points[name], int(at[search.winner])) for name, at in places.items()
        }
        limits = {name for name, end in ends.items() if _closed(axes[name], end)}
        open_ends = {name: end for name, end in ends.items() if end and name not in limits}
        if not open_ends or not search.finite:
            break
        if attempt == attempts:
            widened += [
                f"The best {name} still lies on an edge after {attempts} searches in wider ranges."
                for name in open_ends
            ]
            break
        for name, end in open_ends.items():
            axes[name], points[name], sentence = _widen(name, axes[name], points[name], end)
            widened.append(sentence)
    return search.result(
        name=name_of(constructor),
        parameter_names=tuple(axes),
        ranges={name: np.sort(axis.values(2)) for name, axis in axes.items()},
        widened=tuple(widened),
        at_limit=search.at_limit(limits),
        rule=settings.rule(),
    )


def check_drawn_losses(task: AbstractTask, settings: Tuning, key: Key[Array, ""]) -> None:
    """Check the first losses of all problems that any search with this `key` runs on.

    They are those that score settings, those on which finalists are first decided, and those on
    which the winner is checked. Raises `ValueError` for one that is negative or not finite.
    """
    _, problems_key, fresh_key = jr.split(random_key("key", key), 3)
    check_first_losses(task, _sample(task, problems_key, settings.problems), finite=True)
    for decision in (0, 1):
        fresh = _fresh(task, fresh_key, settings.fresh_problems, decision)
        check_first_losses(task, fresh, finite=True)


Values = dict[str, np.ndarray]
"""Hyperparameters by name, an array each: one entry for each setting."""

Scores = tuple[np.ndarray, np.ndarray]
"""Score of each setting, and the number of problems on which it diverged."""


class _Search(NamedTuple):
    """One search within fixed ranges. `ran` are the updates that each setting ran."""

    values: Values
    scores: Float[np.ndarray, " setting"]
    diverged: Int[np.ndarray, " setting"]
    ran: Int[np.ndarray, " setting"]
    decided: Decided

    @property
    def winner(self) -> int:
        return self.decided.winner

    @property
    def finite(self) -> bool:
        """Whether the winner stayed finite on all tuning problems."""
        return math.isfinite(self.scores[self.winner])

    def at_limit(self, names: set[str]) -> tuple[str, ...]:
        """A sentence for each hyperparameter in `names`, whose best value is at a natural limit."""
        return tuple(
            f"The best {name}, {self.values[name][self.winner]:.3g}, is at or next to its natural "
            f"limit of 0."
            for name in sorted(names)
            if self.finite
        )

    def result(self, **rest: Any) -> TuningResult:
        """The record of this search; `rest` are the fields that are not known here."""
        return TuningResult(
            values=self.values,
            scores=self.scores,
            diverged=self.diverged,
            steps=self.ran,
            best={name: float(value[self.winner]) for name, value in self.values.items()},
            best_score=float(self.scores[self.winner]),
            fresh_score=self.decided.score,
            checked_score=self.decided.checked,
            decided_on=self.decided.problems,
            decisions=self.decided.sentences,
            **rest,
        )


def _search(
    score: Callable[[Values, Any, int, bool], Scores],
    values: Values,
    settings: Tuning,
    problems: Any,
    fresh: Callable[[int], Any],
) -> _Search:
    """Score settings on `problems`, by successive halving if asked, and decide on `fresh` ones."""

    def chosen(places: np.ndarray) -> Values:
        return {name: of[places] for name, of in values.items()}

    def on_fresh(places: np.ndarray, decision: int) -> np.ndarray:
        return score(chosen(places), fresh(decision), settings.steps, True)[0]

    scores, diverged, ran, finalists = successive_halving(
        lambda places, *run: score(chosen(places), problems, *run),
        (*settings.rungs, (settings.steps, settings.finalists)),
        settings.settings,
    )
    return _Search(
        values=values,
        scores=scores,
        diverged=diverged,
        ran=ran if settings.rungs else np.zeros(0, int),
        decided=decide(on_fresh, finalists, settings.fresh_problems),
    )


def analytic_momentum(log10_eigenvalues: tuple[float, float] = (-3, 0)) -> Momentum:
    """Momentum that contracts fastest on quadratics with eigenvalues in a range (Polyak 1964).

        learning_rate = 4 / (sqrt(high) + sqrt(low))^2
        momentum = ((sqrt(high) - sqrt(low)) / (sqrt(high) + sqrt(low)))^2

    This is optimal for the worst case in the limit of many steps, not for the meta-objective of
    200 steps. It is close to the edge of stability, `learning_rate = 2 (1 + momentum) / high`.
    A momentum that would round to 1, which never ends, is the nearest number below it. Raises
    `ValueError` for a reversed range, and for one whose learning rate the default floating type
    does not hold.
    """
    least, most = increasing_pair("log10_eigenvalues", log10_eigenvalues)
    info = np.finfo(as_float(0.0).dtype)
    if not math.log10(info.tiny) < math.log10(4) - most < math.log10(info.max):
        raise ValueError(
            "`log10_eigenvalues` must be a range whose learning rate, about 4 over the largest "
            f"eigenvalue, {info.dtype} holds, got {log10_eigenvalues!r}."
        )
    low, high = (10 ** (end / 2) for end in (least, most))
    rate, momentum = 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2
    return Momentum(as_float(rate), as_float(min(momentum, 1 - float(info.epsneg))))


@dataclasses.dataclass(frozen=True)
class _Scorer:
    """Scores of settings, and on how many problems each diverged."""

    task: AbstractTask
    constructor: Callable[..., AbstractOptimizer]
    objective: Objective
    mesh: Mesh | None

    def __call__(self, values: Values, draws: Any, steps: int, in_full: bool) -> Scores:
        """By the objective, or by the last loss where runs are cut short."""
        objective = self.objective if in_full else "final"
        stacked = stack_settings(self.constructor, values)

        def run() -> Rung:
            scores = score_settings(self.task, stacked, draws, steps, objective, mesh=self.mesh)
            return Rung(*map(np.asarray, scores))

        rung = storage.part(f"{name_of(self.constructor)} {steps}", Rung, run)
        return rung.scores, rung.diverged


@eqx.filter_jit
def _sample(task: AbstractTask, key: Key[Array, ""], count: int) -> Any:
    return sample_problems(task, key, count)


def _fresh(task: AbstractTask, key: Key[Array, ""], count: int, decision: int) -> Any:
    """Problems of one decision among finalists."""
    return _sample(task, jr.fold_in(key, decision) if decision else key, count)


def _draw(key: Key[Array, ""], points: dict[str, int], count: int) -> dict[str, np.ndarray]:
    """Independent random indices on each axis."""
    keys = jr.split(key, len(points))
    drawn = zip(keys, points.items(), strict=True)
    return {name: np.asarray(jr.randint(k, (count,), 0, size)) for k, (name, size) in drawn}


def _nearest_end(points: int, place: int) -> str:
    """`low` or `high` if index `place` is on that edge of the axis, else the empty string."""
    band = EDGE * (points - 1)
    if place <= band:
        return "low"
    return "high" if place >= points - 1 - band else ""


def _closed(axis: SearchRange, end: str) -> bool:
    """Whether this end cannot be widened, because 1 - value cannot exceed 1."""
    return axis.complement and end == "high" and axis.high == 1


def _widen(name: str, axis: SearchRange, points: int, end: str) -> tuple[SearchRange, int, str]:
    """The axis with one end moved out, its number of points, and a sentence about it."""
    if end == "low":
        wider = dataclasses.replace(axis, low=axis.low / DECADE)
    else:
        high = axis.high * DECADE
        wider = dataclasses.replace(axis, high=min(high, 1.0) if axis.complement else high)
    growth = math.log(wider.high / wider.low) / math.log(axis.high / axis.low)
    quantity = f"1 - {name}" if axis.complement else name
    sentence = (
        f"The best {name} lay on an edge, so the range of {quantity} was widened from "
        f"({axis.low:g}, {axis.high:g}) to ({wider.low:g}, {wider.high:g}) and searched again."
    )
    return wider, 1 + math.ceil((points - 1) * growth), sentence
