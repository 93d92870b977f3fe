"""One-sentence refusals of bad arguments, shared by every module.

Each function returns the value it accepted, so that a check can stand where the value is
used, and raises `ValueError` naming the argument, the value and what would be right.
Traced values pass: they have no value yet.
"""

import math
import operator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Record = TypeVar("Record")


def required(record: Record | None) -> Record:
    """A record that the caller has seen to be there."""
    assert record is not None
    return record


def positive_integer(name: str, value: object) -> int:
    """`value` as an integer of at least 1."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
    return number


def finite(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
) -> float:
    """`value` as one finite number within the bounds given; `at_least` may be met."""
    ends = {"above": above, "of at least": at_least, "below": below}
    bounds = [f"{side} {end:g}" for side, end in ends.items() if end is not None]
    try:
        number = float(value)  # type: ignore[arg-type]  # refused below if it is none
    except (TypeError, ValueError):
        number = math.nan
    low = -math.inf if above is None else above
    least = -math.inf if at_least is None else at_least
    high = math.inf if below is None else below
    if not (math.isfinite(number) and low < number < high and number >= least):
        expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"`{name}` must be {expected}, got {value!r}.")
    return number


def finite_leaves(name: str, value: object, *, minimum: float = -math.inf) -> None:
    """Every entry of an array leaf is finite and at least `minimum`; tracers pass."""
    if not hasattr(value, "dtype"):
        return
    import jax  # not at the top: settings are checked before JAX is imported

    if isinstance(value, jax.core.Tracer):
        return
    entries = np.asarray(value, float)  # a bound of 1e-300 is 0 in float32
    if not (np.all(np.isfinite(entries)) and np.all(entries >= minimum)):
        bound = "" if minimum == -math.inf else f" and at least {minimum:g}"
        shown = entries.item() if entries.size == 1 else entries.tolist()
        raise ValueError(f"`{name}` must be finite{bound}, got {shown!r}.")


def increasing_pair(name: str, value: Sequence[float]) -> tuple[float, float]:
    """`value` as two finite numbers, the first below the second."""
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"`{name}` must be two finite numbers (low, high) with low < high, got {value!r}."
        )
    return low, high


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """`value`, if it is among `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")
    return value
