"""Interventions on planted optimizers: each gives the hand-written optimizer that lacks the thing,
and taking away what is not there changes nothing.
"""

import csv
import dataclasses
import io
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from synthetic_records import interventions as synthetic
from tables import OPTIMIZERS, Quadratic, QuadraticProblem

import lrevopt as lo
from lrevopt import storage
from lrevopt.analysis import FixedPoints, linearize, measure_schedule
from lrevopt.analysis.linearization import conjugate_mode, dominant_mode
from lrevopt.analysis.momentum import separated_modes
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.plots.interventions import (
    COSTS,
    EXCHANGED,
    REPLAYED_RATES,
    SEPARATION,
    figure_interventions,
)
from lrevopt.plots.panel import side_by_side
from lrevopt.plots.style import render
from lrevopt.runs.contents import Run
from lrevopt.studies import gradient_replay, interventions
from lrevopt.studies.gradient_replay import GradientReplay, measure_gradient_replay
from lrevopt.studies.interventions import (
    INTERVENTIONS,
    Intervention,
    Interventions,
    RestAnalysis,
    analyze_rest,
    intervene,
)
from lrevopt.studies.interventions.costs import intervention_facts
from lrevopt.tasks import AbstractTask

RATE, MEMORY = 0.1, 0.8
GRADIENTS = np.array([0.3, -2.0, 5.0, 5.0, -0.1, 4.0, 0.0, 1.0, -3.0, 0.7])


class Planted(AbstractOptimizer):
    """Momentum with, if asked, a schedule, clipped gradients, or steps that large ones make small.

        v' = MEMORY v + clip(g)    s' = s / 2    a' = 0.7 a + adapt g^2
        step' = -RATE (1 + s) / (1 + a) v'

    State: v, s, a, step.
    """

    schedule: Float[Array, ""]
    threshold: Float[Array, ""]
    adapt: Float[Array, ""]

    def __init__(self, schedule=0.0, threshold=1e6, adapt=0.0):
        self.schedule, self.threshold, self.adapt = map(jnp.asarray, (schedule, threshold, adapt))

    @property
    def readout(self) -> Float[Array, "4"]:
        return jnp.array([0.0, 0.0, 0.0, 1.0])

    def initial_state(self) -> Float[Array, "4"]:
        return jnp.stack([jnp.zeros(()), self.schedule, jnp.zeros(()), jnp.zeros(())])

    def transition(self, state: Float[Array, "4"], gradient: Float[Array, ""]) -> Float[Array, "4"]:
        velocity, schedule, cautious, _ = state
        velocity = MEMORY * velocity + jnp.clip(gradient, -self.threshold, self.threshold)
        step = -RATE * (1 + schedule) / (1 + cautious) * velocity
        squares = 0.7 * cautious + self.adapt * gradient**2
        return jnp.stack([velocity, schedule / 2, squares, step])


def rest_of(opt: AbstractOptimizer, steps: int = 30) -> RestAnalysis:
    """As `analyze_rest` does it, without the search: all that is planted rests at 0."""
    fixed_point = np.zeros(opt.initial_state().size)
    found = FixedPoints(
        states=fixed_point[None],
        speeds=np.zeros(1),
        converged=np.ones(1, bool),
        start=fixed_point[None],
        spectral_radius=np.zeros(1),
        stable=np.ones(1, bool),
        distinct=fixed_point[None],
        assignment=np.zeros(1, int),
        gradient=0.0,
    )
    model = linearize(opt, fixed_point)
    modes = separated_modes(model)
    slow = dominant_mode(modes)
    return RestAnalysis(
        found=found,
        fixed_point=fixed_point,
        model=model,
        modes=modes,
        slow=np.unique([slow, conjugate_mode(modes, slow)]),
        rates=measure_schedule(opt, steps).rates,
        rate=float(lo.effective_learning_rate(opt, fixed_point)),
    )


def updates(opt: AbstractOptimizer) -> np.ndarray:
    """Steps under the gradients above."""
    state, steps = opt.initial_state(), []
    for gradient in jnp.asarray(GRADIENTS):
        state = opt.transition(state, gradient)
        steps.append(float(opt.readout @ state))
    return np.array(steps)


def changed(opt: AbstractOptimizer, name: str) -> np.ndarray:
    return updates(INTERVENTIONS[name].apply(opt, rest_of(opt)))


MOMENTUM = lo.Momentum(RATE, MEMORY)
DESCENT = lo.GradientDescent(RATE)
PLAIN = ["straight_updates", "straight_states", "started_at_rest", "one_update_function",
         "slow_memory_only", "linear", "four_modes", "two_modes", "one_mode",
         "replayed"]  # fmt: skip


def test_momentum_without_memory_is_gradient_descent_to_the_bit():
    np.testing.assert_array_equal(changed(MOMENTUM, "no_slow_memory"), updates(DESCENT))
    # With its gain, the learning rate is that of many steps.
    whole = updates(lo.GradientDescent(RATE / (1 - MEMORY)))
    np.testing.assert_allclose(changed(MOMENTUM, "gain_at_once"), whole, rtol=1e-14)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("opt", [MOMENTUM, Planted()], ids=["momentum", "planted"])
def test_taking_away_what_is_not_there_changes_nothing(opt, name):
    # A matrix product and a division more than the original.
    np.testing.assert_allclose(changed(opt, name), updates(opt), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("opt", "name", "expected"),
    [
        # What is left of each planted mechanism is written by hand.
        (Planted(schedule=3.0), "started_at_rest", MOMENTUM),
        (Planted(schedule=3.0), "linear", MOMENTUM),
        (Planted(schedule=3.0), "one_mode", MOMENTUM),
        (Planted(schedule=3.0), "replayed", Planted(schedule=3.0)),
        (Planted(schedule=3.0), "straight_states", Planted(schedule=3.0)),
        (Planted(threshold=1.5), "straight_states", MOMENTUM),
        (Planted(threshold=1.5), "linear", MOMENTUM),
        (Planted(threshold=1.5), "started_at_rest", Planted(threshold=1.5)),
        (Planted(adapt=2.0), "slow_memory_only", MOMENTUM),
        (Planted(adapt=2.0), "straight_states", MOMENTUM),
        (Planted(adapt=2.0), "one_mode", MOMENTUM),
        (Planted(adapt=2.0), "straight_updates", Planted(adapt=2.0)),
        (lo.ClippedGradientDescent(RATE, 0.5), "straight_updates", DESCENT),
        (lo.ClippedGradientDescent(RATE, 0.5), "straight_states", DESCENT),
        (lo.ClippedGradientDescent(RATE, 0.5), "one_update_function",
         lo.ClippedGradientDescent(RATE, 0.5)),
        (lo.AggregatedMomentum([0.1, 0.02], [0.9, 0.4]), "no_slow_memory",
         lo.AggregatedMomentum([0.1, 0.02], [0.0, 0.4])),
        (lo.AggregatedMomentum([0.1, 0.02], [0.9, 0.4]), "slow_memory_only",
         lo.AggregatedMomentum([0.1, 0.02], [0.9, 0.0])),
        (lo.AggregatedMomentum([0.1, 0.02], [0.9, 0.4]), "one_mode", lo.Momentum(0.1, 0.9)),
        (lo.AggregatedMomentum([0.1, 0.02], [0.9, 0.4]), "replayed", lo.Momentum(0.1, 0.9)),
        # A pair of conjugates counts as one mode, and here there are two pairs and a real one.
        (OPTIMIZERS["modes"](0.1), "four_modes", OPTIMIZERS["modes"](0.1)),
    ],
)  # fmt: skip
def test_each_intervention_gives_its_hand_written_counterpart(opt, name, expected):
    np.testing.assert_allclose(changed(opt, name), updates(expected), rtol=1e-12, atol=1e-14)


def test_counterparts_that_are_formulas():
    """Updates that forget, beside states that go on."""
    # Without its dominant mode's memory, it is gradient descent with the schedule.
    opt = Planted(schedule=3.0)
    schedule = 1 + 3 * 0.5 ** np.arange(len(GRADIENTS))
    np.testing.assert_allclose(
        changed(opt, "no_slow_memory"), -RATE * schedule * GRADIENTS, rtol=1e-12
    )
    # Straight updates of clipped momentum: the velocity is clipped, the newest gradient is not.
    opt = Planted(threshold=1.5)
    before = np.append(0.0, -updates(opt)[:-1] / RATE)
    expected = -RATE * (MEMORY * before + GRADIENTS)
    np.testing.assert_allclose(changed(opt, "straight_updates"), expected, rtol=1e-12)
    # One update function: caution divides the offset, and not the newest gradient.
    opt = Planted(adapt=2.0)
    caution, velocity, expected = 0.0, 0.0, []
    for gradient in GRADIENTS:
        expected.append(-RATE * (MEMORY * velocity / (1 + caution) + gradient))
        velocity = MEMORY * velocity + gradient
        caution = 0.7 * caution + 2.0 * gradient**2
    np.testing.assert_allclose(changed(opt, "one_update_function"), expected, rtol=1e-12)


def test_what_an_optimizer_does_not_admit_is_said():
    """A defective Jacobian has no modes, and a sum of gradients no steady gain."""
    double = lo.LinearOptimizer(
        jnp.zeros(2), jnp.array([[0.9, 1.0], [0.0, 0.9]]), jnp.array([0.0, 1.0]),
        -jnp.array([0.1, 0.0]),
    )  # fmt: skip
    for name in ("one_mode", "replayed"):
        with pytest.raises(ValueError, match="near-defective"):
            INTERVENTIONS[name].apply(double, rest_of(double))
    with pytest.raises(ValueError, match="its gain is infinite"):
        INTERVENTIONS["gain_at_once"].apply(lo.Momentum(0.1, 1.0), rest_of(lo.Momentum(0.1, 1)))
    with pytest.raises(ValueError, match="a schedule needs a rate to scale"):
        INTERVENTIONS["replayed"].apply(lo.Momentum(0.0, 0.9), rest_of(lo.Momentum(0.0, 0.9)))


def test_without_a_fixed_point_what_is_about_it_is_left_out():
    """A live counter has none; a rest that is no rest must not be said to cost nothing."""
    names = [name for name, each in INTERVENTIONS.items() if not each.at_rest]
    assert names == ["straight_updates", "straight_states"]
    task = lo.LinearRegression(dim=2)
    found = intervene(lo.from_optax(optax.adam(0.05)), task, key=jr.key(0), problems=4, steps=10)
    assert set(found.names) <= set(names)
    left_out = [sentence for sentence in found.omitted if "must have a fixed point" in sentence]
    assert len(left_out) == len(INTERVENTIONS) - 2
    held = intervene(
        lo.from_optax(optax.adam(0.05), at_step=10), task, key=jr.key(0), problems=4, steps=10,
        interventions={"started_at_rest": INTERVENTIONS["started_at_rest"]},
    )  # fmt: skip
    assert held.names == ("started_at_rest",)


SOME = {name: INTERVENTIONS[name] for name in ("no_slow_memory", "gain_at_once", "linear")}


@pytest.fixture(scope="module")
def record() -> Interventions:
    """Interventions on momentum, two of them of our own."""
    planted = {
        "half": Intervention("half", "none", lambda opt, _: lo.Momentum(RATE / 2, MEMORY)),
        "refused": Intervention("all", "none", refuse),
    }
    task = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0.7))
    return intervene(
        MOMENTUM, task, key=jr.key(0), problems=12, steps=40, interventions=SOME | planted
    )


def refuse(opt: AbstractOptimizer, rest_analysis: RestAnalysis) -> AbstractOptimizer:
    raise ValueError("there is nothing to take.")


def test_costs_are_paired_and_divergence_is_counted(record):
    task = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0.7))
    test_key = jr.split(jr.key(0))[1]
    by_hand = {"original": MOMENTUM, "no_slow_memory": DESCENT, "half": lo.Momentum(0.05, MEMORY)}
    evaluation = lo.evaluate(by_hand, task, problems=12, steps=40, key=test_key)
    scores = dict(zip(by_hand, evaluation.meta_objectives(), strict=True))
    np.testing.assert_allclose(record.original, scores["original"], rtol=1e-9)
    place = {name: index for index, name in enumerate(record.names)}
    for name in ("no_slow_memory", "half"):
        np.testing.assert_allclose(record.objectives[place[name]], scores[name], rtol=1e-9)
        pair = evaluation.compare(name, "original")
        np.testing.assert_allclose(record.differences[place[name]], pair.difference, rtol=1e-6)
        np.testing.assert_allclose(record.difference_lows[place[name]], pair.low, rtol=1e-6)
        logs = np.mean(np.log(scores[name] / scores["original"]))
        np.testing.assert_allclose(record.log_ratios[place[name]], logs, rtol=1e-9)
    # To remove nonlinearity from a linear optimizer costs nothing.
    linear = place["linear"]
    assert abs(record.log_ratios[linear]) < 1e-9
    assert record.difference_lows[linear] <= 1e-12
    assert record.difference_highs[linear] >= -1e-12
    # A rate of 0.5 diverges where the curvature exceeds 4.
    gain = place["gain_at_once"]
    assert record.omitted == ("refused: there is nothing to take.",)
    assert record.diverged[gain] == np.isinf(record.objectives[gain]).sum()
    rows = list(csv.DictReader(io.StringIO(interventions.intervention_table(record))))
    assert [row["name"] for row in rows] == ["original", *record.names]
    np.testing.assert_allclose(float(rows[1]["ratio"]), np.exp(record.log_ratios[0]), rtol=1e-12)
    assert str(record).endswith("Left out, refused: there is nothing to take.")


def test_where_everything_diverges_there_is_no_ratio():
    steep = Quadratic(jnp.array([1e9]), jnp.array([1.0]))
    rest_analysis = rest_of(MOMENTUM)
    stays = lo.GradientDescent(1e-9)
    explode = {"explode": Intervention("all", "none", lambda opt, _: lo.GradientDescent(1e9))}
    found = intervene(
        stays,
        steep,
        key=jr.key(0),
        problems=2,
        steps=40,
        rest_analysis=rest_analysis,
        interventions=explode,
    )
    assert found.diverged.tolist() == [2]
    assert found.differences.tolist() == [np.inf]
    assert np.isnan(found.log_ratios).all()
    assert isinstance(figure_interventions([Run.of("steep", interventions=found)]), Figure)


def test_negative_losses_have_differences_and_no_ratios():
    """On x^2 / 2 - 0.2 descent of rate a has the loss (1 - a)^2k x^2 / 2 - 0.2 after k updates."""
    task = lo.FunctionTask(lambda x: 0.5 * x**2 - 0.2, lambda key: 1.0 + jr.uniform(key))
    slower = {"slower": Intervention("half", "none", lambda opt, _: lo.GradientDescent(0.3))}
    found = intervene(
        lo.GradientDescent(0.6), task, key=jr.key(0), problems=4, steps=40,
        rest_analysis=rest_of(MOMENTUM), interventions=slower,
    )  # fmt: skip
    starts = np.array([float(task.sample(key).initial_parameters[0]) for key in
                       jr.split(jr.key(0), 4)])  # fmt: skip
    means = []
    for rate in (0.6, 0.3):
        decay = (1 - rate) ** (2 * np.arange(41))
        losses = 0.5 * decay[:, None] * starts**2 - 0.2
        means.append(losses.mean(axis=0) / losses[0])
    np.testing.assert_allclose(found.original, means[0], rtol=1e-9)
    np.testing.assert_allclose(found.differences, (means[1] - means[0]).mean(), rtol=1e-9)
    assert means[0].max() < 0 < found.difference_lows[0]
    assert np.isnan([found.log_ratios, found.log_ratio_lows, found.log_ratio_highs]).all()
    assert "no ratio where a meta-objective is not above 0" in " ".join(str(found).split())
    ((_, words),) = intervention_facts(found)
    assert words.startswith("meta-objective plus 0.0")
    assert words.endswith("]; no ratio, as one is not above 0")
    (ax,) = figure_interventions([Run.of("negative", interventions=found)]).axes[:1]
    assert "no ratio" in [text.get_text() for text in ax.texts]


def test_records_are_kept_and_drawn(record, tmp_path):
    storage.save_record(tmp_path / "interventions.npz", record)
    again = storage.load_record(Interventions, tmp_path / "interventions.npz")
    for field, value in record.__dict__.items():
        np.testing.assert_array_equal(getattr(again, field), value)
    both = [Run.of("one", interventions=record), Run.of("other", interventions=again)]
    figure = figure_interventions(both)
    assert render(figure, "svg") == render(figure_interventions(both), "svg")
    for ax in figure.axes:
        dots = [line for line in ax.lines if line.get_marker() in ("o", ">", "<")]
        shown = sorted(x for line in dots for x in np.asarray(line.get_xdata(), float))
        expected = np.sort(np.clip(np.exp(record.log_ratios), 0.01, 100))
        np.testing.assert_allclose(shown, expected[np.isfinite(expected)], rtol=1e-12)
    with pytest.raises(ValueError, match="`runs` must hold at least one run"):
        figure_interventions([])


@pytest.mark.parametrize(
    ("low", "high", "heads"),
    [(0.5, 90.0, []), (0.5, 101.0, [(CARETRIGHT, 125.0)]), (1e-3, 50.0, [(CARETLEFT, 0.008)]),
     (1e-3, 1e3, [(CARETLEFT, 0.008), (CARETRIGHT, 125.0)])],
)  # fmt: skip
def test_intervals_that_go_on_beyond_the_axis_have_an_arrowhead(low, high, heads):
    names = synthetic().names
    ends: dict[str, Any] = {f"log_ratio_{end}s": np.full(len(names), np.log(value))
            for end, value in (("low", low), ("high", high))}  # fmt: skip
    found = dataclasses.replace(synthetic(), log_ratios=np.zeros(len(names)), **ends)
    (ax,) = lo.plot.interventions(found).axes
    drawn = [
        (line.get_marker(), float(np.ravel(line.get_xdata())[0]))
        for line in ax.lines
        if line.get_marker() in (CARETLEFT, CARETRIGHT)
    ]
    assert drawn == heads * len(names)
    assert "arrowhead" in COSTS.caption


class Groups(AbstractTask):
    """Slopes of the same size all over a group, and ten times as large in the second."""

    def sample(self, key):
        return QuadraticProblem(jnp.ones(5), 4 * jnp.sign(jr.normal(key, (5,))))

    def loss(self, problem, parameters, step):
        weights = jnp.array([1.0, 1.0, 1.0, 10.0, 10.0])
        return jnp.sum(weights * jnp.sqrt(1 + parameters**2))

    @property
    def parameter_groups(self):
        return {"first.weight": slice(0, 3), "second.weight": slice(3, 5)}


class ByConsistency(AbstractOptimizer):
    """A rate that grows as gradients agree: `a' = 0.9 a + g`, step `-(1 + a^2 / 1000) g`."""

    readout: Float[Array, "2"]

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.zeros(2)

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        return jnp.stack([0.9 * state[0] + gradient, (1 + state[0] ** 2 / 1000) * gradient])


@pytest.fixture(scope="module")
def replay() -> GradientReplay:
    """RMSProp, which knows of a stream no more than the squares of its gradients."""
    return measure_gradient_replay(
        lo.RMSProp(1e-3, 0.8, 1e-3), Groups(), key=jr.key(0), problems=3, steps=24
    )


def test_rates_follow_streams_and_not_groups(replay):
    place = {name: index for index, name in enumerate(replay.names)}
    own, given = replay.rates[place["own"]], replay.rates[place["exchanged"]]
    # The same numbers through the same program: to the bit.
    np.testing.assert_array_equal(given, own[::-1])
    np.testing.assert_allclose(replay.followed["exchanged"][1:], 1, rtol=1e-12)
    assert np.isnan(replay.followed["exchanged"][0])  # all states start alike
    halfway = replay.followed["exchanged_halfway"]
    np.testing.assert_array_equal(halfway[1:13], 0)
    assert np.all(np.diff(halfway[12:18]) > 0)
    # 0.8^12 of the old second moment is left at the end, which is a hundred times the new one.
    assert 0.5 < halfway[-1] < 1


def test_squares_are_all_that_rmsprop_sees(replay):
    remaining = dict(zip(replay.names, replay.remaining, strict=True))
    assert replay.separations[0].min() > 0.25
    # Signs do not matter, nor does the order beyond the length of memory; sizes do.
    for name in ("random_signs", "one_sign", "own", "exchanged"):
        np.testing.assert_allclose(remaining[name], 1, rtol=1e-12)
    assert remaining["random_order"] > 0.8
    assert remaining["one_size"] < 0.1
    assert remaining["one_size_at_each_step"] < 0.1
    lines = gradient_replay.gradient_replay_lines(replay)
    assert len(lines) == len(replay.names) + 2


def test_an_optimizer_that_hears_agreement_loses_it_with_the_signs():
    found = measure_gradient_replay(
        ByConsistency(jnp.array([0.0, -1e-5])), Groups(), key=jr.key(0), problems=3, steps=24
    )
    remaining = dict(zip(found.names, found.remaining, strict=True))
    assert remaining["random_signs"] < 0.5
    # Steps are too small to turn a gradient round.
    np.testing.assert_allclose(remaining["one_sign"], 1, rtol=1e-9)
    assert remaining["one_size"] < 0.1
    nothing = measure_gradient_replay(MOMENTUM, Groups(), key=jr.key(0), problems=2, steps=4)
    np.testing.assert_array_equal(nothing.separations, 0)
    assert np.isnan(nothing.remaining).all()
    assert np.isnan(nothing.followed["exchanged"]).all()


def test_changes_of_streams_keep_what_they_should():
    rng = np.random.default_rng(0)
    given = rng.normal(size=(2, 3, 4, 50)) * np.array([1.0, 10.0, 0.0])[:, None, None]
    for name, change in gradient_replay.CHANGES.items():
        found = change(given, np.random.default_rng(1))
        assert found.shape == given.shape
        sizes = np.abs(found)
        if name in ("random_signs", "one_sign"):
            np.testing.assert_array_equal(sizes, np.abs(given))
        if name == "random_order":
            np.testing.assert_array_equal(np.sort(found), np.sort(given))
            assert not np.array_equal(found, given)
    # The third group has no gradients: the others have no common size with it, and stay.
    np.testing.assert_array_equal(gradient_replay.CHANGES["one_size"](given, rng), given)
    found = gradient_replay.CHANGES["one_size"](given[:, :2], rng)
    roots = np.sqrt(np.mean(found**2, axis=(2, 3)))
    np.testing.assert_allclose(roots[:, 0], roots[:, 1], rtol=1e-12)
    ratio = found[:, 0] / given[:, 0]
    # One factor for each group of each problem, and so the same shape in time.
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-9)


def test_streams_are_kept_and_drawn(replay, tmp_path):
    storage.save_record(tmp_path / "gradient_replay.npz", replay)
    again = storage.load_record(GradientReplay, tmp_path / "gradient_replay.npz")
    for field, value in replay.__dict__.items():
        np.testing.assert_equal(getattr(again, field), value)
    run = Run.of("rosenbrock", gradient_replay=again)
    figure = side_by_side((REPLAYED_RATES, SEPARATION, EXCHANGED), run, height=2.6)
    drawn = np.asarray(figure.axes[0].lines[0].get_ydata(), float)
    np.testing.assert_allclose(drawn, replay.rates[0, 0], rtol=1e-12)


@pytest.mark.usefixtures("as_user")
def test_contexts_and_refusals():
    task = lo.LinearRegression(dim=2)
    rest_analysis = analyze_rest(MOMENTUM, task, key=jr.key(0), problems=2, steps=5)
    by_hand = rest_of(MOMENTUM, 5)
    for name in ("fixed_point", "slow", "rates", "projector"):
        np.testing.assert_allclose(getattr(rest_analysis, name), getattr(by_hand, name), atol=1e-12)
    with pytest.raises(ValueError, match="must not contain 'original'"):
        intervene(MOMENTUM, task, key=jr.key(0), interventions={"original": SOME["linear"]})
    with pytest.raises(ValueError, match="`problems` must be an integer of at least 1, got 0"):
        intervene(MOMENTUM, task, key=jr.key(0), problems=0)
    with pytest.raises(ValueError, match="must have at least two groups of parameters to compare"):
        measure_gradient_replay(MOMENTUM, task, key=jr.key(0))
    with pytest.raises(ValueError, match="`parameters` must be an integer of at least 1, got 0"):
        measure_gradient_replay(MOMENTUM, Groups(), key=jr.key(0), parameters=0)
    broken: Any = eqx.tree_at(lambda o: o.momentum, MOMENTUM, jnp.asarray(jnp.nan))
    with pytest.raises(ValueError, match="diverged on all 1"):
        measure_gradient_replay(broken, Groups(), key=jr.key(0), problems=1, steps=4)
