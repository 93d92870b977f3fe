"""Whether the points that a search found are fixed points of F, and if not, why.

A point counts as a fixed point where

- F and its derivatives (or their limits from above) are finite there;
- F moves no coordinate by more than its resolution (see `analysis.resolution`). A point from which
  Newton's step is long all the same is replaced by the one to which such steps lead, if there is
  one at rest that they would move less;
- it lies within 10 max(1, ||start||) of 0 or, further out, is determined: round-off in F moves the
  solution of `F(h, g) = h` by less than a tenth of ||h||.

The last condition refuses points that exist only through round-off. An integrator under a constant
input, `h' = A h + b` with an eigenvalue 1 of A, has no fixed point. With a rounded A it has one at
a norm of 1e15, where the steps of F are below its resolution.
"""

import contextlib
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lrevopt.analysis.newton import solve
from lrevopt.analysis.resolution import Expansion, expand, in_blocks, probe
from lrevopt.optimizers.interface import AbstractOptimizer

REGION = 10.0
"""Norm, per unit of max(1, ||start||), up to which a point at rest need not be isolated."""

FAR = 1e12
"""Norm, per unit of max(1, ||start||, ||F(start)||), beyond which no search goes."""

DETERMINED = 0.1
"""Share of ||h|| by which round-off may move a fixed point outside of the region."""

NEARLY = 1e-16
"""Speed, per unit of max(1, ||h||^2), from which a few more Newton steps may lead to rest."""

MARGINAL = 1e-6
"""Distance from 1 within which the size of an eigenvalue counts as 1. A mode that takes a million
updates to fade stays for every run, and Newton places a fixed point, where others are near, to
about 1e-8."""

POLISHING = 6

SEEN_TO_MOVE = 1e-5
"""Newton step, per unit of max(1, ||h||), that is made although F is at rest: a coordinate of
1e-10, which F moves by too little to be seen, may be what the update divides by."""

FINITE, DIFFERENTIABLE = "F is not finite there", "the Jacobian is not finite there"
MOVING = "F moves it by more than round-off"
UNRESOLVED = "it is so large that F does not resolve its own steps there"


class Settled(NamedTuple):
    """Points with their speed, dF/dh, and why one is no fixed point ("" if it is)."""

    states: Float[np.ndarray, "point state"]
    speeds: Float[np.ndarray, " point"]
    converged: Bool[np.ndarray, " point"]
    recurrent: Float[np.ndarray, "point state state"]
    reasons: np.ndarray

    @property
    def radii(self) -> Float[np.ndarray, " point"]:
        """Spectral radius of dF/dh at each point."""
        return spectral_radii(self.recurrent)


def norms(states: Float[np.ndarray, "point state"]) -> Float[np.ndarray, " point"]:
    """max(1, ||h||) of each state."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.maximum(1.0, np.linalg.norm(states, axis=-1))


def beginnings(
    opt: AbstractOptimizer,
    starts: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> tuple[bool, Float[np.ndarray, " point"]]:
    """Whether a search from these states needs limits, and the norm up to which each may go."""
    following, one_sided = probe(opt, starts, gradients)
    following = np.where(np.isfinite(following), following, 0.0)
    return bool(one_sided.any()), FAR * np.maximum(norms(starts), norms(following))


def settle(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
    starts: Float[np.ndarray, "point state"],
    reach: Float[np.ndarray, " point"],
) -> Settled:
    """Judge where searches from `starts` ended. To be called inside `double_precision()`.

    Searches that were stopped by a derivative without value go on with its limit, those that left
    for where F resolves nothing are repeated within the region, and points that are nearly at rest
    get a few more Newton steps.
    """
    states, unit = states.copy(), norms(starts)
    found = expand(opt, states, gradients)
    stuck = found.one_sided & found.differentiable & ~found.at_rest(states)
    lost = ~stuck & _unresolved(found, states, unit)
    for again, begin, within, limits in (
        (stuck, states, reach, True),
        (lost, starts, REGION * unit, bool(found.one_sided.any())),
    ):
        if again.any():
            search = partial(solve, limits=limits)
            states[again] = in_blocks(search, opt, begin[again], gradients[again], within[again])
    if stuck.any() or lost.any():
        found = expand(opt, states, gradients)
    states, found = _polished(opt, states, gradients, found)
    states, found = _divided(opt, states, gradients, found)
    with np.errstate(invalid="ignore", over="ignore"):
        speeds = np.sum((found.following - states) ** 2, axis=1) / 2
    reasons = np.select(
        [~np.isfinite(found.following).all(axis=1), ~found.differentiable,
         ~found.at_rest(states), _unresolved(found, states, unit)],
        [FINITE, DIFFERENTIABLE, MOVING, UNRESOLVED], "",
    )  # fmt: skip
    recurrent = np.where(found.differentiable[:, None, None], found.recurrent, np.nan)
    return Settled(states, speeds, reasons == "", recurrent, reasons)


def spectral_radii(
    recurrent: Float[np.ndarray, "point state state"],
) -> Float[np.ndarray, " point"]:
    """Largest |eigenvalue| of each Jacobian; NaN where it is not finite."""
    radii = np.full(len(recurrent), np.nan)
    sound = np.isfinite(recurrent).all(axis=(1, 2))
    radii[sound] = np.abs(np.linalg.eigvals(recurrent[sound])).max(axis=1, initial=0.0)
    return radii


def _unresolved(
    found: Expansion, states: Float[np.ndarray, "point state"], unit: Float[np.ndarray, " point"]
) -> Bool[np.ndarray, " point"]:
    """Outside of the region, where round-off moves the solution of `F(h, g) = h` by much."""
    unresolved = ~(np.linalg.norm(states, axis=1) <= REGION * unit)
    sound = np.flatnonzero(unresolved & found.differentiable)
    inverses = np.abs(_inverses(np.eye(states.shape[1]) - found.recurrent[sound]))
    moved = np.linalg.norm(np.einsum("pij,pj->pi", inverses, found.round_off[sound]), axis=1)
    determined = moved <= DETERMINED * np.linalg.norm(states[sound], axis=1)  # false for NaN
    unresolved[sound[determined]] = False
    return unresolved


def _inverses(
    matrices: Float[np.ndarray, "point state state"],
) -> Float[np.ndarray, "point state state"]:
    """The inverse of each matrix, NaN of those that have none.

    By elimination: in units of their own, coordinates may differ by 15 orders of magnitude, of
    which singular values show the largest alone.
    """
    found = np.full_like(matrices, np.nan)
    for place, matrix in enumerate(matrices):
        with contextlib.suppress(np.linalg.LinAlgError):
            found[place] = np.linalg.inv(matrix)
    return found


def _polished(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
    found: Expansion,
) -> tuple[Float[np.ndarray, "point state"], Expansion]:
    """A few Newton steps of least length, kept while they bring a point closer to its resolution.

    The search compares norms, in which a large coordinate hides a small one.
    """
    for _ in range(POLISHING):
        residuals = found.following - states
        excess = _excess(found, states)
        slow = np.sum(residuals**2, axis=1) / 2 <= NEARLY * norms(states) ** 2
        going = np.flatnonzero(slow & found.differentiable & (excess > 1))
        if not going.size:
            break
        inverses = np.linalg.pinv(np.eye(states.shape[1]) - found.recurrent[going], rcond=1e-12)
        moved = states.copy()
        moved[going] += np.einsum("pij,pj->pi", inverses, residuals[going])
        after = expand(opt, moved, gradients)
        better = _excess(after, moved) < excess
        if not better.any():
            break
        states, found = _where(better, (moved, after), (states, found))
    return states, found


def _divided(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
    found: Expansion,
) -> tuple[Float[np.ndarray, "point state"], Expansion]:
    """Newton steps from points at rest, where they are long and end at rest with a shorter one.

    After AdaBelief's second moment has fallen to 1e-10, F moves it by 1e-13, and the update by its
    root by nothing; the fixed point is a thousand times smaller, the update there 30 times larger.
    One transition sets the coordinates that are functions of the others.
    """
    steps = newton_steps(found, states)
    trial, onward, lengths = states, steps, np.linalg.norm(steps, axis=1)
    far = found.at_rest(states) & (lengths > SEEN_TO_MOVE * norms(states))  # false for NaN
    for _ in range(POLISHING if far.any() else 0):
        moved = np.where(far[:, None] & np.isfinite(onward), trial + onward, trial)
        trial = np.where(far[:, None], expand(opt, moved, gradients).following, trial)
        after = expand(opt, trial, gradients)
        onward = newton_steps(after, trial)
        ahead = np.linalg.norm(onward, axis=1)
        better = far & after.at_rest(trial) & (ahead < lengths)
        states, found = _where(better, (trial, after), (states, found))
        lengths = np.where(better, ahead, lengths)
    return states, found


def newton_steps(
    found: Expansion, states: Float[np.ndarray, "point state"]
) -> Float[np.ndarray, "point state"]:
    """Newton's step from each point; NaN where an eigenvalue is so near 1 that it is of a line."""
    steps = np.full_like(states, np.nan)
    matrices = np.eye(states.shape[1]) - found.recurrent
    sound = np.flatnonzero(found.differentiable)
    apart = np.abs(np.linalg.eigvals(matrices[sound])).min(axis=1, initial=np.inf) > MARGINAL
    own = sound[apart]
    residuals = (found.following - states)[own]
    steps[own] = np.einsum("pij,pj->pi", _inverses(matrices[own]), residuals)
    return steps


def _where(
    chosen: Bool[np.ndarray, " point"],
    new: tuple[Float[np.ndarray, "point state"], Expansion],
    old: tuple[Float[np.ndarray, "point state"], Expansion],
) -> tuple[Float[np.ndarray, "point state"], Expansion]:
    """Points with their expansions: the new ones where they are chosen."""
    states = np.where(chosen[:, None], new[0], old[0])
    pairs = zip(new[1], old[1], strict=True)
    axes = (np.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in pairs)
    return states, Expansion(*axes)


def _excess(
    found: Expansion, states: Float[np.ndarray, "point state"]
) -> Float[np.ndarray, " point"]:
    """Largest step of a coordinate over its resolution; NaN where F is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.max(np.abs(found.following - states) / found.resolution, axis=1)
