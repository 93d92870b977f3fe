"""Numbers on the command line that no run can use, refused before anything is imported.

Programs compute in single precision and count in 32 bits: a larger seed would draw the problems of
a smaller one, a rate of 1e300 would be infinite, an epsilon of 1e-50 zero.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lrevopt.checks import at_most_32_bits, positive_integer

SEEDS = 2**32
"""Seeds are below this number."""

LEAST_NORMAL, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Sizes of the numbers of single precision, those that are rounded to fewer digits left out."""

COUNTS = ("problems", "test_problems", "steps", "parameters", "candidates", "seeds")
"""Options that are counts of at least 1."""


def check_numbers(settings: Any) -> None:
    """Raise `ValueError` for a number among the options of a command that no run can use."""
    for name, value in _numbers("", settings):
        last = name.rpartition(".")[2]
        if last == "seed":
            check_seed(value)
        elif isinstance(value, int):
            if last in COUNTS:
                positive_integer(last, value)
            at_most_32_bits(name, value)
        elif value != 0 and not LEAST_NORMAL <= abs(value) <= LARGEST:
            raise ValueError(
                f"`{name}` must be a number that single precision holds, at most {LARGEST:.2g} and "
                f"at least {LEAST_NORMAL:.2g} in size, got {value!r}."
            )


def check_seed(seed: Any) -> int:
    """`seed`, if it is an integer within the range of seeds."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise ValueError(f"`seed` must be an integer from 0 to {SEEDS - 1}, got {seed!r}.")
    return seed


def _numbers(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """All numbers in options, by the name of the option; truth values are none."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(_joined(name, field.name), getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from _numbers(name, entry)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _numbers(_joined(name, str(key)), entry)
    elif isinstance(value, str) and "kwargs" in name:
        key, _, text = value.partition("=")
        try:
            yield from _numbers(_joined(name, key), json.loads(text))
        except (ValueError, RecursionError):  # a string, or nothing that can be read
            return
    # NaN and infinity are refused where they are used, with the bounds that hold there.
    elif type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        yield name, value


def _joined(name: str, more: str) -> str:
    return f"{name}.{more}" if name else more
