"""Memory plans: what they predict is what compiled programs take, and they change no result."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest
from tables import gru

import lrevopt as lo
from lrevopt import storage
from lrevopt.meta_training import memory
from lrevopt.meta_training.memory import kept_numbers
from lrevopt.tasks import AbstractTask

SETTINGS = lo.MetaTraining(steps=3, unroll=30, problems=4, selection_problems=2)
DIGITS = lo.MNIST("digits", side=7, batch=25)


def temporary(task, optimizer, settings) -> int:
    """Bytes of temporary buffers of a compiled meta-gradient."""
    keys = jr.split(jr.key(0), settings.problems)

    def gradient(optimizer, task, keys):
        return lo.meta_gradient(optimizer, task, keys, settings)

    function: Any = eqx.filter_jit(gradient)
    compiled = function.lower(optimizer, task, keys).compile().compiled
    return compiled.memory_analysis().temp_size_in_bytes


CASES: dict[str, tuple[AbstractTask, dict[str, Any]]] = {
    "all states": (lo.TwoMoons(), {"micro_batch": 1, "checkpoint_every": 30}),
    "segments": (lo.TwoMoons(), {"micro_batch": 2, "estimator": "first_order"}),
    "long segments": (DIGITS, {"estimator": "clipped", "checkpoint_every": 11}),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("all states", marks=pytest.mark.long),
        "segments",
        pytest.param("long segments", marks=pytest.mark.slow),
    ],
)
def test_prediction_is_within_a_quarter_of_what_is_taken(monkeypatch, case):
    monkeypatch.setattr(memory, "WORTH_KEEPING", 0)
    task, changes = CASES[case]
    settings = dataclasses.replace(SETTINGS, **changes)
    plan = lo.plan_memory(task, gru(0.02), settings)
    measured = temporary(task, gru(0.02), plan.apply(settings))
    assert abs(plan.kept + plan.working - measured) < 0.25 * measured
    # What is asked for is kept to.
    for name, value in changes.items():
        assert getattr(plan.apply(settings), name) == value


def test_small_problems_are_not_compiled_to_be_planned(monkeypatch):
    """And are predicted to within a factor of two, which is then a matter of megabytes."""
    monkeypatch.setattr(memory, "_temporary", None)
    settings = dataclasses.replace(SETTINGS, unroll=200, problems=32)
    optimizer = lo.GRUOptimizer(64, key=jr.key(0))
    plan = lo.plan_memory(lo.LinearRegression(), optimizer, settings)
    assert (plan.micro_batch, plan.checkpoint_every) == (32, 200)
    measured = temporary(lo.LinearRegression(), optimizer, plan.apply(settings))
    assert measured / 2 < plan.peak < 2 * measured


def test_a_tight_limit_is_kept_and_an_impossible_one_refused(monkeypatch, as_user):
    """Fewer problems at a time and segments, as far as need be; then one sentence."""
    monkeypatch.setattr(memory, "WORTH_KEEPING", 2**40)  # roomy: all states would be kept
    monkeypatch.setattr(memory, "_small_working_bytes", lambda optimizer, state: (0, state))
    monkeypatch.setattr(memory, "batch_size", lambda optimizer, parameters: 4)
    task, optimizer = lo.TwoMoons(), gru(0.02)
    roomy = lo.plan_memory(task, optimizer, SETTINGS)
    assert (roomy.micro_batch, roomy.checkpoint_every) == (4, 30)
    gibibytes = 2**30
    tight = lo.plan_memory(task, optimizer, SETTINGS, memory_limit=roomy.peak / gibibytes / 2)
    assert tight.peak <= roomy.peak / 2
    assert (tight.micro_batch, tight.checkpoint_every) == (4, 5)
    tighter = lo.plan_memory(task, optimizer, SETTINGS, memory_limit=tight.peak / gibibytes / 3)
    assert tighter.micro_batch == 1
    with pytest.raises(
        ValueError, match=r"`memory_limit` must be at least 0.0\d+ GiB \(1 of 4"
    ) as e:
        lo.plan_memory(task, optimizer, SETTINGS, memory_limit=1e-4)
    assert "\n" not in str(e.value)
    for limit in (0.0, float("nan")):
        with pytest.raises(ValueError, match="`memory_limit` must be a finite number above 0"):
            lo.plan_memory(task, optimizer, SETTINGS, memory_limit=limit)
    assert "a checkpoint every 5 updates; predicted peak" in str(tight)


def test_square_root_segments_keep_least():
    kept = {
        checkpoint_every: kept_numbers(200, checkpoint_every, 16)
        for checkpoint_every in range(1, 201)
    }
    least = min(kept, key=lambda checkpoint_every: kept[checkpoint_every])
    assert 10 <= least <= 20
    assert kept[14] < 1.02 * kept[least] < 0.2 * kept[200]


def test_forward_estimators_keep_nothing():
    settings = dataclasses.replace(SETTINGS, estimator="pes", es_window=10)
    plan = lo.plan_memory(lo.LinearRegression(), gru(0.02), settings)
    assert plan.kept == 0
    assert plan.data > 0  # the runs under way


def flat(tree: object) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "plans"),
    [
        pytest.param(lo.TwoMoons(), [(1, 2), (2, 4)], id="two_moons"),
        pytest.param(DIGITS, [(1, 4)], id="mnist", marks=pytest.mark.slow),
    ],
)
def test_plans_do_not_change_the_meta_gradient(task, plans):
    """Of a network's optimizer: to 1e-9 of the largest entry."""
    settings = dataclasses.replace(SETTINGS, unroll=6, problems=2, objective="log_mean")
    keys = jr.split(jr.key(1), 2)
    ours = eqx.filter_jit(lo.meta_gradient)

    def by_autodiff(optimizer):
        def one(key):
            return lo.unroll(optimizer, task, task.sample(key), settings.unroll).losses

        return lo.meta_objective(eqx.filter_vmap(one)(keys), "log_mean").mean()

    value, expected = eqx.filter_jit(eqx.filter_value_and_grad(by_autodiff))(gru(0.5))
    for micro_batch, checkpoint_every in plans:
        planned = dataclasses.replace(
            settings, micro_batch=micro_batch, checkpoint_every=checkpoint_every
        )
        found, gradient = ours(gru(0.5), task, keys, planned)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        scale = np.abs(flat(expected)).max()
        np.testing.assert_allclose(flat(gradient), flat(expected), rtol=0, atol=1e-9 * scale)


def test_a_plan_is_kept_for_resumption(monkeypatch, capsys, tmp_path):
    """Said at the start; a resumed run follows it even where another would be chosen now."""
    task, start = lo.LinearRegression(), gru(1e-3)

    def train(**options):
        return lo.meta_train(
            task, start, SETTINGS, key=jr.key(6), directory=tmp_path / "run", **options
        )

    train(time_limit=1e-9)
    assert "memory plan: 4 problems at a time, a checkpoint every 30" in capsys.readouterr().err
    record = storage.load_json(tmp_path / "run" / "settings.json")
    assert record["memory_plan"] == {"micro_batch": 4, "checkpoint_every": 30}
    monkeypatch.setattr("lrevopt.meta_training.loop.plan_memory", None)
    train(resume=True)
    assert "memory plan" not in capsys.readouterr().err
    with pytest.raises(TypeError):  # a new run plans
        train(overwrite=True)


def test_an_impossible_limit_leaves_no_folder(tmp_path, as_user):
    with pytest.raises(ValueError, match="`memory_limit` must be at least"):
        lo.meta_train(
            lo.LinearRegression(), gru(1e-3), SETTINGS, key=jr.key(6),
            directory=tmp_path / "run", memory_limit=1e-9, progress=False,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
