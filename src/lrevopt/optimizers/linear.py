"""Linear optimizers: expansions of others at a fixed point (paper, section 5.1, appendix C)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from lrevopt.checks import finite_leaves, numbers, real_array
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer

AnyArray = Array | np.ndarray
"""Arrays of JAX, or of saved records."""


def _finite_array(name: str, value: Any) -> Float[Array, "..."]:
    with np.errstate(over="ignore"):  # refused below
        array = as_float(real_array(name, value))
    finite_leaves(name, array)
    return array


class LinearOptimizer(AbstractOptimizer):
    """First-order expansion of an optimizer around `(fixed_point, gradient)` (equation 4).

        F(h, g) = next_state + recurrent (h - fixed_point) + inputs (g - gradient)

    `next_state` is F at the point of expansion, by default `fixed_point` itself, as at an exact
    fixed point. The initial state is `start`, by default the point of expansion.
    Raises `ValueError` for arrays whose sizes differ or whose entries are not finite numbers.
    """

    fixed_point: Float[Array, " state"]
    recurrent: Float[Array, "state state"]
    inputs: Float[Array, " state"]
    readout: Float[Array, " state"]
    gradient: Float[Array, ""]
    next_state: Float[Array, " state"]
    start: Float[Array, " state"]

    def __init__(
        self,
        fixed_point: Float[AnyArray, " state"],
        recurrent: Float[AnyArray, "state state"],
        inputs: Float[AnyArray, " state"],
        readout: Float[AnyArray, " state"],
        *,
        gradient: float | Float[AnyArray, ""] = 0.0,
        next_state: Float[AnyArray, " state"] | None = None,
        start: Float[AnyArray, " state"] | None = None,
    ):
        self.fixed_point = _finite_array("fixed_point", fixed_point)
        self.recurrent = _finite_array("recurrent", recurrent)
        self.inputs = _finite_array("inputs", inputs)
        self.readout = _finite_array("readout", readout)
        self.gradient = _finite_array("gradient", gradient)
        self.next_state = self.start = self.fixed_point
        if next_state is not None:
            self.next_state = _finite_array("next_state", next_state)
        if start is not None:
            self.start = _finite_array("start", start)

    def __check_init__(self) -> None:
        if not self.fixed_point.size:
            raise ValueError(
                f"`fixed_point` must have at least one entry, got shape {self.fixed_point.shape}."
            )
        size = self.fixed_point.size
        vectors = ("fixed_point", "inputs", "readout", "next_state", "start")
        wanted = {**dict.fromkeys(vectors, (size,)), "recurrent": (size, size), "gradient": ()}
        for name, expected in wanted.items():
            shape = getattr(self, name).shape
            if shape != expected:
                raise ValueError(f"`{name}` must have shape {expected}, got {shape}.")

    def initial_state(self) -> Float[Array, " state"]:
        return self.start

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        moved = self.recurrent @ (state - self.fixed_point)
        return self.next_state + moved + self.inputs * (gradient - self.gradient)


class ModeOptimizer(AbstractOptimizer):
    """A sum of eigenmodes of a linear optimizer (paper, equation 6).

        v_m' = eigenvalues_m v_m + g        x' = x - Re sum_m learning_rates_m v_m'

    A real mode is momentum. A complex mode oscillates; with its conjugate beside it (as
    `mode_optimizer` passes them) the sum is real. State: real parts of v, then imaginary parts.
    Raises `ValueError` unless both arguments are lists of one length, of numbers that are finite in
    the default floating type.
    """

    eigenvalue_real: Float[Array, " mode"]
    eigenvalue_imaginary: Float[Array, " mode"]
    learning_rate_real: Float[Array, " mode"]
    learning_rate_imaginary: Float[Array, " mode"]

    def __init__(
        self,
        eigenvalues: Complex[AnyArray, " mode"] | Float[AnyArray, " mode"],
        learning_rates: Complex[AnyArray, " mode"] | Float[AnyArray, " mode"],
    ):
        with np.errstate(over="ignore"):  # refused below
            eigenvalues = jnp.atleast_1d(jnp.asarray(numbers("eigenvalues", eigenvalues)))
            learning_rates = jnp.atleast_1d(jnp.asarray(numbers("learning_rates", learning_rates)))
        if (
            eigenvalues.ndim != 1
            or not eigenvalues.size
            or eigenvalues.shape != learning_rates.shape
        ):
            raise ValueError(
                f"`eigenvalues` and `learning_rates` must be lists of one length, got shapes "
                f"{eigenvalues.shape} and {learning_rates.shape}."
            )
        # Real and imaginary parts are separate leaves: meta-training differentiates real leaves.
        self.eigenvalue_real = as_float(eigenvalues.real)
        self.eigenvalue_imaginary = as_float(eigenvalues.imag)
        self.learning_rate_real = as_float(learning_rates.real)
        self.learning_rate_imaginary = as_float(learning_rates.imag)
        for name, parts in (
            ("eigenvalues", (self.eigenvalue_real, self.eigenvalue_imaginary)),
            ("learning_rates", (self.learning_rate_real, self.learning_rate_imaginary)),
        ):
            for part in parts:
                finite_leaves(name, part)

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.concatenate([-self.learning_rate_real, self.learning_rate_imaginary])

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.zeros(2 * self.eigenvalue_real.size, self.eigenvalue_real.dtype)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        a, b = self.eigenvalue_real, self.eigenvalue_imaginary
        real, imaginary = jnp.split(state, 2)
        return jnp.concatenate([a * real - b * imaginary + gradient, b * real + a * imaginary])
