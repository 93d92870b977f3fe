"""Refusals: one sentence that names the argument, the value, and what would be right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrevopt import checks

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
