"""Groups of parameters, lines of fixed points and many modes, on planted optimizers."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float
from planted import GROUPS, Layers, by_group
from tables import gru

import lrevopt as lo
from lrevopt.analysis import (
    analyze_sampled,
    measure_manifold,
    measure_modes,
    measure_parameter_types,
)
from lrevopt.analysis.momentum import separated_modes, shifted_states
from lrevopt.analysis.parameter_types import (
    bias_slowness,
    depth_correlation,
    layers_of,
    log_histograms,
    separation,
)
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.storage import load_record, save_record
from lrevopt.tasks import sample_problems

CURVATURE = by_group(0.02, 1.0, 0.01, 3.0)


class Counting(AbstractOptimizer):
    """Counts the gradient met so far, and divides by it: `s' = s + |g|`, step `-r g / (1 + s')`.

    A line of fixed points without gradient, where the learning rate is `r / (1 + s)`.
    """

    readout: Float[Array, "2"]

    def __init__(self, rate: float):
        self.readout = jnp.array([0.0, -rate])

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.zeros(2)

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        pooled = state[0] + jnp.abs(gradient)
        return jnp.stack([pooled, gradient / (1 + pooled)])


class Restless(AbstractOptimizer):
    """Moves its state by a constant, whatever it meets, and has no fixed point."""

    readout: Float[Array, "1"]

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return state + 1 + 0 * gradient


TASK = Layers(jnp.asarray(CURVATURE))


def trajectories(opt, task, key, problems, steps):
    """What `measure_parameter_types` sees, in full: one `unroll` a problem."""
    drawn = sample_problems(task, jr.split(key)[0], problems)
    each = [jax.tree.map(lambda leaf, p=p: leaf[p], drawn) for p in range(problems)]
    runs = [lo.unroll(opt, task, problem, steps) for problem in each]
    return np.stack([run.states for run in runs]), np.stack([run.gradients for run in runs])


def test_averages_are_those_of_full_trajectories():
    opt, key = gru(0.3), jr.key(0)
    found = measure_parameter_types(opt, TASK, key=key, problems=3, steps=7)
    states, gradients = trajectories(opt, TASK, key, 3, 7)
    assert found.groups == tuple(GROUPS)
    np.testing.assert_array_equal(found.sizes, [6, 2, 5, 2])
    assert found.problems == 3
    for index, place in enumerate(GROUPS.values()):
        own = states[:, :, place].swapaxes(1, 2).reshape(-1, 8, 8)  # path, visited, state
        # Round-off of sums in another order.
        np.testing.assert_allclose(found.states[index], own.mean(axis=0), rtol=0, atol=1e-13)
        spread = np.sqrt(own.var(axis=0).sum(axis=-1))
        np.testing.assert_allclose(found.spreads[index], spread, rtol=1e-9, atol=1e-13)
        # Groups are smaller than the sample, so that all parameters are in it.
        rates = [[lo.effective_learning_rate(opt, state) for state in path[::7]] for path in own]
        mean = np.mean(rates, axis=0)
        np.testing.assert_allclose(found.mean_rates[index, ::7], mean, rtol=1e-9)
        alone = [lo.effective_learning_rate(opt, state) for state in found.states[index, ::7]]
        np.testing.assert_allclose(found.rates[index, ::7], alone, rtol=1e-9)
        first = np.abs(gradients[:, 0, place])
        np.testing.assert_allclose(found.medians[index], np.median(first), rtol=1e-12)
    np.testing.assert_array_equal(found.zeros, 0)


def test_an_optimizer_that_counts_gradients_tells_types_apart():
    found = measure_parameter_types(Counting(0.1), TASK, key=jr.key(1), problems=8, steps=30)
    # Starts are within 1 and 2, so groups whose curvature differs by 50 do not overlap.
    assert found.separation[-1] > 2
    assert np.all(found.bias_slowness[1:] < 0.7)
    np.testing.assert_allclose(found.bias_slowness[0], 1, rtol=1e-12)
    # Later weights meet smaller gradients, later biases larger ones.
    assert found.depth_correlation == pytest.approx({"weight": 1.0, "bias": -1.0})
    np.testing.assert_allclose(
        list(found.bias_gradients.values()), [50, 300], rtol=0.3
    )  # medians of a few starts between 1 and 2
    # Of the mean state, which is not the mean of the rates: 1 / (1 + s) is convex.
    np.testing.assert_allclose(found.rates, 0.1 / (1 + found.states[..., 0]), rtol=1e-12)
    assert np.all(found.mean_rates[:, 1:] > found.rates[:, 1:])


def test_an_optimizer_that_sees_nothing_does_not():
    found = measure_parameter_types(
        Restless(jnp.array([-0.1])), TASK, key=jr.key(1), problems=3, steps=5
    )
    np.testing.assert_array_equal(found.separation, 0)
    np.testing.assert_array_equal(found.rates, 0)
    assert np.isnan(list(found.depth_correlation.values())).all()
    np.testing.assert_array_equal(found.states[0, :, 0], np.arange(6))


def test_problems_that_diverge_are_left_out():
    """Starts are random: at this rate the steepest bias leaves the finite numbers everywhere."""
    with pytest.raises(ValueError, match=r"finite on some problem of Layers, .* diverged on all 3"):
        measure_parameter_types(lo.GradientDescent(1e9), TASK, key=jr.key(0), problems=3, steps=60)


@pytest.mark.usefixtures("as_user")
def test_refusals():
    with pytest.raises(
        ValueError, match="`task` must have at least two groups .* Rosenbrock has one"
    ):
        measure_parameter_types(lo.Momentum(0.1, 0.9), lo.Rosenbrock(), key=jr.key(0))
    with pytest.raises(ValueError, match="`problems` must be an integer of at least 1, got 0"):
        measure_parameter_types(lo.Momentum(0.1, 0.9), TASK, key=jr.key(0), problems=0)
    sampled = sample_states(lo.Momentum(0.1, 0.9), TASK, key=jr.key(0), problems=2, steps=3)
    with pytest.raises(ValueError, match="`count` must be an integer of at least 1, got 0"):
        measure_modes(lo.Momentum(0.1, 0.9), sampled, 0)
    with pytest.raises(ValueError, match="`searches` must be an integer of at least 1, got 0"):
        measure_manifold(lo.Momentum(0.1, 0.9), sampled, 0)


def test_separation_is_distance_between_over_distance_within():
    rng = np.random.default_rng(0)
    means, scale = rng.normal(size=(4, 1, 3)), 0.3
    draws = means + scale * rng.normal(size=(4, 5000, 3))
    found = separation(means, draws.var(axis=1).sum(axis=-1)[:, None])
    between = [np.sum((a - b) ** 2) for k, a in enumerate(means[:, 0]) for b in means[:k, 0]]
    within = np.sum((draws[:, ::2] - draws[:, 1::2]) ** 2, axis=-1)
    # 10,000 pairs: a standard error of about 0.5 %.
    np.testing.assert_allclose(found, np.sqrt(np.mean(between) / within.mean()), rtol=0.02)
    np.testing.assert_array_equal(separation(np.ones((2, 1, 3)), np.zeros((2, 1))), 0)
    np.testing.assert_array_equal(separation(means, np.zeros((4, 1))), np.inf)


def test_statistics_of_names_of_your_own():
    names = ("alpha", "beta", "block.0.weight", "block.0.bias", "block.1.weight")
    layers = layers_of(names)
    assert layers == {
        "alpha": {"parameters": "alpha"},
        "beta": {"parameters": "beta"},
        "block.0": {"weight": "block.0.weight", "bias": "block.0.bias"},
        "block.1": {"weight": "block.1.weight"},
    }
    rates = {name: np.full(3, float(value)) for value, name in enumerate(names, 1)}
    # Only layers that have both count, and only kinds of two layers.
    np.testing.assert_allclose(bias_slowness(layers, rates), 4 / 3)
    assert depth_correlation(layers, rates) == pytest.approx({"parameters": 1.0, "weight": 1.0})
    assert np.isnan(bias_slowness(layers_of(("alpha", "beta")), rates)).all()


def test_kernels_are_weights():
    """Flax's names, and those of plain dictionaries, beside kinds that have no other name."""
    names = ("embed.embedding", "norm.scale", "norm.bias", "dense.kernel", "dense.bias", "out.w")
    assert layers_of((*names, "out.b", "odd.weight", "odd.kernel")) == {
        "embed": {"embedding": "embed.embedding"},
        "norm": {"scale": "norm.scale", "bias": "norm.bias"},
        "dense": {"weight": "dense.kernel", "bias": "dense.bias"},
        "out": {"weight": "out.w", "bias": "out.b"},
        "odd": {"weight": "odd.weight", "kernel": "odd.kernel"},
    }


def test_histograms_count_zeros_in_their_total():
    sizes = 10.0 ** np.random.default_rng(0).uniform(-4, -1, 20_000)
    halved = np.where(np.arange(20_000) % 2, sizes, 0.0)
    edges, histograms = log_histograms([sizes, halved, np.zeros(5)])
    # 0.5 % lies below the first edge.
    np.testing.assert_allclose(histograms @ np.diff(edges), [0.995, 0.4975, 0], atol=2e-3)
    edges, histograms = log_histograms([np.zeros(3), np.zeros(2)])
    assert np.all(np.diff(edges) > 0)
    np.testing.assert_array_equal(histograms, 0)


def test_visits_take_each_group_alike_and_gradients_as_they_come():
    key = jr.key(3)
    sampled = sample_states(Counting(0.1), TASK, key=key, problems=5, steps=4, parameters=8)
    states, gradients = trajectories(Counting(0.1), TASK, key, 5, 4)
    # Eight parameters over four groups are two of each, here all of a bias.
    assert sampled.states.shape == (5 * 8, 5, 2)
    first = sampled.gradients[:, 0].reshape(5, 4, 2)
    for index, place in enumerate(GROUPS.values()):
        for p in range(5):
            own = gradients[p, 0, place]
            kept = [np.flatnonzero(np.isclose(own, g, rtol=1e-12)).item() for g in first[p, index]]
            assert len(set(kept)) == 2
            expected = np.swapaxes(states[p][:, place][:, kept], 0, 1)
            got = sampled.states.reshape(5, 4, 2, 5, 2)[p, index]
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
    # Fewer parameters than are kept: all gradients, each once.
    np.testing.assert_allclose(
        np.sort(sampled.pooled_gradients), np.sort(gradients.ravel()), rtol=1e-12
    )


def test_a_line_of_fixed_points_is_found_with_its_learning_rates():
    opt = Counting(0.5)
    sampled = sample_states(opt, TASK, key=jr.key(0), problems=6, steps=20)
    line = measure_manifold(opt, sampled, 50)
    assert line.share == 1
    # The searches leave the count alone, and the step within sqrt(2e-8) of 0.
    np.testing.assert_allclose(line.participation_ratio, 1, rtol=1e-7)
    np.testing.assert_allclose(line.nearest, 1, rtol=1e-12)
    np.testing.assert_allclose(line.persistence, 1, rtol=1e-7)
    assert 0.9 < line.extent < 1.1
    even = dataclasses.replace(line, speeds=np.geomspace(1e-12, 1e-8, 50))
    # 90 % of four decades; quantiles lie between two of the points, 0.08 decades apart.
    np.testing.assert_allclose(even.speed_decades, 3.6, atol=0.01)
    counts = 0.5 / line.rates - 1
    size = np.sqrt(sampled.states.reshape(-1, 2).var(axis=0).sum())
    place = size * (line.positions - line.positions[0])
    np.testing.assert_allclose(np.abs(place), np.abs(counts - counts[0]), atol=1e-3)
    np.testing.assert_allclose(line.rate_ratio, line.rates.max() / line.rates.min())
    assert line.rate_ratio > 2
    assert 0.02 < line.largest_gap < 0.5
    two_pieces = np.concatenate([np.linspace(3, 4, 25), np.linspace(0, 1, 25)])
    broken = dataclasses.replace(line, positions=two_pieces)
    # Two of fifty points at each end are left out.
    np.testing.assert_allclose(broken.largest_gap, 2 / (4 - 4 / 24), rtol=1e-12)
    assert line.positions[line.chosen[0]] == line.positions.min()
    assert line.positions[line.chosen[-1]] == line.positions.max()
    assert line.updates.shape == (len(line.chosen), len(line.gradients))


def test_one_fixed_point_is_not_taken_for_a_line():
    opt = lo.Momentum(0.1, 0.9)
    sampled = sample_states(opt, TASK, key=jr.key(0), problems=6, steps=20)
    point = measure_manifold(opt, sampled, 50)
    assert point.share == 1
    # Slow within 1.4e-4 / (1 - 0.9), of velocities about 10.
    assert point.extent < 2e-3
    np.testing.assert_allclose(point.persistence, 0.9**20, rtol=1e-9)
    np.testing.assert_allclose(point.nearest, 0.9, rtol=1e-12)
    np.testing.assert_allclose(point.rate_ratio, 1, rtol=1e-12)


def test_an_optimizer_without_rest_has_no_points():
    opt = Restless(jnp.array([-0.1]))
    sampled = sample_states(opt, TASK, key=jr.key(0), problems=2, steps=5)
    nothing = measure_manifold(opt, sampled, 10)
    assert nothing.share == 0
    assert nothing.points.shape == (0, 3)
    assert nothing.participation_ratio == 0
    ratios = [
        nothing.extent, nothing.persistence, nothing.rate_ratio, nothing.speed_decades,
        nothing.largest_gap,
    ]  # fmt: skip
    assert np.isnan(ratios).all()


def test_modes_of_momentum_lift_and_do_not_tilt():
    rates, momenta = np.array([0.3, 0.2, 0.1]), np.array([0.5, 0.95, 0.8])
    opt = lo.AggregatedMomentum(rates.tolist(), momenta.tolist())
    sampled = sample_states(opt, TASK, key=jr.key(0), problems=4, steps=20)
    moved = measure_modes(opt, sampled)
    assert len(moved.modes) == 3  # all there are
    slowest = [1, 2, 0]
    # Moving velocity j by s moves the update by -rate_j momentum_j s.
    np.testing.assert_allclose(
        moved.offsets, -(rates * momenta)[slowest, None] * moved.shifts, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(moved.rates, rates.sum(), rtol=1e-12)
    np.testing.assert_allclose(moved.tilt, 0, atol=1e-12)
    assert np.all(moved.lift > 0.01)


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_displacements_reach_as_far_as_states_do(angle):
    """States on the unit circle, from one coordinate or from a pair that turns by an angle."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turning = 0.9 * np.array([[cosine, -sine], [sine, cosine if angle else 0.5]])
    opt = lo.LinearOptimizer(
        jnp.zeros(2), jnp.asarray(turning), jnp.array([1.0, 0.0]), jnp.array([-0.1, 0.0])
    )
    model = lo.linearize(opt, np.zeros(2))
    around = np.linspace(0, 2 * np.pi, 1000)
    states = np.stack([np.cos(around), np.sin(around)], axis=1)[None]
    moved, shifts = shifted_states(model, separated_modes(model), states)
    reach = np.quantile(np.abs(np.cos(around)), 0.95)
    np.testing.assert_allclose(shifts[[0, -1]], [-reach, reach], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), np.abs(shifts), rtol=1e-6)


def test_moving_along_a_line_of_fixed_points_tilts():
    sampled = sample_states(Counting(0.5), TASK, key=jr.key(0), problems=4, steps=20)
    moved = measure_modes(Counting(0.5), sampled)
    assert moved.modes[0] == 0
    assert moved.tilt[0] > 0.1
    assert moved.lift[0] == 0


@pytest.mark.long
def test_of_a_conjugate_pair_one_is_shown():
    eigenvalues = jnp.array([0.9, 0.6 + 0.2j, 0.6 - 0.2j])
    opt = lo.ModeOptimizer(eigenvalues, 0.1 * jnp.array([1.0, 0.2 + 0.1j, 0.2 - 0.1j]))
    sampled = sample_states(opt, TASK, key=jr.key(0), problems=2, steps=10)
    # Each complex coordinate is a state of two, whose own conjugate is a mode without effect.
    sizes = np.abs(
        analyze_sampled(opt, sampled).momentum.eigenvalues[measure_modes(opt, sampled).modes]
    )
    np.testing.assert_allclose(sizes, [0.9, 0.9, *[np.hypot(0.6, 0.2)] * 2], rtol=1e-12)


@pytest.mark.long
def test_a_network_can_be_taken_apart_and_the_records_saved(tmp_path):
    """All of the analysis on a small convolutional network, for a few steps."""
    task = lo.MNIST(source="digits", side=14, batch=20)
    opt = gru(0.01)
    sampled = sample_states(opt, task, key=jr.key(0), problems=2, steps=3)
    groups = len(task.parameter_groups)
    assert len(sampled.states) == 2 * groups * 3  # 20 parameters are three of each of 8 groups
    types = measure_parameter_types(opt, task, key=jr.key(0), problems=2, steps=3)
    assert types.sizes.sum() == task.sample(jr.key(0)).initial_parameters.size
    assert set(types.depth_correlation) == {"weight", "bias"}
    assert len(types.bias_gradients) == groups // 2
    records = (types, measure_manifold(opt, sampled, 20), measure_modes(opt, sampled))
    for record in records:
        save_record(tmp_path / "record.npz", record)
        again = load_record(type(record), tmp_path / "record.npz")
        for name, value in vars(record).items():
            np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)
