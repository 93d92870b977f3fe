"""Numbers, shares and complex values in words."""

import math

Facts = list[tuple[str, str]]
"""Pairs of a name and a sentence."""


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, with words for what is not a number."""
    if math.isnan(value):
        return "not available"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    return "not available" if math.isnan(share) else f"{number(100 * float(share))} %"


def complex_number(value: complex) -> str:
    if abs(value.imag) <= 1e-6 * abs(value):
        return number(float(value.real))
    return f"{number(float(value.real))} ± {number(abs(float(value.imag)))} i"
