"""Optimizers on tasks not trained for: matrices and sweeps, against runs made one by one."""

import csv
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
import pytest
from test_scripts import call

import lrevopt as lo
from lrevopt import storage
from lrevopt.optimizers.saved import save_optimizer
from lrevopt.optimizers.white_box_documents import distilled_box, document_of
from lrevopt.optimizers.wrappers import ScaledGradients
from lrevopt.paper.experiments import TransferSettings
from lrevopt.paper.transfer import Rows, _made_from, _once, transfer
from lrevopt.plots.transfers import figure_sweeps, figure_transfer
from lrevopt.runs.experiment import key_stream
from lrevopt.studies.transfer import (
    Sweep,
    Transfer,
    measure_transfer,
    sweep_horizons,
    sweep_scales,
    sweep_tasks,
)

TASK = lo.LinearRegression()
KEY = jr.key(3)
OTHER: tuple[Any, ...] = (20, [lo.LinearRegression()], None, {1.0}, {5: 1}, {"a": TASK})
"""What is no list of numbers, no dictionary, and none by number."""
OPTIMIZERS = {
    "slow": lo.Momentum(0.5, 0.5),
    "fast": lo.Momentum(3.0, 0.9),
    "wild": lo.GradientDescent(1e4),
}


def scores(optimizer, task=TASK, steps=20, problems=4):
    """Meta-objectives of one optimizer, by `lo.evaluate`."""
    found = lo.evaluate({"it": optimizer}, task, problems=problems, steps=steps, key=KEY)
    return found.meta_objectives()[0]


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_scaled_gradients_are_those_of_a_scaled_learning_rate(scale):
    found = scores(ScaledGradients(lo.Momentum(0.2, 0.9), scale))
    np.testing.assert_allclose(found, scores(lo.Momentum(0.2 * scale, 0.9)), rtol=1e-10)


def test_scales_that_print_alike_are_all_measured():
    sweep = sweep_scales({"sgd": lo.GradientDescent(0.1)}, TASK, (1.0, 1.0 + 1e-9, 1.0), key=KEY,
                         problems=2, steps=3)  # fmt: skip
    assert sweep.objectives.shape == (1, 3, 2)
    assert sweep.objectives[0, 1, 0] != sweep.objectives[0, 0, 0]
    np.testing.assert_array_equal(sweep.objectives[0, 2], sweep.objectives[0, 0])


def test_sweep_of_scales_scales_a_learning_rate():
    sweep = sweep_scales({"sgd": lo.GradientDescent(0.1)}, TASK, (0.1, 10.0), key=KEY,
                         problems=4, steps=20)  # fmt: skip
    expected = [scores(lo.GradientDescent(rate)) for rate in (0.01, 1.0)]
    np.testing.assert_allclose(sweep.objectives[0], expected, rtol=1e-10)
    np.testing.assert_allclose(sweep.means()[0], np.mean(expected, axis=1), rtol=1e-12)


def test_adam_does_not_see_the_scale():
    sweep = sweep_scales({"adam": lo.Adam(0.1, epsilon=1e-12)}, TASK, (1.0, 1e3), key=KEY,
                         problems=4, steps=20)  # fmt: skip
    np.testing.assert_allclose(sweep.objectives[0, 0], sweep.objectives[0, 1], rtol=1e-6)


def test_horizons_are_runs_of_their_own():
    sweep = sweep_horizons(OPTIMIZERS, TASK, (5, 20), key=KEY, problems=4)
    for place, name in enumerate(("slow", "fast")):
        for column, steps in enumerate((5, 20)):
            expected = scores(OPTIMIZERS[name], steps=steps)
            np.testing.assert_allclose(sweep.objectives[place, column], expected, rtol=1e-10)


def test_a_run_counts_as_diverged_from_the_horizon_on_at_which_it_is():
    explosive = {"wild": lo.GradientDescent(1e100)}
    sweep = sweep_horizons(explosive, TASK, (1, 20), key=KEY, problems=4)
    assert sweep.diverged().tolist() == [[0, 4]]
    assert np.isfinite(sweep.means()).tolist() == [[True, False]]


def test_tasks_are_swept_in_their_order():
    tasks = {float(dim): lo.LinearRegression(dim) for dim in (2, 7)}
    sweep = sweep_tasks({"fast": OPTIMIZERS["fast"]}, tasks, key=KEY, problems=4, steps=20)
    expected = [scores(OPTIMIZERS["fast"], task) for task in tasks.values()]
    np.testing.assert_allclose(sweep.objectives[0], expected, rtol=1e-10)
    assert sweep.values.tolist() == [2.0, 7.0]


@pytest.mark.long
def test_the_matrix_has_each_optimizers_own_runs_and_the_home_optimizer_no_distance():
    optimizers = {**OPTIMIZERS, "again": lo.Momentum(0.5, 0.5)}
    record = measure_transfer(optimizers, TASK, "slow", key=KEY, analysis_key=jr.key(4),
                              problems=4, analysed=4, steps=20)  # fmt: skip
    for row, optimizer in zip(record.objectives, optimizers.values(), strict=True):
        np.testing.assert_allclose(row, scores(optimizer), rtol=1e-10)
    assert record.distances[[0, 3]].tolist() == [0, 0]
    assert record.distances[1] > 0.1


def test_without_scorecards_there_are_no_distances():
    record = measure_transfer(OPTIMIZERS, TASK, "slow", key=KEY, analysis_key=KEY, problems=2,
                              analysed=0, steps=5)  # fmt: skip
    assert np.isnan(record.distances).all()


def test_log_ratios_are_those_of_the_reference():
    objectives = np.array([[0.1, 0.2], [0.2, 0.4], [np.inf, 0.1]])
    record = Transfer(("a", "b", "c"), "a", objectives, np.zeros(3))
    found = record.log_ratios("a")
    np.testing.assert_allclose(found[:2], [[0, 0, 0], [np.log(2)] * 3], atol=1e-12)
    assert found[2, 0] == np.inf
    assert record.diverged().tolist() == [0, 0, 1]
    # A mean loss below 0 has no ratio to another; that is no warning either.
    signs = Transfer(("a", "b"), "a", np.array([[0.1, 0.2], [-0.1, 0.2]]), np.zeros(2))
    assert np.isnan(signs.log_ratios("a")).any(axis=1).tolist() == [False, True]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sweep_scales(OPTIMIZERS, TASK, (), key=KEY), "`scales` must not be empty"),
        (lambda: sweep_scales(OPTIMIZERS, TASK, (1.0, 0.0), key=KEY), "`scales` must"),
        (lambda: sweep_scales(OPTIMIZERS, TASK, OTHER[0], key=KEY), "`scales` must be a list"),
        (lambda: sweep_scales(OTHER[1], TASK, (1.0,), key=KEY), "`optimizers` must be a dict"),
        (lambda: sweep_horizons(OPTIMIZERS, TASK, OTHER[0], key=KEY), "`horizons` must be a list"),
        (lambda: sweep_horizons(OPTIMIZERS, TASK, OTHER[2], key=KEY), "`horizons` must be a list"),
        (lambda: sweep_tasks(OPTIMIZERS, OTHER[1], key=KEY), "`tasks` must be a dictionary of"),
        (lambda: sweep_horizons(OPTIMIZERS, TASK, (), key=KEY), "`horizons` must not be empty"),
        (lambda: sweep_horizons(OPTIMIZERS, TASK, (0,), key=KEY), "`horizons` must"),
        (lambda: sweep_tasks(OPTIMIZERS, {}, key=KEY), "`tasks` must not be empty"),
        (lambda: sweep_tasks(OPTIMIZERS, OTHER[5], key=KEY), "`tasks` must be a finite number"),
        (lambda: sweep_scales(OPTIMIZERS, TASK, OTHER[3], key=KEY), "`scales` must be a list"),
        (lambda: sweep_horizons(OPTIMIZERS, TASK, OTHER[4], key=KEY), "`horizons` must be a list"),
        (lambda: TransferSettings(scales=()), "`scales` must hold at least one factor, got none"),
        (lambda: TransferSettings(horizons=()), "`horizons` must hold at least one number"),
        (
            lambda: measure_transfer(OPTIMIZERS, TASK, "none", key=KEY, analysis_key=KEY),
            "`home_optimizer` must be one of slow, fast, wild",
        ),
        (
            lambda: Transfer(("a",), "a", np.ones((1, 2)), np.zeros(1)).log_ratios("b"),
            "`reference` must be one of a",
        ),
    ],
)
def test_refusals_name_the_argument(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("scale", [1e40, 1e-40])
def test_scales_that_single_precision_does_not_hold_are_refused_there(scale):
    """They would be infinite, or 0, so that nothing moves."""
    with jax.enable_x64(False), pytest.raises(ValueError, match="that float32 holds, at most 3.4e"):
        sweep_scales(OPTIMIZERS, TASK, (scale,), key=KEY, problems=1, steps=1)


SHIPPED = Path(__file__).parents[1] / "results" / "linear_regression"
SMALL = ["--measuring.problems", "3", "--measuring.steps", "8", "--measuring.scales", "1", "10",
         "--measuring.horizons", "2", "4", "--measuring.dimensions", "2", "3"]  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """A folder with the shipped run of linear regression, as far as transfer needs it."""
    target = tmp_path / "runs" / SHIPPED.name
    target.mkdir(parents=True)
    for name in ("settings.json", "weights.npz"):
        shutil.copy2(SHIPPED / name, target)
    shutil.copytree(SHIPPED / "tuning", target / "tuning")
    return target.parent


@pytest.mark.long
def test_the_script_measures_once_and_then_only_draws(runs, monkeypatch, capsys):
    assert call(monkeypatch, "transfer.py", "--runs", runs, *SMALL) == 0
    said = capsys.readouterr().out
    assert "linear_regression: linear_regression/learned has" in said
    pieces = [*sorted((runs / "transfer").glob("*.npz"))]
    assert [piece.stem for piece in pieces] == [
        "dimensions", "horizons_linear_regression", "linear_regression", "scales_linear_regression",
    ]  # fmt: skip
    before = [piece.stat().st_mtime_ns for piece in pieces]
    with (runs / "transfer" / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["optimizer"] for row in rows] == ["learned", "momentum", "rmsprop", "adam"]
    assert float(rows[0]["ratio_to_home"]) == 1
    assert float(rows[0]["scorecard_distance"]) == 0
    (runs / "transfer" / "figure_transfer.png").unlink()
    assert call(monkeypatch, "transfer.py", "--runs", runs, *SMALL) == 0
    assert [piece.stat().st_mtime_ns for piece in pieces] == before
    assert (runs / "transfer" / "figure_transfer.png").is_file()
    assert call(monkeypatch, "transfer.py", "--runs", runs, *SMALL, "--measuring.steps", "9") == 2
    assert "whose `steps` differ" in capsys.readouterr().err


FEW = TransferSettings(
    problems=3, analysed=3, steps=8, scales=(1.0, 10.0), horizons=(2, 4), dimensions=(2, 3)
)


def weaken(runs):
    """Another optimizer in the place of the run's."""
    run = runs / SHIPPED.name
    save_optimizer(run, jax.tree.map(lambda leaf: 0.9 * leaf, lo.load(run)))


@pytest.mark.slow
def test_only_what_has_changed_is_measured_again_and_it_is_as_if_all_were(runs, tmp_path):
    transfer(runs, tmp_path / "kept", FEW, say=lambda line: None)
    weaken(runs)
    said: list[str] = []
    transfer(runs, tmp_path / "kept", FEW, say=said.append)
    counts = {line.split(":")[0]: line.split()[1] for line in said[:4]}
    # Distances are those from the learned optimizer, so that all are other ones.
    assert counts == {
        "scales_linear_regression": "1", "horizons_linear_regression": "1",
        "linear_regression": "4", "dimensions": "1",
    }  # fmt: skip
    transfer(runs, tmp_path / "fresh", FEW, say=lambda line: None)
    for name in counts:
        kind: type[Transfer] | type[Sweep] = Transfer if name == SHIPPED.name else Sweep
        kept = storage.load_record(kind, tmp_path / "kept" / f"{name}.npz")
        fresh = storage.load_record(kind, tmp_path / "fresh" / f"{name}.npz")
        assert kept.names == fresh.names
        np.testing.assert_allclose(kept.objectives, fresh.objectives, rtol=1e-10)
    again: list[str] = []
    transfer(runs, tmp_path / "kept", FEW, say=again.append)
    assert not any("optimizers," in line for line in again)


def test_no_row_of_another_task_is_kept(tmp_path):
    """The run is now one on 3 parameters, of the same weights and baselines."""
    few = TransferSettings(
        problems=2, analysed=1, steps=3, scales=(1.0,), horizons=(2,), dimensions=(2,)
    )
    for dim in (5, 3):
        task = lo.LinearRegression(dim)
        made_from = _made_from(few, OPTIMIZERS, {SHIPPED.name: task})
        found = _once(
            Sweep, tmp_path / "scales.npz", Rows(OPTIMIZERS, task=SHIPPED.name), sweep_scales, task,
            few.scales, key=KEY, problems=2, steps=3, say=lambda line: None, made_from=made_from,
        )  # fmt: skip
        fresh = sweep_scales(OPTIMIZERS, task, few.scales, key=KEY, problems=2, steps=3)
        np.testing.assert_array_equal(found.objectives, fresh.objectives)


@pytest.mark.long
def test_white_boxes_are_rows_of_their_own(runs, tmp_path, as_user):
    """Those of the package by the name of their task, others by file; each is run on every task."""
    few = TransferSettings(
        problems=3, analysed=1, steps=8, scales=(1.0,), horizons=(2,), dimensions=(2,)
    )
    box = lo.WhiteBox(0.5, momentum=0.8)
    (tmp_path / "box.json").write_text(storage.json_text(document_of(box)))
    path = tmp_path / "measured" / f"{SHIPPED.name}.npz"
    known = distilled_box(SHIPPED.name)
    for given, expected in ((SHIPPED.name, known), (f"{SHIPPED.name}={tmp_path}/box.json", box)):
        transfer(runs, path.parent, few, white_boxes=(given,), say=lambda line: None)
        record = storage.load_record(Transfer, path)
        assert record.names[-1] == f"{SHIPPED.name}/white_box"
        found = lo.evaluate({"it": expected}, TASK, problems=3, steps=8, key=key_stream("test", 0))
        np.testing.assert_allclose(record.objectives[-1], found.meta_objectives()[0], rtol=1e-6)
    for odd in (("rosenbrock",), (SHIPPED.name, SHIPPED.name)):
        with pytest.raises(ValueError, match="`white_boxes` must name tasks of runs, linear_regr"):
            transfer(runs, path.parent, few, white_boxes=odd)


@pytest.mark.parametrize(
    ("changed", "measured"),
    [((), ()), (("fast",), ("slow", "fast")), (("slow",), ("slow", "fast", "wild"))],
)
def test_distances_need_the_home_optimizer(changed, measured):
    before = dict.fromkeys(OPTIMIZERS, "old")
    now = before | dict.fromkeys(changed, "new")
    rows = Rows(OPTIMIZERS, home="slow", distances=True)
    kept = Transfer(tuple(OPTIMIZERS), "slow", np.ones((3, 2)), np.zeros(3))
    assert tuple(rows.to_measure(kept, before, now)) == measured
    assert tuple(Rows(OPTIMIZERS).to_measure(kept, before, now)) == changed
    without = Rows(OPTIMIZERS, home="slow").to_measure(kept, before, now)
    assert set(without) == ({"slow", *changed} if changed else set())


def record(task):
    """Four optimizers of two homes on one task, one of them diverged somewhere."""
    names = tuple(
        f"{home}/{kind}" for home in ("rosenbrock", "mnist") for kind in ("learned", "adam")
    )
    objectives = np.linspace(0.1, 2.0, 4)[:, None] * np.ones(3)
    objectives[3, 0] = np.inf
    return Transfer(names, f"{task}/learned", objectives, np.array([0.0, 0.5, 1.0, np.nan]))


def test_cells_are_ratios_to_the_home_optimizer_or_counts_of_what_diverged():
    figure = figure_transfer({task: record(task) for task in ("rosenbrock", "mnist")})
    texts = [text.get_text() for text in figure.axes[0].texts]
    own = np.array([0.1, 0.1 + 1.9 / 3, 0.1 + 3.8 / 3])
    assert [float(text) for text in texts[:6:2]] == pytest.approx(own / 0.1, rel=0.03)
    assert texts[-2:] == ["1 \N{BALLOT X}", "1 \N{BALLOT X}"]
    assert len(figure.axes[0].patches) == 4, "one frame for each optimizer at home"


def test_curves_end_where_runs_diverge():
    objectives = np.array([[[0.1], [0.2], [0.3]], [[0.1], [0.4], [np.inf]]])
    sweep = Sweep(("learned", "adam"), np.array([1.0, 10.0, 100.0]), objectives)
    figure = figure_sweeps({"rosenbrock": sweep}, {"rosenbrock": sweep})
    lines = {line.get_label(): np.asarray(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines["Learned"].tolist() == [1, 10, 100]
    assert lines["Adam"].tolist() == [1, 10]
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [np.asarray(line.get_xdata()).tolist() for line in crosses] == [[100]]
