"""The gradients and values of parameters at which a plot shows update functions."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from lrevopt.analysis.precision import AnyArray
from lrevopt.analysis.update_functions import rate_table, update_table
from lrevopt.checks import finite, finite_leaves, real_array
from lrevopt.inner_loop.unroll import Trajectory
from lrevopt.optimizers.interface import AbstractOptimizer

KNEES = 3.0
"""Gradients are shown up to this many times the largest knee of the update functions shown."""

Point = tuple[AbstractOptimizer, Any]
"""An optimizer and one of its states."""


def gradient_axis_of(
    shown: Mapping[str, Point],
    gradients: Float[AnyArray, " grid"] | None,
    trajectory: Trajectory | None,
    parameter: int,
) -> tuple[Float[np.ndarray, " grid"], str]:
    """The gradients shown, and how they were chosen in words."""
    if gradients is not None:
        axis = np.asarray(real_array("gradients", gradients), float)
        finite_leaves("gradients", axis)
        if axis.ndim != 1 or len(axis) < 2 or not (np.diff(axis) > 0).all():
            raise ValueError("`gradients` must be one increasing axis of at least two numbers, got "
                             f"shape {axis.shape}.")  # fmt: skip
        return axis, "range as given"
    if trajectory is not None:
        met = np.abs(np.asarray(trajectory.gradients, float)[:, parameter])
        reach = float(met[np.isfinite(met)].max(initial=0.0))
        if reach > 0:
            return np.linspace(-reach, reach, 401), f"as parameter {parameter} met"
    wide = np.geomspace(1e-8, 1e8, 161)
    axis = np.concatenate([-wide[::-1], [0.0], wide])
    knees = np.array([_knee(*point, axis) for point in shown.values()])
    knees = knees[(knees > 1e-6) & (knees < 1e6)]
    if not knees.size:
        return np.linspace(-1.0, 1.0, 401), "no knee: from \N{MINUS SIGN}1 to 1"
    reach = KNEES * float(knees.max())
    return np.linspace(-reach, reach, 401), "to three times the largest knee"


def values_of(name: str, values: float | Sequence[float]) -> list[float]:
    """One number or several, in a list without repetitions."""
    several = np.ndim(cast(Any, values)) == 1
    found = [finite(name, value) for value in (cast(Any, values) if several else [values])]
    if not found:
        raise ValueError(f"`{name}` must hold at least one number, got none.")
    return list(dict.fromkeys(found))


def _knee(
    optimizer: AbstractOptimizer,
    state: Float[np.ndarray, " state"],
    axis: Float[np.ndarray, " grid"],
) -> float:
    """Gradient at which the tangent at zero reaches the largest update on the axis."""
    update = update_table(optimizer, state[None], axis)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        rises = np.abs(update - update[len(axis) // 2])
        largest = rises.max(initial=0.0, where=np.isfinite(rises))
        return float(largest / abs(rate_table(optimizer, state[None])[0]))
