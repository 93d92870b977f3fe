"""Appendix C: every equation on every optimizer, the slips in print, and what remains."""

import runpy
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import OPTIMIZERS, Quadratic, mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.optimizers import saved
from lrevopt.paper.appendices.aggregated_momentum import (
    CORRECTED,
    PRINTED,
    derive_aggregated_momentum,
)
from lrevopt.paper.appendices.stage import appendix_c

SCRIPTS = Path(__file__).parent.parent / "scripts"


@eqx.filter_jit
def rest(opt):
    """Where zero gradients lead: every optimizer of the table forgets by 0.99 a step or more."""
    zero = jnp.zeros(())
    return jax.lax.fori_loop(0, 4000, lambda _, h: opt.transition(h, zero), opt.initial_state())


def derived(name, **options):
    opt = OPTIMIZERS[name](0.1)
    arguments: dict[str, Any] = {"key": jr.key(0), "steps": 40} | options
    return opt, derive_aggregated_momentum(opt, rest(opt), **arguments)


@pytest.mark.parametrize("name", mostly_long(OPTIMIZERS, "momentum", "gru", "modes"))
def test_each_equation_follows_and_the_whole_is_aggregated_momentum(name):
    opt, found = derived(name)
    # Round-off of 40 steps and a change of basis; of a learning rate also the cancellation of
    # w . h* where that is large beside what gradients do.
    for equation in found.equations:
        if equation.form == CORRECTED:
            assert equation.residual < 1e-11, equation.name
    # Upside down is twice as far away as standing still.
    np.testing.assert_allclose(found.residual("sign", PRINTED), 2, rtol=1e-11)
    assert found.residual("learning rate", PRINTED) > 0.1
    np.testing.assert_allclose(found.drift, opt.readout @ rest(opt), rtol=1e-12, atol=1e-15)
    model = lo.linearize(opt, rest(opt))
    modes = lo.eigenmodes(model)
    np.testing.assert_array_equal(found.learning_rates, modes.learning_rates)
    np.testing.assert_array_equal(found.eigenvalues, modes.eigenvalues)


@pytest.mark.parametrize("name", ["momentum", "nesterov", "aggregated", "modes"])
def test_printed_equations_hold_where_the_fixed_point_is_zero(name):
    _, found = derived(name)
    for equation in ("5", "6"):
        np.testing.assert_array_equal(
            found.residual(equation, PRINTED), found.residual(equation, CORRECTED)
        )


@pytest.mark.parametrize("name", ["linear", "equinox_gru"])
def test_printed_equations_miss_by_twice_what_the_fixed_point_keeps(name):
    """`v* + Lambda (v + v*)` is off by `2 Lambda v*` at every step, also without gradients."""
    opt, found = derived(name, scale=1e-9)
    state = np.asarray(rest(opt))
    modes = lo.eigenmodes(lo.linearize(opt, state))
    at_rest = modes.left @ state
    expected = np.linalg.norm(2 * modes.eigenvalues * at_rest) / np.linalg.norm(at_rest)
    assert expected > 0.1
    # Gradients of 1e-9 add some 1e-9 to the state, relative to one of size 0.1 or more.
    for equation in ("5", "6"):
        np.testing.assert_allclose(found.residual(equation, PRINTED), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["gru", "equinox_gru"])
def test_linearization_is_an_approximation_of_first_order(name):
    """The error is of second order, so relative to the distance it falls with the gradients."""
    errors = [derived(name, scale=scale)[1].residual("4", PRINTED) for scale in (0.1, 0.01)]
    # A tenth, up to third-order terms of relative size 0.1 times the state's derivatives.
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.1)


def test_aggregated_momentum_in_another_basis_runs_alike():
    """In feedback with a problem too: the basis is not seen, only rates and timescales are."""
    rates, momenta = jnp.array([0.4, 0.05, 0.01]), jnp.array([0.1, 0.8, 0.95])
    basis = np.random.default_rng(1).normal(size=(3, 3))
    turned = lo.LinearOptimizer(
        fixed_point=jnp.zeros(3),
        recurrent=jnp.asarray(basis @ np.diag(momenta) @ np.linalg.inv(basis)),
        inputs=jnp.asarray(basis.sum(axis=1)),
        readout=jnp.asarray(-rates @ np.linalg.inv(basis)),
    )
    found = derive_aggregated_momentum(turned, jnp.zeros(3), key=jr.key(0))
    np.testing.assert_allclose(found.eigenvalues, momenta[::-1], rtol=1e-12)
    # Three-digit condition numbers of the basis cost three digits.
    np.testing.assert_allclose(found.learning_rates, rates[::-1], rtol=1e-11)
    assert found.drift == 0
    task = Quadratic(jnp.array([1.0, 0.1]), jnp.array([1.0, -2.0]))
    problem = task.sample(jr.key(0))
    plain = lo.AggregatedMomentum(found.learning_rates.real, found.eigenvalues.real)
    turned_run, plain_run = (
        lo.unroll(opt, task, problem, 60).parameters for opt in (turned, plain)
    )
    np.testing.assert_allclose(turned_run, plain_run, rtol=0, atol=1e-10)


def test_what_cannot_be_derived_is_refused():
    momentum = lo.Momentum(0.1, 0.9)
    key = jr.key(0)
    with pytest.raises(ValueError, match="`state` must be a fixed point without gradient, but has"):
        derive_aggregated_momentum(momentum, jnp.ones(1), key=key)
    with pytest.raises(ValueError, match="`scale` must be a finite number above 0"):
        derive_aggregated_momentum(momentum, jnp.zeros(1), key=key, scale=0.0)
    with pytest.raises(ValueError, match="`steps` must be"):
        derive_aggregated_momentum(momentum, jnp.zeros(1), key=key, steps=0)
    defective = lo.LinearOptimizer(
        jnp.zeros(2), jnp.array([[0.5, 1.0], [0.0, 0.5]]), jnp.array([0.0, 1.0]), jnp.ones(2)
    )
    with pytest.raises(ValueError, match="near-defective"):
        derive_aggregated_momentum(defective, jnp.zeros(2), key=key)
    with pytest.raises(ValueError, match="`name` must be one of"):
        derive_aggregated_momentum(momentum, jnp.zeros(1), key=key).residual("7")


def test_script_prints_every_equation_of_a_run(tmp_path, monkeypatch, capsys):
    optimizer = OPTIMIZERS["gru"](0.1)
    storage.save_json(tmp_path / storage.SETTINGS, {"optimizer": storage.describe(optimizer)})
    saved.save_optimizer(tmp_path, optimizer)
    monkeypatch.setattr(sys, "argv", ["appendix_c.py", str(tmp_path), "--steps", "40"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / "appendix_c.py"), run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    found = appendix_c(tmp_path, steps=40)
    assert len(found.equations) == 10
    for equation in found.equations:
        row = f"{equation.name:14} {equation.form:11} {equation.residual:8.1e}  {equation.formula}"
        assert row in said
        assert equation.remark in said
