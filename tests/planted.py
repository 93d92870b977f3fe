"""Hand-written optimizers that have one mechanism, or lack it, and a task with layers."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key
from tables import QuadraticProblem

from lrevopt.optimizers import AbstractOptimizer
from lrevopt.tasks import AbstractTask

GROUPS = {
    "first.weight": slice(0, 6),
    "first.bias": slice(6, 8),
    "second.weight": slice(8, 13),
    "second.bias": slice(13, 15),
}


def by_group(*values: float) -> Float[np.ndarray, " dim"]:
    """One value for each of `GROUPS`, repeated for its parameters."""
    return np.repeat(values, [6, 2, 5, 2])


def parameter(*default: float) -> Any:
    """A number, or as many numbers, that an optimizer is made of."""
    value: Any = default if len(default) > 1 else default[0]
    return eqx.field(default=value, converter=jnp.asarray)


class Layers(AbstractTask):
    """`1/2 sum_i c_i x_i^2` from random starts between 1 and 2: a curvature is a gradient."""

    curvature: Float[Array, " dim"]

    @property
    def parameter_groups(self) -> dict[str, slice]:
        return GROUPS

    def sample(self, key: Key[Array, ""]) -> QuadraticProblem:
        start = 1 + jr.uniform(key, self.curvature.shape)
        return QuadraticProblem(self.curvature, start)

    def loss(self, problem, parameters, step):
        return 0.5 * jnp.sum(problem.curvature * parameters**2)


class Planted(AbstractOptimizer):
    """Two hidden coordinates and an update, from numbers: one program serves all of them.

        s' = keep s + track tanh(g) + count |g| + push          or tanh(2 s + g), if `latch` is 1
        u = drift - (rate + gain . s') / (1 + n s'_0 + q s'_0^2 + p max(s'_0, 0)^2) f(g)

    where n, q, p are `slowing`, and f(g) is `shape` times g, c tanh(g / c) and g / (1 + g^2) with
    c = `width` (1 + `widening` s'_0^2).
    """

    start: Float[Array, "2"] = parameter(0.0, 0.0)
    keep: Float[Array, "2"] = parameter(0.0, 0.0)
    track: Float[Array, "2"] = parameter(0.0, 0.0)
    count: Float[Array, "2"] = parameter(0.0, 0.0)
    push: Float[Array, "2"] = parameter(0.0, 0.0)
    latch: Float[Array, ""] = parameter(0.0)
    drift: Float[Array, ""] = parameter(0.0)
    rate: Float[Array, ""] = parameter(0.1)
    gain: Float[Array, "2"] = parameter(0.0, 0.0)
    slowing: Float[Array, "3"] = parameter(0.0, 0.0, 0.0)
    shape: Float[Array, "3"] = parameter(1.0, 0.0, 0.0)
    width: Float[Array, ""] = parameter(1.0)
    widening: Float[Array, ""] = parameter(0.0)

    @property
    def readout(self) -> Float[Array, "3"]:
        return jnp.array([0.0, 0.0, 1.0])

    def initial_state(self) -> Float[Array, "3"]:
        return jnp.append(self.start, 0.0)

    def transition(self, state: Float[Array, "3"], gradient: Float[Array, ""]) -> Float[Array, "3"]:
        s, g = state[:2], gradient
        followed = self.keep * s + self.track * jnp.tanh(g) + self.count * jnp.abs(g) + self.push
        s = (1 - self.latch) * followed + self.latch * jnp.tanh(2 * s + g)
        first = jnp.stack([s[0], s[0] ** 2, jnp.maximum(s[0], 0) ** 2])
        rate = (self.rate + self.gain @ s) / (1 + self.slowing @ first)
        c = self.width * (1 + self.widening * s[0] ** 2)
        shapes = jnp.stack([g, c * jnp.tanh(g / c), g / (1 + g**2)])
        return jnp.append(s, self.drift - rate * (self.shape @ shapes))


def planted(**numbers: Any) -> Planted:
    """From plain numbers, which the class makes arrays of."""
    return Planted(**numbers)


TRACKING = {"keep": (0.8, 0.0), "track": (0.2, 0.0)}
"""A running mean of squashed gradients, half of which is gone after four steps."""

SOFT, BENT = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

PLANTED: dict[str, Planted] = {
    "plain": planted(),
    "soft_clipping": planted(rate=0.5, shape=SOFT),
    "bending": planted(rate=0.5, shape=BENT),
    "sign": planted(rate=20.0, shape=SOFT, width=1e-3),
    "drifting": planted(drift=1.0),
    # The learning rate is 0.3 + 0.95^k - 0.6^k after k steps.
    "scheduled": planted(start=(1.0, 1.0), keep=(0.95, 0.6), rate=0.3, gain=(1.0, -1.0)),
    # The learning rate falls with the mean gradient, whatever its sign, or only if it is positive.
    "cautious": planted(**TRACKING, rate=0.5, slowing=(0.0, 4.0, 0.0)),
    "lopsided": planted(**TRACKING, rate=0.5, slowing=(0.0, 0.0, 4.0)),
    "wandering_knee": planted(**TRACKING, rate=0.02, shape=SOFT, width=0.2, widening=20.0),
    # Two attractors, at +-0.957, between which the first gradients decide.
    "latching": planted(latch=1.0, rate=0.3),
    # A line of fixed points without gradient, along which the learning rate is 0.1 / (1 + s), or
    # the same everywhere.
    "counting": planted(keep=(1.0, 0.0), count=(1.0, 0.0), slowing=(1.0, 0.0, 0.0)),
    "counting_in_vain": planted(keep=(1.0, 0.0), count=(1.0, 0.0)),
    "clock": planted(keep=(0.9, 0.0), push=(1.0, 0.0), rate=0.0),
}
"""By what is planted in them."""


class Wells(AbstractOptimizer):
    """A momentum, and beside it two wells that no gradient touches."""

    readout: Array

    def initial_state(self):
        return jnp.array([0.0, 1.0])

    def transition(self, state, gradient):
        momentum, well = state
        return jnp.stack([0.5 * momentum + gradient, well + 0.3 * (well - well**3)])
