"""Successive halving: what survives, what it costs, and that it finds what a full search finds."""

import dataclasses
import itertools
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array, Float
from matplotlib.text import Text
from tables import Quadratic, QuadraticProblem, mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop import scoring
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.plots.tuning import figure_tuning
from lrevopt.runs.contents import Run
from lrevopt.tasks import AbstractTask, sample_problems
from lrevopt.tuning.baselines import BASELINES
from lrevopt.tuning.constructors import stack_settings
from lrevopt.tuning.random_search import TuningResult, tune
from lrevopt.tuning.settings import LARGE_NETWORK_TUNING, NETWORK_TUNING, Tuning

WIDE = Quadratic(jnp.array([1.0]), jnp.array([1.0]))
SMALL = Tuning(
    settings=60, problems=2, steps=12, grid=25, finalists=5, fresh_problems=3,
    rungs=((2, 20), (6, 8)),
)  # fmt: skip


def counted(monkeypatch) -> list[tuple[int, int, int]]:
    """Settings, problems and steps of every call of the scoring."""
    calls: list[tuple[int, int, int]] = []

    def spy(task, optimizers, problems, steps, objective="mean", mesh=None):
        scores = score_settings(task, optimizers, problems, steps, objective, mesh=mesh)
        calls.append((scores[0].size, len(problems.initial_parameters), steps))
        return scores

    monkeypatch.setattr("lrevopt.tuning.random_search.score_settings", spy)
    return calls


def test_rungs_run_what_they_say_and_cost_what_they_promise(monkeypatch):
    calls = counted(monkeypatch)
    task = lo.LinearRegression(dim=3)
    ranges = {"learning_rate": (0.01, 10.0), "momentum": (0.0, 0.99)}
    result = tune(task, lo.Momentum, dataclasses.replace(SMALL, ranges=ranges), key=jr.key(0))
    once = [(60, 2, 2), (20, 2, 6), (8, 2, 12), (5, 3, 12), (1, 3, 12)]
    # A winner whose score does not hold is decided on more problems, and checked again.
    assert [call for call in calls if call[:2] != (5, 3)][:3] == once[:3]
    assert set(calls) == set(once)
    assert calls.count((5, 3, 12)) == calls.count((1, 3, 12))
    assert sum(a * b * c for a, b, c in once) == SMALL.inner_steps()
    assert np.bincount(result.steps).nonzero()[0].tolist() == [2, 6, 12]
    assert np.bincount(result.steps)[[2, 6, 12]].tolist() == [40, 12, 8]
    assert result.in_full().sum() == 8
    assert result.rule.startswith("60 settings run 2 updates, of which the best 20 by last loss")


def test_survivors_are_the_best_of_each_rung():
    """On x^2 / 2 gradient descent with rate a leaves (1 - a)^(2 k) of the loss after k updates."""
    settings = dataclasses.replace(SMALL, problems=1, ranges={"learning_rate": (0.01, 1.5)})
    result = tune(WIDE, lo.GradientDescent, settings, key=jr.key(1))
    distance = np.abs(1 - result.values["learning_rate"])
    for steps in (2, 6):
        stopped, went_on = result.steps == steps, result.steps > steps
        assert distance[stopped].min() >= distance[went_on].max()
        # Stopped settings keep the score that stopped them.
        np.testing.assert_allclose(
            result.scores[stopped], distance[stopped] ** (2 * steps), rtol=1e-9, atol=1e-30
        )
    np.testing.assert_allclose(
        np.abs(1 - result.best["learning_rate"]), distance.min(), rtol=1e-9, atol=1e-12
    )


def test_without_rungs_all_run_in_full():
    task = lo.LinearRegression(dim=3)
    result = tune(task, lo.Momentum, dataclasses.replace(SMALL, rungs=()), key=jr.key(0))
    assert result.steps.size == 0
    assert result.in_full().all()


def test_survivors_score_as_in_a_full_search():
    """Rungs decide who runs in full; the runs, their problems and settings are the same."""
    task = lo.LinearRegression(dim=3)
    halved = tune(task, lo.Momentum, SMALL, key=jr.key(0))
    full = tune(task, lo.Momentum, dataclasses.replace(SMALL, rungs=()), key=jr.key(0))
    assert halved.widened == full.widened == ()
    for name, values in full.values.items():
        np.testing.assert_array_equal(halved.values[name], values)
    # Round-off only: blocks of other sizes are compiled to other programs.
    in_full = halved.in_full()
    np.testing.assert_allclose(halved.scores[in_full], full.scores[in_full], rtol=1e-12)
    if full.best_score in full.scores[in_full]:
        assert halved.best == full.best


def test_a_halved_search_is_repeated_at_most_twice():
    """A rate of 1 is best on x^2 / 2, six decades above the range."""
    settings = dataclasses.replace(SMALL, ranges={"learning_rate": (1e-7, 1e-6)})
    result = tune(WIDE, lo.GradientDescent, settings, key=jr.key(0))
    assert len(result.widened) == 3
    assert result.widened[-1] == (
        "The best learning_rate still lies on an edge after 2 searches in wider ranges."
    )
    np.testing.assert_allclose(result.ranges["learning_rate"], (1e-7, 1e-4), rtol=1e-12)


def test_what_diverges_does_not_go_on():
    """Half of the rates explode within two updates; none of them survives."""
    settings = dataclasses.replace(
        SMALL, rungs=((2, 40), (6, 20)), ranges={"learning_rate": (1e-3, 1e200)}
    )
    result = tune(WIDE, lo.GradientDescent, settings, key=jr.key(2))
    exploded = result.values["learning_rate"] > 1e155
    assert exploded.sum() > 5
    assert np.all(result.steps[exploded] == 2)
    assert np.all(np.isinf(result.scores[exploded]))
    assert np.all(result.diverged[exploded] > 0)


def compare_with_exhaustive(name: str, halved: Tuning, full: Tuning) -> None:
    """The winner's score on 256 other problems is within 5 % of the exhaustive search's."""
    task, constructor = lo.Rosenbrock(), BASELINES[name]
    winners = {
        label: tune(task, constructor, settings, key=jr.key(3)).optimizer(constructor)
        for label, settings in {"full": full, "halved": halved}.items()
    }
    tested = evaluate(winners, task, problems=256, steps=full.steps, key=jr.key(4))
    objectives = tested.meta_objectives()
    sound = np.isfinite(objectives).all(axis=0)
    # Tuned momentum diverges on a few starts in a thousand.
    assert np.mean(sound) > 0.98
    scores = objectives[:, sound].mean(axis=1)
    assert scores[1] < 1.05 * scores[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_it_finds_what_the_exhaustive_search_finds(name):
    """Same settings, seed fixed beforehand; the rungs are those of two moons."""
    full = Tuning(settings=2500, problems=64, finalists=25, fresh_problems=64)
    halved = dataclasses.replace(full, rungs=NETWORK_TUNING.rungs)
    assert halved.inner_steps() < full.inner_steps() / 3
    compare_with_exhaustive(name, halved, full)


@pytest.mark.long
def test_it_finds_what_a_small_exhaustive_search_finds():
    """As the slow test of all baselines, with a tenth of the settings and half the updates."""
    full = Tuning(settings=250, problems=16, steps=100, finalists=10, fresh_problems=32)
    halved = dataclasses.replace(full, rungs=((10, 60), (40, 30)))
    assert halved.inner_steps() < full.inner_steps() / 2
    compare_with_exhaustive("adam", halved, full)


class Network(AbstractTask):
    """A tanh network on eight given points; the minibatch of a step is half of them."""

    points: Float[Array, "point 3"]
    width: int = eqx.field(static=True)

    def sample(self, key):
        return QuadraticProblem(jnp.ones(5 * self.width), jr.normal(key, (5 * self.width,)))

    def loss(self, problem, parameters, step):
        weights = parameters.reshape(5, self.width)
        seen = lax.dynamic_slice_in_dim(self.points, 4 * (step % 2), 4)
        hidden = jnp.tanh(seen @ weights[:3] + weights[3])
        return jnp.mean((hidden @ weights[4] - seen[:, 0]) ** 2) + 1e-3 * parameters @ parameters


@pytest.fixture(scope="module")
def network():
    return Network(jnp.asarray(np.random.default_rng(0).normal(size=(8, 3))), 6)


GRID = {
    "learning_rate": np.array([0.01, 0.1, 1e200, 0.3, 0.05, 0.2, 0.02]),
    "b1": np.array([0.9, 0.5, 0.0, 0.8, 0.1, 0.95, 0.7]),
    "b2": np.array([0.99, 0.9, 0.5, 0.999, 0.7, 0.95, 0.9]),
}


@pytest.mark.parametrize(
    ("large", "runs"),
    mostly_long(itertools.product((False, True), (0.5, 1, 3, 5, 12)), (False, 1), (True, 3)),
)
def test_little_memory_gives_the_same_scores(monkeypatch, network, large, runs):
    """In both layouts, with room for any number of 7 settings x 5 problems; one of them diverges
    and spoils no other.
    """
    problems = eqx.filter_jit(sample_problems)(network, jr.key(5), 5)
    stacked = stack_settings(lo.Adam, GRID)
    one = jax.tree.map(lambda leaf: leaf[0], problems)
    room = scoring.bytes_of_a_run(lo.Adam(0.1), network, one)
    expected, lost = score_settings(network, stacked, problems, 7)
    for setting, score in enumerate(expected):
        alone = {name: values[setting] for name, values in GRID.items()}
        runs_alone = evaluate(
            {"adam": lo.Adam(**alone)}, network, problems=5, steps=7, key=jr.key(5)
        )
        np.testing.assert_allclose(runs_alone.meta_objectives().mean(), score, rtol=1e-11)
    assert np.isinf(expected).tolist() == (GRID["learning_rate"] > 1).tolist()
    monkeypatch.setattr(scoring, "LARGE_PROBLEM", 10 if large else 1000)
    scores, diverged = score_settings(network, stacked, problems, 7, memory=int(runs * room))
    # Sums and products in another order.
    np.testing.assert_allclose(scores, expected, rtol=1e-11)
    np.testing.assert_array_equal(diverged, lost)


@pytest.mark.parametrize("large", [False, True])
def test_memory_is_bounded(large):
    """What the compiled program takes beside its inputs, 60 settings on 8 problems."""
    network = Network(jnp.ones((8, 3)), 60)
    problems = eqx.filter_jit(sample_problems)(network, jr.key(5), 8)
    values = {name: np.resize(of, 60) for name, of in GRID.items()}
    stacked = stack_settings(lo.Adam, values)
    one = jax.tree.map(lambda leaf: leaf[0], problems)
    room = scoring.bytes_of_a_run(lo.Adam(0.1), network, one)

    compiled: Any = scoring._score_settings

    def taken(memory: int) -> int:
        lowered = compiled.lower(
            stacked, network, problems, steps=5, objective="mean", memory=memory, large=large,
            mesh=None,
        )  # fmt: skip
        return lowered.compile().compiled.memory_analysis().temp_size_in_bytes

    little, plenty = taken(4 * room), taken(1000 * room)
    # Beside the runs: problems taken out of the stack, rows of indices.
    assert little < 4 * room + 2**14
    assert plenty > 5 * little


def test_one_by_one_is_side_by_side(monkeypatch):
    """Problems with many parameters are scored in the memory of one run."""
    task = lo.LinearRegression(dim=3)
    problems = eqx.filter_jit(sample_problems)(task, jr.key(5), 4)
    grid = {"learning_rate": np.array([0.1, 1.0, 1e120]), "momentum": np.array([0.0, 0.5, 0.9])}
    stacked = stack_settings(lo.Momentum, grid)
    together = score_settings(task, stacked, problems, 9)
    monkeypatch.setattr(scoring, "LARGE_PROBLEM", 2)
    apart = score_settings(task, stacked, problems, 11)  # other steps: compiled anew
    runs = evaluate({"a": lo.Momentum(1.0, 0.5)}, task, problems=4, steps=11, key=jr.key(5))
    np.testing.assert_allclose(apart[0][1], runs.meta_objectives().mean(), rtol=1e-12)
    np.testing.assert_array_equal(apart[1], together[1])
    assert np.isinf(apart[0][2])


def test_results_survive_a_file_also_without_the_new_fields(tmp_path):
    """Searches saved before halving existed ran in full."""
    result = tune(lo.LinearRegression(dim=3), lo.Momentum, SMALL, key=jr.key(0))
    storage.save_record(tmp_path / "now.npz", result)
    loaded = storage.load_record(TuningResult, tmp_path / "now.npz")
    np.testing.assert_array_equal(loaded.steps, result.steps)
    assert loaded.rule == result.rule
    with np.load(tmp_path / "now.npz") as file:
        older = {name: file[name] for name in file.files if name not in ("steps", "rule", "sha256")}
    np.savez(tmp_path / "then.npz", **older)
    assert storage.load_record(TuningResult, tmp_path / "then.npz").in_full().all()


def test_the_budgets_are_the_documented_ones():
    assert NETWORK_TUNING.inner_steps() == 371_200
    assert LARGE_NETWORK_TUNING.inner_steps() == 62_400
    for budget in (NETWORK_TUNING, LARGE_NETWORK_TUNING):
        assert budget.fresh_problems >= 8
        assert min(updates for updates, _ in budget.rungs) >= 20


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("rungs", "sentence"),
    [
        (((2, 60),), "falling survivors, below the 60 settings"),
        (((2, 20), (6, 20)), "falling survivors"),
        (((12, 20),), "rising updates, below the 12 of a run in full"),
        (((6, 20), (2, 8)), "rising updates"),
        (((0, 20),), "pairs of integers of at least 1, updates and survivors"),
        (((2, 0),), "pairs of integers"),
        (((2, 20.5),), "pairs of integers"),
        (((2, 20, 1),), "pairs of integers"),
        ((2, 20), "pairs of integers"),
    ],
)
def test_rungs_that_do_not_halve_are_refused(rungs, sentence):
    with pytest.raises(ValueError, match=f"`rungs` must be.*{re.escape(sentence)}"):
        dataclasses.replace(SMALL, rungs=rungs)


def tune_script(monkeypatch, *arguments: str) -> int:
    """Exit code of scripts/tune.py, run in this process."""
    script = Path(__file__).parent.parent / "scripts" / "tune.py"
    monkeypatch.setattr(sys, "argv", ["tune.py", *arguments])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


FEW = [
    "rosenbrock", "--tuning.settings", "30", "--tuning.problems", "2", "--tuning.steps", "12",
    "--tuning.finalists", "3", "--tuning.fresh-problems", "2",
]  # fmt: skip


@pytest.mark.long
def test_rungs_on_the_command_line(monkeypatch, capsys, tmp_path):
    """The rule is said before the searches, and is part of what they leave."""
    output = tmp_path / "out"
    rungs = ["--tuning.rungs", "3", "12", "6", "5"]
    assert tune_script(monkeypatch, *FEW, *rungs, "--output", str(output)) == 0
    rule = (
        "30 settings run 3 updates, of which the best 12 by last loss go on to 6 updates, of which "
        "the best 5 by last loss go on to 12 updates on 2 problems; the best 3 are decided on 2 "
        "fresh ones."
    )
    assert capsys.readouterr().out.startswith(rule)
    for name in BASELINES:
        result = storage.load_record(TuningResult, output / "tuning" / f"{name}.npz")
        assert result.rule == rule
        assert result.in_full().sum() <= 5


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("rungs", "sentence"),
    [
        (
            ("3", "40"),
            "updates and falling survivors, below the 30 settings, got ((3, 40),).",
        ),
        (("12", "5"), "`rungs` must be pairs of rising updates, below the 12 of a run in full"),
        (("0", "5"), "`rungs` must be pairs of integers of at least 1, updates and survivors"),
        (("3",), "Could not find valid parse"),
    ],
)
def test_the_script_refuses_rungs_in_one_sentence(monkeypatch, capsys, tmp_path, rungs, sentence):
    output = tmp_path / "out"
    arguments = [*FEW, "--tuning.rungs", *rungs, "--output", str(output)]
    assert tune_script(monkeypatch, *arguments) == 2
    errors = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sentence in errors
    assert "Traceback" not in errors
    assert not output.exists()


def test_figures_show_where_settings_stopped():
    """One mark and one line of the key for each rung; only runs in full are on the colour scale."""
    task = lo.LinearRegression(dim=3)
    tuning = {name: tune(task, make, SMALL, key=jr.key(0)) for name, make in BASELINES.items()}
    figure = figure_tuning(Run.of("mine", tuning=tuning))
    figure.draw_without_rendering()
    legend = figure.axes[5].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        "best setting", "diverged on some problem", "stopped after 6 updates",
        "stopped after 2 updates",
    ]  # fmt: skip
    adam = figure.axes[2]
    drawn = {
        line.get_markersize(): np.asarray(line.get_xdata()).size
        for line in adam.lines
        if line.get_marker() == "o"
    }
    result = tuning["adam"]
    stopped = np.isfinite(result.scores) & ~result.in_full()
    assert list(drawn.values()) == [
        np.sum(stopped & (result.steps == 2)), np.sum(stopped & (result.steps == 6)),
    ]  # fmt: skip
    assert np.asarray(adam.collections[0].get_offsets()).shape[0] == np.sum(result.in_full())
    best = min(result.scores[result.in_full()].min() for result in tuning.values())
    assert adam.collections[0].norm.vmin == pytest.approx(best)
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(map(float, sizes)) >= 7


RULES = [
    (lo.Tuning(settings=1, problems=1, steps=1, fresh_problems=1),
     "1 setting runs 1 update on 1 problem; the best one is scored on 1 fresh one."),
    (lo.Tuning(settings=10, problems=2, fresh_problems=3),
     "10 settings run 200 updates on 2 problems; the best 10 are decided on 3 fresh ones."),
    (lo.Tuning(settings=9, problems=2, fresh_problems=3, rungs=((1, 4),)),
     "9 settings run 1 update, of which the best 4 by last loss go on to 200 updates on 2 "
     "problems; the best 4 are decided on 3 fresh ones."),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "rule"), RULES)
def test_a_rule_counts_no_more_finalists_than_are_left(settings, rule):
    """25 finalists are asked for."""
    assert settings.rule() == rule


def test_one_rung_has_one_mark():
    settings = dataclasses.replace(SMALL, rungs=((3, 10),))
    result = tune(lo.LinearRegression(dim=3), lo.Momentum, settings, key=jr.key(0))
    figure = figure_tuning(Run.of("mine", tuning={"momentum": result}))
    figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert "stopped after 3 updates" in texts
