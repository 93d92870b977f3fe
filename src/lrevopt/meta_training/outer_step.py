"""The outer step: a meta-gradient, its clipping, and Adam (paper, D.2)."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lrevopt.inner_loop.devices import over_members
from lrevopt.inner_loop.objectives import meta_objective
from lrevopt.inner_loop.steps import run_on_gradients, updates_on_gradients
from lrevopt.inner_loop.unroll import run_all
from lrevopt.meta_training.estimators import Particles, estimate
from lrevopt.meta_training.settings import MetaTraining
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems

MEDIAN_WINDOW = 100
"""Last meta-steps whose median gradient norm is the reference for outliers."""

SCATTERING_SIZES = (-8, 5)
"""Powers of ten from the first to before the last: sizes of gradients that lead states away from
the initial state, where drift is measured."""

SCATTERING_UPDATES = 10
"""Updates for which each of them is held."""


class OuterState(eqx.Module):
    """What an outer step changes. Entries of steps not yet taken have no meaning.

    They are 0 and not NaN, so that `jax.debug_nans` can be used to find real ones.
    """

    weights: PyTree[Array]
    moments: PyTree[Array]
    objectives: Float[Array, " step"]
    gradient_norms: Float[Array, " step"]
    skipped: Int[Array, ""]
    particles: Particles | None


def first_state(
    weights: PyTree[Array], settings: MetaTraining, particles: Particles | None = None
) -> OuterState:
    """State before the first outer step. Weights are copied, because steps donate their state.

    `particles` are those of `first_particles` for the estimator "pes".
    """
    weights = jax.tree.map(jnp.copy, weights)
    unrecorded = jnp.zeros(settings.steps, jnp.float32)
    return OuterState(
        weights=weights,
        moments=_adam(settings).init(weights),
        objectives=unrecorded,
        gradient_norms=jnp.copy(unrecorded),
        skipped=jnp.zeros((), jnp.int32),
        particles=particles,
    )


def restarted(state: OuterState, weights: PyTree[Array], settings: MetaTraining) -> OuterState:
    """The same state with other weights and new moments; particles continue."""
    fresh = first_state(weights, settings)
    return dataclasses.replace(state, weights=fresh.weights, moments=fresh.moments)


def _adam(settings: MetaTraining) -> optax.GradientTransformation:
    return optax.scale_by_adam(settings.b1, settings.b2, settings.epsilon)


@eqx.filter_jit(donate="all-except-first")
def outer_step(
    inputs: tuple[PyTree, AbstractTask, Key[Array, ""], Int[Array, ""], Float[Array, ""]],
    state: OuterState,
    settings: MetaTraining,
    mesh: Mesh | None = None,
) -> OuterState:
    """One meta-step. `inputs`: untrained part of the optimizer, task, key, step, learning rate.

    If the objective, the norm of the meta-gradient or the gradient of the penalties is not finite,
    weights and moments stay and the step counts as skipped.
    """
    return step_taken(inputs, state, settings, mesh)


def step_taken(
    inputs: tuple[PyTree, AbstractTask, Key[Array, ""], Int[Array, ""], Float[Array, ""]],
    state: OuterState,
    settings: MetaTraining,
    mesh: Mesh | None,
) -> OuterState:
    """As `outer_step`, for use within a compiled program."""
    fixed, task, key, step, learning_rate = inputs
    optimizer = eqx.combine(state.weights, fixed)
    objective, gradient, particles = estimate(
        optimizer, task, jr.fold_in(key, step), settings, particles=state.particles, mesh=mesh
    )
    norm = optax.tree.norm(gradient)
    penalty = _penalty_gradient(state.weights, fixed, settings)
    sound = jnp.isfinite(objective) & jnp.isfinite(norm) & _all_finite(penalty)
    gradient_norms = state.gradient_norms.at[step].set(norm.astype(jnp.float32))
    shrink = _shrinkage(gradient_norms, step, settings).astype(norm.dtype)
    total = jax.tree.map(lambda leaf, own: shrink * leaf + own, gradient, penalty)
    clipped = jax.tree.map(lambda leaf: jnp.clip(leaf, -settings.clip, settings.clip), total)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        direction, moments = _adam(settings).update(clipped, state.moments)
    weights = jax.tree.map(
        lambda weight, move: weight - learning_rate.astype(weight.dtype) * move,
        state.weights,
        direction,
    )
    weights, moments = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old),
        (weights, moments),
        (state.weights, state.moments),
    )
    return OuterState(
        weights=weights,
        moments=moments,
        objectives=state.objectives.at[step].set(objective.astype(jnp.float32)),
        gradient_norms=gradient_norms,
        skipped=state.skipped + jnp.where(sound, 0, 1),
        particles=particles,
    )


@eqx.filter_jit(donate="all-except-first")
def population_step(
    inputs: tuple[PyTree, AbstractTask, Key[Array, " seed"], Int[Array, ""], Float[Array, " seed"]],
    state: OuterState,
    settings: MetaTraining,
    mesh: Mesh | None,
) -> OuterState:
    """One meta-step of each member. Stacked are the state, untrained parts, keys and rates."""
    fixed, task, keys, step, learning_rates = inputs
    arrays, rest = eqx.partition(fixed, eqx.is_array)

    def one(arrays: PyTree, key: Any, rate: Any, state: OuterState) -> OuterState:
        inputs = (eqx.combine(arrays, rest), task, key, step, rate)
        return step_taken(inputs, state, settings, mesh)

    return over_members(one, mesh)(arrays, keys, learning_rates, state)


@eqx.filter_jit(donate="all")
def restarted_where(
    bad: Bool[Array, " seed"],
    weights: PyTree[Array],
    state: OuterState,
    settings: MetaTraining,
    mesh: Mesh | None,
) -> OuterState:
    """The state of a population, with `bad` members restarted from their `weights`."""

    def one(bad: Any, weights: PyTree, state: OuterState) -> OuterState:
        fresh = restarted(state, weights, settings)
        return jax.tree.map(lambda new, old: jnp.where(bad, new, old), fresh, state)

    return over_members(one, mesh)(bad, weights, state)


def _shrinkage(
    norms: Float[Array, " step"], step: Int[Array, ""], settings: MetaTraining
) -> Float[Array, ""]:
    """Factor, at most 1, that brings this step's norm down to `outlier_ratio` medians."""
    if settings.outlier_ratio is None:
        return jnp.ones(())
    window = min(MEDIAN_WINDOW, settings.steps)
    first = jnp.maximum(step + 1 - window, 0)
    recent = jax.lax.dynamic_slice(norms, (first,), (window,))
    taken = first + jnp.arange(window, dtype=first.dtype) <= step
    recent = jnp.where(taken & jnp.isfinite(recent), recent, jnp.nan)
    bound = settings.outlier_ratio * jnp.nanmedian(recent)
    return jnp.minimum(1.0, jnp.where(norms[step] > 0, bound / norms[step], 1.0))


def _all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _penalty_gradient(
    weights: PyTree[Array], fixed: PyTree, settings: MetaTraining
) -> PyTree[Array]:
    """Gradient of the penalties, on the weights and on drift."""
    if settings.penalty_form == "squared_norm":
        of_norm = jax.tree.map(lambda leaf: 2 * settings.penalty * leaf, weights)
    else:
        norm = optax.tree.norm(weights)
        safe = jnp.where(norm > 0, norm, 1)
        of_norm = jax.tree.map(lambda leaf: settings.penalty * leaf / safe, weights)
    if not settings.drift_penalty:
        return of_norm
    of_drift = jax.grad(lambda weights: drift(eqx.combine(weights, fixed), settings.drift_steps))(
        weights
    )
    return jax.tree.map(lambda a, b: a + settings.drift_penalty * b, of_norm, of_drift)


def drift(optimizer: AbstractOptimizer, steps: int) -> Float[Array, ""]:
    """Mean of (w . h' / |w|)^2 over updates without gradient.

    Half of it is the path of `steps` updates from the initial state. That may stay near an unstable
    fixed point, so the other half is the last half of such paths from states to which gradients of
    both signs and all sizes have led: there states are at an attractor. Relative to the length of
    the readout w, because updates grow with it. 0 for an optimizer that comes to rest, and where
    the readout is 0.
    """
    sizes = 10.0 ** jnp.arange(*SCATTERING_SIZES).astype(optimizer.readout.dtype)
    led = jnp.concatenate([sizes, -sizes])[:, None] * jnp.ones(SCATTERING_UPDATES, sizes.dtype)
    scattered, _ = jax.vmap(partial(run_on_gradients, optimizer))(led)
    starts = jnp.concatenate([optimizer.initial_state()[None], scattered])
    still = jnp.zeros(steps, sizes.dtype)
    updates = jax.vmap(lambda start: updates_on_gradients(optimizer, still, start=start))(starts)
    squared = updates**2
    mean = (squared[0].mean() + squared[1:, steps // 2 :].mean()) / 2
    length = jnp.sum(optimizer.readout**2)
    return mean / jnp.where(length > 0, length, 1)


@eqx.filter_jit
def selection_score(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    problems: PyTree[Array],
    settings: MetaTraining,
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """Mean of mean(losses) / losses[0] over stacked problems; infinite if one diverges.

    The penalty on drift, if there is one, is added; where drift is not a number, it is infinite.
    """
    steps = settings.selection_unroll or settings.unroll
    scores = meta_objective(run_all(optimizer, task, problems, steps, mesh)[0])
    score = jnp.where(jnp.all(jnp.isfinite(scores)), scores.mean(), jnp.inf)
    if not settings.drift_penalty:
        return score
    penalty = settings.drift_penalty * drift(optimizer, settings.drift_steps)
    total = score + penalty.astype(score.dtype)
    return jnp.where(jnp.isnan(total), jnp.inf, total)


@eqx.filter_jit
def population_scores(
    optimizers: AbstractOptimizer,
    task: AbstractTask,
    keys: Key[Array, " seed"],
    settings: MetaTraining,
    mesh: Mesh | None,
) -> Float[Array, " seed"]:
    """`selection_score` of each of stacked optimizers, on problems drawn from its own key."""
    arrays, rest = eqx.partition(optimizers, eqx.is_array)

    def one(arrays: PyTree, key: Any) -> Float[Array, ""]:
        problems = sample_problems(task, key, settings.selection_problems)
        return selection_score(eqx.combine(arrays, rest), task, problems, settings, mesh)

    return over_members(one, mesh)(arrays, keys)
