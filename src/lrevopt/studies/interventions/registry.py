"""Interventions by name: what each removes, and of which mechanism."""

import dataclasses
from collections.abc import Callable

import numpy as np

from lrevopt.analysis.linearization import (
    Modes,
    conjugate_mode,
    linear_optimizer,
    mode_optimizer,
)
from lrevopt.analysis.mode_energies import relative_responses
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.wrappers import (
    Forgetting,
    GainAtOnce,
    OneUpdateFunction,
    Restarted,
    ScheduledModes,
    StraightStates,
    StraightUpdates,
    lacks_slope,
)
from lrevopt.studies.interventions.rest_analysis import RestAnalysis


def without_slow_memory(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis
) -> AbstractOptimizer:
    """The dominant mode gets the eigenvalue 0 and keeps its learning rate."""
    return _forgetting(
        optimizer, rest_analysis, np.eye(len(rest_analysis.fixed_point)) - rest_analysis.projector
    )


def slow_gain_at_once(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis
) -> AbstractOptimizer:
    """The dominant mode gets the eigenvalue 0 and keeps its steady-state gain: `GainAtOnce`.

    Raises `ValueError` for an eigenvalue of 1, whose gain is infinite.
    """
    modes, slow = rest_analysis.modes, rest_analysis.slow
    gap = 1 - modes.eigenvalues[slow]
    if np.abs(gap).min() <= np.finfo(float).eps:
        raise ValueError(
            "`rest_analysis.modes` must not have the eigenvalue 1: its gain is infinite."
        )
    boost = ((1 / gap - 1) * (rest_analysis.model.readout @ modes.right[:, slow])) @ modes.left[
        slow
    ]
    kept = np.eye(len(rest_analysis.fixed_point)) - rest_analysis.projector
    return GainAtOnce(_forgetting(optimizer, rest_analysis, kept), as_float(boost.real))


def slow_memory_only(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis
) -> AbstractOptimizer:
    """All modes but the dominant one get the eigenvalue 0."""
    return _forgetting(optimizer, rest_analysis, rest_analysis.projector)


def _forgetting(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis, kept: np.ndarray
) -> Forgetting:
    return Forgetting(optimizer, as_float(rest_analysis.fixed_point), as_float(kept))


def linearized(optimizer: AbstractOptimizer, rest_analysis: RestAnalysis) -> AbstractOptimizer:
    """The first-order expansion of F at the fixed point, which is also its initial state.

    From another initial state it would move in ways that F does not.
    """
    return linear_optimizer(rest_analysis.model)


def dominant_modes(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis, count: int
) -> AbstractOptimizer:
    """Only the `count` modes whose responses to one gradient are largest; a pair counts as one.

    Ranked by the energy `sum_k |alpha lambda^k|^2` over the steps of the schedule. Raises
    `ValueError` where the Jacobian is near-defective.
    """
    modes = rest_analysis.modes
    _check_rates(modes)
    own = np.sum(np.abs(relative_responses(modes, len(rest_analysis.rates))) ** 2, axis=1)
    chosen: list[int] = []
    for index in np.argsort(-own, kind="stable").tolist():
        if len(chosen) < count and conjugate_mode(modes, index) not in chosen:
            chosen.append(index)
    return mode_optimizer(modes, chosen)


def schedule_replayed(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis
) -> AbstractOptimizer:
    """Only the dominant mode, with the learning rates of the path without gradient as a schedule.

    This is momentum with the eigenvalue of the dominant mode and the learning rate
    `alpha_s rates_k / rate` at step k. Raises `ValueError` where the Jacobian is near-defective or
    the learning rate at the fixed point is 0.
    """
    _check_rates(rest_analysis.modes)
    if rest_analysis.rate == 0:
        raise ValueError("`rest_analysis.rate` must not be 0: a schedule needs a rate to scale.")
    slow = mode_optimizer(rest_analysis.modes, rest_analysis.slow.tolist())
    return ScheduledModes(slow, as_float(rest_analysis.rates / rest_analysis.rate))


def _check_rates(modes: Modes) -> None:
    if np.isnan(modes.learning_rates).any():
        raise ValueError(
            "`rest_analysis.modes` must have learning rates, but the Jacobian is near-defective."
        )


def straight_updates(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis
) -> AbstractOptimizer:
    """Updates are linear in the gradient, states are not: `StraightUpdates`."""
    return StraightUpdates(optimizer, lacks_slope(optimizer))


def straight_states(optimizer: AbstractOptimizer, rest_analysis: RestAnalysis) -> AbstractOptimizer:
    """Updates and states are linear in the gradient: `StraightStates`."""
    return StraightStates(optimizer, lacks_slope(optimizer))


def started_at_rest(optimizer: AbstractOptimizer, rest_analysis: RestAnalysis) -> AbstractOptimizer:
    """The initial state is the fixed point, so there is no schedule without gradient."""
    return Restarted(optimizer, as_float(rest_analysis.fixed_point))


def one_update_function(
    optimizer: AbstractOptimizer, rest_analysis: RestAnalysis
) -> AbstractOptimizer:
    """Every state has the update function of the fixed point: `OneUpdateFunction`."""
    return OneUpdateFunction(optimizer, as_float(rest_analysis.fixed_point))


@dataclasses.dataclass(frozen=True)
class Intervention:
    """An intervention: what it `removes`, of which mechanism, and the function that applies it.

    With `at_rest` it is about the fixed point, and left out where the search for one did not end.
    """

    removes: str
    mechanism: str
    apply: Callable[[AbstractOptimizer, RestAnalysis], AbstractOptimizer]
    at_rest: bool = False


MOMENTUM, CLIPPING, SCHEDULE, ADAPTATION = "momentum", "clipping", "schedule", "adaptation"
LINEAR = "all but momentum"

INTERVENTIONS: dict[str, Intervention] = {
    "no_slow_memory": Intervention(
        "memory of the dominant mode; its learning rate stays", MOMENTUM, without_slow_memory,
        at_rest=True,
    ),
    "gain_at_once": Intervention(
        "memory of the dominant mode; its steady gain stays", MOMENTUM, slow_gain_at_once,
        at_rest=True,
    ),
    "straight_updates": Intervention("saturation of updates", CLIPPING, straight_updates),
    "straight_states": Intervention("saturation of updates and states", CLIPPING, straight_states),
    "started_at_rest": Intervention(
        "the path from the start to the fixed point", SCHEDULE, started_at_rest, at_rest=True
    ),
    "one_update_function": Intervention(
        "changes of the update function from state to state", ADAPTATION, one_update_function,
        at_rest=True,
    ),
    "slow_memory_only": Intervention(
        "memory of all modes but the slow one", ADAPTATION, slow_memory_only, at_rest=True
    ),
    "linear": Intervention("all that is not linear", LINEAR, linearized, at_rest=True),
    "four_modes": Intervention("the same, and all modes but four", LINEAR,
                               lambda optimizer, rest_analysis: dominant_modes(optimizer,
                               rest_analysis, 4), at_rest=True),
    "two_modes": Intervention("the same, and all modes but two", LINEAR,
                              lambda optimizer, rest_analysis: dominant_modes(optimizer,
                              rest_analysis, 2), at_rest=True),
    "one_mode": Intervention("the same, and all modes but one", LINEAR,
                             lambda optimizer, rest_analysis: dominant_modes(optimizer,
                             rest_analysis, 1), at_rest=True),
    "replayed": Intervention(
        "all but the dominant mode and a written schedule", LINEAR, schedule_replayed,
        at_rest=True,
    ),
}  # fmt: skip
"""In the order of the mechanisms that they remove."""
