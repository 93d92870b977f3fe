"""Scorecards: closed forms of hand-written optimizers, what is missing and why, the distance, the
page and the script.
"""

import csv
import dataclasses
import functools
import io
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float
from tables import OPTIMIZERS, Quadratic, mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.analysis.mode_energies import explained_energy
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers import AbstractOptimizer, from_optax
from lrevopt.optimizers.wrappers import StateInUnits
from lrevopt.plots.scorecard import figure_scorecard
from lrevopt.plots.style import render
from lrevopt.studies.scorecard import (
    ENTRIES,
    Scorecard,
    coupled_map,
    curvature_response,
    distance,
    measure_scorecard,
    scorecard_facts,
    scorecard_table,
    sentences,
)
from lrevopt.studies.scorecard.curvature import spectral_radius
from lrevopt.studies.scorecard.measuring import leading_modes, replay_states
from lrevopt.tuning.well_known import WELL_KNOWN

SCRIPTS = Path(__file__).parent.parent / "scripts"
RATE, MEMORY, STEPS = 0.1, 0.9, 25
ADAM, LION = optax.adam(RATE, 0.9, 0.99), WELL_KNOWN["lion"](RATE)
BOWL = Quadratic(jnp.array([1.0, 0.3]), jnp.array([3.0, -2.0]))

MADE: dict[str, Callable[[], AbstractOptimizer]] = {
    "gradient_descent": lambda: lo.GradientDescent(RATE),
    "momentum": lambda: lo.Momentum(RATE, MEMORY),
    "clipped": lambda: lo.ClippedGradientDescent(RATE, 1.0),
    "rmsprop": lambda: lo.RMSProp(RATE, 0.9, 1e-4),
    "adam": lambda: lo.Adam(RATE, 0.9, 0.99),
    "optax_adam": lambda: from_optax(ADAM),
    "counting": lambda: from_optax(ADAM),
    "lion": lambda: from_optax(LION),
    "gru": lambda: OPTIMIZERS["gru"](RATE),
}
RESTING: dict[str, Callable[[], AbstractOptimizer]] = {
    "optax_adam": lambda: from_optax(ADAM, at_step=10**6),
    "lion": lambda: from_optax(LION, at_step=STEPS),
}


@functools.cache
def card(name: str) -> Scorecard:
    at_rest = RESTING[name]() if name in RESTING else None
    counts = {"problems": 2, "steps": STEPS}
    return measure_scorecard(MADE[name](), BOWL, key=jr.key(0), at_rest=at_rest, **counts)


def close(found, expected, rtol=1e-8):
    np.testing.assert_allclose(found, expected, rtol=rtol)
    return True


def at_zero(optimizer: AbstractOptimizer) -> lo.Linearization:
    """Of those that rest at 0."""
    return lo.linearize(optimizer, jnp.zeros_like(optimizer.readout))


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.99])
def test_momentum_on_quadratics(memory):
    """The roots of lambda^2 - (1 + b - a c) lambda + b."""
    model = at_zero(lo.Momentum(RATE, memory))
    found = curvature_response(model)
    sums = 1 + memory - RATE * found.curvatures
    roots = np.array([np.abs(np.roots([1, -one, memory])).max() for one in sums])
    # Two roots that meet are known to the root of round-off.
    assert close(found.radii, roots, rtol=1e-7)
    # A radius up to 1e-9 above 1 counts as 1, and the slope there is 1 / (1 - b).
    assert close(found.largest_stable, 2 * (1 + memory) / RATE)
    assert found.stable_up_to == found.largest_stable
    # Radii within 1e-6 of the least begin this little below where the roots meet.
    np.testing.assert_allclose(found.fastest_radius, np.sqrt(memory), rtol=1e-6, atol=1e-7)
    assert close(found.fastest, (1 - np.sqrt(memory)) ** 2 / RATE, rtol=1e-5)
    assert found.curvatures[0] < found.fastest < found.largest_stable < found.curvatures[-1]


def test_gradient_descent_on_quadratics():
    model = at_zero(lo.GradientDescent(RATE))
    radii = [spectral_radius(model, c) for c in (0.0, 1.0, 10.0, 30.0)]
    np.testing.assert_allclose(radii, [1, 0.9, 0, 2], rtol=0, atol=1e-12)
    assert close(curvature_response(model).largest_stable, 2 / RATE)
    with pytest.raises(ValueError, match="`model` must respond to a gradient"):
        curvature_response(at_zero(lo.GradientDescent(0.0)))


@pytest.mark.parametrize(("memory", "parameter"), [(0.0, 0.0), (0.9, 2.0)])
def test_weight_decay_lowers_the_largest_stable_curvature(memory, parameter):
    """Decay d is curvature: stable up to 2 (1 + b) / rate - d, whatever x is."""
    decay = 5.0
    made = optax.chain(optax.add_decayed_weights(decay), optax.sgd(RATE, momentum=memory))
    found = measure_scorecard(
        from_optax(made), BOWL, key=jr.key(0), problems=2, steps=STEPS, parameter=parameter
    )
    assert close(found.stable_up_to, 2 * (1 + memory) / RATE - decay)
    assert found.largest_stable == found.stable_up_to
    sums = 1 + memory - RATE * (found.curvatures + decay)
    roots = np.array([np.abs(np.roots([1, -one, memory])).max() for one in sums])
    assert close(found.radii, roots, rtol=1e-7)


def test_what_only_adds_up_is_neutral_and_what_ascends_never_stable():
    adagrad = from_optax(optax.adagrad(RATE))
    sums = lo.linearize(adagrad, adagrad.initial_state())
    found = curvature_response(sums)
    # An eigenvalue of 1 at every curvature, beside that of gradient descent.
    assert close(found.largest_stable, 2 / -(sums.readout @ sums.input), rtol=1e-7)
    assert found.fastest_radius == pytest.approx(1)
    ascent = lo.LinearOptimizer(jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones(1), jnp.ones(1))
    never = curvature_response(at_zero(ascent))
    assert (never.stable_up_to, never.largest_stable) == (0, 0)


def test_stable_ranges_may_have_a_gap():
    """A pair of modes that turns by a radian an update, and one that acts at once."""
    A = np.zeros((3, 3))
    A[:2, :2] = 0.95 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    rest = jnp.zeros(3)
    turning = lo.LinearOptimizer(
        rest, jnp.asarray(A), jnp.array([1.0, 0.0, 1.0]), -jnp.array([0.02, 0.0, 0.01])
    )
    model = at_zero(turning)
    found = curvature_response(model)
    rises = np.flatnonzero((found.radii[:-1] <= 1) & (found.radii[1:] > 1))
    assert len(rises) == 2
    for end in (found.stable_up_to, found.largest_stable):
        assert close(spectral_radius(model, end), 1)
    assert found.stable_up_to < found.curvatures[rises[1]] < found.largest_stable


@pytest.mark.parametrize("curvature", [0.01, 1.0, 30.0])
def test_coupled_map_is_one_update_of_state_and_parameter(curvature):
    """Against the derivative of an update, and the growth of a simulated displacement."""
    optimizer = OPTIMIZERS["gru"](1.0)
    points = lo.find_fixed_points(optimizer, optimizer.initial_state()[None])
    assert points.converged.all()
    rest = jnp.asarray(points.states[0])

    def update(both):
        state = optimizer.transition(both[:-1], curvature * both[-1])
        return jnp.append(state, both[-1] + optimizer.readout @ state)

    expected = jax.jacfwd(update)(jnp.append(rest, 0.0))
    model = lo.linearize(optimizer, rest)
    np.testing.assert_allclose(coupled_map(model, curvature), expected, rtol=1e-10, atol=1e-13)
    away, growth = np.ones(len(rest) + 1), 0.0
    for step in range(4000):
        away = np.asarray(expected) @ away
        size = np.linalg.norm(away)
        away, growth = away / size, growth + (np.log(size) if step >= 2000 else 0.0)
    # A mean over 2000 updates, in which a pair of conjugates turns.
    assert close(spectral_radius(model, curvature), np.exp(growth / 2000), rtol=2e-3)


def test_cards_of_gradient_descent_and_momentum():
    plain, heavy = card("gradient_descent"), card("momentum")
    for found in (plain, heavy):
        ratios = [found.schedule_largest, found.schedule_last, found.adaptation]
        assert close(ratios, [1, 1, 1])
        assert close([found.energy_of_one, found.energy_of_two, found.rate], [1, 1, RATE])
        # A straight line's knee is the largest gradient met, here the first.
        assert close(found.knee, 3.0)
        assert found.beyond_knee == 0
        assert found.fixed_points == 1
        assert found.reasons["second_timescale"].startswith("a single mode makes")
        # One coordinate: on the readout, or else nowhere.
        assert found.readout_angle == 0
        assert found.angle_of == "visited states"
    assert (plain.timescale, plain.mode_rate) == (0, RATE)
    assert close([heavy.timescale, heavy.mode_rate], [-1 / np.log(MEMORY), RATE])
    assert close([plain.gain, heavy.gain], [RATE, RATE / (1 - MEMORY)])
    assert close([plain.largest_stable, heavy.largest_stable], [2 / RATE, 2 * (1 + MEMORY) / RATE])


def test_cards_of_the_other_mechanisms():
    clipped, cautious = card("clipped"), card("rmsprop")
    gradients = np.abs(
        sample_states(
            MADE["clipped"](), BOWL, key=jr.key(0), problems=2, steps=STEPS
        ).pooled_gradients
    )
    # The knee is the threshold; it is on the axis up to the axis' spacing.
    assert close(clipped.knee, 1.0, rtol=1e-3)
    assert clipped.beyond_knee == np.mean(gradients > clipped.knee)
    assert 0 < clipped.beyond_knee < 1
    # At rest 1 / sqrt(epsilon); under g, the mean square of gradients is g^2 and decays once.
    held = cautious.held_gradients[-1]
    assert close(cautious.adaptation, np.sqrt((0.9 * held**2 + 1e-4) / 1e-4), rtol=1e-6)
    assert cautious.adaptation > 1
    assert close(cautious.rate, RATE / 1e-2)


@pytest.mark.long
def test_adam_of_optax_has_the_numbers_of_the_hand_written():
    """Runs count steps, and rest is where corrections have faded."""
    names = ["timescale", "mode_rate", "rate", "gain", "knee", "beyond_knee", "energy_of_one",
             "schedule_largest", "schedule_last", "adaptation", "largest_stable"]  # fmt: skip
    ours, theirs = card("adam"), card("optax_adam")
    for name in names:
        assert close(getattr(theirs, name), getattr(ours, name), rtol=1e-6), name
    assert close(card("counting").schedule_last, ours.schedule_last, rtol=1e-6)
    # The bias correction of m makes the first rate 1 / (1 - b1) times the last: b1^26 is left.
    assert close(ours.schedule_last, 0.1 / (1 - 0.9 ** (STEPS + 1)), rtol=1e-6)


def test_what_is_missing_says_why():
    """Step counters never rest, and signs have no slope."""
    counting, lion = card("counting"), card("lion")
    for name in ("timescale", "gain", "adaptation", "manifold_dimension", "largest_stable"):
        assert np.isnan(getattr(counting, name))
        assert counting.reasons[name].startswith("no fixed point was found at zero gradient")
    # A counting optimizer ends with the correction of a held one: b1^26 is left.
    assert close(counting.schedule_last, 0.1 / (1 - 0.9 ** (STEPS + 1)), rtol=1e-6)
    for name in ("timescale", "knee", "schedule_last", "adaptation", "fastest"):
        assert np.isnan(getattr(lion, name))
        assert lion.reasons[name].startswith("updates have slope 0 at zero gradient")


def test_an_infinite_slope_has_no_knee():
    """An update -rate sign(g) sqrt(|g|), which is clipped everywhere or nowhere."""

    def roots(gradients, parameters):
        return jax.tree.map(lambda g: -RATE * jnp.sign(g) * jnp.sqrt(jnp.abs(g)), gradients)

    optimizer = from_optax(optax.stateless(roots))
    found = measure_scorecard(optimizer, BOWL, key=jr.key(0), problems=2, steps=STEPS)
    for name in ("knee", "beyond_knee"):
        assert np.isnan(getattr(found, name))
        assert "slope at zero gradient, is not finite" in found.reasons[name]


@pytest.mark.parametrize("name", mostly_long(MADE, "momentum", "counting", "lion"))
def test_every_number_that_is_missing_has_its_reason(name):
    found = card(name)
    values = {name: getattr(found, name) for name in ENTRIES}
    assert {name for name, value in values.items() if np.isnan(value)} == set(found.reasons)
    reasons = [note for note in found.table().notes if note.startswith("[")]
    assert len(reasons) == len(sentences(found))


def test_near_defective_jacobians_have_timescales_and_no_rates():
    twice = lo.LinearOptimizer(
        jnp.zeros(2), jnp.array([[0.9, 1.0], [0.0, 0.9]]), jnp.array([0.0, 1.0]),
        -jnp.array([0.1, 0.0]),
    )  # fmt: skip
    found = measure_scorecard(twice, BOWL, key=jr.key(0), problems=2, steps=STEPS)
    # The neighbour's eigenvalues differ by the root of its distance of 1e-8 or more.
    assert close(found.timescale, -1 / np.log(0.9), rtol=0.2)
    assert np.isnan([found.mode_rate, found.energy_of_two]).all()
    assert found.reasons["mode_rate"].startswith("the Jacobian is near-defective")
    assert close(found.gain, 0.1 / 0.1**2)


def test_fits_by_momenta_are_those_of_the_linearization():
    """Two near momenta whose rates nearly cancel: either alone says little."""
    cancelling = lo.LinearOptimizer(
        jnp.zeros(2), jnp.diag(jnp.array([0.9, 0.88])), jnp.ones(2), -jnp.array([0.21, -0.2])
    )
    found = measure_scorecard(cancelling, BOWL, key=jr.key(0), problems=2, steps=STEPS)
    for count in (1, 2):
        ours, theirs = found.momentum_fit(count), lo.momentum_fit(at_zero(cancelling), count)
        assert close(ours.eigenvalues, theirs.eigenvalues, rtol=1e-5)
        assert close(ours.learning_rates, theirs.learning_rates, rtol=1e-5)
        assert ours.residual == pytest.approx(theirs.residual, abs=1e-9)
    rows = {label: said for label, said, _ in scorecard_facts(found)}
    one = found.momentum_fit()
    assert rows["best fit by one momentum"].startswith(f"{one.timescales[0]:.3g} updates, ")
    assert close(card("momentum").momentum_fit().eigenvalues, [MEMORY])
    for count, steps, said in ((0, 200, "at least 1"), (3, 200, "at most 2"), (2, 3, "at least 4")):
        with pytest.raises(ValueError, match=said):
            found.momentum_fit(count, steps=steps)
    wild = dataclasses.replace(found, eigenvalues=np.array([30.0, 0.5], complex))
    with pytest.raises(ValueError, match="a mode of size 30, got 200"):
        wild.momentum_fit()
    assert ("best fit by one momentum", "not available", "") in scorecard_facts(wild)
    assert close(wild.momentum_fit(steps=20).eigenvalues, [30.0], rtol=1e-5)
    for name in ("counting", "lion"):
        with pytest.raises(ValueError, match="No momentum fits this optimizer: "):
            card(name).momentum_fit()
        assert any("best fit by one" in row[0] for row in card(name).table().rows)


def test_leading_modes_are_the_best_and_pairs_are_one():
    real = lo.eigenmodes(at_zero(lo.AggregatedMomentum([0.1, 0.05, 0.2], [0.5, 0.95, 0.8])))
    groups, shares = leading_modes(real, 200)
    assert close(shares, explained_energy(real))
    assert [len(group) for group in groups] == [1, 1, 1]
    turning = jnp.array([[0.6, -0.2, 0.0], [0.2, 0.6, 0.0], [0.0, 0.0, 0.9]])
    readout = jnp.array([0.1, 0.3, 0.2])
    paired = lo.eigenmodes(at_zero(lo.LinearOptimizer(jnp.zeros(3), turning, readout, -readout)))
    groups, shares = leading_modes(paired, 200)
    assert sorted(len(group) for group in groups) == [1, 2]
    assert sorted(index for group in groups for index in group) == [0, 1, 2]
    assert close(shares[-1], 1)


class Mixed(AbstractOptimizer):
    """Momentum and a running mean of squares that has nothing to do with it."""

    scale: Float[Array, ""]

    @property
    def readout(self) -> Float[Array, "2"]:
        return jnp.array([-RATE, 0.0])

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.zeros(2)

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        return jnp.stack([0.9 * state[0] + gradient, 0.8 * state[1] + self.scale * gradient**2])


@pytest.mark.long
def test_units_of_coordinates_do_not_matter():
    small, large = (
        measure_scorecard(
            Mixed(jnp.asarray(scale)), BOWL, key=jr.key(0), problems=2, steps=STEPS
        )
        for scale in (1.0, 1e9)
    )  # fmt: skip
    for name in ("manifold_dimension", "manifold_extent", "readout_angle"):
        assert close(getattr(large, name), getattr(small, name), rtol=1e-6)
    assert distance(small, large) < 1e-6


def test_other_units_and_remembered_states():
    optimizer = OPTIMIZERS["gru"](RATE)
    sampled = sample_states(optimizer, BOWL, key=jr.key(0), problems=2, steps=STEPS)
    # The same gradients through the same transition, one by one instead of together.
    again = replay_states(optimizer, sampled)
    np.testing.assert_allclose(again.states, sampled.states, rtol=1e-10, atol=1e-12)
    unit = jnp.linspace(0.1, 3.0, optimizer.readout.size)
    rescaled = StateInUnits(optimizer, unit)
    state, gradient = optimizer.initial_state(), jnp.asarray(0.7)
    moved = rescaled.readout @ rescaled.transition(rescaled.initial_state(), gradient)
    assert close(moved, optimizer.readout @ optimizer.transition(state, gradient), rtol=1e-12)


def with_numbers(numbers: list[float]) -> Scorecard:
    return changed(card("momentum"), **dict(zip(ENTRIES, numbers, strict=True)))


def changed(card: Scorecard, **numbers: Any) -> Scorecard:
    return dataclasses.replace(card, **numbers)


NUMBERS = st.lists(
    st.floats(allow_nan=True, allow_infinity=True), min_size=len(ENTRIES), max_size=len(ENTRIES)
).map(lambda values: [v if not np.isfinite(v) else float(np.clip(v, -1e9, 1e9)) for v in values])


@hypothesis.given(first=NUMBERS, second=NUMBERS)
def test_distance_is_symmetric_and_zero_for_equals(first, second):
    one, other = with_numbers(first), with_numbers(second)
    gap, back = distance(one, other), distance(other, one)
    assert gap == back or np.isnan([gap, back]).all()
    assert np.isnan(gap) or 0 <= gap < np.inf
    assert distance(one, one) == 0 or np.isnan(distance(one, one))
    common = [
        np.isfinite([entry.scale(getattr(each, name)) for each in (one, other)]).all()
        for name, entry in ENTRIES.items()
    ]
    assert np.isnan(gap) == (not any(common))


def test_distance_counts_decades_right_angles_and_shares():
    ones = np.ones(len(ENTRIES)).tolist()
    base = with_numbers(ones)
    for name, value in {"rate": 10.0, "readout_angle": 91.0, "beyond_knee": 0.0,
                        "timescale": 19.0, "largest_stable": 0.1}.items():  # fmt: skip
        other = changed(base, **{name: value})
        assert close(distance(base, other), 1 / np.sqrt(len(ENTRIES)))
        gone = changed(base, **{name: np.nan})
        assert distance(base, gone) == 0
    assert distance(card("momentum"), card("momentum")) == 0
    assert distance(card("momentum"), card("gradient_descent")) > 0
    assert np.isfinite(distance(card("lion"), card("counting")))


@pytest.mark.parametrize("name", mostly_long(["gru", "lion", "counting"], "lion"))
def test_pages_tables_and_records(name, tmp_path):
    found = card(name)
    storage.save_record(tmp_path / "scorecard.npz", found)
    again = storage.load_record(Scorecard, tmp_path / "scorecard.npz")
    for field in dataclasses.fields(Scorecard):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))
    rows = list(csv.DictReader(io.StringIO(scorecard_table(again))))
    assert [row["name"] for row in rows] == list(ENTRIES)
    np.testing.assert_array_equal(
        [float(row["value"]) for row in rows], [getattr(found, name) for name in ENTRIES]
    )
    figure = figure_scorecard(again, "A title")
    said = [text.get_text() for text in figure.axes[6].texts + figure.axes[-1].texts]
    assert {entry.label for entry in ENTRIES.values()} <= set(said)
    assert render(figure, "svg") == render(figure_scorecard(found, "A title"), "svg")


@pytest.mark.parametrize(("share", "scale"), [(0.5, "linear"), (0.01, "symlog"), (0.0, "linear")])
def test_gradients_far_beyond_the_knee_are_on_a_logarithmic_axis(share, scale):
    found = card("clipped")
    figure = figure_scorecard(changed(found, knee=share * found.gradients[-1]), "A title")
    shown = figure.axes[1]
    assert shown.get_xlabel().startswith("gradient")
    assert shown.get_xscale() == scale
    if scale == "symlog":
        line = next(line for line in shown.lines if line.get_label() == "initial state")
        np.testing.assert_array_equal(line.get_xdata(), found.gradients)


def call(monkeypatch, *arguments) -> int:
    """Exit code of the script, run in this process."""
    monkeypatch.setattr(sys, "argv", ["scorecard.py", *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPTS / "scorecard.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Exactly one of `optimizer`, `optax` and `run` must be given, got none."),
        (["--optax", "adam", "--run", "nowhere"], "must be given, got optax and run."),
        (["--optax", "quantum", "--task", "rosenbrock"], "`optax` must be one of sgd, momentum,"),
        (["--optax", "adam"], "`task` must name the task on which the optimizer runs, got none."),
        (["--optax", "adam", "--task", "quantum"], "quantum"),
        (["--optax", "adam", "--task", "rosenbrock", "--learning-rate", "0"], "`learning_rate`"),
        (["--optax", "adam", "--task", "rosenbrock", "--steps", "0"], "`steps` must be"),
        (["--optax", "adam", "--task", "rosenbrock", "--problems", "0"], "`problems` must be"),
        (["--optax", "adam", "--baseline", "adam"], "`baseline` must be left out without `run`."),
        (["--run", "nowhere"], "`nowhere` is not a run directory"),
        (["--run", "nowhere", "--baseline", "lion"], "`baseline` must be one of momentum,"),
        (["--run", "nowhere", "--learning-rate", "1"], "must be left out without `optax`."),
    ],
)
def test_script_refuses_in_one_sentence(monkeypatch, capsys, arguments, said):
    assert call(monkeypatch, *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.long
def test_script_tunes_measures_and_writes(monkeypatch, capsys, tmp_path):
    few = ["--problems", "2", "--steps", "12", "--output", tmp_path / "card"]
    assert call(monkeypatch, "--optax", "sgd", "--task", "rosenbrock", *few) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("sgd: learning rate ")
    assert "tuning problems, best of 43" in printed
    names = {path.name for path in (tmp_path / "card").iterdir()}
    assert names == {f"scorecard.{kind}" for kind in ("npz", "csv", "png", "svg")}
    found = storage.load_record(Scorecard, tmp_path / "card" / "scorecard.npz")
    assert str(found) in printed
    assert close(found.largest_stable, 2 / found.rate, rtol=1e-6)
