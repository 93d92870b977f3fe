"""Steps towards a fixed point: Newton's, Levenberg-Marquardt's, and simplified ones."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lrevopt.analysis.levenberg_marquardt import (
    Damping,
    Fit,
    by_cholesky,
    equations_of,
    marquardt_step,
)
from lrevopt.inner_loop.devices import over_problems
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.limits import with_limits

ROUND_OFF = 1e-26
"""Speed, per unit of max(1, ||h||^2), below which further iterations only move round-off."""

GOOD = 0.1
"""Factor on the speed by a Newton step beside which no other is tried."""

SHRINK = 0.9
"""Factor by which every step of a simplified Newton iteration must be shorter than the last."""

FIRST_ITERATIONS = 12
ITERATIONS = 50
DAMPING = Damping(decrease=10, increase=10, least=1e-14, most=1e14)
SIMPLIFIED_ITERATIONS = 60


def solve(opt, starts, gradients, reach, *, iterations=ITERATIONS, limits=False, mesh=None):
    """Newton and Levenberg-Marquardt from each start, until round-off or no step helps.

    States of a norm above `reach` are not visited. With `limits`, derivatives that are not finite
    are replaced by their limits from above. Starts are spread over the devices of a mesh.
    """
    # An array, so that one program serves all numbers of iterations.
    return _solve(opt, (starts, gradients, reach), np.asarray(iterations), limits, mesh)


@eqx.filter_jit
def _solve(opt, points, iterations, limits, mesh):
    def run(shared, points):
        opt, iterations = shared
        return _Search(opt, limits, apart=mesh is not None).run(points, iterations)

    return over_problems(run, (opt, iterations), points, mesh)


@dataclasses.dataclass(frozen=True)
class _Search:
    """Searches from several states at once, each with a gradient and a reach of its own.

    `apart`: matrices are factorized one by one, not as a batch, which may wait for threads that
    other devices hold (see `host_devices.threads`).
    """

    opt: AbstractOptimizer
    limits: bool
    apart: bool

    def run(self, points, iterations):
        """The points reached."""
        starts, gradients, reach = points

        def active(fit):
            rest = ROUND_OFF * jnp.maximum(1.0, fit.point @ fit.point)
            return (fit.cost > rest) & (fit.damping < 1e12)

        def body(carry):
            fits, iteration = carry
            going = jax.vmap(active)(fits)
            new = self.steps(fits, going, gradients, reach)
            return _chosen(going, new, fits), iteration + 1

        def go_on(carry):
            fits, iteration = carry
            return jnp.any(jax.vmap(active)(fits)) & (iteration < iterations)

        speeds = jax.vmap(self.speed)(starts, gradients)
        begin = Fit(starts, speeds, jnp.full(len(starts), 1e-3))
        return lax.while_loop(go_on, body, (begin, 0))[0].point

    def steps(self, fits, going, gradients, reach):
        """One step of each search; those that are not `going` do not count.

        Where Newton's step does well the other is not looked at, whatever other searches need.
        """
        models, points, costs = jax.vmap(self.newton)(fits.point, gradients, reach)
        well = costs < GOOD * fits.cost
        lower = jnp.maximum(fits.damping / DAMPING.decrease, DAMPING.least)
        own = Fit(fits.point, fits.cost, lower)

        def both():
            return _chosen(well, own, jax.vmap(self.marquardt)(fits, models, gradients, reach))

        others = lax.cond(jnp.all(well | ~going), lambda: own, both)
        newtons = Fit(points, costs, others.damping)
        return _chosen(costs < others.cost, newtons, others)

    def newton(self, state, gradient, reach):
        """R and its Jacobian, the better of two Newton points, and its cost."""
        linear = jnp.linalg.solve
        if self.apart:
            linear = jax.custom_batching.sequential_vmap(linear)
        derivative = jax.jacfwd(lambda h: self.residual(h, gradient))
        R = self.residual(state, gradient)
        A = with_limits(derivative, state) if self.limits else derivative(state)
        point = state - linear(A, R)  # NaN where A is singular
        # Coordinates that are functions of the others, like a step direction, are set by one
        # transition: Newton's linear model may get them so wrong that the step would be refused.
        points = jnp.stack([point, self.opt.transition(point, gradient)])
        costs = jax.vmap(lambda each: self.cost(each, gradient, reach))(points)
        best = jnp.argmin(costs)
        return (R, A), points[best], costs[best]

    def marquardt(self, fit, model, gradient, reach):
        """The search after a Levenberg-Marquardt step."""
        definite = jax.custom_batching.sequential_vmap(by_cholesky) if self.apart else by_cholesky
        return marquardt_step(
            fit,
            equations_of(*model),
            lambda point: self.cost(point, gradient, reach),
            DAMPING,
            solve=definite,
        )

    def residual(self, state, gradient):
        return self.opt.transition(state, gradient) - state

    def speed(self, state, gradient):
        change = self.residual(state, gradient)
        return change @ change / 2

    def cost(self, point, gradient, reach):
        """Speed; infinite out of reach and where it is NaN, which is never the least then."""
        near = jnp.linalg.norm(point) <= reach  # false for NaN
        cost = jnp.where(near, self.speed(point, gradient), jnp.inf)
        return jnp.where(jnp.isnan(cost), jnp.inf, cost)


def _chosen(first, ours, theirs):
    """Where `first` the one, else the other, of trees of stacked arrays."""
    return jax.tree.map(
        lambda a, b: jnp.where(first.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), ours, theirs
    )


def simplified_towards(opt, point, gradient):
    """A function for `in_blocks`: `h <- h + (I - J)^-1 (F(h) - h)` with J at `point`.

    It returns where the iterations ended from each start, and which of them converged: steps shrank
    all the time (Deuflhard's test).
    """
    gradient = np.asarray(gradient, point.dtype)
    shared = {"point": point, "gradient": gradient, "inverse": _inverse_at(opt, point, gradient)}
    return partial(_simplified, **shared)


@eqx.filter_jit
def _inverse_at(opt, point, gradient):
    return jnp.linalg.inv(jnp.eye(len(point)) - jax.jacfwd(opt.transition)(point, gradient))


@eqx.filter_jit
def _simplified(opt, starts, *, point, gradient, inverse, mesh=None):
    """Where simplified iterations end, and which converged; over the devices of a mesh."""
    return over_problems(_shrinking, (opt, point, gradient, inverse), starts, mesh)


def _shrinking(shared, starts):
    opt, point, gradient, inverse = shared
    scale = 1e-9 * jnp.maximum(1.0, jnp.linalg.norm(point))

    def steps(states):
        change = jax.vmap(opt.transition, (-1, None), -1)(states, gradient) - states
        return inverse @ change

    def go_on(carry):
        _, _, size, iteration, alive = carry
        return jnp.any(alive & (size > scale)) & (iteration < SIMPLIFIED_ITERATIONS)

    def body(carry):
        states, step, size, iteration, alive = carry
        states = jnp.where(alive, states + step, states)
        step = steps(states)
        following = jnp.linalg.norm(step, axis=0)
        alive = alive & ((following <= SHRINK * size) | (following <= scale))
        return states, step, following, iteration + 1, alive

    begin = starts.T
    step = steps(begin)
    wanted = jnp.ones(len(starts), bool)
    carry = (begin, step, jnp.linalg.norm(step, axis=0), 0, wanted)
    states, _, size, _, alive = lax.while_loop(go_on, body, carry)
    return states.T, alive & (size <= scale)
