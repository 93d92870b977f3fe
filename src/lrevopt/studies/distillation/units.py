"""Units of the numbers of a white box: sizes of gradients, and of what becomes of them.

Gradients c times as large change nothing where the numbers are in these units: a white box makes
the same updates under them as one whose numbers were chosen for the smaller gradients.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrevopt.inner_loop.recorded_runs import Typical

LEAST = float(np.finfo(np.float32).tiny)
"""Squared gradients below this count as this large."""


def behind_adaptation(structure: Mapping[str, Any]) -> bool:
    """Whether what saturates was divided by the adaptation before, if there is one.

    `structure` is a white box as JSON, or its description.
    """
    of = structure["saturation_of"]
    return of == "update" or (of == "memory" and structure["adaptation_of"] == "gradient")


def adapted(size: float, exponent: Any) -> Any:
    """What an adaptation makes of gradients that keep this size: it divides by (g^2)^exponent."""
    return size ** (1 - 2 * exponent)


def floor_of(share: Any, typical: Typical, exponent: Any, *, outside: bool) -> Any:
    """The floor of an adaptation that is this share of the squared typical gradient.

    Outside the power it is added to s^exponent, and is the same power of that share.
    """
    square = share * max(typical.gradient**2, LEAST)
    return square**exponent if outside else square


def divisor_of(typical: Typical, exponent: float, floor: float, *, outside: bool) -> float:
    """What an adaptation divides by under typical gradients."""
    square = max(typical.gradient**2, LEAST)
    return square**exponent + floor if outside else (square + floor) ** exponent
