"""Fixed points at zero gradient, and the slow manifold around them (paper, 5.1)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lrevopt import storage
from lrevopt.analysis.fixed_points import FixedPoints, find_fixed_points
from lrevopt.analysis.linearization import Linearization, Modes, dominant_mode, local_model
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.inner_loop.sampled_states import SampledStates
from lrevopt.inner_loop.steps import run_on_gradients
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Facts, number

STARTS = 500
"""Sampled states from which fixed points are searched."""


class Convergence(eqx.Module):
    """Fixed points at zero gradient, and slow points near them (Figure 3a). Float64.

    Points are coordinates in the projection of `ProjectedStates`. *Speed* is
    `q = 1/2 ||F(h, 0) - h||^2`.

    - `fixed_point`: the one reached from most sampled states; `speed`; `spectral_radius` of its
      Jacobian.
    - `distinct`: how many different fixed points were found; `converged_share`: share of the
      searches that reached one.
    - `slow_points`, `slow_speeds`: approximate fixed points, which are sampled states iterated
      under zero gradient until little but the slowest modes was left.
    """

    fixed_point: Float[np.ndarray, " component"]
    speed: float
    spectral_radius: float
    distinct: int
    converged_share: float
    slow_points: Float[np.ndarray, "point component"]
    slow_speeds: Float[np.ndarray, " point"]

    @property
    def stable(self) -> bool:
        """Whether states near the fixed point return to it: spectral radius below 1."""
        return self.spectral_radius < 1


def linearize_at_fixed_point(
    optimizer: AbstractOptimizer, sampled: SampledStates
) -> tuple[FixedPoints, Linearization]:
    """Fixed points at zero gradient from sampled states, and F linearized at the main one."""
    cloud = sampled.states.reshape(-1, sampled.states.shape[-1])
    starts = evenly_spaced(cloud, STARTS)
    found = storage.part(
        "fixed points", FixedPoints, lambda: find_fixed_points(optimizer, starts), of=optimizer
    )
    return found, local_model(optimizer, main_fixed_point(found)[0])


def main_fixed_point(found: FixedPoints) -> tuple[Float[np.ndarray, " state"], float, float]:
    """The fixed point reached from most starts, its speed and spectral radius.

    Of several reached equally often, as on a line of fixed points, the one nearest to their
    mean. Where no search converged: the slowest point of all with a finite Jacobian, if any has.
    """
    usable = np.where(np.isfinite(found.spectral_radius), found.speeds, np.inf)
    index = int(np.argmin(usable if np.isfinite(usable).any() else found.speeds))
    if found.converged.any():
        counts = np.bincount(found.assignment[found.converged])
        most = np.flatnonzero(counts == counts.max())
        mean = found.distinct[most].mean(axis=0)
        nearest = most[np.argmin(np.linalg.norm(found.distinct[most] - mean, axis=1))]
        index = int(np.flatnonzero(found.assignment == nearest)[0])
    return found.states[index], float(found.speeds[index]), float(found.spectral_radius[index])


def slow_manifold(
    optimizer: AbstractOptimizer, states: Float[np.ndarray, "point state"], modes: Modes
) -> tuple[Float[np.ndarray, "point state"], Float[np.ndarray, " point"]]:
    """States iterated under zero gradient towards the slow manifold, and their speeds.

    After k steps every mode faster than the dominant one has decayed, to first order, to 5 %
    relative to it: `(|lambda_next| / |lambda_dominant|)^k = 0.05`. At most 100 steps are taken.
    """
    sizes = np.abs(modes.eigenvalues)
    slow = sizes[dominant_mode(modes)]
    next_one = sizes[sizes < slow * (1 - 1e-9)].max(initial=0.0)
    steps = 1
    if next_one > 0:
        steps = int(np.clip(np.ceil(np.log(0.05) / np.log(next_one / slow)), 1, 100))
    with double_precision():
        relaxed, speeds = _relax(as_double(optimizer), states, steps)
    return np.asarray(relaxed), np.asarray(speeds)


@eqx.filter_jit
def _relax(opt, states, steps):
    zeros = jnp.zeros(steps, states.dtype)
    relaxed = jax.vmap(lambda h: run_on_gradients(opt, zeros, start=h)[0])(states)
    once = jax.vmap(lambda h: opt.transition(h, zeros[0]))
    return relaxed, jnp.sum((once(relaxed) - relaxed) ** 2, axis=1) / 2


def convergence_facts(record: Convergence) -> Facts:
    """Fixed points at zero gradient, as pairs of a name and a sentence."""
    stable = "stable" if record.stable else "not stable"
    if not record.distinct:
        stable += "; no search reached a fixed point, and this is the slowest state"
    return [
        ("Fixed points without gradient", f"{record.distinct} distinct"),
        ("Searches that reached one", f"{100 * record.converged_share:.1f} %"),
        ("Fixed point", f"speed {number(record.speed)}, spectral radius "
         f"{number(record.spectral_radius)} ({stable})"),
    ]  # fmt: skip
