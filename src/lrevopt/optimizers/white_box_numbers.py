"""Numbers of white boxes: their names, ranges, and coordinates without bounds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lrevopt.checks import real_array
from lrevopt.optimizers.classical import as_float


@dataclasses.dataclass(frozen=True)
class Scale:
    """Map between a number within bounds and its coordinate without bounds.

    `outward` maps the coordinate to the number, `inward` back. Bounds are excluded: where the
    number would round to a bound, the nearest number inside is taken.
    """

    low: float
    high: float
    number: Callable[[Any], Any]
    inward: Callable[[Any], Any]

    def outward(self, coordinate: Any) -> Any:
        """The number of a coordinate."""
        return self.inside(self.number(coordinate))

    def inside(self, number: Any) -> Any:
        """The number, or the nearest one within the bounds that its floating type has."""
        if np.isinf(self.low):
            return number
        dtype = jnp.result_type(number, jnp.result_type(float))
        info, short = jnp.finfo(dtype), 1 - _to_bound_at_least(dtype, 1 if self.high == 1 else 4)
        least = short * self.low if self.low else float(info.tiny)
        return jnp.clip(
            number, least, float(info.max) if np.isinf(self.high) else short * self.high
        )

    def words(self) -> str:
        """The range."""
        if np.isinf(self.low):
            return "finite"
        if np.isinf(self.high):
            return f"finite and above {self.low:g}"
        return f"above {self.low:g} and below {self.high:.4g}"


REAL = Scale(-np.inf, np.inf, lambda c: c, lambda n: n)
POSITIVE = Scale(0.0, np.inf, jnp.exp, jnp.log)
UNIT = Scale(0.0, 1.0, jax.nn.sigmoid, lambda n: jnp.log(n) - jnp.log1p(-n))
SYMMETRIC = Scale(-1.0, 1.0, lambda c: jnp.tanh(0.5 * c), lambda n: 2 * jnp.arctanh(n))
ANGLE = Scale(0.0, np.pi, lambda c: 2 * jnp.arctan(jnp.exp(-c)), lambda n: -jnp.log(jnp.tan(n / 2)))

SCALES: dict[str, Scale] = {
    "learning_rate": POSITIVE,
    "momentum": SYMMETRIC,
    "share": REAL,
    "radius": UNIT,
    "angle": ANGLE,
    "quadrature": REAL,
    "knee": POSITIVE,
    "sharpness": POSITIVE,
    "asymmetry": REAL,
    "sharpness_ratio": POSITIVE,
    "memory": UNIT,
    "exponent": REAL,
    "floor": POSITIVE,
    "start_over_end": POSITIVE,
    "timescale": POSITIVE,
    "agreement": REAL,
    "agreement_memory": UNIT,
    "agreement_curvature": REAL,
    "agreement_knee": REAL,
}
"""Every number that a white box can have. Those of modes are followed by `_1`, `_2`, ... where
there are several."""


BOUNDED_BY_1 = tuple(name for name, scale in SCALES.items() if scale.high == 1)
"""Numbers whose distance to 1 matters as much as they do."""


def head_of(name: str) -> str:
    """The name of a number without its index, if it has one."""
    head, _, index = name.rpartition("_")
    return head if index.isdigit() else name


def scale_of(name: str) -> Scale:
    """The scale of a number by its name, with or without an index."""
    return SCALES[head_of(name)]


def to_bound(name: str, coordinate: Any) -> float:
    """1 minus the modulus of a number that 1 bounds, with the digits that its coordinate has."""
    scale, size = scale_of(name), float(coordinate)
    size, factor = (abs(size), 2.0) if scale is SYMMETRIC else (size, 1.0)
    least = _to_bound_at_least(jnp.result_type(coordinate, jnp.result_type(float)))
    return max(factor / (1 + float(np.exp(min(size, 700.0)))), least)


def complement(coordinate: Any) -> Array:
    """1 minus a number between 0 and 1, from its coordinate: near 1 it has digits to lose."""
    rest = jax.nn.sigmoid(-coordinate)
    return jnp.clip(rest, _to_bound_at_least(jnp.result_type(rest)), 1.0)


def _to_bound_at_least(dtype: Any, units: int = 1) -> float:
    """How far from a bound of 1 numbers of a floating type are kept, in its last digits there."""
    return units * float(jnp.finfo(dtype).epsneg)


def plain_number(name: str, coordinate: Any) -> float:
    """The number of a coordinate, which has more digits near 1 than the number in its type."""
    scale, dtype = scale_of(name), jnp.result_type(float)
    if head_of(name) not in BOUNDED_BY_1 or jnp.result_type(coordinate, dtype) == jnp.float64:
        return float(scale.outward(coordinate))
    size, most = float(coordinate), 1 - _to_bound_at_least(dtype)
    odds = np.exp(-abs(size))
    if scale is SYMMETRIC:
        exact = np.clip(np.tanh(0.5 * size), -most, most)
    else:
        exact = np.clip((odds if size < 0 else 1.0) / (1 + odds), _least(), most)
    rounded = dtype.type(exact)  # as short as can be
    same = dtype.type(_wide_coordinate(scale, float(rounded))) == dtype.type(size)
    return float(rounded if same else exact)


def cosine_and_sine(coordinate: Any) -> tuple[Array, Array]:
    """Of an angle, from its coordinate, `tan(angle / 2) = exp(-coordinate)`."""
    cosine = jnp.tanh(coordinate)
    # (1 + cos)(1 - cos) would lose digits where the cosine is near 1.
    return cosine, 2 / (jnp.exp(coordinate) + jnp.exp(-coordinate))


def indexed(name: str, count: int, free: int | None = None) -> list[str]:
    """Names of the numbers of `count` modes; `free` of them, by default all."""
    number = count if free is None else free
    return [name] if count == 1 and number == 1 else [f"{name}_{i + 1}" for i in range(number)]


def valid_number(name: str, value: Any, called: str | None = None) -> Float[Array, "..."]:
    """`value` as an array. Raises `ValueError` unless it is in the range of this number.

    So it does for a size beyond that of the default floating type, and below where 0 is excluded.
    `called` is the name of the argument, if it has another one than the number.
    """
    scale, name = scale_of(name), called or name
    array = real_array(name, value)
    if array.ndim:
        raise ValueError(f"`{name}` must be a scalar, got shape {array.shape}.")
    if isinstance(array, jax.core.Tracer):
        return as_float(array)
    number = float(value)
    if not (np.isfinite(number) and scale.low < number < scale.high):
        raise ValueError(f"`{name}` must be {scale.words()}, got {number:g}.")
    if abs(number) > (most := _largest()):
        raise ValueError(
            f"`{name}` must be {scale.words()}, and at most {most:.2g} in size in "
            f"{jnp.result_type(float)}, got {number:g}."
        )
    # The modulus of a complex number may be off by round-off of double precision.
    if scale.low == 0 and number < (1 - 1e-12) * (least := _least()):
        raise ValueError(
            f"`{name}` must be {scale.words()}, and at least {least:.2g} in "
            f"{jnp.result_type(float)}, got {number:g}."
        )
    near = _to_bound_at_least(jnp.result_type(float))
    if scale.high == 1 and 1 - abs(number) < (1 - 1e-6) * near:
        raise ValueError(
            f"`{name}` must be {scale.words()}, and at least {near:.2g} from 1 in size in "
            f"{jnp.result_type(float)}, got {number!r}."
        )
    return scale.inside(as_float(array))  # rounding may have taken it to a bound


def in_range_of_type(name: str, number: float) -> float:
    """The value of a number of this name, or the largest of the default floating type.

    A value above 0 that the type would round to 0 is replaced by the least of the type; one that
    it would round to a bound of 1 by the nearest within.
    """
    dtype = jnp.result_type(float)
    most = 1 - _to_bound_at_least(dtype) if head_of(name) in BOUNDED_BY_1 else _largest()
    if abs(number) > most and (most > 1 or abs(number) < 1):
        number = most if number > 0 else -most
    return max(number, _least()) if number > 0 else number


def _largest() -> float:
    return float(jnp.finfo(jnp.result_type(float)).max)


def _least() -> float:
    return float(jnp.finfo(jnp.result_type(float)).tiny)


def coordinate_of(name: str, value: Any) -> Float[Array, ""]:
    """The coordinate of a number, in whose floating type 1 minus the number has all its digits.

    Raises `ValueError` unless the number is in its range.
    """
    leaf, scale = valid_number(name, value), scale_of(name)
    near_1 = scale is UNIT or scale is SYMMETRIC
    if isinstance(leaf, jax.core.Tracer) or not near_1 or leaf.dtype == jnp.float64:
        return scale.inward(leaf)
    number = float(value)
    if leaf != jnp.asarray(number, leaf.dtype):  # it was at a bound
        number = float(leaf)
    return jnp.asarray(_wide_coordinate(scale, number), leaf.dtype)


def _wide_coordinate(scale: Scale, number: float) -> float:
    """In double precision, of a number that 1 bounds."""
    if scale is SYMMETRIC:
        return float(2 * np.arctanh(number))
    return float(np.log(number) - np.log1p(-number))


def _shown(name: str, value: float) -> str:
    """Four digits, or as many as tell it from 1."""
    to_1 = 1 - abs(value) if head_of(name) in BOUNDED_BY_1 else 1.0
    return f"{value:.{max(4, 3 - int(np.floor(np.log10(to_1))))}g}"


def held_words(box: Any) -> str:
    """Such as `WhiteBox(learning_rate=0.1, momentum=0.9, knee=2 held)`."""
    try:
        free = {name: c for name, c in box.coordinates.items() if isinstance(c, jax.Array)}
        words = [f"{name}={_shown(name, plain_number(name, c))}" for name, c in free.items()]
        words += [f"{name}={_shown(name, value)} held" for name, value in box.held.items()]
    except (TypeError, ValueError, AttributeError):  # stacked, or mapped to what are no numbers
        words = [f"{name}=..." for name in box.coordinates]
    kinds = {"saturation of": box.saturation_of, "adaptation of": box.adaptation_of}
    words += [f"{name} {kind}" for name, kind in kinds.items() if kind is not None]
    return f"WhiteBox({', '.join(words)})"
