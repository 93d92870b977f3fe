"""Estimators of the meta-gradient, behind one function.

    exact         backpropagation through all updates and through the loss gradients
    clipped       the same, but the part of the parameters' cotangent that comes through Hessians
                  is scaled down, per problem and step, to `cotangent_clip` times the rest
    first_order   loss gradients are treated as constants: no Hessians
    es            evolution strategies: antithetic pairs of perturbed weights, full unrolls
    pes           persistent evolution strategies (Vicol, Metz and Sohl-Dickstein, 2021): each
                  meta-step continues the pairs for `es_window` updates, and perturbations are
                  summed since their run began

The paper trains with the exact estimator. On inner problems with thousands of parameters its norm
grows with the unroll until it is useless. The first-order estimator stays small and is biased.
"clipped" lies between them: a bound of 0 gives the first-order, infinity the exact one. Evolution
strategies need no derivative; they estimate the gradient of the objective smoothed over
N(0, es_deviation^2) around the weights. "pes" is unbiased for that gradient as long as weights do
not change, for objectives that are sums over updates. "cma" estimates no gradient at all: see
`evolution`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree

from lrevopt.checks import instance, random_keys
from lrevopt.inner_loop.adjoint import Runs, losses_of_runs, unroll_losses
from lrevopt.inner_loop.devices import PROBLEM, mean_over_problems, over_problems, with_lanes
from lrevopt.inner_loop.lanes import Shard, shard_of
from lrevopt.inner_loop.objectives import meta_objective
from lrevopt.inner_loop.run_checks import check_fit, first_of
from lrevopt.inner_loop.steps import start_of_runs
from lrevopt.inner_loop.unroll import advance_losses, checkpoint_interval
from lrevopt.meta_training.settings import BACKPROPAGATING, MetaTraining
from lrevopt.optimizers.interface import AbstractOptimizer, check_optimizer
from lrevopt.tasks.interface import AbstractTask, is_task, sample_problems

Gradient = tuple[Float[Array, ""], AbstractOptimizer]
"""Objective and meta-gradient."""


class Particles(eqx.Module):
    """Unfinished runs of persistent evolution strategies: a pair per problem.

    `perturbations` is the sum of all perturbations of a pair's weights since its run began; the
    second of a pair has the negative ones. `positive` and `negative` are parameters and states of
    the two, `step` is the number of updates that they have taken.
    """

    problems: PyTree[Array]
    perturbations: PyTree[Array]
    positive: tuple[Float[Array, "problem dim"], Float[Array, "problem state dim"]]
    negative: tuple[Float[Array, "problem dim"], Float[Array, "problem state dim"]]
    step: Int[Array, " problem"]


def cotangent_clip(settings: MetaTraining) -> float:
    """The `cotangent_clip` of `unroll_losses` for each estimator that backpropagates."""
    bounds = {"exact": math.inf, "first_order": 0.0, "clipped": settings.cotangent_clip}
    return bounds[settings.estimator]


def independent(settings: MetaTraining, parameters: int) -> tuple[int, int]:
    """How many runs a meta-step may spread over devices, and parameters of each, or 0 of these.

    Evolution strategies have a run or more for each problem, and do not spread their parameters.
    """
    if settings.estimator in ("es", "pes"):
        return settings.problems * (settings.es_pairs if settings.estimator == "es" else 1), 0
    return settings.problems, parameters


def meta_gradient(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    keys: Key[Array, " problem"],
    settings: MetaTraining,
    mesh: Mesh | None = None,
) -> Gradient:
    """Mean meta-objective of the problems drawn from `keys`, and its gradient by backpropagation.

    Returns a pair: the mean over problems of `settings.objective`, and the gradient as an optimizer
    of the same structure, with a derivative in place of each floating-point leaf.

    Backpropagates through all `settings.unroll` updates, `settings.micro_batch` problems at a time;
    neither this nor `settings.checkpoint_every` changes the result beyond round-off. The gradient
    is exact unless `settings.estimator` is "first_order" or "clipped". `keys` are as many as there
    are problems, one each. With a `mesh`, each device takes its share of the problems and of a
    micro-batch, or of the parameters where there are fewer problems than devices (`with_lanes`).

    Raises `ValueError` for the estimators "es", "pes" and "cma", which do not backpropagate, and
    where `keys` are not random keys.
    """
    instance("settings", settings, MetaTraining, "MetaTraining settings")
    if settings.estimator not in BACKPROPAGATING:
        raise ValueError(
            f"`settings.estimator` must be exact, clipped or first_order to backpropagate, got "
            f"{settings.estimator!r}."
        )
    count = random_keys("keys", keys).shape[0]
    is_task(task)
    check_optimizer(optimizer)
    size = settings.micro_batch or count
    if mesh is None:
        shares, size = jnp.full(count, 1 / count), _largest_divisor(count, size)
        return _summed_gradient((optimizer, task), keys, shares, settings, size)
    dim = eqx.filter_eval_shape(task.sample, keys[0]).initial_parameters.size
    spread = with_lanes(mesh, count, dim)
    assert spread is not None  # with a mesh
    shard = shard_of(spread, dim)

    def run(shared: Any, keys: Any, shares: Any) -> Gradient:
        part = _largest_divisor(keys.shape[0], max(1, size // spread.shape[PROBLEM]))
        return _summed_gradient(shared, keys, shares, settings, part, shard=shard)

    return mean_over_problems(run, (optimizer, task), keys, spread)


def _summed_gradient(
    shared: tuple[AbstractOptimizer, AbstractTask],
    keys: Key[Array, " problem"],
    shares: Float[Array, " problem"],
    settings: MetaTraining,
    size: int,
    *,
    shard: Shard | None = None,
) -> Gradient:
    """Sum of shares times objectives, and its gradient, `size` problems at a time.

    With a `shard`, both are parts of a sum over devices.
    """
    optimizer, task = shared
    unroll, devices = settings.unroll, 1 if shard is None else shard.devices
    every = checkpoint_interval(settings.checkpoint_every, unroll)

    @eqx.filter_value_and_grad
    def both(optimizer: AbstractOptimizer, keys: Any, shares: Any) -> Float[Array, ""]:
        problems = jax.vmap(task.sample)(keys)
        check_fit(optimizer, task, first_of(problems))
        runs = Runs(task, problems, unroll, every, cotangent_clip(settings), shard)
        losses = losses_of_runs(optimizer, runs)
        objectives = meta_objective(losses, settings.objective)
        # Problems that fill up a device have share 0, whatever their objective is.
        return jnp.where(shares > 0, shares.astype(losses.dtype) * objectives, 0).sum()

    def parts(*each: Any) -> Gradient:
        objective, gradient = both(optimizer, *each)
        return objective / devices, gradient

    if size == keys.shape[0]:
        return parts(keys, shares)
    several = jax.lax.map(
        lambda each: parts(*each), (keys.reshape(-1, size), shares.reshape(-1, size))
    )
    return jax.tree.map(lambda part: part.sum(axis=0), several)


def _largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`."""
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)


def estimate(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    key: Key[Array, ""],
    settings: MetaTraining,
    *,
    particles: Particles | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], PyTree[Array], Particles | None]:
    """Objective, meta-gradient in the floating-point leaves of `optimizer`, next particles."""
    if settings.estimator == "pes":
        assert particles is not None
        return _persistent(optimizer, task, key, settings, particles=particles, mesh=mesh)
    keys = jr.split(key, settings.problems)
    if settings.estimator == "es":
        objective, gradient = _antithetic(optimizer, task, keys, settings, mesh)
    else:
        objective, gradient = meta_gradient(optimizer, task, keys, settings, mesh)
    return objective, eqx.filter(gradient, eqx.is_inexact_array), particles


def _perturbation(weights: PyTree[Array], key: Key[Array, ""], deviation: float) -> PyTree[Array]:
    leaves, structure = jax.tree.flatten(weights)
    keys = jr.split(key, len(leaves))
    drawn = [
        deviation * jr.normal(k, leaf.shape, leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def _moved_by(
    optimizer: AbstractOptimizer, perturbation: PyTree[Array], sign: int
) -> AbstractOptimizer:
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    moved = jax.tree.map(lambda leaf, by: leaf + sign * by, weights, perturbation)
    return eqx.combine(moved, fixed)


def _antithetic(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    keys: Key[Array, " problem"],
    settings: MetaTraining,
    mesh: Mesh | None,
) -> tuple[Float[Array, ""], PyTree[Array]]:
    """Mean objective of all pairs, and the gradient by evolution strategies."""
    deviation = settings.es_deviation

    def score(optimizer: AbstractOptimizer, task: AbstractTask, problem: Any) -> Float[Array, ""]:
        one = jax.tree.map(lambda leaf: leaf[None], problem)
        losses = unroll_losses(optimizer, task, one, settings.unroll)
        return meta_objective(losses[0], settings.objective)

    def pair(shared: Any, key: Key[Array, ""]) -> tuple[Array, PyTree[Array]]:
        optimizer, task = shared
        weights = eqx.filter(optimizer, eqx.is_inexact_array)
        problem_key, noise_key = jr.split(key)
        problem = task.sample(problem_key)
        by = _perturbation(weights, noise_key, deviation)
        up = score(_moved_by(optimizer, by, 1), task, problem)
        down = score(_moved_by(optimizer, by, -1), task, problem)
        slope = (up - down) / (2 * deviation**2)
        return (up + down) / 2, jax.tree.map(lambda leaf: slope * leaf, by)

    several = jnp.repeat(keys, settings.es_pairs)
    each = jax.vmap(lambda key, k: jr.fold_in(key, k))(
        several, jnp.tile(jnp.arange(settings.es_pairs), settings.problems)
    )
    objectives, parts = _mapped(pair, (optimizer, task), each, settings, mesh)
    return objectives.mean(), jax.tree.map(lambda part: part.mean(axis=0), parts)


def _mapped(
    function: Callable[[Any, Any], Any],
    shared: Any,
    problems: Any,
    settings: MetaTraining,
    mesh: Mesh | None,
) -> Any:
    """`function(shared, problem)` for all problems, a micro-batch at a time, over a mesh."""
    size = settings.micro_batch
    if size is not None and mesh is not None:
        size = max(1, size // mesh.shape[PROBLEM])

    def run(shared: Any, problems: Any) -> Any:
        return jax.lax.map(functools.partial(function, shared), problems, batch_size=size)

    return over_problems(run, shared, problems, mesh)


def first_particles(
    optimizer: AbstractOptimizer, task: AbstractTask, key: Key[Array, ""], settings: MetaTraining
) -> Particles:
    """Pairs before their first update, with step counts staggered over a run."""
    windows = settings.unroll // settings.es_window
    weights = eqx.filter(optimizer, eqx.is_inexact_array)
    problems = sample_problems(task, key, settings.problems)
    start = _starts(optimizer, problems)
    return Particles(
        problems=problems,
        perturbations=jax.tree.map(
            lambda leaf: jnp.zeros((settings.problems, *leaf.shape), leaf.dtype), weights
        ),
        # Copies, because steps donate their state and can donate a buffer only once.
        positive=jax.tree.map(jnp.copy, start),
        negative=jax.tree.map(jnp.copy, start),
        step=settings.es_window * (jnp.arange(settings.problems) % windows),
    )


def _starts(optimizer: AbstractOptimizer, problems: Any) -> tuple[Array, Array]:
    """Parameters (problem, dim) and states (problem, state, dim) before any update."""
    parameters, lanes = start_of_runs(optimizer, problems)
    return parameters, jnp.moveaxis(lanes.reshape(-1, *parameters.shape), 0, 1)


def _window(
    shared: tuple[AbstractOptimizer, AbstractTask],
    problem: Any,
    carry: Any,
    step: Int[Array, ""],
    settings: MetaTraining,
) -> Any:
    """One window's part of the sum mean(losses) / losses[0], and the carry after it."""
    optimizer, task = shared
    one = jax.tree.map(lambda leaf: leaf[None], problem)
    first = task.loss(problem, problem.initial_parameters, 0)
    (after, states), losses, last = advance_losses(
        optimizer, task, one, (carry[0][None], carry[1]), first=step, steps=settings.es_window
    )
    ended = step + settings.es_window == settings.unroll
    total = losses.sum() + jnp.where(ended, last[0], 0.0)
    return total / (first * (settings.unroll + 1)), (after[0], states)


def _persistent(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    key: Key[Array, ""],
    settings: MetaTraining,
    *,
    particles: Particles,
    mesh: Mesh | None,
) -> tuple[Float[Array, ""], PyTree[Array], Particles]:
    """One window of every pair. Pairs at the end of their run start a new one."""
    length, deviation = settings.es_window, settings.es_deviation
    windows = settings.unroll // length

    def one(shared: Any, inputs: Any) -> Any:
        optimizer, task = shared
        weights = eqx.filter(optimizer, eqx.is_inexact_array)
        problem, sums, positive, negative, step, fresh, key = inputs
        begins = step == 0

        def restart(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: jnp.where(begins, a, b), new, old)

        by = _perturbation(weights, key, deviation)
        problem = restart(fresh, problem)
        sums = jax.tree.map(lambda total, now: jnp.where(begins, 0.0, total) + now, sums, by)
        runs = []
        for sign, carry in ((1, positive), (-1, negative)):
            moved = _moved_by(optimizer, by, sign)
            start = start_of_runs(moved, jax.tree.map(lambda leaf: leaf[None], problem))
            carry = restart((start[0][0], start[1]), carry)
            runs.append(_window((moved, task), problem, carry, step, settings))
        (up, positive), (down, negative) = runs
        slope = windows * (up - down) / (2 * deviation**2)
        gradient = jax.tree.map(lambda total: slope * total, sums)
        step = (step + length) % settings.unroll
        return windows * (up + down) / 2, gradient, (problem, sums, positive, negative, step)

    problem_keys, noise_keys = jax.vmap(jr.split, out_axes=1)(jr.split(key, settings.problems))
    inputs = (
        particles.problems,
        particles.perturbations,
        particles.positive,
        particles.negative,
        particles.step,
        jax.vmap(task.sample)(problem_keys),
        noise_keys,
    )
    objectives, gradients, after = _mapped(one, (optimizer, task), inputs, settings, mesh)
    gradient = jax.tree.map(lambda part: part.mean(axis=0), gradients)
    names = [field.name for field in dataclasses.fields(Particles)]
    return objectives.mean(), gradient, Particles(**dict(zip(names, after, strict=True)))
