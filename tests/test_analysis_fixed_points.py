"""Fixed points against closed forms, long iteration, and what cannot converge."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import tables
from jaxtyping import Array, Float
from tables import OPTIMIZERS, mostly_long

import lrevopt as lo
from lrevopt.analysis import find_fixed_points
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.resolution import expand, probe
from lrevopt.optimizers import AbstractOptimizer


class OneDimensional(AbstractOptimizer):
    """`h' = tanh(3 h) + g`: two attractors and a saddle between them at g = 0."""

    readout: Float[Array, "1"]

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return jnp.tanh(3 * state) + gradient


class Jumping(AbstractOptimizer):
    """Straight below an edge and from it on, with (value at the edge, slope) of each side."""

    edge: Any = eqx.field(converter=jnp.asarray)
    below: Any = eqx.field(converter=jnp.asarray)
    above: Any = eqx.field(converter=jnp.asarray)

    @property
    def readout(self) -> Float[Array, "1"]:
        return jnp.ones(1)

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        value, slope = jnp.where(state < self.edge, self.below[:, None], self.above[:, None])
        return value + slope * (state - self.edge)


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


@pytest.mark.parametrize("name", mostly_long(OPTIMIZERS, "momentum", "adam", "gru"))
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


class Written(AbstractOptimizer):
    """RMSProp as one writes it, with epsilon outside the root, which has no slope at 0."""

    rate: Float[Array, ""]

    @property
    def readout(self) -> Float[Array, "2"]:
        return jnp.stack([jnp.zeros_like(self.rate), -self.rate])

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.zeros(2)

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        second = 0.9 * state[0] + 0.1 * gradient**2
        return jnp.stack([second, gradient / (jnp.sqrt(second) + 1e-8)])


class Root(Written):
    """An update `sqrt(v)`, whose slope at rest is infinite."""

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        second = 0.9 * state[0] + 0.1 * gradient**2
        return jnp.stack([second, jnp.sqrt(second)])


def test_a_root_of_zero_has_a_limit_from_above():
    """The derivative is 0 times infinity; at v just above 0 it is 0, and v decays by 0.9."""
    opt = Written(jnp.asarray(0.1))
    starts = np.array([[0.0, 0.0], [0.3, 0.0], [1e-4, 0.5]])
    found = find_fixed_points(opt, starts)
    assert found.converged.all()
    np.testing.assert_allclose(found.spectral_radius, 0.9, rtol=1e-12)
    theirs = lo.from_optax(optax.rmsprop(0.1, eps_in_sqrt=False))
    model = lo.linearize(opt, opt.initial_state())
    assert model.one_sided
    assert not model.moving
    other = lo.linearize(theirs, theirs.initial_state())
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvals(model.recurrent)), np.sort(np.linalg.eigvals(other.recurrent))
    )
    rates = [float(lo.effective_learning_rate(o, o.initial_state())) for o in (opt, theirs)]
    np.testing.assert_allclose(rates, 0.1 / 1e-8, rtol=1e-12)


def test_an_infinite_slope_is_recorded_and_refused():
    opt = Root(jnp.asarray(0.1))
    found = find_fixed_points(opt, opt.initial_state()[None])
    assert not found.converged.any()
    assert found.reasons == ("the Jacobian is not finite there",)
    assert "1 of them: the Jacobian is not finite there." in str(found).replace("\n", " ")
    with pytest.raises(ValueError, match="`state` must be a point where F has finite derivatives"):
        lo.linearize(opt, opt.initial_state())


def integrator(seed: int, size: int, drift: float) -> Any:
    """`h' = A h + drift v` with `A v = v`: no fixed point unless the drift is 0."""
    random = np.random.default_rng(seed)
    right = random.normal(size=(size, size))
    values = np.append(1.0, random.uniform(0.3, 0.95, size - 1))
    A = jnp.asarray(right @ np.diag(values) @ np.linalg.inv(right))
    v = right[:, 0] / np.linalg.norm(right[:, 0])
    ones = jnp.ones(size)
    return lo.LinearOptimizer(jnp.zeros(size), A, ones, ones, next_state=jnp.asarray(drift * v))


@pytest.mark.parametrize("drift", [0.1, 1e-3, 1e-6, 1e-9])
def test_an_integrator_under_a_held_input_rests_nowhere(drift):
    """320 starts in all. The rounded matrix has a point of speed 0 at a norm of 1e15."""
    starts = 3 * np.random.default_rng(1).normal(size=(16, 8))
    for seed in range(5):
        found = find_fixed_points(integrator(seed, 8, drift), starts)
        assert not found.converged.any()
        assert set(found.reasons) <= {
            "F moves it by more than round-off",
            "it is so large that F does not resolve its own steps there",
        }
        resting = find_fixed_points(integrator(seed, 8, 0.0), starts)
        assert resting.converged.all()


@pytest.mark.parametrize(
    ("momentum", "gradient"), [(0.999, 1e6), (1 - 1e-9, 1.0), (0.9, 1e12), (0.5, -1e100)]
)
def test_fixed_points_of_large_norm_are_found(momentum, gradient):
    found = find_fixed_points(lo.Momentum(0.1, momentum), np.array([[0.0], [-3.0]]), gradient)
    assert found.converged.all()
    # 1 - momentum is itself known to 1e-16 / (1 - momentum).
    np.testing.assert_allclose(found.states, gradient / (1 - momentum), rtol=1e-14 / (1 - momentum))


def test_a_small_coordinate_is_not_hidden_by_a_large_one():
    """A drift of 1e-7 beside a coordinate that keeps the value 1e6."""
    opt = lo.LinearOptimizer(
        jnp.zeros(2), jnp.eye(2), jnp.ones(2), jnp.ones(2), next_state=jnp.array([0.0, 1e-7])
    )
    assert not find_fixed_points(opt, np.array([[1e6, 0.0], [1e6, 1.0]])).converged.any()


def test_a_linearization_says_that_its_point_moves():
    counting = lo.from_optax(optax.MultiSteps(optax.sgd(0.1), 3))
    model = lo.linearize(counting, counting.initial_state())
    assert model.moving
    np.testing.assert_allclose(model.speed, 0.5)
    words = "F moves this state, with speed 0.5: it is no fixed point"
    assert words in str(model).replace("\n", " ")
    assert words in str(lo.eigenmodes(model)).replace("\n", " ")
    resting = lo.linearize(lo.Momentum(0.1, 0.9), np.zeros(1))
    assert not resting.moving
    assert "F moves" not in str(resting)


def test_nothing_is_asked_of_nan_checks():
    """`jax.debug_nans` and `jax.debug_infs` find no NaN of ours."""
    opt = Written(jnp.asarray(0.1))
    line = integrator(0, 3, 0.1)
    with jax.debug_nans(True), jax.debug_infs(True):
        assert find_fixed_points(opt, opt.initial_state()[None]).converged.all()
        assert not find_fixed_points(line, np.ones((1, 3))).converged.any()
        assert lo.linearize(opt, opt.initial_state()).one_sided


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


ROOTS = {"a root of v": lambda rate: Written(jnp.asarray(rate))}


@pytest.mark.parametrize("name", [*OPTIMIZERS, *ROOTS])
def test_one_direction_tells_where_the_jacobian_is_not_finite(name):
    """At roots of 0, at random states, and at both together."""
    optimizer = (OPTIMIZERS | ROOTS)[name](0.1)
    start = np.asarray(optimizer.initial_state(), float)
    draws = np.abs(np.random.default_rng(0).normal(size=(70, len(start))))
    states = np.concatenate([start[None], np.zeros((1, len(start))), draws])
    gradients = np.where(np.arange(len(states)) % 2, 0.5, 0.0)
    with double_precision():
        double = as_double(optimizer)
        following, one_sided = probe(double, states, gradients)
        found = expand(double, states, gradients)
    np.testing.assert_allclose(following, found.following, rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(one_sided, found.one_sided)
    if name in ROOTS:
        assert one_sided[0]  # a root of 0 at the start


@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("gradient", [1e-5, 1e-6, 1e-7])
def test_a_small_held_gradient_after_large_ones(gradient, size):
    """The mean square has to fall by up to 18 orders, and the update is divided by its root."""
    adaptation = lo.BoxAdaptation(memory=0.99, exponent=0.5, floor=1e-20)
    opt = lo.WhiteBox(1e-3, momentum=0.9, adaptation=adaptation)
    states = visited_states(opt, size * jr.normal(jr.key(0), (60,)))[::6]
    found = lo.find_fixed_points(opt, states, gradient)
    assert found.converged.all()
    square = float(np.float32(gradient)) ** 2
    kept = float(np.float32(0.9))
    memory = 10.0 * gradient / np.sqrt(square + 1e-20)
    expected = [[memory * 0.1 / (1 - kept), square, memory * 0.1 / (1 - kept)]]
    np.testing.assert_allclose(found.distinct, expected, rtol=1e-5)


@pytest.mark.parametrize("gradient", [0.3, 5.0, 100.0])
def test_the_running_maximum_of_amsgrad(gradient):
    """From a small second moment up to g^2: searches cross the kink of the maximum."""
    opt = lo.from_optax(optax.amsgrad(1e-3), at_step=1000)
    states = visited_states(opt, 0.1 * jr.normal(jr.key(0), (100,)))[::10]
    found = lo.find_fixed_points(opt, states, gradient)
    assert found.converged.all()
    first, second = gradient, gradient**2
    np.testing.assert_allclose(found.states[:, 0], first, rtol=1e-6)
    np.testing.assert_allclose(found.states[:, 1], second, rtol=1e-6)


def test_what_the_update_divides_by_is_at_rest_only_where_it_is():
    """AdaBelief: g - m is 0 under a held gradient, so that v ends at eps_root / (1 - b2) = 1e-13.

    F moves v = 1e-10 by 1e-13, which no coordinate of a size of 1 would show.
    """
    opt = lo.from_optax(optax.adabelief(1e-3), at_step=1000)
    states = visited_states(opt, jr.normal(jr.key(0), (100,)))[::20]
    found = lo.find_attractors(opt, states, 0.3)
    assert not len(found.states)  # 0.999^20,000 is 2e-9
    found = lo.find_attractors(opt, states, 0.3, steps=60_000)
    root = np.sqrt(1e-13 / (1 - 0.999**1000))
    update = -1e-3 * 0.3 / (1 - 0.9**1000) / (root + 1e-16)
    np.testing.assert_allclose(found.states, [[0.3, 1e-13, update]], rtol=1e-3)
    assert found.shares == 1


@pytest.mark.parametrize(
    ("edge", "below", "above"),
    [(1.0, (2.0, 0.5), (0.0, 0.5)), (2.0, (3.0, 1.0), (0.0, 1.0)), (2.5, (3.0, 1.0), (1.5, 1.0))],
)
def test_a_jump_over_the_diagonal_is_no_fixed_point(edge, below, above):
    """F goes from above h to below h without a value between: searches end at the edge."""
    opt = Jumping(edge, below, above)
    starts = np.append(np.linspace(0, 3, 7), np.nextafter(edge, 0))[:, None]
    found = find_fixed_points(opt, starts)
    assert not found.converged.any()
    assert set(found.reasons) == {"F moves it by more than round-off"}
    assert np.all(found.speeds > 0.1)
    assert not len(lo.find_attractors(opt, starts, steps=200).states)
    assert lo.linearize(opt, starts[-1]).moving


def test_beside_a_jump_fixed_points_are_found():
    """`h' = h / 2 + 1/4` below 1 rests at 1/2; above 1, `h' = h / 2 + 2` rests at 4."""
    starts = np.array([[-2.0], [0.9], [1.0], [9.0]])
    found = find_fixed_points(Jumping(1.0, (0.75, 0.5), (2.5, 0.5)), starts)
    assert found.converged.all()
    np.testing.assert_allclose(found.states[:, 0], [0.5, 0.5, 4, 4], atol=1e-12)
