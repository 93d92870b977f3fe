"""Bounds of a program's values and derivatives while its argument varies over a ball.

F is traced once, as a program of JAX primitives, and evaluated on *enclosures*: intervals that
contain every value and every derivative for h in a ball. Over a Euclidean ball a value x(h) also
lies within `x(h0) +- r sup ||grad x||`, which is much tighter than intervals alone where many
coordinates are summed. Where F has kinks (`max`, `clip`, `abs`), derivatives are hulls of those on
both sides; where it may jump, they are unbounded.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrevopt.certificates.intervals import ANYTHING, Interval, choose, exactly


class UnknownPrimitiveError(Exception):
    """An operation for which there is no rule; its name is the message."""


@dataclasses.dataclass(frozen=True, eq=False)
class Enclosure:
    """Bounds of one array of a program, for all states of a ball.

    - `value`: bounds of the array.
    - `slopes`: bounds of its derivatives along each direction of the ball (the first axis); `None`
      if it does not depend on the state.
    - `center`: bounds of its value at the centre.
    """

    value: Interval
    slopes: Interval | None
    center: Interval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.low.shape


Rule = Callable[[Any, Sequence[Enclosure], int], Enclosure]
"""Maps an equation, enclosures of its operands and the number of directions to the enclosure of its
result. Rules fill in `value` and `slopes`; for `center` they are called once more, with operands
that have the centre as their value and no slopes."""


def entering(rules: dict[str, Rule]) -> Callable[..., Callable[[Rule], Rule]]:
    """A decorator that adds a rule to `rules` under the names of its primitives."""

    def rule(*names: str) -> Callable[[Rule], Rule]:
        def enter(function: Rule) -> Rule:
            rules.update(dict.fromkeys(names, function))
            return function

        return enter

    return rule


def result_of(value: Interval, slopes: Interval | None) -> Enclosure:
    """The enclosure that a rule returns; `programs` fills in the centre."""
    return Enclosure(value, slopes, value)


def slopes_of(operand: Enclosure, directions: int, rank: int) -> Interval:
    """Slopes of an operand (zeros if it has none), with axes added for a result of this rank."""
    missing = [1] * (rank - len(operand.shape))
    shape = (directions, *missing, *operand.shape)
    if operand.slopes is None:
        return exactly(np.zeros(shape))
    return Interval(operand.slopes.low.reshape(shape), operand.slopes.high.reshape(shape))


def combined(
    value: Interval, terms: Sequence[tuple[Enclosure, Interval | None]], directions: int
) -> Enclosure:
    """A result whose slopes are the sum of operands' slopes, each times a factor (None: 1)."""
    shape = value.low.shape
    parts = []
    for operand, factor in terms:
        if operand.slopes is not None:
            slopes = slopes_of(operand, directions, len(shape))
            parts.append(slopes if factor is None else slopes * factor)
    if not parts:
        return result_of(value, None)
    total = functools.reduce(Interval.__add__, parts)
    whole = (directions, *shape)
    return result_of(
        value, Interval(np.broadcast_to(total.low, whole), np.broadcast_to(total.high, whole))
    )


def jump(value: Interval, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    """A step function of its operands: slope 0 where its value is certain, else unbounded."""
    if all(operand.slopes is None for operand in operands):
        return result_of(value, None)
    moves = np.zeros((directions, *value.low.shape), bool)
    for operand in operands:
        moves = moves | ~slopes_of(operand, directions, value.low.ndim).is_zero()
    return result_of(value, choose(moves & ~value.is_point(), ANYTHING, exactly(0.0)))
