"""White boxes: the textbook optimizers are settings of them, and every part does what it says."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tables import Quadratic, mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop.steps import visited_states
from lrevopt.optimizers.shipped_files import DISTILLED
from lrevopt.optimizers.white_box import PARTS
from lrevopt.optimizers.white_box_documents import box_of, distilled_names, document_of

GRADIENTS = jnp.asarray(np.random.default_rng(3).normal(size=60) * np.geomspace(30, 1e-3, 60))

PAIR = lo.BoxMomentum((0.9, 0.5 + 0.4j), (0.7, 0.3 + 0.1j))

FULL: dict[str, Any] = {
    "momentum": PAIR,
    "saturation": lo.BoxSaturation(2.0, 3.0, 0.2),
    "adaptation": lo.BoxAdaptation(0.95, 0.3, 0.1),
    "schedule": lo.BoxSchedule(2.0, 20.0),
    "agreement": lo.BoxAgreement(0.8, 0.6, 0.3, -0.4),
}


def updates(optimizer, gradients=GRADIENTS, start=None):
    """Updates of the parameter under given gradients."""
    return eqx.filter_jit(_updates)(optimizer, gradients, start)


def _updates(optimizer, gradients, start):
    return visited_states(optimizer, gradients, start=start)[1:] @ optimizer.readout


def adam_without_correction(rate, b1, b2, epsilon):
    """Our Adam after infinitely many steps has no correction: powers of b1 and b2 are 0."""
    return updates(lo.Adam(rate, b1, b2, epsilon), start=jnp.zeros(5))


EXACT: dict[str, Any] = {
    "descent": (lo.WhiteBox(0.1), lambda: updates(lo.GradientDescent(0.1))),
    "momentum": (lo.WhiteBox.of_momentum(0.1, 0.9), lambda: updates(lo.Momentum(0.1, 0.9))),
    "negative momentum": (
        lo.WhiteBox.of_momentum(0.1, -0.4), lambda: updates(lo.Momentum(0.1, -0.4))),
    "no momentum": (lo.WhiteBox.of_momentum(0.1, 0.0), lambda: updates(lo.GradientDescent(0.1))),
    "nesterov": (lo.WhiteBox.of_nesterov(0.1, 0.9), lambda: updates(lo.Nesterov(0.1, 0.9))),
    "clipped": (
        lo.WhiteBox.of_clipped(0.1, 2.0), lambda: updates(lo.ClippedGradientDescent(0.1, 2.0))),
    "rmsprop": (
        lo.WhiteBox.of_rmsprop(0.1, 0.95, 1e-6), lambda: updates(lo.RMSProp(0.1, 0.95, 1e-6))),
    "adam": (
        lo.WhiteBox.of_adam(0.1, 0.8, 0.95, 1e-6),
        lambda: adam_without_correction(0.1, 0.8, 0.95, 1e-6)),
    "aggregated": (
        lo.WhiteBox(0.3, momentum=lo.BoxMomentum((0.5, 0.95), (2 / 3, 1 / 3))),
        lambda: updates(lo.AggregatedMomentum([0.2, 0.1], [0.5, 0.95]))),
    "modes": (
        lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.5 - 0.4j, 0.9), (0.3 + 0.1j, 0.7))),
        lambda: updates(lo.ModeOptimizer(
            jnp.array([0.9, 0.5 - 0.4j]), 0.1 * jnp.array([0.7, 0.3 + 0.1j])))),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_long(EXACT, "momentum", "adam", "modes"))
def test_textbook_optimizers_are_exact_settings(name):
    box, expected = EXACT[name]
    # Round-off of coordinates and of 60 steps.
    np.testing.assert_allclose(updates(box), expected(), rtol=1e-12, atol=1e-14)


OPTAX: dict[str, Any] = {
    "momentum": (lo.WhiteBox.of_momentum(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "nesterov": (lo.WhiteBox.of_nesterov(0.1, 0.9), optax.sgd(0.1, 0.9, nesterov=True)),
    "clipped": (lo.WhiteBox.of_clipped(0.1, 2.0), optax.chain(optax.clip(2.0), optax.sgd(0.1))),
    "rmsprop": (lo.WhiteBox.of_rmsprop(0.1, 0.9, 1e-6), optax.rmsprop(0.1, 0.9, 1e-6)),
    "adam": (
        lo.WhiteBox(0.1 * 0.2, momentum=0.8, adaptation=lo.BoxAdaptation(
            0.95, 0.5, 1e-6, of="update", floor_outside=True)),
        optax.adam(0.1, 0.8, 0.95, 1e-6)),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_long(OPTAX, "momentum", "rmsprop"))
def test_agreement_with_optax(name):
    """Adam only after many steps, when its bias correction has come to an end."""
    box, transformation = OPTAX[name]
    gradients = jnp.tile(GRADIENTS, 20 if name == "adam" else 1)
    state, moves = transformation.init(jnp.zeros(())), []
    with jax.numpy_dtype_promotion("standard"):
        for gradient in np.asarray(gradients):
            move, state = transformation.update(jnp.asarray(gradient), state)
            moves.append(float(move))
    last = 60 if name == "adam" else 0
    np.testing.assert_allclose(updates(box, gradients)[-last:], moves[-last:], rtol=1e-12,
                               atol=1e-14)  # fmt: skip


def test_saturation_sharpens_into_clipping():
    """S is within (1 - 2^(-1/sharpness)) of the clipped value, and odd without asymmetry."""
    clipped = updates(lo.WhiteBox.of_clipped(0.1, 2.0))
    for sharpness in (8.0, 64.0, 512.0):
        box = lo.WhiteBox(0.1, saturation=lo.BoxSaturation(2.0, sharpness))
        worst = np.abs(updates(box) / clipped - 1).max()
        assert worst <= 1 - 2 ** (-1 / sharpness)
    soft = lo.WhiteBox(0.1, saturation=lo.BoxSaturation(2.0, 1.5))
    np.testing.assert_array_equal(updates(soft, -GRADIENTS), -updates(soft))
    one = soft.transition(soft.initial_state(), jnp.asarray(2.0))[-1]
    np.testing.assert_allclose(one, 2 / 2 ** (1 / 1.5), rtol=1e-14)


FAR: dict[str, Any] = {
    "gradient": lo.WhiteBox(1.0, saturation=lo.BoxSaturation(2.0, 20.0)),
    "update": lo.WhiteBox(1.0, momentum=0.9, saturation=lo.BoxSaturation(2.0, of="update")),
    "memory": lo.WhiteBox(1.0, momentum=0.9, saturation=lo.BoxSaturation(2.0, of="memory")),
    "oscillation": lo.WhiteBox(1.0, momentum=0.5j, saturation=lo.BoxSaturation(2.0, of="memory")),
    "clipped oscillation": lo.WhiteBox(
        1.0, momentum=0.5j, saturation=lo.BoxSaturation(2.0, np.inf, of="memory")),
}  # fmt: skip


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saturation_at_any_size(name, dtype):
    """The knee bounds gradients whose squares, or ratio to the knee, leave the floating type."""
    with jax.enable_x64(dtype == np.float64):
        info, space = np.finfo(dtype), dict[str, Any]()
        box = jax.tree.map(lambda c: jnp.asarray(c, dtype), FAR[name])
        exec(lo.optax_text(box, digits=17), space)
        for knee, size in ((2.0, 0.9 * info.max), (100 * info.tiny, 1e20), (2.0, 100 * info.tiny)):
            small = box.with_numbers({"knee": knee})
            moved = small.transition(small.initial_state(), jnp.asarray(size, dtype))[-1]
            # Logarithms as large as 170, or 1400, are rounded.
            expected = size if size < knee else knee
            np.testing.assert_allclose(moved, expected, rtol=400 * info.eps, atol=0)
        gradient = jnp.asarray(0.9 * info.max, dtype)
        written = space["distilled"]()
        np.testing.assert_allclose(
            written.update(gradient, written.init(gradient))[0], -2.0, rtol=2 * info.eps
        )
        slope = jax.grad(lambda g: box.transition(box.initial_state(), g)[-1])
        np.testing.assert_array_equal(slope(jnp.zeros((), dtype)), 1.0)
        assert abs(slope(gradient)) < 1e-6


def test_long_memory_in_single_precision():
    """The first running square of Adam is (1 - b2) g^2 to round-off, as optax has it."""
    with jax.enable_x64(False):
        box = lo.WhiteBox.of_adam(1.0, 0.0, 0.99999, 1e-30)
        first = box.transition(box.initial_state(), jnp.asarray(3.0, jnp.float32))
        np.testing.assert_allclose(first[1], 1e-5 * 9, rtol=3e-6)  # log 1e5 is rounded


@pytest.mark.parametrize("memory", [0.99999, 0.999999, 0.9999999])
def test_memory_near_1_in_single_precision_stays_itself(memory):
    """As JSON, with its own numbers, held, and written out: -rate / sqrt(1 - memory) at first."""
    with jax.enable_x64(False):
        box = lo.WhiteBox.of_rmsprop(0.01, memory, 1e-8)
        copies = [
            box, box_of(document_of(box)), box.with_numbers(box.numbers()), box.holding("memory"),
            box_of(document_of(box.holding("memory"))),
        ]  # fmt: skip
        one = jnp.ones((), jnp.float32)
        for copy in copies:
            first = copy.readout @ copy.transition(copy.initial_state(), one)
            np.testing.assert_allclose(first, -0.01 / np.sqrt(1 - memory + 1e-8), rtol=3e-6)
            assert f"memory={memory}" in repr(copy)
        space: dict[str, Any] = {}
        exec(lo.optax_text(box, digits=9), space)
        written = space["distilled"]()
        found, _ = written.update(one, written.init(one))
        np.testing.assert_allclose(found, -0.01 / np.sqrt(1 - memory + 1e-8), rtol=3e-6)
        theirs = optax.rmsprop(0.01, memory, 1e-8)
        np.testing.assert_allclose(found, theirs.update(one, theirs.init(one))[0], rtol=3e-6)


@pytest.mark.parametrize("name", distilled_names())
def test_shipped_documents_stay_what_they_are(name):
    """So that a folder that was made from one takes the same command again, in either precision."""
    document = storage.load_json(DISTILLED / f"{name}.json")
    with jax.enable_x64(False):
        again = document_of(box_of(document))
        assert document_of(box_of(again)) == again
        for number in ("memory", "agreement_memory", "momentum_1", "momentum"):
            kept = document["numbers"].get(number)
            assert again["numbers"].get(number) == (kept if kept is None else np.float32(kept))


@pytest.mark.parametrize("size", [0.99999, 0.999999, 0.9999999])
def test_momentum_near_1_in_single_precision_stays_itself(size):
    """A real, a negative and an oscillating one: what 1 - |m| is does not change in a document."""
    with jax.enable_x64(False):
        for momentum in (size, -size, size * np.exp(0.3j)):
            box = lo.WhiteBox(0.1, momentum=momentum)
            name = "radius" if isinstance(momentum, complex) else "momentum"
            for copy in (box, box_of(document_of(box)), box.with_numbers(box.numbers())):
                assert copy.coordinates[name] == box.coordinates[name]
                kept = document_of(copy)["numbers"][name]
                np.testing.assert_allclose(1 - abs(kept), 1 - size, rtol=3e-6)


def test_what_single_precision_takes_for_1_is_refused():
    """Also as a document's number, where the nearest that the type has is taken."""
    near = 1 - 1e-8
    document = document_of(lo.WhiteBox.of_rmsprop(0.01, near))
    assert document["numbers"]["memory"] == pytest.approx(near, abs=1e-15)
    with jax.enable_x64(False):
        for make in (
            lambda: lo.WhiteBox.of_rmsprop(0.01, near),
            lambda: lo.WhiteBox(0.1, momentum=-near),
            lambda: lo.WhiteBox(0.1, momentum=near * np.exp(0.3j)),
            lambda: lo.WhiteBox(0.1, agreement=lo.BoxAgreement(0.7, near)),
        ):
            with pytest.raises(ValueError, match=r"at least 6e-08 from 1 in size in float32, got"):
                make()
        kept = document_of(box_of(document))["numbers"]["memory"]
        np.testing.assert_allclose(1 - kept, np.finfo(np.float32).epsneg, rtol=1e-6)


def test_squares_of_gradients_do_not_overflow():
    """RMSProp's first update is 1 / sqrt(1 - decay) at any size; agreement of equal ones is 1."""
    with jax.enable_x64(False):
        size = jnp.full(200, 1e25, jnp.float32)
        found = updates(lo.WhiteBox.of_rmsprop(1.0, 0.9), size)
        np.testing.assert_allclose(found[0], -1 / np.sqrt(0.1), rtol=1e-5)
        held = updates(lo.WhiteBox(1.0, agreement=lo.BoxAgreement(0.7, 0.6)), size)
        largest = 0.5 * np.sqrt(float(np.finfo(np.float32).max))
        np.testing.assert_allclose(held[-1], -largest * np.exp(0.7), rtol=1e-5)


def test_asymmetry_scales_the_two_knees():
    lopsided = lo.WhiteBox(0.1, saturation=lo.BoxSaturation(2.0, asymmetry=0.3))
    for sign in (1.0, -1.0):
        box = lo.WhiteBox(0.1, saturation=lo.BoxSaturation(2.0 * np.exp(sign * 0.3)))
        given = sign * jnp.abs(GRADIENTS)
        np.testing.assert_allclose(updates(lopsided, given), updates(box, given), rtol=1e-13)


def test_exponent_goes_from_none_to_the_sign():
    def adapted(memory, exponent):
        return lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(memory, exponent, 1e-300))

    np.testing.assert_allclose(updates(adapted(0.9, 0.0)), -0.1 * GRADIENTS, rtol=1e-13)
    np.testing.assert_allclose(updates(adapted(1e-15, 0.5)), -0.1 * jnp.sign(GRADIENTS), rtol=1e-9)


def test_schedule_is_an_exponential_of_the_step():
    box = lo.WhiteBox(0.1, schedule=lo.BoxSchedule(3.0, 7.0))
    expected = -0.1 * (1 + 2 * np.exp(-np.arange(60) / 7.0))
    np.testing.assert_allclose(updates(box, jnp.ones(60)), expected, rtol=1e-12)


def test_agreement_is_the_correlation_of_successive_gradients():
    """After many steps c is 1 under a held gradient, and -1 where it alternates, at any size."""
    box = lo.WhiteBox(0.1, agreement=lo.BoxAgreement(0.7, 0.6))
    for size in (1e-6, 1.0, 1e6):
        for sign in (1.0, -1.0):
            gradients = size * sign ** jnp.arange(200.0)
            expected = -0.1 * gradients[-1] * np.exp(0.7 * sign)
            np.testing.assert_allclose(updates(box, gradients)[-1], expected, rtol=1e-12)
    # The first update has no gradient before it; the second has products g g_before alone.
    a, b, n = 2.0, -0.5, 0.6
    c = (1 - n) * a * b / ((1 - n) * (a**2 + b**2) / 2 + n * (1 - n) * a**2 / 2)
    expected = -0.1 * np.array([a, b * np.exp(0.7 * c)])
    np.testing.assert_allclose(updates(box, jnp.array([a, b])), expected, rtol=1e-14)


def test_agreement_is_between_bounds():
    """|c| is at most 1, since |g g_before| is at most the mean of their squares."""
    box = lo.WhiteBox(0.1, agreement=lo.BoxAgreement(1.0, 0.3))
    factors = updates(box) / updates(lo.WhiteBox(0.1))
    assert np.abs(np.log(factors)).max() <= 1 + 1e-12
    assert np.ptp(np.log(factors)) > 0.5


def test_agreement_bends_the_rate_and_moves_the_knee():
    """Where c has come to 1 or -1, rate and knee are those of another white box."""
    strength, curvature, knee = 0.7, 0.5, -1.5
    for of in ("gradient", "update", "memory"):
        box = lo.WhiteBox(
            0.1, saturation=lo.BoxSaturation(2.0, 1.5, of=of),
            agreement=lo.BoxAgreement(strength, 0.6, curvature, knee),
        )  # fmt: skip
        for c in (1.0, -1.0):
            gradients = 3 * c ** jnp.arange(200.0)
            there = lo.BoxSaturation(2.0 * np.exp(strength * knee * c), 1.5, of=of)
            rate = 0.1 * np.exp(strength * (c + curvature))
            expected = updates(lo.WhiteBox(rate, saturation=there), gradients)[-1]
            np.testing.assert_allclose(updates(box, gradients)[-1], expected, rtol=1e-12)


def test_sharpness_of_each_mode():
    """A mode with all of the share moves as it does alone, with its own sharpness."""
    for momentum, share, sharpness in ((0.9, 1.0, 1.5), (0.6 + 0.3j, 0.0, 1.5 * 0.4)):
        both = lo.BoxMomentum((0.9, 0.6 + 0.3j), (share, 1 - share))
        saturation = lo.BoxSaturation(2.0, 1.5, of="memory", sharpness_ratio=0.4)
        one = lo.BoxSaturation(2.0, sharpness, of="memory")
        np.testing.assert_allclose(
            updates(lo.WhiteBox(0.1, momentum=both, saturation=saturation)),
            updates(lo.WhiteBox(0.1, momentum=momentum, saturation=one)), rtol=1e-12,
        )  # fmt: skip


def test_numbers_without_effect_change_no_bit():
    """Curvature and knee of agreement at 0, a ratio at 1, and both with a strength of 0."""
    saturation = lo.BoxSaturation(2.0, 1.5, of="memory")
    same = lo.BoxSaturation(2.0, 1.5, of="memory", sharpness_ratio=1.0)
    plain = lo.WhiteBox(
        0.1, momentum=PAIR, saturation=saturation, agreement=lo.BoxAgreement(0.8, 0.6)
    )
    more = lo.WhiteBox(
        0.1, momentum=PAIR, saturation=same, agreement=lo.BoxAgreement(0.8, 0.6, 0.0, 0.0)
    )
    assert len(more.numbers()) == len(plain.numbers()) + 3
    np.testing.assert_array_equal(updates(more), updates(plain))
    off = lo.WhiteBox(
        0.1, momentum=PAIR, saturation=same, agreement=lo.BoxAgreement(0.0, 0.6, 0.5, -1.5)
    )
    none = lo.WhiteBox(0.1, momentum=PAIR, saturation=saturation)
    np.testing.assert_array_equal(updates(off), updates(none))


@pytest.mark.parametrize("memory", [0.01, 0.9])
def test_absent_agreement_and_one_of_strength_0_are_bit_equal(memory):
    parts = {name: part for name, part in FULL.items() if name != "agreement"}
    none = lo.WhiteBox(0.1, **parts)
    zero = lo.WhiteBox(0.1, **parts, agreement=lo.BoxAgreement(0.0, memory))
    np.testing.assert_array_equal(updates(zero), updates(none))
    assert zero.initial_state().size == none.initial_state().size + 3


def test_documents_without_agreement_load():
    """As written before there was this part: those that come with the package, and results."""
    old: dict[str, Any] = {
        "numbers": {"learning_rate": 0.1, "momentum": 0.9, "start_over_end": 2.0, "timescale": 9.0},
        "held": [], "saturation_of": None, "adaptation_of": None, "floor_outside": False,
    }  # fmt: skip
    box = box_of(old)
    assert box.parts == ("momentum", "schedule")
    assert document_of(box)["numbers"] == pytest.approx(old["numbers"])


def test_memory_saturates_where_asked():
    """A mode under a constant gradient settles where v = S(m v + g)."""
    for momentum in (0.9, 0.6 + 0.6j):
        box = lo.WhiteBox(0.1, momentum=momentum, saturation=lo.BoxSaturation(2.0, of="memory"))
        v = visited_states(box, jnp.ones(400))[-1]
        c = complex(v[0], v[1] if isinstance(momentum, complex) else 0.0)
        u = momentum * c + 1
        assert abs(u / np.sqrt(1 + abs(u / 2) ** 2) - c) < 1e-12
        assert abs(c) < 2
    bare = lo.WhiteBox(0.1, saturation=lo.BoxSaturation(2.0, of="memory"))
    zero = lo.WhiteBox(0.1, momentum=0.0, saturation=lo.BoxSaturation(2.0, of="memory"))
    np.testing.assert_allclose(updates(bare), updates(zero), rtol=1e-14)


@pytest.mark.parametrize("of", ["gradient", "update"])
@pytest.mark.parametrize("saturation", ["gradient", "update", "memory"])
@pytest.mark.parametrize("sharpness", [0.7, 2.0, np.inf])
def test_derivatives_are_finite_at_rest(of, saturation, sharpness):
    """At gradient 0 and the initial state, in state, gradient and every number."""
    for exponent, outside in ((0.5, False), (0.2, True), (0.0, True)):
        box = lo.WhiteBox(
            0.1, momentum=PAIR, saturation=lo.BoxSaturation(2.0, sharpness, of=saturation),
            adaptation=lo.BoxAdaptation(0.9, exponent, of=of, floor_outside=outside),
            schedule=lo.BoxSchedule(2.0, 20.0), agreement=lo.BoxAgreement(0.8, 0.6, 0.5, -1.5),
        )  # fmt: skip

        def moved(arrays, state, gradient, box=box):
            return eqx.combine(arrays, box).transition(state, gradient)

        arrays = eqx.filter(box, eqx.is_array)
        for gradient in (0.0, 1e-170):
            found = jax.jit(jax.jacobian(moved, (0, 1, 2)))(
                arrays, box.initial_state(), jnp.asarray(gradient)
            )
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_slope_at_rest_is_the_learning_rate():
    box = lo.WhiteBox(0.1, momentum=PAIR, saturation=FULL["saturation"])
    start = box.initial_state()
    np.testing.assert_allclose(lo.effective_learning_rate(box, start), 0.1, rtol=1e-13)


def test_numbers_come_back_in_plain_units():
    box = lo.WhiteBox(0.1, **FULL)
    numbers = box.numbers()
    expected = {
        "learning_rate": 0.1, "momentum": 0.9, "share_1": 0.7, "radius": abs(0.5 + 0.4j),
        "angle": np.angle(0.5 + 0.4j), "quadrature": 0.1, "knee": 2.0, "sharpness": 3.0,
        "asymmetry": 0.2, "memory": 0.95, "exponent": 0.3, "floor": 0.1, "start_over_end": 2.0,
        "timescale": 20.0, "agreement": 0.8, "agreement_memory": 0.6,
        "agreement_curvature": 0.3, "agreement_knee": -0.4,
    }  # fmt: skip
    assert numbers.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(numbers[name], value, rtol=1e-12)
    again = box.with_numbers(numbers)
    np.testing.assert_allclose(updates(again), updates(box), rtol=1e-12)
    assert box.parts == PARTS
    assert "knee=2," in repr(box)


def test_held_numbers_are_not_trained():
    box = lo.WhiteBox(0.1, **FULL, hold=("sharpness", "exponent"))
    assert set(box.held) == {"sharpness", "exponent"}
    assert len(box.numbers()) == 16
    assert len(jax.tree.leaves(eqx.filter(box, eqx.is_inexact_array))) == 16
    np.testing.assert_allclose(updates(box), updates(lo.WhiteBox(0.1, **FULL)), rtol=1e-13)
    assert box.holding().numbers().keys() == lo.WhiteBox(0.1, **FULL).numbers().keys()
    changed = box.with_numbers({"exponent": 0.5})
    assert changed.held["exponent"] == pytest.approx(0.5)


def test_any_coordinates_are_valid():
    """Whatever training arrives at, numbers are in their ranges and a run has finite updates."""
    box = lo.WhiteBox(0.1, **FULL)
    draws = np.random.default_rng(0).normal(size=(20, len(box.coordinates))) * 3
    for row in [*draws, np.full(len(box.coordinates), 40.0), np.full(len(box.coordinates), -40.0)]:
        coordinates = dict(zip(box.coordinates, map(jnp.asarray, row), strict=True))
        drawn = eqx.tree_at(lambda b: b.coordinates, box, coordinates)
        drawn.with_numbers(drawn.numbers())  # refused if one were out of its range
        if np.abs(row).max() < 40:
            assert np.isfinite(updates(drawn)).all()


@pytest.mark.parametrize("far", [30.0, -30.0, 200.0, -200.0])
def test_far_coordinates_stay_within_ranges_in_single_precision(far):
    """Where rounding would meet a bound: a box comes back from its numbers."""
    with jax.enable_x64(False):
        box = lo.WhiteBox(0.1, **FULL)
        coordinates = {name: jnp.asarray(far, jnp.float32) for name in box.coordinates}
        moved = eqx.tree_at(lambda b: b.coordinates, box, coordinates)
        numbers = {name: float(value) for name, value in moved.numbers().items()}
        again = box.with_numbers(numbers)
        assert box_of(document_of(moved)).parts == box.parts
        for name, value in again.numbers().items():
            np.testing.assert_allclose(float(value), numbers[name], rtol=1e-5)
    assert 0 < numbers["memory"] < 1
    assert -1 < numbers["momentum"] < 1


def test_meta_training_improves_numbers():
    task = Quadratic(jnp.array([1.0, 0.1]), jnp.array([1.0, -2.0]))
    settings = lo.MetaTraining(
        steps=30, unroll=10, problems=2, learning_rate=0.1, warm_up=0, penalty=0.0, clip=1.0,
        selection_problems=2, objective="log_mean",
    )  # fmt: skip
    box = lo.WhiteBox.of_momentum(0.01, 0.3)
    run = lo.meta_train(task, box, settings, key=jr.key(0), progress=False)
    scores = run.history.selection_scores
    assert scores[run.history.selected] < 0.8 * scores[0]
    assert isinstance(run.optimizer, lo.WhiteBox)
    assert run.optimizer.numbers().keys() == box.numbers().keys()


REFUSED: dict[str, Any] = {
    "`momentum.shares` must be one for each of 2 modes, finite, with real parts that sum to 1, got "
    "(0.5, nan).": lambda nan: lo.WhiteBox(
        0.1, momentum=lo.BoxMomentum((0.9, 0.8j), (0.5, nan))),
    "`momentum.shares` must be one for each of 1 modes, finite, with real parts that sum to 1, got "
    "nan.": lambda nan: lo.WhiteBox(0.1, momentum=lo.BoxMomentum(0.9, nan)),
    "`sharpness` must be finite and above 0, got -inf.": lambda nan: lo.WhiteBox(
        0.1, saturation=lo.BoxSaturation(1.0, -np.inf)),
    "`momentum` must be above -1 and below 1, got -1.": lambda nan: lo.WhiteBox.of_nesterov(
        0.1, -1.0),
    "`learning_rate` must be real numbers, got 'a'.": lambda nan: lo.WhiteBox.of_nesterov("a", 0.5),
    "`learning_rate` must be real numbers, got None.": lambda nan: lo.WhiteBox.of_adam(None),
    "`learning_rate` must be finite and above 0, got -0.1.": lambda nan: lo.WhiteBox.of_adam(-0.1),
    "`b1` must be above -1 and below 1, got 1.": lambda nan: lo.WhiteBox.of_adam(0.1, 1.0),
    "`decay` must be above 0 and below 1, got 1.": lambda nan: lo.WhiteBox.of_rmsprop(0.1, 1.0),
    "`hold` must be a list of names, got 'knee'.": lambda nan: lo.WhiteBox(0.1, hold="knee"),
    "`hold` must be a list of names, got None.": lambda nan: lo.WhiteBox(0.1, hold=None),  # type: ignore[arg-type]
    "`values` must be a dictionary of numbers by name, got [1].": lambda nan: lo.WhiteBox(
        0.1).with_numbers([1]),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        REFUSED[words](float("nan"))


TOO_LARGE: dict[str, Any] = {
    "sharpness": lambda: lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1.0, 1e40)),
    "knee": lambda: lo.WhiteBox(0.1, saturation=lo.BoxSaturation(np.float64(1e40))),
    "threshold": lambda: lo.WhiteBox.of_clipped(0.1, 1e40),
    "agreement": lambda: lo.WhiteBox(0.1, agreement=lo.BoxAgreement(1e40)),
    "learning_rate": lambda: lo.WhiteBox(0.1).with_numbers({"learning_rate": 1e40}),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_single_precision_cannot_hold_is_refused_there(name):
    """In one sentence and without a warning; double precision holds it."""
    assert isinstance(TOO_LARGE[name](), lo.WhiteBox)
    words = re.compile(
        rf"^`{name}` must be finite( and above 0)?, and at most 3.4e\+38 in size in float32, "
        r"got 1e\+40\.$"
    )
    with jax.enable_x64(False), pytest.raises(ValueError, match=words):
        TOO_LARGE[name]()


TOO_SMALL: dict[str, Any] = {
    "learning_rate": lambda: lo.WhiteBox(1e-50),
    "knee": lambda: lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1e-50)),
    "epsilon": lambda: lo.WhiteBox.of_adam(0.1, 0.9, 0.99, 1e-50),
    "memory": lambda: lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(1e-50, 0.5, 1e-8)),
    "start_over_end": lambda: lo.WhiteBox(0.1, schedule=lo.BoxSchedule(1e-50, 50.0)),
}


@pytest.mark.parametrize("name", TOO_SMALL)
def test_what_single_precision_takes_for_0_is_refused_there(name):
    assert isinstance(TOO_SMALL[name](), lo.WhiteBox)
    words = rf"^`{name}` must be .*above 0.*, and at least 1.2e-38 in float32, got 1e-50\.$"
    with jax.enable_x64(False), pytest.raises(ValueError, match=words):
        TOO_SMALL[name]()


def test_a_floor_of_double_precision_is_the_least_in_single():
    adaptation = lo.BoxAdaptation(0.9, 0.5, 1e-60)
    document = document_of(lo.WhiteBox(0.1, adaptation=adaptation))
    with jax.enable_x64(False):
        assert float(box_of(document).numbers()["floor"]) == float(jnp.finfo(jnp.float32).tiny)


def test_documents_of_double_precision_load_in_single():
    """What no number of single precision reaches, a knee of 1e60, bounds nothing there."""
    document = document_of(lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1e60, 2.0)))
    with jax.enable_x64(False):
        box = box_of(document)
        found = box.transition(box.initial_state(), jnp.float32(1e30))
    np.testing.assert_allclose(found, [1e30], rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64, jnp.asarray, float])
def test_infinite_sharpness_of_any_type_clips(kind):
    box = lo.WhiteBox(0.1, saturation=lo.BoxSaturation(2.0, kind(np.inf)))
    assert box.numbers().keys() == {"learning_rate", "knee"}


def test_traced_momenta():
    """Boxes made under `vmap` are those made one by one; traced momenta are real."""
    makers: list[Any] = [
        lambda m: lo.WhiteBox.of_nesterov(0.1, m),
        lambda m: lo.WhiteBox.of_adam(0.1, m),
        lambda m: lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.3, m, 0.5j), (0.2, 1 - m, m - 0.2))),
    ]
    for make in makers:
        many = eqx.filter_vmap(make)(jnp.array([0.2, 0.7])).numbers()
        for place, m in enumerate((0.2, 0.7)):
            for name, value in make(m).numbers().items():
                np.testing.assert_allclose(many[name][place], value, rtol=1e-13, atol=1e-15)
    with pytest.raises(ValueError, match="`momentum` must be real numbers"):
        jax.vmap(lambda m: lo.WhiteBox(0.1, momentum=(m, 0.5)).readout)(jnp.array([0.2j]))
