"""A user's own task: what goes in comes out, and it is a task like any other."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array

import lrevopt as lo
from lrevopt.analysis.parameter_types import measure_parameter_types
from lrevopt.storage import describe
from lrevopt.storage.sameness import Static
from lrevopt.tasks.callables import Callback, digest
from lrevopt.tasks.interface import check_task

TARGET = jnp.arange(6.0).reshape(3, 2)


class Counted(eqx.Module):
    """Every kind of leaf that a tree may have."""

    dense: eqx.nn.Linear
    scale: np.ndarray
    order: Array
    activation: Callable
    rate: float
    name: str = eqx.field(static=True)

    def __init__(self, key):
        first, second = jr.split(key)
        self.dense = eqx.nn.Linear(2, 3, key=first)
        self.scale = np.full((3,), 2.0, np.float32)
        self.order = jr.permutation(second, 3)
        self.activation = lambda x: jnp.tanh(x)
        self.rate = 0.5
        self.name = "counted"

    def __call__(self, x):
        scale = jnp.asarray(self.scale, x.dtype)
        return self.rate * (scale * self.activation(self.dense(x)))[self.order]


def nested(key):
    first, second = jr.split(key)
    dense = {"kernel": jr.normal(first, (3, 2)), "bias": jnp.zeros(2)}
    return {"dense": dense, "scales": [jr.normal(second, (1,)), (jnp.ones(()),)]}


def nested_loss(params):
    kernel, bias = params["dense"]["kernel"], params["dense"]["bias"]
    first, (second,) = params["scales"]
    return jnp.sum((second * kernel * first[0] + bias - TARGET) ** 2)


def counted_loss(model, batch):
    inputs, targets = batch
    return jnp.mean((jax.vmap(model)(inputs) - targets) ** 2)


def counted_task():
    """Made anew, with lambdas, each time."""
    batches = (jnp.arange(40.0).reshape(5, 4, 2) / 40, jnp.ones((5, 4, 3)))
    return lo.FunctionTask(
        lambda model, batch: counted_loss(model, batch), lambda key: Counted(key), batches
    )


TASKS = {
    "nested dictionaries": lambda: lo.FunctionTask(nested_loss, nested),
    "Equinox module": counted_task,
    "one array": lambda: lo.FunctionTask(lambda x: jnp.sum(x**4), lambda k: jr.normal(k, (2, 2))),
}


def _shapes(tree):
    """The tree with functions left out and arrays by shape."""
    return jax.tree.map(np.shape, eqx.filter(tree, eqx.is_array_like))


@pytest.mark.parametrize("make", TASKS.values(), ids=list(TASKS))
def test_flat_vector_and_tree_are_two_forms_of_one_draw(make):
    """The tree of a problem's flat vector is what `init` draws, leaf by leaf and bit by bit."""
    task, key = make(), jr.key(3)
    problem = task.sample(key)
    back = task.parameters(problem, problem.initial_parameters)
    drawn = task.init_function(jr.split(key)[0])
    assert eqx.tree_equal(_shapes(back), _shapes(drawn))
    arrays = [jax.tree.leaves(eqx.filter(tree, eqx.is_array_like)) for tree in (back, drawn)]
    for ours, theirs in zip(*arrays, strict=True):
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)
    check_task(task, problem)


def test_groups_are_the_paths_of_the_tree_and_tile_the_vector():
    task = lo.FunctionTask(nested_loss, nested)
    problem = task.sample(jr.key(0))
    groups = task.parameter_groups
    assert list(groups) == ["dense.bias", "dense.kernel", "scales.0", "scales.1.0"]
    places = [range(problem.initial_parameters.size)[span] for span in groups.values()]
    assert [place for span in places for place in span] == list(range(10))
    tree = task.parameters(problem, jnp.arange(10.0))
    np.testing.assert_array_equal(tree["dense"]["kernel"].reshape(-1), places[1])
    assert list(counted_task().parameter_groups) == ["dense.weight", "dense.bias", "scale"]
    assert list(TASKS["one array"]().parameter_groups) == ["parameters"]


def test_names_that_would_clash_are_told_apart():
    task = lo.FunctionTask(
        lambda p: jnp.sum(p["a.b"] * p["a"]["b"]),
        lambda key: {"a.b": jnp.ones(2), "a": {"b": jnp.ones(2)}},
    )
    assert len(task.parameter_groups) == 2


def test_empty_arrays_are_no_group_and_stay_in_the_tree():
    task = lo.FunctionTask(
        lambda p: jnp.sum(p["b"] ** 2), lambda key: {"a": jnp.zeros((0, 3)), "b": jnp.ones(2)}
    )
    problem = task.sample(jr.key(0))
    assert task.parameter_groups == {"b": slice(0, 2)}
    assert task.parameters(problem, problem.initial_parameters)["a"].shape == (0, 3)


def test_gradient_is_that_of_the_tree():
    """Against `jax.grad` of the tree itself, flattened by JAX."""
    task = lo.FunctionTask(nested_loss, nested)
    problem = task.sample(jr.key(1))
    ours = jax.grad(task.loss, argnums=1)(problem, problem.initial_parameters, 0)
    tree = task.parameters(problem, problem.initial_parameters)
    theirs, _ = jax.flatten_util.ravel_pytree(jax.grad(nested_loss)(tree))
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_gradient_is_that_of_an_equinox_module():
    task = counted_task()
    problem = task.sample(jr.key(1))
    ours = jax.grad(task.loss, argnums=1)(problem, problem.initial_parameters, 3)
    model = task.parameters(problem, problem.initial_parameters)
    batch = task.batch(problem, 3)
    theirs = eqx.filter_grad(counted_loss)(model, batch)
    parts = (theirs.dense.weight, theirs.dense.bias, theirs.scale)
    flat = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
    # The scale is a float32 leaf: its gradient is rounded to that type.
    np.testing.assert_allclose(ours, flat, rtol=1e-6)


def test_leaves_of_different_types_are_kept_in_the_default_one():
    task = lo.FunctionTask(
        lambda p: jnp.sum(p["a"].astype(float)) + jnp.sum(p["b"]),
        lambda key: {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64)},
    )
    problem = task.sample(jr.key(0))
    assert problem.initial_parameters.dtype == jnp.float64
    tree = task.parameters(problem, problem.initial_parameters)
    assert tree["a"].dtype == jnp.float32
    assert tree["b"].dtype == jnp.float64
    assert task.loss(problem, problem.initial_parameters, 0).dtype == jnp.float64
    half = lo.FunctionTask(lambda p: jnp.sum(p), lambda key: jnp.ones(2, jnp.float16))
    drawn = half.sample(jr.key(0))
    assert half.loss(drawn, drawn.initial_parameters, 0).dtype == jnp.float64
    assert lo.unroll(lo.GradientDescent(0.1), half, drawn, 2).losses.shape == (3,)


@pytest.mark.long
@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_flax_models(library):
    """Flattening, names and gradients of a model of Flax, against its own."""
    pytest.importorskip("flax")
    inputs = jnp.ones((1, 2), jnp.float32)
    init, apply, names = {"linen": linen_model, "nnx": nnx_model}[library](inputs)

    def loss(params):
        return jnp.sum(apply(params, inputs) ** 2)

    task = lo.FunctionTask(loss, init)
    assert list(task.parameter_groups) == names
    problem = task.sample(jr.key(2))
    ours = jax.grad(task.loss, argnums=1)(problem, problem.initial_parameters, 0)
    tree = task.parameters(problem, problem.initial_parameters)
    theirs, _ = jax.flatten_util.ravel_pytree(jax.grad(loss)(tree))
    # Flax's leaves are float32, in either case.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert np.isfinite(lo.unroll(lo.Adam(0.01), task, problem, 3).losses).all()


def linen_model(inputs):
    from flax import linen

    model = linen.Sequential([linen.Dense(3), linen.tanh, linen.Dense(1)])
    names = [f"params.layers_{n}.{kind}" for n in (0, 2) for kind in ("bias", "kernel")]
    return lambda key: model.init(key, inputs), model.apply, names


def nnx_model(inputs):
    from flax import nnx

    def make(key):
        return nnx.Linear(2, 3, rngs=nnx.Rngs(key))

    graph, _ = nnx.split(make(0), nnx.Param)
    return (
        lambda key: nnx.split(make(key), nnx.Param)[1],
        lambda params, inputs: nnx.merge(graph, params)(inputs),
        ["bias", "kernel"],
    )


class ByHand(lo.AbstractTask):
    """The nested task, written as a task."""

    def sample(self, key):
        flat, _ = jax.flatten_util.ravel_pytree(nested(jr.split(key)[0]))
        return HandProblem(flat)

    def loss(self, problem, parameters, step):
        bias, kernel, scale, shift = jnp.split(parameters, (2, 8, 9))
        moved = shift[0] * kernel.reshape(3, 2) * scale[0] + bias
        return jnp.sum((moved - TARGET) ** 2)


class HandProblem(lo.AbstractProblem):
    """A flat vector."""

    initial_parameters: Array


def test_equals_a_task_written_by_hand():
    optimizers = {"adam": lo.Adam(0.05), "momentum": lo.Momentum(0.01, 0.9)}
    ours, theirs = (
        lo.evaluate(optimizers, task, problems=3, steps=20, key=jr.key(5))
        for task in (lo.FunctionTask(nested_loss, nested), ByHand())
    )
    # The same products in another order, over twenty steps.
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-11)


def test_batches_are_taken_by_step_and_begin_again():
    batches = {"x": np.arange(6.0).reshape(3, 2), "y": np.arange(3)}
    task = lo.FunctionTask(
        lambda p, batch: jnp.sum(p * batch["x"]), lambda key: jnp.ones(2), batches
    )
    problem = task.sample(jr.key(0))
    start = problem.initial_parameters
    losses = [float(task.loss(problem, start, step)) for step in range(7)]
    assert losses == [1.0, 5.0, 9.0, 1.0, 5.0, 9.0, 1.0]
    run = lo.unroll(lo.GradientDescent(1e-9), task, problem, 6)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-6)
    np.testing.assert_array_equal(run.gradients[4], batches["x"][1])


def test_batches_may_be_functions_of_step_and_key():
    by_step = lo.FunctionTask(
        lambda p, shift: jnp.sum(p) + shift, lambda key: jnp.zeros(2), lambda step: 10.0 * step
    )
    problem = by_step.sample(jr.key(0))
    assert float(by_step.loss(problem, problem.initial_parameters, 7)) == 70.0
    by_key = lo.FunctionTask(
        lambda p, data: jnp.sum(p) + data,
        lambda key: jnp.zeros(2),
        lambda step, key: jr.normal(key),
    )
    first, second = by_key.sample(jr.key(0)), by_key.sample(jr.key(1))
    seen = [float(by_key.loss(p, p.initial_parameters, k)) for p in (first, second) for k in (0, 5)]
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert seen[0] != seen[2]


def test_minibatches_are_examples_of_the_data_and_differ_by_step_and_problem():
    data = (np.arange(50.0), np.arange(50) * 10)
    task = lo.FunctionTask(
        lambda p, batch: jnp.sum(p) * jnp.mean(batch[0]),
        lambda key: jnp.ones(1),
        lo.Minibatches(data, 8),
    )
    first, second = (task.sample(jr.key(seed)) for seed in (0, 1))
    seen = [task.batch(p, step) for p in (first, second) for step in (0, 1)]
    for values, labels in seen:
        assert values.shape == (8,)
        np.testing.assert_array_equal(values * 10, labels)
        assert set(np.asarray(values)) <= set(data[0])
    assert len({tuple(np.asarray(values)) for values, _ in seen}) == 4
    np.testing.assert_array_equal(task.batch(first, 1)[0], seen[1][0])


def arrays_in(program):
    """Shapes of constants of a program and of those inside it."""
    return [np.shape(constant) for constant in program.consts]


@pytest.mark.parametrize("form", ["arrays", "partial", "module"])
def test_data_are_arguments_of_programs_and_not_copied_per_problem(form):
    data = np.arange(700.0).reshape(7, 100)

    def pick(table, step, key):
        return table[step % 7]

    class Table(eqx.Module):
        rows: Array

        def __call__(self, step):
            return self.rows[step % 7]

    batches = {
        "arrays": data,
        "partial": functools.partial(pick, jnp.asarray(data)),
        "module": Table(jnp.asarray(data)),
    }[form]
    task = lo.FunctionTask(lambda p, row: jnp.sum(p * row), lambda key: jnp.ones(100), batches)
    leaves = [leaf for leaf in jax.tree.leaves(task) if eqx.is_array(leaf)]
    assert [leaf.shape for leaf in leaves] == [(7, 100)]
    problems = lo.sample_problems(task, jr.key(0), 5)
    assert all(leaf.shape[-2:] != (7, 100) for leaf in jax.tree.leaves(problems))

    def run(task, problems):
        losses = jax.vmap(task.loss, (0, 0, None))(problems, problems.initial_parameters, 3)
        return losses.sum()

    dynamic, static = eqx.partition(task, eqx.is_array)
    program = jax.make_jaxpr(lambda d, p: run(eqx.combine(d, static), p))(dynamic, problems)
    assert arrays_in(program) == []
    np.testing.assert_allclose(run(task, problems), 5 * data[3].sum())


def test_tasks_of_the_same_functions_share_a_program():
    compiled = 0

    @eqx.filter_jit
    def first_loss(task, key):
        nonlocal compiled
        compiled += 1
        problem = task.sample(key)
        return task.loss(problem, problem.initial_parameters, 0)

    assert first_loss(counted_task(), jr.key(0)) == first_loss(counted_task(), jr.key(0))
    assert compiled == 1

    def of(power):
        return lo.FunctionTask(lambda p: jnp.sum(jnp.abs(p) ** power), lambda key: 2 * jnp.ones(1))

    found = [float(first_loss(of(power), jr.key(0))) for power in (2, 3, 2)]
    assert found == [4.0, 8.0, 4.0]
    assert compiled == 3


LOOP = """
import jax, jax.numpy as jnp
import lrevopt as lo

found, settings, data = [], {"power": 2}, [3.0]

def make():
    return lo.FunctionTask(
        lambda p: strength * jnp.sum(jnp.abs(p - data[0]) ** settings["power"]),
        lambda key: jnp.zeros(1),
    )

def measure():
    steps = {"descent": lo.GradientDescent(0.01)}
    result = lo.evaluate(steps, make(), problems=1, steps=1, key=jax.random.key(0))
    found.append(float(result.losses[0, 0, 0]))

for strength in (1.0, 10.0):
    measure()
settings["power"] = 3
measure()
data[0] = 1.0
measure()
strength = 1.0
settings["power"] = 2
data[0] = 3.0
measure()
same = make() == make()
"""


def test_names_of_a_module_and_what_changes_in_place_make_another_program():
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(compile(LOOP, "<stdin>", "exec"), names)
    assert names["found"] == [9.0, 90.0, 270.0, 10.0, 9.0]
    assert names["same"]


@pytest.mark.parametrize(
    ("batches", "keyed"),
    [
        (lambda step, key: key, True),
        (lambda step, key=None: key, True),
        (lambda step, noise: noise, True),
        (lambda *both: both[1], True),
        (lambda step, data=2.0: step * data, False),
        (lambda step: step, False),
        (functools.partial(lambda data, step, key: key, 3.0), True),
        (functools.partial(lambda step, data: data, data=3.0), False),
    ],
)
def test_batches_get_a_key_only_where_they_ask_for_one(batches, keyed):
    """`data=data` binds a value in Python: it is not the place of a key."""
    assert Callback(batches).takes_key() == keyed
    task = lo.FunctionTask(lambda p, batch: jnp.sum(p), lambda key: jnp.ones(2), batches)
    problem = task.sample(jr.key(0))
    given = task.batch(problem, 3)
    assert jnp.issubdtype(getattr(given, "dtype", float), jax.dtypes.prng_key) == keyed


def test_functions_are_equal_by_code_and_closure():
    def make(value):
        def inner(x):
            return x + value

        def outer(x, shift=0):
            return inner(x) if x else outer(1) + shift  # closes over itself

        return outer

    assert Static(make(1)) == Static(make(1))
    assert hash(Static(make(1))) == hash(Static(make(1)))
    assert Static(make(1)) != Static(make(2))
    assert Static(make(1)) != Static(make(1.0))
    assert Static(make(0.0)) != Static(make(-0.0))
    array = jnp.ones(2)
    assert Static(make(array)) == Static(make(array))
    assert Static(make(array)) != Static(make(jnp.ones(2)))


MINE = """
import jax.numpy as jnp, jax.random as jr, numpy as np
import lrevopt as lo
WIDTH = 3
def shift(x):
    return x + {shift}
def make_task(rate={rate}):
    def loss(params, batch):
        return jnp.sum((shift(params["w"]) - batch) ** 2) * rate
    data = np.full((2, WIDTH), {value})
    return lo.FunctionTask(loss, lambda key: {{"w": jr.normal(key, (WIDTH,))}}, data)
"""

DESCRIBE = """
import importlib, json, sys
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    sys.modules.pop("mine", None)
    print(json.dumps(importlib.import_module("mine").make_task().description()))
"""


@pytest.mark.long
def test_description_is_the_same_in_another_process(tmp_path):
    """Names and digests, no addresses: what a run's folder is recognised by."""
    changes: dict[str, dict[str, Any]] = {
        "first": {},
        "second": {},
        "shift": {"shift": 2},
        "rate": {"rate": 2.0},
        "value": {"value": 2.0},
    }
    for folder, changed in changes.items():
        (tmp_path / folder).mkdir()
        values = {"shift": 1, "rate": 1.0, "value": 1.0} | changed
        (tmp_path / folder / "mine.py").write_text(MINE.format(**values))

    def described(*folders):
        places = [str(tmp_path / folder) for folder in folders]
        command = [sys.executable, "-c", DESCRIBE, *places]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return dict(zip(folders, map(json.loads, done.stdout.splitlines()), strict=True))

    found = described(*changes)
    first = found["first"]
    assert first == found["second"] == described("first")["first"]
    assert "0x" not in json.dumps(first)
    assert first["loss"]["name"] == "mine.make_task.<locals>.loss"
    assert first["parameters"] == {"w": [3]}
    assert first["batches"]["shapes"] == [[2, 3]]
    assert first["loss"] != found["shift"]["loss"]
    assert first["loss"] != found["rate"]["loss"]
    assert first["init"] == found["shift"]["init"]
    assert first["batches"] != found["value"]["batches"]


def test_digest_of_a_function_without_source_is_that_of_its_code():
    spaces: list[dict[str, Any]] = [{}, {}, {}]
    for space, text in zip(spaces, ("x + 1", "x + 1", "x + 2"), strict=True):
        exec(f"def function(x): return {text}", space)
    first, again, other = (digest(space["function"]) for space in spaces)
    assert first == again
    assert first != other


def test_run_folders_know_their_task(tmp_path):
    """Settings hold the description, and another task's folder is refused."""
    optimizer = lo.GRUOptimizer(2, key=jr.key(0))
    settings = lo.MetaTraining(steps=1, unroll=2, problems=1, selection_problems=1)

    def train(value, **how):
        task = lo.FunctionTask(lambda p, b: jnp.sum((p - b) ** 2), ones, jnp.full((1, 2), value))
        lo.meta_train(
            task, optimizer, settings, key=jr.key(1), directory=tmp_path, progress=False, **how
        )
        return task

    task = train(2.0)
    written = json.loads((tmp_path / "settings.json").read_text())["task"]
    assert written == describe(task)
    assert written["kind"] == "FunctionTask"
    assert written["parameters"] == {"parameters": [2]}
    train(2.0, resume=True)
    with pytest.raises(ValueError, match=r"holds another run \(different: task\)"):
        train(3.0, resume=True)


@pytest.mark.long
def test_every_stage_takes_it():
    """From tuning and training to mechanisms and interventions, on a dictionary of parameters."""
    data = (np.linspace(-1.0, 1.0, 8)[:, None], np.linspace(-1.0, 1.0, 8) ** 2)

    def init(key):
        first, second = jr.split(key)
        hidden = {"kernel": jr.normal(first, (1, 3)), "bias": jnp.zeros(3)}
        return {"hidden": hidden, "out": {"kernel": jr.normal(second, (3,))}}

    def loss(params, batch):
        x, y = batch
        hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        return jnp.mean((hidden @ params["out"]["kernel"] - y) ** 2)

    task = lo.FunctionTask(loss, init, lo.Minibatches(data, 4))
    key = jr.key(0)
    tuning = lo.Tuning(settings=4, problems=2, steps=4, grid=4, finalists=2, fresh_problems=2)
    tuned = lo.tune(task, lo.Momentum, tuning, key=key).optimizer(lo.Momentum)
    settings = lo.MetaTraining(steps=2, unroll=4, problems=2, selection_problems=2)
    run = lo.meta_train(task, lo.GRUOptimizer(3, key=key), settings, key=key, progress=False)
    optimizers = {"learned": run.optimizer, "tuned": tuned}
    # `intervene` keeps the second of two keys for what `evaluate` draws.
    found = lo.evaluate(optimizers, task, problems=3, steps=10, key=jr.split(key)[1])
    assert np.isfinite(found.losses).all()
    assert isinstance(lo.analyze(tuned, task, key=key, problems=3, steps=10), lo.Mechanisms)
    card = lo.measure_scorecard(tuned, task, key=key, problems=3, steps=10)
    assert isinstance(card, lo.Scorecard)
    name, intervention = next(iter(lo.INTERVENTIONS.items()))
    removed = lo.intervene(
        tuned, task, key=key, problems=3, steps=10, interventions={name: intervention}
    )
    np.testing.assert_allclose(removed.original, found.meta_objectives()[1], rtol=1e-12)
    types = measure_parameter_types(tuned, task, key=key, problems=3, steps=10)
    assert types.groups == ("hidden.bias", "hidden.kernel", "out.kernel")
    # Momentum has one learning rate for all, in every state.
    np.testing.assert_allclose(types.bias_slowness, 1.0, rtol=1e-12)


def test_metrics_and_title():
    task = lo.FunctionTask(
        nested_loss,
        nested,
        metrics=lambda params: {"scale": params["scales"][1][0], "one": 1},
        title="my task",
    )
    found = lo.evaluate({"none": lo.GradientDescent(0.0)}, task, problems=2, steps=2, key=jr.key(0))
    np.testing.assert_array_equal(found.metrics["scale"], np.ones((1, 2)))
    assert task.title == "my task"
    assert lo.FunctionTask(nested_loss, nested).title == "own task"
    titles = [lo.LinearRegression().title, lo.Rosenbrock().title, ByHand().title]
    assert titles == ["Linear regression", "Rosenbrock", "By hand"]


def ones(key):
    return jnp.ones(2)


REFUSED = {
    "loss no scalar": (
        lambda: lo.FunctionTask(lambda p: p, ones),
        "`loss` must return a floating scalar, got f64[2].",
    ),
    "loss no float": (
        lambda: lo.FunctionTask(lambda p: jnp.argmax(p), ones),
        "`loss` must return a floating scalar, got i64[].",
    ),
    "loss nothing": (
        lambda: lo.FunctionTask(lambda p: None, ones),
        "`loss` must return a floating scalar, got None.",
    ),
    "loss no function": (
        lambda: lo.FunctionTask(3.0, ones),  # type: ignore[arg-type]
        "`loss` must be a function, got 3.0.",
    ),
    "loss wants a batch": (
        lambda: lo.FunctionTask(lambda p, b: 0.0, ones),
        "`loss` must be callable as loss(params) without `batches`, got <lambda>(p, b).",
    ),
    "loss wants no batch": (
        lambda: lo.FunctionTask(lambda p: 0.0, ones, jnp.ones((2, 3))),
        "`loss` must be callable as loss(params, batch) with `batches`, got <lambda>(p).",
    ),
    "init wants nothing": (
        lambda: lo.FunctionTask(jnp.sum, lambda: jnp.ones(2)),
        "`init` must be callable as init(key), got <lambda>().",
    ),
    "no floats": (
        lambda: lo.FunctionTask(lambda p: 0.0, lambda key: {"n": jnp.arange(3)}),
        "`init` must return at least one floating-point array, got {'n': i64[3]}.",
    ),
    "empty tree": (
        lambda: lo.FunctionTask(lambda p: 0.0, lambda key: {}),
        "`init` must return a tree with arrays, got {}.",
    ),
    "empty arrays": (
        lambda: lo.FunctionTask(lambda p: 0.0, lambda key: jnp.zeros((0, 2))),
        "`init` must return at least one floating-point array, got f64[0,2].",
    ),
    "complex": (
        lambda: lo.FunctionTask(lambda p: 0.0, lambda key: {"w": jnp.ones(2, complex)}),
        "`init` must return real parameters, got complex128 for w: use two real arrays.",
    ),
    "unequal batches": (
        lambda: lo.FunctionTask(lambda p, b: 0.0, ones, (jnp.ones((2, 3)), jnp.ones((3, 2)))),
        "`batches` must have one first axis, which counts steps, of at least 1 in all arrays, got "
        "shapes (2, 3), (3, 2).",
    ),
    "scalar batches": (
        lambda: lo.FunctionTask(lambda p, b: 0.0, ones, jnp.ones(())),
        "`batches` must have one first axis, which counts steps, of at least 1 in all arrays, got "
        "shapes ().",
    ),
    "batches of words": (
        lambda: lo.FunctionTask(lambda p, b: 0.0, ones, {"a": "b"}),
        "`batches` must be a tree of arrays whose first axis counts steps, got {'a': 'b'}.",
    ),
    "list of batches": (
        lambda: lo.FunctionTask(lambda p, b: 0.0, ones, [jnp.ones(2)] * 3),
        "`batches` must be one tree of arrays whose first axis counts steps, got a list of 3: "
        "stack it with jax.tree.map(lambda *b: jnp.stack(b), *batches).",
    ),
    "batches of three": (
        lambda: lo.FunctionTask(lambda p, b: 0.0, ones, lambda a, b, c: a),
        "`batches` must be callable as batches(step) or batches(step, key), got <lambda>(a, b, c).",
    ),
    "metrics": (
        lambda: lo.FunctionTask(jnp.sum, ones, metrics=lambda p: p),
        "`metrics` must return scalars by name, got f64[2].",
    ),
    "large minibatch": (
        lambda: lo.Minibatches(jnp.ones((3, 2)), 4),
        "`size` must be at most 3, got 4.",
    ),
    "unequal data": (
        lambda: lo.Minibatches((jnp.ones(3), jnp.ones(2)), 1),
        "`data` must have one first axis, which counts examples, of at least 1 in all arrays, got "
        "shapes (3,), (2,).",
    ),
}


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_refusals_are_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make()


@pytest.mark.usefixtures("as_user")
def test_tracers_are_refused():
    def inside(scale):
        task = lo.FunctionTask(lambda p: scale * jnp.sum(p), ones)
        return task.loss(task.sample(jr.key(0)), jnp.ones(2), 0)

    with pytest.raises(ValueError, match="`loss` must not close over an array that is being trac"):
        jax.grad(inside)(1.0)
    kept = []

    @jax.jit
    def keep(x):
        kept.append(x)
        return x

    keep(jnp.ones(2))
    with pytest.raises(ValueError, match="`loss` must not"):
        lo.FunctionTask(lambda p: jnp.sum(p * kept[0]), ones)
