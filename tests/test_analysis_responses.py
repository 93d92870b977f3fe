"""Hankel values and fits by momenta: closed forms, and two routes to each number."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from scipy.stats import ortho_group
from tables import OPTIMIZERS, mostly_long

import lrevopt as lo
from lrevopt.analysis import Linearization
from lrevopt.analysis.linearization import impulse_response
from lrevopt.analysis.responses import fit_response


def model_of(J: Any, B: Any, w: Any) -> Linearization:
    J, B, w = (np.asarray(part, float) for part in (J, B, w))
    return Linearization(J, B, w, np.zeros(len(B)), 0.0, np.zeros(len(B)))


def aggregated(rates: Any, momenta: Any) -> Linearization:
    return lo.linearize(lo.AggregatedMomentum(rates, momenta), np.zeros(len(rates)))


def turned(model: Linearization, seed: int) -> Linearization:
    """The same optimizer in other coordinates of its state, which are not at right angles."""
    size = len(model.input)
    basis = ortho_group(size, seed=seed).rvs() @ np.diag(np.geomspace(0.1, 10, size))
    inverse = np.linalg.inv(basis)
    return model_of(inverse @ model.recurrent @ basis, inverse @ model.input, model.readout @ basis)


def rest(name: str) -> Linearization:
    opt = OPTIMIZERS[name](0.1)
    return lo.linearize(opt, lo.find_fixed_points(opt, opt.initial_state()[None]).states[0])


def test_one_momentum_has_one_value_in_any_coordinates():
    planted = aggregated([0.3, 0.0, 0.0, 0.0], [0.9, 0.5, 0.97, -0.3])
    for model in (planted, turned(planted, 0)):
        values = lo.hankel_values(model)
        assert values[0] == 1
        # Round-off, magnified by coordinates that differ by a factor of 100.
        np.testing.assert_allclose(values[1:], 0, atol=1e-12)
        fit = lo.momentum_fit(model)
        np.testing.assert_allclose(fit.eigenvalues, [0.9], rtol=1e-12)
        np.testing.assert_allclose(fit.learning_rates, [0.3], rtol=1e-11)
        np.testing.assert_allclose(fit.timescales, [-1 / np.log(0.9)], rtol=1e-10)
        assert fit.residual < 1e-12
    assert lo.hankel_values(lo.linearize(lo.GradientDescent(1.0), np.zeros(1))) == 1


def test_two_momenta_have_the_two_values_of_their_gramians():
    """P_ij = 1 / (1 - b_i b_j) and Q_ij = a_i a_j P_ij, so that traces and determinants are known.

    The two values s > t obey s^2 + t^2 = tr(PQ) and s t = det(PQ)^(1/2).
    """
    (a, b), (c, d) = (1.0, 2.0), (0.5, 0.95)
    model = aggregated([a, b], [c, d])
    cross, first, second = 1 / (1 - c * d), 1 / (1 - c**2), 1 / (1 - d**2)
    trace = (a * first) ** 2 + (b * second) ** 2 + 2 * a * b * cross**2
    root = a * b * (first * second - cross**2)
    large = np.sqrt((trace + np.sqrt(trace**2 - 4 * root**2)) / 2)
    np.testing.assert_allclose(lo.hankel_values(model), [1, root / large**2], rtol=1e-12)
    fit = lo.momentum_fit(turned(model, 1), 2)
    np.testing.assert_allclose(fit.eigenvalues, [d, c], rtol=1e-9)
    np.testing.assert_allclose(fit.learning_rates, [b, a], rtol=1e-8)
    assert fit.residual < 1e-11
    assert lo.momentum_fit(model, 1).residual > 0.1


@pytest.mark.parametrize("name", mostly_long(OPTIMIZERS, "momentum", "adam", "gru"))
def test_values_are_those_of_gramians_and_of_the_hankel_matrix(name):
    model = rest(name)
    values = lo.hankel_values(model)
    assert values.shape == model.input.shape
    J, B, w = model.recurrent, model.input, model.readout
    if name not in ("adam", "rmsprop"):  # whose products of Gramians overflow a double's digits
        P = scipy.linalg.solve_discrete_lyapunov(J, np.outer(B, B))
        Q = scipy.linalg.solve_discrete_lyapunov(J.T, np.outer(w, w))
        squares = np.sort(np.linalg.eigvals(P @ Q).real)[::-1]
        # Squares are known to 1e-14 of the largest or so, and roots to 1e-7.
        np.testing.assert_allclose(values**2, squares / squares[0], atol=1e-12)
    # What gradients up to now do from now on. The slowest responding mode falls to 1e-18.
    _, (responses,) = scipy.signal.dimpulse((J, B[:, None], w[None], np.zeros((1, 1)), 1), n=801)
    matrix = scipy.linalg.hankel(responses[1:401, 0], responses[400:800, 0])
    found = np.linalg.svd(matrix, compute_uv=False)[: len(values)]
    np.testing.assert_allclose(values, found / found[0], atol=1e-11)


def test_values_do_not_depend_on_coordinates():
    opt = lo.GRUOptimizer(6, key=jr.key(0))
    opt = eqx.tree_at(lambda o: o.weights, opt, jnp.linspace(-1.0, 1.0, 6))
    model = lo.linearize(opt, np.linspace(-0.3, 0.3, 6))
    np.testing.assert_allclose(
        lo.hankel_values(model), lo.hankel_values(turned(model, 2)), atol=1e-12
    )


def test_modes_that_cancel_are_one_momentum():
    """Two nearly parallel eigenvectors: rates of 1,000 and more, and yet one momentum."""
    gap, large = 1e-6, 1e3
    momenta = np.array([0.88, 0.88 - gap])
    rates = np.array([3.5 + large, -large])
    # x_1' = m_1 x_1 + x_2 + ..., in which eigenvectors differ by an angle of the gap.
    basis = np.array([[1.0, 1.0], [0.0, -gap]])
    inverse = np.linalg.inv(basis)
    model = model_of(basis @ np.diag(momenta) @ inverse, basis @ np.ones(2), -rates @ inverse)
    modes = lo.eigenmodes(model)
    assert np.abs(modes.learning_rates).min() > 900
    # 1 / sin of the angle between them.
    np.testing.assert_allclose(modes.conditions, np.sqrt(1 + gap**2) / gap, rtol=1e-6)
    # What is left of the pair is 1e-3 k 0.88^(k-1).
    assert 0 < lo.hankel_values(model)[1] < 2e-3
    fit = lo.momentum_fit(model)
    assert fit.residual < 2e-3
    np.testing.assert_allclose(fit.learning_rates, 3.5, rtol=2e-3)
    np.testing.assert_allclose(fit.eigenvalues, 0.88, rtol=1e-3)


def test_conditions_are_one_over_the_sine_and_stand_in_the_table():
    angle = 0.3
    basis = np.array([[1.0, np.cos(angle)], [0.0, np.sin(angle)]])
    model = model_of(basis @ np.diag([0.9, 0.5]) @ np.linalg.inv(basis), [1, 1], [-1, 0])
    modes = lo.eigenmodes(model)
    np.testing.assert_allclose(modes.conditions, 1 / np.sin(angle), rtol=1e-12)
    table = modes.table()
    place = list(table.heads).index("condition")
    assert [row[place] for row in table.rows] == [f"{1 / np.sin(angle):.3g}"] * 2


def test_a_fit_is_the_best_there_is():
    """Against a fine search: of one momentum, and of two that are a damped oscillation."""
    model = aggregated([1.0, 0.4, 0.2], [0.3, 0.8, 0.96])
    fit = lo.momentum_fit(model, steps=150)
    response = -impulse_response(model, 150)
    size = np.linalg.norm(response)
    errors = []
    for momentum in np.linspace(-0.99, 0.999, 20_000):
        powers = momentum ** np.arange(150)
        rate = powers @ response / (powers @ powers)
        errors.append(np.linalg.norm(response - rate * powers) / size)
    assert 0 < min(errors) - fit.residual + 1e-12 < 1e-6
    own = sum(a * b ** np.arange(150) for a, b in zip(fit.learning_rates, fit.eigenvalues,
                                                      strict=True))  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(response - own) / size, fit.residual, rtol=1e-9)
    residuals = [lo.momentum_fit(model, count).residual for count in (1, 2, 3)]
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[2] < 1e-11
    # Momenta that are the best pair though neither is the best one first (found by a fine search).
    rates, momenta = [-2.25, 0.386, -0.582, 0.109], [-0.0911, 0.856, -0.871, 0.470]
    four = model_of(np.diag(momenta), np.ones(4), rates)
    assert lo.momentum_fit(four, 2).residual < 0.2287
    turn = 0.9 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    pair = lo.momentum_fit(model_of(turn, [1, 0], [-1, 0]), 2)
    np.testing.assert_allclose(pair.eigenvalues, 0.9 * np.exp(0.4j * np.array([1, -1])), rtol=1e-9)
    np.testing.assert_allclose(pair.learning_rates, [0.5, 0.5], rtol=0, atol=1e-9)


def test_modes_that_never_fade_are_left_out_or_refused():
    counter = model_of(np.diag([0.9, 1.0]), [1.0, 1.0], [-0.3, 0.0])
    np.testing.assert_array_equal(lo.hankel_values(counter), [1, 0])
    # Mixed with the others, and on a line of fixed points that is found to 1e-9.
    line = turned(model_of(np.diag([0.9, 0.4, 1 - 1e-9]), [1, 1, 1e-9], [-0.3, 0.1, 1]), 3)
    fading = lo.hankel_values(model_of(np.diag([0.9, 0.4]), [1, 1], [-0.3, 0.1]))
    np.testing.assert_allclose(lo.hankel_values(line), [*fading, 0], atol=1e-6)
    for eigenvalue in (1.0, -1.0, 1.1):
        endless = model_of(np.diag([0.9, eigenvalue]), [1.0, 1.0], [-0.3, -1.0])
        with pytest.raises(ValueError, match=f"must have eigenvalues .* got {eigenvalue:g}"):
            lo.hankel_values(endless)
    # A fit is about a finite number of updates, so that it exists.
    fit = lo.momentum_fit(model_of(np.diag([1.0]), [1.0], [-0.3]), steps=50)
    np.testing.assert_allclose((fit.learning_rates[0], fit.eigenvalues[0]), (0.3, 1), rtol=1e-9)
    assert np.isinf(fit.timescales[0])


def test_powers_that_grow_against_all_eigenvalues_are_refused_in_words():
    """In coordinates in which an eigenvalue 1 is lost by 1e-4, it may come out below 1."""

    def said(seed: int) -> str:
        left, _, right = np.linalg.svd(np.random.default_rng(seed).normal(size=(4, 4)))
        R = left @ np.diag(np.geomspace(1, 1e-6, 4)) @ right
        J = R @ np.diag([1.0, 0.5, 0.3, 0.2]) @ np.linalg.inv(R)
        try:
            return f"finite: {np.isfinite(lo.hankel_values(model_of(J, *np.ones((2, 4))))).all()}"
        except ValueError as error:
            return str(error)

    for found in map(said, range(30)):
        assert found == "finite: True" or "must have eigenvalues of size below 1" in found


def test_no_response_has_no_values_and_no_rates():
    silent = model_of(np.diag([0.9, 0.5]), [1.0, 1.0], [0.0, 0.0])
    np.testing.assert_array_equal(lo.hankel_values(silent), [0, 0])
    fit = lo.momentum_fit(silent, 2)
    np.testing.assert_array_equal(fit.learning_rates, 0)
    assert fit.residual == 0
    assert "learning rate" in str(fit)


def test_a_fit_of_more_momenta_than_there_are_is_exact():
    response = 0.3 * 0.9 ** np.arange(40)
    assert fit_response(response, 3).residual < 1e-12


@pytest.mark.parametrize(
    ("response", "count"),
    [
        (0.05 * (np.arange(60) + 1) * (np.arange(60) + 2) * 0.5 ** np.arange(60), 3),
        (np.append(np.ones(4), np.zeros(36)), 4),
        ((np.arange(60) + 1) * 0.9 ** np.arange(60), 2),
        (0.5 ** np.arange(60) + 2 * 0.95 ** np.arange(60), 1),
    ],
    ids=["three that coincide", "four taps", "two that coincide", "too few"],
)
def test_residuals_are_those_of_the_momenta_that_are_returned(response, count):
    fit = fit_response(response, count)
    own = fit.eigenvalues ** np.arange(len(response))[:, None] @ fit.learning_rates
    missed = np.linalg.norm(own - response) / np.linalg.norm(response)
    np.testing.assert_allclose(fit.residual, missed, rtol=1e-6, atol=1e-9)
    assert missed < 1e-7 or count == 1


def test_fits_have_the_unit_of_the_response():
    """Also where squares of the response overflow, or vanish."""
    response = 0.5 ** np.arange(30) + 2 * 0.9 ** np.arange(30)
    fit = fit_response(response, 2)
    np.testing.assert_allclose(fit.learning_rates, [2, 1], rtol=1e-9)
    for unit in (1e-200, 1e200):
        other = fit_response(unit * response, 2)
        np.testing.assert_allclose(other.learning_rates / unit, fit.learning_rates, rtol=1e-9)
        np.testing.assert_allclose(other.eigenvalues, fit.eigenvalues, rtol=1e-9)
        assert other.residual < 1e-9


@pytest.mark.parametrize(("momentum", "steps"), [(3.0, 180), (-30.0, 60), (1e3, 30)])
def test_a_response_that_grows_is_fitted_as_far_as_it_can_be(momentum, steps):
    """Beside 1/2, of which soon nothing is left: one momentum is the whole response."""
    model = model_of(np.diag([momentum, 0.5]), np.ones(2), np.array([-1.0, -1e-9]))
    fit = lo.momentum_fit(model, steps=steps)
    np.testing.assert_allclose(fit.eigenvalues, [momentum], rtol=1e-8)
    np.testing.assert_allclose(fit.learning_rates, [1.0], rtol=1e-7)
    assert fit.residual < 1e-8


@pytest.mark.parametrize(("momentum", "steps"), [(3.0, 200), (30.0, 200), (-1e3, 200), (1e200, 4)])
def test_a_response_that_grows_beyond_bounds_is_refused(momentum, steps):
    """At 30 a momentum of 3.18 was found, at 1,000 the solver failed, at 1e200 nothing missed."""
    model = model_of(np.diag([momentum, 0.5]), np.ones(2), -np.ones(2))
    size = f"{abs(momentum):.4g}".replace("+", r"\+")
    said = rf"`steps` must be so few .* has an eigenvalue of size {size}, got {steps}"
    with pytest.raises(ValueError, match=said):
        lo.momentum_fit(model, steps=steps)


@pytest.mark.parametrize("seed", range(3))
def test_what_moves_nothing_in_exact_arithmetic_moves_nothing(seed):
    """Gradients reach the modes of 0.9 and 0.5, updates read those of 0.8 and 0.3: w J^k B is 0.

    In other coordinates it is the round-off of terms that cancel, to which no momenta belong.
    """
    apart = model_of(np.diag([0.9, 0.8, 0.5, 0.3]), [1, 0, 2, 0], [0, 1, 0, -1])
    for model in (apart, turned(apart, seed), model_of(0.9 * np.eye(2), [1, 1], [1, -1])):
        assert not lo.hankel_values(model).any()
        fit = lo.momentum_fit(model, 2)
        assert not fit.learning_rates.any()
        assert fit.residual == 0
    modes = lo.eigenmodes(turned(apart, seed))
    np.testing.assert_allclose(modes.eigenvalues, [0.9, 0.8, 0.5, 0.3], rtol=1e-12)
    np.testing.assert_allclose(modes.learning_rates, 0, atol=1e-12)


def test_a_response_far_below_its_terms_is_still_one():
    """Of terms of size 1 there is left 1e-9: one momentum, to the seven digits that are left."""
    planted = model_of(np.diag([0.9, 0.8]), [1e-9, 1], [1, 0])
    model = turned(planted, 1)
    values, fit = lo.hankel_values(model), lo.momentum_fit(model)
    np.testing.assert_allclose(values, [1, 0], atol=1e-5)
    np.testing.assert_allclose(fit.eigenvalues, [0.9], rtol=1e-5)
    np.testing.assert_allclose(fit.learning_rates, [-1e-9], rtol=1e-5)


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_units_of_gradients_and_parameters_do_not_matter(size):
    """Squares of B or of w overflow, or are 0; the response itself is of size 1."""
    J, B, w = [[0.5, 0.1], [0.0, 0.3]], np.array([1.0, 2.0]), np.array([1.0, -0.5])
    values = lo.hankel_values(model_of(J, B, w))
    np.testing.assert_allclose(lo.hankel_values(model_of(J, size * B, w / size)), values, rtol=1e-9)
