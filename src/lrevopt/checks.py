"""One-sentence refusals of bad arguments, shared by every module.

Each function returns the value it accepted, so that a check can stand where the value is
used, and raises `ValueError` naming the argument, the value and what would be right, in one
line. Traced values pass: they have no value yet.
"""

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

Record = TypeVar("Record")

MOST = 2**31 - 1
"""The largest count."""

SUPPORTED = ("float32", "float64")
"""Floating types in which optimizers and tasks compute."""


def required(record: Record | None) -> Record:
    """Narrow `X | None` to `X`."""
    assert record is not None
    return record


def shown(value: Any) -> str:
    """A value in one short line: arrays by type and shape, classes and objects by their name."""
    kind = type(value).__name__
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "dtype") and getattr(value, "shape", ()) != ():
        return f"an array of {value.dtype} and shape {tuple(value.shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    try:
        words = repr(value)
    except Exception:  # a user's own object may not even print
        return f"a {kind}"
    # Long, or Python's own: `<package.Kind object at 0x7f...>`.
    return f"a {kind}" if len(words) > 80 or "\n" in words or " at 0x" in words else words


def plain_fields(settings: Any) -> None:
    """Give frozen settings Python's own numbers where NumPy's or JAX's are among their fields.

    Settings are compared, are part of what a program is compiled for, and are written as JSON.
    """
    for field in dataclasses.fields(settings):
        object.__setattr__(settings, field.name, _plain(getattr(settings, field.name)))


def _plain(value: Any) -> Any:
    """Scalars as Python's, in tuples, lists, dictionaries and arrays too; the rest as it is."""
    if type(value) in (tuple, list):
        return type(value)(_plain(entry) for entry in value)
    if type(value) is dict:
        return {key: _plain(entry) for key, entry in value.items()}
    try:
        if isinstance(value, np.ndarray) and value.ndim:
            return tuple(_plain(entry) for entry in value)
        return np.asarray(value).item() if getattr(value, "shape", None) == () else value
    except (TypeError, ValueError):  # traced, or a random key
        return value


def positive_integer(name: str, value: object) -> int:
    """`value` as an integer of at least 1."""
    return integer_of_at_least(1, name, value)


def integer_of_at_least(least: int, name: str, value: object) -> int:
    """`value` as an integer of at least `least`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {shown(value)}.")
    return number


def at_most_32_bits(name: str, value: int) -> int:
    """`value`, if it fits into a 32-bit integer, as lengths of axes and step counters must."""
    if abs(value) > MOST:
        raise ValueError(f"`{name}` must be an integer of at most {MOST}, got {value!r}.")
    return value


def yes_or_no(name: str, value: object) -> bool:
    """`value`, if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, got {shown(value)}.")
    return bool(value)


def text(name: str, value: object) -> str:
    """`value`, if it is a string."""
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string, got {shown(value)}.")
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    """`value`, if it is of class `kind`; `what` says in words what would be right."""
    if not isinstance(value, kind):
        hint = ": call it" if isinstance(value, type) and issubclass(value, kind) else ""
        raise ValueError(f"`{name}` must be {what}, got {shown(value)}{hint}.")
    return value


def mapping(name: str, value: Any, of: str) -> Mapping[str, Any]:
    """`value`, if it is a dictionary with names and at least one entry; `of` says of what."""
    if not isinstance(value, Mapping):
        raise ValueError(f"`{name}` must be a dictionary of {of} by name, got {shown(value)}.")
    if not value:
        raise ValueError(f"`{name}` must name at least one of {of}, got none.")
    if wrong := [key for key in value if not isinstance(key, str)]:
        raise ValueError(f"`{name}` must have strings as names, got {shown(wrong[0])}.")
    return value


def sequence(name: str, value: Any, what: str) -> Any:
    """`value`, if it is a list, tuple or array with at least one entry; `what` names an entry."""
    indexed = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if not indexed or isinstance(value, str | bytes | Mapping):
        raise ValueError(f"`{name}` must be a list with at least one {what}, got {shown(value)}.")
    if not len(value):
        raise ValueError(f"`{name}` must hold at least one {what}, got none.")
    return value


def names(name: str, value: Any) -> tuple[str, ...]:
    """`value` as names, if it is a list, tuple or set of strings."""
    several = isinstance(value, list | tuple | set | frozenset)
    if not several or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"`{name}` must be a list of names, got {shown(value)}.")
    return tuple(value)


def random_key(name: str, value: Any) -> Any:
    """`value` as one random key of JAX; one of the old kind (two uint32) becomes a new one."""
    import jax  # not at the top: settings are checked before JAX is imported

    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        if shape == ():
            return value
        raise ValueError(
            f"`{name}` must be one random key, as `jax.random.key(0)` makes, got an array of keys "
            f"of shape {shape}."
        )
    if dtype == np.uint32 and shape == (2,):
        return jax.random.wrap_key_data(jax.numpy.asarray(value), impl="threefry2x32")
    raise ValueError(
        f"`{name}` must be one random key, as `jax.random.key(0)` makes, got {shown(value)}."
    )


def random_keys(name: str, value: Any) -> Any:
    """`value` as one axis of at least one random key."""
    import jax

    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    typed = dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed or shape is None or len(shape) != 1 or 0 in shape:
        raise ValueError(
            f"`{name}` must be random keys, as `jax.random.split(key, 2)` makes, got "
            f"{shown(value)}."
        )
    return value


def floating_type(name: str, dtype: Any) -> Any:
    """`dtype`, if it is a floating type in which optimizers and tasks compute."""
    if str(dtype) not in SUPPORTED:
        raise ValueError(f"`{name}` must be of {' or '.join(SUPPORTED)}, got {dtype}.")
    return dtype


def numbers(name: str, value: Any) -> Any:
    """`value` as an array of real or complex numbers, JAX's own as it is, else as NumPy's."""
    return _array(name, value, "numbers", ("floating", "integer", "complexfloating"))


def real_array(name: str, value: Any) -> Any:
    """`value` as an array of real numbers, JAX's own as it is, else as NumPy's."""
    return _array(name, value, "real numbers", ("floating", "integer"))


def _array(name: str, value: Any, what: str, kinds: Sequence[str]) -> Any:
    import jax

    try:
        array = value if isinstance(value, jax.Array) else np.asarray(value)
    except (TypeError, ValueError):  # rows of unequal length
        array = np.asarray(None)
    # JAX's own test knows bfloat16.
    if not any(jax.numpy.issubdtype(array.dtype, getattr(np, kind)) for kind in kinds):
        raise ValueError(f"`{name}` must be {what}, got {shown(value)}.")
    return array


def squares_finite(name: str, value: Any, dtype: Any) -> None:
    """Every entry is finite, and so is its square in this floating type; tracers pass."""
    import jax

    finite_leaves(name, value)
    if isinstance(value, jax.core.Tracer):
        return
    largest, bound = np.abs(np.asarray(value, float)).max(initial=0.0), _root_of_largest(dtype)
    if largest > bound:
        raise ValueError(
            f"`{name}` must be at most {bound:.1g} in size, or its square overflows in "
            f"{np.dtype(dtype)}, got {largest:g}."
        )


def positive_of_type(name: str, value: object, dtype: Any) -> float:
    """`value` as one positive number that this floating type holds with all its digits."""
    number, info = finite(name, value, above=0.0), np.finfo(dtype)
    if not float(info.tiny) <= number <= float(info.max):
        raise ValueError(
            f"`{name}` must be a number that {np.dtype(dtype)} holds, at most {info.max:.2g} and "
            f"at least {info.tiny:.2g}, got {number:g}."
        )
    return number


def gradient_value(name: str, value: object) -> float:
    """`value` as one finite number whose square is finite too, in double precision."""
    number = finite(name, value)
    squares_finite(name, np.asarray(number), np.float64)
    return number


def _root_of_largest(dtype: Any) -> float:
    return float(np.sqrt(float(np.finfo(dtype).max)))


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
        # Refused below if it is none. A string is not a number, even if it looks like one.
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    low = -math.inf if above is None else above
    least = -math.inf if at_least is None else at_least
    high = math.inf if below is None else below
    if not (math.isfinite(number) and low < number < high and number >= least):
        expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"`{name}` must be {expected}, got {shown(value)}.")
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
        bad = entries[~(np.isfinite(entries) & (entries >= minimum))]
        found = entries.item() if entries.size == 1 else entries.tolist()
        if entries.size > 6:
            found = f"{bad[0]} among {entries.size} numbers"
        raise ValueError(f"`{name}` must be finite{bound}, got {found}.")


def increasing_pair(name: str, value: Sequence[float]) -> tuple[float, float]:
    """`value` as two finite numbers, the first below the second."""
    try:
        low, high = (finite(name, end) for end in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"`{name}` must be two finite numbers (low, high) with low < high, got {shown(value)}."
        )
    return low, high


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value`, if it is among `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {shown(value)}.")
    return value


def left_out(where: str, **given: Any) -> None:
    """Refuse options that are given, not None, `where` nothing would come of them."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"`{name}` must be left out {where}, got {shown(value)}.")
