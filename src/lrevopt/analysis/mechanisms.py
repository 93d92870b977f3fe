"""All mechanisms of one optimizer on one task (paper, section 5 and appendix A)."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Key

from lrevopt.analysis.adaptation import (
    Adaptation,
    adaptation_facts,
    held_gradients,
    measure_adaptation,
)
from lrevopt.analysis.clipping import Clipping, clipping_facts, clipping_of_runs
from lrevopt.analysis.convergence import (
    Convergence,
    convergence_facts,
    linearize_at_fixed_point,
    main_fixed_point,
    slow_manifold,
)
from lrevopt.analysis.momentum import (
    MomentumModes,
    measure_momentum,
    momentum_facts,
    separated_modes,
)
from lrevopt.analysis.projections import ProjectedStates, fit_projection, project_states
from lrevopt.analysis.schedules import Schedule, measure_schedule, schedule_facts
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import gradient_axis
from lrevopt.inner_loop.sampled_states import SampledStates, sample_states
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.wrappers import at_parameter
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Facts

RELAXED = 200
"""Sampled states that are iterated towards the slow manifold."""


class Mechanisms(eqx.Module):
    """Mechanisms of one optimizer on one task, a record for each.

    Figures and claims need this record and not the optimizer. Points of `states`, `fixed_points`,
    `momentum` and `adaptation` share one projection: minus the mean of the sampled states, times
    their first three principal components (axis `component`; zeros where the state has fewer
    coordinates). An *effective learning rate* is minus the slope of the update function at zero
    gradient, positive for a descending optimizer.
    """

    states: ProjectedStates
    fixed_points: Convergence
    momentum: MomentumModes
    clipping: Clipping
    schedule: Schedule
    adaptation: Adaptation


def analyze(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    parameter: float = 0.0,
) -> Mechanisms:
    """Measure all mechanisms of one optimizer on fresh problems of one task (paper, section 5).

    - `key`: draws the problems and the parameters whose states are sampled.
    - `problems`, `steps`: number of problems, and of updates of the run on each.
    - `parameter`: value of x at which an `AbstractParameterOptimizer` is analysed. Its runs use the
      parameters that they meet.

    Raises `ValueError` for counts below 1, or an optimizer that diverges on every problem.
    """
    sampled = sample_states(optimizer, task, key=key, problems=problems, steps=steps)
    return analyze_sampled(at_parameter(optimizer, parameter), sampled)


def analyze_sampled(optimizer: AbstractOptimizer, sampled: SampledStates) -> Mechanisms:
    """Measure all mechanisms of an optimizer from sampled states and gradients of test runs."""
    steps = sampled.gradients.shape[1]
    cloud = sampled.states.reshape(-1, sampled.states.shape[-1])
    projection = fit_projection(evenly_spaced(cloud, 100_000))
    found, model = linearize_at_fixed_point(optimizer, sampled)
    fixed_point, speed, radius = main_fixed_point(found)
    modes = separated_modes(model)
    slow, slow_speeds = slow_manifold(optimizer, evenly_spaced(cloud, RELAXED), modes)
    largest = float(np.quantile(np.abs(sampled.pooled_gradients), 0.999))
    start = np.asarray(optimizer.initial_state(), float)
    return Mechanisms(
        states=project_states(sampled, projection, optimizer.readout),
        fixed_points=Convergence(
            fixed_point=projection(fixed_point),
            speed=speed,
            spectral_radius=radius,
            distinct=len(found.distinct),
            converged_share=float(found.converged.mean()),
            slow_points=projection(slow),
            slow_speeds=slow_speeds,
        ),
        momentum=measure_momentum(optimizer, sampled, model, modes, projection),
        clipping=clipping_of_runs(optimizer, sampled),
        schedule=measure_schedule(optimizer, steps, slow_states=slow, fixed_point=fixed_point),
        adaptation=measure_adaptation(
            optimizer,
            fixed_point,
            held_gradients(largest if largest > 0 else 1.0),
            np.concatenate([start[None], evenly_spaced(cloud, 2)]),
            steps,
            projection=projection,
            axis=gradient_axis(sampled.pooled_gradients),
        ),
    )


def mechanism_facts(record: Mechanisms) -> Facts:
    """What the analysis found, as pairs of a name and a sentence."""
    return [
        *convergence_facts(record.fixed_points),
        *momentum_facts(record.momentum),
        *clipping_facts(record.clipping),
        *schedule_facts(record.schedule),
        *adaptation_facts(record.adaptation),
    ]
