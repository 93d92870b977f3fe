"""Measurement of a scorecard: runs on fresh problems, then each part of the analysis in turn.

A live step counter has no fixed point. An optimizer with one therefore comes with a second,
`at_rest`, whose counters are held, such as `from_optax(t, at_step=200)`. Runs, clipping and the
schedule are those of the first. Fixed points, modes and what follows from them are those of the
second, at the states that it has under the gradients of the first one's runs.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.analysis.adaptation import held_gradients, measure_adaptation
from lrevopt.analysis.clipping import NO_TANGENT, clipping_of_runs
from lrevopt.analysis.convergence import linearize_at_fixed_point
from lrevopt.analysis.fixed_points import FixedPoints
from lrevopt.analysis.linearization import (
    Linearization,
    Modes,
    conjugate_mode,
    impulse_response,
    steady_state_gain,
    timescale,
)
from lrevopt.analysis.manifolds import measure_manifold
from lrevopt.analysis.mode_energies import relative_responses
from lrevopt.analysis.momentum import separated_modes
from lrevopt.analysis.on_quadratics import quadratic_map
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.projections import fit_projection
from lrevopt.analysis.schedules import Schedule, measure_schedule
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.inner_loop.sampled_states import SampledStates, sample_states
from lrevopt.inner_loop.steps import visited_states
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer, check_optimizer
from lrevopt.optimizers.wrappers import StateInUnits, at_parameter
from lrevopt.studies.scorecard.curvature import curvature_response
from lrevopt.studies.scorecard.record import Scorecard
from lrevopt.tasks.interface import AbstractTask

SEARCHES = 64
"""Sampled states from which the manifold is searched. Its dimension needs fewer than a figure."""

NOTHING = 1e-20
"""Share of the response's energy below which a mode is round-off, 1e-10 of its size."""

NO_REST = "no fixed point was found at zero gradient (a live step counter has none: pass `at_rest`)"
NO_JACOBIAN = "the Jacobian is not finite where searches for a fixed point end"
NO_SLOPE = "updates have slope 0 at zero gradient, as those made of signs do"
DEFECTIVE = "the Jacobian is near-defective, so modes have no learning rates of their own"

Part = dict[str, Any]
"""Fields of a scorecard by name."""


def measure_scorecard(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    at_rest: AbstractOptimizer | None = None,
    parameter: float = 0.0,
) -> Scorecard:
    """Measure the scorecard of an optimizer on fresh problems of a task.

    - `key`: draws the problems; `problems` and `steps`: how many, and the updates of each run.
    - `at_rest`: the optimizer whose fixed points are analysed, by default `optimizer` itself. Where
      `optimizer` has a live step counter, pass one whose counter is held: `from_optax(...,
      at_step=k)`.
    - `parameter`: value of x at which an `AbstractParameterOptimizer` is analysed. Its runs use the
      parameters that they meet, and on quadratics x moves around that value.

    Numbers that do not exist are NaN and have a reason.

    Raises `ValueError` for counts below 1, or an optimizer that diverges on every problem.
    """
    if at_rest is not None:
        check_optimizer(at_rest, "at_rest")
    sampled = sample_states(optimizer, task, key=key, problems=problems, steps=steps)
    free = optimizer if at_rest is None else at_rest
    optimizer = at_parameter(optimizer, parameter)
    at_rest = None if at_rest is None else at_parameter(at_rest, parameter)
    resting, seen = optimizer, sampled
    if at_rest is not None:
        resting, seen = at_rest, replay_states(at_rest, sampled)
    reasons: dict[str, str] = {}
    schedule = measure_schedule(optimizer, steps)
    path = schedule if at_rest is None else measure_schedule(at_rest, steps)
    found, model = linearize_at_fixed_point(resting, seen)
    absent = _absent(found, model, steps)
    return Scorecard(
        **_momentum(model, steps, absent, reasons),
        **_clipping(optimizer, sampled, float(schedule.rates[0]), reasons),
        **_schedule(schedule, reasons),
        **_adaptation(resting, model, sampled, absent, reasons),
        **_manifold(resting, seen, path, reasons),
        **_curvature(free, parameter, model, absent, reasons),
        reasons=reasons,
        fixed_points=len(found.distinct),
        converged_share=float(found.converged.mean()),
    )


def replay_states(optimizer: AbstractOptimizer, sampled: SampledStates) -> SampledStates:
    """The sampled gradients with the states that another optimizer has under them."""
    with double_precision():
        states = np.asarray(_replay(as_double(optimizer), sampled.gradients))
    return eqx.tree_at(lambda v: v.states, sampled, states)


@eqx.filter_jit
def _replay(opt, gradients):
    return jax.vmap(lambda row: visited_states(opt, row))(gradients)


def _missing(reasons: dict[str, str], sentence: str, *names: str) -> Part:
    reasons |= dict.fromkeys(names, sentence)
    return dict.fromkeys(names, np.nan)


def _absent(found: FixedPoints, model: Linearization, steps: int) -> str | None:
    """The reason why there is no response to a gradient at the fixed point, if there is none."""
    if not found.converged.any():
        return NO_REST if model.differentiable else NO_JACOBIAN
    return None if impulse_response(model, steps).any() else NO_SLOPE


def _momentum(
    model: Linearization, steps: int, absent: str | None, reasons: dict[str, str]
) -> Part:
    timescales, rates = ("timescale", "second_timescale"), ("mode_rate", "second_mode_rate")
    energies = ("energy_of_one", "energy_of_two")
    none = np.zeros(0, complex)
    parts: Part = {"eigenvalues": none, "learning_rates": none, "leading": np.zeros(0, int)}
    if absent is not None:
        return parts | _missing(reasons, absent, *timescales, *rates, *energies, "rate", "gain")
    parts |= _gain(model, reasons)
    try:
        modes = separated_modes(model)
    except ValueError:
        return parts | _missing(reasons, DEFECTIVE, *timescales, *rates, *energies)
    leading, shares = leading_modes(modes, steps)
    parts |= {
        "eigenvalues": modes.eigenvalues,
        "learning_rates": modes.learning_rates,
        "leading": np.array([group[0] for group in leading[:2]]),
    }
    if len(leading) == 1:
        sentence = "a single mode makes the whole response to a gradient"
        parts |= _missing(reasons, sentence, timescales[1], rates[1])
    for group, name, rate in zip(leading, timescales, rates, strict=False):
        parts[name] = timescale(modes.eigenvalues[group[0]])
        parts[rate] = float(modes.learning_rates[group].sum().real)
    if np.isnan(shares).any():
        return parts | _missing(reasons, DEFECTIVE, *rates, *energies)
    return parts | dict(zip(energies, [float(shares[0]), float(shares[:2][-1])], strict=True))


def _gain(model: Linearization, reasons: dict[str, str]) -> Part:
    parts: Part = {"rate": float(-model.readout @ model.input)}
    try:
        return parts | {"gain": steady_state_gain(model)}
    except ValueError:
        sentence = "the Jacobian has the eigenvalue 1, so there is no steady state"
        return parts | _missing(reasons, sentence, "gain")


def leading_modes(modes: Modes, steps: int) -> tuple[list[list[int]], Float[np.ndarray, " first"]]:
    """Modes by decreasing energy of their responses over `steps`, conjugates together.

    Also the share of the whole response's energy that the first k + 1 of them explain. Modes at
    round-off are left out. Modes without learning rates come by decreasing |eigenvalue|, and their
    shares are NaN.
    """
    pairs = {min(i, conjugate_mode(modes, i)): i for i in range(len(modes.eigenvalues))}
    groups = [sorted({first, last}) for first, last in pairs.items()]
    if np.isnan(modes.learning_rates).any():
        return groups, np.full(len(groups), np.nan)
    responses = relative_responses(modes, steps)
    parts = np.array([responses[group].sum(axis=0).real for group in groups])
    whole = parts.sum(axis=0)
    energies = np.sum(parts**2, axis=1)
    order = [
        index
        for index in np.argsort(-energies, kind="stable")
        if energies[index] > NOTHING * energies.max()
    ]
    missed = np.sum((whole - np.cumsum(parts[order], axis=0)) ** 2, axis=1)
    return [groups[index] for index in order], 1 - missed / np.sum(whole**2)


def _clipping(
    optimizer: AbstractOptimizer, sampled: SampledStates, rate: float, reasons: dict[str, str]
) -> Part:
    """Clipping; `rate` is the effective learning rate of the initial state."""
    found = clipping_of_runs(optimizer, sampled)
    parts: Part = {
        "gradients": found.gradients,
        "initial_update": found.updates[0],
        "later_updates": found.updates[1:],
        "edges": found.edges,
        "density": found.density,
    }
    if rate == 0:
        return parts | _missing(reasons, NO_SLOPE, "knee", "beyond_knee")
    if not np.isfinite(rate) or np.isnan(found.knees[0]):
        return parts | _missing(reasons, NO_TANGENT, "knee", "beyond_knee")
    return parts | {"knee": float(found.knees[0]), "beyond_knee": found.beyond_knee}


def _schedule(schedule: Schedule, reasons: dict[str, str]) -> Part:
    rates = schedule.rates
    parts: Part = {"schedule_rates": rates}
    if rates[0] == 0 or not np.isfinite(rates).all():
        sentence = NO_SLOPE if not rates.any() else "the first rate is 0, or a rate is not finite"
        return parts | _missing(reasons, sentence, "schedule_largest", "schedule_last")
    largest, last = float(rates.max() / rates[0]), float(rates[-1] / rates[0])
    return parts | {"schedule_largest": largest, "schedule_last": last}


def _adaptation(
    optimizer: AbstractOptimizer,
    model: Linearization,
    sampled: SampledStates,
    absent: str | None,
    reasons: dict[str, str],
) -> Part:
    large = float(np.quantile(np.abs(sampled.pooled_gradients), 0.99))
    sweep = held_gradients(large if large > 0 else 1.0)
    others = np.zeros((0, len(model.state)))
    held = measure_adaptation(optimizer, model.state, sweep, others, sampled.gradients.shape[1])
    parts: Part = {
        "held_gradients": sweep,
        "held_rates": held.rates,
        "held_converged": held.converged,
        "adaptation_at": np.nan,
    }
    if absent is not None:
        return parts | _missing(reasons, absent, "adaptation")
    middle = len(sweep) // 2
    both = np.flatnonzero((held.converged & held.converged[::-1])[middle + 1 :])
    if not both.size:
        sentence = "no fixed points were found under a held gradient and its negative"
        return parts | _missing(reasons, sentence, "adaptation")
    place = middle + 1 + int(both[-1])
    centre, ends = float(held.rates[middle]), float(held.rates[[place, -1 - place]].mean())
    if centre == 0 or ends == 0:
        return parts | _missing(reasons, NO_SLOPE, "adaptation")
    return parts | {"adaptation": centre / ends, "adaptation_at": float(sweep[place])}


def _manifold(
    optimizer: AbstractOptimizer, sampled: SampledStates, path: Schedule, reasons: dict[str, str]
) -> Part:
    sizes = np.sqrt(np.mean(sampled.states**2, axis=(0, 1)))
    unit = np.where(sizes > 0, sizes, 1.0)
    rescaled = StateInUnits(optimizer, as_float(unit))
    scaled = eqx.tree_at(lambda v: v.states, sampled, sampled.states / unit)
    found = measure_manifold(rescaled, scaled, SEARCHES)
    parts = _readout_angle(rescaled, scaled, path, reasons)
    if not len(found.speeds):
        return parts | _missing(reasons, NO_REST, "manifold_dimension", "manifold_extent")
    parts |= {"manifold_dimension": found.participation_ratio}
    if np.isnan(found.extent):
        return parts | _missing(reasons, "all sampled states are equal", "manifold_extent")
    return parts | {"manifold_extent": found.extent}


def _readout_angle(
    rescaled: StateInUnits, sampled: SampledStates, path: Schedule, reasons: dict[str, str]
) -> Part:
    if path.path[:, 0].any():
        return {"readout_angle": path.readout_angle, "angle_of": "path without gradient"}
    cloud = sampled.states.reshape(-1, sampled.states.shape[-1])
    direction = fit_projection(evenly_spaced(cloud, 100_000), 1).components[0]
    readout = np.asarray(rescaled.readout, float)
    lengths = np.linalg.norm(direction) * np.linalg.norm(readout)
    parts: Part = {"angle_of": "visited states"}
    if lengths == 0:
        return parts | _missing(
            reasons, "the sampled states do not vary, or the readout is 0", "readout_angle"
        )
    cosine = min(abs(direction @ readout) / lengths, 1.0)
    return parts | {"readout_angle": float(np.degrees(np.arccos(cosine)))}


def _curvature(
    free: AbstractOptimizer,
    parameter: float,
    model: Linearization,
    absent: str | None,
    reasons: dict[str, str],
) -> Part:
    """On quadratics; `free` is the optimizer of `model`, its parameter not held."""
    names = ("stable_up_to", "largest_stable", "fastest", "fastest_radius")
    parts: Part = {"curvatures": np.zeros(0), "radii": np.zeros(0)}
    if absent is not None:
        return parts | _missing(reasons, absent, *names)
    try:
        moving = quadratic_map(free, 0.0, model.state, parameter=parameter)
        response = curvature_response(model, moving.by_parameter)
    except ValueError as error:
        return parts | _missing(reasons, str(error).removesuffix("."), *names)
    return {name: getattr(response, name) for name in (*parts, *names)}
