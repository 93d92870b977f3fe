"""Whether there is one fixed point at zero gradient, or a line of them (paper, A.4 and Figure 13).

The paper's optimizer for MNIST has a line of fixed points, along which its learning rate varies.
Such a line is rarely exact: a solver that requires a speed of 0 moves along it to the few exact
fixed points. Here, as in the paper, a search ends as soon as the speed

    q = 1/2 ||F(h, 0) - h||^2

is small, and damping keeps its steps from moving along the line. With a single fixed point,
searches end close to it; how close depends on its slowest eigenvalue.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from lrevopt.analysis.levenberg_marquardt import Damping, Fit, equations_of, marquardt_step
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.projections import fit_projection
from lrevopt.analysis.resolution import BLOCK, expand, need_limits
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import gradient_axis, rate_table, update_table
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.sampled_states import SampledStates, over_problems
from lrevopt.inner_loop.steps import run_on_gradients
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.limits import with_limits
from lrevopt.text import Facts, number, percent

SLOW = 1e-8
"""Speed, per unit of max(1, ||h||^2), of an approximate fixed point: in 200 steps the state moves
by about 3 % of its size. The authors' search stops at this mean speed, too."""

FIRST_DAMPING = 1e-2
"""Of a step, per mean squared singular value."""

DAMPING = Damping(decrease=1 / 0.9, increase=10)

ITERATIONS = 200

SHOWN = 6
"""Points of the line whose update functions are kept."""


class Manifold(eqx.Module):
    """Approximate fixed points near sampled states. Host arrays in float64.

    - `share`: share of the searches that ended in one; the others are not kept.
    - `points`: the approximate fixed points, `initial`: the initial state, and `visited`: the
      starts of the searches, all projected on the principal components of sampled states;
      `explained_variance`: shares of the components.
    - `speeds`: q. `rates`: effective learning rates. `nearest`: the Jacobian's eigenvalue that
      is nearest to 1, which is 1 along a line of fixed points.
    - `positions`: coordinate along the first principal component of the points themselves, in
      units of the root-mean-square distance of sampled states from their mean.
    - `chosen`: indices of a few points from one end to the other; `updates`: their update
      functions on the axis `gradients`.
    - `participation_ratio`: (sum v)^2 / sum v^2 of the variances v along the points' principal
      components: 1 for a line, 2 for a disc, 0 for a single point.
    - `extent`: root-mean-square distance of the points from their mean, in the same unit.
      `persistence`: extent after another run without gradient over extent before: 1 for a line
      of fixed points, towards 0 for a single one.
    - `rate_ratio`: largest over smallest learning rate; infinite if one is not positive.
    """

    share: float
    initial: Float[np.ndarray, " component"]
    explained_variance: Float[np.ndarray, " component"]
    visited: Float[np.ndarray, "search component"]
    points: Float[np.ndarray, "point component"]
    speeds: Float[np.ndarray, " point"]
    rates: Float[np.ndarray, " point"]
    nearest: Complex[np.ndarray, " point"]
    positions: Float[np.ndarray, " point"]
    chosen: Int[np.ndarray, " shown"]
    gradients: Float[np.ndarray, " grid"]
    updates: Float[np.ndarray, "shown grid"]
    participation_ratio: float
    extent: float
    persistence: float
    rate_ratio: float

    @property
    def speed_decades(self) -> float:
        """Decades between the 5 % and the 95 % quantile of the speeds; NaN for no points."""
        if not len(self.speeds):
            return float("nan")
        low, high = np.quantile(np.maximum(self.speeds, np.finfo(float).tiny), [0.05, 0.95])
        return float(np.log10(high / low))

    @property
    def largest_gap(self) -> float:
        """Largest distance between neighbours in `positions` over that between the ends.

        Of the central 90 % of the points, so that no outlier decides. Towards 0 for a line that
        points fill, near 1 for two groups with nothing between them, and NaN where all are at one
        place, or there are none.
        """
        along = np.sort(self.positions)
        beyond = len(along) // 20
        along = along[beyond : len(along) - beyond]
        length = along[-1] - along[0] if len(along) else 0.0
        return float(np.diff(along).max() / length) if length > 0 else float("nan")


def measure_manifold(
    optimizer: AbstractOptimizer, sampled: SampledStates, searches: int = 300
) -> Manifold:
    """Search for approximate fixed points from `searches` sampled states.

    Where none is found, arrays are empty and ratios NaN. Raises `ValueError` for less than 1
    search.
    """
    searches = positive_integer("searches", searches)
    steps = sampled.gradients.shape[1]
    cloud = sampled.states.reshape(-1, sampled.states.shape[-1])
    with double_precision():
        opt = as_double(optimizer)
        starts = evenly_spaced(cloud, searches)
        limits = need_limits(opt, starts, np.zeros(len(starts)))
        searched = _descend(opt, jnp.asarray(starts), limits)
        states, speeds, slow = (np.asarray(part) for part in searched)
        states, speeds = states[slow], speeds[slow]
        later = np.asarray(_futures(opt, states, steps))
        nearest = _nearest_to_one(opt, states)
    variances, positions = _own_components(states)
    rates = rate_table(optimizer, states)
    chosen = _along(positions)
    gradients = gradient_axis(sampled.pooled_gradients)
    projection = fit_projection(evenly_spaced(cloud, 100_000))
    extent, unit = _size(states), _size(cloud)
    return Manifold(
        share=float(slow.mean()),
        initial=projection(np.asarray(optimizer.initial_state(), float)),
        explained_variance=projection.explained_variance,
        visited=projection(evenly_spaced(cloud, searches)),
        points=projection(states),
        speeds=speeds,
        rates=rates,
        nearest=nearest,
        positions=positions / unit if unit > 0 else positions,
        chosen=chosen,
        gradients=gradients,
        updates=update_table(optimizer, states[chosen], gradients),
        participation_ratio=_participation(variances),
        extent=_over(extent, unit),
        persistence=_over(_size(later), extent),
        rate_ratio=_largest_over_smallest(rates),
    )


def _own_components(
    states: Float[np.ndarray, "point state"],
) -> tuple[Float[np.ndarray, " component"], Float[np.ndarray, " point"]]:
    """Variances of points along their principal components, and coordinates along the first."""
    if not len(states):
        return np.zeros(0), np.zeros(0)
    away = states - states.mean(axis=0)
    left, singular, right = np.linalg.svd(away, full_matrices=False)
    # The sign of a component is arbitrary: its largest entry is made positive.
    sign = np.sign(right[0, np.argmax(np.abs(right[0]))]) or 1.0
    # Without the round-off of the mean.
    singular = np.where(singular > 1e-12 * np.linalg.norm(states), singular, 0.0)
    return singular**2 / len(states), sign * singular[0] * left[:, 0]


def _along(positions: Float[np.ndarray, " point"]) -> Int[np.ndarray, " shown"]:
    """Indices of points at about even distances from one end to the other."""
    if not len(positions):
        return np.zeros(0, int)
    wanted = np.linspace(positions.min(), positions.max(), SHOWN)
    nearest = np.argmin(np.abs(positions - wanted[:, None]), axis=1)
    return np.array(list(dict.fromkeys(nearest.tolist())))


def _participation(variances: Float[np.ndarray, " component"]) -> float:
    total = np.sum(variances**2)
    return float(np.sum(variances) ** 2 / total) if total > 0 else 0.0


def _size(states: Float[np.ndarray, "point state"]) -> float:
    """Root-mean-square distance from the mean; NaN for no points."""
    return float(np.sqrt(states.var(axis=0).sum())) if len(states) else np.nan


def _over(first: float, second: float) -> float:
    return first / second if second > 0 else np.nan


def _largest_over_smallest(rates: Float[np.ndarray, " point"]) -> float:
    if not len(rates):
        return np.nan
    return float(rates.max() / rates.min()) if rates.min() > 0 else np.inf


def _nearest_to_one(
    opt: AbstractOptimizer, states: Float[np.ndarray, "point state"]
) -> Complex[np.ndarray, " point"]:
    """The eigenvalue of each Jacobian that is nearest to 1; NaN where it is not finite."""
    nearest = np.full(len(states), complex(np.nan, np.nan))
    if not len(states):
        return nearest
    found = expand(opt, states, np.zeros(len(states)))
    sound = np.isfinite(found.recurrent).all(axis=(1, 2))
    eigenvalues = np.linalg.eigvals(found.recurrent[sound]).astype(complex)
    best = np.argmin(np.abs(eigenvalues - 1), axis=1)[:, None]
    nearest[sound] = np.take_along_axis(eigenvalues, best, axis=1)[:, 0]
    return nearest


@eqx.filter_jit
def _futures(opt, states, steps):
    zeros = jnp.zeros(steps, states.dtype)
    return jax.vmap(lambda h: run_on_gradients(opt, zeros, start=h)[0])(states)


@eqx.filter_jit
def _descend(
    opt: AbstractOptimizer, starts: Float[Array, "point state"], limits: bool
) -> tuple[Float[Array, "point state"], Float[Array, " point"], Bool[Array, " point"]]:
    """Levenberg-Marquardt steps from each start, until its speed is small.

    Damping keeps the first steps from moving along slow directions. It decreases, so that states
    that are not yet slow still converge.
    """
    zero = jnp.zeros((), starts.dtype)

    def residual(state: Array) -> Array:
        return opt.transition(state, zero) - state

    def speed(state: Array) -> Array:
        change = residual(state)
        return change @ change / 2

    def moving(state: Array, q: Array) -> Array:
        return q > SLOW * jnp.maximum(1.0, state @ state)

    def step(carry: tuple[Fit, Any]) -> tuple[Fit, Any]:
        fit, iteration = carry
        state, jacobian = fit.point, jax.jacfwd(residual)
        R, A = residual(state), with_limits(jacobian, state) if limits else jacobian(state)
        return marquardt_step(fit, equations_of(R, A), speed, DAMPING), iteration + 1

    def search(start: Array) -> tuple[Array, Array, Array]:
        begin = Fit(start, speed(start), jnp.asarray(FIRST_DAMPING, start.dtype)), 0
        (state, q, _), _ = lax.while_loop(
            lambda carry: moving(*carry[0][:2]) & (carry[1] < ITERATIONS), step, begin
        )
        return state, q, ~moving(state, q)

    # A block takes as long as its slowest search.
    return over_problems(search, starts, BLOCK)


def manifold_facts(record: Manifold) -> Facts:
    """Approximate fixed points, as pairs of a name and a sentence."""
    facts = [
        ("Approximate fixed points", f"{percent(record.share)} of searches end in one; their "
         f"extent is {percent(record.extent)} of that of sampled states, their participation ratio "
         f"{number(record.participation_ratio)}, and {percent(record.persistence)} of the extent "
         "is left after another run without gradient"),
    ]  # fmt: skip
    if record.rates.size:
        low, high = float(record.rates.min()), float(record.rates.max())
        facts.append(("Effective learning rate along them", f"{number(low)} to {number(high)}"))
    return facts
