"""Attractors without gradients, the number of momenta at each, and responses to large gradients.

Measures that do not mislead where those of the paper's figures do:

- attractors and basins, by iterating F(h, 0) from visited states, where the figures' search for
  fixed points also finds saddles;
- the order of the dynamics, by Hankel values and fits by momenta (see `responses`), where shares
  of eigenmodes mislead if eigenvectors are nearly parallel;
- the error of linearization at the attractor in which each state ends, where one expansion for all
  states counts a second attractor as an error;
- update functions on a logarithmic axis, at the initial state and in the steady state that each
  gradient would hold: gradients span decades, and on a linear axis all that happens near the knee
  lies between two points;
- how fast the *learning rate* changes under a held gradient. The half-life of the state does not
  measure adaptation: plain momentum has one too, although its learning rate never changes.
"""

import contextlib
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from lrevopt.analysis.adaptation import held_gradients
from lrevopt.analysis.attractors import Attractors, ends_of, find_attractors
from lrevopt.analysis.convergence import linearize_at_fixed_point
from lrevopt.analysis.fixed_points import count_distinct
from lrevopt.analysis.linearization import Linearization, local_model
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.responses import hankel_values, momentum_fit
from lrevopt.analysis.small_states import unit_of
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import rate_table, transition_table, update_table
from lrevopt.inner_loop.sampled_states import SampledStates
from lrevopt.inner_loop.steps import visited_states
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Facts, complex_number, number, percent

VISITED, LATE = 300, 500
"""Sampled states of which the basin is determined, of whole runs and of their last quarters."""

KEPT = 8
"""Attractors that are analysed, those with the largest basins."""

WIDE = 81
"""Points of a logarithmic gradient axis, from 10^-4 of the largest gradient to the largest."""

HELD_STEPS = 5_000
"""Updates that a state is given to settle under a held gradient."""

HELD_STARTS = 6
"""Sampled states from which each held gradient starts, beside the initial state and attractor."""

CHANGED = 0.1
"""Relative change of a learning rate below which it has no half-life: nothing adapts."""


class Dynamics(eqx.Module):
    """Attractors, their order, and answers to large gradients. Host arrays in float64.

    Attractors are those at zero gradient, the one with the largest basin first, 8 at most.

    - `count`: number of attractors; `marginal`: how many of them lie on a line (see `Attractors`).
    - `shares`: of sampled states of test runs that end in each; `unsettled`: share that ends in
      none; `spectral_radius` at each.
    - `hankel`: the first three Hankel values of each over the largest; NaN where they do not exist.
    - `one_rate`, `one_momentum`, `one_residual`: the best fit by one momentum; `two_rates`,
      `two_momenta`, `two_residual`: by two (of an optimizer of one coordinate, the same and 0).
    - `linear_error`: relative error of the linearized transition over the last quarter of test
      runs, each state linearized at the attractor in which it ends,
      `||F - F_linear|| / ||F - h*||` (root mean squares); `linear_share`: share of these states
      that end in an attractor. The error is of these alone, NaN if there is none.
    - `gradients`: a logarithmic axis of gradient sizes up to the largest pooled one. First row of
      the following: gradients of negative sign; second: of positive sign.
    - `initial_updates`: updates `w . F(h, g)` of the initial state; `zero_updates`: of the initial
      state and of the first attractor at gradient 0.
    - `steady_updates`: updates where each gradient has been held until nothing moves; NaN where
      the state has not settled after 5,000 updates.
    - `held`: the held gradients of the S-curve, ascending; `held_attractors`: in how many different
      attractors the starts end (the initial state, the attractor, sampled states); `held_settled`:
      whether all of them end in one.
    - `rate_change`: learning rate after a test run's length of each held gradient over that at the
      start, both at zero gradient; `rate_half_steps`: updates until half of the change is done, NaN
      where it is below 10 %.
    """

    count: int
    marginal: int
    shares: Float[np.ndarray, " attractor"]
    unsettled: float
    spectral_radius: Float[np.ndarray, " attractor"]
    hankel: Float[np.ndarray, "attractor 3"]
    one_rate: Float[np.ndarray, " attractor"]
    one_momentum: Float[np.ndarray, " attractor"]
    one_residual: Float[np.ndarray, " attractor"]
    two_rates: Complex[np.ndarray, "attractor 2"]
    two_momenta: Complex[np.ndarray, "attractor 2"]
    two_residual: Float[np.ndarray, " attractor"]
    linear_error: float
    linear_share: float
    gradients: Float[np.ndarray, " wide"]
    initial_updates: Float[np.ndarray, "2 wide"]
    zero_updates: Float[np.ndarray, "2"]
    steady_updates: Float[np.ndarray, "2 wide"]
    held: Float[np.ndarray, " held"]
    held_attractors: Int[np.ndarray, " held"]
    held_settled: Bool[np.ndarray, " held"]
    rate_change: Float[np.ndarray, " held"]
    rate_half_steps: Float[np.ndarray, " held"]


def measure_dynamics(optimizer: AbstractOptimizer, sampled: SampledStates) -> Dynamics:
    """Measure an optimizer's attractors and responses, from sampled states of its test runs."""
    steps = sampled.gradients.shape[1]
    visited = evenly_spaced(sampled.states.reshape(-1, sampled.states.shape[-1]), VISITED)
    late, gradients = _late(sampled)
    found = find_attractors(optimizer, np.concatenate([visited, late]))
    first, last = found.ends[: len(visited)], found.ends[len(visited) :]
    shares = np.bincount(first[first >= 0], minlength=len(found.states)) / len(visited)
    order = np.argsort(-shares, kind="stable")[:KEPT]
    models = [local_model(optimizer, found.states[index]) for index in order]
    error, share = _linear_error(optimizer, found, late, gradients, last)
    orders = [_order(model) for model in models]
    point = found.states[order[0]] if len(order) else _fallback(optimizer, sampled)
    magnitude = np.abs(sampled.pooled_gradients)
    largest = float(magnitude.max()) or 1.0
    far = float(np.quantile(magnitude, 0.999)) or 1.0
    axis = np.geomspace(1e-4 * largest, largest, WIDE)
    held = held_gradients(far)
    count, settled = _held_ends(optimizer, point, evenly_spaced(visited, HELD_STARTS), held)
    change, half = _rates_under(optimizer, point, held, steps)
    start = np.asarray(optimizer.initial_state(), float)
    signed = np.concatenate([-axis, axis])
    return Dynamics(
        count=len(found.states),
        marginal=int(found.marginal.sum()),
        shares=shares[order],
        unsettled=float(np.mean(first < 0)),
        spectral_radius=found.spectral_radius[order],
        **{name: _stacked(orders, name) for name in _Order._fields},
        linear_error=error,
        linear_share=share,
        gradients=axis,
        initial_updates=update_table(optimizer, start[None], signed)[0].reshape(2, -1),
        zero_updates=update_table(optimizer, np.stack([start, point]), np.zeros(1))[:, 0],
        steady_updates=_steady(optimizer, point, signed).reshape(2, -1),
        held=held,
        held_attractors=count,
        held_settled=settled,
        rate_change=change,
        rate_half_steps=half,
    )


def _late(
    sampled: SampledStates,
) -> tuple[Float[np.ndarray, "late state"], Float[np.ndarray, " late"]]:
    """States of the last quarters of test runs, and the gradients that each meets."""
    first = sampled.gradients.shape[1] * 3 // 4
    states = sampled.states[:, first:-1].reshape(-1, sampled.states.shape[-1])
    return evenly_spaced(states, LATE), evenly_spaced(sampled.gradients[:, first:].ravel(), LATE)


def _fallback(optimizer: AbstractOptimizer, sampled: SampledStates) -> Float[np.ndarray, " state"]:
    """The point that a solver finds most often, of an optimizer that settles nowhere."""
    return linearize_at_fixed_point(optimizer, sampled)[1].state


class _Order(NamedTuple):
    """How many momenta one attractor is: fields of `Dynamics` for one of its rows."""

    hankel: Float[np.ndarray, "3"]
    one_rate: float
    one_momentum: float
    one_residual: float
    two_rates: Complex[np.ndarray, "2"]
    two_momenta: Complex[np.ndarray, "2"]
    two_residual: float


SHAPES = {"hankel": (3,), "two_rates": (2,), "two_momenta": (2,)}


def _stacked(orders: list[_Order], name: str) -> np.ndarray:
    kind = complex if name in ("two_rates", "two_momenta") else float
    rows = [getattr(order, name) for order in orders]
    return np.array(rows, kind).reshape(len(orders), *SHAPES.get(name, ()))


def _order(model: Linearization) -> _Order:
    size = len(model.input)
    hankel = np.full(3, np.nan)
    with contextlib.suppress(ValueError):  # modes of the response that do not fade
        hankel = np.append(hankel_values(model), np.zeros(3))[:3]
    one, two = momentum_fit(model), momentum_fit(model, min(size, 2))
    rates, momenta = np.zeros(2, complex), np.zeros(2, complex)
    rates[: min(size, 2)], momenta[: min(size, 2)] = two.learning_rates, two.eigenvalues
    rate, momentum = float(one.learning_rates[0].real), float(one.eigenvalues[0].real)
    return _Order(hankel, rate, momentum, one.residual, rates, momenta, two.residual)


def _linear_error(
    optimizer: AbstractOptimizer,
    found: Attractors,
    states: Float[np.ndarray, "late state"],
    gradients: Float[np.ndarray, " late"],
    ends: Int[np.ndarray, " late"],
) -> tuple[float, float]:
    """Relative error of linearization at each state's own attractor, and share that has one."""
    true = transition_table(optimizer, states, gradients)
    missed = distance = 0.0
    for index in np.unique(ends[ends >= 0]):
        own = ends == index
        model = local_model(optimizer, found.states[index])
        away = (states[own] - model.state) @ model.recurrent.T
        linear = model.next_state + away + gradients[own, None] * model.input
        missed += float(np.sum((true[own] - linear) ** 2))
        distance += float(np.sum((true[own] - model.state) ** 2))
    share = float(np.mean(ends >= 0))
    if not share:
        return np.nan, share
    return (float(np.sqrt(missed / distance)) if distance > 0 else 0.0), share


def _held_ends(
    optimizer: AbstractOptimizer,
    point: Float[np.ndarray, " state"],
    visited: Float[np.ndarray, "visited state"],
    held: Float[np.ndarray, " held"],
) -> tuple[Int[np.ndarray, " held"], Bool[np.ndarray, " held"]]:
    """In how many attractors the starts end under each held gradient, and whether all end."""
    start = np.asarray(optimizer.initial_state(), float)
    starts = np.concatenate([start[None], point[None], visited])
    every = np.tile(starts, (len(held), 1))
    points, _, ends = ends_of(optimizer, every, np.repeat(held, len(starts)), HELD_STEPS)
    points, ends = points.reshape(len(held), *starts.shape), ends.reshape(len(held), -1)
    unit = unit_of(optimizer, every, np.repeat(held, len(starts)))
    pairs = zip(points, ends, strict=True)
    count = np.array([count_distinct(*pair, unit) for pair in pairs], int)
    return count, np.asarray(ends.all(axis=1))


def _steady(
    optimizer: AbstractOptimizer,
    point: Float[np.ndarray, " state"],
    gradients: Float[np.ndarray, " wide"],
) -> Float[np.ndarray, " wide"]:
    """Updates in the attractor of each held gradient, reached from `point`; NaN where none is."""
    starts = np.tile(point, (len(gradients), 1))
    points, _, ends = ends_of(optimizer, starts, gradients, HELD_STEPS)
    updates = transition_table(optimizer, points, gradients) @ np.asarray(optimizer.readout, float)
    return np.where(ends, updates, np.nan)


def _rates_under(
    optimizer: AbstractOptimizer,
    point: Float[np.ndarray, " state"],
    held: Float[np.ndarray, " held"],
    steps: int,
) -> tuple[Float[np.ndarray, " held"], Float[np.ndarray, " held"]]:
    """Change of the learning rate under each held gradient, and updates until half of it."""
    with double_precision():
        paths = np.asarray(_held_paths(as_double(optimizer), point, held, steps))
    rates = rate_table(optimizer, paths.reshape(-1, len(point))).reshape(len(held), -1)
    first, last = rates[:, :1], rates[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        change = (last / first)[:, 0]
        done = (rates - first) / (last - first) >= 0.5
    half = np.where(np.abs(change - 1) >= CHANGED, done.argmax(axis=1), np.nan)
    return change, half


@eqx.filter_jit
def _held_paths(opt, point, gradients, steps):
    return jax.vmap(lambda g: visited_states(opt, jnp.full(steps, g), start=point))(gradients)


def dynamics_facts(record: Dynamics) -> Facts:
    """Attractors and their order, as pairs of a name and a sentence."""
    line = f", {record.marginal} of them on a line" if record.marginal else ""
    shares = ", ".join(percent(float(share)) for share in record.shares)
    facts = [
        ("Attractors without gradient", f"{record.count}{line}; sampled states end there: "
         f"{shares or 'none'}; {percent(record.unsettled)} end in none"),
        ("Error of linearization, each state at its own attractor", number(record.linear_error)),
    ]  # fmt: skip
    for place in range(len(record.shares)):
        name = f"Attractor {place + 1}" if len(record.shares) > 1 else "Attractor"
        facts.append((name, order_in_words(record, place)))
    return facts


def order_in_words(record: Dynamics, place: int) -> str:
    """How many momenta an attractor is: its Hankel values and its fits by one and two momenta."""
    hankel = ", ".join(number(float(value)) for value in record.hankel[place])
    one = f"({number(float(record.one_rate[place]))}, {number(float(record.one_momentum[place]))})"
    two = " and ".join(
        f"({complex_number(complex(rate))}, {complex_number(complex(momentum))})"
        for rate, momentum in zip(record.two_rates[place], record.two_momenta[place], strict=True)
    )
    return (
        f"Hankel values {hankel}; the best one momentum {one} (learning rate, momentum) misses "
        f"{percent(float(record.one_residual[place]))} of the impulse response, the best two {two} "
        f"miss {percent(float(record.two_residual[place]))}"
    )
