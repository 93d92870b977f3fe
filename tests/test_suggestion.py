"""Suggested scales and settings: they follow the units of a task, and training can begin."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import lrevopt as lo
from lrevopt.meta_training import suggestion as module
from lrevopt.optimizers import rescaled


def bowl(loss_unit=1.0, parameter_unit=1.0, dim=3):
    """A quadratic with random curvatures. The units change what is measured, not the problem."""

    def init(key):
        return {"x": parameter_unit * jr.normal(key, (dim,))}

    def curvature(step, key):
        return jr.uniform(key, (dim,), minval=0.1, maxval=1.0)

    def loss(params, curvature):
        return loss_unit * jnp.sum(curvature * (params["x"] / parameter_unit) ** 2 + 0.01)

    return lo.FunctionTask(loss, init, curvature, title="bowl")


@pytest.fixture(scope="module")
def suggested():
    return lo.suggest_training(bowl(), key=jr.key(0), time_limit=1e-3, steps=8)


def measured(task):
    """Adam's best learning rate and the typical gradient along its runs."""
    problems = lo.sample_problems(task, jr.key(1), 4)
    rate, _ = module._tuned_adam(task, problems, 10)
    return rate, module._typical_gradient(lo.Adam(rate), task, jr.key(2), 10)


@pytest.mark.long
def test_scales_follow_the_units_of_loss_and_parameters():
    """Adam's steps do not change with the unit of the loss, and gradients grow with it."""
    rate, gradient = measured(bowl())
    same, greater = measured(bowl(loss_unit=100.0))
    assert same == rate
    # Apart from Adam's epsilon.
    np.testing.assert_allclose(greater, 100 * gradient, rtol=1e-4)
    ten_steps = module.RATES[4] / module.RATES[0]
    wider, smaller = measured(bowl(parameter_unit=ten_steps))
    np.testing.assert_allclose(wider, ten_steps * rate, rtol=1e-12)
    np.testing.assert_allclose(smaller, gradient / ten_steps, rtol=1e-4)


def test_scales_of_a_trial_are_those_of_the_optimizer():
    task, untrained = bowl(), lo.GRUOptimizer(3, key=jr.key(0))
    trained = eqx.tree_at(lambda o: o.weights, untrained, jr.normal(jr.key(1), (3,)))
    exponents = jnp.array([-1500, 250], jnp.int32)
    problem = task.sample(jr.key(2))
    tried = lo.unroll(module._Scaled(trained, exponents), task, problem, 5)
    built = lo.unroll(rescaled(trained, 10**-1.5, 10**0.25), task, problem, 5)
    np.testing.assert_allclose(tried.losses, built.losses, rtol=1e-12)


def test_scales_of_a_trial_are_not_trained():
    """Meta-gradients leave integers out, and are those of automatic differentiation."""
    task, cell = bowl(), lo.GRUOptimizer(3, key=jr.key(0))
    tried = module._Scaled(cell, jnp.array([-500, -500], jnp.int32))
    problems = lo.sample_problems(task, jr.key(1), 1)

    def plain(optimizer):
        problem = jax.tree.map(lambda leaf: leaf[0], problems)
        return lo.unroll(optimizer, task, problem, 4).losses.mean()

    ours = eqx.filter_grad(lambda o: lo.unroll_losses(o, task, problems, 4).mean())(tried)
    theirs = eqx.filter_grad(plain)(tried)
    assert ours.exponents is None
    np.testing.assert_allclose(ours.optimizer.weights, theirs.optimizer.weights, rtol=1e-9)


def test_best_trial_is_suggested(suggested):
    best = int(np.argmin(suggested.scores))
    assert suggested.input_scale == pytest.approx(suggested.input_scales[best])
    assert suggested.output_scale == pytest.approx(suggested.output_scales[best])
    assert suggested.input_scales[0] == pytest.approx(
        module.INPUT * suggested.units**0.5 / suggested.gradient
    )
    assert suggested.output_scales[0] == pytest.approx(module.OUTPUT * suggested.learning_rate)
    assert np.all(np.isfinite(suggested.scores))
    # Even ten meta-steps are better than standing still, which scores 0.
    assert suggested.scores.min() < 0
    assert suggested.adam < 0


@pytest.mark.long
def test_suggestion_is_what_training_takes(suggested):
    settings = suggested.settings
    # There was no time for larger batches of longer runs.
    assert (settings.problems, settings.unroll, settings.selection_unroll) == (4, 2, 8)
    optimizer = suggested.optimizer(jr.key(3))
    assert optimizer.input_scale == suggested.input_scale
    short = dataclasses.replace(settings, steps=3, selection_problems=2)
    run = lo.meta_train(bowl(), optimizer, short, key=jr.key(4), progress=False)
    assert run.history.steps == 3
    assert f"GRU of {suggested.units} units" in str(suggested)


def test_time_becomes_a_number_of_meta_steps(monkeypatch):
    """A meta-step of the whole unroll takes 1 s of a false clock."""

    class Clock:
        now = 0.0

        def monotonic(self):
            Clock.now += 1.0
            return Clock.now

    monkeypatch.setattr(module, "time", Clock())
    trial = module._Trial(lo.GRUOptimizer(2, key=jr.key(0)), bowl(), jr.key(0), 1.0, 1.0)
    settings = dataclasses.replace(module.TRAINING, unroll=8, problems=8)

    def chosen(time_limit):
        found, seconds = module._affordable(trial, settings, time_limit)
        return found.problems, found.unroll, seconds

    assert chosen(300.0) == (8, 8, 1.0)
    assert chosen(299.0) == (4, 8, 0.5)
    assert chosen(149.0) == (4, 4, 0.25)
    assert chosen(1.0) == (4, 2, 0.125)


@pytest.mark.usefixtures("as_user")
def test_refusals():
    with pytest.raises(ValueError, match="`time_limit` must be a finite number above 0, got 0"):
        lo.suggest_training(bowl(), key=jr.key(0), time_limit=0)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1, got 0"):
        lo.suggest_training(bowl(), key=jr.key(0), steps=0)
    hopeless = lo.FunctionTask(
        lambda p: jnp.sum(p) * jnp.inf, lambda key: jnp.ones(2), title="hopeless"
    )
    with pytest.raises(ValueError, match="not diverge, but hopeless has none from 1e-05 to 10"):
        lo.suggest_training(hopeless, key=jr.key(0), steps=2)


def test_gradients_that_are_all_zero_have_unit_scale():
    flat = lo.FunctionTask(lambda p: 1.0 + 0.0 * jnp.sum(p), lambda key: jr.normal(key, (2,)))
    assert module._typical_gradient(lo.Adam(0.1), flat, jr.key(0), 3) == 1.0
    assert jax.grad(flat.loss, argnums=1)(flat.sample(jr.key(0)), jnp.ones(2), 0).sum() == 0
