"""Bounds of what a program computes, and of its derivatives, while its argument moves about.

What F computes is traced once, as a program of JAX's primitives, and run again on *enclosures*:
intervals that hold every value and every derivative that occur while h goes through a ball. Over a
Euclidean ball a value x(h) is also held to `x(h0) +- r sup ||grad x||`, which is much tighter than
intervals alone where many coordinates are summed. Where F has kinks (`max`, `clip`, `abs`),
derivatives are hulls of those on both sides; where it may jump, they are anything.
"""

import dataclasses
import functools
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lrevopt.analysis.intervals import (
    ANYTHING,
    EPS,
    NOTHING,
    TINY,
    ULPS,
    Interval,
    choose,
    exactly,
    hull,
    outwards,
    product,
)


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

RULES: dict[str, Rule] = {}


def enclose(
    program: ClosedJaxpr, center: np.ndarray, read: np.ndarray, frame: np.ndarray, radius: float
) -> tuple[Interval, Interval]:
    """F and its derivative times `frame`, over all h = center + frame y with ||y|| <= radius.

    `frame` has a row for each coordinate in `read`. The others may be anything.
    """
    size, directions = len(center), frame.shape[1]
    free = choose(read, exactly(center), ANYTHING)
    slopes = np.zeros((directions, size))
    slopes[:, read] = frame.T
    start = Enclosure(free, exactly(slopes), free)
    start = dataclasses.replace(start, value=_within_reach(start, radius, ANYTHING))
    (result,) = _run(program, [start], directions, radius)
    slopes_of = exactly(np.zeros((directions, size))) if result.slopes is None else result.slopes
    return result.value, Interval(slopes_of.low.T, slopes_of.high.T)


def image_of_box(program: ClosedJaxpr, low: np.ndarray, high: np.ndarray) -> Interval:
    """Values of F over a box."""
    box = Interval(low, high)
    (result,) = _run(program, [Enclosure(box, None, box)], 0, 0.0)
    return result.value


def _within_reach(found: Enclosure, radius: float, known: Interval) -> Interval:
    """`known`, held to the mean value theorem: |x(h) - x(h0)| <= radius sup ||grad x||."""
    assert found.slopes is not None
    magnitudes = found.slopes.magnitude()
    steepest = np.sqrt(np.sum(magnitudes**2, axis=0)) * (1 + (len(magnitudes) + 4) * EPS) + TINY
    # What has no slope at all is a constant, also on the whole space.
    still = (magnitudes == 0).all(axis=0)
    reach = np.where(still, 0.0, radius * np.where(still, 0.0, steepest) * (1 + EPS))
    held = found.center + Interval(-reach, reach)
    return Interval(np.maximum(known.low, held.low), np.minimum(known.high, held.high))


def _run(
    program: ClosedJaxpr, operands: Sequence[Enclosure], directions: int, radius: float
) -> list[Enclosure]:
    """The results of a program, given enclosures of its arguments."""
    known: dict[Any, Enclosure] = {}

    def constant(value: Any) -> Enclosure:
        point = exactly(value)
        return Enclosure(point, None, point)

    def read(variable: Any) -> Enclosure:
        return constant(variable.val) if isinstance(variable, Literal) else known[variable]

    jaxpr = program.jaxpr
    for variable, value in zip(jaxpr.constvars, program.consts, strict=True):
        known[variable] = constant(value)
    known.update(zip(jaxpr.invars, operands, strict=True))
    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        results = _step(equation, inputs, directions, radius)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _step(
    equation: Any, inputs: Sequence[Enclosure], directions: int, radius: float
) -> list[Enclosure]:
    """The results of one equation."""
    name = equation.primitive.name
    if name in CALLS:
        keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
        inner = next(equation.params[key] for key in keys if key in equation.params)
        closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
        return _run(closed, inputs, directions, radius)
    if _is_exact(equation, inputs):
        return _exact(equation, inputs)
    if name in REARRANGEMENTS or name in PICKS:
        return _rearranged(equation, inputs, directions)
    if name not in RULES:
        raise UnknownPrimitiveError(f"`{name}`")
    rule = RULES[name]
    centers = [Enclosure(operand.center, None, operand.center) for operand in inputs]
    found = rule(equation, inputs, directions)
    found = Enclosure(found.value, found.slopes, rule(equation, centers, directions).value)
    if found.slopes is not None:
        found = dataclasses.replace(found, value=_within_reach(found, radius, found.value))
    return [found]


CALLS = (
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
)  # fmt: skip
"""Primitives that hold a program. A function with a derivative of its own making is
taken for what it computes: its derivatives are those of its program."""


def _is_exact(equation: Any, inputs: Sequence[Enclosure]) -> bool:
    """Whether an equation is about constants that are integers or truth values, as indices are."""
    return all(
        operand.slopes is None and operand.value.is_point().all() for operand in inputs
    ) and (all(not jnp.issubdtype(out.aval.dtype, jnp.floating) for out in equation.outvars))


def _exact(equation: Any, inputs: Sequence[Enclosure]) -> list[Enclosure]:
    values = [
        jnp.asarray(operand.value.low).astype(variable.aval.dtype)
        for operand, variable in zip(inputs, equation.invars, strict=True)
    ]
    results = equation.primitive.bind(*values, **equation.params)
    results = results if equation.primitive.multiple_results else [results]
    points = [exactly(np.asarray(result)) for result in results]
    return [Enclosure(point, None, point) for point in points]


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def _result(value: Interval, slopes: Interval | None) -> Enclosure:
    """What a rule returns; the centre is filled in by `_step`."""
    return Enclosure(value, slopes, value)


def _slopes(operand: Enclosure, directions: int, rank: int) -> Interval:
    """Slopes, zeros if there are none, with axes for a result of this rank: scalars have none."""
    missing = [1] * (rank - len(operand.shape))
    shape = (directions, *missing, *operand.shape)
    if operand.slopes is None:
        return exactly(np.zeros(shape))
    return Interval(operand.slopes.low.reshape(shape), operand.slopes.high.reshape(shape))


def _combined(
    value: Interval, terms: Sequence[tuple[Enclosure, Interval | None]], directions: int
) -> Enclosure:
    """A result whose slopes are the sum of operands' slopes, each times a factor (None: 1)."""
    shape = value.low.shape
    parts = []
    for operand, factor in terms:
        if operand.slopes is not None:
            slopes = _slopes(operand, directions, len(shape))
            parts.append(slopes if factor is None else slopes * factor)
    if not parts:
        return _result(value, None)
    total = functools.reduce(Interval.__add__, parts)
    whole = (directions, *shape)
    return _result(
        value, Interval(np.broadcast_to(total.low, whole), np.broadcast_to(total.high, whole))
    )


def _jump(value: Interval, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    """A step function of its operands: flat where it is decided, anything where it may jump."""
    if all(operand.slopes is None for operand in operands):
        return _result(value, None)
    moves = np.zeros((directions, *value.low.shape), bool)
    for operand in operands:
        moves = moves | ~_slopes(operand, directions, value.low.ndim).is_zero()
    return _result(value, choose(moves & ~value.is_point(), ANYTHING, exactly(0.0)))


@_rule("add", "add_any")
def _add(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    return _combined(first.value + second.value, [(first, None), (second, None)], directions)


@_rule("neg")
def _negate(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    return _result(-operand.value, None if operand.slopes is None else -operand.slopes)


@_rule("sub")
def _subtract(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    return _add(equation, [first, _negate(equation, [second], directions)], directions)


@_rule("mul")
def _multiply(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    terms = [(first, second.value), (second, first.value)]
    return _combined(first.value * second.value, terms, directions)


@_rule("div")
def _divide(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    reciprocal = second.value.reciprocal()
    value = first.value * reciprocal
    return _combined(value, [(first, reciprocal), (second, -(value * reciprocal))], directions)


@_rule("max")
def _maximum(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    first, second = operands
    a, b = first.value, second.value
    value = Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))
    if first.slopes is None and second.slopes is None:
        return _result(value, None)
    each = [_slopes(operand, directions, value.low.ndim) for operand in operands]
    slopes = choose(a.low >= b.high, each[0], choose(b.low >= a.high, each[1], hull(*each)))
    return _result(value, slopes)


@_rule("min")
def _minimum(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    negated = [_negate(equation, [operand], directions) for operand in operands]
    return _negate(equation, [_maximum(equation, negated, directions)], directions)


@_rule("abs")
def _absolute(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    pair = [operand, _negate(equation, [operand], directions)]
    return _maximum(equation, pair, directions)


@_rule("clamp")
def _clamp(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    low, operand, high = operands
    raised = _maximum(equation, [operand, low], directions)
    return _minimum(equation, [raised, high], directions)


@_rule("lt", "le", "gt", "ge", "eq", "ne")
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
    return _jump(Interval(certain.astype(float), possible.astype(float)), operands, directions)


@_rule("and", "or", "not")
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
    return _jump(found, operands, directions)


@_rule("sign", "floor", "ceil", "round")
def _staircase(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    name = {"round": "rint"}.get(equation.primitive.name, equation.primitive.name)
    step = getattr(np, name)
    return _jump(Interval(step(operand.value.low), step(operand.value.high)), operands, directions)


@_rule("is_finite")
def _finite(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    certain = np.isfinite(operand.value.low) & np.isfinite(operand.value.high)
    return _jump(Interval(certain.astype(float), np.ones(operand.shape)), operands, directions)


@_rule("select_n")
def _select(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    which, *cases = operands
    rank = len(cases[0].shape)
    value: Interval = NOTHING
    slopes: Interval = NOTHING
    for index, case in enumerate(cases):
        possible = (which.value.low <= index) & (which.value.high >= index)
        value = hull(value, choose(possible, case.value, NOTHING))
        slopes = hull(slopes, choose(possible, _slopes(case, directions, rank), NOTHING))
    if all(operand.slopes is None for operand in operands):
        return _result(value, None)
    if which.slopes is not None:
        # Between two cases there may be a jump, along directions that change the choice.
        moves = ~_slopes(which, directions, rank).is_zero()
        slopes = choose(moves & ~which.value.is_point(), ANYTHING, slopes)
    return _result(value, slopes)


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


@_rule(*SMOOTH)
def _smooth(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    above, function, derivative = SMOOTH[equation.primitive.name]
    x = operand.value
    # At the end of its domain a function may have a value and no derivative.
    value = choose(x.low >= above, function(x), ANYTHING)
    inside = (x.low > above) | (above == -np.inf)
    steepness = choose(inside, derivative(x, value), ANYTHING)
    return _combined(value, [(operand, steepness)], directions)


@_rule("integer_pow")
def _integer_power(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    exponent = equation.params["y"]
    value = _power(operand.value, exponent)
    steepness = exactly(exponent) * _power(operand.value, exponent - 1)
    return _combined(value, [(operand, steepness)], directions)


def _power(x: Interval, exponent: int) -> Interval:
    if exponent < 0:
        return _power(x, -exponent).reciprocal()
    if exponent == 0:
        return exactly(np.ones(x.low.shape))
    half = _power(x.square(), exponent // 2)
    return x * half if exponent % 2 else half


@_rule("pow")
def _real_power(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    base, exponent = operands
    inside = base.value.low > 0
    positive = choose(inside, base.value, exactly(1.0))
    logarithm = SMOOTH["log"][1](positive)
    value = choose(inside, SMOOTH["exp"][1](exponent.value * logarithm), ANYTHING)
    steepness = choose(inside, exponent.value * value * positive.reciprocal(), ANYTHING)
    return _combined(value, [(base, steepness), (exponent, value * logarithm)], directions)


@_rule("reduce_sum")
def _total(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    axes = tuple(equation.params["axes"])

    def total(summed: Interval, axes: tuple[int, ...]) -> Interval:
        terms = int(np.prod([summed.low.shape[axis] for axis in axes], initial=1.0))
        error = terms * EPS * summed.magnitude().sum(axis=axes) + TINY
        return outwards(summed.low.sum(axis=axes) - error, summed.high.sum(axis=axes) + error)

    later = tuple(axis + 1 for axis in axes)
    slopes = None if operand.slopes is None else total(operand.slopes, later)
    return _result(total(operand.value, axes), slopes)


@_rule("dot_general")
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
        parts.append((_result(value, slopes), None))
    return _combined(value, parts, directions)


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


@_rule("convert_element_type")
def _convert(equation: Any, operands: Sequence[Enclosure], directions: int) -> Enclosure:
    (operand,) = operands
    old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
    floating = [jnp.issubdtype(dtype, jnp.floating) for dtype in (old, new)]
    if new == np.float64 or not any(floating):
        return operand
    if jnp.issubdtype(new, jnp.integer):
        truncated = Interval(np.trunc(operand.value.low), np.trunc(operand.value.high))
        return _jump(truncated, operands, directions)
    raise UnknownPrimitiveError(f"`convert_element_type` to {new}")


def _unlayered(equation: Any) -> Callable[..., Any]:
    """The primitive itself, mapped over the first axis."""

    def move(*arrays: Any) -> Any:
        return equation.primitive.bind(*arrays, **equation.params)

    return jax.vmap(move)


def _reshaped(equation: Any) -> Callable[..., Any]:
    return lambda array: array.reshape(len(array), *equation.outvars[0].aval.shape)


def _broadcast(equation: Any) -> Callable[..., Any]:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]

    def move(array: np.ndarray) -> np.ndarray:
        sizes = [1] * len(shape)
        for place, size in zip(places, array.shape[1:], strict=True):
            sizes[place] = size
        return np.broadcast_to(array.reshape(len(array), *sizes), (len(array), *shape))

    return move


def _sliced(equation: Any) -> Callable[..., Any]:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or [1] * len(starts)
    places = map(slice, starts, limits, strides)
    return lambda array, place=(slice(None), *places): array[place]


def _joined(equation: Any) -> Callable[..., Any]:
    axis = equation.params["dimension"] + 1
    return lambda *arrays: np.concatenate(arrays, axis)


REARRANGEMENTS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "concatenate": _joined,
} | dict.fromkeys(
    ("stack", "unstack", "split", "transpose", "pad", "rev", "copy", "optimization_barrier"),
    _unlayered,
)
"""Primitives that move entries about, and how to do it to many layers at once. JAX itself can
always; the most frequent have a faster way."""

PICKS = ("gather", "dynamic_slice")
"""Primitives that move entries of their first operand, to or from places that the others name."""


def _rearranged(equation: Any, operands: Sequence[Enclosure], directions: int) -> list[Enclosure]:
    """Move entries about: those of all bounds alike, as layers of one array."""
    name = equation.primitive.name
    if name in PICKS:
        operands, move = operands[:1], _pick(equation, operands[1:])
    else:
        move = REARRANGEMENTS[name](equation)
    moving = any(operand.slopes is not None for operand in operands)
    stacked = []
    for operand in operands:
        values = [operand.value, operand.center]
        layers = [bound[None] for each in values for bound in (each.low, each.high)]
        if moving:
            own = _slopes(operand, directions, len(operand.shape))
            layers += [own.low, own.high]
        stacked.append(np.concatenate(layers))
    found = move(*stacked)
    results = []
    for array in map(np.asarray, found if equation.primitive.multiple_results else [found]):
        slopes = Interval(*np.split(array[4:], 2)) if moving else None
        results.append(Enclosure(Interval(*array[:2]), slopes, Interval(*array[2:4])))
    return results


def _pick(equation: Any, places: Sequence[Enclosure]) -> Callable[..., Any]:
    indices = []
    for place, variable in zip(places, equation.invars[1:], strict=True):
        if place.slopes is not None or not place.value.is_point().all():
            raise UnknownPrimitiveError(f"`{equation.primitive.name}` at a place that varies")
        indices.append(jnp.asarray(place.value.low).astype(variable.aval.dtype))
    return jax.vmap(lambda array: equation.primitive.bind(array, *indices, **equation.params))
