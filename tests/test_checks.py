"""Refusals: one sentence that names the argument, the value, and what would be right."""

import dataclasses
import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import checks
from lrevopt.runs.experiment import Learned
from lrevopt.studies.distillation.training import BoxTraining
from lrevopt.tuning.settings import SearchRange

pytestmark = pytest.mark.usefixtures("as_user")


@pytest.mark.parametrize("value", [1, 7, np.int64(3), jnp.asarray(2)])
def test_positive_integers_come_back_as_python_integers(value):
    number = checks.positive_integer("steps", value)
    assert number == value
    assert type(number) is int


@pytest.mark.parametrize("value", [0, -3, 1.5, 2.0, True, "4", None, float("nan")])
def test_anything_else_is_no_positive_integer(value):
    with pytest.raises(
        ValueError, match=r"`steps` must be an integer of at least 1, got "
    ) as error:
        checks.positive_integer("steps", value)
    assert repr(value) in str(error.value)


def test_finite_returns_what_it_accepts_and_excludes_its_ends():
    assert checks.finite("rate", 0.5, above=0.0, below=1.0) == 0.5
    assert checks.finite("rate", np.float64(2.0)) == 2.0
    for value in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match=r"`rate` must be a finite number above 0 and below 1"):
            checks.finite("rate", value, above=0.0, below=1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "much", None])
def test_finite_refuses_what_is_not_a_finite_number(value):
    with pytest.raises(ValueError, match=r"`rate` must be a finite number, got "):
        checks.finite("rate", value)


def test_leaves_are_checked_entry_by_entry_and_tracers_pass():
    checks.finite_leaves("rates", jnp.array([0.0, 1.0]), minimum=0.0)
    with pytest.raises(
        ValueError, match=r"`rates` must be finite and at least 0, got \[0.0, -1.0\]"
    ):
        checks.finite_leaves("rates", jnp.array([0.0, -1.0]), minimum=0.0)
    with pytest.raises(ValueError, match=r"`rates` must be finite, got nan"):
        checks.finite_leaves("rates", jnp.array(jnp.nan))

    def inside(value):
        checks.finite_leaves("rates", value, minimum=0.0)
        return value

    assert jax.jit(inside)(-1.0) == -1.0


SETTINGS = [
    (lo.MetaTraining, {"steps": 7, "warm_up": 2, "learning_rate": 0.25, "rollback_ratio": 3.0}),
    (lo.Tuning, {"settings": 9, "steps": 30}),
    (SearchRange, {"low": 0.25, "high": 2.0}),
    (Learned, {"units": 3, "input_scale": 0.5}),
    (BoxTraining, {"starts": 2, "tried": 1}),
]


@pytest.mark.parametrize(("kind", "given"), SETTINGS, ids=[kind.__name__ for kind, _ in SETTINGS])
@pytest.mark.parametrize("convert", [np.asarray, np.float32, jnp.asarray])
def test_settings_have_pythons_numbers(kind, given, convert):
    """Others cannot be written beside a run; of NumPy's integers a warm-up was refused."""
    numbers = {
        name: convert(value) if isinstance(value, float) or convert is not np.float32
        else np.int64(value)
        for name, value in given.items()
    }  # fmt: skip
    settings, plain = kind(**numbers), kind(**given)
    assert settings == plain
    assert json.dumps(dataclasses.asdict(settings)) == json.dumps(dataclasses.asdict(plain))


def test_ranges_and_rungs_may_be_arrays():
    rates, rungs = np.array([0.25, 2.0], np.float32), np.array([[20, 500], [60, 200]])
    given: Any = {"ranges": {"learning_rate": rates, "momentum": (0, np.float64(0.5))}}
    settings = lo.Tuning(**given, rungs=cast(Any, rungs))
    assert settings.ranges == {"learning_rate": (0.25, 2.0), "momentum": (0, 0.5)}
    assert settings.rungs == ((20, 500), (60, 200))
    json.dumps(dataclasses.asdict(settings))
    given = {"ranges": {"momentum": np.array([0.0, 2.0])}}
    with pytest.raises(ValueError, match=r"`ranges\['momentum'\]` must lie in \[0, 1\), got \(0"):
        lo.Tuning(**given)


def test_pairs_must_increase():
    assert checks.increasing_pair("range", [-3, 0]) == (-3.0, 0.0)


@pytest.mark.parametrize(
    "value", [(0, -3), (1, 1), (0, float("inf")), (0, 1, 2), (), 5, None, ("a", "b")]
)
def test_anything_else_is_no_pair(value):
    with pytest.raises(ValueError, match=r"`range` must be two finite numbers .* low < high"):
        checks.increasing_pair("range", value)


def test_choices_are_listed():
    assert checks.one_of("kind", "mean", ("mean", "final")) == "mean"
    with pytest.raises(ValueError, match=r"`kind` must be one of mean, final, got 'median'\."):
        checks.one_of("kind", "median", ("mean", "final"))
