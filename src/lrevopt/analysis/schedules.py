"""Learning-rate schedules from autonomous dynamics, `h' = F(h, 0)` (paper, 5.3 and A.3).

An optimizer that starts away from its fixed point changes its learning rate while its state
converges, whatever the gradients.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.projections import fit_projection
from lrevopt.analysis.update_functions import rate_table
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.steps import visited_states
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Facts, number


class Schedule(eqx.Module):
    """The path from the initial state under zero gradient (Figure 5). Host arrays in float64.

    - `path`: its states, projected on the path's own first two principal components;
      `slow_points`, `fixed_point`: states given for comparison, in the same projection.
    - `rates`: effective learning rate at each state of the path.
    - `updates`: `w . h'` of each step, the updates that the path causes.
    - `readout_angle`: degrees, from 0 to 90, between the path's first component and the readout
      (90 if either is zero). The paper's footnote 5 says that they are orthogonal.
    """

    path: Float[np.ndarray, "visited 2"]
    slow_points: Float[np.ndarray, "point 2"]
    fixed_point: Float[np.ndarray, "2"]
    rates: Float[np.ndarray, " visited"]
    updates: Float[np.ndarray, " step"]
    readout_angle: float


def measure_schedule(
    opt: AbstractOptimizer,
    steps: int = 200,
    *,
    slow_states: Float[np.ndarray, "point state"] | None = None,
    fixed_point: Float[np.ndarray, " state"] | None = None,
) -> Schedule:
    """Follow the autonomous path for `steps` and measure the learning rate along it.

    `slow_states` and `fixed_point` are projected like the path; by default no state, and the end
    of the path. Raises `ValueError` for fewer than 1 step.
    """
    states = autonomous_path(opt, steps)
    readout = np.asarray(opt.readout, float)
    projection = fit_projection(states, components=2)
    lengths = np.linalg.norm(projection.components[0]) * np.linalg.norm(readout)
    cosine = abs(projection.components[0] @ readout) / lengths if lengths > 0 else 0.0
    return Schedule(
        path=projection(states),
        slow_points=projection(states[:0] if slow_states is None else slow_states),
        fixed_point=projection(states[-1] if fixed_point is None else fixed_point),
        rates=rate_table(opt, states),
        updates=states[1:] @ readout,
        readout_angle=float(np.degrees(np.arccos(min(cosine, 1.0)))),
    )


def autonomous_path(opt: AbstractOptimizer, steps: int) -> Float[np.ndarray, "visited state"]:
    """States `h' = F(h, 0)` from the initial state, which is the first, in float64.

    Raises `ValueError` for fewer than 1 step.
    """
    steps = positive_integer("steps", steps)
    with double_precision():
        return np.asarray(_autonomous(as_double(opt), steps))


@eqx.filter_jit
def _autonomous(opt, steps):
    return visited_states(opt, jnp.zeros(steps, opt.readout.dtype))


def schedule_facts(record: Schedule) -> Facts:
    """Learning rates along the autonomous path, as pairs of a name and a sentence."""
    rates = record.rates
    return [
        ("Effective learning rate without gradient", f"{number(rates[0])} at the "
         f"start, {number(rates.max())} at most, {number(rates[-1])} at the end"),
    ]  # fmt: skip
