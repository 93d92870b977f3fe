"""Tasks: their distributions, their minima, and a task of one's own."""

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import lrevopt as lo
from lrevopt.tasks import AbstractTask, sample_problems
from lrevopt.tasks.interface import check_task
from lrevopt.tasks.rosenbrock import STARTS


@pytest.fixture(scope="module")
def regressions():
    return eqx.filter_jit(sample_problems)(lo.LinearRegression(), jr.key(0), 400)


def hessians(problems):
    return np.einsum("pij,pik->pjk", problems.matrix, problems.matrix)


def test_the_spectrum_is_uniform_in_its_logarithm(regressions):
    eigenvalues = np.linalg.eigvalsh(hessians(regressions))
    exponents = np.log10(eigenvalues)
    # Round-off of A'A relative to its largest eigenvalue, 1e-16 / 1e-3.
    assert exponents.min() >= -3 - 1e-9
    assert exponents.max() <= 1e-9
    # Kolmogorov and Smirnov: a fair draw of one fixed seed, rejected once in a thousand.
    assert scipy.stats.kstest(exponents.ravel(), "uniform", (-3, 3)).pvalue > 1e-3


def test_the_minimum_is_zero(regressions):
    """A is square and invertible: A x = b has a solution, whatever b."""
    task = lo.LinearRegression()
    solutions = np.linalg.solve(regressions.matrix, regressions.target[..., None])[..., 0]
    losses = jax.vmap(task.loss, (0, 0, None))(regressions, jnp.asarray(solutions), 0)
    # Squared round-off of b, whose entries reach 1e2.
    assert np.max(losses) < 1e-20


def test_this_is_the_authors_quadratic_form(regressions):
    """f = 1/2 x'Hx + v'x + const with v ~ N(0, I): the gradient is H x + v (B.1, authors' code)."""
    task = lo.LinearRegression()
    x = np.random.default_rng(1).normal(size=(400, 5))
    gradients = jax.jit(jax.vmap(jax.grad(task.loss, 1), (0, 0, None)))(
        regressions, jnp.asarray(x), 0
    )
    linear = np.asarray(gradients) - np.einsum("pij,pj->pi", hessians(regressions), x)
    # v = -A'b does not depend on x; b is divided and multiplied by the root of the spectrum.
    np.testing.assert_allclose(
        linear, -np.einsum("pij,pi->pj", regressions.matrix, regressions.target), atol=1e-12
    )
    assert scipy.stats.kstest(linear.ravel(), "norm").pvalue > 1e-3
    assert scipy.stats.kstest(np.ravel(regressions.initial_parameters), "norm").pvalue > 1e-3


def test_the_basis_is_uniform_on_the_orthogonal_group():
    """Eigenvectors of the extreme eigenvalue are uniform on the sphere: squared entries follow
    Beta(1/2, (d - 1)/2).
    """
    vectors = np.linalg.eigh(
        hessians(eqx.filter_jit(sample_problems)(lo.LinearRegression(), jr.key(3), 400))
    )[1][:, :, -1]
    assert scipy.stats.kstest(vectors[:, 0] ** 2, "beta", (0.5, 2.0)).pvalue > 1e-3
    # Entries are uncorrelated: 4 standard errors of a product of mean-zero entries.
    moments = vectors.T @ vectors / 400
    assert np.max(np.abs(moments - np.eye(5) / 5)) < 4 * np.sqrt(3 / 35 / 400)


def test_a_wider_range_and_another_dimension():
    task = lo.LinearRegression(dim=2, log10_eigenvalues=(0, 2))
    eigenvalues = np.linalg.eigvalsh(hessians(eqx.filter_jit(sample_problems)(task, jr.key(1), 20)))
    assert eigenvalues.shape == (20, 2)
    assert 1 - 1e-9 <= eigenvalues.min() < eigenvalues.max() <= 100 * (1 + 1e-9)


@hypothesis.given(x=st.floats(-3, 3), y=st.floats(-3, 5))
def test_rosenbrock_and_its_gradient(x, y):
    task = lo.Rosenbrock()
    problem = lo.tasks.rosenbrock.RosenbrockProblem(jnp.array([x, y]))
    value, gradient = jax.value_and_grad(task.loss, 1)(problem, jnp.array([x, y]), 0)
    valley = y - x * x
    np.testing.assert_allclose(value, (1 - x) ** 2 + 100 * valley**2, rtol=1e-12)
    expected = [-2 * (1 - x) - 400 * x * valley, 200 * valley]
    # Two terms of up to 1e4 may cancel.
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-10)


def test_rosenbrock_starts_fill_their_rectangle_and_its_minimum_is_at_one_one():
    task = lo.Rosenbrock()
    starts = eqx.filter_jit(sample_problems)(task, jr.key(2), 1000).initial_parameters
    for coordinate, (low, high) in zip(np.asarray(starts).T, STARTS, strict=True):
        assert scipy.stats.kstest(coordinate, "uniform", (low, high - low)).pvalue > 1e-3
    minimum = lo.tasks.rosenbrock.RosenbrockProblem(jnp.ones(2))
    assert task.loss(minimum, jnp.ones(2), 0) == 0.0


def test_problems_of_one_key_are_the_same_and_of_others_differ():
    for task in (lo.LinearRegression(), lo.Rosenbrock()):
        draw = eqx.filter_jit(sample_problems)
        one, same, other = (draw(task, jr.key(seed), 2) for seed in (0, 0, 1))
        assert eqx.tree_equal(one, same)
        assert not np.any(one.initial_parameters == other.initial_parameters)
        assert not np.any(one.initial_parameters[0] == one.initial_parameters[1])


class Logistic(AbstractTask):
    """A task of one's own: logistic regression on points drawn with the problem."""

    points: int = 20

    class Problem(eqx.Module):
        inputs: jax.Array
        labels: jax.Array
        initial_parameters: jax.Array

    def sample(self, key):
        inputs_key, truth_key = jr.split(key)
        inputs = jr.normal(inputs_key, (self.points, 3))
        labels = jnp.sign(inputs @ jr.normal(truth_key, (3,)))
        return self.Problem(inputs, labels, jnp.zeros(3))

    def loss(self, problem, parameters, step):
        margins = problem.labels * (problem.inputs @ parameters)
        return jnp.mean(jax.nn.softplus(-margins))


def test_a_task_of_ones_own_in_twenty_lines():
    """Its problems need not even be an `AbstractProblem`."""
    task = Logistic()
    problem = task.sample(jr.key(0))
    run = lo.unroll(lo.Momentum(1.0, 0.5), task, problem, 30)
    np.testing.assert_allclose(run.losses[0], np.log(2), rtol=1e-14)
    # Separable data: the loss falls at every step at this rate.
    assert np.all(np.diff(run.losses) < 0)


class Vector(Logistic):
    def loss(self, problem, parameters, step):
        return parameters**2


class Pair(Logistic):
    def loss(self, problem, parameters, step):
        return parameters[0], parameters[1]


class Whole(Logistic):
    def loss(self, problem, parameters, step):
        return jnp.asarray(3)


class Matrix(Logistic):
    def sample(self, key):
        return self.Problem(jnp.ones(1), jnp.ones(1), jnp.zeros((2, 2)))


class Integers(Logistic):
    def sample(self, key):
        return self.Problem(jnp.ones(1), jnp.ones(1), jnp.zeros(2, int))


class Nothing(Logistic):
    def sample(self, key):
        return jnp.zeros(3)


REFUSED = {
    "vector": (Vector(), r"`Vector.loss` must return a scalar of dtype float64, got .*\(3,\)"),
    "pair": (Pair(), r"`Pair.loss` must return a scalar of dtype float64, got \("),
    "integer": (Whole(), r"`Whole.loss` must return a scalar of dtype float64, got .*int"),
    "matrix": (
        Matrix(),
        r"`problem.initial_parameters` .* flat vector .*, got f64\[2,2\] from Matrix",
    ),
    "integers": (Integers(), r"`problem.initial_parameters` .* floating dtype, got i64\[2\] "),
    "nothing": (
        Nothing(),
        r"`problem.initial_parameters` must be one flat vector .* got None from Nothing",
    ),
}


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("case", REFUSED)
def test_tasks_that_do_not_fit_are_refused_in_one_sentence(case):
    task, message = REFUSED[case]
    problem = task.sample(jr.key(0))
    with pytest.raises(ValueError, match=message) as error:
        check_task(task, problem)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        lo.unroll(lo.GradientDescent(0.1), task, problem, 3)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "`dim` must be an integer of at least 1, got 0"),
        ({"dim": 2.5}, "`dim` must be an integer of at least 1, got 2.5"),
        ({"log10_eigenvalues": (0, -3)}, r"`log10_eigenvalues` .* low < high, got \(0, -3\)"),
        ({"log10_eigenvalues": (-1, float("nan"))}, "`log10_eigenvalues` must be two finite"),
        ({"log10_eigenvalues": 3}, "`log10_eigenvalues` must be two finite"),
    ],
)
def test_a_regression_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lo.LinearRegression(**arguments)
