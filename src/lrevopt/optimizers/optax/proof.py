"""Whether a transformation updates each parameter on its own, read off its traced program.

Gradients and parameters of a tree of arrays are labelled entry by entry, and `update` is run on
labels (`dependence`). Labels that the state has after an update enter the next, until nothing
changes: so every number of updates is covered, whatever is accumulated, delayed or warmed up.

Entry n of the tree is labelled by its binary digits: one label for each digit and value. Two
entries differ in a digit. So an update may depend on its own entry alone if and only if all its
labels are among that entry's, and a few dozen labels do for many thousands of entries.

What holds for arrays of these shapes (`SHAPES`: of up to three axes, with 1 to 540 entries along
each) is taken to hold for all. A transformation that couples only larger arrays, such as a
factoring of matrices from 1,000 rows on, or arrays of four axes, is not found out.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrevopt.optimizers.optax.dependence import Analysis, Traced, unlabelled
from lrevopt.optimizers.optax.recipe import Recipe
from lrevopt.optimizers.optax.state_leaves import (
    carried_on,
    complaint,
    init_state,
    require_no_tracers,
)

SHAPES = ((1,), (5,), (128, 130), (2, 3, 2), (520, 540))
"""Shapes of the arrays. Matrices are large enough for Adafactor and Shampoo to factor them, at
their own least sizes and at others up to 520."""

DIGITS = sum(prod(shape) for shape in SHAPES).bit_length()
"""Binary digits of an entry's number."""

EACH_DIGIT = np.uint64(sum(1 << (2 * digit) for digit in range(DIGITS)))
"""The label of every digit's value 0; that of the value 1 is the next bit."""

PARAMETER, ADDED = np.uint64(1 << 62), np.uint64(1 << 60)
"""Labels of parameters, in contrast to gradients, and of arrays that an update adds to a state."""

KEPT = 64
"""Proofs that are cached."""


class Verdict(NamedTuple):
    """What the program of a transformation shows.

    `coupling` is a phrase that says by which operation parameters are coupled, if they are.
    `uses_parameter` says whether updates may depend on the value of the parameter.
    """

    coupling: str | None
    uses_parameter: bool


def meet(mask: np.ndarray) -> bool:
    """Whether some entry has labels of two entries: both values of a digit."""
    return bool(np.any(mask & (mask >> np.uint64(1)) & EACH_DIGIT))


def entries() -> list[np.ndarray]:
    """Labels of each entry of the tree."""
    found, first = [], 0
    for shape in SHAPES:
        numbers = np.arange(first, first + prod(shape), dtype=np.uint64)
        digits = [(numbers >> np.uint64(d)) & np.uint64(1) for d in range(DIGITS)]
        labels = [np.uint64(1) << (np.uint64(2 * d) + bit) for d, bit in enumerate(digits)]
        found.append(np.bitwise_or.reduce(labels).reshape(shape))
        first += prod(shape)
    return found


def prove(recipe: Recipe, values: Sequence[Any], *, assume_finite: bool) -> Verdict:
    """What the program shows, for any values of the hyperparameters.

    Raises `ValueError` for a transformation that does not take arrays of several shapes, or closes
    over traced values.
    """
    shapes = tuple((value.shape, value.dtype) for value in values)
    return _prove(recipe, shapes, assume_finite)


@lru_cache(maxsize=KEPT)
def _prove(recipe: Recipe, shapes: tuple[Any, ...], assume_finite: bool) -> Verdict:
    values = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    begun, update, added = _programs(recipe, values)
    analysis = Analysis(meet, PARAMETER, assume_finite)
    own = entries()
    parameters = [Traced(labels | PARAMETER) for labels in own]
    settings = [unlabelled(value) for value in values]
    start = analysis.run(begun, [*settings, *parameters])
    extra = [Traced(np.full(shape, ADDED, np.uint64)) for shape in added]
    gradients = [Traced(labels) for labels in own]

    def results(state: list[Traced]) -> list[Traced]:
        return analysis.run(update, [*settings, *state, *extra, *gradients, *parameters])

    count = len(SHAPES)
    last = update.jaxpr.eqns[-1] if update.jaxpr.eqns else None
    state = analysis.settled(lambda state: results(state)[count:], start, last)
    moves = results(state)[:count]
    if any(np.any(each.mask & ADDED) for each in (*state, *moves)):
        raise ValueError(
            "`transformation` must keep the shapes of its state, got one that adds arrays which "
            "its updates use."
        )
    uses = any(np.any(each.mask & PARAMETER) for each in moves)
    for labels, each in zip(own, moves, strict=True):
        if np.any(each.mask & ~(labels | PARAMETER)):
            return Verdict(_phrase(each), uses)
    return Verdict(None, uses)


def _phrase(update: Traced) -> str:
    if update.met_in is None:
        return "the update of one depends on the gradient of another"
    return f"through {update.met_in}, an update depends on several of them"


def _programs(recipe: Recipe, values: list[Any]) -> tuple[Any, Any, list[tuple[int, ...]]]:
    """Traced `init(values, parameters)` and `update(values, state, added, gradients, parameters)`,
    and shapes of the arrays that the first update adds.
    """
    tree = [jax.ShapeDtypeStruct(shape, jnp.result_type(float)) for shape in SHAPES]

    def start(values: Any, parameters: Any) -> Any:
        return init_state(recipe.build(values), parameters)

    def update(values: Any, state: Any, gradients: Any, parameters: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return recipe.build(values).update(gradients, state, parameters)

    try:
        begun, state = jax.make_jaxpr(start, return_shape=True)(values, tree)
        after = jax.eval_shape(update, values, state, tree, tree)[1]
        structure: Any
        named, structure = jax.tree_util.tree_flatten_with_path(after)
        places = {path: number for number, (path, _) in enumerate(named)}
        kept = [places[path] for path, _ in jax.tree_util.tree_leaves_with_path(state)]
        new = [number for number in range(len(named)) if number not in kept]

        def arranged(values: Any, old: Any, added: Any, gradients: Any, parameters: Any) -> Any:
            whole = dict(zip(kept, old, strict=True)) | dict(zip(new, added, strict=True))
            full = structure.unflatten([whole[number] for number in range(len(named))])
            moves, following = update(values, full, gradients, parameters)
            return jax.tree.leaves(moves), carried_on(state, following)

        extra = [named[number][1] for number in new]
        begin = jax.tree.leaves(state)
        traced = jax.make_jaxpr(arranged)(values, begin, extra, tree, tree)
    except Exception as error:
        raise ValueError(
            f"`transformation` must update arrays of any shape, got {complaint(error)}."
        ) from error
    for program in (begun, traced):
        require_no_tracers(program)
    return begun, traced, [each.shape for each in extra]
