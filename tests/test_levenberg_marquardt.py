"""The Levenberg-Marquardt step that all nonlinear fits of the package share."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrevopt.analysis.levenberg_marquardt import (
    Damping,
    Equations,
    Fit,
    damped_step,
    equations_of,
    marquardt_step,
)

RULE = Damping(decrease=10, increase=10)


def rosenbrock(point: Any) -> Any:
    """Residuals whose sum of squares is Rosenbrock's function; both are 0 at (1, 1) alone."""
    xp = point.__array_namespace__()
    return xp.stack([1 - point[..., 0], 10 * (point[..., 1] - point[..., 0] ** 2)], axis=-1)


def cost_of(point: Any) -> Any:
    return (rosenbrock(point) ** 2).sum(axis=-1) / 2


def searched(fit: Fit, steps: int, rule: Damping = RULE, **options: Any) -> list[Fit]:
    found = [fit]
    for _ in range(steps):
        at = found[-1].point
        xp = at.__array_namespace__()
        jacobian = xp.asarray(jax.jacfwd(rosenbrock)(jnp.asarray(at)))
        normal = jacobian.T @ jacobian
        scale = xp.trace(normal) / 2 * xp.ones(2)
        equations = Equations(normal, jacobian.T @ rosenbrock(at), scale)
        found.append(marquardt_step(found[-1], equations, cost_of, rule, **options))
    return found


@pytest.mark.parametrize("xp", [jnp, np], ids=["JAX", "NumPy"])
def test_the_minimum_of_rosenbrock_is_found_downhill(xp):
    """With either kind of array; the costs never rise, and the damping follows them."""
    start = xp.asarray([-1.2, 1.0])
    begin = Fit(start, cost_of(start), xp.asarray(1e-3))
    options: dict[str, Any] = {} if xp is jnp else {"solve": np.linalg.solve}
    found = searched(begin, 40, **options)
    # Where the cost is 0 to round-off, no step lowers it further.
    np.testing.assert_allclose(found[-1].point, [1.0, 1.0], rtol=1e-12)
    pairs = list(itertools.pairwise(found))
    better = np.array([after.cost < before.cost for before, after in pairs])
    assert better.any()
    assert not better.all()
    for taken, (before, after) in zip(better, pairs, strict=True):
        change = 1 / RULE.decrease if taken else RULE.increase
        np.testing.assert_allclose(after.damping / before.damping, change, rtol=1e-12)
        if not taken:
            np.testing.assert_array_equal(after.point, before.point)
            assert after.cost == before.cost


def test_a_step_solves_the_damped_equations():
    """Three routes: the formula, least squares with extra rows, and the limits of the damping."""
    rng = np.random.default_rng(1)
    A, R = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=5))
    equations = equations_of(R, A)
    mu = 0.3
    rows = jnp.sqrt(mu * equations.scale)
    augmented = jnp.concatenate([A, jnp.diag(rows)]), jnp.concatenate([-R, jnp.zeros(3)])
    expected = jnp.linalg.lstsq(*augmented)[0]
    np.testing.assert_allclose(damped_step(equations, jnp.asarray(mu)), expected, rtol=1e-12)
    np.testing.assert_allclose(equations.scale, (jnp.linalg.svd(A)[1] ** 2).mean(), rtol=1e-12)
    gauss_newton = jnp.linalg.lstsq(A, -R)[0]
    np.testing.assert_allclose(damped_step(equations, jnp.asarray(0.0)), gauss_newton, rtol=1e-12)
    descent = -equations.slope / (1e9 * equations.scale)
    np.testing.assert_allclose(damped_step(equations, jnp.asarray(1e9)), descent, rtol=1e-8)


def test_of_several_dampings_the_best_counts():
    """As if each had been tried by itself; the damping is that of the best."""
    start = np.array([-1.2, 1.0])
    begin, multiples = Fit(start, cost_of(start), np.asarray(1.0)), (1e-4, 1e-2, 1.0, 1e2)

    def after(rule: Damping, solve: Any = np.linalg.solve) -> Fit:
        return searched(begin, 1, rule, solve=solve)[-1]

    def solved(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.stack([np.linalg.solve(matrix, right) for matrix in matrices])

    single = [after(Damping(1, 1, multiples=each)) for each in multiples]
    best = min(single, key=lambda fit: fit.cost)
    together = after(Damping(1, 1, multiples=multiples), solved)
    np.testing.assert_allclose(together.point, best.point, rtol=1e-14)
    np.testing.assert_allclose(together.cost, best.cost, rtol=1e-12)
    assert together.damping == best.damping


def test_steps_that_are_no_numbers_are_refused_and_dampings_stay_in_range():
    """A singular system gives NaN, which never is better; `limit` comes before the cost."""
    zero = jnp.zeros(2)
    singular = Equations(jnp.zeros((2, 2)), jnp.ones(2), zero)
    begin = Fit(zero, cost_of(zero), jnp.asarray(1.0))
    found = marquardt_step(begin, singular, cost_of, Damping(10, 10, most=5.0))
    np.testing.assert_array_equal(found.point, zero)
    assert found.damping == 5.0
    shortened = searched(begin, 1, limit=lambda step: jnp.clip(step, -1e-3, 1e-3))[-1]
    assert 0 < jnp.abs(shortened.point).max() <= 1e-3
    assert shortened.cost == cost_of(shortened.point)
