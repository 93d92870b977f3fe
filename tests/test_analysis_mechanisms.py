"""Mechanisms on planted optimizers: those that have one show it, those that lack it do not."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float
from planted import PLANTED
from synthetic_records import mechanisms
from tables import OPTIMIZERS, Quadratic, gru, mostly_long

import lrevopt as lo
from lrevopt.analysis import (
    analyze,
    find_fixed_points,
    fit_projection,
    held_gradients,
    measure_adaptation,
    measure_clipping,
    measure_schedule,
)
from lrevopt.analysis.adaptation import adaptation_facts
from lrevopt.analysis.clipping import clipping_facts
from lrevopt.analysis.convergence import main_fixed_point
from lrevopt.analysis.iteration import iterated
from lrevopt.analysis.precision import as_double
from lrevopt.analysis.projections import state_variance
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.inner_loop import unroll
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.text import number

POOLED_GRADIENTS = np.random.default_rng(0).normal(size=5000)


class Creeping(AbstractOptimizer):
    """Momentum whose other coordinate never rests: `a' = a + a^2 + 1e-3`, `v' = v / 2 + g`."""

    readout: Float[Array, "2"]

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.array([-0.3, 0.0])

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        return jnp.stack([state[0] + state[0] ** 2 + 1e-3, state[1] / 2 + gradient])


def initial(opt):
    return np.asarray(opt.initial_state())[None]


def sweep(opt, largest):
    held = held_gradients(largest, each_sign=5)
    rest = np.zeros(initial(opt).shape[1])
    return measure_adaptation(opt, rest, held, initial(opt), steps=100)


def test_momentum_has_no_mechanism_but_momentum():
    opt = lo.Momentum(0.3, 0.9)
    for states in ([[0.0], [2.0]], [[2.0], [0.0]]):
        clipping = measure_clipping(opt, np.array(states), POOLED_GRADIENTS)
        np.testing.assert_allclose(clipping.saturation, 1, rtol=1e-12)
        np.testing.assert_allclose(clipping.knees, np.abs(POOLED_GRADIENTS).max(), rtol=1e-12)
        assert clipping.beyond_knee == 0
        np.testing.assert_allclose(clipping.affine_fit, 1, rtol=1e-12)
    schedule = measure_schedule(opt, 20)
    np.testing.assert_allclose(schedule.rates, 0.3, rtol=1e-15)
    np.testing.assert_array_equal(schedule.updates, 0)
    assert schedule.readout_angle == 90
    adaptation = sweep(opt, 3.0)
    np.testing.assert_allclose(adaptation.rates, 0.3, rtol=1e-15)
    np.testing.assert_allclose(adaptation.points[:, 0], adaptation.gradients / 0.1, rtol=1e-9)
    np.testing.assert_allclose(adaptation.spectral_radius, 0.9, rtol=1e-15)
    assert adaptation.converged.all()
    np.testing.assert_array_equal(adaptation.distinct, 1)
    # 0.9^k first falls below a half at k = 7.
    np.testing.assert_array_equal(adaptation.half_steps, np.where(adaptation.gradients == 0, 0, 7))


def test_clipping_has_its_knee_at_the_threshold():
    clipping = measure_clipping(
        lo.ClippedGradientDescent(0.1, 0.8), np.zeros((1, 1)), POOLED_GRADIENTS
    )
    np.testing.assert_allclose(clipping.knees, 0.8, rtol=1e-12)
    np.testing.assert_allclose(
        clipping.beyond_knee, np.mean(np.abs(POOLED_GRADIENTS) > 0.8), atol=1e-3
    )
    far = np.quantile(np.abs(POOLED_GRADIENTS), 0.999)
    np.testing.assert_allclose(clipping.saturation, 0.8 / far, rtol=1e-12)
    assert clipping.affine_fit < 0.99
    np.testing.assert_allclose(np.sum(clipping.density * np.diff(clipping.edges)), 1, rtol=1e-12)


def test_knees_and_bends_are_seen_far_below_the_largest_gradient():
    """u = g / (1 + g^2) / 2 has its extreme at 1, where the largest gradient is 54321."""
    pooled = np.append(POOLED_GRADIENTS, 54321.0)
    clipping = measure_clipping(PLANTED["bending"], np.zeros((1, 3)), pooled)
    np.testing.assert_allclose(clipping.knees, 0.5, rtol=1e-3)
    assert len(clipping.gradients) == 2001
    np.testing.assert_array_equal(clipping.gradients, -clipping.gradients[::-1])
    assert (np.diff(clipping.gradients) > 0).all()
    assert clipping.gradients[1000] == 0


def test_clipping_of_no_gradient_at_all_is_a_straight_line():
    clipping = measure_clipping(lo.GradientDescent(0.1), np.zeros((1, 1)), np.zeros(100))
    assert clipping.affine_fit == 1
    assert clipping.beyond_knee == 0


class Shaped(AbstractOptimizer):
    """`x' = x - rate shape(g)`, without a memory."""

    rate: Float[Array, ""]
    shape: Callable[[Float[Array, ""]], Float[Array, ""]]

    @property
    def readout(self) -> Float[Array, "1"]:
        return -self.rate[None]

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return self.shape(gradient)[None]


def signed_root(gradient):
    """Its slope at 0 is infinite."""
    return jnp.sign(gradient) * jnp.sqrt(jnp.abs(gradient))


def test_without_a_tangent_there_is_no_knee_and_a_constant_is_straight():
    root, sign, still = (
        measure_clipping(Shaped(jnp.asarray(rate), shape), np.zeros((2, 1)), POOLED_GRADIENTS)
        for rate, shape in ((0.1, signed_root), (0.1, jnp.sign), (0.0, jnp.tanh))
    )
    assert np.isnan([*root.knees, root.beyond_knee, root.saturation]).all()
    assert all(said.startswith("cannot tell: the update") for _, said in clipping_facts(root))
    assert np.isposinf([*sign.knees, sign.saturation]).all()
    assert np.isposinf(still.knees).all()
    assert (still.saturation, still.beyond_knee, sign.beyond_knee) == (1, 0, 0)


def test_rmsprop_lowers_its_rate_for_held_gradients():
    rate, epsilon = 0.2, 1e-6
    adaptation = sweep(lo.RMSProp(rate, 0.9, epsilon), 5.0)
    # At rest v = g^2, and the slope at zero gradient is rate / sqrt(0.9 g^2 + epsilon).
    expected = rate / np.sqrt(0.9 * adaptation.gradients**2 + epsilon)
    np.testing.assert_allclose(adaptation.rates, expected, rtol=1e-9)
    assert adaptation.converged.all()


def test_adam_has_a_schedule_by_its_bias_correction():
    """Slope at rest: (1 - b1) / (1 - b1^k) / epsilon, which falls to 1 - b1 of the first."""
    schedule = measure_schedule(lo.Adam(0.1, 0.8, 0.99, epsilon=0.5), 60)
    k = np.arange(1, 62)
    np.testing.assert_allclose(schedule.rates, 0.1 * 0.2 / (1 - 0.8**k) / 0.5, rtol=1e-12)


def test_projection_finds_a_planted_plane():
    rng = np.random.default_rng(2)
    plane = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    coordinates = rng.normal(size=(400, 2)) * [3.0, 1.0]
    states = coordinates @ plane.T + 5
    projection = fit_projection(states)
    np.testing.assert_allclose(projection.explained_variance[:2].sum(), 1, rtol=1e-12)
    projected = projection(states)
    # Distances survive; the third component has nothing to show.
    gaps = np.linalg.norm(coordinates[1:] - coordinates[:-1], axis=1)
    np.testing.assert_allclose(np.linalg.norm(np.diff(projected, axis=0), axis=1), gaps, rtol=1e-9)
    few = fit_projection(states[:, :1])
    assert few.components.shape == (3, 1)
    np.testing.assert_array_equal(few.components[1:], 0)
    still = fit_projection(np.ones((5, 2)))
    np.testing.assert_array_equal(still.explained_variance, 0)
    with pytest.raises(ValueError, match="`states` must hold at least two points, got 1"):
        fit_projection(states[:1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [4, 50, 5000])
def test_round_off_is_no_component(points, dtype):
    """Of points on a line far from the origin, fewer and more than they have coordinates."""
    along = np.random.default_rng(3).normal(size=(points, 1))
    states = (30 + along * [1.0, 2.0, -1.0, 0.5, 0.0, 3.0]).astype(dtype)
    projection = fit_projection(states)
    assert projection.explained_variance[0] > 0.99
    np.testing.assert_array_equal(projection.explained_variance[1:], 0)
    np.testing.assert_array_equal(projection.components[1:], 0)
    small = states.astype(float)
    small[:, 4] += 1e-4 * np.random.default_rng(4).normal(size=points)
    if dtype == np.float64:  # 1e-5 of the spread is seen
        assert np.count_nonzero(fit_projection(small).components.any(axis=1)) == 2


def test_a_path_that_stands_still_is_at_right_angles_to_the_readout():
    rest = jnp.array([0.1, 0.3, 0.7])
    opt = lo.LinearOptimizer(rest, 0.5 * jnp.eye(3), jnp.ones(3), jnp.array([1.0, 0.0, 0.0]))
    assert measure_schedule(opt, 50).readout_angle == 90


def test_visits_are_runs_however_many_go_at_a_time(monkeypatch):
    task = Quadratic(jnp.array([1.0, 0.3, 0.1]), jnp.array([1.0, -2.0, 3.0]))
    opt = gru(0.1)
    run = lo.unroll(opt, task, task.sample(jr.key(0)), 6)
    sampled = sample_states(opt, task, key=jr.key(1), problems=3, steps=6)
    assert sampled.states.shape == (9, 7, 8)
    # Every problem of this task is the same, and all three parameters are kept, in any order.
    order = np.argsort(sampled.gradients[:, 0].reshape(3, 3), axis=1)
    start = np.argsort(run.gradients[0])
    for p in range(3):
        states = sampled.states.reshape(3, 3, 7, 8)[p, order[p]]
        expected = np.swapaxes(run.states, 0, 1)[start]
        np.testing.assert_allclose(states, expected, rtol=1e-9, atol=1e-12)
    pooled = np.sort(np.tile(run.gradients, 3).ravel())
    np.testing.assert_allclose(np.sort(sampled.pooled_gradients), pooled, atol=1e-12)
    monkeypatch.setattr(unroll, "CACHE", 1)
    alone = sample_states(opt, task, key=jr.key(1), problems=3, steps=6)
    # Another program, the same algebra.
    np.testing.assert_allclose(alone.states, sampled.states, rtol=1e-9, atol=1e-12)
    assert alone.diverged == 0


def test_lost_paths_are_counted_and_all_lost_is_refused():
    task = Quadratic(jnp.array([1.0, 1e6]), jnp.array([1.0, 1.0]))
    sampled = sample_states(lo.Momentum(1.0, 0.5), task, key=jr.key(0), problems=2, steps=100)
    assert (sampled.diverged, len(sampled.states)) == (2, 2)
    assert np.isfinite(sampled.pooled_gradients).all()
    steep = Quadratic(jnp.array([1e6]), jnp.array([1.0]))
    with pytest.raises(ValueError, match="diverged on all 2"):
        sample_states(lo.Momentum(1.0, 0.5), steep, key=jr.key(0), problems=2, steps=100)


def test_state_variance_and_spread():
    states = np.zeros((4, 3, 2))
    states[:2, 1] = 1.0  # half of the paths at (1, 1): variance 1/4 in each coordinate
    np.testing.assert_array_equal(state_variance(states), [0, 0.5, 0])
    np.testing.assert_array_equal(evenly_spaced(np.arange(11), 3), [0, 5, 10])
    np.testing.assert_array_equal(evenly_spaced(np.arange(2), 3), [0, 1])


@pytest.mark.parametrize("name", mostly_long(["momentum", "gru"], "momentum"))
def test_analysis_of_the_whole(name):
    opt = OPTIMIZERS[name](0.02)
    record = analyze(opt, lo.LinearRegression(dim=2), key=jr.key(0), problems=4, steps=20)
    for part, inner in vars(record).items():
        for field, value in vars(inner).items():
            if field not in ("knees", "half_steps"):  # infinite where there is none
                assert np.all(np.isfinite(value)), (part, field)
    assert record.fixed_points.distinct == 1
    assert record.fixed_points.converged_share == 1
    assert record.fixed_points.speed < 1e-16
    assert record.fixed_points.stable
    assert record.states.paths.shape == (8, 21, 3)
    assert record.momentum.updates.shape == (5, 201)
    # An offset: the update at zero gradient moves monotonically with the shift.
    offsets = np.diff(record.momentum.updates[:, 100])
    assert np.all(offsets < 0) or np.all(offsets > 0)
    np.testing.assert_array_equal(record.adaptation.gradients[record.adaptation.arm[0]], 0)
    assert record.adaptation.arm[-1] == len(record.adaptation.gradients) - 1
    # Sweeps pass through the fixed point, which is projected alike.
    fixed_point = record.adaptation.points[record.adaptation.arm[0]]
    np.testing.assert_allclose(fixed_point, record.fixed_points.fixed_point, atol=1e-8)
    if name == "momentum":
        assert record.momentum.linear_error < 1e-12
        np.testing.assert_allclose(record.momentum.learning_rates, 0.02, rtol=1e-15)
        # Units of the state, whose range is that of the velocity.
        np.testing.assert_allclose(
            offsets, -0.02 * 0.9 * np.diff(record.momentum.shifts), rtol=1e-9
        )


@pytest.mark.long
def test_an_untrained_optimizer_can_be_analysed():
    """Its readout is 0: nothing moves, and every ratio to a slope of 0 has to be survived."""
    awake = gru(0.02)
    opt = eqx.tree_at(lambda o: o.weights, awake, jnp.zeros_like(awake.weights))
    record = analyze(opt, lo.LinearRegression(dim=2), key=jr.key(0), problems=4, steps=20)
    np.testing.assert_array_equal(record.momentum.learning_rates, 0)
    assert record.states.typical_update == 0
    assert record.clipping.saturation == 1


@pytest.mark.long
def test_a_line_of_fixed_points_can_be_analysed():
    """A sum of gradients that leaks into the step: everywhere is a fixed point of its own."""
    opt = lo.LinearOptimizer(
        jnp.zeros(2), jnp.array([[1.0, 0.0], [0.02, 0.5]]), jnp.array([0.1, 1.0]), -jnp.ones(2) / 50
    )
    record = analyze(opt, lo.LinearRegression(dim=2), key=jr.key(0), problems=4, steps=20)
    assert record.fixed_points.distinct > 100
    assert record.fixed_points.converged_share == 1
    np.testing.assert_allclose(record.fixed_points.spectral_radius, 1, rtol=1e-12)
    # No held gradient but 0 has a fixed point, and the record says so.
    np.testing.assert_array_equal(record.adaptation.converged, record.adaptation.gradients == 0)
    # Among so many equals, the fixed point is in their midst.
    starts = np.stack([np.linspace(-1, 3, 9), np.zeros(9)], axis=1)
    middle, speed, radius = main_fixed_point(find_fixed_points(opt, starts))
    np.testing.assert_allclose(middle[0], 1, atol=0.01)  # its neighbours are 0.5 away
    assert speed < 1e-16
    np.testing.assert_allclose(radius, 1, rtol=1e-12)


@pytest.mark.long
def test_without_a_fixed_point_the_slowest_state_stands_in():
    """The first coordinate grows by h^2 + 1e-3, which is least, but not 0, at h = 0."""
    opt = Creeping(-0.1 * jnp.ones(2))
    record = analyze(opt, Quadratic(jnp.ones(2), jnp.ones(2)), key=jr.key(0), problems=2, steps=10)
    assert record.fixed_points.converged_share == 0
    assert record.fixed_points.distinct == 0
    np.testing.assert_allclose(record.fixed_points.speed, 1e-6 / 2, rtol=1e-3)


def test_a_defective_jacobian_has_no_rates_but_a_record():
    """Two equal momenta in series share one eigenvector: their modes have no rates of their own."""
    opt = lo.LinearOptimizer(
        jnp.zeros(2), jnp.array([[0.9, 0.0], [1.0, 0.9]]), jnp.array([1.0, 0.0]), -jnp.ones(2) / 500
    )
    record = analyze(opt, lo.LinearRegression(dim=2), key=jr.key(0), problems=4, steps=20)
    np.testing.assert_allclose(
        record.momentum.eigenvalues, 0.9, atol=1e-3
    )  # the root of 1e-8, and some
    assert np.isnan(record.momentum.learning_rates).all()
    assert np.isnan(record.momentum.energy).all()
    # What does not depend on modes is there, and states still move along their common direction.
    np.testing.assert_allclose(record.schedule.rates, 1 / 500, rtol=1e-9)
    assert record.momentum.linear_error < 1e-12
    assert np.all(np.diff(record.momentum.updates[:, 100]) < 0)


def test_learning_rates_under_held_gradients_are_told_of_fixed_points_only():
    """Held gradients are 0, +-0.01, ..., +-1; of an arm without a fixed point that is said."""
    record = mechanisms().adaptation
    outer, inner = (number(0.1 / (1 + size**2)) for size in (1, 10 ** (-4 / 3)))

    def said(converged):
        ((_, sentence),) = adaptation_facts(dataclasses.replace(record, converged=converged))
        return sentence

    left = f"{outer} at the outermost fixed point for negative gradients (1 of the largest)"
    right = "at the outermost fixed point for positive gradients"
    whole = f"0.1 at zero gradient; {left}, {outer} {right} (1 of the largest)"
    assert said(np.full(9, True)) == whole
    assert said(np.arange(9) < 7).endswith(f"; {left}, {inner} {right} (0.0464 of the largest)")
    assert said(np.arange(9) < 5).endswith(f"; {left}, no fixed point found for positive gradients")
    assert said(np.full(9, False)).startswith("0.1 at zero gradient (no fixed point found); no")


def test_points_under_large_held_gradients_are_those_to_which_they_lead():
    """The shipped GRU of Rosenbrock nears them by 0.03 % an update: searches go on from there."""
    opt = as_double(lo.load("rosenbrock"))
    held = np.array([-188.9, -97.85, 50.68, 97.85])
    rest = find_fixed_points(opt, initial(opt)).states[0]
    adaptation = measure_adaptation(opt, rest, held, initial(opt))
    assert adaptation.converged.all()
    assert (adaptation.distinct == 1).all()
    assert (adaptation.spectral_radius > 0.997).all()
    starts = np.broadcast_to(rest, (len(held), len(rest)))
    led = iterated(opt, starts, held, 300_000)
    np.testing.assert_allclose(adaptation.points, led, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("as_user")
def test_refusals():
    opt, task = lo.Momentum(0.1, 0.9), lo.Rosenbrock()
    with pytest.raises(ValueError, match="`problems` must be an integer of at least 1, got 0"):
        analyze(opt, task, key=jr.key(0), problems=0)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1, got -3"):
        sample_states(opt, task, key=jr.key(0), steps=-3)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1, got 0"):
        measure_schedule(opt, 0)
