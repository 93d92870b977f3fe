"""How much of an impulse response each mode of a linearized optimizer gives."""

import numpy as np
from jaxtyping import Complex, Float

from lrevopt.analysis.linearization import Modes, mode_responses

SAFE = 1e150
"""Between this and its inverse, squares neither overflow nor vanish."""


def relative_responses(modes: Modes, steps: int) -> Complex[np.ndarray, "mode step"]:
    """`mode_responses` in a unit in which their squares can be summed.

    Where the largest is beyond `SAFE`, as those of a growing mode soon are, or below its inverse,
    all are divided by it.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        parts = mode_responses(modes, steps)
        largest = np.abs(parts).max(initial=0.0)
        if largest == 0 or 1 / SAFE < largest < SAFE:
            return parts
        count = np.arange(steps)
        powers = np.where(count == 0, 0.0, np.log(np.abs(modes.eigenvalues))[:, None] * count)
        sizes = np.log(np.abs(modes.learning_rates))[:, None] + powers
        turns = np.angle(-modes.learning_rates)[:, None] + np.outer(
            np.angle(modes.eigenvalues), count
        )
        return np.asarray(np.exp(sizes - sizes.max()) * np.exp(1j * turns))


def explained_energy(modes: Modes, steps: int = 200) -> Float[np.ndarray, " mode"]:
    """Share of the impulse response's energy over `steps` that the best k + 1 modes explain.

    Modes are added in order of decreasing energy. Modes are not orthogonal, so a share may exceed
    the next, and is below 0 where the first ones cancel with others; the last is 1. All are 1 where
    there is no response.
    """
    parts = relative_responses(modes, steps)
    order = np.argsort(-np.sum(np.abs(parts) ** 2, axis=1), kind="stable")
    whole = parts.sum(axis=0)
    missing = np.sum(np.abs(whole - np.cumsum(parts[order], axis=0)) ** 2, axis=1)
    energy = np.sum(np.abs(whole) ** 2)
    return 1 - missing / energy if energy > 0 else np.ones(len(order))


def modes_needed(shares: Float[np.ndarray, " mode"], share: float) -> int:
    """Number of best modes from which on `explained_energy` stays at `share` or above."""
    short = np.flatnonzero(shares < share)
    return int(short[-1]) + 2 if short.size else 1
