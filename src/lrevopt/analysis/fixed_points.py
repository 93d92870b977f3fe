"""Fixed points of an optimizer under a constant gradient (paper, section 4.2).

    F(h*, g*) = h*        speed q(h) = 1/2 ||F(h, g*) - h||^2

The paper minimizes q with Adam. Here each iteration takes the better of a Newton and a
Levenberg-Marquardt step, in float64 whatever the user's default is. Newton's step does not depend
on the scaling of coordinates (Adam's step direction has derivatives of 1e8); the other always
descends, also where `I - J` is singular (a line of fixed points).

Most starts lead to one fixed point, so only some are solved in full. The others run simplified
Newton iterations with the Jacobian of a point already found. Their result counts only if every
step was shorter than the one before and they end at that point; otherwise they are solved in full.

A search that fails is tried again from the state to which F leads in a thousand updates, and from
those to which it leads after a Newton step from there: far from the point the linear model may be
useless (next to kinks, or to the root of a number that has yet to fall), and nearby it is not.

The point reported for a start is the one that the *solver* reaches from it. It may be a saddle, and
may differ from the point to which the optimizer converges from there: for basins of attraction,
iterate `transition`, as `find_attractors` does.

The solver is our own because it takes the better of two steps and starts share work. Optimistix's
Levenberg-Marquardt (0.1.0, tolerance 1e-12), mapped over 200 states of Rosenbrock's optimizer, had
not ended after 200 seconds of processor time; this takes 12, compilation included.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import partial

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from lrevopt.analysis.iteration import iterated
from lrevopt.analysis.newton import FIRST_ITERATIONS, simplified_towards, solve
from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.analysis.resolution import BLOCK, expand, in_blocks, points_mesh
from lrevopt.analysis.rest import (
    MARGINAL,
    Settled,
    beginnings,
    newton_steps,
    settle,
    spectral_radii,
)
from lrevopt.analysis.small_states import in_units, unit_of
from lrevopt.checks import gradient_value
from lrevopt.inner_loop.devices import on_every_device
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Printed, Table, number

SAME_POINT = 1e-5
"""Distance, per unit of max(1, ||h||), within which two converged points are one (where all states
are small, per unit of their own size: see `analysis.small_states`). Slow modes magnify a residual
of 1e-8 by 1 / (1 - eigenvalue)."""

FEW, FEW_ITERATIONS = 4 * BLOCK, 1
"""Starts that are no longer solved block by block. After so many full iterations each they may
still share a point that is known."""

LED = (1_000, 100, 100)
"""Updates by which F leads on before each further try of a search that failed. Those after a Newton
step are for what follows from the coordinates that it sets."""

MANY = 128
"""Starts that run simplified iterations together."""

SHOWN = 20
"""Distinct points in a printed table, at most."""


class FixedPoints(Printed, eqx.Module):
    """The fixed point reached from each start, its speed and stability. Host arrays in float64.

    - `states`, `speeds`: the point reached and its q; `start`: where the search began.
    - `converged`: F moves the point by no more than it loses to round-off there, and derivatives
      are finite (see `analysis.rest`). Points that are not converged are the slowest that the
      search found, and belong to slow manifolds; `reasons` says why each does not count.
    - `spectral_radius`: largest |eigenvalue| of dF/dh at the point; `stable`: below 1. Within 1e-6
      of 1 it is marginal: round-off and the digits of the point decide on which side it lies.
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
    reasons: tuple[str, ...] = ()

    def table(self) -> Table:
        """A row for each distinct point, the one reached most often first."""
        rows = []
        for place, point in enumerate(self.distinct[:SHOWN]):
            own = self.assignment == place
            rows.append((
                str(place), str(int(own.sum())), number(float(self.speeds[own].max())),
                number(float(self.spectral_radius[own][0]), 6),
                _stability(float(self.spectral_radius[own][0])), coordinates_in_words(point),
            ))  # fmt: skip
        notes = [
            "Speed q = 1/2 ||F(h, g) - h||^2 is the largest of those starts. A point has converged "
            "where F moves it by no more than it loses to round-off, and is stable where the "
            "spectral radius of dF/dh is below 1, marginal within 1e-6 of 1."
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
            why = Counter(reason for reason in self.reasons if reason).most_common()
            notes += [f"{count} of them: {reason}." for reason, count in why]
        title = (
            f"Fixed points at gradient {number(self.gradient)}: {len(self.distinct)} distinct, "
            f"from {int(self.converged.sum())} of {len(self.states)} starts"
        )
        heads = ("point", "starts", "speed", "spectral radius", "stable", "state")
        return Table(title, heads, rows, notes)


def _stability(radius: float) -> str:
    if abs(radius - 1) <= MARGINAL:
        return "marginal"
    return "yes" if radius < 1 else "no"


def coordinates_in_words(point: Float[np.ndarray, " state"]) -> str:
    """A state in words: its first coordinates and, of more than four, their number."""
    first = ", ".join(number(float(value)) for value in point[:4])
    return f"({first})" if len(point) <= 4 else f"({first}, ...: {len(point)} coordinates)"


def find_fixed_points(
    opt: AbstractOptimizer,
    initial_states: Float[AnyArray, "point state"],
    gradient: float | Float[AnyArray, ""] = 0.0,
) -> FixedPoints:
    """Search for a fixed point F(h*, g*) = h* from every initial state (paper, section 4.2).

    - `initial_states`: where searches start, of shape (point, state); states that a run visited,
      such as `run.states[::20, 0]`, are a good choice.
    - `gradient`: the held gradient g*.

    Solved by Newton and Levenberg-Marquardt steps in float64, from the start or, where that fails,
    from the state to which F leads in a thousand updates. A search that does not converge is no
    error, but is marked in `converged`, with its reason. A point that is found need not attract:
    see `find_attractors`. Where F has no derivative because of a root of 0, the limit from above is
    taken.

    Raises `ValueError` for states of another optimizer, no states, entries that are not finite, or
    a gradient whose square overflows.
    """
    with double_precision():
        opt = on_every_device(as_double(opt), points_mesh())
    starts = double_states(opt, initial_states, "initial_states", axes=2)
    if not len(starts):
        raise ValueError("`initial_states` must hold at least one state, got none.")
    gradient = gradient_value("gradient", gradient)
    if (unit := unit_of(opt, starts, np.full(len(starts), gradient))) < 1:
        small = find_fixed_points(in_units(opt, unit), starts / unit, gradient)
        return dataclasses.replace(
            small, states=unit * small.states, speeds=unit**2 * small.speeds, start=starts,
            distinct=unit * small.distinct,
        )  # fmt: skip
    with double_precision():
        limits, reach = beginnings(opt, starts, np.full(len(starts), gradient))
        states, groups = _search(opt, starts, gradient, reach, limits)
        _, firsts, which = np.unique(groups, return_index=True, return_inverse=True)
        # One point is judged for all of its copies, from the start of the first.
        held = np.full(len(firsts), gradient)
        found = _settled(opt, states[firsts], held, starts[firsts], reach[firsts], limits=limits)
    label, kept = distinct_points(found.states, found.converged)
    # Copies of one point have one radius, that of the first.
    own = np.concatenate([kept, np.flatnonzero(~found.converged)])
    radii = np.full(len(label), np.nan)
    radii[own] = spectral_radii(found.recurrent[own])
    radii[found.converged] = radii[kept][label[found.converged]]
    counts = np.bincount(label[which][found.converged[which]], minlength=len(kept))
    order = np.argsort(-counts, kind="stable")
    rank = np.append(np.argsort(order), -1)  # the label -1 stays -1
    return FixedPoints(
        states=found.states[which],
        speeds=found.speeds[which],
        converged=found.converged[which],
        start=starts,
        spectral_radius=radii[which],
        stable=(radii < 1)[which],
        distinct=found.states[kept][order],
        assignment=rank[label][which],
        gradient=gradient,
        reasons=tuple(str(found.reasons[index]) for index in which),
    )


def _settled(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
    starts: Float[np.ndarray, "point state"],
    reach: Float[np.ndarray, " point"],
    *,
    limits: bool,
) -> Settled:
    """`settle`, with the searches that failed repeated from where F leads, if that succeeds."""
    found, mesh = settle(opt, states, gradients, starts, reach), points_mesh()
    parts = [part.copy() for part in found]
    failed = np.flatnonzero(~found.converged)
    begin = starts[failed]
    for updates in LED:
        begin = np.array(iterated(opt, begin, gradients[failed], updates, mesh))
        finite = np.isfinite(begin).all(axis=1)
        failed, begin = failed[finite], begin[finite]
        # Most of them are led to one state.
        label, kept = distinct_points(begin, np.ones(len(begin), bool), gradients[failed])
        if not kept.size:
            break
        own, search = failed[kept], partial(solve, limits=limits)
        points = in_blocks(search, opt, begin[kept], gradients[own], reach[own])
        # F itself went this far, so that a point of a line near there counts.
        again = settle(opt, points, gradients[own], begin[kept], reach[own])
        reached = again.converged[label]
        for part, new in zip(parts, again, strict=True):
            part[failed[reached]] = new[label[reached]]
        failed, begin = failed[~reached], begin[~reached]
        if not failed.size:
            break
        steps = newton_steps(expand(opt, begin, gradients[failed]), begin)
        begin = np.where(np.isfinite(steps), begin + steps, begin)
    return Settled(*parts)


def solve_each(
    opt: AbstractOptimizer,
    starts: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> Settled:
    """Points with their evidence, from starts that each have a gradient of their own.

    Every start is solved in full, and searches that fail go on from where F leads, as those of
    `find_fixed_points` do. Arguments are not checked.
    """
    if (unit := unit_of(opt, starts, gradients)) < 1:
        found = solve_each(in_units(opt, unit), starts / unit, gradients)
        return found._replace(states=unit * found.states, speeds=unit**2 * found.speeds)
    with double_precision():
        opt = on_every_device(as_double(opt), points_mesh())
        limits, reach = beginnings(opt, starts, gradients)
        first = partial(solve, iterations=FIRST_ITERATIONS, limits=limits)
        points = in_blocks(first, opt, starts, gradients, reach)
        # A block takes as long as its slowest start: slow ones go on in blocks of their own.
        slow = np.flatnonzero(~expand(opt, points, gradients).at_rest(points))
        if slow.size:
            on = partial(solve, limits=limits)
            points[slow] = in_blocks(on, opt, points[slow], gradients[slow], reach[slow])
        return _settled(opt, points, gradients, starts, reach, limits=limits)


def count_distinct(
    states: Float[np.ndarray, "point state"],
    converged: Bool[np.ndarray, " point"],
    unit: float = 1.0,
) -> int:
    """Number of different fixed points among those that converged, in units of small states."""
    return len(distinct_points(states / unit, converged)[1])


def _search(
    opt: AbstractOptimizer,
    starts: Float[np.ndarray, "point state"],
    gradient: float,
    reach: Float[np.ndarray, " point"],
    limits: bool,
) -> tuple[Float[np.ndarray, "point state"], Int[np.ndarray, " point"]]:
    """The point reached from each start, and a number that is equal for starts that share one."""
    count = len(starts)
    states, groups = starts.copy(), np.arange(count)
    left, held = np.ones(count, bool), np.full(count, gradient)
    known: dict[int, Callable] = {}  # starts with points that others may share
    search = partial(solve, limits=limits)

    def share(owner: int, chosen: np.ndarray, begin: np.ndarray) -> None:
        """The point of `owner` for the chosen starts from which simplified iterations end there."""
        ends, settled = in_blocks(known[owner], opt, begin, block=MANY)
        own = chosen[settled & _same(ends, states[owner][None])[:, 0]]
        states[own], groups[own], left[own] = states[owner], owner, False

    while left.any():
        chosen = np.flatnonzero(left)
        if known and len(chosen) <= FEW:
            # All that are left, unless a few full steps bring them near a point that is known.
            few = partial(search, iterations=FEW_ITERATIONS)
            moved = in_blocks(few, opt, starts[chosen], held[chosen], reach[chosen])
            for owner in known:
                still = left[chosen]
                if still.any():
                    share(owner, chosen[still], moved[still])
            chosen = chosen[left[chosen]]
        elif len(chosen) > BLOCK:
            # Evenly spaced: a block then has early and late states of several problems.
            places = np.linspace(0, len(chosen) - 1, BLOCK).round().astype(int)
            chosen = chosen[places]
        if not chosen.size:
            break
        solved = in_blocks(search, opt, starts[chosen], held[chosen], reach[chosen])
        states[chosen], left[chosen] = solved, False
        # A point that several starts of the block reached is likely to be shared by others.
        near = _same(solved, solved)
        popular = int(np.argmax(near.sum(axis=1)))
        fresh = not _same(states[list(known)], solved[popular][None]).any()
        if fresh and near[popular].sum() > 1 and left.any():
            owner = int(chosen[popular])
            known[owner] = simplified_towards(opt, states[owner], gradient)
            share(owner, np.flatnonzero(left), starts[left])
    return states, groups


def _same(
    states: Float[np.ndarray, "first state"], others: Float[np.ndarray, "second state"]
) -> Bool[np.ndarray, "first second"]:
    """Which pairs are one point, by `SAME_POINT`."""
    gaps = np.linalg.norm(states[:, None] - others[None], axis=-1)
    return gaps <= SAME_POINT * np.maximum(1, np.linalg.norm(others, axis=1))


def distinct_points(
    points: Float[np.ndarray, "found state"],
    converged: Bool[np.ndarray, " found"],
    gradients: Float[np.ndarray, " found"] | None = None,
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " distinct"]]:
    """Index of each point among the distinct ones (-1: not converged), and indices of those.

    Points under different `gradients` are different, wherever they lie.
    """
    label = np.full(len(points), -1)
    held = np.zeros(len(points)) if gradients is None else gradients
    kept: list[int] = []
    for index in np.flatnonzero(converged):
        same = _same(points[kept], points[index][None])[:, 0]
        near = np.flatnonzero(same & (held[kept] == held[index]))
        label[index] = near[0] if near.size else len(kept)
        if not near.size:
            kept.append(int(index))
    return label, np.array(kept, int)
