"""Interval arithmetic: arrays of bounds that round outwards, their products and norms.

Elementary functions (exp, log, tanh, ...) are assumed to be accurate to `ULPS` units in the last
place.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

ULPS = 4
"""Units in the last place by which values of elementary functions are widened."""

EPS = float(np.finfo(float).eps)
TINY = float(np.finfo(float).tiny)


class Interval:
    """Arrays between two bounds. Operations round outwards; NaN bounds become infinite."""

    def __init__(self, low: ArrayLike, high: ArrayLike):
        self.low, self.high = np.asarray(low, float), np.asarray(high, float)

    def __add__(self, other: "Interval") -> "Interval":
        # Adding 0 is exact.
        total = outwards(self.low + other.low, self.high + other.high)
        return choose(self.is_zero(), other, choose(other.is_zero(), self, total))

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low)

    def __sub__(self, other: "Interval") -> "Interval":
        return self + (-other)

    def __mul__(self, other: "Interval") -> "Interval":
        # 0 times infinity is 0: bounds may be infinite, numbers between them are not.
        corners = [
            np.where(np.isnan(corner), 0.0, corner)
            for corner in (
                self.low * other.low,
                self.low * other.high,
                self.high * other.low,
                self.high * other.high,
            )
        ]
        bounds = outwards(np.minimum.reduce(corners), np.maximum.reduce(corners))
        return choose(self.is_zero() | other.is_zero(), exactly(0.0), bounds)

    def __getitem__(self, index: Any) -> "Interval":
        return Interval(self.low[index], self.high[index])

    def is_zero(self) -> np.ndarray:
        """Where both bounds are 0."""
        return np.asarray((self.low == 0) & (self.high == 0))

    def is_point(self) -> np.ndarray:
        """Where both bounds are equal."""
        return np.asarray(self.low == self.high)

    def magnitude(self) -> np.ndarray:
        """Largest absolute value."""
        return np.asarray(np.maximum(np.abs(self.low), np.abs(self.high)))

    def middle(self) -> np.ndarray:
        """A number about halfway; 0 where a bound is infinite on both sides."""
        middle = self.low / 2 + self.high / 2
        return np.where(np.isnan(middle), 0.0, middle)

    def reciprocal(self) -> "Interval":
        """1 / x; unbounded where x may be 0."""
        through = (self.low <= 0) & (self.high >= 0)
        low, high = np.where(through, 1.0, self.low), np.where(through, 1.0, self.high)
        with np.errstate(over="ignore"):  # of the smallest numbers: infinite, then outwards
            return choose(through, ANYTHING, outwards(1 / high, 1 / low))

    def square(self) -> "Interval":
        """x^2."""
        through = (self.low <= 0) & (self.high >= 0)
        squares = self.low**2, self.high**2
        found = outwards(np.where(through, 0.0, np.minimum(*squares)), np.maximum(*squares))
        return choose(self.is_zero(), self, Interval(np.maximum(found.low, 0.0), found.high))


def exactly(value: Any) -> Interval:
    """A number or an array as an interval of no width."""
    return Interval(value, value)


ANYTHING = Interval(-np.inf, np.inf)
NOTHING = Interval(np.inf, -np.inf)


def outwards(low: ArrayLike, high: ArrayLike, ulps: int = 1) -> Interval:
    """Computed bounds, widened by their rounding error."""
    low, high = np.asarray(low), np.asarray(high)
    low = np.where(np.isnan(low), -np.inf, low)
    high = np.where(np.isnan(high), np.inf, high)
    for _ in range(ulps):
        low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
    return Interval(low, high)


def upwards(value: float) -> float:
    """A computed number of a few operations, rounded up."""
    return float(value) * (1 + 16 * EPS) + TINY


def choose(which: ArrayLike, yes: Interval, no: Interval) -> Interval:
    """`yes` where `which`, elsewhere `no`."""
    return Interval(np.where(which, yes.low, no.low), np.where(which, yes.high, no.high))


def hull(first: Interval, second: Interval) -> Interval:
    """The least interval around both."""
    return Interval(np.minimum(first.low, second.low), np.maximum(first.high, second.high))


def product(
    first: Interval,
    second: Interval,
    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.matmul,
    terms: int | None = None,
) -> Interval:
    """A matrix product, by middles and radii; `terms` are summed for each entry.

    The error of a computed product of n terms is at most `n eps` times that of magnitudes, in
    whatever order they are summed.
    """
    terms = first.low.shape[-1] if terms is None else terms
    first_middle, second_middle = first.middle(), second.middle()
    first_radius = _radius(first, first_middle)
    second_radius = _radius(second, second_middle)
    sizes = np.abs(first_middle), np.abs(second_middle)
    rounding = (terms + 4) * EPS
    middle = multiply(first_middle, second_middle)
    radius = (
        multiply(sizes[0] + first_radius, second_radius)
        + multiply(first_radius, sizes[1])
        + rounding * multiply(*sizes)
    )
    radius = radius * (1 + 2 * rounding) + (terms + 1) * TINY
    return outwards(middle - radius, middle + radius)


def _radius(interval: Interval, middle: np.ndarray) -> np.ndarray:
    reach = np.maximum(interval.high - middle, middle - interval.low)
    return np.where(interval.is_point(), 0.0, np.nextafter(reach, np.inf))


def length(magnitudes: np.ndarray) -> float:
    """Upper bound of a Euclidean norm, given magnitudes that are at least the entries'."""
    return upwards(float(np.linalg.norm(magnitudes)) * (1 + magnitudes.size * EPS))


def norm_of_magnitudes(magnitudes: np.ndarray) -> float:
    """Upper bound of the spectral norm of all matrices with entries no larger than these.

    The largest eigenvalue of N'N, N >= 0, is at most max (N'N u) / u for any u > 0 (Collatz).
    """
    if not np.isfinite(magnitudes).all():
        return np.inf
    frobenius = length(magnitudes)
    if frobenius <= TINY:
        return frobenius
    scaled = magnitudes / frobenius
    vector = np.ones(scaled.shape[1])
    for _ in range(30):
        vector = scaled.T @ (scaled @ vector)
        # Positive, also where a column is all zeros.
        vector = vector / vector.max() + 1e-3
    ratio = float(np.max(scaled.T @ (scaled @ vector) / vector))
    collatz = frobenius * np.sqrt(ratio) * (1 + (sum(scaled.shape) + 16) * EPS)
    return min(frobenius, upwards(collatz))


def norm(matrix: Interval) -> float:
    """Upper bound of the spectral norm, by a singular value decomposition and its defects."""
    middle = matrix.middle()
    remainder = norm_of_magnitudes((matrix - exactly(middle)).magnitude())
    if not np.isfinite(middle).all() or not np.isfinite(remainder):
        return np.inf
    left, values, right = np.linalg.svd(middle, full_matrices=False)
    rebuilt = product(exactly(left * values), exactly(right))
    # The columns `left * values` are rounded as well.
    residual = length((rebuilt - exactly(middle)).magnitude()) + EPS * length(values)
    stretched = 1.0
    for factor in (left, right.T):
        gram = product(exactly(factor.T), exactly(factor)) - exactly(np.eye(factor.shape[1]))
        stretched *= 1 + length(gram.magnitude())
    return upwards(values[0] * stretched + residual + remainder)
