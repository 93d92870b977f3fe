"""Programs of JAX primitives, evaluated on enclosures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lrevopt.certificates import arithmetic, functions
from lrevopt.certificates.enclosures import Enclosure, Rule, UnknownPrimitiveError
from lrevopt.certificates.intervals import ANYTHING, EPS, TINY, Interval, choose, exactly
from lrevopt.certificates.rearrangements import PICKS, REARRANGEMENTS, rearranged

RULES: dict[str, Rule] = arithmetic.RULES | functions.RULES


def enclose(
    program: ClosedJaxpr, center: np.ndarray, read: np.ndarray, frame: np.ndarray, radius: float
) -> tuple[Interval, Interval]:
    """F and its derivative times `frame`, over all h = center + frame y with ||y|| <= radius.

    `frame` has a row for each coordinate in `read`; the other coordinates are unbounded.
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
    """`known`, cut down by the mean value theorem: |x(h) - x(h0)| <= radius sup ||grad x||."""
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
        return rearranged(equation, inputs, directions)
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
"""Primitives that hold a program. Custom derivatives are ignored: those of the program hold."""


def _is_exact(equation: Any, inputs: Sequence[Enclosure]) -> bool:
    """Whether an equation maps constants to integers or truth values, such as indices."""
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
