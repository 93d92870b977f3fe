"""Stages after the training of an optimizer of optax that a factory makes: its own numbers."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tables import QuadraticProblem

import lrevopt as lo
from lrevopt.optimizers import hold_counters, saved
from lrevopt.runs.analyze import analyze_run, at_rest_of
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import Experiment, Named
from lrevopt.runs.intervene import intervene_run
from lrevopt.runs.scorecard import run_entrant
from lrevopt.runs.train import adopt
from lrevopt.tasks import AbstractTask

INITIAL, TRAINED, EPS = 1e-3, 0.05, 0.1
STATE, GRADIENT, X = jnp.array([0.2, 0.03, 0.0]), jnp.array(0.7), jnp.array(2.0)


def adam() -> Any:
    return lo.from_optax(optax.adam, learning_rate=jnp.array(INITIAL), eps=EPS)


def injected() -> Any:
    return optax.inject_hyperparams(optax.adam)(learning_rate=INITIAL, eps=EPS)


def decayed() -> Any:
    return lo.from_optax(optax.adamw, learning_rate=jnp.array(INITIAL), eps=EPS, weight_decay=0.5)


def held_already() -> Any:
    return lo.from_optax(optax.adam, learning_rate=jnp.array(INITIAL), eps=EPS, at_step=3)


class Layers(AbstractTask):
    """A smooth bowl, steeper in the second of two layers."""

    def sample(self, key):
        return QuadraticProblem(jnp.array([1.0, 1.0, 3.0, 3.0]), jr.normal(key, (4,)))

    def loss(self, problem, parameters, step):
        return jnp.sum(problem.curvature * jnp.sqrt(1 + parameters**2))

    @property
    def parameter_groups(self):
        return {"first.weight": slice(0, 2), "second.weight": slice(2, 4)}


def run_of(factory: Any, folder: Any) -> Run:
    """A run whose training has moved the learning rate from `INITIAL` to `TRAINED`."""
    start: Any = adopt(
        Experiment(f"{__name__}:Layers", Named(f"{__name__}:{factory.__name__}")), folder
    )
    (name,) = [name for name in start.hyperparameters if "learning_rate" in name]
    trained = eqx.tree_at(lambda o: o.hyperparameters[name], start, jnp.array(TRAINED))
    saved.save_optimizer(folder, trained)
    return Run(folder)


@pytest.mark.parametrize("factory", [adam, injected, decayed])
def test_counters_are_held_and_trained_numbers_stay(factory, tmp_path):
    run, step = run_of(factory, tmp_path / "run"), 7
    optimizer: Any
    at_rest: Any
    optimizer, at_rest = at_rest_of(run, step)
    assert any("count" in name for name in optimizer.coordinates)
    assert at_rest is not None
    assert type(at_rest) is type(optimizer)
    assert [name for name in at_rest.coordinates if "count" in name] == []
    m = 0.9 * STATE[0] + 0.1 * GRADIENT
    v = 0.999 * STATE[1] + 0.001 * GRADIENT**2
    corrected = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
    update = -TRAINED * corrected[0] / (jnp.sqrt(corrected[1]) + EPS)
    if factory is decayed:
        update -= TRAINED * 0.5 * X
    for held in (at_rest, run_entrant(run, step).at_rest):
        assert held is not None
        found = lo.at_parameter(held, X).transition(STATE, GRADIENT)
        np.testing.assert_allclose(found, jnp.stack([m, v, update]), rtol=1e-7)


def test_what_has_no_live_counter_comes_back_as_it_is(tmp_path):
    assert at_rest_of(run_of(held_already, tmp_path / "run"), 7)[1] is None
    for optimizer in (lo.Momentum(0.1, 0.9), lo.from_optax(optax.sgd(0.1, momentum=0.9))):
        assert hold_counters(optimizer, 7) is optimizer
    with pytest.raises(ValueError, match="`at_step` must be an integer of at least 0 .* got -1"):
        hold_counters(adam(), -1)


COUNTS: dict[str, Any] = {"problems": 2, "steps": 5}


@pytest.mark.parametrize("factory", [pytest.param(adam, marks=pytest.mark.long), decayed])
def test_an_analysis_is_of_the_trained_optimizer(factory, tmp_path):
    """Adam's slope at rest at the held step, in closed form; decay does not act at x = 0."""
    run = run_of(factory, tmp_path / "run")
    record = analyze_run(run, **COUNTS)
    rate = TRAINED * 0.1 / (1 - 0.9**6) / EPS
    np.testing.assert_allclose(record.schedule.rates[0], rate, rtol=1e-6)
    np.testing.assert_array_equal(record.schedule.updates, 0)
    types = Run(run.folder).parameter_types
    assert types is not None
    np.testing.assert_allclose(types.rates[:, 0], rate, rtol=1e-6)
    np.testing.assert_allclose(types.mean_rates[:, 0], rate, rtol=1e-6)


def test_interventions_take_an_optimizer_with_decay(tmp_path):
    """Certificates and replayed gradients, too. At the first update Adam corrects its means."""
    run = run_of(decayed, tmp_path / "run")
    record = intervene_run(run, say=lambda line: None, **COUNTS)
    assert np.isfinite(record.original).all()
    written = Run(run.folder)
    assert written.certificates is not None
    assert written.gradient_replay is not None
    np.testing.assert_allclose(written.gradient_replay.rates[:, :, 0], TRAINED / EPS, rtol=1e-6)
