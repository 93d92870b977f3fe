"""Enclosures of single operations: they hold every value, or are refused."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array

from lrevopt.certificates.enclosures import UnknownPrimitiveError
from lrevopt.certificates.programs import enclose, image_of_box


def to(dtype: str, function: Callable[[Array], Array] = lambda h: h) -> Callable[[Array], Array]:
    """The function as numbers of a type, without the conventions of NumPy."""
    return lambda h: lax.convert_element_type(function(h), dtype).astype(float)


STEPS: dict[str, Callable[[Array], Array]] = {
    "halves away from zero": lambda h: lax.round(h, lax.RoundingMethod.AWAY_FROM_ZERO),
    "halves to even": lambda h: lax.round(h, lax.RoundingMethod.TO_NEAREST_EVEN),
    "jnp.round": jnp.round,
    "whole": to("int64"),
    "whole, small": to("int8"),
    "whole, unsigned": to("uint8"),
    "whole, then small": to("int8", lambda h: h.astype("int64")),
    "whole, then unsigned": to("uint32", lambda h: h.astype("int64")),
    "whole, then a truth value": to("bool", lambda h: h.astype("int64")),
    "whole, then wide": to("int64", lambda h: h.astype("int16")),
    "a truth value": to("bool"),
    "a truth value, then whole": to("int8", lambda h: h > 1),
}
"""Functions that are constant but for jumps."""

VALUES = np.array([-300.0, -2.5, -1.5, -1.0, -0.5, -0.3, 0.0, 0.49999999999999994, 0.5, 1.5, 2.5,
                   40.0, 300.0, 1e12])  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_enclosed(name):
    function = STEPS[name]
    program = jax.make_jaxpr(function)(jnp.zeros(len(VALUES)))
    exact = np.asarray(jax.jit(function)(jnp.asarray(VALUES)))
    for wide in (0.0, 0.6):
        found = image_of_box(program, VALUES - wide, VALUES + wide)
        assert np.all((found.low <= exact) & (exact <= found.high))
    # Around no jump the value is certain, and the slope 0.
    calm = np.full(len(VALUES), 2.2)
    value, slopes = enclose(program, calm, np.ones(len(calm), bool), np.eye(len(calm)), 0.1)
    np.testing.assert_array_equal(value.low, function(jnp.asarray(calm)))
    np.testing.assert_array_equal(value.high, value.low)
    np.testing.assert_array_equal(slopes.magnitude(), 0)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda h: lax.div(h.astype(int), 2 + h.astype(int)).astype(float), "`div` of integers"),
        (lambda h: h.astype("float32").astype(float), "`convert_element_type` to float32"),
        (lambda h: h.astype(complex).real, "`convert_element_type` to complex128"),
    ],
    ids=["whole quotients", "single precision", "complex"],
)
def test_what_has_no_bounds_is_refused(function, words):
    program = jax.make_jaxpr(function)(jnp.zeros(1))
    with pytest.raises(UnknownPrimitiveError, match=words):
        image_of_box(program, np.array([1.0]), np.array([9.0]))
