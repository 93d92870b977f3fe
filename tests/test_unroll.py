"""The unroll and its derivatives, by independent routes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import FROM_OPTAX, OPTIMIZERS, WRAPPED, NoisyQuadratic, gru, mostly_long

import lrevopt as lo
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.tasks import AbstractTask, sample_problems

STEPS = 37
NOISY = NoisyQuadratic(jnp.asarray(np.random.default_rng(0).normal(size=(STEPS + 1, 2))))
# With the scale of steps that suits each: Rosenbrock's gradients are larger by a thousand.
TASKS = {
    "linear_regression": (lo.LinearRegression(), 0.05),
    "rosenbrock": (lo.Rosenbrock(), 1e-4),
    "noisy": (NOISY, 0.02),
}
draw = eqx.filter_jit(sample_problems)
LONG = pytest.mark.long


def weighting(problems, visited):
    """Every loss enters with a weight of its own, so that no cotangent goes untested."""
    return jnp.asarray(np.random.default_rng(1).normal(size=(problems, visited)))


def written_out(optimizer, task, problems, weights, checkpoint_every):
    steps = weights.shape[1] - 1
    return jnp.sum(
        weights
        * lo.unroll_losses(optimizer, task, problems, steps, checkpoint_every=checkpoint_every)
    )


def by_autodiff(optimizer, task, problems, weights):
    steps = weights.shape[1] - 1
    losses = jax.vmap(lambda problem: lo.unroll(optimizer, task, problem, steps).losses)(problems)
    return jnp.sum(weights * losses)


written_out_gradient: Any = eqx.filter_jit(eqx.filter_value_and_grad(written_out))
autodiff_gradient = eqx.filter_jit(eqx.filter_value_and_grad(by_autodiff))


def assert_gradients_agree(ours, expected):
    """To 1e-10 of each leaf's largest entry: round-off of 37 steps, sums in another order."""

    def check(one, other):
        assert np.all(np.isfinite(one))
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * np.max(np.abs(other)))

    jax.tree.map(check, ours, expected)  # raises for another structure


@pytest.mark.parametrize(
    ("name", "task_name"),
    [
        # Its Hessian varies.
        *(
            pytest.param(name, "rosenbrock", marks=() if name in ("adam", "gru") else LONG)
            for name in OPTIMIZERS
        ),
        *(
            pytest.param(name, "linear_regression", marks=pytest.mark.slow)
            for name in ("nesterov", "adam", "gru")
        ),
    ],
)
def test_the_meta_gradient_is_that_of_plain_autodiff(name, task_name):
    task, rate = TASKS[task_name]
    optimizer = OPTIMIZERS[name](rate)
    problems, weights = draw(task, jr.key(2), 3), weighting(3, STEPS + 1)
    value, ours = written_out_gradient(optimizer, task, problems, weights, 6)
    expected_value, expected = autodiff_gradient(optimizer, task, problems, weights)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    assert_gradients_agree(ours, expected)


@pytest.mark.parametrize("checkpoint_every", mostly_long([None, 1, 6, 36, 37, 100], None, 6, 100))
def test_segments_do_not_change_the_meta_gradient(checkpoint_every):
    """Whether they divide the steps or not; on a loss that draws from `step`."""
    problems, weights = draw(NOISY, jr.key(3), 2), weighting(2, STEPS + 1)
    value, ours = written_out_gradient(gru(0.02), NOISY, problems, weights, checkpoint_every)
    expected_value, expected = autodiff_gradient(gru(0.02), NOISY, problems, weights)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    assert_gradients_agree(ours, expected)


@pytest.mark.parametrize(
    ("name", "task_name"),
    [
        pytest.param("adam", "linear_regression", marks=pytest.mark.slow),
        pytest.param("gru", "linear_regression", marks=pytest.mark.slow),
        ("adam", "noisy"),
        ("gru", "rosenbrock"),
        pytest.param("adam", "rosenbrock", marks=LONG),
        pytest.param("gru", "noisy", marks=LONG),
    ],
)
def test_the_meta_gradient_is_a_central_difference(name, task_name):
    """Along one random direction through all weights."""
    task, rate = TASKS[task_name]
    optimizer = OPTIMIZERS[name](rate)
    problems, weights = draw(task, jr.key(2), 3), weighting(3, STEPS + 1)
    weights_of, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    random = np.random.default_rng(4)
    direction = jax.tree.map(
        lambda leaf: leaf * jnp.asarray(random.normal(size=leaf.shape)), weights_of
    )

    @eqx.filter_jit
    def along(distance):
        moved = jax.tree.map(lambda leaf, way: leaf + distance * way, weights_of, direction)
        return written_out(eqx.combine(moved, fixed), task, problems, weights, None)

    _, gradient = written_out_gradient(optimizer, task, problems, weights, 6)
    products = jax.tree.map(jnp.vdot, gradient, direction)
    slope = sum(jax.tree.leaves(products))
    step = 1e-5
    # Truncation of order step^2 and cancellation of order 1e-16 / step, both well below 1e-5.
    central = (along(jnp.asarray(step)) - along(jnp.asarray(-step))) / (2 * step)
    np.testing.assert_allclose(slope, central, rtol=1e-5)


def test_what_is_frozen_gets_no_gradient():
    """A leaf that is not differentiated comes back as None, as from any filtered gradient."""
    optimizer, task = gru(0.05), lo.LinearRegression(dim=2)
    problems = draw(task, jr.key(5), 2)
    learned, frozen = eqx.partition(
        optimizer, eqx.tree_at(lambda o: o.weights, jax.tree.map(lambda _: False, optimizer), True)
    )

    def objective(learned):
        return lo.unroll_losses(eqx.combine(learned, frozen), task, problems, 5).mean()

    gradient = eqx.filter_jit(eqx.filter_grad(objective))(learned)
    assert [leaf.shape for leaf in jax.tree.leaves(gradient)] == [(8,)]
    everything = eqx.filter_jit(
        eqx.filter_grad(lambda o: lo.unroll_losses(o, task, problems, 5).mean())
    )(optimizer)
    np.testing.assert_allclose(gradient.weights, everything.weights, rtol=1e-12)


def test_forward_and_reverse_mode_agree_through_a_trajectory():
    """Also with respect to the problem, and with segments."""
    task = lo.Rosenbrock()
    problem = task.sample(jr.key(6))

    def last(start, checkpoint_every):
        moved = eqx.tree_at(lambda p: p.initial_parameters, problem, start)
        return lo.unroll(
            lo.Momentum(1e-4, 0.9), task, moved, 10, checkpoint_every=checkpoint_every
        ).parameters[-1]

    start = problem.initial_parameters
    forward = jax.jit(jax.jacfwd(lambda x: last(x, None)))(start)
    reverse = jax.jit(jax.jacrev(lambda x: last(x, 4)))(start)
    np.testing.assert_allclose(forward, reverse, rtol=1e-11, atol=1e-13)


def test_the_written_out_derivative_is_the_optimizers_only():
    task = lo.Rosenbrock()
    problems = draw(task, jr.key(7), 2)

    def objective(problems):
        return lo.unroll_losses(lo.Momentum(1e-4, 0.9), task, problems, 5).mean()

    with pytest.raises(RuntimeError, match="cannot be autodifferentiated"):
        eqx.filter_grad(objective)(problems)


EVERY = OPTIMIZERS | WRAPPED | FROM_OPTAX


@pytest.mark.parametrize(
    "name", mostly_long(EVERY, "adam", "gru", "forgetting", "optax_momentum_held")
)
def test_a_trajectory_obeys_the_equations(name):
    """h' = F(h, g), x' = x + w . h', g = grad f(x), step by step; losses are those of x."""
    optimizer, steps = EVERY[name](0.02), 6
    problems = draw(NOISY, jr.key(8), 1)
    problem = jax.tree.map(lambda leaf: leaf[0], problems)
    run = eqx.filter_jit(lo.unroll)(optimizer, NOISY, problem, steps)
    visited = jnp.arange(steps + 1)
    losses, gradients = jax.jit(jax.vmap(jax.value_and_grad(NOISY.loss, 1), (None, 0, 0)))(
        problem, run.parameters, visited
    )
    each = jax.vmap(jax.vmap(optimizer.transition))  # over steps, over parameters
    states = jax.jit(each)(run.states[:-1], run.gradients)
    start = np.broadcast_to(optimizer.initial_state(), run.states[0].shape)
    # Round-off: the same operations in other batches.
    close: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}
    np.testing.assert_allclose(run.losses, losses, **close)
    np.testing.assert_allclose(run.gradients, gradients[:-1], **close)
    np.testing.assert_allclose(run.states[1:], states, **close)
    np.testing.assert_array_equal(run.states[0], start)
    np.testing.assert_array_equal(run.parameters[0], problem.initial_parameters)
    moves = run.states[1:] @ optimizer.readout
    np.testing.assert_allclose(np.diff(run.parameters, axis=0), moves, **close)
    np.testing.assert_allclose(
        eqx.filter_jit(lo.unroll_losses)(optimizer, NOISY, problems, steps)[0], losses, **close
    )


def test_problems_do_not_see_each_other():
    """Losses of stacked problems are those of each alone; jit and no jit agree."""
    task, optimizer = lo.LinearRegression(), gru(0.05)
    problems = draw(task, jr.key(9), 4)
    together = eqx.filter_jit(lo.unroll_losses)(optimizer, task, problems, 8)
    eager = lo.unroll_losses(optimizer, task, problems, 8, checkpoint_every=3)
    mapped = eqx.filter_jit(
        eqx.filter_vmap(lambda p: lo.unroll(optimizer, task, p, 8, checkpoint_every=3).losses)
    )(problems)
    np.testing.assert_allclose(together, eager, rtol=1e-12)
    np.testing.assert_allclose(together, mapped, rtol=1e-12)


def test_a_diverging_run_is_data():
    """Losses grow past the largest float and stay there, without an error."""
    task = lo.LinearRegression()
    losses = lo.unroll(lo.GradientDescent(1e6), task, task.sample(jr.key(10)), 60).losses
    assert np.isfinite(losses[0])
    assert not np.isfinite(losses[-1])


def test_single_precision_stays_single():
    """The default of JAX: no leaf of a run or of a meta-gradient is promoted."""
    task = lo.LinearRegression()
    with jax.enable_x64(False):
        optimizer = gru.__wrapped__(0.05)
        problems = draw(task, jr.key(11), 2)
        weights = weighting(2, 6)
        problem = jax.tree.map(lambda leaf: leaf[0], problems)
        run = eqx.filter_jit(lo.unroll)(optimizer, task, problem, 5)
        _, gradient = written_out_gradient(optimizer, task, problems, weights, 2)
        dtypes = {leaf.dtype for leaf in jax.tree.leaves((optimizer, problems, run, gradient))}
    assert dtypes == {jnp.dtype("float32")}


def test_segments_bound_the_memory_of_the_meta_gradient():
    """100 steps kept in segments of 10: 20 states beside 100. Half is a safe bound."""
    task, optimizer = lo.LinearRegression(), gru(0.05)
    problems, weights = draw(task, jr.key(12), 16), weighting(16, 101)

    def temporary_bytes(checkpoint_every):
        lowered = written_out_gradient.lower(optimizer, task, problems, weights, checkpoint_every)
        return lowered.compile().compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(10) < 0.5 * temporary_bytes(None)


class Misfit(AbstractOptimizer):
    """Its readout is longer than its state."""

    readout: jax.Array

    def initial_state(self):
        return jnp.zeros(2)

    def transition(self, state, gradient):
        return state + gradient


class Square(Misfit):
    """Its state is a matrix."""

    def initial_state(self):
        return jnp.zeros((2, 2))


class Vector(AbstractTask):
    def sample(self, key):
        return lo.Rosenbrock().sample(key)

    def loss(self, problem, parameters, step):
        return parameters


MOMENTUM, ROSENBROCK = lo.Momentum(1e-4, 0.9), lo.Rosenbrock()
REFUSED: dict[str, tuple[Any, ...]] = {
    **{
        f"steps_{value}": (
            MOMENTUM,
            ROSENBROCK,
            value,
            None,
            rf"`steps` .* at least 1, got {value}",
        )
        for value in (0, -3, 1.5, True, None)
    },
    **{
        f"segment_{value}": (
            MOMENTUM,
            ROSENBROCK,
            5,
            value,
            rf"`checkpoint_every` .* 1, got {value}",
        )
        for value in (0, -1, 2.5)
    },
    "loss": (MOMENTUM, Vector(), 5, None, r"`Vector.loss` must return a scalar"),
    "readout": (
        Misfit(jnp.zeros(3)),
        ROSENBROCK,
        5,
        None,
        r"`optimizer` must have .* readout .* length, got shapes \(2,\) and \(3,\) .* Misfit",
    ),
    "state": (
        Square(jnp.zeros(2)),
        ROSENBROCK,
        5,
        None,
        r"`optimizer` must have a flat initial state .* \(2, 2\)",
    ),
}


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_in_one_sentence(case):
    optimizer, task, steps, checkpoint_every, message = REFUSED[case]
    problem = task.sample(jr.key(0))
    problems = jax.tree.map(lambda leaf: leaf[None], problem)
    for run, given in ((lo.unroll, problem), (lo.unroll_losses, problems)):
        with pytest.raises(ValueError, match=message) as error:
            run(optimizer, task, given, steps, checkpoint_every=checkpoint_every)
        assert "\n" not in str(error.value)
