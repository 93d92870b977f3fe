"""Learning-rate schedules from autonomous dynamics, `h' = F(h, 0)` (paper, 5.3 and A.3).

An optimizer that starts away from its fixed point changes its learning rate while it settles,
whatever gradients it meets.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.projections import Projection, fit_projection
from lrevopt.analysis.update_functions import rate_table
from lrevopt.checks import positive_integer
from lrevopt.optimizers.interface import AbstractOptimizer


class Schedule(eqx.Module):
    """The path from the initial state under zero gradient. Host arrays in float64.

    - `rates`: effective learning rate at each state of the path.
    - `updates`: `w . h'` of each step, what the path does to a parameter by itself.
    - `projection`: the path's own first two principal components.
    - `readout_angle`: degrees, from 0 to 90, between the first of them and the readout (90 if
      either is zero). The paper's footnote 5 says that they are orthogonal.
    """

    states: Float[np.ndarray, "visited state"]
    rates: Float[np.ndarray, " visited"]
    updates: Float[np.ndarray, " step"]
    projection: Projection
    readout_angle: float


def measure_schedule(opt: AbstractOptimizer, steps: int = 200) -> Schedule:
    """Follow the autonomous path for `steps`. Raises `ValueError` for fewer than 1."""
    steps = positive_integer("steps", steps)
    with double_precision():
        states = np.asarray(_autonomous(as_double(opt), steps))
        readout = np.asarray(opt.readout, float)
    projection = fit_projection(states, components=2)
    lengths = np.linalg.norm(projection.components[0]) * np.linalg.norm(readout)
    cosine = abs(projection.components[0] @ readout) / lengths if lengths > 0 else 0.0
    return Schedule(
        states=states,
        rates=rate_table(opt, states),
        updates=states[1:] @ readout,
        projection=projection,
        readout_angle=float(np.degrees(np.arccos(min(cosine, 1.0)))),
    )


@eqx.filter_jit
def _autonomous(opt, steps):
    start = opt.initial_state()
    zero = jnp.zeros((), start.dtype)
    _, states = lax.scan(lambda h, _: (opt.transition(h, zero),) * 2, start, length=steps)
    return jnp.concatenate([start[None], states])
