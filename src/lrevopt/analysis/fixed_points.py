"""Fixed points of an optimizer under a constant gradient (paper, section 4.2).

    F(h*, g*) = h*        speed q(h) = 1/2 ||F(h, g*) - h||^2

The paper minimizes q with Adam. Here each iteration takes the better of a Newton and a
Levenberg-Marquardt step, in float64 whatever the user's default is. Newton's step does not depend
on the scaling of coordinates (Adam's step direction has derivatives of 1e8); the other always
descends, also where `I - J` is singular (a line of fixed points).

Most starts lead to one fixed point, so only some are solved in full. The others run simplified
Newton iterations with the Jacobian of a point already found. Their result counts only if every
step was shorter than the one before and they end at that point; otherwise they are solved in full.

The point reported for a start is the one that the *solver* reaches from it. It may be a saddle, and
may differ from the point to which the optimizer converges from there: for basins of attraction,
iterate `transition`, as `certify` does.

The solver is our own because it takes the better of two steps and starts share work. Optimistix's
Levenberg-Marquardt (0.1.0, tolerance 1e-12), mapped over 200 states of Rosenbrock's optimizer, had
not ended after 200 seconds of processor time; this takes 12, compilation included.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.checks import finite
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Printed, Table, number

CONVERGED = 1e-16
"""Speed, per unit of max(1, ||h||^2), at which a point counts as a fixed point."""

ROUND_OFF = 1e-26
"""Speed, in the same unit, below which further iterations only move round-off."""

SAME_POINT = 1e-5
"""Distance, per unit of max(1, ||h||), within which two converged points are one. Slow modes
magnify a residual of 1e-8 by 1 / (1 - eigenvalue)."""

BLOCK = 8
"""Starts that are solved together: their Jacobians stay in cache."""

SHRINK = 0.9
"""Factor by which every step of a simplified Newton iteration must be shorter than the last."""

SHOWN = 20
"""Distinct points in a printed table, at most."""

FIRST_ITERATIONS = 12
ITERATIONS = 50
SIMPLIFIED_ITERATIONS = 60


class FixedPoints(Printed, eqx.Module):
    """The fixed point reached from each start, its speed and stability. Host arrays in float64.

    - `states`, `speeds`: the point reached and its q; `start`: where the search began.
    - `converged`: q is below 1e-16 max(1, ||h||^2). Points that are not converged are the
      slowest that the search found, and belong to slow manifolds.
    - `spectral_radius`: largest |eigenvalue| of dF/dh at the point; `stable`: below 1.
    - `distinct`: the different converged points, the one reached most often first;
      `assignment`: which of them each start reached, -1 if none.
    - `gradient`: the held gradient.

    Prints as a table with a row for each distinct point.
    """

    states: Float[np.ndarray, "point state"]
    speeds: Float[np.ndarray, " point"]
    converged: Bool[np.ndarray, " point"]
    start: Float[np.ndarray, "point state"]
    spectral_radius: Float[np.ndarray, " point"]
    stable: Bool[np.ndarray, " point"]
    distinct: Float[np.ndarray, "distinct state"]
    assignment: Int[np.ndarray, " point"]
    gradient: float

    def table(self) -> Table:
        """A row for each distinct point, the one reached most often first."""
        rows = []
        for place, point in enumerate(self.distinct[:SHOWN]):
            own = self.assignment == place
            rows.append((
                str(place), str(int(own.sum())), number(float(self.speeds[own].max())),
                number(float(self.spectral_radius[own][0]), 6),
                "yes" if self.stable[own][0] else "no", _coordinates(point),
            ))  # fmt: skip
        notes = [
            "Speed q = 1/2 ||F(h, g) - h||^2 is the largest of those starts. A point has converged "
            f"where q is below {CONVERGED:g} max(1, ||h||^2), and is stable where the spectral "
            "radius of dF/dh is below 1."
        ]
        if len(self.distinct) > SHOWN:
            notes.append(f"{len(self.distinct) - SHOWN} more points are in `distinct`.")
        if left := int((~self.converged).sum()):
            slow = self.speeds[~self.converged]
            ends = number(float(slow.min())), number(float(slow.max()))
            notes.append(
                f"{left} starts reached no fixed point, but points with speeds from {ends[0]} to "
                f"{ends[1]}."
            )
        title = (
            f"Fixed points at gradient {number(self.gradient)}: {len(self.distinct)} distinct, "
            f"from {int(self.converged.sum())} of {len(self.states)} starts"
        )
        heads = ("point", "starts", "speed", "spectral radius", "stable", "state")
        return Table(title, heads, rows, notes)


def _coordinates(point: Float[np.ndarray, " state"]) -> str:
    """A state in words: its first coordinates and, of more than four, their number."""
    first = ", ".join(number(float(value)) for value in point[:4])
    return f"({first})" if len(point) <= 4 else f"({first}, ...: {len(point)} coordinates)"


def find_fixed_points(
    opt: AbstractOptimizer,
    initial_states: Float[AnyArray, "point state"],
    gradient: float | Float[AnyArray, ""] = 0.0,
) -> FixedPoints:
    """Search for a fixed point from every initial state, with the gradient held at `gradient`.

    A search that does not converge is no error, but is marked in `converged`. Raises `ValueError`
    for states of another optimizer, no states, or entries that are not finite.
    """
    starts = double_states(opt, initial_states, "initial_states", axes=2)
    if not len(starts):
        raise ValueError("`initial_states` must hold at least one state, got none.")
    gradient = finite("gradient", gradient)
    with double_precision():
        opt = as_double(opt)
        states, groups = _search(opt, starts, gradient)
        _, firsts, which = np.unique(groups, return_index=True, return_inverse=True)
        points = states[firsts]
        speeds, jacobians = _speeds_and_jacobians(opt, points, np.full(len(points), gradient))
    converged = is_converged(points, speeds)
    label, kept = _deduplicate(points, converged)
    # One Jacobian is enough for all copies of a point.
    radii = np.zeros(len(points))
    own = np.union1d(kept, np.flatnonzero(~converged))
    radii[own] = np.abs(np.linalg.eigvals(jacobians[own])).max(axis=1)
    radii[converged] = radii[kept][label[converged]]
    counts = np.bincount(label[which][converged[which]], minlength=len(kept))
    order = np.argsort(-counts, kind="stable")
    rank = np.append(np.argsort(order), -1)  # the label -1 stays -1
    return FixedPoints(
        states=states,
        speeds=speeds[which],
        converged=converged[which],
        start=starts,
        spectral_radius=radii[which],
        stable=(radii < 1)[which],
        distinct=points[kept][order],
        assignment=rank[label][which],
        gradient=gradient,
    )


def solve_each(
    opt: AbstractOptimizer,
    starts: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> tuple[
    Float[np.ndarray, "point state"], Float[np.ndarray, " point"], Float[np.ndarray, " point"]
]:
    """Points, speeds and spectral radii, of starts that each have a gradient of their own.

    Every start is solved in full. Arguments are not checked.
    """
    with double_precision():
        opt = as_double(opt)
        points = _in_blocks(partial(_solve, iterations=FIRST_ITERATIONS), opt, starts, gradients)
        speeds, _ = _speeds_and_jacobians(opt, points, gradients)
        # A block takes as long as its slowest start: slow ones go on in blocks of their own.
        slow = np.flatnonzero(~is_converged(points, speeds))
        if slow.size:
            points[slow] = _in_blocks(_solve, opt, points[slow], gradients[slow])
        speeds, jacobians = _speeds_and_jacobians(opt, points, gradients)
    return points, speeds, np.abs(np.linalg.eigvals(jacobians)).max(axis=1)


def is_converged(
    states: Float[np.ndarray, "*point state"], speeds: Float[np.ndarray, "*point"]
) -> Bool[np.ndarray, "*point"]:
    """Which points count as fixed points, by `CONVERGED`."""
    return speeds <= CONVERGED * np.maximum(1, np.sum(states**2, axis=-1))


def count_distinct(
    states: Float[np.ndarray, "point state"], converged: Bool[np.ndarray, " point"]
) -> int:
    """Number of different fixed points among those that converged."""
    return len(_deduplicate(states, converged)[1])


def _search(
    opt: AbstractOptimizer, starts: Float[np.ndarray, "point state"], gradient: float
) -> tuple[Float[np.ndarray, "point state"], Int[np.ndarray, " point"]]:
    """The point reached from each start, and a number that is equal for starts that share one."""
    count = len(starts)
    states, groups = starts.copy(), np.arange(count)
    left = np.ones(count, bool)
    known = np.empty((0, starts.shape[1]))
    while left.any():
        remaining = np.flatnonzero(left)
        # Evenly spaced: a block then has early and late states of several problems.
        chosen = remaining[np.linspace(0, len(remaining) - 1, BLOCK).round().astype(int)]
        solved = np.asarray(_solve(opt, starts[chosen], np.full(BLOCK, gradient)))
        states[chosen], left[chosen] = solved, False
        # A point that several starts of the block reached is likely to be shared by others.
        near = _same(solved, solved)
        popular = int(np.argmax(near.sum(axis=1)))
        point = solved[popular]
        fresh = not _same(known, point[None]).any()
        if fresh and len(np.unique(chosen[near[popular]])) > 1 and left.any():
            known = np.append(known, point[None], axis=0)
            ends, settled = _simplified(opt, starts, point, left, gradient)
            settled = np.asarray(settled) & left & _same(np.asarray(ends), point[None])[:, 0]
            states[settled], groups[settled] = point, chosen[popular]
            left &= ~settled
    return states, groups


def _same(
    states: Float[np.ndarray, "first state"], others: Float[np.ndarray, "second state"]
) -> Bool[np.ndarray, "first second"]:
    """Which pairs are one point, by `SAME_POINT`."""
    gaps = np.linalg.norm(states[:, None] - others[None], axis=-1)
    return gaps <= SAME_POINT * np.maximum(1, np.linalg.norm(others, axis=1))


def _deduplicate(
    points: Float[np.ndarray, "found state"], converged: Bool[np.ndarray, " found"]
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " distinct"]]:
    """Index of each point among the distinct ones (-1: not converged), and indices of those."""
    label = np.full(len(points), -1)
    kept: list[int] = []
    for index in np.flatnonzero(converged):
        near = np.flatnonzero(_same(points[kept], points[index][None])[:, 0])
        label[index] = near[0] if near.size else len(kept)
        if not near.size:
            kept.append(int(index))
    return label, np.array(kept, int)


def _in_blocks(
    solve: Callable,
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> Any:
    """`solve(opt, states, gradients)` in blocks of one size, so that one shape is compiled."""
    missing = -len(states) % BLOCK
    states = np.concatenate([states, np.repeat(states[-1:], missing, axis=0)])
    gradients = np.append(gradients, np.repeat(gradients[-1:], missing))
    parts = [
        solve(opt, states[first : first + BLOCK], gradients[first : first + BLOCK])
        for first in range(0, len(states), BLOCK)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(states) - missing], *parts)


def _speeds_and_jacobians(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, "point state state"]]:
    return _in_blocks(_speed_and_jacobian, opt, states, gradients)


@eqx.filter_jit
def _speed_and_jacobian(opt, states, gradients):
    def one(state, gradient):
        residual = opt.transition(state, gradient) - state
        return residual @ residual / 2, jax.jacfwd(opt.transition)(state, gradient)

    return jax.vmap(one)(states, gradients)


def marquardt_step(
    R: Float[Array, " state"], A: Float[Array, "state state"], damping: Float[Array, ""]
) -> Float[Array, " state"]:
    """The Levenberg-Marquardt step `-(A'A + mu I)^-1 A'R` for residual R and its Jacobian A.

    `mu` is `damping` times the mean squared singular value of A. NaN where A'A + mu I is singular
    to round-off.
    """
    normal = A.T @ A
    scaled = normal + damping * jnp.trace(normal) / len(A) * jnp.eye(len(A))
    return -jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(scaled), True), A.T @ R)


@eqx.filter_jit
def _solve(opt, starts, gradients, iterations=ITERATIONS):
    """Newton and Levenberg-Marquardt from each start, until round-off or no step helps."""

    def residual(state, gradient):
        return opt.transition(state, gradient) - state

    def speed(state, gradient):
        change = residual(state, gradient)
        return change @ change / 2

    def iterate(state, gradient, q, damping):
        R = residual(state, gradient)
        A = jax.jacfwd(residual)(state, gradient)
        marquardt = state + marquardt_step(R, A, damping)
        newton = state - jnp.linalg.solve(A, R)
        # Coordinates that are functions of the others, like a step direction, are set by one
        # transition: Newton's linear model may get them so wrong that the step would be refused.
        candidates = jnp.stack([state, marquardt, newton, opt.transition(newton, gradient)])
        speeds = jax.vmap(speed, (0, None))(candidates, gradient).at[0].set(q)
        # A singular matrix yields NaN, which never is the least.
        best = jnp.argmin(jnp.where(jnp.isnan(speeds), jnp.inf, speeds))
        damping = jnp.where(speeds[1] < q, damping / 10, damping * 10)
        return candidates[best], speeds[best], jnp.clip(damping, 1e-14, 1e14)

    def active(state, q, damping):
        return (q > ROUND_OFF * jnp.maximum(1.0, state @ state)) & (damping < 1e12)

    def body(carry):
        states, q, damping, iteration = carry
        new = jax.vmap(iterate)(states, gradients, q, damping)
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
def _simplified(opt, starts, point, wanted, gradient):
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
