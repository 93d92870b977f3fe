"""Main effects and interactions of a factorial experiment on the share of members that agree.

Levels of a factor are compared on cells that differ in nothing else: on *strata*, the combinations
of the other factors that have members at each of the levels compared. Levels and strata are those
that make the most comparisons. Another level, which lacks some of these strata, is compared with
the levels together on those that it has.

Snapshots of one run are not independent. Where a share is over several snapshots of each run, its
interval is Wilson's (1927) with the number of runs in place of the number of members, which is as
wide as if snapshots of a run were all alike. Intervals of differences are made of Wilson's by
squares and sums (Newcombe 1998; Zou and Donner 2008).
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from lrevopt.studies.factorial.record import Cell, Factorial
from lrevopt.studies.universality.record import AS_SAID, MOST, OTHERWISE, UNDECIDED

NORMAL = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above."""


@dataclasses.dataclass(frozen=True)
class Share:
    """In what share of members a statement holds, from `runs` trainings, with a 95 % interval."""

    holds: int
    members: int
    runs: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """From 0 to 1; NaN of no members."""
        return self.holds / self.members if self.members else math.nan


def share_interval(share: float, runs: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `runs` trials, which need not be a whole number."""
    if not runs:
        return 0.0, 1.0
    z2 = NORMAL**2 / runs
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of(record: Factorial, task: str, place: int, cells: list[Cell]) -> Share:
    """In what share of the members of some cells a statement holds."""
    rows = np.concatenate([record.rows_of(task, cell) for cell in cells] or [np.zeros(0, int)])
    holds = int((record.verdicts[rows, place] == AS_SAID).sum())
    runs = record.runs_of(rows)
    low, high = share_interval(holds / len(rows) if len(rows) else 0.0, runs)
    return Share(holds, len(rows), runs, low, high)


@dataclasses.dataclass(frozen=True)
class Effect:
    """Shares at the levels of one factor.

    - `shares`: of each level, on the common strata that it has; `None` if it has none.
    - `compared`: whether a level is there in all of these.
    - `beside`: for another level, the share of all compared ones on its strata.
    """

    factor: str
    levels: tuple[str, ...]
    shares: tuple[Share | None, ...]
    compared: tuple[bool, ...]
    beside: tuple[Share | None, ...]

    @property
    def best(self) -> int:
        """Compared level with the largest share; the first of equal ones."""
        return max(self._compared(), key=lambda level: (self._share(level), -level))

    @property
    def decides(self) -> bool:
        """Whether the intervals of two compared levels are apart."""
        return any(level not in self.good for level in self._compared())

    @property
    def good(self) -> tuple[int, ...]:
        """Compared levels whose interval is not below that of the best one."""
        best = self.shares[self.best]
        assert best is not None
        return tuple(level for level in self._compared()
                     if (own := self.shares[level]) and own.high >= best.low)  # fmt: skip

    def _compared(self) -> list[int]:
        return [level for level, whole in enumerate(self.compared) if whole]

    def _share(self, level: int) -> float:
        own = self.shares[level]
        return -1.0 if own is None else own.share


def main_effect(record: Factorial, task: str, place: int, factor: str) -> Effect:
    """Shares of members of which a statement holds, at each level of one factor."""
    axis, levels = record.factors.index(factor), record.levels_of(factor)
    strata: dict[int, set[Cell]] = {level: set() for level in range(len(levels))}
    for cell in record.cells_of(task):
        strata[cell[axis]].add(_without(cell, axis))
    compared, common = _most_comparisons(strata)

    def over(chosen: Iterable[int], where: set[Cell]) -> Share | None:
        cells = [_with(cell, axis, level) for level in chosen for cell in sorted(where)]
        return share_of(record, task, place, cells) if cells else None

    shares = [over([level], own & common) for level, own in strata.items()]
    beside = [None if level in compared else over(compared, own & common)
              for level, own in strata.items()]  # fmt: skip
    whole = tuple(level in compared for level in strata)
    return Effect(factor, levels, tuple(shares), whole, tuple(beside))


def _most_comparisons(strata: Mapping[int, set[Cell]]) -> tuple[tuple[int, ...], set[Cell]]:
    """Levels, and the strata that all of them have, with the most comparisons with the first.

    Of equal ones it is fewer levels on more strata. Where no two levels have a stratum in common,
    it is the level with the most strata.
    """
    best: tuple[tuple[int, ...], set[Cell]] = ((), set())
    most = (-1, -1, -1)
    for count in range(1, len(strata) + 1):
        for chosen in itertools.combinations(strata, count):
            common = set.intersection(*(strata[level] for level in chosen))
            rank = ((count - 1) * len(common), len(common), count if common else 0)
            if rank > most:
                best, most = (chosen, common), rank
    return best


def _without(cell: Cell, axis: int) -> Cell:
    return cell[:axis] + cell[axis + 1 :]


def _with(cell: Cell, axis: int, level: int) -> Cell:
    return (*cell[:axis], level, *cell[axis:])


@dataclasses.dataclass(frozen=True)
class Interaction:
    """How much more one change of a level adds to a share at one level of another factor.

    `changed` and `at` are two factors, each with two levels: from `changed[1]` to `changed[2]` the
    share grows by `gains[0]` at `at[1]` and by `gains[1]` at `at[2]`. `difference` is the second
    minus the first, from -2 to 2, with a 95 % interval.
    """

    changed: tuple[str, str, str]
    at: tuple[str, str, str]
    gains: tuple[float, float]
    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether its interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def largest_interaction(record: Factorial, task: str, place: int) -> Interaction | None:
    """The largest interaction of two levels each of two factors; `None` if there are no such four.

    Four combinations are compared on the strata that have members of all of them. Of equal ones it
    is the one of the earlier factors and levels.
    """
    pairs = {
        axis: [(axis, *two) for two in itertools.combinations(range(len(levels)), 2)]
        for axis, levels in enumerate(map(record.levels_of, record.factors))
    }
    found = [
        one
        for first, second in itertools.combinations(pairs, 2)
        for both in itertools.product(pairs[first], pairs[second])
        if (one := _interaction(record, task, place, both)) is not None
    ]
    return max(found, key=lambda one: abs(one.difference), default=None)


Pair = tuple[int, int, int]
"""A factor and two of its levels."""


def _interaction(
    record: Factorial, task: str, place: int, pairs: tuple[Pair, Pair]
) -> Interaction | None:
    (first, *changed), (second, *at) = pairs
    cells = set(record.cells_of(task))

    def moved(cell: Cell, one: int, other: int) -> Cell:
        levels = {first: one, second: other}
        return tuple(levels.get(axis, level) for axis, level in enumerate(cell))

    combinations = list(itertools.product(changed, at))
    strata = [cell for cell in cells if (cell[first], cell[second]) == (changed[0], at[0])
              and all(moved(cell, *pair) in cells for pair in combinations)]  # fmt: skip
    if not strata:
        return None
    shares = {pair: share_of(record, task, place, [moved(cell, *pair) for cell in strata])
              for pair in combinations}  # fmt: skip
    signs = {(changed[i], at[j]): 1 if i == j else -1 for i in (0, 1) for j in (0, 1)}
    gains = [shares[changed[1], level].share - shares[changed[0], level].share for level in at]
    difference, low, high = _sum_interval([(signs[pair], shares[pair]) for pair in combinations])

    def named(axis: int, levels: list[int]) -> tuple[str, str, str]:
        names = record.levels_of(record.factors[axis])
        return record.factors[axis], names[levels[0]], names[levels[1]]

    return Interaction(
        named(first, changed), named(second, at), (gains[0], gains[1]), difference, low, high
    )


def _sum_interval(signed: list[tuple[int, Share]]) -> tuple[float, float, float]:
    """A sum and difference of independent shares, and its 95 % interval."""
    total = below = above = 0.0
    for sign, one in signed:
        total += sign * one.share
        down, up = one.share - one.low, one.high - one.share
        below += (down if sign > 0 else up) ** 2
        above += (up if sign > 0 else down) ** 2
    return total, total - math.sqrt(below), total + math.sqrt(above)


def what_must_hold(record: Factorial, task: str, place: int) -> str:
    """One sentence: which levels a statement needs, or that no factor tried decides it."""
    if not record.cells_of(task):
        return "Not tried: there are no members."
    if together := _needed_together(record, task, place):
        return together
    effects = [main_effect(record, task, place, factor) for factor in record.factors]
    deciding = [effect for effect in effects if effect.decides]
    if deciding:
        return "; ".join(map(_needed, deciding)) + "."
    rows = record.rows_of(task)
    count = Counter(record.verdicts[rows, place].tolist())
    others = {"not so": count[OTHERWISE], "cannot tell": count[UNDECIDED]}
    total = f"{count[AS_SAID]} of {len(rows)}" + "".join(
        f", {number} {words}" for words, number in others.items() if number
    )
    every = [own for effect in effects for own in effect.shares if own is not None]
    if all(own.share >= MOST for own in every):
        return f"Nothing: it holds at every level tried ({total})."
    nowhere = not _cells_where(record, task, place)
    if nowhere and count[OTHERWISE] >= MOST * len(rows):
        return f"Nothing tried brings it about ({total})."
    if nowhere and count[UNDECIDED] >= MOST * len(rows):
        return f"Nothing tried shows it: most cannot tell ({total})."
    return f"No factor tried decides it ({total})."


def _cells_where(record: Factorial, task: str, place: int) -> list[Cell]:
    """Cells in which a statement holds in most members."""
    return [cell for cell in record.cells_of(task)
            if share_of(record, task, place, [cell]).share >= MOST]  # fmt: skip


def _needed_together(record: Factorial, task: str, place: int) -> str:
    """Levels of several factors, if a statement holds in just the cells that have all of them.

    That is, in most members of these cells and of no other, with intervals that are apart.
    """
    cells, good = record.cells_of(task), _cells_where(record, task, place)
    needed = [{cell[axis] for cell in good} for axis in range(len(record.factors))]

    def inside(axes: Iterable[int]) -> list[Cell]:
        return [cell for cell in cells if all(cell[axis] in needed[axis] for axis in axes)]

    axes = list(range(len(record.factors)))
    for axis in reversed(axes.copy()):  # leave out what no cell tried tells apart
        others = [other for other in axes if other != axis]
        axes = others if inside(others) == good else axes
    named = [
        f"{factor} {' or '.join(record.levels_of(factor)[level] for level in sorted(levels))}"
        for axis, (factor, levels) in enumerate(zip(record.factors, needed, strict=True))
        if axis in axes
    ]
    own = share_of(record, task, place, good)
    rest = share_of(record, task, place, [cell for cell in cells if cell not in good])
    if inside(axes) != good or len(named) < 2 or own.low <= rest.high:
        return ""
    return (
        f"Needs {' and '.join(named)} together ({own.holds} of {own.members}, elsewhere "
        f"{rest.holds} of {rest.members})."
    )


def _needed(effect: Effect) -> str:
    """The levels of a factor with which a statement holds, and by how much."""
    best, good = effect.shares[effect.best], effect.good
    assert best is not None
    others = [level for level, whole in enumerate(effect.compared) if whole and level not in good]
    verb = "Needs" if best.share >= MOST else "More often with"
    named = " or ".join(effect.levels[level] for level in good)
    against = ", ".join(
        f"{own.holds} of {own.members} with {effect.levels[level]}"
        for level in others if (own := effect.shares[level]) is not None
    )  # fmt: skip
    return (
        f"{verb} {effect.factor} {named} ({best.holds} of {best.members} with "
        f"{effect.levels[effect.best]}, {against})"
    )
