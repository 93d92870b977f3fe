"""Families of textbook formulas with their variants, as NumPy functions of gradients.

A `Form` is one formula, all of whose choices are words; `Numbers` are its hyperparameters. Both
together give updates, so that a formula can be compared with any optimizer's behaviour.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

Correction = Literal["none", "right", "ahead", "constant", "multiplied"]
"""What a moment is divided by in update k = 1, 2, ...: 1, 1 - b^k, 1 - b^(k + 1), 1 - b; the last
multiplies by 1 - b^k."""


class Numbers(NamedTuple):
    """Hyperparameters; those that a formula does not have do not matter.

    Rprop reads `b1` as the factor of a shrinking step, `b2` of a growing one, `epsilon` as the
    smallest step and `start` as the largest one.
    """

    rate: Any = 1.0
    b1: Any = 0.9
    b2: Any = 0.999
    epsilon: Any = 1e-8
    start: Any = 0.0
    """Value of the second moment before the first update."""


@dataclasses.dataclass(frozen=True)
class Form:
    """One formula among gradient descent, momentum, RMSProp, Adam and their relatives.

        m' = b1 m + (1 or 1 - b1) g                 `first`: "sum" or "average"
        v' = b2 v + (1 - b2) (g - centre)^2         `second`: "average"; or v + g^2, or a maximum
        x' = x - rate numerator / (root(denominator) + epsilon)

    `family` "lion" is the sign of b1 m + (1 - b1) g with m' = b2 m + (1 - b2) g; "rprop" has a step
    of its own for each parameter.
    """

    family: Literal["moments", "lion", "rprop"] = "moments"
    first: Literal["none", "sum", "average"] = "none"
    numerator: Literal["new", "old", "nesterov", "nesterov same", "nesterov minus"] = "new"
    first_correction: Correction = "none"
    second: Literal["none", "average", "sum", "largest"] = "none"
    denominator: Literal["new", "old"] = "new"
    second_correction: Correction = "none"
    epsilon: Literal["outside", "inside", "twice", "scaled", "both", "subtracted", "beside"] = (
        "outside"
    )
    root: Literal["square", "none"] = "square"
    largest: Literal["none", "corrected", "uncorrected"] = "none"
    centre: Literal["none", "mean", "belief"] = "none"
    order: Literal["right", "exchanged", "updated first"] = "right"
    """Of Lion: b1 and b2 exchanged, or its moment updated before the sign is taken."""
    turn: Literal["rests", "late", "moves", "remembers"] = "rests"
    """Of Rprop where a gradient changes sign: no move and no memory; the move of the update before;
    a move by the smaller step; no move, but the sign is kept."""

    def updates(self, numbers: Numbers, gradients: np.ndarray) -> np.ndarray:
        """Updates at gradients of shape (step, trace, dim).

        Numbers of shape (setting, 1, 1) give updates of shape (step, setting, trace, dim).
        """
        numbers = Numbers(*(np.asarray(each, float)[()] for each in numbers))
        step = {"moments": _moments, "lion": _lion, "rprop": _rprop}[self.family](self, numbers)
        shape = np.broadcast_shapes(gradients.shape[1:], *(number.shape for number in numbers))
        with np.errstate(all="ignore"):
            found = [np.broadcast_to(step(g, k + 1), shape) for k, g in enumerate(gradients)]
        return np.stack(found)


Step = Callable[[Any, int], Any]
"""Update at a gradient, in update k = 1, 2, ...; keeps the state."""


def _corrected(moment: Any, b: Any, kind: Correction, k: int) -> Any:
    if kind == "multiplied":
        return moment * (1 - b**k)
    by = {"none": 1.0, "right": 1 - b**k, "ahead": 1 - b ** (k + 1), "constant": 1 - b}[kind]
    return moment / by


def _moments(form: Form, numbers: Numbers) -> Step:
    rate, b1, b2, _, start = numbers
    m: Any = 0.0
    v: Any = start
    mean: Any = 0.0
    top: Any = 0.0

    def step(g: Any, k: int) -> Any:
        nonlocal m, v, mean, top
        share = 1.0 if form.first == "sum" else 1 - b1
        old, old_v = m, v
        m = g if form.first == "none" else b1 * m + share * g
        above = _numerator(form, numbers, (old, m, share * g), k)
        if form.second == "none":
            return -rate * above
        v = _second(form, numbers, (v, g, m))
        below = old_v if form.denominator == "old" else v
        if form.centre == "mean":  # the same decay for both
            mean = b2 * mean + (1 - b2) * g
            below = below - mean**2
        scale = _corrected(1.0, b2, form.second_correction, k)
        if form.largest == "corrected":
            below = top = np.maximum(top, below * scale)
        elif form.largest == "uncorrected":
            top = np.maximum(top, below)
            below = top * scale
        else:
            below = below * scale
        return -rate * _quotient(form, numbers, above, below, scale)

    return step


def _numerator(form: Form, numbers: Numbers, moments: tuple[Any, Any, Any], k: int) -> Any:
    """From the moment before and after its update, and the gradient's share in it."""
    old, new, part = moments
    b1, kind = numbers.b1, form.first_correction
    if form.numerator == "old":
        return _corrected(old, b1, kind, k)
    if form.numerator == "nesterov":
        ahead = k + 1 if kind != "none" else k
        return b1 * _corrected(new, b1, kind, ahead) + _corrected(part, b1, kind, k)
    if form.numerator == "nesterov same":
        return _corrected(b1 * new + part, b1, kind, k)
    if form.numerator == "nesterov minus":
        return _corrected(part - b1 * new, b1, kind, k)
    return _corrected(new, b1, kind, k)


def _second(form: Form, numbers: Numbers, known: tuple[Any, Any, Any]) -> Any:
    v, g, m = known
    b2 = numbers.b2
    if form.second == "largest":
        return np.maximum(b2 * v, np.abs(g) + numbers.epsilon)
    away = g - m if form.centre == "belief" else g
    added = numbers.epsilon if form.centre == "belief" and form.epsilon == "both" else 0.0
    return v + away**2 if form.second == "sum" else b2 * v + (1 - b2) * away**2 + added


def _quotient(form: Form, numbers: Numbers, above: Any, below: Any, scale: Any) -> Any:
    """`scale` is what the bias correction multiplied the second moment by."""
    eps = numbers.epsilon
    if form.second == "largest":
        return above / below
    if form.epsilon == "inside":
        size = below + eps
        return above / (np.sqrt(size) if form.root == "square" else size)
    if form.epsilon == "twice":
        return above / (np.sqrt(below + eps) + eps)
    size = np.sqrt(below) if form.root == "square" else below
    if form.epsilon == "beside":
        return np.where(size > 0, above / size, 0.0) + eps
    if form.epsilon == "scaled":
        return above / (size + eps * np.sqrt(scale))
    return above / (size - eps if form.epsilon == "subtracted" else size + eps)


def _lion(form: Form, numbers: Numbers) -> Step:
    rate, b1, b2 = numbers[:3]
    if form.order == "exchanged":
        b1, b2 = b2, b1
    m: Any = 0.0

    def step(g: Any, k: int) -> Any:
        nonlocal m
        before = m
        m = b2 * m + (1 - b2) * g
        if form.order == "updated first":
            before = m
        return -rate * np.sign(b1 * before + (1 - b1) * g)

    return step


def _rprop(form: Form, numbers: Numbers) -> Step:
    first, minus, plus, low, high = numbers
    size: Any = first
    kept: Any = 0.0  # sign of the gradient before
    last: Any = 0.0  # update before

    def step(g: Any, k: int) -> Any:
        nonlocal size, kept, last
        same = np.sign(g) * kept
        grown = np.clip(size * np.where(same > 0, plus, minus), low, high)
        size = np.where(same == 0, size, grown)
        turned = same < 0
        moved = -size * np.sign(g)
        if form.turn == "moves":
            kept = np.sign(g)
            return moved
        moved = np.where(turned, 0.0, moved)
        kept = np.sign(g) if form.turn == "remembers" else np.where(turned, 0.0, np.sign(g))
        if form.turn == "late":
            moved, last = np.where(turned, 0.0, last), moved
        return moved

    return step
