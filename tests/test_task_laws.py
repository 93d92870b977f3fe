"""What every task satisfies, over one table of named constructors."""

import functools
import json
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from planted import Layers, by_group
from tables import NoisyQuadratic, Quadratic, mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.tasks import AbstractTask, sample_problems

DATA = np.random.default_rng(0).normal(size=(12, 3))


def regression_loss(params: dict[str, Any], batch: jax.Array) -> jax.Array:
    away = jnp.tanh(batch[:, :2] @ params["layer"]["weight"]) + params["bias"] - batch[:, 2]
    return jnp.mean(away**2)


def regression_start(key: jax.Array) -> dict[str, Any]:
    return {"bias": jnp.zeros(()), "layer": {"weight": jr.normal(key, (2,))}}


TASKS: dict[str, tuple[Callable[[], AbstractTask], bool]] = {
    "linear_regression": (lo.LinearRegression, False),
    "rosenbrock": (lo.Rosenbrock, False),
    "two_moons": (lo.TwoMoons, False),
    "mnist": (lambda: lo.MNIST("digits", side=7, batch=50), True),
    "quadratic": (lambda: Quadratic(jnp.array([1.0, 0.1]), jnp.array([1.0, 2.0])), False),
    "noisy": (lambda: NoisyQuadratic(jnp.asarray(DATA[:, :2])), True),
    "layers": (lambda: Layers(jnp.asarray(by_group(1.0, 2.0, 3.0, 4.0))), False),
    "own": (
        lambda: lo.FunctionTask(
            regression_loss, regression_start, lo.Minibatches(jnp.asarray(DATA), 4)
        ),
        True,
    ),
}
"""A task, and whether its loss depends on the step. A new task adds one line."""

FEW = mostly_long(TASKS, "rosenbrock", "mnist", "noisy", "own")


@functools.cache
def made(name: str) -> AbstractTask:
    return TASKS[name][0]()


@functools.cache
def drawn(name: str) -> Any:
    """Two stacked problems."""
    return eqx.filter_jit(sample_problems)(made(name), jr.key(3), 2)


def arrays(tree: Any) -> list[np.ndarray]:
    """The leaves on the host; random keys as their data."""
    return [
        np.asarray(jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    ]


def entry(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_same(ours: Any, theirs: Any, **close: Any) -> None:
    for one, other in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_allclose(one, other, **close)


@eqx.filter_jit
def both(task: AbstractTask, problem: Any, parameters: Any, step: Any) -> Any:
    return jax.value_and_grad(task.loss, argnums=1)(problem, parameters, step)


@pytest.mark.parametrize("name", FEW)
def test_a_key_determines_the_problem(name):
    """Stacked problems are those of the split keys, drawn one by one."""
    task, problems = made(name), drawn(name)
    for index, key in enumerate(jr.split(jr.key(3), 2)):
        # Round-off of factorisations, which other programs may order otherwise.
        assert_same(entry(problems, index), task.sample(key), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", FEW)
def test_losses_are_scalars_and_gradients_have_the_shape_of_the_parameters(name):
    problem = entry(drawn(name), 0)
    value, gradient = both(made(name), problem, problem.initial_parameters, 0)
    assert value.shape == ()
    assert problem.initial_parameters.ndim == 1
    assert gradient.shape == problem.initial_parameters.shape
    assert value.dtype == gradient.dtype == problem.initial_parameters.dtype == jnp.dtype(float)
    assert np.isfinite(value)


@pytest.mark.parametrize("name", FEW)
def test_gradients_are_central_differences(name):
    """Along one direction, at a random point, where no ReLU is within h of its kink."""
    task, problem, h = made(name), entry(drawn(name), 1), 1e-6
    start, direction = problem.initial_parameters, jr.normal(jr.key(5), (2, *drawn_shape(name)))
    point = start + 0.01 * direction[0]
    along = direction[1] / jnp.linalg.norm(direction[1])
    high, low = (both(task, problem, point + sign * h * along, 1)[0] for sign in (1, -1))
    slope = both(task, problem, point, 1)[1] @ along
    # Round-off of the losses over h, and h^2 times a third derivative.
    tolerance = 1e-9 * max(1.0, float(abs(high))) + 1e-6 * abs(float(slope))
    assert abs((high - low) / (2 * h) - slope) < tolerance


def drawn_shape(name: str) -> tuple[int, ...]:
    return drawn(name).initial_parameters.shape[1:]


@pytest.mark.parametrize("name", FEW)
def test_only_stochastic_losses_depend_on_the_step(name):
    problem = entry(drawn(name), 0)
    point = problem.initial_parameters + 0.1
    values = [both(made(name), problem, point, step)[0] for step in (0, 1)]
    again = both(made(name), problem, point, jnp.asarray(1))[0]
    assert (values[0] != values[1]) == TASKS[name][1]
    np.testing.assert_allclose(again, values[1], rtol=1e-12)


@pytest.mark.parametrize("name", FEW)
def test_mapped_and_compiled_losses_are_those_of_a_loop(name):
    task, problems = made(name), drawn(name)
    points = problems.initial_parameters + 0.05
    mapped = eqx.filter_jit(jax.vmap(lambda p, x: both(task, p, x, 2)))(problems, points)
    for index in range(2):
        problem, point = entry(problems, index), points[index]
        value, gradient = jax.value_and_grad(task.loss, argnums=1)(problem, point, 2)
        np.testing.assert_allclose(mapped[0][index], value, rtol=1e-11)
        # Sums over examples in another order.
        scale = float(jnp.abs(gradient).max())
        np.testing.assert_allclose(mapped[1][index], gradient, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize("name", TASKS)
def test_groups_tile_the_parameters(name):
    (dim,) = drawn_shape(name)
    places = np.concatenate(
        [np.arange(dim)[place] for place in made(name).parameter_groups.values()]
    )
    np.testing.assert_array_equal(np.sort(places), np.arange(dim))


@pytest.mark.parametrize("name", TASKS)
def test_descriptions_are_json_and_the_same_for_equal_tasks(name):
    description = storage.describe(made(name))
    assert json.loads(json.dumps(description)) == description
    assert storage.describe(TASKS[name][0]()) == description
