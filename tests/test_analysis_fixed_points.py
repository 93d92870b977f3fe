"""Fixed points against closed forms, long iteration, and what cannot converge."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tables
from jaxtyping import Array, Float
from tables import OPTIMIZERS

import lrevopt as lo
from lrevopt.analysis import find_fixed_points
from lrevopt.optimizers import AbstractOptimizer


class OneDimensional(AbstractOptimizer):
    """`h' = tanh(3 h) + g`: two attractors and a saddle between them at g = 0."""

    readout: Float[Array, "1"]

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return jnp.tanh(3 * state) + gradient


def random_gru(seed: int, gain: float) -> lo.RecurrentOptimizer:
    """Recurrent weights of spectral norm about `2 gain`: contracting for small gains."""
    opt = eqx.filter_jit(lo.GRUOptimizer)(8, key=jr.key(seed))
    cell: Any = opt.cell
    bias = jr.normal(jr.key(seed + 100), cell.bias.shape)
    cell = eqx.tree_at(
        lambda c: (c.gates, c.candidate, c.bias),
        cell,
        (gain * cell.gates, gain * cell.candidate, bias),
    )
    return eqx.tree_at(lambda o: o.cell, opt, cell)


@eqx.filter_jit
def visited_states(opt, gradients):
    start = opt.initial_state()
    after = jax.lax.scan(lambda h, g: (opt.transition(h, g),) * 2, start, gradients)[1]
    return jnp.concatenate([start[None], after])


@eqx.filter_jit
def transitions(opt, states, gradient):
    return jax.vmap(opt.transition, (0, None))(states, gradient)


@pytest.mark.parametrize("gradient", [0.0, -1.7])
def test_linear_optimizers_rest_where_algebra_says(gradient):
    cases: list[tuple[AbstractOptimizer, Any]] = [
        (lo.Momentum(0.1, 0.95), [gradient / 0.05]),
        (lo.AggregatedMomentum([1.0, 2.0], [0.5, -0.3]), [gradient / 0.5, gradient / 1.3]),
    ]
    linear = tables.linear(1.0)
    shift = np.linalg.solve(np.eye(2) - linear.recurrent, linear.inputs * gradient)
    cases.append((linear, linear.fixed_point + shift))
    for opt, expected in cases:
        starts = jr.normal(jr.key(0), (5, len(expected)))
        found = find_fixed_points(opt, starts, gradient)
        # One linear solve with a matrix of condition below 100.
        np.testing.assert_allclose(found.states, np.tile(expected, (5, 1)), rtol=1e-12, atol=1e-13)
        assert found.converged.all()
        assert found.stable.all()
        np.testing.assert_array_equal(found.assignment, 0)


@pytest.mark.parametrize("gradient", [0.0, 0.8])
def test_contracting_gru_rests_where_long_iteration_ends(gradient):
    opt = random_gru(0, 0.3)
    starts = np.tanh(np.random.default_rng(0).normal(size=(50, 8)))
    found = find_fixed_points(opt, starts, gradient)
    assert np.all(found.speeds < 1e-16)
    assert len(found.distinct) == 1

    def step(_, h):
        return opt.transition(h, jnp.asarray(gradient))

    limit = jax.lax.fori_loop(0, 2000, step, jnp.asarray(starts[0]))
    # The iteration contracts by more than 0.95 a step, and so ends at round-off.
    np.testing.assert_allclose(found.states, np.tile(limit, (50, 1)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("gradient", [0.0, 0.3])
def test_every_optimizer_has_rest_points_with_their_evidence(name, gradient):
    opt = OPTIMIZERS[name](0.1)
    starts = visited_states(opt, jnp.array([0.5, -1.0, 0.2]))
    found = find_fixed_points(opt, starts, gradient)
    assert found.converged.all()
    np.testing.assert_array_equal(found.start, starts)
    after = transitions(opt, jnp.asarray(found.states), jnp.asarray(gradient))
    speeds = np.sum((np.asarray(after) - found.states) ** 2, axis=1) / 2
    # Round-off squared: speeds far below the threshold differ between programs.
    np.testing.assert_allclose(found.speeds, speeds, atol=1e-17)
    # Copies of a point differ by less than the distance within which they are one.
    np.testing.assert_allclose(found.states, found.distinct[found.assignment], atol=1e-5)


def test_attractors_and_saddle_are_told_apart():
    opt = OneDimensional(jnp.ones(1))
    found = find_fixed_points(opt, jnp.array([[-2.0], [-1.0], [-0.9], [0.01], [0.9]]))
    root = 0.9949  # of h = tanh(3 h), to four digits
    np.testing.assert_allclose(np.sort(found.distinct[:, 0]), [-root, 0, root], atol=1e-4)
    assert found.distinct[0, 0] < -0.9  # reached from most starts
    np.testing.assert_array_equal(found.assignment[:3], 0)
    saddle = np.flatnonzero(np.abs(found.states[:, 0]) < 0.1)
    np.testing.assert_array_equal(saddle, [3])
    np.testing.assert_allclose(found.spectral_radius[saddle], 3, rtol=1e-9)  # of tanh(3 h) at 0
    np.testing.assert_array_equal(found.stable, np.arange(5) != 3)


def test_a_line_of_fixed_points_keeps_each_start():
    """`I - J` is singular: the nearest point of the line is the least-squares answer."""
    opt = lo.LinearOptimizer(
        jnp.zeros(2), jnp.array([[1.0, 0.0], [0.0, 0.5]]), jnp.ones(2), jnp.ones(2)
    )
    starts = np.random.default_rng(1).normal(size=(20, 2))
    found = find_fixed_points(opt, starts)
    assert found.converged.all()
    assert len(found.distinct) == 20
    # Damping of the regular direction, not of the line, decides the precision.
    np.testing.assert_allclose(found.states, starts * [1, 0], atol=1e-8)
    np.testing.assert_allclose(found.spectral_radius, 1, rtol=1e-15)


def test_where_there_is_no_fixed_point_speeds_say_so():
    """A sum of gradients never rests under one: q = g^2 / 2 everywhere."""
    found = find_fixed_points(lo.Momentum(0.1, 1.0), jnp.array([[0.0], [3.0]]), 0.5)
    assert not found.converged.any()
    np.testing.assert_allclose(found.speeds, 0.125, rtol=1e-12)
    np.testing.assert_array_equal(found.assignment, -1)
    assert found.distinct.shape == (0, 1)


def test_double_precision_where_the_user_has_single():
    with jax.enable_x64(False):
        opt = random_gru(1, 0.3)
        assert opt.weights.dtype == jnp.float32
        found = find_fixed_points(opt, jnp.zeros((3, 8)))
        assert jnp.zeros(1).dtype == jnp.float32  # the user's default is left alone
    assert found.states.dtype == np.float64
    assert np.all(found.speeds < 1e-16)


@pytest.mark.usefixtures("as_user")
def test_refusals():
    opt = lo.Momentum(0.1, 0.9)
    with pytest.raises(ValueError, match=r"must have shape \(number of states, 1\)"):
        find_fixed_points(opt, jnp.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"`initial_states` must have shape .* got \(1,\)"):
        find_fixed_points(opt, jnp.zeros(1))
    with pytest.raises(ValueError, match="`initial_states` must hold at least one state"):
        find_fixed_points(opt, jnp.zeros((0, 1)))
    with pytest.raises(ValueError, match="`initial_states` must be finite"):
        find_fixed_points(opt, jnp.full((2, 1), jnp.nan))
    with pytest.raises(ValueError, match="`gradient` must be a finite number, got nan"):
        find_fixed_points(opt, jnp.zeros((2, 1)), jnp.nan)
