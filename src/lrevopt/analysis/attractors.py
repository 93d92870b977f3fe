"""Attractors and their basins: where an optimizer ends from the states that it visits.

    h' = F(h, g*)  with the gradient held, again and again

A solver finds every root of F(h, g*) = h, saddles and repellers too, and which root it reaches from
a state says nothing about where the optimizer goes from there. Here each state is iterated until it
no longer changes, and only then Newton's method refines the point. So every point found attracts.
"""

import dataclasses

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from lrevopt.analysis.fixed_points import (
    SAME_POINT,
    SHOWN,
    coordinates_in_words,
    distinct_points,
    solve_each,
)
from lrevopt.analysis.iteration import iterated
from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.analysis.rest import MARGINAL
from lrevopt.analysis.small_states import in_units, unit_of
from lrevopt.checks import at_most_32_bits, gradient_value, positive_integer
from lrevopt.inner_loop.devices import check_mesh, on_every_device
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Printed, Table, number, percent

STEPS = 20_000
"""Updates that a state is given to settle, at most."""

NEAR = 1e-2
"""Distance to the attractor, per unit of max(1, ||h||), of a state that is still on its way when
its updates are over. Modes that fade by 1 % in 20 updates settle to `STILL` in far fewer. A point
whose spectral radius is 1 need not attract: states that are not there by then, to within
`SAME_POINT`, may go round it for ever."""


class Attractors(Printed, eqx.Module):
    """Attractors reached from given states under one held gradient. Host arrays in float64.

    - `states`: the attractors, the one in which most states end first; `shares`: share of the
      given states that end in each, from 0 to 1; `spectral_radius` of dF/dh there.
    - `marginal`: whether that is within 1e-6 of 1. Such a point neither attracts nor repels along
      some direction: it is one of a line, and each state may end in one of its own.
    - `ends`: index of the attractor in which each given state ends; -1 for states that have not
      settled after `steps` updates, go round in a cycle or away.
    - `gradient`: the held gradient.

    Prints as a table with a row for each attractor.
    """

    states: Float[np.ndarray, "attractor state"]
    shares: Float[np.ndarray, " attractor"]
    spectral_radius: Float[np.ndarray, " attractor"]
    marginal: Bool[np.ndarray, " attractor"]
    ends: Int[np.ndarray, " visited"]
    gradient: float
    steps: int

    @property
    def unsettled(self) -> float:
        """Share of the given states that end in no attractor."""
        return float(np.mean(self.ends < 0))

    def table(self) -> Table:
        """A row for each attractor, the one with the largest basin first."""
        rows = [
            (str(place), percent(self.shares[place]), number(self.spectral_radius[place], 6),
             "marginal" if self.marginal[place] else "attracts", coordinates_in_words(state))
            for place, state in enumerate(self.states[:SHOWN])
        ]  # fmt: skip
        notes = [
            f"{len(self.ends)} states were iterated under gradient {number(self.gradient)} for at "
            f"most {self.steps} updates; {percent(self.unsettled)} ended in no attractor. A "
            "spectral radius within 1e-6 of 1 is marginal: the point is one of a line."
        ]
        if len(self.states) > SHOWN:
            notes.append(f"{len(self.states) - SHOWN} more attractors are in `states`.")
        heads = ("attractor", "basin", "spectral radius", "", "state")
        return Table("Attractors, and the share of states that end in each", heads, rows, notes)


def find_attractors(
    opt: AbstractOptimizer,
    visited: Float[AnyArray, "visited state"],
    gradient: float | Float[AnyArray, ""] = 0.0,
    *,
    steps: int = STEPS,
) -> Attractors:
    """Iterate F from every visited state with the gradient held, and say where each ends.

    `steps` updates are made at most, until a state no longer changes; Newton's method then refines
    the end. Unlike `find_fixed_points` this finds attractors alone.

    Raises `ValueError` for states of another optimizer, no states, entries that are not finite, a
    gradient whose square overflows, or fewer than 1 step.
    """
    starts = double_states(opt, visited, "visited", axes=2)
    if not len(starts):
        raise ValueError("`visited` must hold at least one state, got none.")
    gradient = gradient_value("gradient", gradient)
    steps = at_most_32_bits("steps", positive_integer("steps", steps))
    held = np.full(len(starts), gradient)
    if (unit := unit_of(opt, starts, held)) < 1:
        found = find_attractors(in_units(opt, unit), starts / unit, gradient, steps=steps)
        return dataclasses.replace(found, states=unit * found.states)
    points, radii, ends = ends_of(opt, starts, held, steps)
    # Points of the same gradient that are one, the most frequent first.
    label, kept = distinct_points(points, ends)
    counts = np.bincount(label[label >= 0], minlength=len(kept))
    order = np.argsort(-counts, kind="stable")
    rank = np.append(np.argsort(order), -1)
    found = radii[kept][order]
    return Attractors(
        states=points[kept][order],
        shares=counts[order] / len(starts),
        spectral_radius=found,
        marginal=np.abs(found - 1) <= MARGINAL,
        ends=rank[label],
        gradient=gradient,
        steps=steps,
    )


def ends_of(
    opt: AbstractOptimizer,
    starts: Float[np.ndarray, "visited state"],
    gradients: Float[np.ndarray, " visited"],
    steps: int = STEPS,
) -> tuple[
    Float[np.ndarray, "visited state"], Float[np.ndarray, " visited"], Bool[np.ndarray, " visited"]
]:
    """The point in which each start ends under its own gradient, its spectral radius, whether any.

    Arguments are not checked.
    """
    if (unit := unit_of(opt, starts, gradients)) < 1:
        points, radii, ends = ends_of(in_units(opt, unit), starts / unit, gradients, steps)
        return unit * points, radii, ends
    with double_precision():
        mesh = check_mesh(None, len(starts))
        on_all = on_every_device(as_double(opt), mesh)
        last = np.array(iterated(on_all, starts, gradients, steps, mesh))
    points, radii = last.copy(), np.full(len(last), np.nan)
    ends = np.isfinite(last).all(axis=1)
    # Equal ends under one gradient are solved once.
    label, kept = distinct_points(last, ends, gradients)
    if not len(kept):
        return points, radii, ends
    found = solve_each(opt, last[kept], gradients[kept])
    own = label[ends]
    gaps = np.linalg.norm(found.states[own] - last[ends], axis=1)
    marginal = np.abs(found.radii[own] - 1) <= MARGINAL
    allowed = np.where(marginal, SAME_POINT, NEAR)
    near = gaps <= allowed * np.maximum(1, np.linalg.norm(found.states[own], axis=1))
    attracting = found.converged & (found.radii <= 1 + MARGINAL)
    points[ends], radii[ends] = found.states[own], found.radii[own]
    ends[ends] = near & attracting[own]
    return points, radii, ends
