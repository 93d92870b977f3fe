"""Hyperparameters of optax's factories as leaves: derivatives, stacks, searches, injected ones."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optax.contrib
import pytest
from jaxtyping import Array
from tables import mostly_long

import lrevopt as lo

TASK = lo.Rosenbrock()
PROBLEM = TASK.sample(jr.key(0))
ONE = jax.tree.map(lambda leaf: leaf[None], PROBLEM)
STEPS = 20

MOMENTS = {"learning_rate": 0.01, "b1": 0.8, "b2": 0.95}
FACTORIES: dict[str, tuple[Any, dict[str, float]]] = {
    "sgd": (optax.sgd, {"learning_rate": 1e-3, "momentum": 0.8}),
    "adam": (optax.adam, MOMENTS | {"eps": 1e-3, "eps_root": 1e-4}),
    "adamw": (optax.adamw, MOMENTS | {"eps": 1e-3, "weight_decay": 0.3}),
    "nadam": (optax.nadam, MOMENTS | {"eps": 1e-3}),
    "adabelief": (optax.adabelief, MOMENTS | {"eps": 1e-3, "eps_root": 1e-4}),
    "yogi": (optax.yogi, MOMENTS | {"eps": 1e-2}),
    "rmsprop": (optax.rmsprop, {"learning_rate": 0.01, "decay": 0.9, "eps": 1e-3, "momentum": 0.5}),
    "adagrad": (
        optax.adagrad,
        {"learning_rate": 0.03, "initial_accumulator_value": 0.2, "eps": 1e-3},
    ),
    "adadelta": (optax.adadelta, {"learning_rate": 0.5, "rho": 0.9, "eps": 1e-2}),
    "adan": (
        optax.adan,
        {"learning_rate": 0.01, "b1": 0.9, "b2": 0.85, "b3": 0.9, "eps": 1e-3, "eps_root": 1e-4},
    ),
    "ademamix": (optax.contrib.ademamix, MOMENTS | {"b3": 0.9, "alpha": 2.0, "eps": 1e-3}),
}


def arrays_of(values: dict[str, float]) -> dict[str, Any]:
    return {name: jnp.asarray(value) for name, value in values.items()}


def their_loss(factory: Any, values: dict[str, Any]) -> Array:
    """Mean loss of the loop that a user of optax writes."""
    transformation = factory(**values)
    gradients = jax.value_and_grad(TASK.loss, argnums=1)

    def body(carry: Any, step: Any) -> Any:
        parameters, state = carry
        loss, gradient = gradients(PROBLEM, parameters, step)
        update, state = transformation.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, update), state), loss

    start = PROBLEM.initial_parameters
    state = jax.tree.map(jnp.asarray, transformation.init(start))
    (last, _), losses = jax.lax.scan(body, (start, state), jnp.arange(STEPS))
    return (losses.sum() + TASK.loss(PROBLEM, last, STEPS)) / (STEPS + 1)


def our_loss(factory: Any, values: dict[str, Any]) -> Array:
    return lo.unroll_losses(lo.from_optax(factory, **values), TASK, ONE, STEPS).mean()


@pytest.mark.parametrize("name", mostly_long(FACTORIES, "sgd", "adamw"))
def test_meta_gradients_are_differences_and_optax_s_own(name):
    factory, values = FACTORIES[name]
    arrays = arrays_of(values)
    with jax.numpy_dtype_promotion("standard"):
        loss, found = jax.jit(jax.value_and_grad(lambda v: our_loss(factory, v)))(arrays)
        theirs, expected = jax.jit(jax.value_and_grad(lambda v: their_loss(factory, v)))(arrays)
        np.testing.assert_allclose(loss, theirs, rtol=1e-12)
        at = jax.jit(lambda v: their_loss(factory, v))
        for key, value in values.items():
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-8)
            step = 1e-5 * value
            high, low = (at(arrays | {key: jnp.asarray(value + s * step)}) for s in (1, -1))
            # Central differences: the third derivative, and round-off of the loss.
            error = 1e-5 * abs(found[key]) + 1e-13 * loss / step
            assert abs((high - low) / (2 * step) - found[key]) < error


@pytest.mark.long
def test_a_learning_rate_is_differentiated_in_every_way():
    """Inside jit, outside it, in forward mode, and through trajectories: one number."""

    def loss(rate: Any) -> Array:
        return our_loss(optax.sgd, {"learning_rate": rate})

    def whole(rate: Any) -> Array:
        optimizer = lo.from_optax(optax.sgd, learning_rate=rate)
        return lo.unroll(optimizer, TASK, PROBLEM, STEPS).losses.mean()

    rate = jnp.asarray(1e-3)
    expected = jax.grad(lambda r: their_loss(optax.sgd, {"learning_rate": r}))(rate)
    ways: list[Any] = [jax.grad(loss), jax.jit(jax.grad(loss)), jax.grad(whole), jax.jacfwd(whole)]
    for way in ways:
        np.testing.assert_allclose(way(rate), expected, rtol=1e-10)
    assert abs(expected) > 1


def test_two_of_one_factory_are_one_structure():
    """So a compiled program serves both, and they stack."""
    first, second = (lo.from_optax(optax.adam, learning_rate=jnp.asarray(r)) for r in (0.1, 0.2))
    assert eqx.tree_equal(*(jax.tree.map(jnp.zeros_like, each) for each in (first, second)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    moved = eqx.filter_vmap(lambda o: o.transition(o.initial_state(), jnp.array(2.0))[-1])(stacked)
    # The first update of Adam is the rate, against the gradient.
    np.testing.assert_allclose(moved, [-0.1, -0.2], rtol=1e-7)


def test_a_mask_or_a_schedule_stays_what_it_is():
    mask = {"all": True}
    optimizer = lo.from_optax(
        lambda rate, mask, schedule: optax.chain(
            optax.scale(rate if mask["all"] else 0.0), optax.scale_by_schedule(schedule)
        ),
        rate=jnp.asarray(0.1),
        mask=mask,
        schedule=lambda step: -1.0 / (1 + step),
    )
    assert list(optimizer.hyperparameters) == ["rate"]
    state = optimizer.transition(optimizer.initial_state(), jnp.array(2.0))
    np.testing.assert_allclose(state[-1], -0.2, rtol=1e-12)


def test_injected_hyperparameters_are_leaves():
    """Of a transformation that exists already, and of a factory with traced arguments."""
    make = optax.inject_hyperparams(optax.sgd)
    optimizer = lo.from_optax(make(learning_rate=1e-3, momentum=0.8))
    assert set(optimizer.hyperparameters) == {
        ".hyperparams['learning_rate']",
        ".hyperparams['momentum']",
    }

    def loss(optimizer: Any) -> Array:
        return lo.unroll_losses(optimizer, TASK, ONE, STEPS).mean()

    found = eqx.filter_jit(eqx.filter_grad(loss))(optimizer).hyperparameters
    values = arrays_of({"learning_rate": 1e-3, "momentum": 0.8})
    expected = jax.grad(lambda v: their_loss(optax.sgd, v))(values)
    again = jax.jit(jax.grad(lambda v: our_loss(make, v)))(values)
    for name in values:
        np.testing.assert_allclose(found[f".hyperparams['{name}']"], expected[name], rtol=1e-8)
        np.testing.assert_allclose(again[name], expected[name], rtol=1e-8)


class _Slowed(NamedTuple):
    rate: Any


def _slowed() -> Any:
    """Gradient descent with a constant rate for every parameter in its state."""

    def init(parameters: Any) -> Any:
        return _Slowed(jax.tree.map(lambda x: jnp.full_like(x, 0.1), parameters))

    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        return jax.tree.map(lambda g, rate: -rate * g, gradients, state.rate), state

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), ".hyperparams['learning_rate']"),
        (_slowed(), ".rate"),
    ],
    ids=["injected", "for every parameter"],
)
def test_the_transformation_has_the_hyperparameters_of_the_leaves(given, name):
    """Of a given one, too, whose hyperparameters are in its state and not in its program."""
    optimizer = lo.from_optax(given)
    parameters = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    for rate in (0.1, 5.0):
        value = jnp.full_like(optimizer.hyperparameters[name], rate)
        changed = eqx.tree_at(lambda o: o.hyperparameters[name], optimizer, value)
        after = changed.transition(changed.initial_state(), jnp.array(1.0))
        np.testing.assert_allclose(after[-1], -rate, rtol=1e-15)
        with jax.numpy_dtype_promotion("standard"):
            state = changed.transformation.init(parameters)
            for _ in range(2):
                updates, state = jax.jit(changed.transformation.update)(parameters, state)
        for part in updates.values():
            np.testing.assert_allclose(part, -rate, rtol=1e-6)


def test_a_search_tunes_any_factory():
    """`stack_settings` and `score_settings` over rates and momenta, against single runs."""

    def make(learning_rate: Any, momentum: Any) -> Any:
        return lo.from_optax(optax.sgd, learning_rate=learning_rate, momentum=momentum)

    values = {"learning_rate": np.array([1e-4, 1e-3]), "momentum": np.array([0.5, 0.9])}
    scores, _ = lo.score_settings(TASK, lo.stack_settings(make, values), ONE, STEPS)
    for place, score in enumerate(scores):
        alone = lo.Momentum(*(values[name][place] for name in ("learning_rate", "momentum")))
        losses = lo.unroll(alone, TASK, PROBLEM, STEPS).losses
        np.testing.assert_allclose(score, lo.meta_objective(losses), rtol=1e-10)


def test_held_steps_take_traced_hyperparameters():
    """Adam's slope at rest at step k, in closed form, for a mapped learning rate."""

    def slope(rate: Any) -> Array:
        held = lo.from_optax(optax.adam, at_step=3, learning_rate=rate, eps=1e-3)
        return jax.grad(lambda g: held.transition(jnp.zeros(3), g)[-1])(0.0)

    rates = jnp.array([0.1, 0.3])
    np.testing.assert_allclose(
        jax.vmap(slope)(rates), -rates * 0.1 / (1 - 0.9**4) / 1e-3, rtol=1e-6
    )


def test_equal_settings_of_other_types_are_other_programs():
    """`True == 1` in Python: a program cached for one must not serve the other."""

    def factory(rate: Any, kind: Any) -> Any:
        return optax.sgd(rate if kind is True else 10 * rate)

    for kind, rate in ((True, 0.1), (1, 1.0), (1.0, 1.0), (True, 0.1)):
        optimizer = lo.from_optax(factory, rate=jnp.array(0.1), kind=kind)
        after = optimizer.transition(optimizer.initial_state(), jnp.array(1.0))
        np.testing.assert_allclose(after[-1], -rate, rtol=1e-15)


class _Scaled(eqx.Module):
    """Gradient descent with its rate in an array: a transformation that has no hash."""

    rate: Array

    def init(self, parameters: Any) -> Any:
        return ()

    def update(self, gradients: Any, state: Any, parameters: Any = None) -> Any:
        return jax.tree.map(lambda g: -self.rate * g, gradients), state


def test_transformations_without_a_hash_are_taken():
    module = _Scaled(jnp.array(0.3))
    for given in (module, optax.GradientTransformation(module.init, module.update)):
        optimizer = lo.from_optax(given)
        after = optimizer.transition(optimizer.initial_state(), jnp.array(2.0))
        np.testing.assert_allclose(after[-1], -0.6, rtol=1e-15)


def test_complex_hyperparameters_are_refused():
    for rate in (1j, jnp.array(1j)):
        with pytest.raises(ValueError, match="`learning_rate` must be real, got 1j"):
            lo.from_optax(optax.sgd, learning_rate=rate)
