"""Learning rates that fall while gradients stay large (paper, 5.4 and A.4).

Under a constant (*held*) gradient the state converges to a fixed point that depends on it; over a
task's gradients these points form an S-curve. The effective learning rate at each point is minus
the slope of its update function at zero gradient.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lrevopt.analysis.fixed_points import count_distinct, solve_each
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.projections import Projection
from lrevopt.analysis.small_states import unit_of
from lrevopt.analysis.update_functions import rate_table, update_table
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.steps import visited_states
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Facts, number

DECADES = 4.0
"""Held gradients reach down to 10^-4 of the largest."""

ARM = 5
"""Points on the positive arm whose update functions are kept."""


class Adaptation(eqx.Module):
    """The S-curve: for each held gradient the point that the fixed point moves to (Figure 6).

    Host arrays in float64.

    - `gradients`: the held gradients, ascending, log-spaced on both signs, with 0 in the middle.
    - `points` (in the projection that was given), `speeds`, `converged`, `spectral_radius`: of
      the fixed points, solved from where `steps` of the held gradient lead from the fixed point
      at zero gradient, so that each is the attractor if there is one.
    - `rates`: effective learning rate at the point (slope at zero gradient).
    - `distinct`: number of different fixed points found from that and the other starts.
    - `half_steps`: steps until half the distance to the point is covered; infinite if the run
      ends before.
    - `arm`: indices into the above of five points from the middle to the end of the positive
      arm; `arm_updates`: their update functions `w . F(h, g)` on `axis`.
    """

    gradients: Float[np.ndarray, " held"]
    points: Float[np.ndarray, "held component"]
    speeds: Float[np.ndarray, " held"]
    converged: Bool[np.ndarray, " held"]
    spectral_radius: Float[np.ndarray, " held"]
    rates: Float[np.ndarray, " held"]
    distinct: Int[np.ndarray, " held"]
    half_steps: Float[np.ndarray, " held"]
    arm: Int[np.ndarray, " arm"]
    axis: Float[np.ndarray, " grid"]
    arm_updates: Float[np.ndarray, "arm grid"]


def held_gradients(largest: float, each_sign: int = 15) -> Float[np.ndarray, " held"]:
    """Ascending sweep from `-largest` through 0 to `largest`, log-spaced on both signs."""
    arm = np.geomspace(largest * 10**-DECADES, largest, each_sign)
    return np.concatenate([-arm[::-1], [0.0], arm])


def measure_adaptation(
    opt: AbstractOptimizer,
    point: Float[np.ndarray, " state"],
    gradients: Float[np.ndarray, " held"],
    other_starts: Float[np.ndarray, "start state"],
    steps: int = 200,
    *,
    projection: Projection | None = None,
    axis: Float[np.ndarray, " grid"] | None = None,
) -> Adaptation:
    """Fixed points under held gradients, reached from `point`, the one at zero gradient.

    Each is searched from `other_starts` as well, to count distinct ones. `projection` gives the
    coordinates of points, by default those of the state; update functions along the arm are taken
    on `axis`, by default on the held gradients. Raises `ValueError` for fewer than 1 step.
    """
    steps = positive_integer("steps", steps)
    with double_precision():
        paths = np.asarray(_hold(as_double(opt), point, gradients, steps))
    held, others = len(gradients), len(other_starts)
    elsewhere = np.broadcast_to(other_starts, (held, *other_starts.shape))
    starts = np.concatenate([paths[:, -1:], elsewhere], axis=1)
    each = starts.reshape(-1, len(point)), np.repeat(gradients, 1 + others)
    solved, unit = solve_each(opt, *each), unit_of(opt, *each)
    found, speeds, converged, radii = (
        part.reshape(held, 1 + others, *part.shape[1:])
        for part in (solved.states, solved.speeds, solved.converged, solved.radii)
    )
    distances = np.linalg.norm(paths - found[:, :1], axis=-1)
    round_off = 1e-9 * np.maximum(unit, np.linalg.norm(found[:, :1], axis=-1))
    covered = distances <= distances[:, :1] / 2 + round_off
    states = found[:, 0]
    arm = np.linspace(held // 2, held - 1, ARM).round().astype(int)
    axis = gradients if axis is None else axis
    return Adaptation(
        gradients=gradients,
        points=states if projection is None else projection(states),
        speeds=speeds[:, 0],
        converged=converged[:, 0],
        spectral_radius=radii[:, 0],
        rates=rate_table(opt, states),
        distinct=np.array(
            [count_distinct(*pair, unit) for pair in zip(found, converged, strict=True)]
        ),
        half_steps=np.where(covered.any(axis=1), covered.argmax(axis=1), np.inf),
        arm=arm,
        axis=axis,
        arm_updates=update_table(opt, states[arm], axis),
    )


@eqx.filter_jit
def _hold(opt, point, gradients, steps):
    def path(gradient):
        return visited_states(opt, jnp.full(steps, gradient), start=point)

    return jax.vmap(path)(gradients)


def adaptation_facts(record: Adaptation) -> Facts:
    """Learning rates under held gradients, as pairs of a name and a sentence."""
    zero = np.argmin(np.abs(record.gradients))
    middle = f"{number(record.rates[zero])} at zero gradient"
    if not record.converged[zero]:
        middle += " (no fixed point found)"
    arms = f"{_outermost(record, -1)}, {_outermost(record, 1)}"
    return [("Effective learning rate under held gradients", f"{middle}; {arms}")]


def _outermost(record: Adaptation, sign: int) -> str:
    """The learning rate at the fixed point of the largest gradient of a sign that has one."""
    sizes, arm = sign * record.gradients, "negative" if sign < 0 else "positive"
    fixed = np.flatnonzero(record.converged & (sizes > 0))
    if not len(fixed):
        return f"no fixed point found for {arm} gradients"
    last = fixed[np.argmax(sizes[fixed])]
    share = number(sizes[last] / np.abs(record.gradients).max())
    return (
        f"{number(record.rates[last])} at the outermost fixed point for {arm} gradients "
        f"({share} of the largest)"
    )
