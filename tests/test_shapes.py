"""Shapes found once for one structure."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrevopt import shapes
from lrevopt.shapes import shapes_of

CALLS: list[str] = []


class Scaled(eqx.Module):
    factor: jax.Array
    power: int = eqx.field(static=True)


def raised(scaled, value):
    CALLS.append("traced")
    return scaled.factor * value**scaled.power


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(shapes, "_FOUND", type(shapes._FOUND)())
    CALLS.clear()


def test_values_do_not_matter_but_shapes_types_and_settings_do():
    one, three = jnp.ones(()), jnp.ones(3)
    for scaled, value, count in (
        (Scaled(one, 2), three, 1), (Scaled(2 * one, 2), 5 * three, 1), (Scaled(one, 3), three, 2),
        (Scaled(one, 2), jnp.ones(4), 3), (Scaled(one, 2), 1.5, 4), (Scaled(one, 2), 1.5, 4),
        (Scaled(one, 2), 2.5, 5),
    ):  # fmt: skip
        found = shapes_of(raised, scaled, value)
        assert len(CALLS) == count
        assert found.shape == np.shape(value)
    with jax.numpy_dtype_promotion("standard"):
        shapes_of(raised, Scaled(one, 2), three)
    assert len(CALLS) == 6


def test_what_has_no_hash_is_traced_each_time():
    for _ in range(2):
        found = shapes_of(raised, Scaled(jnp.ones(()), 2), np.ones(3))
        assert found.shape == (3,)
    assert len(CALLS) == 2


def test_an_error_is_not_remembered_and_tracers_pass():
    for _ in range(2):
        with pytest.raises(TypeError):
            shapes_of(raised, Scaled(jnp.ones(2), 2), jnp.ones(3))
    assert jax.jit(lambda x: jnp.ones(shapes_of(raised, Scaled(x, 2), x).shape))(jnp.ones(2)).size


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(shapes, "MOST", 2)
    for size in (1, 2, 3, 1):
        shapes_of(raised, Scaled(jnp.ones(()), 2), jnp.ones(size))
    assert len(CALLS) == 4
    assert len(shapes._FOUND) == 2
