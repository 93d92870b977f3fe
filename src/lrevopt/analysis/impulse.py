"""Impulse responses: the updates that one unit of gradient causes."""

import numpy as np
from jaxtyping import Float

LOST = 16 * float(np.finfo(float).eps)
"""Share of the terms of a sum, for each coordinate, up to which it is their round-off."""


def response_of(
    w: Float[np.ndarray, " part"], J: Float[np.ndarray, "part part"],
    B: Float[np.ndarray, " part"], steps: int,
) -> Float[np.ndarray, " step"]:  # fmt: skip
    """`w J^k B`, k = 0, 1, ..., of any part of a linearized optimizer.

    All are 0 where none is more than the round-off of terms that cancel: where every one is at most
    `LOST` n times the largest `|w| (|J| |J^(j - 1) B|)` so far, of a state of n coordinates.
    """
    response, terms, size = np.zeros(steps), np.zeros(steps), np.abs(B)
    for step in range(steps):
        response[step], terms[step] = w @ B, np.abs(w) @ size
        size, B = np.abs(J) @ np.abs(B), J @ B
    lost = LOST * len(J) * np.maximum.accumulate(terms)
    absent = np.isfinite(response) & (np.abs(response) <= lost)
    return np.zeros(steps) if absent.all() else response
