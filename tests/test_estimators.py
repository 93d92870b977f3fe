"""Meta-gradients that are not the exact one, each against an independent route to it."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from tables import NoisyQuadratic, gru, mostly_long

import lrevopt as lo
from lrevopt.meta_training.estimators import cotangent_clip, estimate, first_particles
from lrevopt.tasks import sample_problems

NOISY = NoisyQuadratic(jnp.asarray(np.random.default_rng(0).normal(size=(41, 2))))
SETTINGS = lo.MetaTraining(steps=10, unroll=12, problems=3, selection_problems=4)
draw = eqx.filter_jit(sample_problems)


def flat(tree: object) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def scanned_losses(optimizer, task, problem, steps, given):
    """A plain scan; with `given`, gradients are constants to automatic differentiation."""

    def step(carry, k):
        x, h = carry
        loss, g = jax.value_and_grad(task.loss, 1)(problem, x, k)
        h = jax.vmap(optimizer.transition)(h, lax.stop_gradient(g) if given else g)
        return (x + h @ optimizer.readout, h), loss

    x = problem.initial_parameters
    start = (x, jnp.tile(optimizer.initial_state(), (x.size, 1)))
    (x, _), losses = lax.scan(step, start, jnp.arange(steps))
    return jnp.append(losses, task.loss(problem, x, steps))


def weighted(losses):
    return jnp.sum(losses * jnp.cos(jnp.arange(losses.size)).reshape(losses.shape))


CASES = {
    "noisy": lambda: (NOISY, 0.02, 12),
    "rosenbrock": lambda: (lo.Rosenbrock(), 1e-4, 12),
    "two_moons": lambda: (lo.TwoMoons(), 0.5, 4),
    "mnist": lambda: (lo.MNIST("digits", side=7, batch=25), 0.2, 4),
}


@pytest.mark.parametrize(
    ("case", "given"),
    [
        ("noisy", False),
        ("noisy", True),
        ("rosenbrock", True),
        pytest.param("two_moons", True, marks=pytest.mark.long),
        pytest.param("mnist", True, marks=pytest.mark.slow),
    ],
)
def test_backpropagation_is_that_of_a_plain_scan(case, given):
    """First-order where gradients are given; in segments and not; to 1e-9 of the largest entry.

    Exact meta-gradients of other tasks: `test_unroll` and `test_memory`.
    """
    task, rate, steps = CASES[case]()
    optimizer, problems = gru(rate), draw(task, jr.key(2), 2)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def plainly(optimizer):
        return weighted(
            jax.vmap(lambda problem: scanned_losses(optimizer, task, problem, steps, given))(
                problems
            )
        )

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def ours(optimizer, checkpoint_every):
        bound = 0.0 if given else math.inf
        return weighted(
            lo.unroll_losses(
                optimizer,
                task,
                problems,
                steps,
                checkpoint_every=checkpoint_every,
                cotangent_clip=bound,
            )
        )

    value, expected = plainly(optimizer)
    for checkpoint_every in (None, 3):
        found, gradient = ours(optimizer, checkpoint_every)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        scale = np.abs(flat(expected)).max()
        assert scale > 0
        np.testing.assert_allclose(flat(gradient), flat(expected), rtol=0, atol=1e-9 * scale)


@eqx.filter_jit
def clipped_by_hand(optimizer, task, problem, steps, cotangent, bound):
    """The recursion of the docstring, one update at a time, with full Hessians."""
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    grad = jax.grad(task.loss, 1)

    def transit(weights, h, g):
        return jax.vmap(eqx.combine(weights, fixed).transition)(h, g)

    x = problem.initial_parameters
    h = jnp.tile(optimizer.initial_state(), (x.size, 1))
    visited = []
    for k in range(steps):
        g = grad(problem, x, k)
        visited.append((x, h, g))
        h = transit(weights, h, g)
        x = x + h @ optimizer.readout
    direct = cotangent[steps] * grad(problem, x, steps)
    curved, over_h = jnp.zeros_like(x), jnp.zeros_like(h)
    total = jax.tree.map(jnp.zeros_like, weights)
    over_readout = jnp.zeros_like(optimizer.readout)
    held = []
    for k in reversed(range(steps)):
        x, h, g = visited[k]
        after, pull = jax.vjp(transit, weights, h, g)
        over_readout = over_readout + (direct + curved) @ after
        to_weights, over_h, over_g = pull(over_h + jnp.outer(direct + curved, optimizer.readout))
        direct = direct + cotangent[k] * g
        curved = curved + jax.hessian(task.loss, 1)(problem, x, k) @ over_g
        most = bound * jnp.linalg.norm(direct)
        held.append(jnp.linalg.norm(curved) > most)
        curved = curved * jnp.minimum(1.0, most / jnp.linalg.norm(curved))
        total = jax.tree.map(jnp.add, total, to_weights)
    _, back = jax.vjp(lambda w: eqx.combine(w, fixed).readout, weights)
    _, begin = jax.vjp(lambda w: eqx.combine(w, fixed).initial_state(), weights)
    parts = (total, back(over_readout)[0], begin(over_h.sum(0))[0])
    return jax.tree.map(lambda *leaves: sum(leaves), *parts), jnp.stack(held)


def test_clipped_cotangents_follow_their_recursion():
    """The bound is met at some steps and not at others."""
    task, steps, optimizer = lo.Rosenbrock(), 6, gru(0.02)
    problem = task.sample(jr.key(5))
    cotangent = jnp.cos(jnp.arange(steps + 1.0))
    expected, held = clipped_by_hand(optimizer, task, problem, steps, cotangent, 0.01)
    assert 0 < held.sum() < held.size
    stacked = jax.tree.map(lambda leaf: leaf[None], problem)

    @eqx.filter_jit
    @eqx.filter_grad
    def ours(optimizer):
        losses = lo.unroll_losses(
            optimizer, task, stacked, steps, checkpoint_every=3, cotangent_clip=0.01
        )
        return jnp.sum(losses[0] * cotangent)

    np.testing.assert_allclose(flat(ours(optimizer)), flat(expected), rtol=1e-9, atol=1e-12)


def test_bounds_far_out_change_nothing():
    """A bound that is never met leaves the exact gradient; one of 0 the first-order one."""
    task, optimizer, keys = lo.Rosenbrock(), gru(0.02), jr.split(jr.key(3), 3)

    def gradient(**changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        return flat(eqx.filter_jit(lo.meta_gradient)(optimizer, task, keys, settings)[1])

    exact, first = gradient(), gradient(estimator="first_order")
    assert np.abs(exact - first).max() > 1e-3 * np.abs(exact).max()
    far = gradient(estimator="clipped", cotangent_clip=1e12)
    np.testing.assert_allclose(far, exact, rtol=1e-12)
    none = gradient(estimator="clipped", cotangent_clip=0.0)
    np.testing.assert_allclose(none, first, rtol=1e-12)
    assert cotangent_clip(SETTINGS) == math.inf


def estimates(settings, task, optimizer, count, particles=None):
    """Many independent estimates with unchanged weights, one row each."""

    @eqx.filter_jit
    def several(particles):
        def one(particles, key):
            objective, gradient, particles = estimate(
                optimizer, task, key, settings, particles=particles
            )
            leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(gradient)]
            return particles, (objective, jnp.concatenate(leaves))

        return lax.scan(one, particles, jr.split(jr.key(11), count))[1]

    return [np.asarray(part) for part in several(particles)]


FIXED = NoisyQuadratic(jnp.zeros((1, 2)))


class OneProblem(NoisyQuadratic):
    """Always the same start, so that only the perturbations are random."""

    def sample(self, key):
        return FIXED.sample(jr.key(0))


ONE = OneProblem(jnp.zeros((1, 2)))
MOMENTUM = lo.Momentum(0.1, 0.5)


def exact_gradient(settings):
    plain = dataclasses.replace(settings, estimator="exact")
    value, gradient = eqx.filter_jit(lo.meta_gradient)(MOMENTUM, ONE, jr.split(jr.key(0), 3), plain)
    return float(value), flat(gradient)


def assert_unbiased(rows, expected, slack):
    """Means within five standard errors, plus what smoothing over the deviation may shift."""
    error = rows.std(axis=0, ddof=1) / math.sqrt(len(rows))
    assert np.all(error < 0.15 * np.abs(expected)), "or the test would say nothing"
    assert np.all(np.abs(rows.mean(axis=0) - expected) < 5 * error + slack * np.abs(expected))


def test_evolution_strategies_average_to_the_exact_gradient():
    settings = dataclasses.replace(SETTINGS, estimator="es", es_deviation=1e-3, es_pairs=2)
    value, expected = exact_gradient(settings)
    objectives, rows = estimates(settings, ONE, MOMENTUM, 1000)
    np.testing.assert_allclose(objectives.mean(), value, rtol=1e-4)
    assert_unbiased(rows, expected, 1e-3)


@pytest.mark.long
def test_one_pair_is_a_directional_derivative():
    """With a single weight: slope times the squared perturbation, for any draw of it."""
    settings = dataclasses.replace(SETTINGS, estimator="es", es_deviation=1e-4, problems=1)
    optimizer = lo.GradientDescent(0.1)
    _, rows = estimates(settings, ONE, optimizer, 400)
    exact = dataclasses.replace(settings, estimator="exact")
    slope = flat(lo.meta_gradient(optimizer, ONE, jr.split(jr.key(0), 1), exact)[1])[0]
    squares = rows[:, 0] / slope  # (perturbation / deviation)^2: chi-squared with mean 1
    assert np.all(squares >= 0)
    assert abs(squares.mean() - 1) < 5 * math.sqrt(2 / 400)
    assert abs(squares.var() - 2) < 5 * math.sqrt(56 / 400) * 1.5


def window_parts(weights):
    """Each window's part of mean(losses) / losses[0], with weights of its own in each."""
    problem = ONE.sample(jr.key(0))
    x, v, losses = problem.initial_parameters, jnp.zeros(2), []
    for step in range(12):
        rate, momentum = weights[step // 4]
        loss, gradient = jax.value_and_grad(ONE.loss, 1)(problem, x, step)
        v = momentum * v + gradient
        x = x - rate * v
        losses.append(loss)
    sums = jnp.stack(losses).reshape(3, 4).sum(axis=1).at[2].add(ONE.loss(problem, x, 12))
    return sums / (13 * losses[0])


def test_a_persistent_estimate_is_the_slope_along_all_perturbations_of_its_run():
    """For any draw e_1, e_2, ... of one run, the estimate in window w is

        windows / deviation^2  (sum_{v <= w} dL_w/dweights_v . e_v)  sum_{v <= w} e_v

    whose mean, as cov(e) = deviation^2, is `windows` times the whole derivative of L_w. Sums over a
    run are thereby unbiased. The next run begins without the perturbations of the last.
    """
    settings = dataclasses.replace(
        SETTINGS, estimator="pes", es_deviation=1e-4, es_window=4, problems=1
    )
    particles = first_particles(MOMENTUM, ONE, jr.key(1), settings)
    one: Any = eqx.filter_jit(estimate)
    slopes = jax.jit(jax.jacobian(window_parts))(jnp.tile(flat(MOMENTUM), (3, 1)))
    perturbations: list[np.ndarray] = []
    for place, key in enumerate(jr.split(jr.key(2), 6)):
        if place % 3 == 0:
            perturbations = []
        _, gradient, particles = one(MOMENTUM, ONE, key, settings, particles=particles)
        summed = flat(particles.perturbations)
        perturbations.append(summed - sum(perturbations))
        along = np.sum(slopes[place % 3][: len(perturbations)] * np.array(perturbations))
        # Antithetic differences leave the square of the deviation, times third derivatives.
        np.testing.assert_allclose(flat(gradient), 3 * along / 1e-8 * summed, rtol=1e-5)
        seen = np.abs(slopes[place % 3][: place % 3]).sum()
        assert place % 3 == 0 or seen > 0.1 * np.abs(slopes[place % 3]).sum(), "or it says nothing"


@pytest.mark.slow
def test_persistent_evolution_strategies_see_past_their_windows():
    """Unbiased for the whole run although each estimate sees four updates of it.

    The truncated estimate, which forgets perturbations, is far off here.
    """
    settings = dataclasses.replace(
        SETTINGS, estimator="pes", es_deviation=1e-3, es_window=4, problems=6
    )
    value, expected = exact_gradient(settings)
    particles = first_particles(MOMENTUM, ONE, jr.key(1), settings)
    assert sorted(set(np.asarray(particles.step).tolist())) == [0, 4, 8]
    objectives, rows = estimates(settings, ONE, MOMENTUM, 6003, particles)
    whole = rows[3:].reshape(-1, 3, rows.shape[1]).mean(axis=1)  # all have begun at 0 by then
    np.testing.assert_allclose(objectives[3:].mean(), value, rtol=1e-3)
    assert_unbiased(whole, expected, 1e-2)


@pytest.mark.parametrize(
    "estimator", mostly_long(["exact", "clipped", "first_order", "es", "pes"], "clipped", "pes")
)
def test_any_estimator_trains(estimator):
    """A few steps each way: momentum's rate, far too small, grows."""
    task, start = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0)), lo.Momentum(0.02, 0.3)
    settings = lo.MetaTraining(
        steps=40, unroll=12, problems=8, warm_up=4, estimator=estimator, es_window=4,
        learning_rate=1e-2, clip=5.0, snapshot_every=20, selection_problems=8,
    )  # fmt: skip
    run = lo.meta_train(task, start, settings, key=jr.key(6), progress=False)
    assert isinstance(run.last, lo.Momentum)
    assert run.last.learning_rate > 1.5 * start.learning_rate
    assert np.all(np.isfinite(run.history.gradient_norms))


def test_persistent_runs_resume_with_the_same_bits(tmp_path):
    """The runs under way are part of the state that is saved."""
    settings = lo.MetaTraining(
        steps=9, unroll=12, problems=2, estimator="pes", es_window=4, snapshot_every=3,
        selection_problems=2,
    )  # fmt: skip
    task, start = lo.Rosenbrock(), lo.Momentum(1e-4, 0.3)

    def train(**options):
        return lo.meta_train(task, start, settings, key=jr.key(6), progress=False, **options)

    whole = train()
    train(directory=tmp_path / "run", time_limit=1e-9)
    resumed = train(directory=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(flat(resumed.last), flat(whole.last))
    np.testing.assert_array_equal(resumed.history.objectives, whole.history.objectives)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "reinforce"}, "`estimator` must be one of exact, clipped, .* 'reinforce'"),
        ({"cotangent_clip": -1.0}, "`cotangent_clip` must be a finite number of at least 0"),
        ({"es_deviation": 0.0}, "`es_deviation` must be a finite number above 0"),
        ({"es_pairs": 0}, "`es_pairs` must be an integer of at least 1"),
        ({"estimator": "pes", "es_window": 5}, r"`es_window` must divide `unroll` \(12\), got 5"),
        (
            {"estimator": "pes", "es_window": 4, "objective": "log_mean"},
            "`objective` must be mean for pes, got 'log_mean'",
        ),
    ],
)
def test_estimators_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


@pytest.mark.usefixtures("as_user")
def test_what_does_not_backpropagate_is_refused():
    settings = dataclasses.replace(SETTINGS, estimator="es")
    with pytest.raises(ValueError, match="`settings.estimator` must be exact, clipped or first"):
        lo.meta_gradient(MOMENTUM, ONE, jr.split(jr.key(0), 3), settings)
    problems = sample_problems(ONE, jr.key(0), 2)
    for bound in (-1.0, math.nan):
        with pytest.raises(ValueError, match="`cotangent_clip` must be a number of at least 0"):
            lo.unroll_losses(MOMENTUM, ONE, problems, 3, cotangent_clip=bound)


def test_a_micro_batch_that_does_not_divide_the_problems_changes_nothing():
    keys = jr.split(jr.key(3), 6)
    whole, parts = (
        lo.meta_gradient(
            MOMENTUM, ONE, keys, dataclasses.replace(SETTINGS, micro_batch=size, problems=n)
        )
        for size, n in ((None, 3), (4, 4))
    )
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
