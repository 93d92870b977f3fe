"""Which functions share a compiled program: those that refer to the same contents."""

import threading
import types
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import lrevopt as lo
from lrevopt.optimizers.optax.recipe import make_recipe
from lrevopt.storage.sameness import Static, identity

LOOP = """
import jax.numpy as jnp, numpy as np, types
import lrevopt as lo

class Settings:
    strength = 0.0

class Callable:
    def __call__(self, p):
        return strength * jnp.sum(p**2)

config, table, settings = {"inner": [0.0]}, np.zeros(()), Settings()
module = types.ModuleType("mine")

def start(key):
    return jnp.ones(2)

def helper(p):
    return strength * jnp.sum(p**2)

def closing(table):
    return lambda p: table * jnp.sum(p**2)

def closing_over_a_function(read):
    return lambda p: read(0) * jnp.sum(p**2)

losses = {
    "global": lambda p: strength * jnp.sum(p**2),
    "of a helper": lambda p: helper(p),
    "dictionary": lambda p: config["inner"][0] * jnp.sum(p**2),
    "array": lambda p: table * jnp.sum(p**2),
    "closed-over array": closing(table),
    "field": lambda p: settings.strength * jnp.sum(p**2),
    "module": lambda p: module.strength * jnp.sum(p**2),
    "method": Callable(),
    "built-in method": closing_over_a_function(config["inner"].__getitem__),
}
found = []
for strength in (1.0, 2.0, 1.0):
    config["inner"][0] = table[...] = settings.strength = module.strength = strength
    found.append(first_loss(lo.FunctionTask(losses[form], start)))
"""


def sharing():
    """A compiled first loss, and a list that gets an entry whenever it is compiled."""
    compiled: list[Any] = []

    def first_loss(task):
        compiled.append(task)
        problem = task.sample(jr.key(0))
        return task.loss(problem, problem.initial_parameters, 0)

    return jax.jit(first_loss), compiled


@pytest.mark.parametrize(
    "form",
    ["global", "of a helper", "dictionary", "array", "closed-over array", "field", "module",
     "method", "built-in method"],
)  # fmt: skip
def test_a_loop_at_the_top_of_a_script_has_a_program_for_each_content(form):
    first_loss, compiled = sharing()
    space = {"__name__": "script", "first_loss": first_loss, "form": form}
    exec(LOOP, space)
    assert np.allclose(space["found"], [2.0, 4.0, 2.0])
    assert len(compiled) == 2


def task_of(holder):
    return lo.FunctionTask(lambda p: holder["strength"] * jnp.sum(p**2), lambda key: jnp.ones(2))


def test_a_task_that_changed_before_its_first_use_lends_its_program_to_no_other():
    first_loss, compiled = sharing()
    holder = {"strength": 1.0}
    early = task_of(holder)
    holder["strength"] = 2.0
    assert first_loss(early) == 4.0
    holder["strength"] = 1.0
    assert first_loss(task_of(holder)) == 2.0
    assert first_loss(early) == 4.0  # a program that is compiled stays, as with `jax.jit`
    assert first_loss(task_of({"strength": 1.0})) == 2.0
    assert len(compiled) == 2


def test_contents_that_cannot_be_read_are_equal_to_nothing_else():
    def closing(over):
        return lambda p: jnp.sum(p) if over else 0.0

    class Stubborn:
        def __getattribute__(self, name):
            raise RuntimeError(name)

    for value in (threading.Lock(), (x for x in [1.0]), Stubborn()):
        one = Static(closing(value))
        assert one == one
        assert one != Static(closing(value))
    generator = np.random.default_rng(0)
    first = identity(generator)
    assert first == identity(generator) == identity(np.random.default_rng(0))
    generator.random()
    assert first != identity(generator)


def test_equal_contents_in_other_objects_are_the_same():
    for make in (
        lambda: np.arange(3), lambda: {"a": [1, (2.0, "x")]}, lambda: {1, 2},
        lambda: np.array([1, "x"], object), lambda: types.SimpleNamespace(a=1), lambda: None,
    ):  # fmt: skip
        assert identity(make()) == identity(make())
        assert hash(identity(make())) == hash(identity(make()))
    values = [1, 1.0, True, "1", b"1", 0.0, -0.0, None, (1,), [1], {"a": 1}, {"a": 1.0}, {1},
              np.zeros(1), np.zeros((1, 1)), np.zeros(1, np.float32), np.float64(0),
              np.array([1], object), np.array([2], object), range(1)]  # fmt: skip
    assert len({identity(value) for value in values}) == len(values)


def test_optimizers_of_one_factory_share_a_program_only_for_equal_contents():
    holder = {"factor": 1.0}

    def factory(learning_rate):
        return optax.sgd(learning_rate * holder["factor"])

    def recipe():
        return make_recipe(factory, {"learning_rate": jnp.array(0.5)})[0]

    one = recipe()
    assert one == recipe()
    holder["factor"] = 2.0
    other = recipe()
    assert one != other == recipe()
    holder["factor"] = 3.0
    other.build([0.5])  # as when a program is traced
    holder["factor"] = 2.0
    assert other == other != recipe()
