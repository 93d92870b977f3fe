"""Longer runs than training's: horizons of one run, comparisons at each, resumption by pieces."""

import csv
import io
import shutil
from pathlib import Path

import jax.random as jr
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop import evaluation
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import evaluate_run
from lrevopt.runs.horizons import horizons_run
from lrevopt.studies.transfer import Sweep, horizon_facts, horizon_table

SHIPPED = Path(__file__).parents[1] / "results"
TASK = lo.LinearRegression(3, (-3.0, 0.0))


@pytest.fixture
def run(tmp_path):
    """Linear regression's shipped optimizer and its tuned baselines, in a folder of their own."""
    folder = tmp_path / "run"
    shutil.copytree(SHIPPED / "linear_regression" / "tuning", folder / "tuning")
    for name in ("settings.json", "weights.npz"):
        shutil.copy(SHIPPED / "linear_regression" / name, folder)
    return Run(folder)


def kept(run):
    """The record in a run's folder, read anew."""
    record = Run(run.folder).horizons
    assert record is not None
    return record


def quietly(run, **arguments):
    return horizons_run(run, **{"problems": 3, "say": lambda line: None, **arguments})


def test_every_horizon_is_an_evaluation_of_that_length(run):
    """Problems are those of `evaluate_run`, and a horizon is a shorter run on them."""
    swept = quietly(run, horizons=(7, 4, 7))
    assert swept.values.tolist() == [4, 7]  # sorted, and each once
    for column, steps in enumerate((4, 7)):
        alone = evaluate_run(run, problems=3, steps=steps, say=lambda line: None)
        assert swept.names == alone.names
        np.testing.assert_allclose(swept.objectives[:, column], alone.meta_objectives(), rtol=1e-5)
        for name in alone.names[1:]:
            ours, theirs = swept.compare("learned", name)[column], alone.compare("learned", name)
            assert ours.problems == theirs.problems == 3
            np.testing.assert_allclose(
                [ours.difference, ours.low, ours.high, ours.ratio_of_means],
                [theirs.difference, theirs.low, theirs.high, theirs.ratio_of_means],
                rtol=1e-4,
            )


def test_the_record_is_kept_with_its_table_and_said_in_the_report(run):
    swept = quietly(run, horizons=(2, 4), against=("adam",))
    assert kept(run).names == ("learned", "adam")
    np.testing.assert_array_equal(kept(run).objectives, swept.objectives)
    rows = list(csv.DictReader((run.folder / "horizons.csv").read_text().splitlines()))
    assert [(row["updates"], row["optimizer"]) for row in rows] == [
        ("2", "learned"), ("4", "learned"), ("2", "adam"), ("4", "adam"),
    ]  # fmt: skip
    assert [label for label, _ in Run(run.folder).facts("horizons")] == [
        "After 2 updates", "After 4 updates",
    ]  # fmt: skip


def test_a_record_of_other_settings_is_replaced_with_a_word(run):
    """The same call again is silent."""
    path, said = run.folder / "horizons.npz", list[str]()
    for horizons, problems in (((2, 4), 3), ((2, 4), 3), ((2,), 4)):
        quietly(run, horizons=horizons, problems=problems, against=("adam",), say=said.append)
    replaced = [line for line in said if line.startswith("Replaces")]
    sentence = "which was made with other settings: problems, horizons."
    assert replaced == [f"Replaces {path}, {sentence}"]
    assert kept(run).values.tolist() == [2]


def test_a_run_without_baselines_runs_alone(run):
    shutil.rmtree(run.folder / "tuning")
    with pytest.raises(ValueError, match="tune"):
        quietly(Run(run.folder), horizons=(2,))
    alone = quietly(Run(run.folder), horizons=(2, 4), against=())
    assert alone.names == ("learned",)
    assert alone.objectives.shape == (1, 2, 3)


def test_diverged_runs_are_counted_and_win_nothing():
    """Two optimizers, two horizons, two problems; the first diverges on one, the later one."""
    objectives = np.array([[[0.5, 0.25], [0.5, np.inf]], [[1.0, 0.75], [1.0, 0.75]]])
    sweep = Sweep(("learned", "adam"), np.array([200.0, 2000.0]), objectives)
    early, late = sweep.compare("learned", "adam")
    assert (early.difference, early.diverged) == (-0.5, 0)
    assert early.ratio_of_means == 0.375 / 0.875
    assert (late.difference, late.diverged, late.ratio_of_means) == (np.inf, 1, np.inf)
    rows = list(csv.reader(io.StringIO(horizon_table(sweep))))
    assert rows[2] == ["2000", "learned", "inf", "1", "2", "", "", "", ""]
    assert rows[3] == ["200", "adam", "0.875", "0", "2", "-0.5", "-0.5", "-0.5", "0.428571"]
    said = dict(horizon_facts(sweep))
    assert said["After 2,000 updates"].startswith("learned has ∞ and diverges on 1 of 2 problems;")
    backwards = dict(horizon_facts(Sweep(("adam", "learned"), sweep.values, objectives[::-1])))
    assert "learned ∞, diverges on 1, difference −∞" in backwards["After 2,000 updates"]
    with pytest.raises(ValueError, match="`baseline` must be one of learned, adam, got 'sgd'"):
        sweep.compare("learned", "sgd")


@pytest.mark.parametrize("piece", [1, 3 * 4 * 2, 10**9])
def test_runs_in_pieces_are_the_runs_together(monkeypatch, piece):
    """One problem at a time, two, or all: the same losses and metrics."""
    asked, run_one = [], evaluation._run

    def counted(optimizer, task, problems, *rest):
        asked.append(problems.initial_parameters.shape[0])
        return run_one(optimizer, task, problems, *rest)

    entered = {"momentum": lo.Momentum(0.1, 0.9)}
    whole = lo.evaluate(entered, TASK, problems=5, steps=4, key=jr.key(0))
    monkeypatch.setattr(evaluation, "_run", counted)
    monkeypatch.setattr(evaluation, "PIECE", piece)
    mesh = lo.problem_mesh(1)
    pieces = lo.evaluate(entered, TASK, problems=5, steps=4, key=jr.key(0), mesh=mesh)
    assert asked == {1: [1] * 5, 24: [2, 2, 1], 10**9: [5]}[piece]
    np.testing.assert_allclose(pieces.losses, whole.losses, rtol=1e-12)


def test_an_interrupted_sweep_runs_only_the_pieces_that_are_missing(run, monkeypatch):
    monkeypatch.setattr(evaluation, "PIECE", 1)
    monkeypatch.setenv("LREVOPT_DEVICES", "1")
    whole = quietly(run, horizons=(2, 4), against=("adam",))
    run_one, asked = evaluation._run, []

    def counted(optimizer, *rest):
        asked.append(type(optimizer).__name__)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return run_one(optimizer, *rest)

    monkeypatch.setattr(evaluation, "_run", counted)
    with pytest.raises(KeyboardInterrupt):
        quietly(run, horizons=(2, 4), against=("adam",))
    np.testing.assert_array_equal(kept(run).objectives, whole.objectives)
    asked[:] = ["continued"] * 3
    again = quietly(run, horizons=(2, 4), against=("adam",))
    assert asked[3:] == ["RecurrentOptimizer", *["Adam"] * 3]
    np.testing.assert_array_equal(again.objectives, whole.objectives)
    assert not (run.folder / storage.UNFINISHED).exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"horizons": ()}, "`horizons` must hold at least one number of updates, got none"),
        ({"horizons": (4, 0)}, "`horizons` must be an integer of at least 1, got 0"),
        ({"against": ("sgd",)}, "`against` must be one of momentum, rmsprop, adam, got 'sgd'"),
        ({"problems": 0}, "`problems` must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(run, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        quietly(run, **{"horizons": (2,), **arguments})
    assert Run(run.folder).horizons is None


def test_what_is_refused_is_not_said_to_replace_a_record(run):
    said: list[str] = []
    quietly(run, horizons=(2,), against=())
    with pytest.raises(ValueError, match="`horizons` must hold at least one"):
        horizons_run(run, horizons=(), against=(), problems=2, say=said.append)
    assert said == []
    assert kept(run).values == (2,)
