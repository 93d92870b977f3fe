"""Baselines tuned by random search (paper, section 3.2 and D.3).

Settings are drawn at random from a grid that is uniform in the logarithm of the learning rate,
and of 1 - value for momenta and decays. They are scored with the meta-objective of training.
The paper does not say what its grids were, only that the best setting was on no edge: here a
grid is widened until that holds, and the result says so.

Where runs are expensive, most settings are stopped early: see `halving`.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lrevopt.checks import finite, increasing_pair, one_of, positive_integer
from lrevopt.inner_loop.objectives import OBJECTIVES, Objective
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.optimizers.classical import Momentum, as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems
from lrevopt.tuning.successive_halving import Rungs, check_rungs, successive_halving

EDGE = 0.02
"""A best setting within this share of an axis from its end counts as lying on the edge."""

DECADE = 10.0
"""Factor by which an axis is widened at a time."""

WIDENINGS, HALVING_WIDENINGS = 8, 2
"""Searches are repeated at most this often; fewer times where each is expensive."""


@dataclasses.dataclass(frozen=True)
class SearchRange:
    """One axis of a grid, log-uniform from `low` to `high`.

    `complement` puts 1 - value on the axis: (0.001, 1) then searches values from 0 to 0.999,
    densely near 1. Raises `ValueError` unless 0 < low < high, with high at most 1 on such an axis.
    """

    low: float
    """Low end, positive."""
    high: float
    """High end, above `low`."""
    complement: bool = False
    """Whether the axis holds 1 - value instead of the value."""

    def __post_init__(self) -> None:
        finite("low", self.low, above=0.0)
        finite("high", self.high, above=self.low)
        if self.complement and self.high > 1:
            raise ValueError(
                f"`high` must be at most 1 where 1 - value is searched, got {self.high!r}."
            )

    def values(self, points: int) -> Float[np.ndarray, " grid"]:
        """Hyperparameter values at the points of the axis, in the order of the axis."""
        axis = np.geomspace(self.low, self.high, points)
        return 1 - axis if self.complement else axis


LEARNING_RATE = SearchRange(1e-5, 10.0)
FORGETTING = SearchRange(1e-3, 1.0, complement=True)
DEFAULT_RANGES: Mapping[str, SearchRange] = {
    "learning_rate": LEARNING_RATE,
    "momentum": FORGETTING,
    "decay": FORGETTING,
    "b1": FORGETTING,
    "b2": FORGETTING,
}
"""Where a search starts, by name of the hyperparameter. Our choice; the paper prints none."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How baselines are tuned.

    Raises `ValueError` for counts below 1, an unknown objective, or a range that is reversed or
    leaves the values that can be searched.
    """

    settings: int = 2500
    """Settings drawn at random from the grid."""
    problems: int = 256
    """Problems on which every setting is scored."""
    steps: int = 200
    """Updates in each run."""
    objective: Objective = "mean"
    """Meta-objective, the one of meta-training: mean, log_mean or final."""
    grid: int = 121
    """Points along each axis of the grid, before widening (at least 2)."""
    finalists: int = 25
    """Best settings that are scored again, on fresh problems, to choose the winner."""
    fresh_problems: int = 256
    """Fresh problems for the finalists."""
    rungs: Rungs = ()
    """Successive halving: pairs (updates, survivors), updates rising and survivors falling, before
    the survivors run in full. None: every setting runs in full."""
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Lowest and highest value by name of the hyperparameter, instead of the built-in ranges or
    beside them: positive, or in (0, 1) with 0 allowed for momentum, decay, b1 and b2, whose axis
    is uniform in the logarithm of 1 - value."""

    def __post_init__(self) -> None:
        for name in ("settings", "problems", "steps", "finalists", "fresh_problems"):
            positive_integer(name, getattr(self, name))
        if positive_integer("grid", self.grid) < 2:
            raise ValueError(f"`grid` must be an integer of at least 2, got {self.grid!r}.")
        one_of("objective", self.objective, OBJECTIVES)
        for name, pair in self.ranges.items():
            _axis(name, pair)
        check_rungs(self.rungs, self.settings, self.steps)

    def inner_steps(self) -> int:
        """Updates of single runs that one search takes, if no range is widened."""
        total, left = 0, self.settings
        for steps, survivors in self.rungs:
            total, left = total + left * steps * self.problems, survivors
        finalists = min(self.finalists, left)
        return total + self.steps * (left * self.problems + finalists * self.fresh_problems)

    def rule(self) -> str:
        """How a search goes, in one sentence."""
        rungs = "".join(
            f"{steps} updates, of which the best {survivors} by last loss go on to "
            for steps, survivors in self.rungs
        )
        return (
            f"{self.settings} settings run {rungs}{self.steps} updates on {self.problems} "
            f"problem{'s' * (self.problems > 1)}; the best {self.finalists} are decided on "
            f"{self.fresh_problems} fresh ones."
        )


NETWORK_TUNING = Tuning(problems=1, rungs=((10, 300), (40, 150)), finalists=25, fresh_problems=4)
"""Two moons: 87,000 inner updates for each baseline."""

LARGE_NETWORK_TUNING = Tuning(
    problems=1, rungs=((3, 500), (10, 125), (40, 20)), finalists=4, fresh_problems=4
)
"""MNIST: 24,700 inner updates for each baseline."""


class TuningResult(eqx.Module):
    """What a search found, and everything needed to draw it.

    Arrays describe the last search, if ranges were widened. `scores` are mean meta-objectives
    over the tuning problems, inf for a setting that diverged on any of them; `diverged` counts
    on how many. `ranges` holds the lowest and highest value searched. `best` is the finalist
    with the least mean over fresh problems, `fresh_score`; its score on the tuning problems is
    `best_score`, and it is optimistic, being the least of many. Both are inf if everything
    diverged.

    With successive halving, `steps` says for how many updates each setting ran, and the score of
    one that was stopped is its last loss over its first. `steps` is empty where all ran in full.
    `rule` is the search in one sentence.

    `widened` has a sentence for each time that a range was widened (or left alone although it
    should have been), `at_limit` one for each hyperparameter whose best value is at an end that
    cannot be widened: momentum 0.
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

    def in_full(self) -> Bool[np.ndarray, " setting"]:
        """Which settings ran in full, so that their scores are meta-objectives."""
        if not self.steps.size:
            return np.ones(self.scores.size, bool)
        return self.steps == self.steps.max()

    def optimizer(self, constructor: Callable[..., AbstractOptimizer]) -> AbstractOptimizer:
        """The tuned optimizer. `constructor` is the one that was tuned."""
        return constructor(**self.best)


def tune(
    task: AbstractTask,
    constructor: Callable[..., AbstractOptimizer],
    settings: Tuning = Tuning(),
    *,
    key: Key[Array, ""],
) -> TuningResult:
    """Search the hyperparameters of any optimizer at random.

    An argument of `constructor` is searched if `settings.ranges` or `DEFAULT_RANGES` has a range
    of its name, and else keeps its default. The `settings.finalists` best settings are scored on
    fresh problems and the least mean wins. If the winner lies on an edge, that end of its axis
    moves out by a decade (to the same density of points) and the search is repeated with the
    same problems; at most twice after successive halving.

    Raises `ValueError` for an argument with neither a range nor a default, a range for an
    argument that does not exist, or nothing to search.
    """
    axes = search_axes(constructor, settings)
    points = dict.fromkeys(axes, settings.grid)
    settings_key, problems_key, fresh_key = jr.split(key, 3)
    problems = _sample(task, problems_key, settings.problems)
    fresh = _sample(task, fresh_key, settings.fresh_problems)

    def score(
        values: dict[str, np.ndarray], chosen: np.ndarray, draws: Any, steps: int, in_full: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        stacked = stack_settings(constructor, {name: of[chosen] for name, of in values.items()})
        objective = settings.objective if in_full else "final"
        scores = score_settings(task, stacked, draws, steps, objective)
        return np.asarray(scores[0]), np.asarray(scores[1])

    widened: list[str] = []
    attempts = HALVING_WIDENINGS if settings.rungs else WIDENINGS
    for attempt in range(attempts + 1):
        places = _draw(jr.fold_in(settings_key, attempt), points, settings.settings)
        values = {name: axes[name].values(points[name])[place] for name, place in places.items()}
        scores, diverged, ran, finalists = successive_halving(
            lambda chosen, *run, values=values: score(values, chosen, problems, *run),
            (*settings.rungs, (settings.steps, settings.finalists)),
            settings.settings,
        )
        fresh_scores, _ = score(values, finalists, fresh, settings.steps, True)
        winner = int(finalists[np.argmin(fresh_scores)])
        ends = {name: _nearest_end(points[name], int(at[winner])) for name, at in places.items()}
        limits = {name for name, end in ends.items() if _closed(axes[name], end)}
        open_ends = {name: end for name, end in ends.items() if end and name not in limits}
        if not open_ends or not math.isfinite(scores[winner]):
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

    return TuningResult(
        name=constructor.__name__,
        parameter_names=tuple(axes),
        values=values,
        scores=scores,
        diverged=diverged,
        ranges={name: np.sort(axis.values(2)) for name, axis in axes.items()},
        best={name: float(value[winner]) for name, value in values.items()},
        best_score=float(scores[winner]),
        fresh_score=float(np.min(fresh_scores)),
        widened=tuple(widened),
        at_limit=tuple(
            f"The best {name}, {values[name][winner]:.3g}, is at or next to its natural limit of 0."
            for name in sorted(limits)
            if math.isfinite(scores[winner])
        ),
        steps=ran if settings.rungs else np.zeros(0, int),
        rule=settings.rule(),
    )


def search_axes(
    constructor: Callable[..., AbstractOptimizer], settings: Tuning
) -> dict[str, SearchRange]:
    """The axes that `tune` searches, by argument of `constructor`. Raises as `tune` does."""
    title = constructor.__name__
    arguments = inspect.signature(constructor).parameters
    chosen = {name: _axis(name, pair) for name, pair in settings.ranges.items()}
    ranges = {**DEFAULT_RANGES, **chosen}
    if unknown := [name for name in settings.ranges if name not in arguments]:
        raise ValueError(
            f"`ranges` must name arguments of {title} ({', '.join(arguments)}), got {unknown[0]!r}."
        )
    needed = (name for name, argument in arguments.items() if argument.default is argument.empty)
    if missing := [name for name in needed if name not in ranges]:
        raise ValueError(
            f"`ranges` must hold a range for `{missing[0]}` of {title}, which has neither a "
            f"default nor a built-in range, got {sorted(settings.ranges)}."
        )
    axes = {name: ranges[name] for name in arguments if name in ranges}
    if not axes:
        raise ValueError(f"`constructor` must have an argument to search, got {title}.")
    return axes


def stack_settings(
    constructor: Callable[..., AbstractOptimizer],
    values: Mapping[str, Float[np.ndarray, " setting"]],
) -> AbstractOptimizer:
    """One optimizer whose every array has a leading axis `setting`."""
    arrays = {name: as_float(value) for name, value in values.items()}
    return eqx.filter_vmap(lambda chosen: constructor(**chosen))(arrays)


def analytic_momentum(log10_eigenvalues: tuple[float, float] = (-3, 0)) -> Momentum:
    """Momentum that contracts fastest on quadratics with eigenvalues in a range (Polyak 1964).

        learning_rate = 4 / (sqrt(high) + sqrt(low))^2
        momentum = ((sqrt(high) - sqrt(low)) / (sqrt(high) + sqrt(low)))^2

    Optimal for the worst case as steps grow, not for the meta-objective of 200 steps, and close
    to the edge of stability `learning_rate = 2 (1 + momentum) / high`.
    Raises `ValueError` for a reversed range.
    """
    low, high = (10 ** (end / 2) for end in increasing_pair("log10_eigenvalues", log10_eigenvalues))
    rate, momentum = 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2
    return Momentum(as_float(rate), as_float(momentum))


@eqx.filter_jit
def _sample(task: AbstractTask, key: Key[Array, ""], count: int) -> Any:
    return sample_problems(task, key, count)


def _axis(name: str, pair: tuple[float, float]) -> SearchRange:
    """The axis from the lowest to the highest value of a hyperparameter."""
    low, high = increasing_pair(f"ranges[{name!r}]", pair)
    if name in DEFAULT_RANGES and DEFAULT_RANGES[name].complement:
        if low < 0 or high >= 1:
            raise ValueError(f"`ranges[{name!r}]` must lie in [0, 1), got {pair!r}.")
        return SearchRange(1 - high, 1 - low, complement=True)
    finite(f"ranges[{name!r}][0]", low, above=0.0)
    return SearchRange(low, high)


def _draw(key: Key[Array, ""], points: dict[str, int], count: int) -> dict[str, np.ndarray]:
    """Independent random places on each axis."""
    keys = jr.split(key, len(points))
    drawn = zip(keys, points.items(), strict=True)
    return {name: np.asarray(jr.randint(k, (count,), 0, size)) for k, (name, size) in drawn}


def _nearest_end(points: int, place: int) -> str:
    """`low` or `high` if `place` lies on that edge of the axis, else nothing."""
    band = EDGE * (points - 1)
    if place <= band:
        return "low"
    return "high" if place >= points - 1 - band else ""


def _closed(axis: SearchRange, end: str) -> bool:
    """Whether this end is a natural limit: 1 - value cannot exceed 1."""
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
