"""Bounds of what a program computes, and of its derivatives, while its argument moves about.

What F computes is traced once, as a program of JAX's primitives, and run again on *enclosures*:
intervals that hold every value and every derivative that occur while h goes through a ball. Over a
Euclidean ball a value x(h) is also held to `x(h0) +- r sup ||grad x||`, which is much tighter than
intervals alone where many coordinates are summed. Where F has kinks (`max`, `clip`, `abs`),
derivatives are hulls of those on both sides; where it may jump, they are anything.
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
    """An array of a program while the state goes through a ball.

    `value` holds what it may be, `slopes` its derivatives along each direction of the ball (the
    first axis; None if it does not depend on the state), `center` its value at the centre.
    """

    value: Interval
    slopes: Interval | None
    center: Interval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.low.shape


Rule = Callable[[Any, Sequence[Enclosure], int], Enclosure]
"""From an equation, enclosures of its operands and the number of directions to the enclosure of
its result. Rules fill in `value` and `slopes`; for `center` they are called
once more with operands that have the centre for a value and no slopes."""


def entering(rules: dict[str, Rule]) -> Callable[..., Callable[[Rule], Rule]]:
    """A decorator that enters a rule into `rules` under the names of its primitives."""

    def rule(*names: str) -> Callable[[Rule], Rule]:
        def enter(function: Rule) -> Rule:
            rules.update(dict.fromkeys(names, function))
            return function

        return enter

    return rule


def result_of(value: Interval, slopes: Interval | None) -> Enclosure:
    """What a rule returns; the centre is filled in by `_step`."""
    return Enclosure(value, slopes, value)


def slopes_of(operand: Enclosure, directions: int, rank: int) -> Interval:
    """Slopes, zeros if there are none, with axes for a result of this rank: scalars have none."""
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
    """A step function of its operands: flat where it is decided, anything where it may jump."""
    if all(operand.slopes is None for operand in operands):
        return result_of(value, None)
    moves = np.zeros((directions, *value.low.shape), bool)
    for operand in operands:
        moves = moves | ~slopes_of(operand, directions, value.low.ndim).is_zero()
    return result_of(value, choose(moves & ~value.is_point(), ANYTHING, exactly(0.0)))
