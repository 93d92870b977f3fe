"""Optimizers that take x: optax's own loop, the derivative in every leaf, and their limits."""

from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optax.contrib
import pytest
from jaxtyping import Array, Float
from tables import Quadratic, mostly_long

import lrevopt as lo
from lrevopt.optimizers.interface import AbstractOptimizer, given_parameter
from lrevopt.optimizers.wrappers import ScaledGradients, wrapped

TASK = lo.Rosenbrock()
PROBLEM = TASK.sample(jr.key(0))
ONE = jax.tree.map(lambda leaf: leaf[None], PROBLEM)

WITH_X: dict[str, Any] = {
    "adamw": optax.adamw(1e-2, weight_decay=5.0),
    "lion": optax.lion(1e-2, weight_decay=0.1),
    "adamaxw": optax.adamaxw(1e-2, weight_decay=0.1),
    "nadamw": optax.nadamw(1e-2, weight_decay=0.1),
    "schedule_free_sgd": optax.contrib.schedule_free_sgd(1e-3),
    "schedule_free_adamw": optax.contrib.schedule_free_adamw(1e-2, weight_decay=0.1),
    "cocob": optax.contrib.cocob(),
    "madgrad": optax.contrib.madgrad(1e-3),
    "nonnegative": optax.chain(optax.sgd(1e-3), optax.keep_params_nonnegative()),
}


def optax_loop(transformation: Any, steps: int) -> tuple[Array, Array]:
    """Losses and parameters as a user of optax computes them."""

    def body(carry: Any, _: None) -> Any:
        parameters, state = carry
        loss, gradient = jax.value_and_grad(TASK.loss, argnums=1)(PROBLEM, parameters, 0)
        update, state = transformation.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, update), state), (loss, parameters)

    with jax.numpy_dtype_promotion("standard"):
        start = PROBLEM.initial_parameters
        state = jax.tree.map(jnp.asarray, transformation.init(start))
        return jax.lax.scan(body, (start, state), None, length=steps)[1]


@pytest.mark.parametrize("name", WITH_X)
def test_a_run_is_optax_s_own(name):
    """200 updates, through `unroll` and through `evaluate`'s loop."""
    optimizer = lo.from_optax(WITH_X[name])
    assert isinstance(optimizer, lo.AbstractParameterOptimizer)
    losses, parameters = jax.jit(lambda: optax_loop(WITH_X[name], 201))()
    found = lo.unroll(optimizer, TASK, PROBLEM, 200)
    np.testing.assert_allclose(found.parameters, parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-10)
    several = eqx.filter_jit(lo.unroll_losses)(optimizer, TASK, ONE, 200)
    np.testing.assert_allclose(several[0], losses, rtol=1e-10)


class Pulled(lo.AbstractParameterOptimizer):
    """Heavy ball with decay towards the start: closed forms exist on a quadratic."""

    rate: Float[Array, ""]
    pull: Float[Array, ""]

    @property
    def readout(self) -> Float[Array, "2"]:
        return jnp.stack([-self.rate, jnp.zeros_like(self.rate)])

    def initial_state(self, parameter: Float[Array, ""] | None = None) -> Float[Array, "2"]:
        return jnp.stack([jnp.zeros_like(self.rate), given_parameter(self, parameter)])

    def transition(
        self,
        state: Float[Array, "2"],
        gradient: Float[Array, ""],
        parameter: Float[Array, ""] | None = None,
    ) -> Float[Array, "2"]:
        away = given_parameter(self, parameter) - state[1]
        return jnp.stack([0.9 * state[0] + gradient + self.pull * away, state[1]])


PULLED = Pulled(jnp.array(1e-3), jnp.array(0.3))
ADAMW = {"learning_rate": 1e-2, "b1": 0.9, "b2": 0.99, "eps": 1e-3, "weight_decay": 0.3}


def mean_loss(optimizer: Any, **settings: Any) -> Array:
    return lo.unroll_losses(optimizer, TASK, ONE, 30, **settings).mean()


@pytest.mark.parametrize("every", mostly_long([None, 7], 7))
def test_the_adjoint_knows_the_parameter(every):
    """The written-out derivative is that of plain automatic differentiation, leaf by leaf."""
    arrays: dict[str, Any] = {name: jnp.asarray(value) for name, value in ADAMW.items()}
    for optimizer in (PULLED, lo.from_optax(optax.adamw, **arrays)):
        found = eqx.filter_jit(eqx.filter_grad(mean_loss))(optimizer, checkpoint_every=every)
        plain = eqx.filter_jit(
            eqx.filter_grad(lambda o: lo.unroll(o, TASK, PROBLEM, 30).losses.mean())
        )(optimizer)
        for ours, expected in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-14)


def test_settings_are_scored_as_they_are_run():
    """Both layouts of `score_settings`, against the losses of single runs."""
    decays = np.array([0.0, 0.3, 2.0])
    stacked = eqx.filter_vmap(
        lambda decay: lo.from_optax(optax.adamw, learning_rate=1e-2, weight_decay=decay)
    )(jnp.asarray(decays))
    scores, diverged = lo.score_settings(TASK, stacked, ONE, 50)
    np.testing.assert_array_equal(diverged, 0)
    for decay, score in zip(decays, scores, strict=True):
        alone = lo.from_optax(optax.adamw(1e-2, weight_decay=float(decay)), parameter=None)
        losses = lo.unroll(alone, TASK, PROBLEM, 50).losses
        np.testing.assert_allclose(score, lo.meta_objective(losses), rtol=1e-10)


def test_it_is_analysed_at_one_parameter():
    """AdamW at x: Adam's update functions moved by -rate decay x; the slope is Adam's."""
    decayed = lo.from_optax(optax.adamw(0.1, weight_decay=0.02), at_step=5)
    plain = lo.from_optax(optax.adam(0.1), at_step=5)
    state, gradients = jnp.array([0.2, 0.3, 0.0]), jnp.linspace(-1, 1, 5)
    held = lo.at_parameter(decayed, 3.0)
    found = lo.update_function(held, state, gradients)
    expected = lo.update_function(plain, state, gradients) - 0.1 * 0.02 * 3.0
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    slope = lo.effective_learning_rate(held, state)
    np.testing.assert_allclose(slope, lo.effective_learning_rate(plain, state), rtol=1e-12)
    model = lo.linearize(held, state, 0.5)
    np.testing.assert_allclose(model.recurrent, lo.linearize(plain, state, 0.5).recurrent)
    assert lo.at_parameter(plain, 3.0) is plain


def test_a_transformation_of_one_that_takes_x_is_optax_s_own():
    """There and back: `to_optax` passes the parameters on, also to the initial state."""
    transformation = WITH_X["madgrad"]
    back = lo.to_optax(lo.from_optax(transformation))
    losses, parameters = jax.jit(lambda: optax_loop(transformation, 20))()
    again = jax.jit(lambda: optax_loop(back, 20))()
    np.testing.assert_allclose(again[0], losses, rtol=1e-10)
    np.testing.assert_allclose(again[1], parameters, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="`parameters` must be given to `update`"):
        back.update(jnp.ones(2), back.init(jnp.ones(2)))


@pytest.mark.parametrize(("curvature", "unstable"), [(37.9, False), (38.1, True)])
def test_momentum_on_a_quadratic_is_stable_up_to_its_threshold(curvature, unstable):
    """2 (1 + momentum) / rate = 38; eigenvalues of (v, x) solve a quadratic equation."""
    for optimizer in (lo.Momentum(0.1, 0.9), lo.from_optax(optax.sgd(0.1, momentum=0.9))):
        found = lo.quadratic_map(optimizer, curvature, jnp.zeros_like(optimizer.readout))
        roots = np.roots([1, -(1 + 0.9 - 0.1 * curvature), 0.9])
        np.testing.assert_allclose(found.spectral_radius, np.abs(roots).max(), rtol=1e-12)
        assert (found.spectral_radius > 1) == unstable


def test_decay_enters_the_map_of_a_quadratic():
    """SGD with decay d: x' = (1 - rate (c + d)) x. And a run multiplies (h, x) by the matrix."""
    rate, decay, curvature = 0.1, 0.3, 2.0
    decayed = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.5))
    optimizer = lo.from_optax(decayed)
    found = lo.quadratic_map(optimizer, curvature, jnp.zeros(2), parameter=1.0)
    np.testing.assert_allclose(found.by_parameter, [decay, -rate * decay], rtol=1e-12)
    task = Quadratic(jnp.array([curvature]), jnp.array([1.0]))
    run = lo.unroll(optimizer, task, task.sample(jr.key(0)), 6)
    point = np.append(run.states[0, 0], run.parameters[0, 0])
    for state, parameter in zip(run.states[1:, 0], run.parameters[1:, 0], strict=True):
        point = found.matrix @ point
        np.testing.assert_allclose(point, np.append(state, parameter), rtol=1e-10)
    plain = lo.from_optax(optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate)))
    radius = lo.quadratic_map(plain, curvature, jnp.zeros(1)).spectral_radius
    np.testing.assert_allclose(radius, 1 - rate * (curvature + decay), rtol=1e-12)
    with pytest.raises(ValueError, match="`curvature` must be a finite number, got nan"):
        lo.quadratic_map(plain, np.nan, jnp.zeros(1))


class Rooted(AbstractOptimizer):
    """RMSProp, whose update `rate g / (sqrt(v') + 1e-3)` is the second coordinate."""

    rate: Float[Array, ""]
    own: Float[Array, ""]

    @property
    def readout(self) -> Float[Array, "2"]:
        return jnp.array([0.0, -1.0])

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.zeros(2)

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        second = 0.9 * state[0] + 0.1 * gradient**2
        root = jnp.sqrt(second)
        return jnp.stack([second, self.rate * gradient / (root + 1e-3) + self.own * root])


def test_a_root_of_zero_has_its_limit_in_the_map_of_a_quadratic():
    """Gradient descent of rate 1e-4 / 1e-3 beside v, which is multiplied by 0.9."""
    rooted = Rooted(jnp.asarray(1e-4), jnp.asarray(0.0))
    found = lo.quadratic_map(rooted, 3.0, np.zeros(2))
    np.testing.assert_allclose(np.sort(found.eigenvalues.real), [0, 0.7, 0.9], atol=1e-12)
    steep = Rooted(jnp.asarray(1e-4), jnp.asarray(1.0))
    with pytest.raises(ValueError, match="`state` must be a point where F has finite derivatives"):
        lo.quadratic_map(steep, 3.0, np.zeros(2))


@cache
def momentum_with_decay() -> Any:
    return lo.from_optax(optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.9)))


BOWL = Quadratic(jnp.array([1.0, 0.2]), jnp.array([1.0, -2.0]))


def test_gradients_in_other_units_are_a_chain_of_optax():
    """A wrapper of an optimizer that takes x goes on taking it."""
    scaled = wrapped(
        lo.from_optax(WITH_X["adamw"]), partial(ScaledGradients, scale=jnp.asarray(30.0))
    )
    chained = lo.from_optax(optax.chain(optax.scale(30.0), WITH_X["adamw"]))
    found, expected = (lo.unroll(each, TASK, PROBLEM, 20) for each in (scaled, chained))
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-10)


@pytest.mark.long
def test_a_linear_rule_has_nothing_to_straighten():
    """Momentum with decay: its updates are linear, so these three interventions cost nothing."""
    names = ("straight_updates", "straight_states", "one_update_function", "no_slow_memory")
    chosen = {name: lo.INTERVENTIONS[name] for name in names}
    counts: dict[str, Any] = {"problems": 2, "steps": 12, "interventions": chosen}
    found = lo.intervene(momentum_with_decay(), BOWL, key=jr.key(0), **counts)
    assert found.omitted == ()
    for objectives in found.objectives[:3]:
        np.testing.assert_allclose(objectives, found.original, rtol=1e-10)
    assert np.all(np.abs(found.objectives[3] / found.original - 1) > 0.01)


@pytest.mark.long
def test_a_scorecard_is_that_of_the_rule_without_decay():
    """F at one x is momentum, moved: the same timescale, rate and gain, at any x."""
    settings: dict[str, Any] = {"key": jr.key(0), "problems": 2, "steps": 12}
    plain = lo.measure_scorecard(lo.Momentum(0.1, 0.9), BOWL, **settings)
    for parameter in (0.0, 2.0):
        found = lo.measure_scorecard(momentum_with_decay(), BOWL, parameter=parameter, **settings)
        for name in ("timescale", "rate", "gain"):
            np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-8)


@pytest.mark.parametrize("x", mostly_long([0.0, 2.0], 2.0))
def test_mechanisms_are_those_at_the_given_parameter(x):
    """Without a gradient, decay pulls at x: updates -0.1 0.3 x (1 + 0.9 + 0.81 + ...)."""
    counts: dict[str, Any] = {"problems": 2, "steps": 12, "parameter": x}
    found = lo.analyze(momentum_with_decay(), BOWL, key=jr.key(0), **counts)
    pulls = -0.1 * 0.3 * x * np.cumsum(0.9 ** np.arange(12))
    np.testing.assert_allclose(found.schedule.updates, pulls, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found.schedule.rates, 0.1, rtol=1e-9)
    modes = found.momentum
    slowest = int(np.argmax(np.abs(modes.learning_rates)))
    np.testing.assert_allclose(modes.eigenvalues[slowest], 0.9, rtol=1e-8)
    np.testing.assert_allclose(modes.learning_rates.sum(), 0.1, rtol=1e-8)


@pytest.mark.long
def test_meta_training_moves_the_learning_rate():
    """AdamW in the outer loop, by backpropagation and by evolution strategies."""
    arrays: dict[str, Any] = {name: jnp.asarray(value) for name, value in ADAMW.items()}
    start = lo.from_optax(optax.adamw, **arrays)
    for estimator in ("exact", "pes"):
        settings = lo.MetaTraining(
            steps=3, unroll=10, problems=2, estimator=estimator, selection_problems=2,
            learning_rate=1e-4, warm_up=0, es_deviation=1e-4, es_window=5, penalty=0.0,
        )  # fmt: skip
        run = lo.meta_train(TASK, start, settings, key=jr.key(1))
        assert isinstance(run.optimizer, lo.OptaxParameterOptimizer)
        moved = run.optimizer.hyperparameters["learning_rate"]
        assert np.isfinite(moved)
        assert moved != arrays["learning_rate"]


@pytest.mark.usefixtures("as_user")
def test_without_a_parameter_it_is_refused_in_one_sentence():
    for optimizer in (PULLED, lo.from_optax(WITH_X["cocob"])):
        for call in (
            lambda o: o.initial_state(),
            lambda o: lo.update_function(o, jnp.zeros(o.readout.size), jnp.zeros(3)),
            lambda o: lo.linearize(o, jnp.zeros(o.readout.size)),
        ):
            with pytest.raises(ValueError, match="`parameter` must be given .*at_parameter") as at:
                call(optimizer)
            assert "\n" not in str(at.value)
    with pytest.raises(ValueError, match="`parameter` must be finite, got nan"):
        lo.at_parameter(PULLED, np.nan)
