"""Hand-written optimizers in state-space form.

Where a rule adds something other than a multiple of state coordinates to x, the step direction
is itself the last coordinate of the state, so that the readout is a constant vector. Libraries
differ on details that change results. The forms here are optax's:

- momentum accumulates plain gradients, `v' = momentum v + g`, and the rate multiplies `v'`;
- RMSProp keeps epsilon inside the root, starts at 0 and does not correct its bias;
- Adam corrects the bias and keeps epsilon outside the root.

Every class raises `ValueError` for hyperparameters that are not finite numbers of the default
floating type (in single precision 1e-50 would be 0, and 1e40 infinite), for a negative
learning rate or threshold, for an epsilon of 0 or less, and for a decay from which second moments
become negative or bias corrections divide by 0.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from lrevopt.checks import finite_leaves, real_array
from lrevopt.optimizers.interface import AbstractOptimizer

Values = ArrayLike | Sequence[float]

TINY = 1e-300
"""Smallest epsilon that is accepted."""


def as_float(value: Values) -> Float[Array, "..."]:
    """An array of the default floating dtype (float64 where x64 is enabled)."""
    return jnp.asarray(value, jnp.result_type(float))


def hyperparameter(
    name: str,
    value: ArrayLike,
    minimum: float = -math.inf,
    *,
    at_most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    may_vanish: bool = False,
) -> Float[Array, ""]:
    """`value` as a scalar array; `ValueError` unless it is finite and within the bounds.

    `minimum` and `at_most` may be met, `above` and `below` may not. What the default floating type
    would take for infinity or, unless it `may_vanish`, for 0 is refused, too.
    """
    given = real_array(name, value)
    with np.errstate(over="ignore"):  # refused below
        leaf = as_float(given)
    if leaf.ndim:
        raise ValueError(f"`{name}` must be a scalar, got shape {leaf.shape}.")
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    number, exact, info = float(leaf), float(given), jnp.finfo(leaf.dtype)
    vanishes = 0 < abs(exact) < float(info.tiny) and not may_vanish
    if np.isfinite(exact) and (abs(exact) > float(info.max) or vanishes):
        raise ValueError(
            f"`{name}` must be a number that {leaf.dtype} holds, 0 or from {info.tiny:.2g} to "
            f"{info.max:.2g} in size, got {exact:g}."
        )
    finite_leaves(name, leaf, minimum=minimum)
    bounds = {
        f"at most {at_most:g}": number <= at_most,
        f"above {above:g}": number > above,
        f"below {below:g}": number < below,
    }
    for bound, met in bounds.items():
        if not met:
            raise ValueError(f"`{name}` must be {bound}, got {number:g}.")
    return leaf


class GradientDescent(AbstractOptimizer):
    """`x' = x - learning_rate g`. The state is the last gradient (paper, Figure 2a)."""

    learning_rate: Float[Array, ""]

    def __init__(self, learning_rate: ArrayLike):
        self.learning_rate = hyperparameter("learning_rate", learning_rate, minimum=0.0)

    @property
    def readout(self) -> Float[Array, "1"]:
        return -self.learning_rate[None]

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1, self.learning_rate.dtype)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return gradient[None]


class ClippedGradientDescent(AbstractOptimizer):
    """`x' = x - learning_rate clip(g, -threshold, threshold)` (paper, Figure 2b)."""

    learning_rate: Float[Array, ""]
    threshold: Float[Array, ""]

    def __init__(self, learning_rate: ArrayLike, threshold: ArrayLike):
        self.learning_rate = hyperparameter("learning_rate", learning_rate, minimum=0.0)
        self.threshold = hyperparameter("threshold", threshold, minimum=0.0)

    @property
    def readout(self) -> Float[Array, "1"]:
        return -self.learning_rate[None]

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1, self.learning_rate.dtype)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return jnp.clip(gradient, -self.threshold, self.threshold)[None]


class Momentum(AbstractOptimizer):
    """Heavy ball, `v' = momentum v + g` and `x' = x - learning_rate v'` (paper, Figure 2c)."""

    learning_rate: Float[Array, ""]
    momentum: Float[Array, ""]

    def __init__(self, learning_rate: ArrayLike, momentum: ArrayLike):
        self.learning_rate = hyperparameter("learning_rate", learning_rate, minimum=0.0)
        self.momentum = hyperparameter("momentum", momentum)

    @property
    def readout(self) -> Float[Array, "1"]:
        return -self.learning_rate[None]

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.zeros(1, self.learning_rate.dtype)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return self.momentum * state + gradient


class Nesterov(AbstractOptimizer):
    """Nesterov momentum, `v' = momentum v + g` and `x' = x - learning_rate (g + momentum v')`.

    State: `v`, then the step direction `g + momentum v'`.
    """

    learning_rate: Float[Array, ""]
    momentum: Float[Array, ""]

    def __init__(self, learning_rate: ArrayLike, momentum: ArrayLike):
        self.learning_rate = hyperparameter("learning_rate", learning_rate, minimum=0.0)
        self.momentum = hyperparameter("momentum", momentum)

    @property
    def readout(self) -> Float[Array, "2"]:
        return jnp.stack([jnp.zeros_like(self.learning_rate), -self.learning_rate])

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.zeros(2, self.learning_rate.dtype)

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        velocity = self.momentum * state[0] + gradient
        return jnp.stack([velocity, gradient + self.momentum * velocity])


class AggregatedMomentum(AbstractOptimizer):
    """Velocities with several timescales, `v_j' = momenta_j v_j + g` (Lucas et al. 2018).

    `x' = x - sum_j learning_rates_j v_j'`. Lucas et al. take the mean over velocities; here a
    factor 1/n belongs into the rates. Raises `ValueError` unless both are lists of one length.
    """

    learning_rates: Float[Array, " state"]
    momenta: Float[Array, " state"]

    def __init__(self, learning_rates: Values, momenta: Values):
        self.learning_rates = as_float(real_array("learning_rates", learning_rates))
        self.momenta = as_float(real_array("momenta", momenta))
        shape, other = self.learning_rates.shape, self.momenta.shape
        if shape != other or len(shape) != 1 or 0 in shape:
            raise ValueError(
                f"`learning_rates` and `momenta` must be lists of one length, got shapes "
                f"{shape} and {other}."
            )
        finite_leaves("learning_rates", self.learning_rates, minimum=0.0)
        finite_leaves("momenta", self.momenta)

    @property
    def readout(self) -> Float[Array, " state"]:
        return -self.learning_rates

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.zeros_like(self.momenta)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.momenta * state + gradient


class RMSProp(AbstractOptimizer):
    """`v' = decay v + (1 - decay) g^2`, `x' = x - learning_rate g / sqrt(v' + epsilon)`.

    State: `v`, then the step direction (paper, Figure 2d). `decay` is from 0 to 1.
    """

    learning_rate: Float[Array, ""]
    decay: Float[Array, ""]
    epsilon: Float[Array, ""]

    def __init__(self, learning_rate: ArrayLike, decay: ArrayLike = 0.9, epsilon: ArrayLike = 1e-8):
        self.learning_rate = hyperparameter("learning_rate", learning_rate, minimum=0.0)
        # At 1 the second moment stays what it is.
        self.decay = hyperparameter("decay", decay, minimum=0.0, at_most=1.0)
        self.epsilon = hyperparameter("epsilon", epsilon, minimum=TINY)

    @property
    def readout(self) -> Float[Array, "2"]:
        return jnp.stack([jnp.zeros_like(self.learning_rate), -self.learning_rate])

    def initial_state(self) -> Float[Array, "2"]:
        return jnp.zeros(2, self.learning_rate.dtype)

    def transition(self, state: Float[Array, "2"], gradient: Float[Array, ""]) -> Float[Array, "2"]:
        second = self.decay * state[0] + (1 - self.decay) * gradient**2
        return jnp.stack([second, gradient / jnp.sqrt(second + self.epsilon)])


class Adam(AbstractOptimizer):
    """Bias-corrected Adam (Kingma and Ba 2015), with epsilon outside the root.

        m' = b1 m + (1 - b1) g        v' = b2 v + (1 - b2) g^2
        x' = x - learning_rate (m' / (1 - b1^k)) / (sqrt(v' / (1 - b2^k)) + epsilon)

    with k = 1 in the first update.

    State: first moment `m`, second moment `v`, `b1^k`, `b2^k`, step direction. The powers
    replace the step counter. They decay to 0, so the state has a fixed point; a counter has none.
    `b1` is above -1 and below 1, `b2` is at least 0 and below 1.
    """

    learning_rate: Float[Array, ""]
    b1: Float[Array, ""]
    b2: Float[Array, ""]
    epsilon: Float[Array, ""]

    def __init__(
        self,
        learning_rate: ArrayLike,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.999,
        epsilon: ArrayLike = 1e-8,
    ):
        self.learning_rate = hyperparameter("learning_rate", learning_rate, minimum=0.0)
        # At 1 the bias correction divides by 0, and at -1 in every other update.
        self.b1 = hyperparameter("b1", b1, above=-1.0, below=1.0)
        self.b2 = hyperparameter("b2", b2, minimum=0.0, below=1.0)
        self.epsilon = hyperparameter("epsilon", epsilon, minimum=TINY)

    @property
    def readout(self) -> Float[Array, "5"]:
        zero = jnp.zeros_like(self.learning_rate)
        return jnp.stack([zero, zero, zero, zero, -self.learning_rate])

    def initial_state(self) -> Float[Array, "5"]:
        return jnp.array([0.0, 0.0, 1.0, 1.0, 0.0], self.learning_rate.dtype)

    def transition(self, state: Float[Array, "5"], gradient: Float[Array, ""]) -> Float[Array, "5"]:
        first = self.b1 * state[0] + (1 - self.b1) * gradient
        second = self.b2 * state[1] + (1 - self.b2) * gradient**2
        b1_power, b2_power = self.b1 * state[2], self.b2 * state[3]
        mean = first / (1 - b1_power)
        square = second / (1 - b2_power)
        # The root has no derivative at 0. There the direction does not depend on v to first order.
        rested = square <= 0
        root = jnp.where(rested, 0.0, jnp.sqrt(jnp.where(rested, 1.0, square)))
        return jnp.stack([first, second, b1_power, b2_power, mean / (root + self.epsilon)])
