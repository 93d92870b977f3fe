"""Fifteen optimizers by name: optax's own updates, and learning rates where closed forms exist."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tables import Quadratic, mostly_long

import lrevopt as lo
from lrevopt.optimizers import from_optax
from lrevopt.tuning.well_known import LEARNING_RATES, WELL_KNOWN, tune_rate

CURVATURE, STEPS = 4.0, 200


def quadratic():
    """One parameter at 3 on the loss 2 x^2."""
    return Quadratic(jnp.array([CURVATURE]), jnp.array([3.0]))


@pytest.mark.parametrize("name", mostly_long(WELL_KNOWN, "sgd", "adam", "lion"))
def test_updates_are_optax_s_own(name):
    """50 updates of one parameter, in a loop as a user of optax writes it."""
    random = np.random.default_rng(0)
    gradients = jnp.asarray(10 ** random.uniform(-2, 2, 50) * random.choice([-1.0, 1.0], 50))
    transformation = WELL_KNOWN[name](0.1)
    optimizer = from_optax(transformation)
    parameter = jnp.zeros(())

    @jax.jit
    def one(state, theirs, gradient):
        state = optimizer.transition(state, gradient)
        update, theirs = transformation.update(gradient, theirs, parameter)
        return state, theirs, (optimizer.readout @ state, update)

    state, moves = optimizer.initial_state(), []
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        theirs = transformation.init(parameter)
        for gradient in gradients:
            state, theirs, pair = one(state, theirs, gradient)
            moves.append(pair)
    ours, expected = np.array(moves).T
    # The same operations, compiled for a scalar and for a vector of one.
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)
    assert np.ptp(expected) > 0


def test_scores_of_gradient_descent_are_geometric_series():
    """Losses fall by (1 - rate c)^2 an update, and fastest for the rate 1 / c."""
    found = tune_rate(WELL_KNOWN["sgd"], quadratic(), key=jr.key(0), problems=3, steps=STEPS)
    rates = np.asarray(LEARNING_RATES)
    factors = (1 - CURVATURE * rates) ** 2
    with np.errstate(over="ignore"):
        powers = factors[:, None] ** np.arange(STEPS + 1)
    finite = np.isfinite(powers).all(axis=1)
    expected = np.where(finite, powers.mean(axis=1), np.inf)
    # Round-off of 200 factors.
    np.testing.assert_allclose(found.scores, expected, rtol=1e-10)
    np.testing.assert_array_equal(found.diverged, np.where(finite, 0, 3))
    assert 0 < np.sum(~finite) < len(rates)
    assert found.best == rates[np.argmin(factors)]
    # The grid has six rates a decade.
    assert abs(np.log10(found.best * CURVATURE)) < 1 / 6
    assert not found.on_edge


def test_a_rate_on_the_edge_is_said_to_be():
    """Where the best rate is the largest tried."""
    slow = tune_rate(
        WELL_KNOWN["sgd"], quadratic(), key=jr.key(0), problems=2, steps=STEPS, rates=(0.01, 0.1)
    )
    assert (slow.best, slow.on_edge) == (0.1, True)


def test_the_edge_is_that_of_rates_in_any_order():
    """From 3 on 2 x^2, 0.2 is nearest to the best rate 1/4, and 0.05 the largest below it."""
    rates = {(0.001, 0.05, 0.01): (0.05, True), (0.2, 0.01, 0.45): (0.2, False)}
    for tried, expected in rates.items():
        found = tuned(quadratic(), tried, steps=5)
        assert (found.best, found.on_edge) == expected


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("rate", "said"), [(1e-50, "1e-50"), (1e39, r"1e\+39")])
def test_rates_that_single_precision_does_not_hold_are_refused(rate, said):
    """They ran as 0 and infinity, and their scores stood beside 1e-50 and 1e39."""
    with jax.enable_x64(False):
        task = lo.FunctionTask(lambda x: (x**2).sum(), lambda key: jr.normal(key, (2,)))
        with pytest.raises(ValueError, match=f"`rates` must be a number that float32 .* {said}"):
            tuned(task, (0.1, rate), steps=2)
        assert tuned(task, (0.0, 0.1), steps=2).scores[0] == 1


def parabola(added, start):
    """A parabola, of which starts are drawn by `start`, and a constant."""
    return lo.FunctionTask(lambda x: (x**2).sum() + added, start)


def tuned(task, rates, **settings):
    return tune_rate(
        WELL_KNOWN["sgd"], task, key=jr.key(0), rates=rates, **{"problems": 8, **settings}
    )


@pytest.mark.parametrize(("added", "words"), [(-50.0, "got -.* on 8 of 8"), (np.inf, "got inf")])
def test_first_losses_that_nothing_is_relative_to_are_refused(added, words):
    """Relative to negative first losses, the rate that explodes would be best."""
    task = parabola(added, lambda key: jr.normal(key, (2,)))
    with pytest.raises(ValueError, match=f"finite losses of at least 0 at initial .*{words}"):
        tuned(task, (0.1, 3.0), steps=5)


def test_a_score_that_is_not_a_number_does_not_win():
    """Larger rates come so far below 0 that their mean losses have no logarithm."""
    task = parabola(-0.05, lambda key: 0.3 + 0.3 * jr.uniform(key, (2,)))
    found = tuned(task, (1e-3, 1e-2, 0.1, 0.3, 0.5), objective="log_mean", steps=40)
    np.testing.assert_array_equal(np.isfinite(found.scores), [True, True, False, False, False])
    np.testing.assert_array_equal(found.scores[2:], np.inf)
    assert (found.diverged[2:] > 0).all()
    assert (found.best, found.on_edge) == (0.01, False)


def test_rates_that_diverge_are_not_the_best():
    """If each rate diverges on a problem, the one that does on the fewest; if on all, none."""
    # The second number does not move from 0. From 150, where slopes are 1e150, any step goes far.
    steep = lo.FunctionTask(
        lambda x: x[0] ** 2 * 10.0 ** jnp.abs(x[1]),
        lambda key: jnp.stack([jnp.ones(()), jnp.where(jr.bernoulli(key), 150.0, 0.0)]),
    )
    found = tuned(steep, (10.0, 0.1, 0.01), steps=STEPS)
    np.testing.assert_array_equal(found.scores, np.inf)
    assert found.diverged[0] == 8 > found.diverged[1] > 0
    assert found.best == 0.1
    with pytest.raises(ValueError, match="`rates` must hold a learning rate of which not every"):
        tuned(quadratic(), (30.0, 90.0), steps=STEPS)


def test_a_score_is_the_mean_meta_objective_of_an_evaluation():
    rates, key = (0.01, 0.03, 0.1), jr.key(5)
    found = tune_rate(
        WELL_KNOWN["adam"], lo.Rosenbrock(), key=key, problems=4, steps=20, rates=rates
    )
    adam = from_optax(optax.adam(found.best))
    whole = lo.evaluate({"adam": adam}, lo.Rosenbrock(), key=key, problems=4, steps=20)
    np.testing.assert_allclose(found.scores.min(), whole.mean_scores()["adam"], rtol=1e-12)
    assert found.best in rates


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problems": 0}, "`problems` must be an integer of at least 1, got 0"),
        ({"steps": 1.5}, "`steps` must be an integer of at least 1, got 1.5"),
        ({"objective": "best"}, "`objective` must be one of mean, log_mean, final, got 'best'"),
        ({"rates": ()}, "`rates` must hold at least one learning rate, got none"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        tune_rate(WELL_KNOWN["sgd"], quadratic(), key=jr.key(0), **settings)
    assert "\n" not in str(error.value)
