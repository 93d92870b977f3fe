"""Linearization and modes: exact cases, two identities, and runs that must agree."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import OPTIMIZERS, mostly_long

import lrevopt as lo
from lrevopt.analysis import (
    Linearization,
    effective_learning_rate,
    eigenmodes,
    find_fixed_points,
    linear_optimizer,
    linearize,
    mode_optimizer,
    steady_state_gain,
)
from lrevopt.analysis.linearization import conjugate_mode, dominant_mode
from lrevopt.analysis.mode_energies import explained_energy
from lrevopt.analysis.momentum import separated_modes

DRAW = eqx.filter_jit(lo.GRUOptimizer)


@eqx.filter_jit
def transitions(opt, states, gradients):
    return jax.vmap(opt.transition)(states, gradients)


def rest(opt):
    """Linearized at its fixed point."""
    return linearize(opt, find_fixed_points(opt, opt.initial_state()[None]).states[0])


@eqx.filter_jit
def moves(opt, gradients):
    """Updates `w . h'` in answer to given gradients: no feedback through a problem."""

    def step(state, gradient):
        state = opt.transition(state, gradient)
        return state, opt.readout @ state

    return jax.lax.scan(step, opt.initial_state(), gradients)[1]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_momentum_is_its_own_mode_exactly(beta):
    modes = eigenmodes(linearize(lo.Momentum(0.3, beta), jnp.ones(1)))
    assert modes.eigenvalues == beta
    assert modes.learning_rates == 0.3


@pytest.mark.parametrize("name", mostly_long(OPTIMIZERS, "momentum", "adam", "gru"))
def test_jacobians_are_central_differences(name):
    opt, step = OPTIMIZERS[name](0.1), 1e-6
    state = transitions(opt, opt.initial_state()[None], jnp.array([0.5]))[0]
    model = linearize(opt, state, 0.3)
    moved = step * jnp.concatenate([jnp.eye(len(state)), jnp.zeros((1, len(state)))])
    gradients = 0.3 + step * jnp.eye(len(state) + 1)[-1]
    up = transitions(opt, state + moved, gradients)
    down = transitions(opt, state - moved, 0.6 - gradients)
    *J, B = (up - down) / (2 * step)
    # Truncation 1e-12 times a third derivative of order 100, round-off 1e-16 / 1e-6.
    np.testing.assert_allclose(model.recurrent.T, J, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.input, B, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(model.readout, opt.readout)
    expected = transitions(opt, state[None], jnp.array([0.3]))[0]
    np.testing.assert_allclose(model.next_state, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", mostly_long(OPTIMIZERS, "momentum", "adam", "gru"))
def test_two_identities(name):
    """Rates sum to the effective rate; over 1 - eigenvalue, to the steady-state gain."""
    opt = OPTIMIZERS[name](0.1)
    model = rest(opt)
    modes = eigenmodes(model)
    rate = effective_learning_rate(opt, model.state)
    np.testing.assert_allclose(modes.learning_rates.sum(), rate, rtol=1e-8)
    gain = np.sum(modes.learning_rates / (1 - modes.eigenvalues))
    # Adam at rest adds 1e8 to 1 (it divides by epsilon): relative precision is what there is.
    np.testing.assert_allclose(gain, steady_state_gain(model), rtol=1e-8)
    assert np.all(np.diff(np.abs(modes.eigenvalues)) <= 1e-15)
    np.testing.assert_allclose(modes.left @ modes.right, np.eye(len(model.state)), atol=1e-8)
    np.testing.assert_allclose(explained_energy(modes)[-1], 1, rtol=1e-9)
    assert 0 <= dominant_mode(modes) < len(model.state)


def test_identities_hold_for_many_random_grus():
    for seed in range(5):
        state, readout = np.random.default_rng(seed).normal(size=(2, 64))
        opt = eqx.tree_at(lambda o: o.weights, DRAW(64, key=jr.key(seed)), jnp.asarray(readout))
        model = linearize(opt, 0.1 * state)
        modes = eigenmodes(model)
        # 64 modes, eigenvectors of condition about 100: round-off of 1e-12.
        np.testing.assert_allclose(modes.learning_rates.sum(), -readout @ model.input, atol=1e-10)
        gain = np.sum(modes.learning_rates / (1 - modes.eigenvalues))
        np.testing.assert_allclose(gain, steady_state_gain(model), rtol=1e-8)


@pytest.mark.parametrize("name", ["gru", "nesterov", "linear", "modes"])
def test_linear_and_all_modes_answer_alike(name):
    """All modes together move parameters as the linearized optimizer does, less `w . h*`."""
    model = rest(OPTIMIZERS[name](0.1))
    modes = eigenmodes(model)
    gradients = np.random.default_rng(3).normal(size=30)
    whole = moves(linear_optimizer(model), gradients) - model.readout @ model.state
    together = moves(mode_optimizer(modes, range(len(modes.eigenvalues))), gradients)
    np.testing.assert_allclose(together, whole, rtol=0, atol=1e-9 * np.abs(whole).max())


def test_small_gradients_see_only_the_linearization():
    """The error of the linearized answer is of second order in the gradient."""
    opt = OPTIMIZERS["gru"](0.1)
    model = rest(opt)
    linear = linear_optimizer(model)
    sizes = jnp.array([1.0, 0.1])
    starts = jnp.tile(jnp.asarray(model.state), (2, 1))
    missed = transitions(opt, starts, sizes) - transitions(linear, starts, sizes)
    errors = np.abs(missed).max(axis=1)
    # A factor of 10 in the gradient is one of 100 in the error, up to third order.
    assert errors[1] < errors[0] / 80
    started = linear_optimizer(model, start=jnp.ones(8))
    np.testing.assert_array_equal(started.initial_state(), 1)


def test_conjugates_come_along():
    turn = np.array([[0.5, -0.4], [0.4, 0.5]])
    modes = eigenmodes(Linearization(turn, np.ones(2), np.ones(2), np.zeros(2), 0.0, np.zeros(2)))
    assert modes.eigenvalues.imag[0] != 0
    pair = mode_optimizer(modes, 0)
    np.testing.assert_array_equal(pair.eigenvalue_imaginary.sum(), 0)
    gradients = np.ones(5)
    both = mode_optimizer(modes, [0, 1])
    np.testing.assert_array_equal(moves(pair, gradients), moves(both, gradients))


def test_eigenvectors_that_are_dependent_are_refused_in_words():
    """A delay of three updates has one eigenvector; no response can be rebuilt from it."""
    delay = lo.LinearOptimizer(jnp.zeros(4), jnp.eye(4, k=1), jnp.eye(4)[3], jnp.eye(4)[0])
    with pytest.raises(ValueError, match="eigenvectors, .* modes are linearly dependent"):
        eigenmodes(linearize(delay, jnp.zeros(4)))


def test_defective_recurrence_is_refused_and_shared_eigenvalues_are_not():
    jordan = np.array([[0.9, 1.0], [0.0, 0.9]])
    model = Linearization(
        jordan, np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.zeros(2), 0.0, np.zeros(2)
    )
    with pytest.raises(ValueError, match="`linearization.recurrent` .* near-defective"):
        eigenmodes(model)
    twice = rest(lo.AggregatedMomentum([1.0, 2.0], [0.9, 0.9]))
    np.testing.assert_allclose(sorted(eigenmodes(twice).learning_rates.real), [1, 2])


def model_of(J: Any, B: Any, w: Any) -> Linearization:
    J, B, w = (np.asarray(part, float) for part in (J, B, w))
    return Linearization(J, B, w, np.zeros(len(B)), 0.0, np.zeros(len(B)))


@pytest.mark.parametrize("fast", [1e3, 1e200])
def test_a_growing_mode_hides_no_dependent_eigenvectors(fast):
    """Rates of the double eigenvalue would cancel to 0, where they add 2 to the rate of 3."""
    jordan = [[fast, 0.0, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]]
    with pytest.raises(ValueError, match="near-defective"):
        eigenmodes(model_of(jordan, np.ones(3), -np.ones(3)))
    apart = eigenmodes(model_of(np.diag([fast, 0.5, 0.4]), np.ones(3), -np.arange(1.0, 4.0)))
    np.testing.assert_array_equal(apart.learning_rates, [1, 2, 3])


@pytest.mark.parametrize("momentum", [0.5, 7.0, 1e3, 1e10])
@pytest.mark.parametrize("size", [1e-120, 1.0, 1e120])
def test_shares_of_energy_do_not_depend_on_units_nor_growth(momentum, size):
    """`a 2^-k` beside `b momentum^k`, over two updates: of energies a^2, b^2 and their products."""
    rates = np.array([1.0, 3.0])
    modes = eigenmodes(model_of(np.diag([momentum, 0.25]), size * rates, [-size, -size]))
    parts = [
        rate * np.array([1.0, value]) for rate, value in zip(rates, (momentum, 0.25), strict=True)
    ]
    parts.sort(key=lambda part: -(part @ part))
    best = 1 - (parts[1] @ parts[1]) / np.sum(np.sum(parts, axis=0) ** 2)
    # Logarithms of numbers up to 1e240 lose three digits.
    np.testing.assert_allclose(explained_energy(modes, 2), [best, 1], rtol=1e-11)
    assert np.isfinite(explained_energy(modes)).all()


def test_modes_without_rates_have_their_conjugates():
    """Two equal pairs, one above the other: near-defective, so that rates are NaN."""
    turn = np.array([[0.5, -0.4], [0.4, 0.5]])
    above = np.kron(np.eye(2), turn) + np.kron(np.diag([1.0], 1), np.eye(2))
    modes = separated_modes(
        Linearization(
            above, np.array([0.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(4),
            0.0, np.zeros(4),
        )
    )  # fmt: skip
    assert np.isnan(modes.learning_rates).all()
    others = [conjugate_mode(modes, index) for index in range(4)]
    np.testing.assert_array_equal(modes.eigenvalues[others], np.conj(modes.eigenvalues))
    assert [others[other] for other in others] == [0, 1, 2, 3]


def test_an_endless_answer_has_no_steady_state():
    with pytest.raises(ValueError, match="must not have the eigenvalue 1"):
        steady_state_gain(linearize(lo.Momentum(0.1, 1.0), jnp.zeros(1)))


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
def test_an_endless_answer_has_no_steady_state_in_other_coordinates(condition):
    """The eigenvalue 1 is lost to round-off there: the gain was a number of 1e11."""
    random = np.random.default_rng(0)
    left, _, right = np.linalg.svd(random.normal(size=(4, 4)))
    R = left @ np.diag(np.geomspace(1, 1 / condition, 4)) @ right

    def turned(eigenvalues):
        J = R @ np.diag(eigenvalues) @ np.linalg.inv(R)
        return model_of(J, R @ np.ones(4), -np.ones(4) @ np.linalg.inv(R))

    with pytest.raises(ValueError, match="must not have the eigenvalue 1"):
        steady_state_gain(turned([1.0, 0.5, 0.3, 0.2]))
    gain = np.sum(1 / (1 - np.array([0.99, 0.5, 0.3, 0.2])))
    np.testing.assert_allclose(
        steady_state_gain(turned([0.99, 0.5, 0.3, 0.2])), gain, rtol=1e-12 * condition**2
    )


def test_slow_steady_states_of_dependent_eigenvectors_are_none_the_less_there():
    """Two equal filters, one after the other: (1 - lambda)^-2, and with coordinates of any size."""
    slow = 1 - 1e-5
    for size in (1e-8, 1.0, 1e8):
        twice = model_of([[slow, size], [0.0, slow]], [0.0, 1.0], [-1.0, 0.0])
        np.testing.assert_allclose(steady_state_gain(twice), size * 1e10, rtol=1e-9)


@pytest.mark.usefixtures("as_user")
def test_refusals():
    opt = lo.Momentum(0.1, 0.9)
    with pytest.raises(ValueError, match=r"`state` must have shape \(1,\) for this Momentum"):
        linearize(opt, jnp.zeros(2))
    with pytest.raises(ValueError, match="`state` must be finite"):
        linearize(opt, jnp.full(1, jnp.inf))
    with pytest.raises(ValueError, match="`gradient` must be a finite number, got nan"):
        linearize(opt, jnp.zeros(1), jnp.nan)
    modes = eigenmodes(linearize(opt, jnp.zeros(1)))
    wrongs: list[Any] = [1, -1, [], 0.5]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="`indices` must be integers from 0 to 0"):
            mode_optimizer(modes, wrong)
    large = eqx.tree_at(lambda m: m.learning_rates, modes, modes.learning_rates * 1e40)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="`learning_rates` must be finite, got inf"),
    ):
        mode_optimizer(large, 0)
    with pytest.raises(ValueError, match=r"`start` must have shape \(1,\)"):
        linear_optimizer(linearize(opt, jnp.zeros(1)), start=jnp.zeros(3))
