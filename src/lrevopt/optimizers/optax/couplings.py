"""Whether a transformation updates each parameter on its own, seen in trial runs.

A second check beside `proof`: it runs the transformation, and so also notices a dependence on the
shape of an array.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lrevopt.optimizers.optax.recipe import Recipe
from lrevopt.optimizers.optax.state_leaves import complaint
from lrevopt.optimizers.optax.trial_runs import CACHED, Key, arrays_of_key, trial_run

SHAPES = ((1,), (5,), (128, 130), (2, 3, 2), (2, 1, 3, 2), (1, 2, 2, 1, 3))
"""Shapes of the parameter arrays in trial runs. The third is large enough for Adafactor to factor
it. Masks often go by the number of axes: those of a convolution's kernel are four or five."""

HERE = (np.s_[:, 0], np.s_[:, 2], np.s_[:, 60, 70], np.s_[:, 1, 1, 0], np.s_[:, 1, 0, 2, 1],
        np.s_[:, 0, 1, 1, 0, 2])  # fmt: skip
"""Index of the parameter that is compared in each array, at every step."""

STEPS = 12
"""Updates of a trial run."""

SIZES = (0.0, 3.0, -3.0, 6.0)
"""Decimal exponents of gradients, in turn: clipping shows only beyond its bound."""

ROUND_OFF = 1e-4
"""Relative difference below which two updates count as equal: a transformation may compute in
single precision."""


def _draw(random: np.random.Generator) -> list[Array]:
    """Random numbers of all sizes for every step of a run, equal at `HERE` in every array."""
    sizes = 10.0 ** np.resize(SIZES, STEPS)
    drawn = [sizes * random.normal(size=(*shape, STEPS)) for shape in SHAPES]
    paths = [np.moveaxis(array, -1, 0) for array in drawn]
    for path, here in zip(paths, HERE, strict=True):
        path[here] = paths[0][HERE[0]]
    return [jnp.asarray(path) for path in paths]


@lru_cache(maxsize=CACHED)
def check_runs(recipe: Recipe, values: Key) -> None:
    """Refuse a transformation that couples parameters.

    The same program runs on several gradients and parameters which differ in what must not
    matter.
    """
    random = np.random.default_rng(0)
    transformation = recipe.build(arrays_of_key(values))
    gradients, starts = _draw(random), _draw(random)
    # Parameters that move with the gradients, for transformations that estimate a distance, and
    # not from 0, where LARS does not scale.
    moving = [
        start[0] - 1e-3 * jnp.cumsum(path, axis=0)
        for start, path in zip(starts, gradients, strict=True)
    ]
    run = jax.jit(lambda *required: trial_run(transformation, *required)[0])
    try:
        together = run(gradients, moving)
    except Exception as error:
        raise ValueError(
            f"`transformation` must update arrays of any shape, got {complaint(error)}."
        ) from error
    _require_component_wise(together, run(_alone(gradients), moving))
    _require_component_wise(together, run(gradients, _alone(moving)))
    _require_any_shape(together)


def _alone(paths: list[Array]) -> list[Array]:
    """All but the compared parameters set to 0."""
    return [
        jnp.zeros_like(path).at[here].set(path[here])
        for path, here in zip(paths, HERE, strict=True)
    ]


def _require_component_wise(together: list[Any], alone: list[Any]) -> None:
    """Refuse updates that change with other parameters, or that are no numbers at all."""
    before, after = _compared(together), _compared(alone)
    for shape, one, other in zip(SHAPES, before, after, strict=True):
        if np.isnan(one).all():
            raise ValueError(
                "`transformation` must give updates that are numbers, got NaN at every step of a "
                f"trial run on an array of shape {shape}."
            )
        if np.any((gaps := _gaps(one, other)) > ROUND_OFF):
            raise ValueError(
                "`transformation` must update every parameter on its own, got one that couples "
                "them: with the gradients or the values of all others set to 0, the update of one "
                f"in an array of shape {shape} changed by {gaps.max():.1e} of its size at step "
                f"{gaps.argmax() + 1}."
            )


def _require_any_shape(together: list[Any]) -> None:
    """Refuse updates that depend on the shape of the array."""
    first, *others = _compared(together)
    for shape, other in zip(SHAPES[1:], others, strict=True):
        if np.any(_gaps(first, other) > ROUND_OFF):
            raise ValueError(
                "`transformation` must not depend on the shape of a parameter's array, got one "
                f"that updates a parameter differently in an array of shape {shape} than alone."
            )


def _compared(run: list[Any]) -> list[np.ndarray]:
    """Updates of the compared parameter in each array."""
    return [np.asarray(path[here], float) for path, here in zip(run, HERE, strict=True)]


def _gaps(one: Float[np.ndarray, " step"], other: Float[np.ndarray, " step"]) -> np.ndarray:
    """Differences relative to the larger update; 0 where both are NaN, which shows nothing."""
    size = np.maximum(np.abs(one), np.abs(other))
    with np.errstate(invalid="ignore", divide="ignore"):
        gaps = np.abs(one - other) / size
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isnan(gaps), np.inf, gaps))
