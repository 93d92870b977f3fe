"""Fits of white boxes: to updates by Levenberg-Marquardt, to losses in closed loop by Adam.

Both run from many starts side by side.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Key, PyTree

from lrevopt.analysis.levenberg_marquardt import Damping, Equations, Fit, marquardt_step
from lrevopt.inner_loop.adjoint import unroll_losses
from lrevopt.inner_loop.recorded_runs import RecordedRuns, replayed, residuals, typical_of
from lrevopt.inner_loop.sampled_states import AllDivergedError
from lrevopt.inner_loop.unroll import run_all
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.stacking import stacked, unstacked
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import NUMBERS_OF, reordered
from lrevopt.optimizers.white_box_numbers import head_of
from lrevopt.studies.distillation.starts import random_boxes
from lrevopt.tasks.interface import AbstractTask, sample_problems

LONGEST = 2.0
"""Largest change of a coordinate in one step of a fit."""

DAMPING = Damping(decrease=5, increase=4, least=1e-14, most=1e12)

FINALISTS, TRIAL = 8, 25
"""Random white boxes of each start that are tried, and steps of the fit that each of them takes."""

ROUND_OFF = 1e-18
"""Share of the squared updates below which a fit leaves nothing but round-off."""

NULL = 1e-6
"""Singular values of the Jacobian below this share of the largest say that a direction of numbers
changes no update: it is not identifiable."""

LOADING = 1e-2
"""A number is not identifiable if more than this share of its unit vector lies in such
directions."""

CLOSE = 1e-3
"""Losses below this share of the first count as equal in closed loop; those below 0 as 0."""


def best_starts(
    box: WhiteBox, recorded: RecordedRuns, *, starts: int, candidates: int, key: Key[Array, ""]
) -> WhiteBox:
    """Random white boxes to fit from, stacked, one for each start.

    A start draws `candidates` white boxes, each with the learning rate that fits the updates best.
    The best `FINALISTS` of them take `TRIAL` steps of the fit, and the best of these is the start.
    """
    drawn = random_boxes(box, starts * candidates, typical_of(recorded.gradients), key=key)
    return _selected(drawn, recorded, starts, candidates)


def _selected(drawn: WhiteBox, recorded: RecordedRuns, starts: int, candidates: int) -> WhiteBox:
    """The start that `candidates` drawn white boxes each lead to."""
    drawn, costs = _with_best_rates(drawn, recorded)
    few = _best_of_each(drawn, costs, starts, min(FINALISTS, candidates))
    return _best_of_each(*fit_updates(few, recorded, TRIAL), starts, 1)


def _best_of_each(boxes: WhiteBox, costs: Float[Array, " box"], starts: int, count: int) -> Any:
    """The `count` white boxes of least cost of each start; those of a start stand together."""
    table = np.where(np.isfinite(costs), costs, np.inf).reshape(starts, -1)
    best = np.argsort(table, axis=1, kind="stable")[:, :count]
    rows = (np.arange(starts)[:, None] * table.shape[1] + best).reshape(-1)
    return jax.tree.map(lambda leaf: leaf[rows] if eqx.is_array(leaf) else leaf, boxes)


@eqx.filter_jit
def _with_best_rates(boxes: WhiteBox, recorded: RecordedRuns) -> tuple[WhiteBox, Array]:
    arrays, others = eqx.partition(boxes, eqx.is_array)

    def one(leaves: PyTree) -> tuple[PyTree, Array]:
        box = eqx.combine(leaves, others)
        found = replayed(box, recorded.gradients) / recorded.scale[:, None]
        wanted = recorded.updates / recorded.scale[:, None]
        factor = jnp.sum(found * wanted) / jnp.sum(found**2)
        factor = jnp.where(factor > 0, factor, 1.0)
        rate = box.coordinates["learning_rate"]
        if eqx.is_array(rate):
            box = eqx.tree_at(lambda b: b.coordinates["learning_rate"], box, rate + jnp.log(factor))
            found = factor * found
        return eqx.filter(box, eqx.is_array), jnp.sum((found - wanted) ** 2)

    leaves, costs = lax.map(one, arrays, batch_size=16)
    return eqx.combine(leaves, others), costs


def fit_from_starts(
    boxes: WhiteBox,
    recorded: RecordedRuns,
    *,
    candidates: int,
    iterations: int,
    key: Key[Array, ""],
) -> WhiteBox:
    """Stacked white boxes fitted to the updates; where fits remain, with other modes as well.

    Where two modes become equal, the fit cannot separate them again. So a start with several modes
    whose residual is more than round-off is fitted a second time, from new random modes, and the
    better of the two fits is kept.
    """
    fits, costs = fit_updates(boxes, recorded, iterations)
    whole = 0.5 * float(jnp.sum((recorded.updates / recorded.scale[:, None]) ** 2))
    open_ones = np.flatnonzero(~(np.asarray(costs) <= ROUND_OFF * whole))
    if not open_ones.size or fits.real_modes + 2 * fits.complex_modes < 2:
        return fits
    left = jax.tree.map(lambda leaf: leaf[open_ones] if eqx.is_array(leaf) else leaf, fits)
    count = open_ones.size * candidates
    drawn = random_boxes(left, count, typical_of(recorded.gradients), key=key)
    modes = NUMBERS_OF["momentum"]
    mixed = {
        name: value if not eqx.is_array(value) or head_of(name) in modes
        else jnp.repeat(left.coordinates[name], candidates)
        for name, value in drawn.coordinates.items()
    }  # fmt: skip
    drawn = eqx.tree_at(lambda b: b.coordinates, drawn, mixed)
    again = _selected(drawn, recorded, open_ones.size, candidates)
    again, new = fit_updates(again, recorded, iterations)
    better = np.asarray(new) < np.asarray(costs)[open_ones]

    def merged(old: Array, fresh: Array) -> Array:
        return old.at[open_ones[better]].set(fresh[better]) if eqx.is_array(old) else old

    return jax.tree.map(merged, fits, again)


def fit_updates(boxes: WhiteBox, recorded: RecordedRuns, iterations: int) -> tuple[WhiteBox, Array]:
    """Stacked white boxes after Levenberg-Marquardt on their replayed updates, and their costs."""
    return _fit_updates(boxes, recorded, iterations)


@eqx.filter_jit
def _fit_updates(
    boxes: WhiteBox, recorded: RecordedRuns, iterations: int
) -> tuple[WhiteBox, Array]:
    arrays, others = eqx.partition(boxes, eqx.is_array)

    def one(leaves: PyTree) -> tuple[PyTree, Array]:
        start, unravel = ravel_pytree(leaves)

        def departures(flat: Array) -> Array:
            return residuals(eqx.combine(unravel(flat), others), recorded).reshape(-1)

        flat, cost = marquardt(departures, start, iterations)
        return unravel(flat), cost

    # A few starts at a time: a Jacobian has steps x lanes x numbers entries.
    leaves, costs = lax.map(one, arrays, batch_size=4)
    return eqx.combine(leaves, others), costs


def marquardt(
    departures: Any, start: Float[Array, " number"], iterations: int
) -> tuple[Float[Array, " number"], Float[Array, ""]]:
    """Least squares of `departures` by Levenberg-Marquardt from one start, and half their squares.

    The damping is relative to the diagonal, since the numbers of a white box are of different
    kinds; a step is taken if it lowers the cost.
    """

    def cost_of(flat: Array) -> Array:
        cost = 0.5 * jnp.sum(departures(flat) ** 2)
        return jnp.where(jnp.isfinite(cost) & jnp.isfinite(flat).all(), cost, jnp.inf)

    def shortened(step: Array) -> Array:
        longest = jnp.abs(step).max()
        return step * jnp.minimum(1.0, LONGEST / jnp.where(longest > 0, longest, 1.0))

    def iterate(carry: tuple[Fit, Any]) -> tuple[Fit, Any]:
        fit, count = carry
        R, push = jax.linearize(departures, fit.point)
        J = jax.vmap(push)(jnp.eye(fit.point.size, dtype=fit.point.dtype))
        normal = J @ J.T
        diagonal = jnp.diag(normal)
        diagonal = diagonal + 1e-9 * diagonal.max() + jnp.finfo(normal.dtype).tiny
        equations = Equations(normal, J @ R, diagonal)
        fit = marquardt_step(
            fit, equations, cost_of, DAMPING, solve=jnp.linalg.solve, limit=shortened
        )
        return fit, count + 1

    def unfinished(carry: tuple[Fit, Any]) -> Array:
        (_, cost, damping), count = carry
        return (count < iterations) & (damping < 1e11) & (cost > 0)

    begin = Fit(start, cost_of(start), jnp.asarray(1e-2, start.dtype)), 0
    (flat, cost, _), _ = lax.while_loop(unfinished, iterate, begin)
    return flat, cost


class Identification(eqx.Module):
    """What the updates say about each free number, by name in alphabetical order.

    `standard_errors` are of coordinates (for logarithms, relative ones), from the residuals of the
    fit; infinite for numbers that no update depends on, and for all where there are not more
    residuals than numbers, so that nothing is left to estimate errors from.
    """

    standard_errors: Float[np.ndarray, " number"]
    identifiable: Bool[np.ndarray, " number"]


def identify(box: WhiteBox, recorded: RecordedRuns) -> Identification:
    """What the Jacobian of the replayed updates in the numbers says about each of them."""
    leaves, others = eqx.partition(box, eqx.is_array)
    start, unravel = ravel_pytree(leaves)

    def departures(flat: Array) -> Array:
        return residuals(eqx.combine(unravel(flat), others), recorded).reshape(-1)

    R, J = (np.asarray(part) for part in eqx.filter_jit(_with_jacobian)(departures, start))
    # All directions: with fewer residuals than numbers, some change no update.
    _, found, directions = np.linalg.svd(J, full_matrices=len(J) < start.size)
    sizes = np.append(found, np.zeros(start.size - found.size, found.dtype))
    lost = sizes <= NULL * sizes[0] if sizes[0] > 0 else np.ones(sizes.size, bool)
    loadings = (directions[lost] ** 2).sum(axis=0)
    freedom = R.size - sizes.size
    variance = (R**2).sum() / max(freedom, 1)
    kept = np.where(lost, np.inf, sizes)
    errors = np.sqrt(variance * ((directions / kept[:, None]) ** 2).sum(axis=0))
    identifiable = loadings <= LOADING
    return Identification(
        standard_errors=np.where(identifiable & (freedom > 0), errors, np.inf),
        identifiable=identifiable,
    )


def _with_jacobian(departures: Any, flat: Array) -> tuple[Array, Array]:
    return departures(flat), jax.jacfwd(departures)(flat)


@eqx.filter_jit
def fit_losses(
    boxes: WhiteBox,
    task: AbstractTask,
    problems: PyTree[Array],
    targets: Float[Array, "problem visited"],
    *,
    steps: int,
    learning_rate: float = 3e-2,
) -> tuple[WhiteBox, Float[Array, " start"]]:
    """Stacked white boxes after `steps` of Adam on the departure of their losses from `targets`.

    The rate follows a cosine to 0. What comes back of each start is the best that it met.
    """
    arrays, others = eqx.partition(boxes, eqx.is_array)
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    adam = optax.adam(schedule)

    def one(leaves: PyTree) -> tuple[PyTree, Array]:
        def mismatch(leaves: PyTree) -> Array:
            return loss_mismatch(eqx.combine(leaves, others), task, problems, targets)

        def step(carry: Any, _: None) -> Any:
            leaves, moments, best, least = carry
            value, gradient = jax.value_and_grad(mismatch)(leaves)
            sound = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
            better = sound & (value < least)
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), leaves, best)
            least = jnp.where(better, value, least)
            gradient = jax.tree.map(lambda leaf: jnp.where(sound, leaf, 0.0), gradient)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                moves, moments = adam.update(gradient, moments)
            return (optax.apply_updates(leaves, moves), moments, best, least), None

        first = jnp.asarray(jnp.inf, targets.dtype)
        (_, _, best, least), _ = lax.scan(
            step, (leaves, adam.init(leaves), leaves, first), length=steps
        )
        return best, least

    leaves, least = jax.vmap(one)(arrays)
    return eqx.combine(leaves, others), least


def loss_mismatch(
    box: AbstractOptimizer,
    task: AbstractTask,
    problems: PyTree[Array],
    targets: Float[Array, "problem visited"],
) -> Float[Array, ""]:
    """Mean square difference of log(loss / first loss + 0.001) from `targets`, in closed loop."""
    losses = unroll_losses(box, task, problems, targets.shape[1] - 1)
    return jnp.mean((log_losses(losses) - targets) ** 2)


def log_losses(losses: Float[Array, "problem visited"]) -> Float[Array, "problem visited"]:
    """log(loss / first loss + 0.001); a finite loss below 0 has that of 0, -inf has none."""
    first = losses[:, :1]
    losses = jnp.where(losses > -jnp.inf, jnp.maximum(losses, 0.0), jnp.nan)
    return jnp.log(losses / jnp.where(first > 0, first, 1.0) + CLOSE)


def finite_losses(
    optimizer: AbstractOptimizer, task: AbstractTask, key: Any, count: int, steps: int
) -> tuple[Any, Array, int]:
    """Problems on which an optimizer stays finite, its log losses, and how many others there are.

    Raises `AllDivergedError` if there are others alone.
    """
    problems, targets = _log_losses(optimizer, task, key, count, steps)
    whole = np.isfinite(np.asarray(targets)).all(axis=1)
    if not whole.any():
        raise AllDivergedError(optimizer, task, count)
    return jax.tree.map(lambda leaf: leaf[whole], problems), targets[whole], int((~whole).sum())


@eqx.filter_jit
def _log_losses(
    optimizer: AbstractOptimizer, task: AbstractTask, key: Any, count: int, steps: int
) -> tuple[Any, Array]:
    problems = sample_problems(task, jr.split(key)[0], count)
    return problems, log_losses(run_all(optimizer, task, problems, steps)[0])


def sorted_modes(boxes: WhiteBox) -> WhiteBox:
    """Stacked white boxes, each with its real and its complex modes in order, slowest first."""
    return stacked([reordered(box) for box in unstacked(boxes)])
