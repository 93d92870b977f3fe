"""Populations: each member is what it would be alone, whatever the others do."""

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

import lrevopt as lo
from lrevopt.__main__ import main
from lrevopt.inner_loop.devices import population_mesh
from lrevopt.optimizers.scales import scales_as_data
from lrevopt.tasks.interface import Step

TASK = lo.LinearRegression(dim=3)
KEYS = jr.split(jr.key(0), 4)
SETTINGS = lo.MetaTraining(
    steps=12, unroll=6, problems=6, warm_up=2, snapshot_every=4, early_snapshots=False,
    selection_problems=5, learning_rate=1e-2,
)  # fmt: skip


def moving_gru(seed: int, **scales: Any) -> lo.RecurrentOptimizer:
    """A GRU with a random readout: an untrained one does not move at all."""
    weights, readout = jr.split(jr.key(seed))
    made = lo.GRUOptimizer(3, key=weights, **scales)
    return eqx.tree_at(lambda o: o.weights, made, 0.3 * jr.normal(readout, (3,)))


GRUS = [moving_gru(seed) for seed in range(4)]


class SometimesBroken(lo.AbstractTask):
    """A parabola whose loss is not a number for about one start in three."""

    def sample(self, key: Key[Array, ""]) -> lo.tasks.rosenbrock.RosenbrockProblem:
        return lo.tasks.rosenbrock.RosenbrockProblem(jr.normal(key, (2,)))

    def loss(self, problem: object, parameters: Float[Array, "2"], step: Step) -> Float[Array, ""]:
        broken = jnp.where(problem.initial_parameters[0] > 0.4, jnp.nan, 1.0)  # type: ignore[attr-defined]
        return broken * parameters @ parameters


def population(task, optimizers, settings, keys=KEYS, **options):
    return lo.meta_train_population(
        task, optimizers, settings, keys=keys, progress=False, **options
    )


def alone(task, optimizers, settings, keys=KEYS, rates=None):
    rates = itertools.repeat(settings.learning_rate) if rates is None else rates
    return [
        lo.meta_train(
            task, optimizer, dataclasses.replace(settings, learning_rate=rate), key=key,
            progress=False,
        )
        for optimizer, key, rate in zip(optimizers, keys, rates, strict=False)
    ]  # fmt: skip


def assert_same(found, wanted, tolerance=1e-10):
    """Two runs with the same weights, snapshots, scores and counts."""
    for name in ("optimizer", "last", "snapshots"):
        first, second = (eqx.filter(getattr(run, name), eqx.is_array) for run in (found, wanted))
        assert eqx.tree_equal(first, second, rtol=tolerance, atol=tolerance), name
    for name in ("skipped", "rollbacks", "selected", "steps", "outcome"):
        assert getattr(found.history, name) == getattr(wanted.history, name), name
    # Recorded in float32.
    for name in ("objectives", "gradient_norms", "selection_scores", "snapshot_steps"):
        one, other = (getattr(run.history, name) for run in (found, wanted))
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [
        "exact",
        pytest.param("pes", marks=pytest.mark.long),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("clipped", "es")),
    ],
)
def test_members_are_the_single_runs(estimator):
    settings = dataclasses.replace(SETTINGS, estimator=estimator, es_window=3, micro_batch=3)
    found = population(TASK, GRUS[:2], settings, KEYS[:2])
    for member, single in zip(
        found.members, alone(TASK, GRUS[:2], settings, KEYS[:2]), strict=True
    ):
        assert_same(member, single)


def test_a_stacked_optimizer_is_a_list_of_them():
    made = [lo.Momentum(rate, 0.5) for rate in (0.01, 0.02, 0.03, 0.04)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
    for one, other in zip(
        population(TASK, stacked, SETTINGS).members,
        population(TASK, made, SETTINGS).members,
        strict=True,
    ):
        assert_same(one, other, 0.0)


@pytest.mark.long
def test_members_skip_and_roll_back_alone():
    """Members with rates from harmless to absurd, on a task that is broken for some problems."""
    settings = dataclasses.replace(
        SETTINGS, steps=24, problems=1, warm_up=0, clip=5.0, outlier_ratio=None, unroll=4
    )
    made = [lo.Momentum(0.05, 0.3)] * 4
    rates = [1e-3, 3.0, 1e-2, 5.0]
    settings = dataclasses.replace(settings, selection_problems=1)
    # Neither the first problem of all nor the one for selection is broken.
    fine = [
        key
        for key in jr.split(jr.key(1), 30)
        if max(jr.normal(key, (2,))[0], jr.normal(jr.split(jr.split(key)[1], 1)[0], (2,))[0]) < 0.4
    ]
    keys = jnp.stack(fine[:4])
    for task in (SometimesBroken(), lo.LinearRegression(dim=2, log10_eigenvalues=(-1, 0))):
        found = population(task, made, settings, keys, learning_rates=rates)
        singles = alone(task, made, settings, keys, rates)
        for member, single in zip(found.members, singles, strict=True):
            assert_same(member, single)
        histories = [member.history for member in found.members]
        if isinstance(task, SometimesBroken):
            assert len({each.skipped for each in histories}) > 1
        else:
            rollbacks = [each.rollbacks for each in histories]
            assert rollbacks[0] == rollbacks[2] == 0
            assert min(rollbacks[1], rollbacks[3]) > 0


def test_members_may_differ_in_scales_and_learning_rates(tmp_path):
    made = [moving_gru(1, input_scale=s, output_scale=1 / s) for s in (0.1, 0.7, 1.0, 3.0)]
    rates = np.array([1e-3, 2e-3, 5e-3, 1e-2])
    keys = KEYS[jnp.zeros(4, int)]
    found = population(TASK, made, SETTINGS, keys, learning_rates=rates, directory=tmp_path)
    for number, single in enumerate(alone(TASK, made, SETTINGS, keys, rates)):
        assert_same(found.members[number], single)
        loaded = lo.load(tmp_path / f"member_{number:03d}")
        assert isinstance(loaded, lo.RecurrentOptimizer)
        assert loaded.input_scale == made[number].input_scale
        assert_same(dataclasses.replace(single, optimizer=loaded), single)
    single = alone(TASK, made[:1], SETTINGS, keys)[0]
    scaled = scales_as_data(single.optimizer)
    np.testing.assert_array_equal(scaled.scales, [0.1, 10.0])


@pytest.mark.parametrize(
    ("members", "shape"), [(4, (4, 1)), (2, (2, 2)), (3, (1, 4)), (6, (2, 2)), (8, (4, 1))]
)
def test_members_take_devices_before_problems_do(members, shape):
    mesh = population_mesh(members, lo.problem_mesh(4))
    assert mesh is not None
    assert mesh.axis_names == ("seed", "problem")
    assert mesh.devices.shape == shape


@pytest.mark.parametrize(
    "members", [2, pytest.param(3, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.slow)]
)
def test_numbers_agree_on_one_and_four_devices(members):
    keys, made = KEYS[:members], GRUS[:members]
    one = population(TASK, made, SETTINGS, keys)
    four = population(TASK, made, SETTINGS, keys, mesh=lo.problem_mesh(4))
    for member, single in zip(four.members, one.members, strict=True):
        assert_same(member, single, 1e-12)


def test_a_population_resumes_as_a_whole(tmp_path):
    """Bit by bit, on the same devices; the folders of members hold what the run returns."""
    settings = dataclasses.replace(SETTINGS, learning_rate=0.3, rollback_ratio=1.01)
    whole = population(TASK, GRUS, settings)
    assert any(member.history.rollbacks for member in whole.members)
    folder = tmp_path / "population"
    stopped = population(TASK, GRUS, settings, directory=folder, time_limit=1e-9)
    assert stopped.outcome == "time limit"
    assert stopped.members[0].history.steps == 1
    with pytest.raises(ValueError, match="holds this run already: pass resume"):
        population(TASK, GRUS, settings, directory=folder)
    with pytest.raises(ValueError, match=r"holds another run \(different: members\)"):
        population(TASK, GRUS[::-1], settings, directory=folder, resume=True)
    resumed = population(TASK, GRUS, settings, directory=folder, resume=True)
    for number, (member, single) in enumerate(zip(resumed.members, whole.members, strict=True)):
        assert_same(member, single, 0.0)
        loaded = lo.load(folder / f"member_{number:03d}")
        assert_same(dataclasses.replace(single, optimizer=loaded), single, 0.0)
    with pytest.raises(ValueError, match="holds the members of a population"):
        lo.load(folder)


@pytest.mark.long
def test_what_is_stale_goes_when_a_population_starts_again(tmp_path):
    short = dataclasses.replace(SETTINGS, steps=1, snapshot_every=1)
    population(TASK, GRUS, short, directory=tmp_path)
    kept = tmp_path / "member_003" / "notes"
    kept.touch()
    (tmp_path / "member_001" / "evaluation.npz").touch()
    population(TASK, GRUS[:2], short, KEYS[:2], directory=tmp_path, overwrite=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoints", "member_000", "member_001", "member_003", "settings.json"]
    assert list((tmp_path / "member_003").iterdir()) == [kept]
    assert not (tmp_path / "member_001" / "evaluation.npz").exists()
    lo.meta_train(
        TASK, GRUS[0], short, key=KEYS[0], directory=tmp_path, overwrite=True, progress=False
    )
    assert not (tmp_path / "member_000").exists()


@pytest.mark.long
def test_a_killed_start_is_taken_up(tmp_path):
    """The settings of the whole are there, those of some members are not."""
    short = dataclasses.replace(SETTINGS, steps=2, snapshot_every=1)
    whole = population(TASK, GRUS, short, directory=tmp_path, time_limit=1e-9)
    shutil.rmtree(tmp_path / "member_002")
    resumed = population(TASK, GRUS, short, directory=tmp_path, resume=True)
    assert resumed.outcome == "finished"
    assert whole.outcome == "time limit"
    assert isinstance(lo.load(tmp_path / "member_002"), lo.RecurrentOptimizer)


SMALL = [
    "--optimizer.units", "2", "--training.steps", "4", "--training.unroll", "4",
    "--training.problems", "2", "--training.selection-problems", "2", "--training.snapshot-every",
    "2", "--training.no-early-snapshots",
]  # fmt: skip


@pytest.mark.long
def test_seeds_of_a_command_are_the_runs_of_those_seeds(tmp_path, monkeypatch):
    """One folder; a member goes through later stages, and is what its seed gives alone."""
    monkeypatch.chdir(tmp_path)
    several = ["train", "linear_regression", *SMALL, "--seed", "3", "--seeds", "2"]
    assert main([*several, "--output", "both", "--time-limit", "1e-9"]) == 0
    with pytest.raises(SystemExit, match="2"):
        main([*several, "--output", "both", "--seeds", "3", "--resume"])
    assert main([*several, "--output", "both", "--resume"]) == 0
    assert main(["train", "linear_regression", *SMALL, "--seed", "4", "--output", "alone"]) == 0
    member, single = (lo.Run(path) for path in (Path("both/member_001"), Path("alone")))
    assert member.settings.keys() == single.settings.keys()
    different = {k for k in single.settings if member.settings[k] != single.settings[k]}
    assert different == {"sha256"} & single.settings.keys()
    assert eqx.tree_equal(member.optimizer, single.optimizer, rtol=1e-10, atol=1e-10)
    assert main(["analyze", "both/member_001", "--problems", "2", "--steps", "3"]) == 0
    assert lo.Run("both/member_001").mechanisms is not None


def test_candidates_of_a_search_are_single_runs():
    found = lo.search_learning_rate(
        TASK, GRUS[0], SETTINGS, candidates=2, key=jr.key(3), progress=False
    )
    keys = jnp.stack([jr.split(jr.key(3))[1]] * 2)
    singles = alone(TASK, [GRUS[0]] * 2, SETTINGS, keys, map(float, found.learning_rates))
    scores = [run.history.selection_scores.min() for run in singles]
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_summary_names_members():
    short = dataclasses.replace(SETTINGS, steps=1, snapshot_every=1)
    found = population(TASK, GRUS[:2], short, KEYS[:2])
    lines = found.summary().splitlines()
    assert [line[:10] for line in lines] == ["member 000", "member 001"]
    assert found.members[1].history.summary() in lines[1]
    assert found.scores.shape == (2,)


def test_refusals(as_user):
    def refused(words, optimizers=GRUS, **options):
        with pytest.raises(ValueError, match=words):
            population(TASK, optimizers, SETTINGS, **options)

    refused("`optimizers` must be as many as `keys`, 4, got 3", GRUS[:3])
    refused("`optimizers` must be arrays with one common first axis, got shapes", moving_gru(0))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ADAMS)
    refused("`optimizers` must be as many as `keys`, 4, got 3", stacked)
    refused(r"number 1 \(Adam\) has another one than number 0 \(Recur", [GRUS[0], *ADAMS])
    refused("`optimizers` must hold at least one optimizer, got none", [])
    refused(r"`optimizers\[1\]` must be an optimizer, got 3", [GRUS[0], 3, GRUS[1], GRUS[2]])
    refused("`learning_rates` must be as many as `keys`, 4, got 1", learning_rates=[0.1])
    refused("`learning_rates` must be a finite number above 0", learning_rates=[0.1, 0, 1, 1])
    refused("`keys` must be random keys", keys=jr.key(0))
    mesh = Mesh(np.array(jax.local_devices()[:3]).reshape(3, 1), ("seed", "problem"))
    refused("`mesh` must have an axis seed that divides 4 members, got 3", mesh=mesh)


ADAMS = [lo.Adam(0.1)] * 3
