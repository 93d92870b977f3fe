"""Certificates against closed forms, thousands of samples, and what must not be certified."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array, Float
from tables import OPTIMIZERS, mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.analysis import FixedPoints, find_fixed_points
from lrevopt.certificates import Certificates, certify, functions, intervals
from lrevopt.certificates.intervals import Interval, exactly
from lrevopt.certificates.programs import enclose
from lrevopt.certificates.proofs import value_and_jacobian
from lrevopt.optimizers import AbstractOptimizer


class Map(AbstractOptimizer):
    """`h' = function(h) + g`, coordinate by coordinate or all at once."""

    function: Callable[[Array], Array] = eqx.field(static=True)
    size: int = eqx.field(static=True, default=1)

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.ones(self.size)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.zeros(self.size)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.function(state) + gradient


def points_at(states: Any, gradient: float = 0.0) -> FixedPoints:
    """The record of a search that ended near `states`, without the search."""
    states = np.asarray(states, float)
    count = len(states)
    return FixedPoints(
        states=states,
        speeds=np.zeros(count),
        converged=np.ones(count, bool),
        start=states,
        spectral_radius=np.zeros(count),
        stable=np.ones(count, bool),
        distinct=states,
        assignment=np.arange(count),
        gradient=gradient,
    )


def certified(
    opt: AbstractOptimizer, near: Any, gradient: float = 0.0, **more: Any
) -> Certificates:
    return certify(opt, points_at(near, gradient), **more)


def settled(opt: AbstractOptimizer, gradient: float, steps: int = 60) -> Any:
    """Near the fixed point: the rest is linear, or done by `certify`."""
    state = opt.initial_state()
    for _ in range(steps):
        state = opt.transition(state, jnp.asarray(gradient))
    return np.asarray(state)[None]


def in_ball(rng, count, center, radius):
    """Uniform in a Euclidean ball, with as many on its surface."""
    directions = rng.normal(size=(count, len(center)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = radius * rng.uniform(size=(count, 1)) ** (1 / len(center))
    radii[: count // 2] = radius
    return center + (1 - 1e-12) * radii * directions


@eqx.filter_jit
def iterated(opt, states, gradient, steps):
    once = jax.vmap(opt.transition, (0, None))
    return jax.lax.fori_loop(0, steps, lambda _, h: once(h, gradient), states)


READ = {
    "gradient_descent": [False],
    "clipped": [False],
    "nesterov": [True, False],
    "rmsprop": [True, False],
    "adam": [True, True, True, True, False],
    "equinox_gru": [True, True, True, True, False],
    "white_box": [True, True, True, True, True, False],
}
"""Coordinates that F reads, where that is not all: a last one is the step, or a constant."""


@pytest.mark.parametrize("name", mostly_long(OPTIMIZERS, "momentum", "adam", "gru"))
def test_every_optimizer_gets_its_certificate(name):
    """At rest and under a held gradient; linear ones on the whole space."""
    opt = OPTIMIZERS[name](0.1)
    # Adam is smooth nowhere around its rest, whose proof is of another kind.
    for gradient in (0.0, 0.3) if name == "adam" else (0.3,):
        found = certified(opt, settled(opt, gradient), gradient)
        assert found.certified.all()
        assert found.obstacles == ("",)
        assert found.stability == ("stable",)
        assert found.residuals[0] < 1e-14
        assert found.existence_radius[0] < 1e-12
        np.testing.assert_array_equal(found.read, READ.get(name, found.read | True))
        nonlinear = ("gru", "equinox_gru", "white_box")
        assert np.isinf(found.uniqueness_radius[0]) == (name not in nonlinear)
        assert found.attraction_radius[0] > 1e-2
        assert found.basin_share[0] == 1
        assert found.unsettled == 0
        width = found.upper - found.lower
        # Adam's direction has derivatives of 1 / epsilon = 1e8.
        assert np.all((width >= 0) & (width <= 1e-5))


def test_coordinates_that_are_not_read_follow_from_the_others():
    """A chain: the last reads the middle one, which reads the first, which reads itself."""
    chain = Map(lambda h: jnp.stack([h[0] / 2, 3 * h[0] + 1, h[1] ** 2]), 3)
    found = certified(chain, [[1.01, 4.0, 20.0]], 0.5)
    np.testing.assert_array_equal(found.read, [True, False, False])
    assert found.uniqueness_radius[0] == np.inf
    expected = [1.0, 4.5, 4.5**2 + 0.5]
    np.testing.assert_allclose(found.states[0], expected, rtol=1e-12)
    assert np.all((found.lower[0] <= expected) & (found.upper[0] >= expected))
    assert np.all(found.upper - found.lower < 1e-12)


def test_attractors_and_saddle_with_the_radius_of_theory():
    """For `h' = tanh(3 h)` at 0, A = -1/2 and T' = 1 - A (1 - F'): below 1 where F' > 1."""
    starts = np.array([-2.0, -1.0, -0.9, 0.01, 0.9])[:, None]
    opt = Map(lambda h: jnp.tanh(3 * h))
    found = certify(opt, find_fixed_points(opt, starts))
    order = np.argsort(found.states[:, 0])
    assert [found.stability[i] for i in order] == ["stable", "unstable", "stable"]
    low, zero, high = order
    # F' = 3 sech(3 h)^2 is 1 where cosh(3 h) is the root of 3; radii are found to 1 %.
    radius = np.arccosh(np.sqrt(3)) / 3
    assert 0.985 * radius < found.uniqueness_radius[zero] < radius
    np.testing.assert_allclose(found.uniqueness_radius[low], found.uniqueness_radius[high])
    # F contracts towards the upper point as long as F' < 1, that is from `radius` upwards.
    gap = found.states[high, 0] - radius
    assert 0.95 * gap < found.attraction_radius[high] < gap
    np.testing.assert_allclose(found.spectral_radius[zero], 3, rtol=1e-12)
    np.testing.assert_array_equal(found.basin_share[order], [3 / 5, 0, 2 / 5])
    # kappa = (3 - F') / 2 is 1/3 where F' is 7/3.
    newton = np.arccosh(np.sqrt(9 / 7)) / 3
    assert 0.985 * newton < found.newton_radius[zero] < newton


@pytest.mark.parametrize(
    ("opt", "near", "said"),
    [
        # A line of fixed points.
        (
            lo.LinearOptimizer(jnp.zeros(2), jnp.diag(jnp.array([1.0, 0.5])), jnp.ones(2),
                               jnp.ones(2)),
            [[0.3, 0.0], [-1.0, 0.0]],
            "a line of them",
        ),
        # A double root: the line of steps touches F.
        (Map(lambda h: h + h**2), [[0.0]], "as close as rounding errors"),
        # A jump, whatever its slopes on both sides.
        (Map(lambda h: jnp.where(h >= 0, 0.5 * h, 0.5 * h + 1e-9)), [[0.0]], "too wide"),
        # A root's end: F has a fixed point and no derivative.
        (Map(lambda h: 0.5 * jnp.sqrt(jnp.maximum(h, 0.0))), [[0.0]], "no finite derivative"),
        (Map(jnp.sin), [[0.5]], "no bounds for the operation `sin`"),
    ],
)  # fmt: skip
def test_what_cannot_be_proved_is_not_certified(opt, near, said):
    found = certified(opt, near, steps=1)
    assert len(found.states) == len(near)
    assert not found.certified.any()
    assert all(said in obstacle and obstacle for obstacle in found.obstacles)
    assert np.all(found.existence_radius == np.inf)
    assert set(found.stability) == {"undecided"}
    assert not found.attraction_radius.any()
    assert np.all(np.isinf(found.lower) & np.isinf(found.upper))


def test_kinks_are_no_obstacle():
    """`h' = clip(h, -1, 1) / 2 + |h| / 8` has slopes of at most 5/8, also at its kinks."""
    found = certified(Map(lambda h: jnp.clip(h, -1, 1) / 2 + jnp.abs(h) / 8), [[0.0]])
    np.testing.assert_array_equal(found.states, 0)
    assert found.uniqueness_radius[0] == np.inf
    assert found.attraction_radius[0] == np.inf
    # `h / 2 + sign(h) / 10` jumps at 0, which is 0.2 away from where it rests.
    found = certified(Map(lambda h: h / 2 + jnp.sign(h) / 10), [[0.19], [-0.21]])
    np.testing.assert_allclose(np.sort(found.states[:, 0]), [-0.2, 0.2], rtol=1e-12)
    assert np.all((found.uniqueness_radius > 0.197) & (found.uniqueness_radius <= 0.2))


def test_a_saddle_of_several_coordinates_is_proved_unstable():
    """Rotated, so that no coordinate is an eigenvector; one eigenvalue outside of three."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    matrix = jnp.asarray(rotation @ np.diag([1.1, 0.5, -0.9]) @ rotation.T)
    found = certified(Map(lambda h: jnp.tanh(matrix @ h), 3), 1e-3 * np.ones((1, 3)), steps=1)
    assert found.stability == ("unstable",)
    np.testing.assert_allclose(found.spectral_radius, 1.1, rtol=1e-9)
    # One that flips from side to side neither decays nor grows: no proof either way.
    assert certified(Map(lambda h: -h), [[0.0]], steps=1).stability == ("undecided",)


@pytest.mark.parametrize(
    ("opt", "near", "gradient"),
    [
        (OPTIMIZERS["gru"](0.1), None, 0.8),
        (
            Map(lambda h: jnp.tanh(jnp.array([[2.0, 0.5], [-0.5, 1.8]]) @ h), 2),
            [[0.1, 0.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]],
            0.0,
        ),
    ],
    ids=["gru", "saddles"],
)
def test_a_thousand_starts_in_each_ball_come_to_its_point(opt, near, gradient):
    """By Newton's iteration in its ball, by F itself in that of attraction, by T in the largest."""
    rng = np.random.default_rng(1)
    if near is None:
        near = settled(opt, gradient)
    found = certify(opt, find_fixed_points(opt, jnp.asarray(near), gradient))
    assert found.certified.all()
    points, attracting = found.states, np.array(found.stability) == "stable"
    assert attracting.any()
    np.testing.assert_array_equal(attracting, found.attraction_radius > 0)
    assert np.all((found.newton_radius > 0) & (found.newton_radius < found.uniqueness_radius))
    balls = zip(points, found.newton_radius, strict=True)
    starts = np.concatenate([in_ball(rng, 1000, *ball) for ball in balls])
    ends = find_fixed_points(opt, starts, gradient)
    assert ends.converged.all()
    # Convergence at a speed of 1e-16, magnified by 1 / (1 - eigenvalue).
    np.testing.assert_allclose(ends.states, np.repeat(points, 1000, axis=0), atol=1e-6)
    held = jnp.asarray(gradient)
    for index, center in enumerate(points):
        if attracting[index]:
            states = in_ball(rng, 1000, center, found.attraction_radius[index])
            ends = iterated(opt, jnp.asarray(states), held, jnp.asarray(300))
            # 0.9^300 is 1e-14.
            np.testing.assert_allclose(ends, np.tile(center, (1000, 1)), atol=1e-9)
        jacobian = value_and_jacobian(opt, center, held)[1]
        inverse = np.linalg.inv(np.eye(len(center)) - jacobian)
        states = in_ball(rng, 1000, center, found.uniqueness_radius[index])
        distances = [np.linalg.norm(states - center, axis=1)]
        for _ in range(40):
            image = np.asarray(iterated(opt, jnp.asarray(states), held, jnp.asarray(1)))
            states = states + (image - states) @ inverse.T
            distances.append(np.linalg.norm(states - center, axis=1))
        # Every step is a contraction, down to round-off, slowly at first on the boundary.
        assert np.all(np.diff(distances, axis=0) <= 1e-14)
        assert distances[-1].max() < 0.9 * found.uniqueness_radius[index]


def check_enclosures(opt, gradient, center, read, radii):
    """Values and derivatives at 100 points of each ball, in a frame of its own."""
    program = jax.make_jaxpr(lambda h: opt.transition(h, gradient))(opt.initial_state())
    rng = np.random.default_rng(2)
    frame = np.linalg.qr(rng.normal(size=(sum(read), sum(read))))[0]
    frame[:, 0] *= 2
    for radius in radii:
        with np.errstate(all="ignore"):  # as `certify` does
            values, slopes = enclose(program, center, read, frame, radius)
        states = np.tile(center, (100, 1))
        states[:, read] += in_ball(rng, 100, np.zeros(len(frame)), radius) @ frame.T
        each = [value_and_jacobian(opt, state, gradient) for state in states]
        following, jacobians = map(np.array, zip(*each, strict=True))
        for found, samples in ((values, following), (slopes, jacobians[:, :, read] @ frame)):
            # The samples have rounding errors of their own.
            slack = 1e-13 * np.maximum(1, np.abs(samples))
            assert np.all((found.low <= samples + slack) & (samples - slack <= found.high))
        # No wider than the radius times second derivatives, those of Adam's root being some 1e3.
        assert np.all(slopes.high - slopes.low <= 1e4 * radius + 1e-13)


@pytest.mark.parametrize("name", mostly_long(["gru", "equinox_gru", "adam"], "gru"))
def test_enclosures_hold_values_and_derivatives_of_the_whole_ball(name):
    opt = OPTIMIZERS[name](0.1)
    # After some steps of one gradient Adam's second moment is well above 0.
    center = settled(opt, 0.3, 10)[0]
    read = np.array(READ.get(name, [True] * len(center)))
    check_enclosures(opt, jnp.asarray(0.3), center, read, (1e-9, 1e-3, 0.01))


NUMBERS = st.floats(-30, 30)


@given(NUMBERS, NUMBERS, st.floats(0, 2), st.floats(0, 2), st.floats(0, 1), st.floats(0, 1))
def test_interval_arithmetic_holds_exact_results(a, b, width, other, s, t):
    """Against 64 bits of mantissa instead of 53."""
    wide = np.longdouble
    first, second = Interval(a, a + width), Interval(b, b + other)
    # Points within, computed in double and so representable.
    x = wide(min(max(a + s * width, a), a + width))
    y = wide(min(max(b + t * other, b), b + other))
    results = [
        (first + second, x + y),
        (first - second, x - y),
        (first * second, x * y),
        (first.square(), x * x),
        (functions.power(first, 5), x**5),
        (intervals.hull(first, second), x),
    ]
    if y != 0:
        results.append((second.reciprocal(), 1 / y))
    for name, (above, function, _) in functions.SMOOTH.items():
        if x > above + 1e-3 and a > above:
            exact = {
                "logistic": lambda v: 1 / (1 + np.exp(-v)),
                "rsqrt": lambda v: 1 / np.sqrt(v),
            }.get(name) or getattr(np, name)
            results.append((function(first), exact(x)))
    for found, exact in results:
        assert wide(found.low.item()) <= exact <= wide(found.high.item())


@given(st.integers(0, 10_000))
def test_products_and_norms_are_bounds(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(4, 6)), rng.normal(size=(6, 3)) * 10.0 ** rng.integers(-3, 3)
    spread = 10.0 ** rng.integers(-12, 0)
    first = Interval(a - spread * rng.uniform(size=a.shape), a + spread)
    found = intervals.product(first, exactly(b))
    inner = first.low + rng.uniform(size=a.shape) * (first.high - first.low)
    exact = inner.astype(np.longdouble) @ b.astype(np.longdouble)
    assert np.all((found.low <= exact) & (exact <= found.high))
    norm = np.linalg.norm(inner, 2)
    assert norm <= intervals.norm(first)
    assert np.linalg.norm(np.abs(inner), 2) <= intervals.norm_of_magnitudes(first.magnitude())
    # Tight: the bound exceeds the norm by no more than the widths do.
    assert intervals.norm(first) <= norm + 2 * spread * np.sqrt(a.size) + 1e-12
    assert intervals.norm_of_magnitudes(np.abs(a)) <= 1.01 * np.linalg.norm(np.abs(a), 2)


PIECES: dict[str, tuple[Callable[[Array], Array], int]] = {
    "softplus": (lambda h: jax.nn.softplus(h) / 4, 1),
    "relu": (lambda h: jax.nn.relu(h - 1) / 4 + 0.3, 1),
    "pow": (lambda h: 0.5 * (1 + h**2) ** 0.3 - 0.4 * 0.9 ** (h + 1), 1),
    "rsqrt": (lambda h: 0.3 * h * jax.lax.rsqrt(1 + h**2) + 0.1, 1),
    "log1p": (lambda h: 0.3 * jnp.log1p(h**2) + jnp.expm1(-h) / 9, 1),
    "log": (lambda h: 0.1 * jnp.log(2 + h) + 0.1 * jnp.exp(h), 1),
    "norm": (lambda h: h / (3 + jnp.sqrt(1 + jnp.sum(h**2))) + 0.1, 3),
    "take": (lambda h: h[jnp.array([2, 0, 1])] / 2 + 0.1, 3),
    "roll": (lambda h: jnp.roll(h, 1) / 2 + jnp.flip(h) / 4 + 0.1, 3),
    "einsum": (lambda h: jnp.einsum("i,ij,j->i", h, 0.1 * jnp.ones((3, 3)), h) + 0.1, 3),
    "batches": (lambda h: jnp.einsum("bi,bij->bj", h.reshape(2, 2), 0.2 * jnp.ones((2, 2, 2)))
                .ravel() + 0.1, 4),
    "logic": (lambda h: jnp.where((h > -9) & ~(h > 9), h / 2, h) + 0.1, 1),
    "round": (lambda h: h / 2 + jnp.round(h + 0.3) * 0 + 0.1, 1),
    "clamp": (lambda h: jax.lax.clamp(-1.0, h, 1.0) / 2 + 0.1, 1),
}  # fmt: skip


def all_pieces(state: Array) -> Array:
    ends = np.cumsum([size for _, size in PIECES.values()])
    parts = jnp.split(state, ends[:-1])
    pieces = zip(PIECES.values(), parts, strict=True)
    return jnp.concatenate([function(part) for (function, _), part in pieces])


def test_operations_of_a_wider_world():
    """What optimizers written by others may use; side by side, so that one program is compiled."""
    size = sum(size for _, size in PIECES.values())
    # Away from kinks and jumps; all pieces but the linear ones are curved there.
    center = np.linspace(0.15, 0.25, size)
    check_enclosures(Map(all_pieces, size), np.zeros(()), center, np.ones(size, bool), (1e-6, 1e-2))


def test_records_are_kept_and_refusals(tmp_path):
    opt = lo.Momentum(0.1, 0.9)
    points = points_at([[5.0]], 0.5)
    found = certify(opt, points, jnp.array([[1.0], [3.0], [np.finfo(float).max]]), steps=500)
    # The last is still far away after 500 steps, and so belongs to no basin yet.
    np.testing.assert_allclose(found.basin_share, 2 / 3)
    np.testing.assert_allclose(found.unsettled, 1 / 3)
    storage.save_record(tmp_path / "certificates.npz", found)
    again = storage.load_record(Certificates, tmp_path / "certificates.npz")
    for field, value in found.__dict__.items():
        np.testing.assert_array_equal(getattr(again, field), value)
    # Where the search found nothing there is nothing to certify.
    empty = certify(opt, points_at(np.zeros((0, 1))), np.zeros((2, 1)), steps=3)
    assert empty.states.shape == (0, 1)
    assert empty.unsettled == 1


@pytest.mark.usefixtures("as_user")
def test_bad_arguments_are_refused():
    opt = lo.Momentum(0.1, 0.9)
    points = points_at([[0.0]])
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1, got 0"):
        certify(opt, points, steps=0)
    with pytest.raises(ValueError, match="`visited` must hold at least one state, got none"):
        certify(opt, points, np.zeros((0, 1)))
    with pytest.raises(ValueError, match="`points.distinct` must have shape"):
        certify(lo.Nesterov(0.1, 0.9), points)


@pytest.mark.parametrize("make", [optax.adam, optax.sign_sgd])
def test_coordinates_that_are_not_read_are_those_of_the_point_itself(make):
    """Searches end where the second moment is next to 0, or below, and its root is NaN: the update
    that stands in the record is that of the exact point, 0.
    """
    momentum = optax.chain(optax.ema(0.9, debias=False), make(0.1))
    opt = lo.from_optax(momentum, at_step=100)
    near = np.full((1, len(opt.coordinates)), -1e-18)
    near[0, -1] = 0.1
    found = certify(opt, points_at(near))
    assert found.stability == ("stable",)
    np.testing.assert_array_equal(found.states, np.zeros_like(near))
    np.testing.assert_array_equal(found.residuals, [0.0])
