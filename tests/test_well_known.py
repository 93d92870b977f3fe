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
    """Where the best rate is the largest tried, and where no rate is any good."""
    slow = tune_rate(
        WELL_KNOWN["sgd"], quadratic(), key=jr.key(0), problems=2, steps=STEPS, rates=(0.01, 0.1)
    )
    assert (slow.best, slow.on_edge) == (0.1, True)
    wild = tune_rate(
        WELL_KNOWN["sgd"], quadratic(), key=jr.key(0), problems=2, steps=STEPS, rates=(30.0, 90.0)
    )
    assert wild.on_edge
    np.testing.assert_array_equal(wild.diverged, 2)
    assert np.isinf(wild.scores).all()


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
