"""What many tests run over: every optimizer by name, and small tasks written as a user would."""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float, Key

import lrevopt as lo
from lrevopt.optimizers import AbstractOptimizer, wrappers
from lrevopt.tasks import AbstractProblem, AbstractTask


def awake(optimizer: lo.RecurrentOptimizer, rate: float) -> lo.RecurrentOptimizer:
    """With a random start and readout, because an untrained optimizer does not move."""
    start, weights = np.random.default_rng(7).normal(size=(2, optimizer.start.size))
    return eqx.tree_at(
        lambda o: (o.start, o.weights), optimizer, (jnp.asarray(start), jnp.asarray(rate * weights))
    )


@functools.cache
def gru(rate: float) -> lo.RecurrentOptimizer:
    draw = eqx.filter_jit(lo.GRUOptimizer)  # one program instead of one an operation
    return awake(draw(8, key=jr.key(1), input_scale=0.01, output_scale=0.5), rate)


@functools.cache
def equinox_gru(rate: float) -> lo.RecurrentOptimizer:
    cell = eqx.filter_jit(eqx.nn.GRUCell)(1, 4, key=jr.key(2))
    optimizer = lo.RecurrentOptimizer(cell, 4, input_scale=0.01, bias=True)
    return eqx.tree_at(lambda o: o.bias, awake(optimizer, rate), jnp.asarray(-0.1 * rate))


def linear(rate: float) -> lo.LinearOptimizer:
    return lo.LinearOptimizer(
        fixed_point=jnp.array([0.1, -0.2]),
        recurrent=jnp.array([[0.8, 0.1], [-0.2, 0.5]]),
        inputs=jnp.array([1.0, 0.5]),
        readout=-rate * jnp.array([1.0, 0.3]),
        start=jnp.array([0.3, 0.4]),
    )


def modes(rate: float) -> lo.ModeOptimizer:
    eigenvalues = jnp.array([0.9, 0.6 + 0.2j, 0.6 - 0.2j])
    return lo.ModeOptimizer(eigenvalues, rate * jnp.array([1.0, 0.2 + 0.1j, 0.2 - 0.1j]))


def white_box(rate: float) -> lo.WhiteBox:
    return lo.WhiteBox(
        rate,
        momentum=lo.BoxMomentum((0.9, 0.5 + 0.4j), (0.7, 0.3 + 0.1j)),
        saturation=lo.BoxSaturation(2.0, 3.0, 0.2),
        adaptation=lo.BoxAdaptation(0.95, 0.3, 0.1),
        schedule=lo.BoxSchedule(2.0, 20.0),
    )


OPTIMIZERS: dict[str, Callable[[float], AbstractOptimizer]] = {
    "gradient_descent": lo.GradientDescent,
    "clipped": lambda rate: lo.ClippedGradientDescent(rate, 2.0),
    "momentum": lambda rate: lo.Momentum(rate, 0.9),
    "nesterov": lambda rate: lo.Nesterov(rate, 0.9),
    "aggregated": lambda rate: lo.AggregatedMomentum([rate, 0.5 * rate], [0.5, 0.95]),
    "rmsprop": lambda rate: lo.RMSProp(rate, 0.95),
    "adam": lambda rate: lo.Adam(rate, 0.8, 0.95),
    "gru": gru,
    "equinox_gru": equinox_gru,
    "linear": linear,
    "modes": modes,
    "white_box": white_box,
}
"""Constructors, given the scale of their steps. A new class adds one line."""

DEFAULTS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
OPTIMISED: dict[str, bool | int] = {
    flag: default for flag, default in DEFAULTS.items() if flag in os.environ["XLA_FLAGS"]
}
"""Compiler options that undo what conftest.py sets: programs as users have them, for results that
are compared bit by bit, or in float32, where rounding depends on the compiler.
"""

HALF = 0.5 * jnp.eye(2)
START = jnp.array([0.1, -0.2])

WRAPPED: dict[str, Callable[[float], AbstractOptimizer]] = {
    "scaled_gradients": lambda rate: wrappers.ScaledGradients(
        lo.Momentum(rate, 0.9), jnp.asarray(2.0)
    ),
    "state_in_units": lambda rate: wrappers.StateInUnits(
        lo.Adam(rate, 0.8, 0.95), jnp.array([0.1, 10.0, 1.0, 2.0, 0.5])
    ),
    "restarted": lambda rate: wrappers.Restarted(lo.Momentum(rate, 0.9), jnp.array([0.3])),
    "forgetting": lambda rate: wrappers.Forgetting(linear(rate), START, HALF),
    "gain_at_once": lambda rate: wrappers.GainAtOnce(
        wrappers.Forgetting(linear(rate), START, HALF), -rate * jnp.array([0.5, 0.2])
    ),
    "straight_states": lambda rate: wrappers.StraightStates(gru(rate)),
    "straight_updates": lambda rate: wrappers.StraightUpdates(gru(rate)),
    "one_update_function": lambda rate: wrappers.OneUpdateFunction(gru(rate), 0.1 * jnp.ones(8)),
    "scheduled_modes": lambda rate: wrappers.ScheduledModes(
        modes(rate), jnp.array([1.0, 0.5, 2.0])
    ),
}
"""Optimizers made from others, in the same form."""

FROM_OPTAX: dict[str, Callable[[float], AbstractOptimizer]] = {
    "optax_adam": lambda rate: lo.from_optax(optax.adam(rate)),
    "optax_momentum_held": lambda rate: lo.from_optax(optax.sgd(rate, momentum=0.9), at_step=3),
}
"""Optax's, whose hyperparameters are no leaves: they cannot be stacked."""


def mostly_long(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """A table for `pytest.mark.parametrize`: its cases, marked long but for those that are `fast`.

    So a law is tested over the whole table in `make test-slow`, with whatever joins the table, and
    on representatives in `make test`.
    """
    every = list(cases)
    assert set(fast) <= set(every), f"not in the table: {set(fast) - set(every)}"
    return [
        pytest.param(
            *(each if isinstance(each, tuple) else (each,)),
            marks=() if each in fast else pytest.mark.long,
        )
        for each in every
    ]


class QuadraticProblem(AbstractProblem):
    curvature: Float[Array, " dim"]
    initial_parameters: Float[Array, " dim"]


class Quadratic(AbstractTask):
    """`f(x) = 1/2 sum_i c_i x_i^2` from one given start: closed forms exist."""

    curvature: Float[Array, " dim"]
    start: Float[Array, " dim"]

    def sample(self, key: Key[Array, ""]) -> QuadraticProblem:
        return QuadraticProblem(self.curvature, self.start)

    def loss(self, problem, parameters, step):
        return 0.5 * jnp.sum(problem.curvature * parameters**2)


class NoisyQuadratic(AbstractTask):
    """A stochastic loss: every step pulls towards a target of its own."""

    targets: Float[Array, "step 2"]

    def sample(self, key: Key[Array, ""]) -> QuadraticProblem:
        return QuadraticProblem(jnp.array([1.0, 0.3]), jr.normal(key, (2,)))

    def loss(self, problem, parameters, step):
        away = parameters - self.targets[step % self.targets.shape[0]]
        return 0.5 * jnp.sum(problem.curvature * away**2) + jnp.sum(away**4) / 12
