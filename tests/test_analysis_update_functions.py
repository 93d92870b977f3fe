"""Update functions and effective learning rates."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import OPTIMIZERS, Quadratic, mostly_long

import lrevopt as lo
from lrevopt.analysis import effective_learning_rate, textbook_update_functions, update_function


@pytest.fixture(params=mostly_long(OPTIMIZERS, "momentum", "adam", "gru"))
def opt(request):
    return OPTIMIZERS[request.param](0.05)


@eqx.filter_jit
def visited_state(opt):
    state = opt.initial_state()
    for gradient in (0.7, -0.4):
        state = opt.transition(state, jnp.asarray(gradient))
    return state


def test_a_run_moves_by_its_update_functions(opt):
    task = Quadratic(jnp.array([1.0, 0.3]), jnp.array([1.0, -2.0]))
    run = lo.unroll(opt, task, task.sample(jr.key(0)), 4)
    moves = [
        [update_function(opt, run.states[k, i], run.gradients[k, i][None])[0] for i in (0, 1)]
        for k in (0, 3)
    ]
    # Round-off of parameters of size 2, of which moves are differences.
    actual = np.diff(run.parameters, axis=0)[[0, 3]]
    np.testing.assert_allclose(moves, actual, rtol=1e-9, atol=1e-14)


def test_effective_learning_rate_is_minus_the_central_difference(opt):
    state, step = visited_state(opt), 1e-5
    low, high = update_function(opt, state, jnp.array([0.3 - step, 0.3 + step]))
    expected = -(high - low) / (2 * step)
    # Truncation is step^2 times a third derivative of order 10, round-off 1e-16 / step.
    rate = effective_learning_rate(opt, state, 0.3)
    np.testing.assert_allclose(rate, expected, rtol=1e-7, atol=1e-10)


def test_textbook_panels_are_the_closed_forms():
    figure = textbook_update_functions()
    g, levels = figure.gradients, figure.levels
    np.testing.assert_allclose(figure.panels["gradient_descent"], [-g])
    np.testing.assert_allclose(figure.panels["clipping"], [-np.clip(g, -1, 1)])
    np.testing.assert_allclose(figure.panels["momentum"], -g - 0.9 * levels["momentum"][:, None])
    root = np.sqrt(0.9 * levels["rmsprop"][:, None] + 0.1 * g**2 + 1e-8)
    np.testing.assert_allclose(figure.panels["rmsprop"], -g / root)


@pytest.mark.usefixtures("as_user")
def test_refusals():
    opt, adam = lo.Momentum(0.1, 0.9), lo.Adam(0.1)
    with pytest.raises(ValueError, match=r"`state` must have shape \(1,\) for this Momentum"):
        update_function(opt, adam.initial_state(), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`gradients` must have one axis, got shape \(2, 2\)"):
        update_function(opt, opt.initial_state(), jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="`gradients` must be finite"):
        update_function(opt, opt.initial_state(), jnp.array([0.0, jnp.nan]))
    with pytest.raises(ValueError, match="`gradient` must be finite, got inf"):
        effective_learning_rate(opt, opt.initial_state(), jnp.inf)
    with pytest.raises(ValueError, match=r"`gradient` must be one number, got shape \(2,\)"):
        effective_learning_rate(opt, opt.initial_state(), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"`state` must have shape \(5,\) for this Adam"):
        effective_learning_rate(adam, opt.initial_state())
