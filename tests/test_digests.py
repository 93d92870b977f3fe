"""Digests of what values are made of: what differs in any value has another digest."""

import functools
import json
import threading
import types
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.storage import describe, digest_of_contents
from lrevopt.tasks.callables import digest
from lrevopt.tasks.named import differences, task_of

RESULTS = Path(__file__).parent.parent / "results"


class Scaled:
    """A loss that is an ordinary object."""

    def __init__(self, factor: Any):
        self.factor = factor

    def __call__(self, params):
        return self.factor * jnp.sum(params**2)

    @functools.cached_property
    def doubled(self) -> Any:
        return 2 * self.factor


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: Any):
        self.factor = factor

    def __call__(self, params):
        return self.factor * jnp.sum(params**2)


def scaled(factor, params):
    return factor * jnp.sum(params**2)


def closing(over: Any):
    return lambda params: over(params)


def closing_over_a_value(value: Any):
    return lambda params: value.factor * jnp.sum(params**2)


@pytest.mark.parametrize(
    "make",
    [
        Scaled,
        Slotted,
        lambda factor: closing(Scaled(factor)),
        lambda factor: closing(functools.partial(scaled, factor)),
        lambda factor: closing(functools.partial(lambda p, f: scaled(f, p), f=factor)),
        lambda factor: Scaled(factor).__call__,
        lambda factor: closing_over_a_value(types.SimpleNamespace(factor=factor)),
        lambda factor: closing_over_a_value(Scaled({"inner": [factor]}["inner"][0])),
    ],
)
def test_losses_of_other_constants_are_other_tasks(make):
    def described(factor):
        return describe(lo.FunctionTask(make(factor), lambda key: jnp.ones(2)))

    assert described(1.0) == described(1.0)
    assert described(1.0) != described(100.0)


def test_objects_that_hold_themselves_have_a_digest():
    def looped(factor):
        found = Scaled(factor)
        found.lock, found.self = threading.Lock(), [found]  # type: ignore[attr-defined]
        return digest(found)

    assert looped(1.0) == looped(1.0) != looped(2.0)


def test_cached_properties_do_not_count():
    one, other = Scaled(1.0), Scaled(1.0)
    assert one.doubled == 2.0
    assert digest(one) == digest(other)


def test_functions_of_other_packages_count_by_what_they_were_made_with():
    assert digest_of_contents(optax.sgd(0.1)) == digest_of_contents(optax.sgd(0.1))
    values = [
        optax.sgd(0.1), optax.sgd(0.5), optax.sgd(0.1, momentum=0.9), optax.adam(0.1),
        optax.adam(0.1, eps=1e-4), jax.nn.initializers.normal(0.1), jax.nn.initializers.normal(1.0),
        jnp.add, jnp.multiply, range(3), range(4), np.float32(1.0), np.float32(2.0), 1.0,
    ]  # fmt: skip
    assert len({digest_of_contents(value) for value in values}) == len(values)


class Mine(lo.AbstractTask):
    """A task with data, and with static values that JSON does not hold as they are."""

    data: jax.Array
    widths: list[int] = eqx.field(static=True)
    rates: dict[str, Any] = eqx.field(static=True)

    def __hash__(self) -> int:
        return hash(tuple(self.widths))

    def sample(self, key):
        return lo.LinearRegression(2).sample(key)

    def loss(self, problem, parameters, step):
        return jnp.sum((parameters - self.data) ** 2)


def mine(value: float = 0.0, width: int = 2, rate: float = 1.0) -> Mine:
    return Mine(jnp.full(2, value), [1, width], {"rate": rate})


def test_tasks_of_other_values_are_described_otherwise():
    assert describe(mine()) == describe(mine())
    others = [mine(value=1.0), mine(width=9), mine(rate=2.0)]
    for other in others:
        assert differences(other, describe(mine())) == ["digest"]
        assert differences(mine(), describe(other)) == ["digest"]
    assert len({describe(one)["digest"] for one in [mine(), *others]}) == 4


def test_runs_on_other_data_are_refused_and_older_folders_are_not(tmp_path):
    settings = lo.MetaTraining(steps=1, unroll=2, problems=1, selection_problems=1)
    optimizer = lo.GRUOptimizer(2, key=jr.key(0))

    def train(task, **how):
        lo.meta_train(
            task, optimizer, settings, key=jr.key(1), directory=tmp_path, progress=False, **how
        )

    train(mine())
    with pytest.raises(ValueError, match=r"holds another run \(different: task\)"):
        train(mine(value=1.0), resume=True)
    recorded = storage.load_settings(tmp_path)
    del recorded["task"]["digest"]
    storage.save_json(tmp_path / "settings.json", recorded)
    train(mine(), resume=True)
    assert differences(mine(), recorded["task"]) == []


def test_shipped_tasks_are_described_as_in_their_results():
    for name in ("linear_regression", "rosenbrock", "two_moons"):
        recorded = json.loads((RESULTS / name / "settings.json").read_text())
        task = task_of(recorded, RESULTS / name)
        assert json.loads(json.dumps(describe(task))) == recorded["task"]
