"""Successive halving: what survives, what it costs, and that it finds what a full search finds."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import Quadratic

import lrevopt as lo
from lrevopt import scoring, storage
from lrevopt.evaluation import evaluate
from lrevopt.experiments import BASELINES
from lrevopt.scoring import score_settings
from lrevopt.tasks import sample_problems
from lrevopt.tuning import (
    LARGE_NETWORK_TUNING,
    NETWORK_TUNING,
    Tuning,
    TuningResult,
    stack_settings,
    tune,
)

WIDE = Quadratic(jnp.array([1.0]), jnp.array([1.0]))
SMALL = Tuning(
    settings=60, problems=2, steps=12, grid=25, finalists=5, fresh_problems=3,
    rungs=((2, 20), (6, 8)),
)  # fmt: skip


def counted(monkeypatch) -> list[tuple[int, int, int]]:
    """Settings, problems and steps of every call of the scoring."""
    calls: list[tuple[int, int, int]] = []

    def spy(task, optimizers, problems, steps, objective="mean"):
        scores = score_settings(task, optimizers, problems, steps, objective)
        calls.append((scores[0].size, len(problems.initial_parameters), steps))
        return scores

    monkeypatch.setattr("lrevopt.tuning.score_settings", spy)
    return calls


def test_rungs_run_what_they_say_and_cost_what_they_promise(monkeypatch):
    calls = counted(monkeypatch)
    task = lo.LinearRegression(dim=3)
    ranges = {"learning_rate": (0.01, 10.0), "momentum": (0.0, 0.99)}
    result = tune(task, lo.Momentum, dataclasses.replace(SMALL, ranges=ranges), key=jr.key(0))
    once = [(60, 2, 2), (20, 2, 6), (8, 2, 12), (5, 3, 12)]
    assert calls == once * (len(calls) // 4)
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


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_it_finds_what_the_exhaustive_search_finds(name):
    """Once, on Rosenbrock: the winner's score on 256 other problems is within 5 % of the full
    search's. Same settings, seed fixed beforehand; the rungs are those of two moons.
    """
    full = Tuning(settings=2500, problems=64, finalists=25, fresh_problems=64)
    halved = dataclasses.replace(full, rungs=NETWORK_TUNING.rungs)
    assert halved.inner_steps() < full.inner_steps() / 8
    task, constructor = lo.Rosenbrock(), BASELINES[name]
    winners = {
        label: tune(task, constructor, settings, key=jr.key(3)).optimizer(constructor)
        for label, settings in {"full": full, "halved": halved}.items()
    }
    tested = evaluate(winners, task, problems=256, steps=200, key=jr.key(4))
    scores = tested.meta_objectives().mean(axis=1)
    assert scores[1] < 1.05 * scores[0]


def test_one_by_one_is_side_by_side(monkeypatch):
    """Problems with many parameters are scored in the memory of one run."""
    task = lo.LinearRegression(dim=3)
    problems = eqx.filter_jit(sample_problems)(task, jr.key(5), 4)
    grid = {"learning_rate": np.array([0.1, 1.0, 1e120]), "momentum": np.array([0.0, 0.5, 0.9])}
    stacked = stack_settings(lo.Momentum, grid)
    together = score_settings(task, stacked, problems, 9)
    monkeypatch.setattr(scoring, "LARGE", 2)
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
        older = {name: file[name] for name in file.files if name not in ("steps", "rule")}
    np.savez(tmp_path / "then.npz", **older)
    assert storage.load_record(TuningResult, tmp_path / "then.npz").in_full().all()


def test_the_budgets_are_the_documented_ones():
    assert NETWORK_TUNING.inner_steps() == 72_000
    assert LARGE_NETWORK_TUNING.inner_steps() == 25_000
    assert NETWORK_TUNING.settings == LARGE_NETWORK_TUNING.settings == 2500


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    "rungs",
    [((2, 60),), ((12, 20),), ((6, 20), (2, 8)), ((2, 20), (6, 20)), ((0, 20),), ((2, 0),)],
)
def test_rungs_that_do_not_halve_are_refused(rungs):
    with pytest.raises(ValueError, match="`rungs` must be"):
        dataclasses.replace(SMALL, rungs=rungs)
