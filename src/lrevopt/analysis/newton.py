"""Steps towards a fixed point: Newton's, Levenberg-Marquardt's, and simplified ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from lrevopt.analysis.levenberg_marquardt import Damping, Fit, equations_of, marquardt_step
from lrevopt.optimizers.limits import with_limits

ROUND_OFF = 1e-26
"""Speed, per unit of max(1, ||h||^2), below which further iterations only move round-off."""

SHRINK = 0.9
"""Factor by which every step of a simplified Newton iteration must be shorter than the last."""

FIRST_ITERATIONS = 12
ITERATIONS = 50
DAMPING = Damping(decrease=10, increase=10, least=1e-14, most=1e14)
SIMPLIFIED_ITERATIONS = 60


@eqx.filter_jit
def solve(opt, starts, gradients, reach, *, iterations=ITERATIONS, limits=False):
    """Newton and Levenberg-Marquardt from each start, until round-off or no step helps.

    States of a norm above `reach` are not visited. With `limits`, derivatives that are not finite
    are replaced by their limits from above.
    """

    def residual(state, gradient):
        return opt.transition(state, gradient) - state

    def jacobian(state, gradient):
        derivative = jax.jacfwd(lambda h: residual(h, gradient))
        return with_limits(derivative, state) if limits else derivative(state)

    def speed(state, gradient):
        change = residual(state, gradient)
        return change @ change / 2

    def iterate(state, gradient, q, damping, reach):
        def cost_of(point):
            near = jnp.linalg.norm(point) <= reach  # false for NaN
            return jnp.where(near, speed(point, gradient), jnp.inf)

        R, A = residual(state, gradient), jacobian(state, gradient)
        fit = marquardt_step(Fit(state, q, damping), equations_of(R, A), cost_of, DAMPING)
        newton = state - jnp.linalg.solve(A, R)
        # Coordinates that are functions of the others, like a step direction, are set by one
        # transition: Newton's linear model may get them so wrong that the step would be refused.
        others = jnp.stack([newton, opt.transition(newton, gradient)])
        costs = jax.vmap(cost_of)(others)
        # A singular matrix yields NaN, which never is the least.
        costs = jnp.concatenate([fit.cost[None], jnp.where(jnp.isnan(costs), jnp.inf, costs)])
        best = jnp.argmin(costs)
        return jnp.concatenate([fit.point[None], others])[best], costs[best], fit.damping

    def active(state, q, damping):
        return (q > ROUND_OFF * jnp.maximum(1.0, state @ state)) & (damping < 1e12)

    def body(carry):
        states, q, damping, iteration = carry
        new = jax.vmap(iterate)(states, gradients, q, damping, reach)
        go_on = jax.vmap(active)(states, q, damping)
        kept = [
            jnp.where(go_on.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)
            for a, b in zip(new, (states, q, damping), strict=True)
        ]
        return *kept, iteration + 1

    def go_on(carry):
        states, q, damping, iteration = carry
        return jnp.any(jax.vmap(active)(states, q, damping)) & (iteration < iterations)

    q = jax.vmap(speed)(starts, gradients)
    begin = (starts, q, jnp.full(len(starts), 1e-3), 0)
    return lax.while_loop(go_on, body, begin)[0]


@eqx.filter_jit
def simplified(opt, starts, point, wanted, gradient):
    """`h <- h + (I - J)^-1 (F(h) - h)` with J at `point`, while steps shrink.

    Returns where the iterations ended and which of them converged (Deuflhard's test).
    """
    gradient = jnp.asarray(gradient, point.dtype)
    matrix = jnp.eye(len(point)) - jax.jacfwd(opt.transition)(point, gradient)
    inverse = jnp.linalg.inv(matrix)
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
    carry = (begin, step, jnp.linalg.norm(step, axis=0), 0, wanted)
    states, _, size, _, alive = lax.while_loop(go_on, body, carry)
    return states.T, alive & (size <= scale)
