"""Interventions by name: what each takes away, of which mechanism, and how."""

import dataclasses
from collections.abc import Callable

import numpy as np

from lrevopt.analysis.linearization import (
    Modes,
    conjugate_mode,
    linear_optimizer,
    mode_optimizer,
    mode_responses,
)
from lrevopt.optimizers.changed import (
    Forgetting,
    GainAtOnce,
    OneUpdateFunction,
    Restarted,
    ScheduledModes,
    StraightStates,
    StraightUpdates,
)
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.studies.interventions.rest_analysis import Context


def without_slow_memory(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """The slow mode's eigenvalue is 0, its learning rate stays: momentum as gradient descent."""
    return _forgetting(optimizer, context, np.eye(len(context.center)) - context.projector)


def slow_gain_at_once(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """The slow mode's eigenvalue is 0, its steady-state gain stays: `GainAtOnce`.

    Raises `ValueError` for an eigenvalue of 1, whose gain is infinite.
    """
    modes, slow = context.modes, context.slow
    gap = 1 - modes.eigenvalues[slow]
    if np.abs(gap).min() <= np.finfo(float).eps:
        raise ValueError("`context.modes` must not have the eigenvalue 1: its gain is infinite.")
    boost = ((1 / gap - 1) * (context.model.readout @ modes.right[:, slow])) @ modes.left[slow]
    kept = np.eye(len(context.center)) - context.projector
    return GainAtOnce(_forgetting(optimizer, context, kept), as_float(boost.real))


def slow_memory_only(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """All modes but the slow one forget: the state starts each step on the line through h*."""
    return _forgetting(optimizer, context, context.projector)


def _forgetting(optimizer: AbstractOptimizer, context: Context, kept: np.ndarray) -> Forgetting:
    return Forgetting(optimizer, as_float(context.center), as_float(kept))


def linearised(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """F is its first-order expansion at the convergence point, and starts there.

    Only there is it meant to be right: from elsewhere it would drift in ways F does not.
    """
    return linear_optimizer(context.model)


def top_modes(optimizer: AbstractOptimizer, context: Context, count: int) -> AbstractOptimizer:
    """The `count` modes whose responses to one gradient are largest, alone; pairs count as one.

    By the energy `sum_k |alpha lambda^k|^2` over the steps of the context's schedule. Raises
    `ValueError` where the Jacobian is near-defective.
    """
    modes = context.modes
    _check_rates(modes)
    own = np.sum(np.abs(mode_responses(modes, len(context.rates))) ** 2, axis=1)
    chosen: list[int] = []
    for index in np.argsort(-own, kind="stable").tolist():
        if len(chosen) < count and conjugate_mode(modes, index) not in chosen:
            chosen.append(index)
    return mode_optimizer(modes, chosen)


def schedule_replayed(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """The slow mode alone, with the learning rates of the autonomous path as a written schedule.

    Momentum with `alpha_s rates_k / rate` at step k and the eigenvalue of the slow mode. Raises
    `ValueError` where the Jacobian is near-defective or the convergence point has no learning
    rate.
    """
    _check_rates(context.modes)
    if context.rate == 0:
        raise ValueError("`context.rate` must not be 0: nothing is left of a schedule.")
    slow = mode_optimizer(context.modes, context.slow.tolist())
    return ScheduledModes(slow, as_float(context.rates / context.rate))


def _check_rates(modes: Modes) -> None:
    if np.isnan(modes.learning_rates).any():
        raise ValueError(
            "`context.modes` must have learning rates, but the Jacobian is near-defective."
        )


def straight_updates(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """Updates do not saturate: `StraightUpdates`."""
    return StraightUpdates(optimizer)


def straight_states(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """Nor does what is remembered of gradients: `StraightStates`."""
    return StraightStates(optimizer)


def started_at_rest(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """Starts at the convergence point, and so has no autonomous schedule."""
    return Restarted(optimizer, as_float(context.center))


def one_update_function(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """No state changes how gradients are answered: `OneUpdateFunction`."""
    return OneUpdateFunction(optimizer, as_float(context.center))


@dataclasses.dataclass(frozen=True)
class Intervention:
    """Something to take away: what (`removes`), of which of the paper's mechanisms, and how."""

    removes: str
    mechanism: str
    apply: Callable[[AbstractOptimizer, Context], AbstractOptimizer]


MOMENTUM, CLIPPING, SCHEDULE, ADAPTATION = "momentum", "clipping", "schedule", "adaptation"
LINEAR = "all but momentum"

INTERVENTIONS: dict[str, Intervention] = {
    "no_slow_memory": Intervention(
        "memory of the slow mode; its learning rate stays", MOMENTUM, without_slow_memory
    ),
    "gain_at_once": Intervention(
        "memory of the slow mode; its steady gain stays", MOMENTUM, slow_gain_at_once
    ),
    "straight_updates": Intervention("saturation of updates", CLIPPING, straight_updates),
    "straight_states": Intervention("saturation of updates and states", CLIPPING, straight_states),
    "started_at_rest": Intervention(
        "the path from the start to the convergence point", SCHEDULE, started_at_rest
    ),
    "one_update_function": Intervention(
        "changes of the update function from state to state", ADAPTATION, one_update_function
    ),
    "slow_memory_only": Intervention(
        "memory of all modes but the slow one", ADAPTATION, slow_memory_only
    ),
    "linear": Intervention("all that is not linear", LINEAR, linearised),
    "four_modes": Intervention("the same, and all modes but four", LINEAR,
                               lambda optimizer, context: top_modes(optimizer, context, 4)),
    "two_modes": Intervention("the same, and all modes but two", LINEAR,
                              lambda optimizer, context: top_modes(optimizer, context, 2)),
    "one_mode": Intervention("the same, and all modes but one", LINEAR,
                             lambda optimizer, context: top_modes(optimizer, context, 1)),
    "replayed": Intervention(
        "all but the slow mode and a written schedule", LINEAR, schedule_replayed
    ),
}  # fmt: skip
"""By the mechanism that they remove."""
