"""One number fitted: of weight decay, clipping, a factor on the gradient."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lrevopt.studies.audit.experiments import ABOUT_X, Answers, experiments, gaps, inputs
from lrevopt.studies.audit.subjects import Subject, Traces
from lrevopt.text import number as in_digits

Change = Callable[[Traces, Traces, np.ndarray], Traces]
"""Gradients that an optimizer gets instead: of gradients, parameters, and a number."""

ROUNDS, POINTS = 12, 32
"""A number is searched on grids of this many points, each between neighbours of the best before."""


def short(value: float) -> float:
    """The number of at most three digits nearby, if there is one."""
    for digits in (1, 2, 3):
        near = float(f"{value:.{digits}g}")
        if abs(near - value) <= 1e-6 * abs(value):
            return near
    return value


def fit(
    subject: Subject, change: Change, given: tuple[Traces, Traces, Traces], grid: np.ndarray
) -> float:
    """The number with which a changed optimizer comes nearest to updates.

    `given` is gradients, parameters and the updates wanted; the changed optimizer has parameters
    of 0, so that a decay of its own does not act.
    """
    gradients, parameters, wanted = given
    traces = gradients.shape[1]

    def cost(numbers: np.ndarray) -> np.ndarray:
        many, at = (np.tile(array, (1, len(numbers), 1)) for array in (gradients, parameters))
        each = np.repeat(numbers, traces)[None, :, None]
        met = change(many, at, each)
        found = subject.run(met, np.zeros_like(met))
        apart = np.abs(found - np.tile(wanted, (1, len(numbers), 1)))
        scale = np.abs(wanted).max(axis=0, keepdims=True) + 1e-300
        total = (apart / np.tile(scale, (1, len(numbers), 1))).sum(axis=(0, 2))
        return np.nan_to_num(total.reshape(len(numbers), traces).sum(axis=1), nan=np.inf)

    for _ in range(ROUNDS):
        best = int(np.argmin(cost(grid)))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        if np.sign(low) != np.sign(high):
            break
        found = grid[best]
        grid = np.linspace(low, high, POINTS + 1)
        if low < found < high:
            # In place of the nearest point: of two as close as round-off the wrong one may seem the
            # better, and the interval between its neighbours would then miss the minimum.
            grid[1 + np.argmin(np.abs(grid[1:-1] - found))] = found
    return short(float(grid[int(np.argmin(cost(grid)))]))


class Decay(NamedTuple):
    """How an optimizer depends on the parameter x. `strength` is the factor of x.

    Kinds: "none"; "coupled", g + strength x takes the gradient's place; "decoupled", strength x is
    subtracted in each update; "multiplied", g (1 + strength x) takes the gradient's place; "other".
    """

    kind: str
    strength: float = 0.0

    def in_words(self, name: str) -> str:
        """What it does, as a sentence."""
        value = in_digits(self.strength, 4)
        return {
            "none": f"{name} does not depend on the parameter",
            "coupled": f"{name} adds {value} x to the gradient (coupled decay)",
            "decoupled": f"{name} subtracts {value} x in each update (decoupled decay)",
            "multiplied": f"{name} multiplies the gradient by 1 + {value} x",
            "other": f"{name} depends on the parameter in a way that is not in the catalogue",
        }[self.kind]


COUPLINGS: dict[str, Change] = {
    "coupled": lambda g, x, strength: g + strength * x,
    "multiplied": lambda g, x, strength: g * (1 + strength * x),
}


def decay_of(subject: Subject, known: Answers, tolerance: float) -> Decay:
    """How an optimizer's updates depend on the parameter, where that is not 0."""
    (moving,) = (each for each in experiments() if each.name == ABOUT_X[1])
    gradients, parameters = inputs(list(moving.traces))
    updates = known[moving.name]
    plain = subject.run(gradients, np.zeros_like(parameters))

    def same(model: Traces) -> bool:
        # Of an update and of what it is made of, round-off is that of the larger.
        largest = np.fmax(np.abs(plain).max(axis=0), np.abs(updates).max(axis=0))
        return bool((np.abs(model - updates) <= max(tolerance, 1e-12) * largest).all())

    if (gaps(plain, updates, parameters) <= tolerance).all():
        return Decay("none")
    shares = -(updates - plain)[:, :1]  # the first trace has gradient 0 and x = 1
    strength = short(float(shares[0, 0, 0]))
    if same(plain - shares * parameters):
        return Decay("decoupled", strength)
    grid = np.geomspace(1e-7, 10.0, 48)
    grid = np.concatenate([-grid[::-1], grid])
    wanted = gradients[:, :2], parameters[:, :2], updates[:, :2]
    for kind, change in COUPLINGS.items():
        strength = fit(subject, change, wanted, grid)
        met = change(gradients, parameters, np.array(strength))
        if same(subject.run(met, np.zeros_like(met))):
            return Decay(kind, strength)
    return Decay("other")
