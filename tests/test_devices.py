"""Numbers on 1, 2 and 4 devices agree; what is spread is what runs on one device."""

import dataclasses
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh
from tables import gru, mostly_long

import lrevopt as lo
from lrevopt.host_devices import FLAG, cores, threads
from lrevopt.inner_loop.devices import (
    check_mesh,
    crowded,
    mean_over_problems,
    over_problems,
    population_mesh,
)
from lrevopt.tuning.constructors import stack_settings

TASK = lo.LinearRegression(dim=3)
DEVICES = pytest.mark.parametrize("devices", [2, 4])
SETTINGS = lo.MetaTraining(
    steps=20, unroll=6, problems=6, warm_up=2, snapshot_every=10, early_snapshots=False,
    selection_problems=5, learning_rate=1e-2,
)  # fmt: skip


def largest_difference(*trees):
    """Largest difference between arrays of two trees, relative to the largest entry of each."""

    def one(a, b):
        return np.max(np.abs(a - b)) / np.max(np.abs(b), initial=1e-300)

    return max(jax.tree.leaves(jax.tree.map(lambda a, b: one(np.array(a), np.array(b)), *trees)))


@DEVICES
@pytest.mark.parametrize("count", [1, 4, 7])
def test_problems_are_spread_in_order(devices, count):
    mesh = lo.problem_mesh(devices)
    values = jnp.arange(count, dtype=float)
    squares = over_problems(lambda factor, x: factor * x**2, 3.0 * jnp.ones(()), values, mesh)
    np.testing.assert_array_equal(squares, 3 * np.arange(count) ** 2)
    mean = mean_over_problems(
        lambda factor, x, shares: factor * jnp.sum(shares * x), 3.0 * jnp.ones(()), values, mesh
    )
    np.testing.assert_allclose(mean, 3 * values.mean(), rtol=1e-15)


def test_evaluations_agree():
    optimizers = {"gru": gru(0.1), "adam": lo.Adam(0.1)}
    one, several = (
        lo.evaluate(optimizers, TASK, problems=5, steps=8, key=jr.key(0), mesh=mesh)
        for mesh in (None, lo.problem_mesh(4))
    )
    np.testing.assert_allclose(several.losses, one.losses, rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("exact", {"micro_batch": 3}),
        pytest.param("clipped", {"checkpoint_every": 4}, marks=pytest.mark.long),
        pytest.param("es", {"es_pairs": 2, "micro_batch": 2}, marks=pytest.mark.long),
    ],
)
def test_meta_gradients_agree(estimator, options):
    from lrevopt.meta_training.estimators import estimate

    settings = dataclasses.replace(SETTINGS, estimator=estimator, **options)

    @eqx.filter_jit
    def gradient(mesh):
        return estimate(gru(0.1), TASK, jr.key(1), settings, mesh=mesh)[:2]

    # Six problems on four devices: two run a problem again, which must not count.
    assert largest_difference(gradient(lo.problem_mesh(4)), gradient(None)) < 1e-12


@pytest.mark.long
@pytest.mark.parametrize("estimator", ["exact", pytest.param("pes", marks=pytest.mark.slow)])
def test_trained_weights_agree_also_when_resumed_on_other_devices(tmp_path, estimator):
    """20 meta-steps on 1 and 4 devices; 20 in two stretches on different ones."""
    settings = dataclasses.replace(SETTINGS, estimator=estimator, es_window=3)

    def train(mesh, **options):
        return lo.meta_train(
            TASK, gru(0.1), settings, key=jr.key(2), progress=False, mesh=mesh, **options
        )

    one = train(None)
    assert one.history.snapshot_steps.tolist() == [0, 10, 20]
    four = lo.problem_mesh(4)
    several = train(four)
    assert largest_difference(several.last, one.last) < 1e-12
    assert largest_difference(several.snapshots, one.snapshots) < 1e-12
    np.testing.assert_allclose(
        several.history.selection_scores, one.history.selection_scores, rtol=1e-6
    )
    for first, second in ((None, four), (four, None)):
        folder = tmp_path / f"{estimator}{first is None}"
        stopped = train(first, directory=folder, time_limit=1e-9)
        assert stopped.history.outcome == "time limit"
        resumed = train(second, directory=folder, resume=True)
        assert resumed.history.outcome == "finished"
        assert largest_difference(resumed.last, one.last) < 1e-12


@pytest.mark.parametrize(("dim", "memory"), mostly_long([(3, 4000), (1001, 2**29)], (3, 4000)))
def test_scores_agree(dim, memory):
    task = lo.LinearRegression(dim=dim) if dim < 10 else bowl(dim)
    rates = {"learning_rate": np.geomspace(1e-3, 10, 7)}
    stacked = stack_settings(lo.GradientDescent, rates)
    problems = lo.sample_problems(task, jr.key(3), 3)
    one, several = (
        lo.score_settings(task, stacked, problems, 4, memory=memory, mesh=mesh)
        for mesh in (None, lo.problem_mesh(4))
    )
    np.testing.assert_allclose(several[0], one[0], rtol=1e-12)
    np.testing.assert_array_equal(several[1], one[1])


@DEVICES
def test_fixed_points_and_attractors_agree(monkeypatch, devices):
    """A GRU with one point that starts share, and three points of tanh, one of them a saddle."""
    far = jr.normal(jr.key(5), (41, 8))
    near = jnp.linspace(-1.1, 1.2, 45)[:, None]
    for optimizer, starts, count in ((gru(0.1), far, 1), (Bistable(jnp.ones(1)), near, 3)):
        found = []
        for number in (1, devices):
            monkeypatch.setenv("LREVOPT_DEVICES", str(number))
            found.append(
                (lo.find_fixed_points(optimizer, starts), lo.find_attractors(optimizer, starts))
            )
        (points, attractors), (points_on_several, attractors_on_several) = found
        assert len(points.distinct) == count
        assert points.converged.all()
        np.testing.assert_array_equal(points_on_several.assignment, points.assignment)
        np.testing.assert_allclose(points_on_several.states, points.states, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            points_on_several.spectral_radius, points.spectral_radius, rtol=1e-12
        )
        assert len(attractors.states) == max(1, count - 1)
        np.testing.assert_array_equal(attractors_on_several.ends, attractors.ends)
        np.testing.assert_allclose(
            attractors_on_several.states, attractors.states, rtol=0, atol=1e-12
        )


class Bistable(lo.AbstractOptimizer):
    """`h' = tanh(3 h) + g`."""

    readout: jax.Array

    def initial_state(self):
        return jnp.zeros(1)

    def transition(self, state, gradient):
        return jnp.tanh(3 * state) + gradient


def bowl(dim):
    """Problems of many parameters, another curvature in each."""
    return lo.FunctionTask(
        lambda x, curvature: curvature * jnp.mean(x**2) / 2,
        lambda key: jnp.ones(dim),
        lambda step, key: jr.uniform(key, minval=0.5),
        title="bowl",
    )


@pytest.mark.long
def test_tuned_winners_agree():
    settings = lo.Tuning(settings=30, problems=3, finalists=2, fresh_problems=3, steps=5)
    one, two = (
        lo.tune(TASK, lo.Momentum, settings, key=jr.key(4), mesh=mesh)
        for mesh in (None, lo.problem_mesh(2))
    )
    assert two.best == one.best
    np.testing.assert_allclose(two.scores, one.scores, rtol=1e-12)


def test_a_device_is_a_mesh_of_its_own():
    assert check_mesh(lo.problem_mesh(1)) is None
    assert check_mesh(None) is None  # as the environment of these tests asks
    second = Mesh(np.array(jax.local_devices()[1:2]), ("problem",))
    assert check_mesh(second) is second


@pytest.mark.parametrize("asked", ["0", "two", "-1", "1.5"])
def test_the_environment_must_give_a_number(monkeypatch, asked):
    monkeypatch.setenv("LREVOPT_DEVICES", asked)
    with pytest.raises(ValueError, match="`LREVOPT_DEVICES` must be a number of devices from 1 to"):
        check_mesh(None)


@pytest.mark.parametrize(("asked", "size"), [("", 4), ("3", 3), ("99", 4)])
def test_the_environment_chooses_the_default(monkeypatch, asked, size):
    monkeypatch.setenv("LREVOPT_DEVICES", asked)
    mesh = check_mesh(None)
    assert mesh is not None
    assert mesh.size == size


@pytest.mark.parametrize(("problems", "size"), [(1, None), (2, 2), (3, 3), (9, 4)])
def test_by_default_no_device_is_without_a_problem(monkeypatch, problems, size):
    monkeypatch.setenv("LREVOPT_DEVICES", "")
    mesh = check_mesh(None, problems)
    assert (mesh and mesh.size) == size
    four = lo.problem_mesh(4)
    assert check_mesh(four, problems) is four


@pytest.mark.parametrize(
    ("given", "devices", "found"),
    [("", 1, cores()), ("7", 2, 7), ("7", 9, 9), ("many", 1, cores())],
)
def test_devices_share_so_many_threads(monkeypatch, given, devices, found):
    monkeypatch.setenv("NPROC", given)
    assert threads(devices) == found


def test_a_population_on_crowded_devices_takes_one(monkeypatch):
    """Four devices of these tests: with four threads they could wait for each other for ever."""
    monkeypatch.setenv("LREVOPT_DEVICES", "")
    monkeypatch.setenv("NPROC", "4")
    assert "NPROC=" in crowded()
    assert population_mesh(8, None) is None
    monkeypatch.setenv("NPROC", "8")
    assert not crowded()
    mesh = population_mesh(8, None)
    assert mesh is not None
    assert mesh.size == 4


@pytest.mark.slow
def test_devices_that_factorize_batches_at_once_do_not_wait_for_each_other(tmp_path):
    """The start of 16 seeds draws 1,024 problems by QR on two devices: it hung on two threads."""
    command = [
        sys.executable, "-m", "lrevopt", "train", "linear_regression", "--seeds", "16",
        "--optimizer.units", "4", "--training.steps", "1", "--training.unroll", "4",
        "--training.problems", "2", "--training.selection-problems", "64",
        "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    run = subprocess.run(
        command, env=environment | {"LREVOPT_DEVICES": "2"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def started(environment, code="", shown="XLA_FLAGS"):
    """What `start_host_devices` makes of a variable of the environment in a fresh process."""
    start = "import os; from lrevopt.host_devices import start_host_devices as start; start()"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}; {start}; print(os.environ.get('{shown}', ''))"],
        capture_output=True, text=True,
        env=os.environ | {"XLA_FLAGS": "", "NPROC": ""} | environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "code", "flags"),
    [
        ({"LREVOPT_DEVICES": ""}, "", f"{FLAG}={cores()}"),
        ({"LREVOPT_DEVICES": "3", "XLA_FLAGS": "--xla_x"}, "", f"--xla_x {FLAG}=3"),
        ({"LREVOPT_DEVICES": "3", "XLA_FLAGS": f"{FLAG}=2"}, "", f"{FLAG}=2"),
        ({"LREVOPT_DEVICES": "3"}, "import sys; sys.modules['jax'] = None", ""),
    ],
)
def test_commands_start_a_device_per_core(environment, code, flags):
    assert started(environment, code or "pass") == flags


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"LREVOPT_DEVICES": "3"}, max(cores(), 3) + 3),
        ({"LREVOPT_DEVICES": "1", "XLA_FLAGS": f"{FLAG}=4"}, max(cores(), 4) + 4),
        ({"LREVOPT_DEVICES": "3", "NPROC": "2"}, 2),
        ({"LREVOPT_DEVICES": "1"}, ""),
    ],
)
def test_commands_have_more_threads_than_devices(environment, found):
    """Also where the devices were set by XLA's own flag; a number of the user's stands."""
    assert started(environment, "pass", "NPROC") == str(found)


def test_refusals(as_user):
    with pytest.raises(ValueError, match="`devices` must be at most the 4 local ones, got 5"):
        lo.problem_mesh(5)
    with pytest.raises(ValueError, match="`devices` must be an integer of at least 1, got 0"):
        lo.problem_mesh(0)
    other = Mesh(np.array(jax.local_devices()), ("batch",))
    with pytest.raises(ValueError, match="`mesh` must be a jax.sharding.Mesh with the one axis"):
        lo.evaluate({"adam": lo.Adam(0.1)}, TASK, problems=2, steps=2, key=jr.key(0), mesh=other)
