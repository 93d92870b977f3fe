"""Attractors, their order, and answers to large gradients: closed forms of planted optimizers."""

import functools

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from planted import PLANTED, Wells

import lrevopt as lo
from lrevopt.analysis import Dynamics, measure_dynamics
from lrevopt.analysis.dynamics import dynamics_facts
from lrevopt.inner_loop.sampled_states import SampledStates, sample_states

TASK = lo.LinearRegression(dim=3, log10_eigenvalues=(-1, 0))


def measured(optimizer) -> Dynamics:
    sampled = sample_states(optimizer, TASK, key=jr.key(0), problems=6, steps=60)
    return measure_dynamics(optimizer, sampled)


@functools.cache
def of(name: str) -> Dynamics:
    return measured(PLANTED[name])


def test_momentum_is_one_momentum_at_one_attractor_everywhere():
    found = measured(lo.Momentum(0.3, 0.8))
    assert (found.count, found.marginal, found.unsettled) == (1, 0, 0)
    np.testing.assert_array_equal(found.shares, [1])
    np.testing.assert_array_equal(found.hankel, [[1, 0, 0]])
    np.testing.assert_allclose((found.one_rate, found.one_momentum), [[0.3], [0.8]], rtol=1e-12)
    np.testing.assert_allclose(found.two_momenta, [[0.8, 0]], rtol=1e-12)
    assert max(found.one_residual[0], found.two_residual[0]) < 1e-12
    assert found.linear_error < 1e-12
    assert found.linear_share == 1
    np.testing.assert_array_equal(found.zero_updates, 0)
    signed = np.stack([-found.gradients, found.gradients])
    np.testing.assert_allclose(found.initial_updates, -0.3 * signed, rtol=1e-12)
    # v = g / (1 - 0.8) in the steady state.
    np.testing.assert_allclose(found.steady_updates, -1.5 * signed, rtol=1e-9)
    np.testing.assert_array_equal(found.held_attractors, 1)
    assert found.held_settled.all()
    # A velocity that follows is no adaptation: the learning rate is what it was.
    np.testing.assert_allclose(found.rate_change, 1, rtol=1e-12)
    assert np.isnan(found.rate_half_steps).all()


def test_two_momenta_have_a_second_hankel_value_and_a_fit_by_two():
    found = measured(lo.AggregatedMomentum([0.1, 0.05], [0.2, 0.9]))
    model = lo.linearize(lo.AggregatedMomentum([0.1, 0.05], [0.2, 0.9]), np.zeros(2))
    np.testing.assert_allclose(found.hankel, [[*lo.hankel_values(model), 0]], rtol=1e-12)
    np.testing.assert_allclose(found.two_momenta.real, [[0.9, 0.2]], rtol=1e-9)
    np.testing.assert_allclose(found.two_rates.real, [[0.05, 0.1]], rtol=1e-8)
    assert found.one_residual > 0.05
    assert found.two_residual < 1e-10


@pytest.mark.long
def test_states_are_linearized_where_they_end():
    """Two linear optimizers, one for each sign of the first coordinate: no error at all."""
    latching = of("latching")
    assert latching.count == 2
    # Some states balance where the two coordinates end apart, or are on a saddle: at most a few.
    assert latching.shares.sum() + latching.unsettled == pytest.approx(1)
    found = measured(Halves(jnp.ones(2)))
    assert found.count == 2
    assert found.linear_error < 1e-12


class Halves(lo.AbstractOptimizer):
    """Rests at 3 or at -3, by the sign of its memory, and is linear on either side."""

    scale: jnp.ndarray

    @property
    def readout(self):
        return jnp.array([0.0, -0.1])

    def initial_state(self):
        return jnp.array([1e-12, 0.0])

    def transition(self, state, gradient):
        side = jnp.where(state[0] + 1e-3 * gradient >= 0, 3.0, -3.0)
        return jnp.stack([side + 0.5 * (state[0] - side), gradient * self.scale[0]])


@pytest.mark.long
def test_a_bend_is_seen_on_a_logarithmic_axis():
    """u = g / (1 + g^2) has its extreme at 1, whatever the largest gradient is."""
    for name in ("bending", "soft_clipping"):
        found = of(name)
        away = np.abs(found.initial_updates - found.zero_updates[0])
        largest = found.gradients[-1]
        shape = 0.5 * (0.5 if name == "bending" else np.tanh(largest))
        # 20 points a decade: the extreme lies within 6 % of one of them.
        np.testing.assert_allclose(away.max(axis=1), shape, rtol=2e-3)
        end = 0.5 * (largest / (1 + largest**2) if name == "bending" else np.tanh(largest))
        np.testing.assert_allclose(away[:, -1], end, rtol=1e-9)


def test_the_half_life_is_that_of_the_learning_rate():
    """Rate 0.5 / (1 + 4 m^2) one step of decay after m = (1 - 0.8^k) tanh g."""
    found = of("cautious")
    for place, gradient in enumerate(found.held):
        mean = 0.8 * (1 - 0.8 ** np.arange(61)) * np.tanh(gradient)
        rates = 0.5 / (1 + 4 * mean**2)
        assert found.rate_change[place] == pytest.approx(rates[-1] / rates[0], rel=1e-9)
        if abs(rates[-1] / rates[0] - 1) >= 0.1:
            done = (rates - rates[0]) / (rates[-1] - rates[0]) >= 0.5
            assert found.rate_half_steps[place] == done.argmax() >= 3
        else:
            assert np.isnan(found.rate_half_steps[place])


@pytest.mark.long
def test_a_line_is_marginal_and_what_settles_nowhere_has_no_attractor():
    line = of("counting")
    assert line.count > 8
    assert line.marginal == line.count
    assert len(line.shares) == len(line.hankel) == 8
    # Along the line no parameter moves: what is left has no momentum, and one Hankel value.
    np.testing.assert_allclose(line.hankel, [[1, 0, 0]] * 8, atol=1e-9)
    drifting = measured(Drifting(jnp.ones(2)))
    assert (drifting.count, drifting.unsettled, drifting.linear_share) == (0, 1, 0)
    assert np.isnan(drifting.linear_error)
    assert drifting.hankel.shape == (0, 3)
    assert not drifting.held_settled.any()
    assert "none" in dict(dynamics_facts(drifting))["Attractors without gradient"]


class Drifting(Halves):
    """Its memory grows for ever."""

    def transition(self, state, gradient):
        return jnp.stack([state[0] + 1, gradient * self.scale[0]])


@pytest.mark.long
def test_an_untrained_optimizer_has_an_order_of_nothing():
    found = measured(eqx.filter_jit(lo.GRUOptimizer)(3, key=jr.key(0)))
    np.testing.assert_array_equal(found.hankel, 0)
    np.testing.assert_array_equal(found.one_rate, 0)
    np.testing.assert_array_equal(found.steady_updates, 0)
    assert np.isnan(found.rate_half_steps).all()


@pytest.mark.long
def test_wells_that_gradients_do_not_touch_are_there_under_each_of_them():
    """Two attractors under every held gradient, however large the largest one is."""
    draws = np.random.default_rng(1)
    size = 10 ** draws.uniform(-1, 4, (20, 40))
    gradients = size * draws.choice([-1.0, 1.0], (20, 40))
    states = np.zeros((20, 41, 2))
    states[..., 1] = np.where(np.arange(20) % 2 == 0, 1.0, -1.0)[:, None]
    for step in range(40):
        states[:, step + 1, 0] = 0.5 * states[:, step, 0] + gradients[:, step]
    sampled = SampledStates(
        states=states, gradients=gradients, pooled_gradients=gradients.ravel(), diverged=0
    )
    found = measure_dynamics(Wells(-jnp.ones(2)), sampled)
    assert found.count == 2
    assert found.held_settled.all()
    np.testing.assert_array_equal(found.held_attractors, 2)
