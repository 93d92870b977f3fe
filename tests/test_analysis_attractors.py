"""Attractors by iteration: planted basins, saddles that are none, lines, cycles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import PLANTED, Wells

import lrevopt as lo
from lrevopt.analysis.attractors import ends_of


class Map(lo.AbstractOptimizer):
    """h' = h + a (h - h^3) + b h + g: two attractors and a saddle between them, or a line."""

    readout: jax.Array
    bend: float
    growth: float

    def initial_state(self):
        return jnp.zeros(1)

    def transition(self, state, gradient):
        return state + self.bend * (state - state**3) + self.growth * state + gradient


def planted(bend: float = 0.0, growth: float = 0.0) -> Map:
    return Map(jnp.ones(1), bend, growth)


STARTS = np.array([[1.2], [0.9], [1e-3], [0.0], [-1.0]])


def test_basins_are_counted_and_a_saddle_is_no_attractor():
    found = lo.find_attractors(planted(bend=0.25), STARTS)
    np.testing.assert_allclose(found.states[:, 0], [1, -1], atol=1e-12)
    np.testing.assert_array_equal(found.shares, [0.6, 0.2])
    # F' = 1 + (1 - 3 h^2) / 4.
    np.testing.assert_allclose(found.spectral_radius, [0.5, 0.5], rtol=1e-9)
    assert not found.marginal.any()
    # The solver calls 0 a fixed point; nothing goes there, and what is there would leave it.
    np.testing.assert_array_equal(found.ends, [0, 0, 0, -1, 1])
    assert found.unsettled == 0.2
    solved = lo.find_fixed_points(planted(bend=0.25), STARTS)
    assert len(solved.distinct) == 3
    rows = found.table().rows
    assert [row[1] for row in rows] == ["60 %", "20 %"]
    assert [row[3] for row in rows] == ["attracts", "attracts"]


def test_a_held_gradient_moves_the_attractor_and_ends_a_basin():
    """Momentum holds g / (1 - beta); a large gradient leaves the cubic map one attractor."""
    held = lo.find_attractors(lo.Momentum(0.1, 0.9), np.array([[3.0], [-7.0]]), 0.5)
    np.testing.assert_allclose(held.states, [[5.0]], rtol=1e-12)
    np.testing.assert_array_equal(held.shares, [1])
    assert held.gradient == 0.5
    pushed = lo.find_attractors(planted(bend=0.25), STARTS, 0.2)
    assert len(pushed.states) == 1
    (h,) = pushed.states[0]
    assert (h - h**3) / 4 + 0.2 == pytest.approx(0, abs=1e-12)


def test_points_of_a_line_are_marginal_each_where_it_began():
    line = lo.find_attractors(planted(), STARTS)
    assert line.marginal.all()
    assert len(line.states) == 5
    np.testing.assert_array_equal(line.states[line.ends], STARTS)
    assert {row[3] for row in line.table().rows} == {"marginal"}
    # The solver's table says so too, where round-off alone decides between yes and no.
    assert {row[4] for row in lo.find_fixed_points(planted(), STARTS).table().rows} == {"marginal"}


@pytest.mark.parametrize("growth", [-2.0, 0.5, 0.0])
def test_what_cycles_or_leaves_or_creeps_on_ends_nowhere(growth):
    """h' = -h goes round, h' = 1.5 h overflows, h' = h + 1 goes on."""
    gradient = 0.0 if growth else 1.0
    found = lo.find_attractors(planted(growth=growth), np.array([[1.0], [2.0]]), gradient)
    assert found.unsettled == 1
    assert found.states.shape == (0, 1)
    assert "100 % ended in no attractor" in " ".join(str(found).split())


def test_slow_states_count_once_they_are_close():
    """After 2,000 updates 0.999^k leaves 0.14: too far; after 20,000 it is settled."""
    slow, start = lo.Momentum(0.1, 0.999), np.array([[1.0]])
    assert lo.find_attractors(slow, start, steps=2_000).unsettled == 1
    found = lo.find_attractors(slow, start)
    assert found.unsettled == 0
    assert found.states == pytest.approx(0, abs=1e-9)


def test_each_state_may_have_a_gradient_of_its_own():
    """Gradients that differ by little have points of their own, though these differ by little."""
    gradients = np.array([1e-7, 2e-7, 3.0, 1e-7])
    points, radii, ends = ends_of(lo.Momentum(0.1, 0.5), np.zeros((4, 1)), gradients)
    np.testing.assert_allclose(points[:, 0], 2 * gradients, rtol=1e-9)
    np.testing.assert_allclose(radii, 0.5)
    assert ends.all()


def test_a_planted_latch_has_two_basins_by_the_sign_of_its_state():
    starts: Any = np.zeros((5, 3))
    starts[:, 0] = [0.3, 0.1, -0.2, 0.5, 0.3]
    starts[:, 1] = [0.3, 0.1, -0.2, 0.5, 0.0]  # both latch, and the last balances on a saddle
    found = lo.find_attractors(PLANTED["latching"], starts)
    # s = tanh(2 s) at 0.957504...
    np.testing.assert_allclose(found.states[:, 0], [0.957504024, -0.957504024], rtol=1e-8)
    np.testing.assert_array_equal(found.ends, [0, 0, 1, 0, -1])


class Turn(lo.AbstractOptimizer):
    """h' turns by an angle: every circle stays, and the middle does not attract."""

    readout: jax.Array
    angle: float

    def initial_state(self):
        return jnp.zeros(2)

    def transition(self, state, gradient):
        turn = jnp.array([
            [jnp.cos(self.angle), -jnp.sin(self.angle)], [jnp.sin(self.angle), jnp.cos(self.angle)]
        ])  # fmt: skip
        return turn @ state + gradient


@pytest.mark.parametrize("angle", [0.3, np.pi])
@pytest.mark.parametrize("radius", [1.0, 9e-3, 1e-3, 1e-4])
def test_what_goes_round_in_a_small_circle_ends_nowhere(angle, radius):
    starts = np.array([[radius, 0.0], [0.0, -radius], [0.0, 0.0]])
    found = lo.find_attractors(Turn(jnp.ones(2), angle), starts, steps=500)
    np.testing.assert_array_equal(found.ends, [-1, -1, 0])


def test_attractors_of_one_gradient_do_not_depend_on_the_other_gradients():
    """Far states under a large gradient must not join points under a small one."""
    starts = np.tile([[0.0, 0.9], [0.0, -0.9]], (3, 1))
    gradients = np.repeat([0.0, 1.0, 1e4], 2)
    points, _, ends = ends_of(Wells(jnp.ones(2)), starts, gradients, 2_000)
    assert ends.all()
    np.testing.assert_allclose(points, np.stack([2 * gradients, [1, -1] * 3], axis=1), atol=1e-9)


class Small(lo.AbstractOptimizer):
    """The cubic map in units of `size`."""

    readout: jax.Array
    size: jax.Array

    def initial_state(self):
        return jnp.zeros(1)

    def transition(self, state, gradient):
        h = state / self.size
        return self.size * (h + 0.3 * (h - h**3)) + gradient


@pytest.mark.parametrize("size", [1.0, 1e-2, 5e-6, 1e-9, 1e-18])
def test_points_of_small_states_are_told_apart(size):
    """States may be in units of gradients, or of their squares."""
    opt = Small(jnp.ones(1), jnp.asarray(size))
    starts = size * np.array([[-0.9], [0.5], [0.9], [1.1], [0.0]])
    found = lo.find_attractors(opt, starts)
    np.testing.assert_allclose(found.states[:, 0], [size, -size], rtol=1e-9)
    np.testing.assert_array_equal(found.ends, [1, 0, 0, 0, -1])
    np.testing.assert_allclose(found.spectral_radius, 0.4, rtol=1e-6)
    solved = lo.find_fixed_points(opt, starts[[0, 2, 4]])
    np.testing.assert_allclose(solved.states[:, 0], [-size, size, 0], atol=1e-9 * size)
    assert solved.converged.all()
    assert len(solved.distinct) == 3
    np.testing.assert_array_equal(solved.stable, [True, True, False])
    np.testing.assert_array_equal(solved.start, starts[[0, 2, 4]])
    points, _, ends = ends_of(opt, starts[:3], np.zeros(3), 2_000)
    np.testing.assert_allclose(points[:, 0], [-size, size, size], rtol=1e-9)
    assert ends.all()


def test_small_starts_may_lead_far():
    """From a start of 1e-6 to a point at 5: the search must not stay near its start."""
    found = lo.find_fixed_points(lo.Momentum(0.1, 0.9), np.array([[1e-6]]), 0.5)
    np.testing.assert_allclose(found.states, [[5.0]], rtol=1e-12)
    held = lo.find_attractors(lo.Momentum(0.1, 0.9), np.array([[1e-6]]), 5e-8)
    np.testing.assert_allclose(held.states, [[5e-7]], rtol=1e-12)
