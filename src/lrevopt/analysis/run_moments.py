"""One run, analysed at selected steps: update functions, learning rates and modes along it.

At each selected step k, and for each sampled parameter with state h^k and gradient g^k:

    update function      g -> w . F(h^k, g)
    learning rate        minus its slope at g = 0
    modes                eigenvalues of dF/dh at (h^k, 0), with the learning rate of each

The distribution of gradients is that of all parameters. The numbers are what the page of
`lrevopt.explore` shows.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Complex, Float, Int, Key

from lrevopt.analysis.linearization import Linearization, eigenmodes, local_model
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import rate_table, transition_table, update_table
from lrevopt.checks import positive_integer, random_key
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.inner_loop.sampled_states import choose
from lrevopt.inner_loop.steps import run_on_problems, start_of_runs
from lrevopt.optimizers.interface import (
    AbstractOptimizer,
    AbstractParameterOptimizer,
    state_size,
)
from lrevopt.optimizers.wrappers import at_parameter
from lrevopt.tasks.interface import AbstractTask, group_spans

MOST_PARAMETERS = 12
"""Parameters that can be told apart in one picture."""

MOST_MODES = 32
"""Modes kept of each state, the slowest."""

GRID = 61
"""Gradients at which update functions are evaluated, symmetric about 0."""

LOWEST, HIGHEST, BINS_PER_DECADE = -40, 40, 5
"""Range and resolution of log10 |gradient|; what lies outside counts in the first or last bin."""


class RunMoments(eqx.Module):
    """An optimizer's states along one run, and what it does in each. Host arrays in float64.

    `parameters` names the sampled parameters, `group[17]` or `x[17]`, and `groups` the group of
    each (index into `group_names`). `steps` counts updates: moment j is the state that has made
    `steps[j]` updates, and the gradient that it meets next.

    - `losses`: loss before each update and after the last, up to the first that is not finite.
    - `states`, `gradients`, `rates`: state, gradient, and effective learning rate at gradient 0
      (NaN where the derivative is not finite).
    - `ranges`: half-width of the gradients at which `updates` are evaluated at each moment:
      `ranges[j] * linspace(-1, 1, grid)`. `whole_range` and `whole_updates`: the same on one range
      for the whole run.
    - `met_updates`: updates that the gradients of the moment cause.
    - `eigenvalues`: of the Jacobian at gradient 0, slowest first; NaN where it is not finite.
      `mode_rates`: learning rate of each mode; NaN also where the Jacobian is near-defective.
    - `log10_edges`, `counts`: histogram of log10 |gradient| over all parameters of each group;
      `total_counts` over all parameters of the problem. `zeros`, `total_zeros`: the number that is
      exactly 0, which is in no bin.
    - `group_sizes`, `dim`, `state_size`: numbers of parameters and of state coordinates.
    - `diverged_at`: number of updates after which loss, gradients or states are no longer finite;
      None if they stay so for all `planned_steps` updates. Moments stop before it.
    """

    parameters: tuple[str, ...] = eqx.field(static=True)
    groups: tuple[int, ...] = eqx.field(static=True)
    group_names: tuple[str, ...] = eqx.field(static=True)
    group_sizes: tuple[int, ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    planned_steps: int = eqx.field(static=True)
    diverged_at: int | None = eqx.field(static=True)
    steps: Int[np.ndarray, " moment"]
    losses: Float[np.ndarray, " visited"]
    states: Float[np.ndarray, "moment parameter state"]
    gradients: Float[np.ndarray, "moment parameter"]
    rates: Float[np.ndarray, "moment parameter"]
    ranges: Float[np.ndarray, " moment"]
    updates: Float[np.ndarray, "moment parameter grid"]
    whole_range: float
    whole_updates: Float[np.ndarray, "moment parameter grid"]
    met_updates: Float[np.ndarray, "moment parameter"]
    eigenvalues: Complex[np.ndarray, "moment parameter mode"]
    mode_rates: Complex[np.ndarray, "moment parameter mode"]
    log10_edges: Float[np.ndarray, " edge"]
    counts: Int[np.ndarray, "moment group bin"]
    zeros: Int[np.ndarray, "moment group"]
    total_counts: Int[np.ndarray, "moment bin"]
    total_zeros: Int[np.ndarray, " moment"]


def check_counts(steps: int, moments: int, parameters: int) -> tuple[int, int]:
    """Steps and moments. Raises `ValueError` for counts that `measure_run_moments` refuses."""
    steps = positive_integer("steps", steps)
    moments = positive_integer("moments", moments)
    if positive_integer("parameters", parameters) > MOST_PARAMETERS:
        raise ValueError(f"`parameters` must be at most {MOST_PARAMETERS}, got {parameters}.")
    return steps, moments


def measure_run_moments(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    steps: int = 200,
    moments: int = 48,
    parameters: int = 8,
) -> RunMoments:
    """Run an optimizer on one problem and analyse it at about `moments` steps.

    Half of the moments are evenly spaced over the `steps` updates, half logarithmically. At most
    `parameters` parameters are sampled: as many of each group where the task has groups, else of
    all. The same key draws the same problem and parameters for every optimizer. An optimizer that
    takes x is analysed at the value that the parameter has in that moment. Memory does not grow
    with the size of the problem beyond what one update needs.

    Raises `ValueError` for counts below 1, more than 12 parameters, a task whose loss is not a
    scalar, or one whose loss or gradient is not finite at the start.
    """
    steps, moments = check_counts(steps, moments, parameters)
    check_run(optimizer, task, key)
    problem_key, parameter_key = jr.split(random_key("key", key))
    problem = task.sample(problem_key)
    size, dim = state_size(optimizer), problem.initial_parameters.size
    names, spans, chosen, groups = sampled_parameters(task, dim, parameters, parameter_key)
    found = _run(optimizer, task, problem, steps, (jnp.asarray(chosen), tuple(spans.values())))
    losses, places, states, gradients, counts, finite = (np.asarray(part) for part in found)
    good = finite & np.isfinite(losses)
    last = len(good) if good.all() else int(np.argmin(good))
    if last == 0:
        raise ValueError(
            f"`task` must have a finite loss and gradient at its initial parameters, but "
            f"{type(task).__name__} has the loss {losses[0]:.3g} there."
        )
    at = selected_steps(steps, moments)
    at = np.unique(np.append(at[at < last], last - 1))
    edges, counts, zeros = _trimmed(counts[at])
    return RunMoments(
        parameters=names,
        groups=groups,
        group_names=tuple(spans),
        group_sizes=tuple(len(span) for span in spans.values()),
        dim=dim, state_size=size, planned_steps=steps,
        diverged_at=None if last > steps else last,
        steps=at,
        losses=losses[:last].astype(float),
        log10_edges=edges,
        counts=counts[:, :-1],
        zeros=zeros[:, :-1],
        total_counts=counts[:, -1],
        total_zeros=zeros[:, -1],
        **_analysed(optimizer, *(part[at].astype(float) for part in (places, states, gradients))),
    )  # fmt: skip


def selected_steps(steps: int, count: int) -> Int[np.ndarray, " moment"]:
    """At most `count` (but both ends) of the steps 0, ..., `steps`: half evenly spaced, half by
    powers, so that the fast beginning is resolved.
    """
    half = max(1, count // 2)
    evenly, powers = np.linspace(0, steps, half), np.geomspace(1, steps, half)
    return np.unique(np.concatenate([[0, steps], evenly.round(), powers.round()]).astype(int))


def sampled_parameters(
    task: AbstractTask, dim: int, count: int, key: Key[Array, ""]
) -> tuple[tuple[str, ...], dict[str, range], list[int], tuple[int, ...]]:
    """Names of sampled parameters, the groups that they are of, and the indices of both.

    A task with more groups than `count` gives evenly spaced groups.
    """
    every = group_spans(task, dim)
    spans = {name: every[name] for name in evenly_spaced(np.array(list(every), object), count)}
    each = count // len(spans)
    names: list[str] = []
    chosen: list[int] = []
    groups: list[int] = []
    for index, (name, span) in enumerate(spans.items()):
        picked = sorted(np.asarray(choose(jr.fold_in(key, index), span, each)).tolist())
        label = "x" if len(every) == 1 else name
        names += [f"{label}[{span.index(place)}]" for place in picked]
        chosen += picked
        groups += [index] * len(picked)
    return tuple(names), spans, chosen, tuple(groups)


@eqx.filter_jit
def _run(optimizer, task, problem, steps, sampled):
    """Losses, the chosen parameters, states and gradients, counts of log10 |gradient| for each
    group and for all, and whether all is finite, before each of `steps + 1` updates.
    """
    problems = jax.tree.map(lambda leaf: leaf[None], problem)
    chosen, spans = sampled
    places = [*(slice(s.start, s.stop, s.step) for s in spans), slice(None)]

    def keep(carry, losses, gradients):
        parameters, states, gradients = carry[0][0], carry[1], gradients[0]
        counts = jnp.stack([_log_counts(gradients[place]) for place in places])
        finite = jnp.isfinite(gradients).all() & jnp.isfinite(states).all()
        return losses[0], parameters[chosen], states[:, chosen].T, gradients[chosen], counts, finite

    begin = start_of_runs(optimizer, problems)
    length = steps + 1
    return run_on_problems(optimizer, task, problems, begin, first=0, length=length, keep=keep)[1]


def _log_counts(gradients: Float[Array, " _"]) -> Int[Array, " _"]:
    """Number of gradients that are 0, and then in each bin of log10 |gradient|."""
    size = jnp.abs(gradients)
    bins = (HIGHEST - LOWEST) * BINS_PER_DECADE
    decades = jnp.log10(jnp.where(size > 0, size, 1.0))
    place = jnp.floor((decades - LOWEST) * BINS_PER_DECADE).astype(jnp.int32)
    index = jnp.where(size > 0, 1 + jnp.clip(place, 0, bins - 1), 0)
    return jnp.zeros(bins + 1, jnp.int32).at[index].add(1)


def _trimmed(
    counts: Int[np.ndarray, "moment group _"],
) -> tuple[Float[np.ndarray, " edge"], Int[np.ndarray, "moment group bin"], Any]:
    """Edges and counts of the bins that are ever used, and the number of zeros."""
    zeros, bins = counts[..., 0], counts[..., 1:]
    used = np.flatnonzero(bins.any(axis=(0, 1)))
    first, last = (used[0], used[-1] + 1) if used.size else (0, 1)
    edges = LOWEST + np.arange(first, last + 1) / BINS_PER_DECADE
    return edges, bins[..., first:last], zeros


def _analysed(
    optimizer: AbstractOptimizer,
    places: Float[np.ndarray, "moment parameter"],
    states: Float[np.ndarray, "moment parameter state"],
    gradients: Float[np.ndarray, "moment parameter"],
) -> dict[str, Any]:
    """Fields of `RunMoments` that follow from parameters, states and gradients."""
    shape, size = states.shape[:2], states.shape[2]
    flat, met = states.reshape(-1, size), gradients.ravel()
    largest = np.abs(gradients).max(axis=1)
    scale = float(np.quantile(largest, 0.9)) or float(largest.max()) or 1.0
    # Where every sampled gradient is 0, the whole run's range.
    ranges = 1.1 * np.where(largest > 0, largest, scale)
    reach, whole_range = np.repeat(ranges, shape[1]), 1.1 * scale
    base = np.linspace(-1, 1, GRID)
    updates, whole_updates = np.empty((2, len(flat), GRID))
    moved, learning_rates = np.empty_like(flat), np.empty(len(flat))
    modes: list[Any] = []
    for held, points in _held(optimizer, places.ravel()):
        for wide in np.unique(reach[points]):
            these = points[reach[points] == wide]
            updates[these] = update_table(held, flat[these], wide * base)
        whole_updates[points] = update_table(held, flat[points], whole_range * base)
        moved[points] = transition_table(held, flat[points], met[points])
        learning_rates[points] = rate_table(held, flat[points])
        modes += [modes_at(held, state) for state in flat[points]]
    eigenvalues, rates = (np.array(part) for part in zip(*modes, strict=True))
    return {
        "states": states,
        "gradients": gradients,
        "rates": np.where(np.isfinite(learning_rates), learning_rates, np.nan).reshape(shape),
        "ranges": ranges,
        "updates": updates.reshape(*shape, GRID),
        "whole_range": whole_range,
        "whole_updates": whole_updates.reshape(*shape, GRID),
        "met_updates": (moved @ np.asarray(optimizer.readout, float)).reshape(shape),
        "eigenvalues": eigenvalues.reshape(*shape, -1),
        "mode_rates": rates.reshape(*shape, -1),
    }


def _held(
    optimizer: AbstractOptimizer, places: Float[np.ndarray, " point"]
) -> list[tuple[AbstractOptimizer, Int[np.ndarray, " _"]]]:
    """The optimizer with all points, or, where it takes x, held at the x of each of them."""
    if isinstance(optimizer, AbstractParameterOptimizer):
        return [(at_parameter(optimizer, x), np.array([k])) for k, x in enumerate(places)]
    return [(optimizer, np.arange(len(places)))]


def modes_at(
    optimizer: AbstractOptimizer, state: Float[np.ndarray, " state"]
) -> tuple[Complex[np.ndarray, " mode"], Complex[np.ndarray, " mode"]]:
    """Eigenvalues and learning rates of the (at most 32) slowest modes at zero gradient.

    Rates are NaN where the Jacobian is near-defective, all is NaN where it is not finite.
    """
    kept = min(len(state), MOST_MODES)
    unknown = np.full(kept, complex(math.nan, math.nan))
    model: Linearization = local_model(optimizer, state)
    if not model.differentiable:
        return unknown, unknown
    try:
        modes = eigenmodes(model)
    except ValueError:
        eigenvalues = np.linalg.eigvals(model.recurrent).astype(complex)
        slowest = np.argsort(-np.abs(eigenvalues), kind="stable")
        return eigenvalues[slowest][:kept], unknown
    return modes.eigenvalues[:kept], modes.learning_rates[:kept].astype(complex)
