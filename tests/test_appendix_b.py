"""Appendix B: planted momentum is found and taken apart exactly, and told from other optimizers."""

import csv
import dataclasses
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic_records import BASELINES, meta_dynamics, momentum_mimic, tuning

import lrevopt as lo
from lrevopt import storage
from lrevopt.meta_training import MetaTraining
from lrevopt.optimizers import saved
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics, measure_meta_dynamics
from lrevopt.paper.appendices.momentum_mimic import (
    CURVES,
    SCORES,
    MomentumMimic,
    all_together,
    curve_gaps,
    measure_mimic,
    mimic_facts,
)
from lrevopt.paper.appendices.stage import (
    Compared,
    _replace,
    appendix_b,
    compare_snapshots,
    load_snapshots,
    selection_runs,
)
from lrevopt.paper.contents import APPENDIX_B
from lrevopt.paper.figures import FIGURES
from lrevopt.paper.figures.meta_dynamics import MIMIC, figure_14
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import Experiment, Learned, key_stream
from lrevopt.runs.train import train

SCRIPTS = Path(__file__).parent.parent / "scripts"
TASK = lo.LinearRegression()
OPTIMUM = lo.analytic_momentum()
TUNED = lo.Momentum(3.5, 0.87)


def taken_apart(optimizer, **options):
    counts: dict[str, Any] = {"problems": 3, "test_problems": 4, "steps": 30}
    key, test_key = jr.key(0), jr.key(1)
    return measure_mimic(
        optimizer, TASK, TUNED, OPTIMUM, key=key, test_key=test_key, **(counts | options)
    )


def test_planted_momentum_is_its_own_mimic():
    record = taken_apart(OPTIMUM, step=7)
    assert record.step == 7
    assert record.distances(record.optimum) == dict.fromkeys(
        ("learning_rate", "momentum", "forgetting"), 0.0
    )
    assert record.dominant_momentum == float(OPTIMUM.momentum)
    # 1 - alpha / (alpha / (1 - beta)) in round-off.
    assert record.together == pytest.approx(record.optimum, rel=1e-14)
    # One coordinate is all there is; the rest is padding.
    np.testing.assert_array_equal(record.explained_variance, np.eye(8)[0])
    # A state of size 1 is its own first component, up to the mean of visited ones.
    assert record.paths.shape == (5, 31, 8)
    np.testing.assert_array_equal(record.paths[:, 0, 0], record.fixed_point[0])
    a, b = float(OPTIMUM.learning_rate), float(OPTIMUM.momentum)
    expected = -a * (b * record.shifts[:, None] + record.gradients)
    np.testing.assert_allclose(record.shift_updates, expected, rtol=1e-13, atol=1e-13)
    learned, one_mode, tuned, analytic, one_momentum = record.losses
    np.testing.assert_array_equal(learned, analytic)
    # The fit is the optimizer itself, to round-off of a fit.
    np.testing.assert_allclose(one_momentum, learned, rtol=0, atol=1e-9 * learned[:, :1].max())
    assert record.fit.residual < 1e-12
    np.testing.assert_allclose(record.fit.learning_rates, [a], rtol=1e-12)
    assert record.chosen_by == SCORES
    scores = lo.meta_objective(jnp.asarray(learned))
    assert record.score("learned") == pytest.approx(float(scores.mean()), rel=1e-12)
    # The mode's velocity is momentum's with a zero imaginary part beside it: round-off only, but
    # relative to the first losses, of which later ones are a small rest.
    np.testing.assert_allclose(one_mode, learned, rtol=0, atol=1e-11 * learned[:, :1].max())
    assert record.gap("one_mode", "learned") < 1e-9
    assert record.gap("learned", "momentum") > 1e-3
    direct = lo.evaluate({"x": TUNED}, TASK, problems=4, steps=30, key=jr.key(1))
    np.testing.assert_array_equal(tuned, direct.losses[0])


@pytest.mark.long
def test_what_is_not_momentum_is_not_its_top_mode():
    """The mode of a clipped optimizer is gradient descent, and leaves it behind."""
    record = taken_apart(lo.ClippedGradientDescent(1.0, 1e-3))
    assert record.gap("one_mode", "learned") > 0.05
    assert record.dominant_momentum == 0
    assert record.distances(record.optimum)["momentum"] == -1


@pytest.mark.long
def test_components_are_signed_by_what_a_positive_gradient_does():
    """Momentum in a rotated basis of three coordinates, two of them idle."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    planted = lo.LinearOptimizer(
        fixed_point=jnp.array([0.1, 0.2, -0.3]),
        recurrent=jnp.asarray(basis @ np.diag([0.87, 0.2, 0.1]) @ basis.T),
        inputs=jnp.asarray(basis[:, 0]),
        readout=jnp.asarray(-3.5 * basis[:, 0]),
    )
    record = taken_apart(planted)
    # Only one direction is ever visited.
    np.testing.assert_allclose(record.explained_variance[:2], [1, 0], atol=1e-12)
    np.testing.assert_allclose(
        (record.dominant_learning_rate, record.dominant_momentum), (3.5, 0.87), rtol=1e-12
    )
    # A state moved along the first component holds more gradient, so it moves parameters down;
    # the constant is w . h*.
    drift = float(planted.readout @ planted.fixed_point)
    expected = drift - 3.5 * (0.87 * record.shifts[:, None] + record.gradients)
    np.testing.assert_allclose(record.shift_updates, expected, rtol=1e-11, atol=1e-11)


POSITIVE = arrays(float, (3, 6), elements=st.floats(1e-6, 1e6))


@given(POSITIVE)
def test_gap_is_a_distance_in_decades(curves):
    first, second, third = curves
    gaps = [curve_gaps(pair[None], other)[0] for pair, other in
            ((first, second), (second, first), (second, third), (first, third))]  # fmt: skip
    assert gaps[0] == gaps[1]
    assert gaps[3] <= gaps[0] + gaps[2] + 1e-12  # round-off of numbers up to 12
    # Ten times the losses is one decade, up to the round-off of a logarithm of size 7.
    np.testing.assert_allclose(curve_gaps(10 * curves, first)[0], 1.0, rtol=1e-14)
    assert curve_gaps(curves, first)[0] == 0


def test_gap_to_what_diverged_is_infinite():
    curves = np.array([[1.0, 1.0], [1.0, np.inf], [1.0, np.nan], [1.0, 0.0]])
    np.testing.assert_array_equal(curve_gaps(curves, np.ones(2)), [0, np.inf, np.inf, np.inf])
    assert np.isinf(curve_gaps(curves[:1], np.array([1.0, np.inf])))
    record = momentum_mimic()
    # It diverged on one problem of six after nine updates: a median does not see it, a mean does.
    assert np.isfinite(record.gap("analytic", "learned"))
    assert np.isinf(record.score("analytic"))
    lost = dataclasses.replace(record, losses=np.where(record.losses < 200, np.inf, record.losses))
    assert np.isinf(lost.gap("analytic", "learned"))
    with pytest.raises(ValueError, match="`name` must be one of learned"):
        record.curve("adam")
    figure = figure_14(MIMIC, Run.of("linear_regression", momentum_mimic=record))
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert "inner step\ndiverges: analytic optimum" in labels


def test_meta_dynamics_of_planted_momenta_are_these_momenta():
    planted = [(0.0, 0.0), (0.5, 0.3), (2.0, 0.7), (3.5, 0.87)]
    snapshots = [lo.Momentum(rate, beta) for rate, beta in planted]
    record = measure_meta_dynamics(
        snapshots, [0, 10, 20, 30], [1.0, 0.5, 0.2, 0.1], TASK, OPTIMUM,
        key=jr.key(0), problems=3, inner_steps=30,
    )  # fmt: skip
    np.testing.assert_array_equal(record.learning_rates[:, 0], [rate for rate, _ in planted])
    np.testing.assert_array_equal(record.eigenvalues[:, 0], [beta for _, beta in planted])
    np.testing.assert_array_equal(record.dominant_learning_rates, record.learning_rates[:, 0].real)
    np.testing.assert_array_equal(record.dominant_momenta, record.eigenvalues[:, 0].real)
    np.testing.assert_array_equal(record.steps, [0, 10, 20, 30])
    assert record.converged.all()
    away = record.distances()["momentum"]
    np.testing.assert_allclose(away, [beta / record.optimum["momentum"] - 1 for _, beta in planted])


@pytest.mark.long
def test_top_mode_of_several_is_the_one_with_most_of_the_steady_response():
    """0.1 / (1 - 0.95) = 2 against 1 / (1 - 0.3) = 1.43, and then the other way round."""
    snapshots = [
        lo.AggregatedMomentum([1.0, 0.1], [0.3, 0.95]),
        lo.AggregatedMomentum([1.0, 0.05], [0.3, 0.95]),
    ]
    record = measure_meta_dynamics(
        snapshots, [0, 1], [0.2, 0.1], TASK, OPTIMUM, key=jr.key(0), problems=2, inner_steps=20
    )
    # Eigenvectors of a diagonal matrix are exact; alpha is a product of two numbers and 1.
    np.testing.assert_allclose(record.dominant_learning_rates, [0.1, 1.0], rtol=1e-14)
    np.testing.assert_allclose(record.dominant_momenta, [0.95, 0.3], rtol=1e-14)
    np.testing.assert_allclose(record.eigenvalues, [[0.95, 0.3]] * 2, rtol=1e-14)
    # All modes together: 1.1 at once and 2 + 10 / 7 in all, then 1.05 and 1 + 10 / 7.
    rates, momenta = record.together()
    np.testing.assert_allclose(rates, [1.1, 1.05], rtol=1e-14)
    np.testing.assert_allclose(momenta, [1 - 1.1 * 7 / 24, 1 - 1.05 * 7 / 17], rtol=1e-14)


@pytest.mark.long
def test_an_untrained_optimizer_has_no_rates_and_still_has_dynamics():
    untrained = lo.GRUOptimizer(3, key=jr.key(0))
    record = measure_meta_dynamics(
        [untrained], [0], [1.0], TASK, OPTIMUM, key=jr.key(0), problems=2, inner_steps=8
    )
    assert record.dominant_learning_rates == 0
    assert np.isnan(record.together()[1])
    # The start and all biases are zero, and so is the fixed point, where both gates are open by
    # half: no mode of it is slower than 1/2 + 1/4 |candidate weights|.
    assert isinstance(untrained.cell, lo.GRUCell)
    bound = 0.5 + 0.25 * np.linalg.norm(np.asarray(untrained.cell.candidate), 2)
    assert 0 < record.dominant_momenta[0] <= bound
    assert record.converged.all()


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 1, 2), (2, 2, 1)])
def test_lists_of_different_lengths_are_refused(counts):
    snapshots, steps, scores = counts
    with pytest.raises(ValueError, match="`snapshots`, `steps` and `scores` must be lists of one"):
        measure_meta_dynamics(
            [TUNED] * snapshots, [0] * steps, [1.0] * scores, TASK, OPTIMUM, key=jr.key(0)
        )


SHORT = MetaTraining(
    steps=2, unroll=8, problems=2, selection_problems=4, snapshot_every=1, learning_rate=0.05,
    warm_up=0, clip=1.0, early_snapshots=False, estimator="es",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A very short run on linear regression, and made-up baselines beside it."""
    folder = tmp_path_factory.mktemp("appendix") / "run"
    train(Experiment("linear_regression", Learned(3), SHORT), folder)
    description = storage.load_json(folder / storage.SETTINGS)["task"]
    (folder / "tuning").mkdir()
    storage.save_json(folder / "tuning" / storage.SETTINGS, {"task": description})
    for name in BASELINES:
        storage.save_record(folder / "tuning" / f"{name}.npz", tuning(name))
    return folder


def test_problems_of_the_choice_are_those_that_scored_the_snapshots(run):
    snapshots, history = load_snapshots(run)
    assert len(snapshots) == 3
    named = {str(index): snapshot for index, snapshot in enumerate(snapshots)}
    scores = selection_runs(run, named, TASK).meta_objectives().mean(axis=1)
    # Scores are kept in single precision.
    np.testing.assert_allclose(scores, history.selection_scores, rtol=1e-6)
    np.testing.assert_array_equal(
        np.asarray(snapshots[int(history.selected)].readout), np.asarray(saved.load(run).readout)
    )


@pytest.mark.long
def test_planted_momentum_is_chosen_out_of_a_list(run):
    """By its meta-objective, to which its interval has zero width, and by its loss curve."""
    snapshots = [
        lo.GradientDescent(1.0),
        lo.Momentum(1.0, 0.5),
        TUNED,
        lo.Momentum(3.0, 0.95),
        lo.ClippedGradientDescent(1.0, 0.1),
        lo.Momentum(100.0, 0.9),
    ]
    found = compare_snapshots(run, snapshots, TASK, TUNED)
    assert found.equal == 2
    assert (found.gaps[2], found.differences[2], found.lows[2], found.highs[2]) == (0, 0, 0, 0)
    # Runs are short, and 3.0 and 0.95 are near: some thousandths of a decade.
    assert (np.delete(found.gaps, 2) > 1e-3).all()
    assert (np.delete(np.abs(found.differences), 2) > 1e-4).all()
    assert (found.lows <= found.differences).all()
    assert (found.differences <= found.highs).all()


def test_equal_performance_is_another_choice_than_the_nearest_curve():
    """The least difference of either sign; of two equal ones, the earlier snapshot."""
    differences = np.array([0.3, -0.01, 0.02, 0.01])
    found = Compared(differences, differences - 0.1, differences + 0.1, np.array([1, 0.5, 0.1, 1]))
    assert found.equal == 1
    assert found.nearest_curve == 2
    said = found.in_words(np.array([0, 10, 20, 30]))
    assert "momentum after 10 meta-steps: meta-objective -0.0100 [-0.1100, +0.0900]" in said


def test_the_caption_says_what_the_facts_say_of_how_the_snapshot_was_chosen():
    (spec,) = [spec for spec in FIGURES if spec.number == 14]
    chosen = dataclasses.replace(momentum_mimic(), chosen_by=SCORES)
    assert "whose mean meta-objective is nearest" in dict(mimic_facts(chosen))["Snapshot"]
    assert "whose mean meta-objective on selection problems is nearest to tuned" in spec.caption


@pytest.mark.parametrize("gap", [0.5, 1e-3])
def test_all_together_is_seen_without_modes(gap):
    """Where modes are nearly parallel, their rates of opposite signs are large; sums are not."""
    planted = lo.LinearOptimizer(
        fixed_point=jnp.zeros(2),
        recurrent=jnp.array([[0.88, 1.0], [0.0, 0.88 - gap]]),
        inputs=jnp.array([1.0, 0.2]),
        readout=jnp.array([-2.5, 0.3]),
    )
    model = lo.linearize(planted, jnp.zeros(2))
    modes = lo.eigenmodes(model)
    assert np.abs(modes.learning_rates).max() > 0.4 / gap
    rate, momentum = all_together(modes.eigenvalues[None], modes.learning_rates[None])
    # -w . B is 2.5 - 0.06. Rates of size 1 / gap cancel.
    np.testing.assert_allclose(rate, 2.44, rtol=1e-14 / gap)
    expected = 1 - 2.44 / lo.steady_state_gain(model)
    np.testing.assert_allclose(momentum, expected, rtol=1e-13 / gap)


def call(monkeypatch, script, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.long
def test_script_leaves_an_optimizer_and_the_records_of_its_figures(
    run, monkeypatch, capsys, tmp_path
):
    output = run / APPENDIX_B
    counts = ["--problems", 2, "--test-problems", 3, "--steps", 8]
    arguments = [run, "--baselines", run, "--output", output, *counts]
    weights = (run / storage.WEIGHTS).read_bytes()
    own = [run, "--baselines", run, "--output", run, *counts]
    assert call(monkeypatch, "appendix_b.py", *own) == 2
    assert "`output` must be a folder of its own" in capsys.readouterr().err
    assert (run / storage.WEIGHTS).read_bytes() == weights
    assert call(monkeypatch, "appendix_b.py", *arguments) == 0
    said = capsys.readouterr().out
    assert "3 snapshots; none performs as tuned momentum, nearest after" in said
    assert "best one momentum alone against the whole" in said
    assert "dominant mode against optimum momentum: learning_rate" in said
    other = tmp_path / "other"
    settings = storage.load_json(output / storage.SETTINGS) | {"seed": 99}
    storage.save_json(other / storage.SETTINGS, settings)
    assert call(monkeypatch, "appendix_b.py", *arguments[:4], other, *counts) == 2
    assert "whose `seed` differ: choose another folder" in capsys.readouterr().err
    assert storage.load_json(other / storage.SETTINGS) == settings
    tuned = lo.Momentum(**tuning("momentum").best)
    snapshots, history = load_snapshots(run)
    compared = compare_snapshots(run, snapshots, TASK, tuned)
    chosen, gaps = compared.equal, compared.gaps
    pairs = zip(
        jax.tree.leaves(snapshots[chosen]), jax.tree.leaves(saved.load(output)), strict=True
    )
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
    found = Run(run)
    mimic, dynamics = (found.record(name) for name in ("momentum_mimic", "meta_dynamics"))
    assert isinstance(mimic, MomentumMimic)
    assert isinstance(dynamics, MetaDynamics)
    assert mimic.step == history.snapshot_steps[chosen]
    np.testing.assert_array_equal(dynamics.steps, history.snapshot_steps)
    kept = storage.shortened(mimic.eigenvalues)
    np.testing.assert_array_equal(dynamics.eigenvalues[chosen], kept)
    tested = lo.evaluate(
        {"learned": snapshots[chosen]}, TASK, problems=3, steps=8, key=key_stream("test", 0)
    )
    np.testing.assert_array_equal(mimic.losses[0], storage.shortened(tested.losses[0]))
    other = found.record("mimic_by_curves")
    assert (mimic.chosen_by, other.chosen_by) == (SCORES, CURVES)
    assert other.step == history.snapshot_steps[int(np.argmin(gaps))]
    facts = storage.load_json(output / storage.SETTINGS)[APPENDIX_B]
    assert facts["difference"] == compared.differences[chosen]
    assert (facts["snapshot"], facts["curve_gap"]) == (mimic.step, gaps[chosen])
    with (output / "snapshots.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal([float(row["curve_gap"]) for row in rows], gaps)


def test_an_appendix_that_is_replaced_never_has_measurements_of_other_settings(
    tmp_path, monkeypatch
):
    old, new = lo.Momentum(1.0, 0.5), lo.Momentum(2.0, 0.6)
    _replace(tmp_path, {"seed": 0}, old, {"record.npz": b"old", "snapshots.csv": "old"})
    (tmp_path / "evaluation.json").write_text("{}")
    replace, done = os.replace, list[str]()

    def twice(source, target):
        if len(done) == 2:
            raise OSError(28, "No space left on device", str(target))
        done.append(Path(target).name)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", twice)
        with pytest.raises(OSError, match="No space"):
            _replace(tmp_path, {"seed": 1}, new, {"record.npz": b"new", "snapshots.csv": "new"})
    assert {path.name for path in tmp_path.iterdir()} == {storage.SETTINGS, storage.WEIGHTS}
    _replace(tmp_path, {"seed": 1}, new, {"record.npz": b"new", "snapshots.csv": "new"})
    assert (tmp_path / "record.npz").read_bytes() == b"new"
    assert storage.load_json(tmp_path / storage.SETTINGS)["seed"] == 1
    assert saved.holds(tmp_path, new)


def test_runs_without_a_known_optimum_or_without_snapshots_are_refused(run, tmp_path):
    settings = storage.load_json(run / storage.SETTINGS)
    other = settings | {
        "task": storage.describe(lo.Rosenbrock()),
        "task_spec": {"spec": "rosenbrock", "kwargs": {}},
    }
    storage.save_json(tmp_path / storage.SETTINGS, other)
    with pytest.raises(ValueError, match="must hold a run on linear_regression, .* is on rosenb"):
        appendix_b(tmp_path, run, tmp_path / "out")
    storage.save_json(tmp_path / storage.SETTINGS, settings)
    with pytest.raises(ValueError, match="cannot be read"):
        appendix_b(tmp_path, run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("record", [momentum_mimic(), meta_dynamics()])
def test_records_survive_the_disk(record, tmp_path):
    storage.save_record(tmp_path / "record.npz", record)
    again = storage.load_record(type(record), tmp_path / "record.npz")
    for field in dataclasses.fields(record):
        ours, theirs = getattr(record, field.name), getattr(again, field.name)
        if isinstance(ours, dict):
            assert theirs == ours
        else:
            np.testing.assert_array_equal(theirs, ours)
