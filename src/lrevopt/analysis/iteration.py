"""States iterated under a held gradient, `h <- F(h, g)`, until they stand still."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from lrevopt.inner_loop.devices import PROBLEM, over_problems

CHUNK = 50
"""Updates between two looks at whether all states stand still."""

STILL = 1e-13
"""Movement in one update, per unit of max(1, ||h||), of a state that has settled."""


@eqx.filter_jit
def iterated(opt, starts, gradients, steps, mesh=None):
    """States after `steps` updates, or once all of them stand still, on all devices of a mesh."""

    def run(opt, points):
        starts, gradients = points
        return _until_still(opt, starts, gradients, steps, None if mesh is None else PROBLEM)

    return over_problems(run, opt, (starts, gradients), mesh)


def _until_still(opt, starts, gradients, steps, axis):
    once = jax.vmap(opt.transition, (-1, 0), -1)

    def size(states):
        return jnp.linalg.norm(states, axis=0)

    def go_on(carry):
        _, moving, step = carry
        return moving & (step < steps)

    def body(carry):
        states, _, step = carry
        count = jnp.minimum(CHUNK, steps - step)
        states = lax.fori_loop(0, count - 1, lambda _, h: once(h, gradients), states)
        following = once(states, gradients)
        far = size(following - states) > STILL * jnp.maximum(1.0, size(following))  # not of NaN
        moving = jnp.any(far)
        moving = moving if axis is None else lax.pmax(moving, axis)
        return following, moving, step + count

    return lax.while_loop(go_on, body, (starts.T, jnp.array(True), 0))[0].T
