"""How labels pass through the primitive operations of JAX.

Every entry of an array has a set of labels, a bit mask in an unsigned integer: the inputs that may
reach it. A rule takes an equation of a traced program and the masks of its inputs, and returns the
masks of its outputs. An output may get labels that it does not need, never too few. Operations
that have no rule give every output entry all labels of all inputs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Mask = np.ndarray
"""Labels of each entry of an array, an array of the same shape of unsigned 64-bit integers."""

Rule = Callable[..., list[Any]]

ENTRYWISE = frozenset(
    # As one string, which reads better than 70 lines.
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf
    erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite
    le le_to lgamma log log1p logistic lt lt_to max min mul mulhi name ne neg nextafter not or
    polygamma population_count pow real reduce_precision rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh
    xor zeta""".split()  # noqa: SIM905
)
"""Entry i of the output depends on entries i of the inputs; scalars are spread."""

IDENTITY = frozenset(["device_put", "optimization_barrier", "sharding_constraint"])
"""Output n is input n."""

REDUCTIONS = frozenset(["argmax", "argmin"])
"""Beside every `reduce_...`: these take entries along `axes` together."""


def together(mask: Mask, axes: Any, *, keep: bool = False) -> Mask:
    """Union of labels along axes."""
    reduce: Any = np.bitwise_or.reduce
    return np.asarray(reduce(mask, axis=tuple(axes), keepdims=keep))


def union(masks: Any) -> Mask:
    """Union of masks of one shape."""
    return np.asarray(np.bitwise_or.reduce(list(masks)))


def whole(mask: Mask) -> np.uint64:
    """Union of the labels of all entries."""
    return np.bitwise_or.reduce(mask, axis=None, initial=np.uint64(0))


def apply_rule(equation: Any, masks: list[Mask]) -> list[Mask]:
    """Masks of the outputs of one equation without nested programs."""
    name = equation.primitive.name
    if name in ENTRYWISE:
        return [_entrywise(equation, masks)]
    if name in IDENTITY:
        return masks
    if name in REDUCTIONS or (name.startswith("reduce_") and "axes" in equation.params):
        return [together(masks[0], equation.params["axes"])]
    if name in RULES:
        return [np.asarray(mask) for mask in RULES[name](equation, *masks)]
    return spread(equation, masks)


def spread(equation: Any, masks: list[Mask]) -> list[Mask]:
    """Every output entry depends on every input entry."""
    label = union([np.uint64(0), *map(whole, masks)])
    return [np.full(out.aval.shape, label, np.uint64) for out in equation.outvars]


def _entrywise(equation: Any, masks: list[Mask]) -> Mask:
    shape = equation.outvars[0].aval.shape
    return union(np.broadcast_to(mask, shape) for mask in masks)


def _broadcast(equation: Any, mask: Mask, *_: Mask) -> list[Any]:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    sizes = np.ones(len(shape), int)
    sizes[list(places)] = mask.shape
    return [np.broadcast_to(mask.reshape(sizes), shape)]


def _slice(equation: Any, mask: Mask) -> list[Any]:
    starts, ends = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or (1,) * mask.ndim
    return [mask[tuple(map(slice, starts, ends, steps))]]


def _split(equation: Any, mask: Mask) -> list[Any]:
    ends = np.cumsum(equation.params["sizes"])[:-1]
    return np.split(mask, ends, axis=equation.params["axis"])


def _pad(equation: Any, mask: Mask, value: Mask) -> list[Any]:
    """Negative padding crops."""
    config = equation.params["padding_config"]
    sizes = [
        max(low, 0) + max(high, 0) + max(size + (size - 1) * inner, 0)
        for size, (low, high, inner) in zip(mask.shape, config, strict=True)
    ]
    wide = np.full(sizes, whole(value), np.uint64)
    places = tuple(
        slice(max(low, 0), max(low, 0) + max(size + (size - 1) * inner, 0), inner + 1)
        for size, (low, _, inner) in zip(mask.shape, config, strict=True)
    )
    wide[places] = mask
    crop = tuple(
        slice(max(-low, 0), size - max(-high, 0))
        for size, (low, high, _) in zip(sizes, config, strict=True)
    )
    return [wide[crop]]


def _cumulative(equation: Any, mask: Mask) -> list[Any]:
    axis = equation.params["axis"]
    if equation.params["reverse"]:
        return [np.flip(np.bitwise_or.accumulate(np.flip(mask, axis), axis), axis)]
    return [np.bitwise_or.accumulate(mask, axis)]


def _sort(equation: Any, *masks: Mask) -> list[Any]:
    """Every key may take any place along the axis, and its operands with it."""
    axis = (equation.params["dimension"],)
    line = union(together(mask, axis, keep=True) for mask in masks)
    return [np.broadcast_to(line, mask.shape) for mask in masks]


def _top_k(equation: Any, mask: Mask) -> list[Any]:
    axis = equation.params.get("axis", mask.ndim - 1)
    line = together(mask, (axis,), keep=True)
    return [np.broadcast_to(line, out.aval.shape) for out in equation.outvars]


def _dot_general(equation: Any, left: Mask, right: Mask) -> list[Any]:
    """Axes of the output: batch, free axes of the left operand, free axes of the right one."""
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]

    def arranged(mask: Mask, batch: Any, summed: Any) -> Mask:
        free = [axis for axis in range(mask.ndim) if axis not in (*batch, *summed)]
        moved = mask.transpose([*batch, *free, *summed])
        return together(moved, range(len(batch) + len(free), mask.ndim))

    left, right = arranged(left, left_batch, left_sum), arranged(right, right_batch, right_sum)
    batch = len(left_batch)
    ones = (1,) * (left.ndim - batch)
    wide = left.reshape(left.shape + (1,) * (right.ndim - batch))
    return [wide | right.reshape(right.shape[:batch] + ones + right.shape[batch:])]


def _partial(mask: Mask, sizes: Any) -> Mask:
    """Union along those axes of which a window of `sizes` takes a part: it may lie anywhere."""
    axes = [axis for axis, size in enumerate(sizes) if size != mask.shape[axis]]
    return together(mask, axes, keep=True)


def _dynamic_slice(equation: Any, mask: Mask, *indices: Mask) -> list[Any]:
    sizes = equation.params["slice_sizes"]
    where = union([np.uint64(0), *map(whole, indices)])
    return [np.broadcast_to(_partial(mask, sizes), sizes) | where]


def _dynamic_update_slice(equation: Any, mask: Mask, update: Mask, *indices: Mask) -> list[Any]:
    where = union([np.uint64(0), *map(whole, indices)])
    axes = [axis for axis, size in enumerate(update.shape) if size != mask.shape[axis]]
    return [mask | together(update, axes, keep=True) | where]


def _gather(equation: Any, mask: Mask, indices: Mask) -> list[Any]:
    """Axes that are taken whole keep their entries apart."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    out = equation.outvars[0].aval.shape
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window = together(_partial(mask, sizes), gone)
    sizes_out = np.ones(len(out), int)
    sizes_out[list(numbers.offset_dims)] = window.shape
    return [np.broadcast_to(window.reshape(sizes_out), out) | whole(indices)]


def _scatter(equation: Any, mask: Mask, indices: Mask, updates: Mask) -> list[Any]:
    """As `_gather`, the other way: what is written may go anywhere along axes not written whole."""
    numbers = equation.params["dimension_numbers"]
    inside = numbers.update_window_dims
    window = together(updates, [axis for axis in range(updates.ndim) if axis not in inside])
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(mask.ndim) if axis not in gone]
    part = [n for n, axis in enumerate(kept) if window.shape[n] != mask.shape[axis]]
    window = together(window, part, keep=True)
    sizes = np.ones(mask.ndim, int)
    sizes[kept] = window.shape
    return [mask | window.reshape(sizes) | whole(indices)]


def _reduce(equation: Any, *masks: Mask) -> list[Any]:
    """`lax.reduce` with a computation of its own, over several operands at once."""
    axes = equation.params["dimensions"]
    half = len(masks) // 2
    found = union(together(mask, axes) for mask in masks[:half]) | union(map(whole, masks[half:]))
    return [found for _ in equation.outvars]


SCATTERED = ("", *(mark + kind for mark in "-_" for kind in ("add", "max", "min", "mul", "sub")))
"""Ends of names of scatters, with a hyphen or an underscore by version of JAX."""

RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda equation, *masks: [
        np.concatenate(masks, axis=equation.params["dimension"])
    ],
    "cumlogsumexp": _cumulative,
    "cummax": _cumulative,
    "cummin": _cumulative,
    "cumprod": _cumulative,
    "cumsum": _cumulative,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "pad": _pad,
    "reduce": _reduce,
    "reshape": lambda equation, mask, *_: [mask.reshape(equation.params["new_sizes"])],
    "rev": lambda equation, mask: [np.flip(mask, equation.params["dimensions"])],
    **{f"scatter{kind}": _scatter for kind in SCATTERED},
    "slice": _slice,
    "sort": _sort,
    "split": _split,
    "stack": lambda equation, *masks: [np.stack(masks, axis=equation.params["axis"])],
    "squeeze": lambda equation, mask: [np.squeeze(mask, equation.params["dimensions"])],
    "tile": lambda equation, mask: [np.tile(mask, equation.params["reps"])],
    "top_k": _top_k,
    "transpose": lambda equation, mask: [mask.transpose(equation.params["permutation"])],
    "unstack": lambda equation, mask: list(np.moveaxis(mask, equation.params["axis"], 0)),
}
