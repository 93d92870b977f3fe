"""One measurement of an optimizer at a state: responses of its entries, and curvature."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lrevopt.checks import shown

Loss = Callable[[PyTree], Float[Array, ""]]
Step = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]

SAMPLE = 2**14
"""Entries of an array whose responses are summed, about: of a larger one, every n-th. Means over so
many have a relative standard error of one or two per cent."""

NO_RATIO = -1.0
"""Stands for an update over parameter that does not exist: a NaN would stop `jax_debug_nans`."""

SATURATED = 0.5
"""Share of the response at no gradient below which an entry counts as saturated."""


def measure_groups(
    step: Step,
    before: PyTree,
    required: tuple[PyTree, PyTree | None],
    places: Sequence[int],
    count: Int[Array, ""],
) -> tuple[Float[Array, "group field"], list[Array], PyTree]:
    """Rate, update over parameter, memory, saturated and known share of each group.

    The second is `NO_RATIO` where no parameters are given or all of a group are 0.
    `required` is gradients and parameters; `places` has the group of each array. Also, for every
    array, 2 / G of its entries, the curvature up to which each is stable; and the updates, which
    are computed anew: the training step need not keep them.
    """
    gradients, params = required
    gradients = jax.tree.map(jnp.asarray, gradients)
    structure: Any
    leaves, structure = jax.tree.flatten(gradients)
    signs = structure.unflatten([_signs(leaf, k, count) for k, leaf in enumerate(leaves)])
    nothing = jax.tree.map(jnp.zeros_like, gradients)

    def three(gradient: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        now, first = step(gradient, before)
        then, second = step(nothing, first)
        return now, then, step(nothing, second)[0]

    tangents = jax.jvp(three, (nothing,), (signs,))[1]
    updates, met = jax.jvp(lambda gradient: step(gradient, before)[0], (gradients,), (signs,))
    zs = jax.tree.leaves(signs)
    responses = [
        [-z * t for z, t in zip(zs, jax.tree.leaves(part), strict=True)]
        for part in (*tangents, met)
    ]
    moved = jax.tree.leaves(updates)
    at = leaves if params is None else parameters_of(gradients, params)
    scales = _scales(leaves, places)
    sums = jnp.zeros((1 + max(places, default=-1), 9))
    for k, place in enumerate(places):
        each = [part[k] for part in responses]
        sums = sums.at[place].add(_sums((leaves[k], scales[place]), each, moved[k], at[k]))
    weight, known, size = sums[:, 0], sums[:, 1], sums[:, 2]
    rates = _over(sums[:, 3], weight)
    memories = _over(sums[:, 5], sums[:, 4])
    exists = (sums[:, 8] != 0) & (params is not None)
    ratios = jnp.where(exists, jnp.sqrt(_over(sums[:, 7], sums[:, 8])), NO_RATIO)
    numbers = jnp.stack(
        [rates, ratios, memories, _over(sums[:, 6], known), _over(known, size)], axis=1
    )
    bounds = [
        _bound(responses[0][k], responses[1][k], memories[place]) for k, place in enumerate(places)
    ]
    return numbers, bounds, updates


def parameters_of(gradients: PyTree, params: PyTree) -> list[Array]:
    """The parameters that have gradients, by their paths: a gradient is None where a module has
    integers or a function.
    """
    found = dict(jax.tree_util.tree_leaves_with_path(params))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(gradients)]
    return [jnp.asarray(found[path]) for path in paths]


def _scales(gradients: list[Array], places: Sequence[int]) -> Float[Array, " group"]:
    """The largest gradient of each group. Weights are squares relative to it: those of gradients
    themselves would be too small or too large for their dtype. 0 where all gradients are.
    """
    found = jnp.zeros(1 + max(places, default=-1))
    for gradient, place in zip(gradients, places, strict=True):
        sizes = jnp.abs(_sampled(gradient)).astype(found.dtype)
        found = found.at[place].max(jnp.max(sizes, initial=0.0))
    return found


def _signs(leaf: Array, place: int, count: Int[Array, ""]) -> Array:
    """Random signs by a hash of index, array and update, which costs less than a generator."""
    index = jax.lax.iota(jnp.uint32, max(leaf.size, 1))[: leaf.size].reshape(leaf.shape)
    mixed = index + count.astype(jnp.uint32) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed + jnp.uint32(0x9E3779B9) * jnp.uint32(place + 1)) * jnp.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.where(mixed >> 31, 1, -1).astype(leaf.dtype)


def _sums(
    scaled: tuple[Array, Array], responses: list[Array], update: Array, parameter: Array
) -> Array:
    """Sums over the entries of one array, which groups add up; all in one pass over memory.

    `scaled` is the gradient and the scale of its group. Where that is 0 all entries weigh the same.
    Of a large array a sample is summed, and stands for all.
    """
    gradient, scale = scaled
    size, dtype = gradient.size, jnp.result_type(float)
    gradient, update, parameter, *responses = (
        _sampled(part).astype(dtype) for part in (gradient, update, parameter, *responses)
    )
    first, second, third, met = responses
    known = jnp.isfinite(first + second + third + met)
    relative = jnp.where(scale == 0, 1.0, gradient / jnp.where(scale == 0, 1.0, scale))
    weight = jnp.where(known, jnp.square(relative), 0)
    saturated = known & (jnp.abs(met) < SATURATED * jnp.abs(first))
    parts = [jnp.where(known, part, 0) for part in (first, second, third)]
    terms = [
        weight, known, jnp.ones_like(known), *(weight * part for part in parts), saturated,
        jnp.square(update), jnp.square(parameter),
    ]  # fmt: skip
    found = _sum_each(tuple(term.reshape(-1).astype(dtype) for term in terms))
    return jnp.stack(found) * (size / max(gradient.size, 1))


@jax.custom_jvp
def _sum_each(operands: tuple[Array, ...]) -> tuple[Array, ...]:
    """Sums of several vectors, in one pass. JAX has no derivative of a reduction of several."""
    zeros = tuple(jnp.zeros((), operand.dtype) for operand in operands)
    return tuple(jax.lax.reduce(
        operands, zeros, lambda one, other: tuple(a + b for a, b in zip(one, other, strict=True)),
        (0,),
    ))  # fmt: skip


@_sum_each.defjvp
def _sum_each_jvp(primals, tangents):
    (moved,) = tangents
    return _sum_each(*primals), tuple(part.sum() for part in moved)


def _sampled(array: Array) -> Array:
    """Entries of an array at even distances. What is not looked at is then not computed either.

    The distance shares no factor with the size, so that no row or column is preferred.
    """
    distance = max(array.size // SAMPLE, 1)
    while distance > 1 and math.gcd(distance, array.size) > 1:
        distance += 1
    return array.reshape(-1)[::distance]


def _over(above: Array, below: Array) -> Array:
    """A quotient, 0 where it does not exist."""
    return jnp.where(below == 0, 0.0, above / jnp.where(below == 0, 1.0, below))


def _bound(first: Array, second: Array, memory: Array) -> Array:
    """2 / (R_0 - R_1 / (1 + rho)): curvature up to which an entry is stable, 0 where not known."""
    gain = first - second / (1 + memory).astype(first.dtype)
    known = jnp.isfinite(gain) & (gain > 0)
    return jnp.where(known, 2 / jnp.where(known, gain, 1), 0)


def measure_curvature(
    loss: Loss,
    required: tuple[PyTree, PyTree],
    bounds: list[Array],
    stiffest: PyTree,
) -> tuple[Float[Array, " curvature"], PyTree]:
    """Loss, and curvature with its bound along the update and along the stiffest direction.

    The latter is one step further of power iteration on G H, which goes on from record to record,
    from the update on. `required` is parameters and updates.
    """
    params, updates = required
    structure: Any = jax.tree.structure(updates)
    at = parameters_of(updates, params)
    bounds = [bound.astype(float) for bound in bounds]

    def loss_at(leaves: list[Array]) -> Float[Array, ""]:
        value = loss(eqx.combine(structure.unflatten(leaves), params))
        one = jax.tree_util.all_leaves([value]) and jnp.shape(value) == ()
        if not (one and jnp.issubdtype(jnp.result_type(value), jnp.floating)):
            raise ValueError(f"`loss` must return one real number, got {shown(value)}.")
        return jnp.asarray(value)

    def product(direction: list[Array]) -> tuple[Array, list[Array]]:
        tangents = [part.astype(x.dtype) for part, x in zip(direction, at, strict=True)]
        (value, _), (_, found) = jax.jvp(jax.value_and_grad(loss_at), (at,), (tangents,))
        return value, found

    along = _scaled(jax.tree.leaves(updates))
    value, curved = product(along)
    before = parameters_of(updates, stiffest)
    started = sum(jnp.abs(leaf).astype(float).sum() for leaf in before) > 0
    held = [
        jnp.where(started, old.astype(float), new) for old, new in zip(before, along, strict=True)
    ]
    _, turned = product(held)
    numbers = jnp.stack(
        [value.astype(float), *_quotients(along, curved, bounds), *_quotients(held, turned, bounds)]
    )
    following = [
        jnp.where(bound > 0, 2 * part.astype(float) / jnp.where(bound > 0, bound, 1), 0)
        for part, bound in zip(turned, bounds, strict=True)
    ]
    norm = jnp.sqrt(_product(following, following))
    sound = jnp.isfinite(norm) & (norm > 0)
    scale = jnp.where(sound, norm, 1.0)
    following = [
        jnp.where(sound, new / scale, other).astype(old.dtype)
        for new, other, old in zip(following, along, before, strict=True)
    ]
    return numbers, eqx.combine(structure.unflatten(following), stiffest)


def _scaled(direction: list[Array]) -> list[Array]:
    """A direction in the default precision, its largest entry 1: half precision then holds it."""
    parts = [part.astype(float) for part in direction]
    sizes = [jnp.max(jnp.abs(part), initial=0.0) for part in parts]
    largest = jnp.max(jnp.stack(sizes)) if sizes else jnp.zeros(())
    return [part / jnp.where(largest > 0, largest, 1.0) for part in parts]


def _quotients(
    direction: list[Array], curved: list[Array], bounds: list[Array]
) -> tuple[Array, Array]:
    """v.H v / v.v, and its bound v.(2 / G) v / v.v."""
    square = _product(direction, direction)
    limits = [bound * part for bound, part in zip(bounds, direction, strict=True)]
    return (
        _over(_product(direction, curved), square), _over(_product(direction, limits), square)
    )  # fmt: skip


def _product(one: list[Any], other: list[Any]) -> Array:
    parts = [jnp.vdot(a.astype(float), b.astype(float)) for a, b in zip(one, other, strict=True)]
    return jnp.asarray(sum(parts), float)
