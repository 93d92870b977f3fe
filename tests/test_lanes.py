"""Parameters spread over devices, where there are fewer problems than devices."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as Spec
from tables import gru

import lrevopt as lo
from lrevopt.inner_loop.devices import LEAST_LANES, check_mesh, spread_in_words, with_lanes
from lrevopt.inner_loop.lanes import shard_of
from lrevopt.meta_training.estimators import meta_gradient
from lrevopt.tasks.interface import AbstractProblem, AbstractTask, examples_of_part

DIM = 4 * LEAST_LANES + 1
"""Parameters that four devices do not divide: the last one has copies."""

EXAMPLES = 6

SPREAD = "the 8,577 parameters of each are spread over {}"


class Start(AbstractProblem):
    initial_parameters: jax.Array


class Curves(AbstractTask):
    """Mean over examples of log(1 + (a . x - b)^2) + |x|^2 / 2, whose Hessian changes with x."""

    directions: jax.Array
    targets: jax.Array
    divided: bool = eqx.field(static=True)

    def __init__(self, divided):
        self.directions = jr.normal(jr.key(0), (EXAMPLES, DIM)) / DIM**0.5
        self.targets, self.divided = jnp.arange(1.0, EXAMPLES + 1), divided

    def sample(self, key):
        return Start(1.0 + jr.normal(key, (DIM,)))

    def _mean(self, parameters, chosen):
        errors = self.directions[chosen] @ parameters - self.targets[chosen]
        return jnp.mean(jnp.log1p(errors**2)) + jnp.sum(parameters**2) / 2

    def loss(self, problem, parameters, step):
        return self._mean(parameters, jnp.arange(EXAMPLES))

    def part_of_loss(self, problem, parameters, step, part, parts):
        if not self.divided:
            return None
        return self._mean(parameters, examples_of_part(EXAMPLES, part, parts)) / parts


class Signs(lo.AbstractOptimizer):
    """Steps of one length along -g, by a division that has no value at 0."""

    rate: jax.Array

    @property
    def readout(self):
        return -1e-2 * self.rate[None]

    def initial_state(self):
        return jnp.zeros(1)

    def transition(self, state, gradient):
        return self.rate * gradient[None] / jnp.sqrt(gradient[None] ** 2)


def differ(*trees):
    """Largest difference between arrays of two trees, relative to the largest entry of each."""

    def one(a, b):
        return np.max(np.abs(a - b)) / np.max(np.abs(b), initial=1e-300)

    return max(jax.tree.leaves(jax.tree.map(lambda a, b: one(np.array(a), np.array(b)), *trees)))


@pytest.mark.parametrize(
    ("estimator", "options", "problems", "devices", "divided"),
    [
        pytest.param("exact", {}, 1, 2, True, marks=pytest.mark.long),
        ("exact", {"checkpoint_every": 4}, 2, 4, True),
        ("clipped", {"cotangent_clip": 0.3}, 1, 4, False),
        pytest.param("first_order", {}, 1, 4, True, marks=pytest.mark.long),
    ],
)
def test_meta_gradients_agree(estimator, options, problems, devices, divided):
    settings = lo.MetaTraining(unroll=6, problems=problems, estimator=estimator, **options)
    keys, mesh = jr.split(jr.key(1), problems), lo.problem_mesh(devices)
    spread = with_lanes(mesh, problems, DIM)
    assert spread is not None
    assert dict(spread.shape) == {"problem": problems, "lane": devices // problems}
    gradient = eqx.filter_jit(meta_gradient)
    several = gradient(gru(0.1), Curves(divided), keys, settings, mesh)
    assert differ(several, gradient(gru(0.1), Curves(divided), keys, settings)) < 1e-12


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(Signs(jnp.ones(())), id="not finite at gradient 0"),
        pytest.param(lo.from_optax(optax.adamw(1e-2, weight_decay=0.1)), id="takes the parameter"),
    ],
)
def test_copies_of_the_last_parameter_count_for_nothing(optimizer):
    """With zeros in their place signs of gradients, g / |g|, would be 0 / 0."""
    settings, keys = lo.MetaTraining(unroll=5, problems=1), jr.split(jr.key(1), 1)
    gradient = eqx.filter_jit(meta_gradient)
    several = gradient(optimizer, Curves(True), keys, settings, lo.problem_mesh(4))
    one = gradient(optimizer, Curves(True), keys, settings)
    parts = [eqx.filter(g, eqx.is_inexact_array) for g in (several[1], one[1])]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parts))
    assert differ(*parts) < 1e-12


@pytest.mark.long
def test_trained_weights_agree_also_when_resumed_on_other_devices(tmp_path):
    """20 meta-steps on 1 and 4 devices; in two stretches, on other ones and on the same."""
    settings = lo.MetaTraining(
        steps=20, unroll=4, problems=1, warm_up=2, snapshot_every=10, early_snapshots=False,
        selection_problems=1, learning_rate=1e-2,
    )  # fmt: skip
    four, task = lo.problem_mesh(4), Curves(True)

    def train(mesh, **options):
        return lo.meta_train(
            task, gru(0.1), settings, key=jr.key(2), progress=False, mesh=mesh, **options
        )

    one, several = train(None), train(four)
    assert differ(several.snapshots, one.snapshots) < 1e-12
    np.testing.assert_allclose(
        several.history.selection_scores, one.history.selection_scores, rtol=1e-6
    )
    for first, second in ((None, four), (four, None), (four, four)):
        folder = tmp_path / f"{first is None}{second is None}"
        stopped = train(first, directory=folder, time_limit=1e-9)
        assert stopped.history.outcome == "time limit"
        resumed = train(second, directory=folder, resume=True)
        assert resumed.history.outcome == "finished"
        assert differ(resumed.last, one.last) < 1e-12
        if first is second:
            assert differ(resumed.last, several.last) == 0


@pytest.mark.long
def test_a_population_spreads_the_parameters_of_its_members():
    settings = lo.MetaTraining(
        steps=3, unroll=3, problems=1, warm_up=1, selection_problems=1, early_snapshots=False
    )
    keys, members = jr.split(jr.key(3), 2), [gru(0.1), gru(0.2)]

    def train(mesh):
        found = lo.meta_train_population(
            Curves(True), members, settings, keys=keys, mesh=mesh, progress=False
        )
        return [run.last for run in found.members]

    assert differ(train(lo.problem_mesh(4)), train(lo.problem_mesh(1))) < 1e-12


def test_evaluations_agree():
    optimizers = {"gru": gru(0.1), "adam": lo.Adam(0.1)}
    one, several = (
        lo.evaluate(optimizers, Curves(True), problems=1, steps=8, key=jr.key(0), mesh=mesh)
        for mesh in (None, lo.problem_mesh(4))
    )
    np.testing.assert_allclose(several.losses, one.losses, rtol=1e-12)


@pytest.mark.parametrize("parts", [3, 4])
@pytest.mark.parametrize(
    "task",
    [Curves(True), lo.TwoMoons(), lo.MNIST("digits", side=7, batch=10)],
    ids=lambda task: type(task).__name__,
)
def test_parts_of_a_loss_add_up(task, parts):
    problem = task.sample(jr.key(0))

    def total(parameters):
        numbers = jnp.arange(parts, dtype=jnp.int32)
        return jnp.sum(
            jax.lax.map(lambda k: task.part_of_loss(problem, parameters, 3, k, parts), numbers)
        )

    value, gradient = jax.value_and_grad(total)(problem.initial_parameters)
    expected = jax.value_and_grad(lambda x: task.loss(problem, x, 3))(problem.initial_parameters)
    np.testing.assert_allclose(value, expected[0], rtol=1e-13)
    assert differ(gradient, expected[1]) < 1e-12


@pytest.mark.parametrize(("devices", "dim"), [(2, 10), (4, 10), (3, 4), (4, 5)])
def test_every_parameter_is_on_one_device(devices, dim):
    """What is handed out and collected is what it was, and each parameter counts once."""
    mesh = with_lanes(lo.problem_mesh(devices), 1, dim * LEAST_LANES)
    shard = shard_of(mesh, dim)
    assert mesh is not None
    assert shard is not None
    values = jnp.arange(1.0, 2 * dim + 1).reshape(2, dim)

    def there_and_back(whole):
        own = shard.own(whole)
        counted = shard.total(jnp.sum(shard.counted(own), axis=1))
        return shard.whole(own), shard.whole(shard.own_sum(whole)), counted

    back, summed, counted = jax.shard_map(
        there_and_back, mesh=mesh, in_specs=Spec(), out_specs=Spec(), check_vma=False
    )(values)
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(summed, devices * values)
    np.testing.assert_array_equal(counted, values.sum(axis=1))


@pytest.mark.parametrize(
    ("problems", "parameters", "size", "words"),
    [
        (4, 10**6, 4, ""),
        (1, 8577, 4, "1 problem at once on 4 devices: " + SPREAD.format(4)),
        (1, 3000, 2, "over 2"),
        (2, 8577, 4, "2 problems at once on 4 devices: " + SPREAD.format(2)),
        (3, 8577, 3, "because the number of problems does not divide that of the devices"),
        (1, 5, None, "because a device would have fewer than 1,024 of 5"),
        (1, 0, None, "because evolution strategies spread runs alone"),
    ],
)  # fmt: skip
def test_devices_that_serve_are_taken_by_default(monkeypatch, problems, parameters, size, words):
    monkeypatch.setenv("LREVOPT_DEVICES", "")
    mesh = check_mesh(None, problems, parameters)
    assert (mesh and mesh.size) == size
    found = spread_in_words(mesh, problems, parameters)
    assert found.endswith(words)
    assert bool(found) == bool(words)


def test_a_training_says_that_it_spreads_parameters(capsys):
    settings = lo.MetaTraining(steps=1, unroll=2, problems=1, selection_problems=1)
    mesh = lo.problem_mesh(2)
    lo.meta_train(Curves(False), gru(0.1), settings, key=jr.key(0), mesh=mesh)
    assert f"the {DIM:,} parameters of each are spread over 2" in capsys.readouterr().err


def test_pairs_of_evolution_strategies_are_runs():
    from lrevopt.meta_training.estimators import independent

    settings = lo.MetaTraining(problems=2, estimator="es", es_pairs=3)
    assert independent(settings, 10) == (6, 0)
    assert independent(dataclasses.replace(settings, estimator="pes"), 10) == (2, 0)
    assert independent(dataclasses.replace(settings, estimator="exact"), 10) == (2, 10)
