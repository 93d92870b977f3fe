"""Rules for elementary functions and powers on enclosures."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrevopt.certificates.enclosures import Enclosure, Rule, combined, entering
from lrevopt.certificates.intervals import ANYTHING, ULPS, Interval, choose, exactly, outwards

RULES: dict[str, Rule] = {}

rule = entering(RULES)


def _increasing(
    function: Callable[[np.ndarray], np.ndarray], low: float = -np.inf, high: float = np.inf
) -> Callable[[Interval], Interval]:
    """An increasing function, whose values are known to lie between `low` and `high`."""

    def values(x: Interval) -> Interval:
        found = outwards(function(x.low), function(x.high), ULPS)
        return Interval(np.maximum(found.low, low), np.minimum(found.high, high))

    return values


def _logistic(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


SMOOTH: dict[
    str,
    tuple[float, Callable[[Interval], Interval], Callable[[Interval, Interval], Interval]],
] = {
    "exp": (-np.inf, _increasing(np.exp, 0.0), lambda x, y: y),
    "expm1": (-np.inf, _increasing(np.expm1, -1.0), lambda x, y: y + exactly(1.0)),
    "log": (0.0, _increasing(np.log), lambda x, y: x.reciprocal()),
    "log1p": (-1.0, _increasing(np.log1p), lambda x, y: (x + exactly(1.0)).reciprocal()),
    "tanh": (-np.inf, _increasing(np.tanh, -1.0, 1.0), lambda x, y: exactly(1.0) - y.square()),
    "logistic": (
        -np.inf,
        _increasing(_logistic, 0.0, 1.0),
        lambda x, y: exactly(0.25) - (y - exactly(0.5)).square(),
    ),
    "sqrt": (0.0, _increasing(np.sqrt, 0.0), lambda x, y: (y + y).reciprocal()),
    "rsqrt": (
        0.0,
        lambda x: -_increasing(lambda v: -1 / np.sqrt(v), -np.inf, 0.0)(x),
        lambda x, y: -(y * x.reciprocal() * exactly(0.5)),
    ),
    "square": (-np.inf, Interval.square, lambda x, y: x + x),
}
"""Smooth functions: the number above which they are defined and smooth, their values, and their
derivatives given argument and value."""


@rule(*SMOOTH)
def _smooth(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    above, function, derivative = SMOOTH[equation.primitive.name]
    x = operand.value
    # At the end of its domain a function may have a value and no derivative.
    value = choose(x.low >= above, function(x), ANYTHING)
    inside = (x.low > above) | (above == -np.inf)
    steepness = choose(inside, derivative(x, value), ANYTHING)
    return combined(value, [(operand, steepness)], directions)


@rule("integer_pow")
def _integer_power(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    exponent = equation.params["y"]
    value = power(operand.value, exponent)
    steepness = exactly(exponent) * power(operand.value, exponent - 1)
    return combined(value, [(operand, steepness)], directions)


def power(x: Interval, exponent: int) -> Interval:
    if exponent < 0:
        return power(x, -exponent).reciprocal()
    if exponent == 0:
        return exactly(np.ones(x.low.shape))
    half = power(x.square(), exponent // 2)
    return x * half if exponent % 2 else half


@rule("pow")
def _real_power(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    base, exponent = operands
    inside = base.value.low > 0
    positive = choose(inside, base.value, exactly(1.0))
    logarithm = SMOOTH["log"][1](positive)
    value = choose(inside, SMOOTH["exp"][1](exponent.value * logarithm), ANYTHING)
    steepness = choose(inside, exponent.value * value * positive.reciprocal(), ANYTHING)
    return combined(value, [(base, steepness), (exponent, value * logarithm)], directions)
