"""Everything that the mechanism figures draw and the mechanism claims measure, as one record.

The figures of section 5 and appendix A show one optimizer on one task from six sides. `Mechanisms`
holds their numbers and nothing else, so that a figure is redrawn without the optimizer.
"""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int, Key

from lrevopt.analysis.adaptation import held_gradients, measure_adaptation
from lrevopt.analysis.clipping import measure_clipping
from lrevopt.analysis.fixed_points import FixedPoints, find_fixed_points
from lrevopt.analysis.linearization import (
    Linearization,
    Modes,
    dominant_mode,
    eigenmodes,
    explained_energy,
    linearize,
)
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.projections import fit_projection, state_variance
from lrevopt.analysis.schedules import measure_schedule
from lrevopt.analysis.update_functions import transition_table, update_table
from lrevopt.inner_loop.sampled_states import SampledStates, evenly_spaced, sample_states
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Facts, complex_number, number

STARTS = 500
"""Visited states that fixed points are searched from."""

RELAXED = 200
"""Visited states that are relaxed towards the slow manifold."""

GRID = 201
"""Points on a gradient axis."""


class Mechanisms(eqx.Module):
    """One optimizer on one task, taken apart. Host arrays in float64.

    *Projected* means: minus the mean of the visited states, times their first three principal
    components (axis `component`; zeros where the state has fewer coordinates). *Speed* is
    `q = 1/2 ||F(h, g*) - h||^2`. An *effective learning rate* is minus the slope of the update
    function at zero gradient, positive for a descending optimizer. An *update* is `w . F(h, g)`.
    Visited states are those of `SampledStates`: each group of a task's parameters counts alike.

    States (Figure 3a, 8):
    - `explained_variance`: share of the variance of visited states in each component.
    - `paths`: projected states of up to 20 parameters of test problems.
    - `state_variance`: total variance (summed over coordinates) over parameters of all test
      problems, at each step.

    Fixed points at zero gradient (Figure 3a):
    - `fixed_point`: the fixed point, projected: the one reached from most states.
      `fixed_point_speed`, `fixed_point_radius` (spectral radius of its Jacobian).
    - `distinct_fixed_points`: how many different converged points were found;
      `converged_share`: share of the searched states from which one was reached.
    - `slow_points`, `slow_speeds`: approximate fixed points, visited states that relaxed under
      zero gradient until little but the slowest modes was left.

    Momentum (Figure 3b, c, 8):
    - `shifts`: displacements along the dominant mode, in units of the state, symmetric around 0;
      `shift_points`: the shifted states, projected; `gradients`: a symmetric gradient axis over
      the central 98 % of met gradients; `shift_updates`: the update functions of shifted states.
    - `eigenvalues`, `learning_rates`: of the modes at the fixed point, slowest first;
      `dominant_mode`: index of the dominant mode, the one that gives most of the steady-state gain.
    - `mode_energy`: share of the energy of the impulse response (the updates that one unit of
      gradient causes) explained by the best k + 1 modes together, for k = 0, 1, ...
    - Where the Jacobian is near-defective, so that modes have no learning rates of their own,
      `learning_rates` and `mode_energy` are NaN, and the dominant mode is the slowest.
    - `linear_error`: relative error of the linearized transition over the last quarter of test
      runs, `||F - F_linear|| / ||F - h*||` (root mean squares).

    Clipping (Figure 4, 10):
    - `clip_gradients`: gradient axis out to the largest met gradient; `initial_update`: update
      function of the initial state on it; `later_updates`: of a few visited states.
    - `gradient_edges`, `gradient_density`: histogram of met gradients on that axis, as a density.
    - `knees`: for the initial state and each of the later ones, the gradient magnitude at which
      the tangent at zero gradient reaches the largest update on the axis.
    - `saturation`: the initial update function at the 99.9 % gradient magnitude over its linear
      extrapolation (1 for a linear one); `beyond_knee`: share of met gradients beyond the
      initial state's knee; `affine_fit`: R^2 of a line on the central 80 % of met gradients.

    Schedule (Figure 5, 11), `h' = F(h, 0)` from the initial state:
    - `schedule_path`: projected on its own first two principal components, and, alike,
      `schedule_points` (the slow points) and `schedule_end` (the fixed point).
    - `schedule_rates`: effective learning rate along it; `schedule_updates`: the updates
      `w . h'` that it causes by itself; `typical_step`: root-mean-square update of test runs.
    - `readout_angle`: angle in degrees between the path's first component and the readout.

    Adaptation (Figure 6, 12), for gradients held fixed:
    - `held_gradients`: ascending, log-spaced on both signs, with 0 in the middle.
    - `held_points` (projected), `held_speeds`, `held_converged`, `held_radius` (spectral radius),
      `held_rates` (effective learning rate at that point), `held_distinct` (number of distinct
      fixed points from several starts), `held_half_steps` (steps of the held gradient, from the
      fixed point, until half the distance is covered; infinite if not within the run).
    - `arm_index`: indices into the above of five points from the centre to the end of the
      positive arm; `arm_updates`: their update functions on `gradients`.
    """

    explained_variance: Float[np.ndarray, " component"]
    paths: Float[np.ndarray, "path visited component"]
    state_variance: Float[np.ndarray, " visited"]
    fixed_point: Float[np.ndarray, " component"]
    fixed_point_speed: float
    fixed_point_radius: float
    distinct_fixed_points: float
    converged_share: float
    slow_points: Float[np.ndarray, "point component"]
    slow_speeds: Float[np.ndarray, " point"]
    shifts: Float[np.ndarray, " shift"]
    shift_points: Float[np.ndarray, "shift component"]
    gradients: Float[np.ndarray, " grid"]
    shift_updates: Float[np.ndarray, "shift grid"]
    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    dominant_mode: Int[np.ndarray, ""] | int
    mode_energy: Float[np.ndarray, " mode"]
    linear_error: float
    clip_gradients: Float[np.ndarray, " wide"]
    initial_update: Float[np.ndarray, " wide"]
    later_updates: Float[np.ndarray, "later wide"]
    gradient_edges: Float[np.ndarray, " edge"]
    gradient_density: Float[np.ndarray, " bin"]
    knees: Float[np.ndarray, " knee"]
    saturation: float
    beyond_knee: float
    affine_fit: float
    schedule_path: Float[np.ndarray, "visited 2"]
    schedule_points: Float[np.ndarray, "point 2"]
    schedule_end: Float[np.ndarray, "2"]
    schedule_rates: Float[np.ndarray, " visited"]
    schedule_updates: Float[np.ndarray, " step"]
    typical_step: float
    readout_angle: float
    held_gradients: Float[np.ndarray, " held"]
    held_points: Float[np.ndarray, "held component"]
    held_speeds: Float[np.ndarray, " held"]
    held_converged: Bool[np.ndarray, " held"]
    held_radius: Float[np.ndarray, " held"]
    held_rates: Float[np.ndarray, " held"]
    held_distinct: Int[np.ndarray, " held"]
    held_half_steps: Float[np.ndarray, " held"]
    arm_index: Int[np.ndarray, " arm"]
    arm_updates: Float[np.ndarray, "arm grid"]

    @property
    def fixed_point_stable(self) -> bool:
        """Whether states near the fixed point return to it: spectral radius below 1."""
        return self.fixed_point_radius < 1


def analyze(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
) -> Mechanisms:
    """Take one optimizer apart on fresh problems of one task.

    Raises `ValueError` for counts below 1, or an optimizer that diverges on every problem.
    """
    sampled = sample_states(optimizer, task, key=key, problems=problems, steps=steps)
    return analyze_sampled(optimizer, sampled)


def analyze_sampled(optimizer: AbstractOptimizer, sampled: SampledStates) -> Mechanisms:
    """Take an optimizer apart from what it visited."""
    steps = sampled.gradients.shape[1]
    cloud = sampled.states.reshape(-1, sampled.states.shape[-1])
    readout = np.asarray(optimizer.readout, float)
    projection = fit_projection(evenly_spaced(cloud, 100_000))
    at_rest, model = linearize_at_rest(optimizer, sampled)
    fixed_point, speed, radius = main_fixed_point(at_rest)
    modes = separated_modes(model)
    slow, slow_speeds = slow_manifold(optimizer, evenly_spaced(cloud, RELAXED), modes)
    shifted, shifts = shifted_states(model, modes, sampled.states)
    gradients = gradient_axis(sampled.pooled_gradients)

    # Later states come from paths and times that differ: evenly spaced over both.
    later = evenly_spaced(cloud[:: max(1, steps // 3)], 5)
    start = np.asarray(optimizer.initial_state(), float)
    clipping = measure_clipping(
        optimizer, np.concatenate([start[None], later]), sampled.pooled_gradients
    )

    schedule = measure_schedule(optimizer, steps)
    moves = sampled.states[:, 1:] @ readout

    largest = float(np.quantile(np.abs(sampled.pooled_gradients), 0.999))
    sweep = held_gradients(largest if largest > 0 else 1.0)
    others = np.concatenate([start[None], evenly_spaced(cloud, 2)])
    adaptation = measure_adaptation(optimizer, fixed_point, sweep, others, steps)
    middle = len(sweep) // 2
    arm = np.linspace(middle, len(sweep) - 1, 5).round().astype(int)

    return Mechanisms(
        explained_variance=projection.explained_variance,
        paths=projection(evenly_spaced(sampled.states, 20)),
        state_variance=state_variance(sampled.states),
        fixed_point=projection(fixed_point),
        fixed_point_speed=speed,
        fixed_point_radius=radius,
        distinct_fixed_points=float(len(at_rest.distinct)),
        converged_share=float(at_rest.converged.mean()),
        slow_points=projection(slow),
        slow_speeds=slow_speeds,
        shifts=shifts,
        shift_points=projection(shifted),
        gradients=gradients,
        shift_updates=update_table(optimizer, shifted, gradients),
        eigenvalues=modes.eigenvalues,
        learning_rates=modes.learning_rates,
        dominant_mode=np.asarray(dominant_mode(modes)),
        mode_energy=_energy(modes),
        linear_error=linearization_error(optimizer, model, sampled),
        clip_gradients=clipping.gradients,
        initial_update=clipping.updates[0],
        later_updates=clipping.updates[1:],
        gradient_edges=clipping.edges,
        gradient_density=clipping.density,
        knees=clipping.knees,
        saturation=float(clipping.saturation[0]),
        beyond_knee=float(clipping.beyond_knee[0]),
        affine_fit=float(clipping.affine_fit[0]),
        schedule_path=schedule.projection(schedule.states),
        schedule_points=schedule.projection(slow),
        schedule_end=schedule.projection(fixed_point),
        schedule_rates=schedule.rates,
        schedule_updates=schedule.updates,
        typical_step=float(np.sqrt(np.mean(moves**2))),
        readout_angle=schedule.readout_angle,
        held_gradients=adaptation.gradients,
        held_points=projection(adaptation.states),
        held_speeds=adaptation.speeds,
        held_converged=adaptation.converged,
        held_radius=adaptation.spectral_radius,
        held_rates=adaptation.rates,
        held_distinct=adaptation.distinct,
        held_half_steps=adaptation.half_steps,
        arm_index=arm,
        arm_updates=update_table(optimizer, adaptation.states[arm], gradients),
    )


def linearize_at_rest(
    optimizer: AbstractOptimizer, sampled: SampledStates
) -> tuple[FixedPoints, Linearization]:
    """Fixed points at zero gradient that visited states lead to, and F at the fixed point."""
    cloud = sampled.states.reshape(-1, sampled.states.shape[-1])
    found = find_fixed_points(optimizer, evenly_spaced(cloud, STARTS))
    return found, linearize(optimizer, main_fixed_point(found)[0])


def main_fixed_point(found: FixedPoints) -> tuple[Float[np.ndarray, " state"], float, float]:
    """The fixed point reached from most starts, its speed and spectral radius.

    Of several reached equally often, as on a line of fixed points, the one nearest to their
    mean. Where no search converged: the slowest point of all.
    """
    index = int(np.argmin(found.speeds))
    if found.converged.any():
        counts = np.bincount(found.assignment[found.converged])
        most = np.flatnonzero(counts == counts.max())
        mean = found.distinct[most].mean(axis=0)
        nearest = most[np.argmin(np.linalg.norm(found.distinct[most] - mean, axis=1))]
        index = int(np.flatnonzero(found.assignment == nearest)[0])
    return found.states[index], float(found.speeds[index]), float(found.spectral_radius[index])


def separated_modes(model: Linearization) -> Modes:
    """`eigenmodes`, or where J is near-defective those of a J next to it, without rates.

    The neighbour has modes to move along, which is all that is asked of it: their learning rates
    would be huge numbers that cancel, so they are NaN.
    """
    try:
        return eigenmodes(model)
    except ValueError:
        noise = np.random.default_rng(0).normal(size=model.recurrent.shape)
        noise *= np.linalg.norm(model.recurrent, 2) / np.linalg.norm(noise, 2)
    # A defect of two splits by the root of the noise, larger ones by higher roots.
    for size in (1e-8, 1e-6, 1e-4):
        near = model.recurrent + size * noise
        with contextlib.suppress(ValueError):
            modes = eigenmodes(eqx.tree_at(lambda m: m.recurrent, model, near))
            break
    else:
        raise ValueError("`model.recurrent` must have independent eigenvectors, or nearly so.")
    none = np.full_like(modes.learning_rates, np.nan)
    return eqx.tree_at(lambda m: m.learning_rates, modes, none)


def _energy(modes: Modes) -> Float[np.ndarray, " mode"]:
    if np.isnan(modes.learning_rates).any():
        return np.full(len(modes.eigenvalues), np.nan)
    return explained_energy(modes)


def slow_manifold(
    optimizer: AbstractOptimizer, states: Float[np.ndarray, "point state"], modes: Modes
) -> tuple[Float[np.ndarray, "point state"], Float[np.ndarray, " point"]]:
    """States relaxed under zero gradient towards the slow manifold, and their speeds.

    They relax until, to first order, whatever is faster than the dominant mode has fallen to 5 % of
    itself beside it: `(|lambda_next| / |lambda_slow|)^k = 0.05`, and for 100 steps at most.
    """
    sizes = np.abs(modes.eigenvalues)
    slow = sizes[dominant_mode(modes)]
    next_one = sizes[sizes < slow * (1 - 1e-9)].max(initial=0.0)
    steps = 1
    if next_one > 0:
        steps = int(np.clip(np.ceil(np.log(0.05) / np.log(next_one / slow)), 1, 100))
    with double_precision():
        relaxed, speeds = _relax(as_double(optimizer), states, steps)
    return np.asarray(relaxed), np.asarray(speeds)


def shifted_states(
    model: Linearization,
    modes: Modes,
    visited: Float[np.ndarray, "path visited state"],
    index: int | None = None,
) -> tuple[Float[np.ndarray, "shift state"], Float[np.ndarray, " shift"]]:
    """The fixed point, moved along a mode (by default the slow one) to where test runs go.

    The mode's unit direction (of a complex one, its real part) is signed so that a positive
    gradient adds to it. The range is the 95 % quantile of the visited coordinate.
    """
    index = dominant_mode(modes) if index is None else index
    direction = modes.right[:, index].real * np.sign((modes.left[index] @ model.input).real or 1.0)
    length = np.linalg.norm(direction)
    coordinate = (visited - model.state) @ modes.left[index].real * length
    reach = float(np.quantile(np.abs(coordinate), 0.95))
    shifts = np.linspace(-reach, reach, 5)
    return model.state + shifts[:, None] * direction / length, shifts


def linearization_error(
    optimizer: AbstractOptimizer, model: Linearization, sampled: SampledStates
) -> float:
    """Relative error of the linearized transition over the last quarter of test runs."""
    first = sampled.gradients.shape[1] * 3 // 4
    states = evenly_spaced(sampled.states[:, first:-1].reshape(-1, len(model.state)), 20_000)
    gradients = evenly_spaced(sampled.gradients[:, first:].reshape(-1), 20_000)
    true = transition_table(optimizer, states, gradients)
    moved = (states - model.state) @ model.recurrent.T + gradients[:, None] * model.input
    distance = np.linalg.norm(true - model.state)
    error = np.linalg.norm(true - model.next_state - moved)
    return float(error / distance) if distance > 0 else 0.0


def gradient_axis(pooled: Float[np.ndarray, " met"]) -> Float[np.ndarray, " grid"]:
    """Symmetric axis over the central 98 % of met gradients."""
    reach = float(np.quantile(np.abs(pooled), 0.98))
    reach = reach if reach > 0 else 1.0
    return np.linspace(-reach, reach, GRID)


@eqx.filter_jit
def _relax(opt, states, steps):
    zero = jnp.zeros((), states.dtype)
    once = jax.vmap(lambda h: opt.transition(h, zero))
    relaxed = lax.fori_loop(0, steps, lambda _, h: once(h), states)
    return relaxed, jnp.sum((once(relaxed) - relaxed) ** 2, axis=1) / 2


def mechanism_facts(record: Mechanisms) -> Facts:
    """What the analysis found, as pairs of a name and a sentence."""
    slow = int(record.dominant_mode)
    eigenvalue, rate = record.eigenvalues[slow], record.learning_rates[slow]
    own = (
        "none of its own (the Jacobian is near-defective)"
        if np.isnan(rate)
        else complex_number(rate)
    )
    centre = record.held_rates[np.argmin(np.abs(record.held_gradients))]
    ends = record.held_rates[[0, -1]]
    stable = "stable" if record.fixed_point_stable else "not stable"
    share = 100 * record.converged_share
    return [
        ("Fixed points without gradient", f"{record.distinct_fixed_points:.0f} distinct"),
        ("Searches that reached one", f"{share:.1f} %"),
        ("Fixed point", f"speed {number(record.fixed_point_speed)}, spectral radius "
         f"{number(record.fixed_point_radius)} ({stable})"),
        ("Dominant mode", f"eigenvalue {complex_number(eigenvalue)}, learning rate {own}"),
        ("Error of the linearized optimizer", f"{number(record.linear_error)} (relative, last "
         "quarter of test runs)"),
        ("Saturation", f"at the 99.9 % gradient, updates are {number(record.saturation)} of what "
         "they would be without clipping"),
        ("Gradients beyond the knee", f"{100 * record.beyond_knee:.2g} %"),
        ("Effective learning rate without gradient", f"{number(record.schedule_rates[0])} at the "
         f"start, {number(record.schedule_rates.max())} at most, "
         f"{number(record.schedule_rates[-1])} at the end"),
        ("Effective learning rate under held gradients", f"{number(centre)} in the centre, "
         f"{number(ends[0])} and {number(ends[1])} at the ends of the arms"),
    ]  # fmt: skip
