"""Settings of a search: its axes, and how many settings, problems and updates it takes."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from lrevopt.checks import finite, increasing_pair, one_of, plain_fields, positive_integer, shown
from lrevopt.inner_loop.objective_kinds import OBJECTIVES, Objective
from lrevopt.text import counted
from lrevopt.tuning.successive_halving import Rungs, check_rungs


@dataclasses.dataclass(frozen=True)
class SearchRange:
    """One axis of a grid, log-uniform from `low` to `high`.

    With `complement` the axis holds 1 - value: (0.001, 1) then searches values from 0 to 0.999,
    densely near 1. Raises `ValueError` unless 0 < low < high, with high at most 1 on such an axis.
    """

    low: float
    """Low end, positive."""
    high: float
    """High end, above `low`."""
    complement: bool = False
    """Whether the axis holds 1 - value instead of the value."""

    def __post_init__(self) -> None:
        plain_fields(self)
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
"""First range of a search by name of the hyperparameter. The paper prints none."""


def axis_of(name: str, pair: tuple[float, float]) -> SearchRange:
    """The axis from the lowest to the highest value of a hyperparameter.

    Raises `ValueError` for a pair that is reversed or leaves the values that can be searched.
    """
    low, high = increasing_pair(f"ranges[{name!r}]", pair)
    if name in DEFAULT_RANGES and DEFAULT_RANGES[name].complement:
        if low < 0 or high >= 1:
            raise ValueError(f"`ranges[{name!r}]` must lie in [0, 1), got {pair!r}.")
        return SearchRange(1 - high, 1 - low, complement=True)
    finite(f"ranges[{name!r}][0]", low, above=0.0)
    return SearchRange(low, high)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How the hyperparameters of an optimizer are searched (see `tune`).

    Raises `ValueError` for counts below 1, an unknown objective, rungs out of order, or a range
    that is reversed or outside of what its hyperparameter can be.
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
    """Number of fresh problems on which finalists are scored, and of further ones on which the
    winner is checked."""
    rungs: Rungs = ()
    """Successive halving: pairs (updates, survivors), with updates rising and survivors falling.
    Then the survivors run in full. Without any pair, every setting runs in full."""
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Lowest and highest value by name of the hyperparameter, in addition to the built-in ranges
    or in place of them. Values are positive; those of momentum, decay, b1 and b2 are in [0, 1), on
    an axis that is uniform in the logarithm of 1 - value."""

    def __post_init__(self) -> None:
        plain_fields(self)
        for name in ("settings", "problems", "steps", "finalists", "fresh_problems"):
            positive_integer(name, getattr(self, name))
        if positive_integer("grid", self.grid) < 2:
            raise ValueError(f"`grid` must be an integer of at least 2, got {self.grid!r}.")
        one_of("objective", self.objective, OBJECTIVES)
        if not isinstance(self.ranges, Mapping):
            raise ValueError(
                "`ranges` must be a dictionary of pairs (low, high) by name of the hyperparameter, "
                f"got {shown(self.ranges)}."
            )
        for name, pair in self.ranges.items():
            axis_of(name, pair)
        check_rungs(self.rungs, self.settings, self.steps)

    def inner_steps(self) -> int:
        """Inner updates of one search, if no range is widened and the winner's score holds."""
        total, left = 0, self.settings
        for steps, survivors in self.rungs:
            total, left = total + left * steps * self.problems, survivors
        finalists = min(self.finalists, left)
        decided = (finalists + 1) * self.fresh_problems  # and the winner is checked
        return total + self.steps * (left * self.problems + decided)

    def rule(self) -> str:
        """The search in one sentence."""
        rungs = "".join(
            f"{counted(steps, 'update')}, of which the best {survivors} by last loss go on to "
            for steps, survivors in self.rungs
        )
        left = self.rungs[-1][1] if self.rungs else self.settings
        # One finalist wins without a comparison, and is scored on the fresh problems.
        finalists = min(self.finalists, left)
        decided = f"{finalists} are decided" if finalists > 1 else "one is scored"
        return (
            f"{counted(self.settings, 'setting')} run{'s' * (self.settings == 1)} {rungs}"
            f"{counted(self.steps, 'update')} on {counted(self.problems, 'problem')}; the best "
            f"{decided} on {counted(self.fresh_problems, 'fresh one')}."
        )


NETWORK_TUNING = Tuning(problems=2, rungs=((20, 500), (60, 200)), finalists=40, fresh_problems=16)
"""For two moons: 371,200 inner updates for each baseline. Scores on one draw differ by a third, so
that finalists are decided on 16."""

LARGE_NETWORK_TUNING = Tuning(
    settings=1000, problems=1, rungs=((20, 200), (60, 80)), finalists=8, fresh_problems=8
)
"""For MNIST: 62,400 inner updates for each baseline."""
