"""Meta-training without gradients: what is searched, in which coordinates, and what it finds."""

import dataclasses
from typing import Any, cast

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cmaes import CMA
from hypothesis import given
from hypothesis import strategies as st

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop.recorded_runs import record_runs, replayed
from lrevopt.meta_training.evolution import population_size
from lrevopt.meta_training.searched_numbers import (
    FLAT,
    FURTHEST,
    PROBLEMS,
    SearchedNumbers,
    axes_of,
    count_of,
    moved,
    search_axes,
)
from lrevopt.optimizers.white_box_documents import document_of
from lrevopt.runs import train as runs_train
from lrevopt.runs.experiment import Experiment, Named
from lrevopt.studies.distillation.training import train_from
from lrevopt.studies.universality.cells import equinox_gru, lstm, vanilla

SETTINGS = lo.MetaTraining(
    steps=12, unroll=10, problems=2, estimator="cma", cma_deviation=0.3, snapshot_every=4,
    selection_problems=4,
)  # fmt: skip
PARABOLA = lo.FunctionTask(lambda x: 0.5 * jnp.sum(x**2), lambda key: jnp.ones(1), title="parabola")


def cho(units: int) -> lo.RecurrentOptimizer:
    """A GRU of this width that moves."""
    optimizer = lo.GRUOptimizer(units, key=jr.key(units))
    return eqx.tree_at(lambda o: o.weights, optimizer, 0.1 * jr.normal(jr.key(9), (units,)))


def train(task, start, settings=SETTINGS, **options):
    return lo.meta_train(task, start, settings, key=jr.key(3), progress=False, **options)


def test_gradient_descent_finds_the_inverse_of_the_curvature():
    """Of 1/2 x^2, a learning rate of 1 reaches the minimum at once: the least mean loss, 1 / 11."""
    run = train(PARABOLA, lo.GradientDescent(0.2))
    assert isinstance(run.optimizer, lo.GradientDescent)
    assert float(run.optimizer.learning_rate) == pytest.approx(1.0, abs=0.05)
    assert run.history.selection_scores.min() == pytest.approx(1 / 11, rel=5e-3)


def test_candidates_that_diverge_rank_last():
    """From 1.9, just stable, half of the first candidates overshoot; what is kept does not."""
    settings = dataclasses.replace(SETTINGS, unroll=2000, cma_deviation=1.0, steps=20)
    run = train(PARABOLA, lo.GradientDescent(1.9), settings)
    assert float(run.optimizer.learning_rate) == pytest.approx(1.0, abs=0.2)
    assert run.history.skipped == 0


@pytest.mark.long
def test_a_search_does_as_well_as_a_tuner():
    """Two independent routes to momentum on a small task; a search may leave a tuner's ranges."""
    task, start = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0)), lo.Momentum(0.1, 0.3)
    settings = lo.MetaTraining(
        steps=60, unroll=40, problems=32, snapshot_every=20, selection_problems=256,
        estimator="cma", cma_deviation=0.3,
    )  # fmt: skip
    found = train(task, start, settings)
    tuned = lo.tune(
        task, lo.Momentum, lo.Tuning(settings=1000, problems=256, steps=40), key=jr.key(4)
    )
    pair = {"found": found.optimizer, "tuned": tuned.optimizer(lo.Momentum)}
    scores = lo.evaluate(pair, task, problems=512, steps=40, key=jr.key(5)).mean_scores()
    assert scores["tuned"] < 0.7 * found.history.selection_scores[0]
    assert 0.8 * scores["tuned"] < scores["found"] < 1.01 * scores["tuned"]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(lo.WhiteBox(0.05, momentum=0.5), id="box", marks=pytest.mark.long),
        pytest.param(cho(4), id="GRU"),
    ],
)
def test_an_interrupted_search_goes_on_with_the_same_bits(tmp_path, start):
    task = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0))
    whole = train(task, start)
    folder = tmp_path / "run"
    train(task, start, directory=folder, time_limit=1e-9)
    resumed = train(task, start, directory=folder, resume=True)
    assert resumed.history.outcome == "finished"
    for one, other in (
        (resumed.last, whole.last),
        (resumed.optimizer, whole.optimizer),
    ):
        assert eqx.tree_equal(one, other)
    np.testing.assert_array_equal(resumed.history.objectives, whole.history.objectives)
    assert np.all(np.isnan(whole.history.gradient_norms))
    assert eqx.tree_equal(lo.load(folder), whole.optimizer)


def test_other_settings_are_another_run(tmp_path):
    start, folder = lo.GradientDescent(0.2), tmp_path / "run"
    train(PARABOLA, start, directory=folder, time_limit=1e-9)
    other = dataclasses.replace(SETTINGS, cma_deviation=0.1)
    with pytest.raises(ValueError, match="holds another run .different: training."):
        train(PARABOLA, start, other, directory=folder, resume=True)


@pytest.mark.long
def test_a_penalty_on_drift_counts():
    """A GRU whose readout has a bias drifts; where drift costs, what is found drifts less.

    After 20 generations whether it holds depends on the machine, by round-off: after 40 what is
    left is a thirtieth or less, with four keys.
    """
    task = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0))
    start = lo.GRUOptimizer(4, key=jr.key(0), bias=True)
    start = eqx.tree_at(
        lambda o: (o.weights, o.bias), start, (jnp.full(4, 0.02), jnp.asarray(0.005))
    )
    settings = dataclasses.replace(SETTINGS, steps=40, cma_deviation=0.1, drift_steps=50)

    def rest(optimizer):
        state = optimizer.initial_state()
        for _ in range(60):
            state = optimizer.transition(state, jnp.zeros(()))
        return abs(float(optimizer.readout @ state / jnp.linalg.norm(optimizer.readout)))

    free = train(task, start, settings).last
    held = train(task, start, dataclasses.replace(settings, drift_penalty=1e4)).last
    assert rest(held) < 0.1 * rest(start)
    assert rest(held) < 0.5 * rest(free)


def test_recorded_objectives_are_without_the_penalty_that_ranks_by_it():
    task = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0))
    start = lo.GRUOptimizer(2, key=jr.key(0))
    settings = dataclasses.replace(SETTINGS, steps=1, drift_steps=5)
    free, held = (
        train(task, start, dataclasses.replace(settings, drift_penalty=penalty)).history.objectives
        for penalty in (0.0, 1e6)
    )
    np.testing.assert_allclose(free, held)  # of the same first candidates


def test_what_is_searched_of_a_cell():
    """Vectors of a width entry by entry; of gates, a factor for each block, each beside its own."""
    assert count_of(cho(32), 64) == 32 + 32 + 2 + 1 + 3 + 3
    assert count_of(cho(32), 96) == 32 + 32 + 96 + 96 + 2 + 1
    two = lo.RecurrentOptimizer(eqx.nn.LSTMCell(1, 5, key=jr.key(0)), 5)
    assert count_of(two, 10) == 2 * 10 + 3 * 4
    # LSTM: a state of two vectors, and inputs, matrix and bias of four gates.
    assert count_of(lstm(32, key=jr.key(0)), 64) == 2 * 64 + 3 * 4
    # Equinox's GRU has a bias of one width within the third gate.
    assert count_of(equinox_gru(32, key=jr.key(0)), 64) == 2 * 32 + 3 * 3 + 32
    assert count_of(vanilla(32, key=jr.key(0)), 64) == 4 * 32 + 1


def test_factors_multiply_the_blocks_of_gates():
    optimizer = cho(3)
    count = count_of(optimizer, 3)
    values = jnp.zeros(count).at[jnp.asarray([0, 2])].set(jnp.log(jnp.asarray([2.0, 5.0])))
    found: Any = moved(optimizer, 3, values)
    found, cell = found.cell, cast(Any, optimizer.cell)
    np.testing.assert_allclose(found.gates[:3], 2 * cell.gates[:3])
    np.testing.assert_array_equal(found.gates[3:], cell.gates[3:])
    np.testing.assert_allclose(found.candidate, 5 * cell.candidate)
    np.testing.assert_array_equal(found.inputs, cell.inputs)


def test_the_start_is_at_zero():
    optimizer = cho(5)
    assert eqx.tree_equal(moved(optimizer, 5, jnp.zeros(count_of(optimizer, 5))), optimizer)


@given(seed=st.integers(0, 2**32 - 1), samples=st.integers(6, 20), spread=st.floats(0, 4))
def test_axes_have_an_effect_of_one(seed, samples, spread):
    """However unequal the numbers are, and however large their arrays."""
    drawn = np.random.default_rng(seed)
    slopes = drawn.normal(size=(samples, 4)) * 10 ** drawn.uniform(-spread, spread, 4)
    axes = axes_of(slopes.T @ slopes / samples, np.full(4, 1e9))
    effects = np.linalg.svd(slopes @ axes / np.sqrt(samples), compute_uv=False)
    assert np.all(effects <= 1)
    columns = slopes / np.sqrt((slopes**2).mean(axis=0))
    singular = np.linalg.svd(columns / np.sqrt(samples), compute_uv=False)
    expected = singular / np.sqrt(singular**2 + FLAT**2 * singular[0] ** 2)
    np.testing.assert_allclose(effects, np.sort(expected)[::-1], rtol=1e-6)


def test_axes_of_numbers_without_effect_are_their_sizes():
    """One number with an effect, one without any, and one whose derivative is not finite."""
    effects = np.diag([4.0, 0.0, np.nan])
    effects[2, :2] = effects[:2, 2] = np.nan
    axes = axes_of(effects, np.array([100.0, 2.0, 3.0]))
    np.testing.assert_allclose(axes, np.diag([0.5 / np.sqrt(1 + FLAT**2), 2.0, 3.0]))


@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 8))
def test_no_axis_moves_a_number_far(seed, spread):
    drawn = np.random.default_rng(seed)
    slopes = drawn.normal(size=(9, 5)) * 10 ** drawn.uniform(-spread, 0, 5)
    sizes = 10 ** drawn.uniform(-2, 2, 5)
    axes = axes_of(slopes.T @ slopes / 9, sizes)
    assert np.all(np.abs(axes) <= FURTHEST * sizes[:, None] * (1 + 1e-12))
    assert np.linalg.matrix_rank(axes / sizes[:, None] / np.abs(axes / sizes[:, None]).max(0)) == 5


def test_a_step_along_any_axis_moves_parameters_alike():
    """By differences, on the runs that the coordinates are made from."""
    task, optimizer = lo.LinearRegression(dim=3, log10_eigenvalues=(-1, 0)), cho(4)
    axes = search_axes(optimizer, task, entries=8, steps=20, key=jr.key(1))
    numbers = SearchedNumbers(optimizer, 8, jnp.asarray(axes))
    recorded = record_runs(optimizer, task, key=jr.key(1), problems=PROBLEMS, steps=20)
    start = np.cumsum(recorded.updates, axis=0)
    size, step = np.sqrt(np.mean(start**2)), 1e-6
    count = numbers.axes.shape[1]
    effects = []
    for place in range(count):
        there = numbers.at(jnp.zeros(count).at[place].set(step))
        change = np.cumsum(replayed(there, recorded.gradients), axis=0) - start
        effects.append(np.sqrt(np.mean(change**2)) / size / step)
    assert max(effects) == pytest.approx(1 / np.sqrt(1 + FLAT**2), rel=1e-3)
    assert 0 < min(effects) < 0.9 * max(effects)


def test_white_boxes_are_searched_in_turn():
    starts = [lo.WhiteBox(0.02, momentum=0.2), lo.WhiteBox(0.3, momentum=0.2)]
    found = train_from(
        starts, lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0)), SETTINGS, key=jr.key(0)
    )
    assert found.scores.shape == (2,)
    assert isinstance(found.box, lo.WhiteBox)


def test_a_population_of_the_advised_size():
    """4 + floor(3 log n), as Hansen (2016) has it in table 1."""
    assert [population_size(SETTINGS, n) for n in (2, 10, 73)] == [6, 10, 16]
    assert population_size(dataclasses.replace(SETTINGS, cma_population=7), 73) == 7


def test_a_white_box_in_a_file_is_trained_by_name(tmp_path):
    """As `lrevopt train TASK --optimizer box.json` does; the run's folder is then enough."""
    box = lo.WhiteBox(
        0.02, momentum=lo.BoxMomentum((0.8, 0.5 + 0.4j), (0.7, 0.3 + 0.1j)),
        saturation=lo.BoxSaturation(2.0, 3.0), hold=("sharpness",),
    )  # fmt: skip
    file, run = tmp_path / "box.json", tmp_path / "run"
    file.write_text(storage.json_text(document_of(box)))
    chosen = Experiment("linear_regression", Named(str(file)), SETTINGS)
    found = runs_train.train(chosen, run).optimizer
    file.unlink()
    loaded = lo.load(run)
    assert isinstance(loaded, lo.WhiteBox)
    assert eqx.tree_equal(loaded, found)
    assert loaded.held == {"sharpness": 3.0}
    assert loaded.numbers() != box.numbers()
    assert repr(loaded) == repr(found)


@pytest.mark.usefixtures("as_user")
def test_refused_white_boxes(tmp_path):
    file = tmp_path / "box.json"
    with pytest.raises(ValueError, match=r"`.*box.json` cannot be read"):
        Named(str(file)).build(jr.key(0))
    file.write_text(storage.json_text(document_of(lo.WhiteBox(0.1))))
    with pytest.raises(ValueError, match=r"`kwargs` must be left out for `.*box.json`"):
        Named(str(file), {"units": 3}).build(jr.key(0))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cma_deviation": 0.0}, r"`cma_deviation` must be .* above 0, got 0"),
        ({"cma_population": 3}, r"`cma_population` must be an integer of at least 4, got 3"),
        ({"cma_entries": 0}, r"`cma_entries` must be an integer of at least 1, got 0"),
    ],
)
def test_refused_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_a_search_whose_candidates_all_diverge_comes_nearer():
    """With a first deviation that is far too large, it is halved until some do not diverge."""
    settings = dataclasses.replace(SETTINGS, unroll=2000, cma_deviation=3e3, steps=30)
    run = train(PARABOLA, lo.GradientDescent(0.2), settings)
    assert 1 <= run.history.skipped < 25
    assert np.nanmin(run.history.selection_scores) < 0.9 * run.history.selection_scores[0]


def test_axes_are_part_of_what_is_saved(tmp_path, monkeypatch):
    """A resumed search does not draw them again: signs of eigenvectors are a machine's own."""
    task, folder = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0)), tmp_path / "run"
    whole = train(task, cho(4))
    train(task, cho(4), directory=folder, time_limit=1e-9)
    monkeypatch.setattr("lrevopt.meta_training.evolution.search_axes", None)
    resumed = train(task, cho(4), directory=folder, resume=True)
    assert eqx.tree_equal(resumed.last, whole.last)


@pytest.mark.usefixtures("as_user")
def test_a_search_that_would_go_another_way_is_refused(tmp_path, monkeypatch):
    """As with a version of cmaes that draws other candidates."""
    task, folder = lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0)), tmp_path / "run"
    train(task, cho(4), directory=folder, time_limit=1e-9)
    draw = CMA.ask
    monkeypatch.setattr(CMA, "ask", lambda self: -draw(self))
    with pytest.raises(ValueError, match=r"was begun where the same search takes another way"):
        train(task, cho(4), directory=folder, resume=True)


@pytest.mark.usefixtures("as_user")
def test_refused_trainings():
    many = dataclasses.replace(SETTINGS, cma_entries=4096)
    task = lo.LinearRegression(dim=2)
    with pytest.raises(ValueError, match=r"`cma_entries` must leave at most 1000 numbers"):
        train(task, cho(32), many)
    with pytest.raises(ValueError, match=r"`settings.estimator` must not be cma for a population"):
        lo.meta_train_population(
            task, [lo.Momentum(0.1, 0.5)] * 2, SETTINGS, keys=jr.split(jr.key(0), 2), progress=False
        )
    with pytest.raises(ValueError, match=r"`settings.estimator` must be exact, clipped or first"):
        lo.meta_gradient(lo.Momentum(0.1, 0.5), task, jr.split(jr.key(0), 2), SETTINGS)
    decaying = lo.from_optax(optax.adamw, learning_rate=jnp.asarray(0.1), weight_decay=0.1)
    with pytest.raises(ValueError, match="must not be cma for this Opt.*, whose updates depend"):
        train(task, decaying)
