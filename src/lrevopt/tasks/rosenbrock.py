"""The Rosenbrock function from uniform starts (paper, section 3.2)."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from lrevopt.tasks.interface import AbstractProblem, AbstractTask, Step

STARTS = ((-2.0, 2.0), (-1.0, 3.0))
"""Ranges of x and y from which starts are drawn (paper, section 3.2)."""


class RosenbrockProblem(AbstractProblem):
    """A start `(x, y)`; the function is the same in every problem."""

    initial_parameters: Float[Array, "2"]


class Rosenbrock(AbstractTask):
    """`f(x, y) = (1 - x)^2 + 100 (y - x^2)^2`, starts uniform on (-2, 2) x (-1, 3)."""

    def sample(self, key: Key[Array, ""]) -> RosenbrockProblem:
        low, high = jnp.asarray(STARTS).T
        return RosenbrockProblem(jr.uniform(key, (2,), minval=low, maxval=high))

    def loss(
        self, problem: RosenbrockProblem, parameters: Float[Array, "2"], step: Step
    ) -> Float[Array, ""]:
        x, y = parameters
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2
