"""One step of the Levenberg-Marquardt method, for every nonlinear least-squares fit of the package.

A point x with residuals R(x) and their Jacobian A moves by the solution d of the damped equations

    (A'A + mu D) d = -A'R

if that lowers its cost; the damping mu decreases after such a step and increases after any other.
D is a positive diagonal matrix. The arrays may be JAX's, traced ones too, or NumPy's.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Arrays = Any
"""An array of JAX or of NumPy."""

Solver = Callable[[Arrays, Arrays], Arrays]
"""Solves a linear system, or a stack of them, given matrix and right-hand side."""


class Fit(NamedTuple):
    """Where a search is: a point of shape (number,), its cost, and the damping of its next step."""

    point: Arrays
    cost: Arrays
    damping: Arrays


class Equations(NamedTuple):
    """Normal equations at a point.

    `normal` is A'A, of shape (number, number); `slope` is A'R, the derivative of half the sum of
    squares; `scale` is the diagonal of D. Both are of shape (number,).
    """

    normal: Arrays
    slope: Arrays
    scale: Arrays


@dataclasses.dataclass(frozen=True)
class Damping:
    """How the damping changes: divided by `decrease` after a better step, else times `increase`.

    It stays between `least` and `most`. A step may try several `multiples` of it side by side; the
    best of them counts.
    """

    decrease: float
    increase: float
    least: float = 0.0
    most: float = float("inf")
    multiples: float | tuple[float, ...] = 1.0


def by_cholesky(matrix: Float[Array, "number number"], right: Float[Array, " number"]) -> Array:
    """Solution of a positive definite system; NaN where it is singular to round-off."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)


def equations_of(R: Float[Array, " residual"], A: Float[Array, "residual number"]) -> Equations:
    """Normal equations with D the mean squared singular value of A, the same for all coordinates.

    The step is then equivariant under rotations, as states of optimizers want it.
    """
    normal = A.T @ A
    return Equations(normal, A.T @ R, jnp.full(len(normal), jnp.trace(normal) / len(normal)))


def damped_step(equations: Equations, damping: Arrays, solve: Solver = by_cholesky) -> Arrays:
    """The step `-(A'A + mu D)^-1 A'R`.

    Dampings of shape (trial,) give steps of shape (trial, number), if `solve` takes stacks.
    """
    xp = equations.normal.__array_namespace__()
    damped = equations.normal + damping[..., None, None] * xp.diag(equations.scale)
    return solve(damped, -equations.slope)


def marquardt_step(
    fit: Fit,
    equations: Equations,
    cost_of: Callable[[Arrays], Arrays],
    rule: Damping,
    *,
    solve: Solver = by_cholesky,
    limit: Callable[[Arrays], Arrays] = lambda step: step,
) -> Fit:
    """The search after one step, which is taken if it lowers the cost.

    `cost_of` gives the cost of a point (with several `rule.multiples`: of each row); NaN counts as
    infinite. `limit` shortens steps that are too long for the linear model. A refused step leaves
    point and cost as they are.
    """
    xp = equations.normal.__array_namespace__()
    dampings = fit.damping * xp.asarray(rule.multiples, dtype=equations.normal.dtype)
    points = fit.point + limit(damped_step(equations, dampings, solve))
    costs = xp.reshape(cost_of(points), (-1,))
    costs = xp.where(xp.isnan(costs), xp.inf, costs)
    best = xp.argmin(costs)
    better = costs[best] < fit.cost
    lower = xp.reshape(dampings, (-1,))[best] / rule.decrease
    damping = xp.where(better, lower, fit.damping * rule.increase)
    return Fit(
        point=xp.where(better, xp.reshape(points, (len(costs), -1))[best], fit.point),
        cost=xp.where(better, costs[best], fit.cost),
        damping=xp.clip(damping, rule.least, rule.most),
    )
