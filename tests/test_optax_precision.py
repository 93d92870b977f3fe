"""Half precision, and JAX's debugging flags: runs, derivatives and analysis of optax's rules."""

import contextlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optax.contrib
import pytest
from tables import Quadratic, mostly_long

import lrevopt as lo

HALVES = (jnp.bfloat16, jnp.float16)


def quadratic(dtype: Any) -> Quadratic:
    return Quadratic(jnp.array([1.0, 0.25], dtype), jnp.array([2.0, -1.0], dtype))


def on_one(task: Any) -> tuple[Any, Any]:
    problem = task.sample(jr.key(0))
    return problem, jax.tree.map(lambda leaf: leaf[None], problem)


@pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("make", [optax.sgd, optax.adamw], ids=lambda make: make.__name__)
def test_parameters_of_half_precision_move_by_rounded_steps(make, dtype):
    """States are the optimizer's own; each step is rounded once, as `optax.apply_updates` does."""
    task, rate = quadratic(dtype), jnp.asarray(0.1)
    problem, _ = on_one(task)
    optimizer = lo.from_optax(make, learning_rate=rate)
    run = lo.unroll(optimizer, task, problem, 10)
    assert run.parameters.dtype == run.losses.dtype == dtype
    assert run.states.dtype == float
    places, transformation = problem.initial_parameters, make(learning_rate=rate)
    state = transformation.init(places.astype(float))
    for expected in run.parameters:
        np.testing.assert_array_equal(places, expected)
        gradient = jax.grad(task.loss, argnums=1)(problem, places, 0).astype(float)
        with jax.numpy_dtype_promotion("standard"):
            update, state = transformation.update(gradient, state, places.astype(float))
        places = places + update.astype(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: dtype.__name__)
def test_scores_and_meta_gradients_of_half_precision(dtype):
    """Near those of double precision: 10 updates, each rounded once."""
    task, exact = quadratic(dtype), quadratic(float)
    found: list[float] = []
    expected: list[float] = []
    for each, into in ((task, found), (exact, expected)):
        _, problems = on_one(each)
        stacked = lo.stack_settings(
            lo.Momentum, {"learning_rate": np.array([0.01, 0.1]), "momentum": np.array([0.5, 0.9])}
        )
        into.extend(np.asarray(lo.score_settings(each, stacked, problems, 10)[0], float))

        def loss(rate: Any, each: Any = each, problems: Any = problems) -> Any:
            optimizer = lo.from_optax(optax.adam, learning_rate=rate)
            losses = lo.unroll_losses(optimizer, each, problems, 10, checkpoint_every=4)
            return losses.astype(float).mean()

        slope = jax.jit(jax.grad(loss))(0.05)
        assert slope.dtype == float
        into.append(float(slope))
    error = 20 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected, rtol=error)


def test_updates_of_half_precision_go_back_to_optax():
    """`to_optax` of an optimizer that takes x: parameters, gradients and updates in bfloat16."""
    transformation = lo.to_optax(lo.from_optax(optax.adamw(0.1, weight_decay=0.5)))
    parameters = jnp.array([1.0, -2.0], jnp.bfloat16)
    update, state = transformation.update(parameters, transformation.init(parameters), parameters)
    assert update.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(float)}
    # The first update of Adam is the rate, and decay adds rate decay x.
    np.testing.assert_allclose(update.astype(float), -0.1 * np.array([1.5, -2.0]), rtol=2**-8)


FLAGS = {
    "nans": lambda: jax.debug_nans(True),
    "infs": lambda: jax.debug_infs(True),
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
}

RULES: dict[str, Any] = {
    "adam": lambda: lo.from_optax(optax.adam, learning_rate=jnp.asarray(0.01), at_step=5),
    "adamw": lambda: lo.from_optax(optax.adamw(0.01)),
    "accumulated": lambda: lo.from_optax(optax.MultiSteps(optax.rmsprop(0.1), 3)),
}


@pytest.mark.parametrize("flag", mostly_long(FLAGS, "nans", "ranks"))
@pytest.mark.parametrize("name", mostly_long(RULES, "adam"))
def test_debugging_flags_find_nothing(name, flag):
    """The root of Adam at rest has an infinite slope on the way to a finite one."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(FLAGS[flag]())
        optimizer = RULES[name]()
        task = quadratic(float)
        problem, problems = on_one(task)
        run = lo.unroll(optimizer, task, problem, 4)
        slopes = eqx.filter_grad(lambda o: lo.unroll_losses(o, task, problems, 4).mean())(optimizer)
        held = lo.at_parameter(optimizer, 0.5)
        rest = jnp.zeros_like(held.readout)
        model = lo.linearize(held, rest)
        found = [run.losses, *jax.tree.leaves(slopes), model.recurrent, model.input]
        found += jax.jacfwd(held.transition, argnums=(0, 1))(rest, jnp.zeros(()))
    assert all(np.isfinite(each).all() for each in found)
