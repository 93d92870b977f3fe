"""Rules for arithmetic, comparisons, choices and sums on enclosures."""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from lrevopt.certificates.enclosures import (
    Enclosure,
    Rule,
    UnknownPrimitiveError,
    combined,
    entering,
    jump,
    result_of,
    slopes_of,
)
from lrevopt.certificates.intervals import (
    ANYTHING,
    EPS,
    NOTHING,
    TINY,
    Interval,
    choose,
    exactly,
    hull,
    outwards,
    product,
)

RULES: dict[str, Rule] = {}

rule = entering(RULES)


@rule("add", "add_any")
def _add(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    return combined(first.value + second.value, [(first, None), (second, None)], directions)


@rule("neg")
def _negate(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    return result_of(-operand.value, None if operand.slopes is None else -operand.slopes)


@rule("sub")
def _subtract(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    return _add(equation, [first, _negate(equation, [second], directions)], directions)


@rule("mul")
def _multiply(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    terms = [(first, second.value), (second, first.value)]
    return combined(first.value * second.value, terms, directions)


@rule("div")
def _divide(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    if jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.integer):
        raise UnknownPrimitiveError("`div` of integers")  # which drops the remainder
    reciprocal = second.value.reciprocal()
    value = first.value * reciprocal
    return combined(value, [(first, reciprocal), (second, -(value * reciprocal))], directions)


@rule("max")
def _maximum(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    a, b = first.value, second.value
    value = Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))
    if first.slopes is None and second.slopes is None:
        return result_of(value, None)
    each = [slopes_of(operand, directions, value.low.ndim) for operand in operands]
    slopes = choose(a.low >= b.high, each[0], choose(b.low >= a.high, each[1], hull(*each)))
    return result_of(value, slopes)


@rule("min")
def _minimum(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    negated = [_negate(equation, [operand], directions) for operand in operands]
    return _negate(equation, [_maximum(equation, negated, directions)], directions)


@rule("abs")
def _absolute(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    pair = [operand, _negate(equation, [operand], directions)]
    return _maximum(equation, pair, directions)


@rule("clamp")
def _clamp(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    low, operand, high = operands
    raised = _maximum(equation, [operand, low], directions)
    return _minimum(equation, [raised, high], directions)


@rule("lt", "le", "gt", "ge", "eq", "ne")
def _compare(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    name = equation.primitive.name
    a, b = (operand.value for operand in operands)
    if name in ("gt", "ge"):
        a, b = b, a
    if name in ("lt", "gt"):
        certain, possible = a.high < b.low, a.low < b.high
    elif name in ("le", "ge"):
        certain, possible = a.high <= b.low, a.low <= b.high
    else:
        certain = a.is_point() & b.is_point() & (a.low == b.low)
        possible = (a.low <= b.high) & (b.low <= a.high)
        if equation.invars[0] is equation.invars[1]:
            # x != x asks whether x is not a number, which no number is.
            certain = possible
        if name == "ne":
            certain, possible = ~possible, ~certain
    return jump(Interval(certain.astype(float), possible.astype(float)), operands, directions)


@rule("and", "or", "not")
def _logic(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    name = equation.primitive.name
    if any(variable.aval.dtype != bool for variable in equation.outvars):
        raise UnknownPrimitiveError(f"`{name}` of integers")
    values = [operand.value for operand in operands]
    if name == "not":
        found = Interval(1 - values[0].high, 1 - values[0].low)
    else:
        take = np.minimum if name == "and" else np.maximum
        found = Interval(*(take(*(getattr(v, end) for v in values)) for end in ("low", "high")))
    return jump(found, operands, directions)


@rule("sign", "floor", "ceil", "round")
def _staircase(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    name = equation.primitive.name
    if name == "round":
        even = equation.params["rounding_method"] == lax.RoundingMethod.TO_NEAREST_EVEN
        step = np.rint if even else _halves_away
    else:
        step = getattr(np, name)
    return jump(Interval(step(operand.value.low), step(operand.value.high)), operands, directions)


def _halves_away(x: np.ndarray) -> np.ndarray:
    """The nearest integer, of two the one that is farther from 0."""
    whole = np.trunc(x)
    finite = np.where(np.isfinite(x), x, 0.0)
    return whole + np.where(np.abs(finite - np.trunc(finite)) >= 0.5, np.sign(finite), 0.0)


@rule("is_finite")
def _finite(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    certain = np.isfinite(operand.value.low) & np.isfinite(operand.value.high)
    return jump(Interval(certain.astype(float), np.ones(operand.shape)), operands, directions)


@rule("select_n")
def _select(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    which, *cases = operands
    rank = len(cases[0].shape)
    value: Interval = NOTHING
    slopes: Interval = NOTHING
    for index, case in enumerate(cases):
        possible = (which.value.low <= index) & (which.value.high >= index)
        value = hull(value, choose(possible, case.value, NOTHING))
        slopes = hull(slopes, choose(possible, slopes_of(case, directions, rank), NOTHING))
    if all(operand.slopes is None for operand in operands):
        return result_of(value, None)
    if which.slopes is not None:
        # Between two cases there may be a jump, along directions that change the choice.
        moves = ~slopes_of(which, directions, rank).is_zero()
        slopes = choose(moves & ~which.value.is_point(), ANYTHING, slopes)
    return result_of(value, slopes)


@rule("reduce_sum")
def _total(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    axes = tuple(equation.params["axes"])

    def total(summed: Interval, axes: tuple[int, ...]) -> Interval:
        terms = int(np.prod([summed.low.shape[axis] for axis in axes], initial=1.0))
        error = terms * EPS * summed.magnitude().sum(axis=axes) + TINY
        return outwards(summed.low.sum(axis=axes) - error, summed.high.sum(axis=axes) + error)

    later = tuple(axis + 1 for axis in axes)
    slopes = None if operand.slopes is None else total(operand.slopes, later)
    return result_of(total(operand.value, axes), slopes)


@rule("dot_general")
def _dot(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    numbers = equation.params["dimension_numbers"]
    terms = int(np.prod([first.shape[axis] for axis in numbers[0][0]], initial=1.0))

    letters = _letters(numbers, len(first.shape), len(second.shape))

    def along(a: str, b: str, out: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda x, y: np.einsum(f"{a},{b}->{out}", x, y, optimize=True)

    value = product(first.value, second.value, along(*letters), terms)
    parts: list[tuple[Enclosure, None]] = []
    for own, mapped in ((first, (1, 0, 1)), (second, (0, 1, 1))):
        if own.slopes is None:
            continue
        pair = (own.slopes, second.value) if own is first else (first.value, own.slopes)
        marked = [f"z{word}" if mark else word for word, mark in zip(letters, mapped, strict=True)]
        found = product(*pair, along(*marked), terms)
        # Infinite values would make slopes of what does not move.
        still = own.slopes.is_zero().reshape(directions, -1).all(axis=1)
        slopes = choose(still.reshape(-1, *[1] * value.low.ndim), exactly(0.0), found)
        parts.append((result_of(value, slopes), None))
    return combined(value, parts, directions)


def _letters(numbers: Any, first_rank: int, second_rank: int) -> tuple[str, str, str]:
    """The subscripts of a general product, as for `einsum`; z is left for directions."""
    (contracted, partners), (batched, others) = numbers
    names = string.ascii_lowercase
    first, second = list(names[:first_rank]), list(names[first_rank : first_rank + second_rank])
    for own, other in (*zip(contracted, partners, strict=True), *zip(batched, others, strict=True)):
        second[other] = first[own]
    batch = [first[axis] for axis in batched]
    gone = {*batch, *(first[axis] for axis in contracted)}
    free = [name for name in (*first, *second) if name not in gone]
    return "".join(first), "".join(second), "".join([*batch, *free])


@rule("convert_element_type")
def _convert(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    old, new = equation.invars[0].aval.dtype, np.dtype(equation.params["new_dtype"])
    low, high = operand.value.low, operand.value.high
    if old.kind not in "biuf" or (new.kind not in "biu" and new != np.float64):
        raise UnknownPrimitiveError(f"`convert_element_type` to {new}")
    if new == np.float64 or (old.kind != "f" and np.can_cast(old, new)):
        return operand
    if new.kind == "b":
        certain, possible = (low > 0) | (high < 0), (low != 0) | (high != 0)
        return jump(Interval(certain.astype(float), possible.astype(float)), operands, directions)
    # Beyond the range of the new type, the result is some number of that type.
    least, most = float(jnp.iinfo(new).min), float(jnp.iinfo(new).max)
    inside = (low >= least) & (high <= most)
    found = choose(inside, Interval(np.trunc(low), np.trunc(high)), Interval(least, most))
    return jump(found, operands, directions)
