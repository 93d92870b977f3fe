"""Primitives that move entries of an array (reshape, slice, gather, ...), on enclosures."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrevopt.certificates.enclosures import Enclosure, UnknownPrimitiveError, slopes_of
from lrevopt.certificates.intervals import Interval


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
"""Primitives that move entries, and how to do so for many layers at once. Mapping the primitive
always works; the most frequent ones have a faster way."""

PICKS = ("gather", "dynamic_slice")
"""Primitives that move entries of their first operand, to or from places that the others name."""


def rearranged(equation: Any, operands: Sequence[Enclosure], directions: int) -> list[Enclosure]:
    """Move the entries of all bounds in the same way, as layers of one array."""
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
            own = slopes_of(operand, directions, len(operand.shape))
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
            raise UnknownPrimitiveError(f"`{equation.primitive.name}` at a position that varies")
        indices.append(jnp.asarray(place.value.low).astype(variable.aval.dtype))
    return jax.vmap(lambda array: equation.primitive.bind(array, *indices, **equation.params))
