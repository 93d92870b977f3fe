"""Claims about saturation: Figures 4 and 10, section 5.2, A.2 and footnote 3."""

import math
from collections.abc import Mapping

import numpy as np

from lrevopt.analysis.ranks import rank_correlation
from lrevopt.checks import required
from lrevopt.paper.claims.verdicts import Measured, RunNumbers, between
from lrevopt.text import number

SATURATED, STRAIGHT = 0.5, 0.8
FOLLOWS, DOES_NOT = 0.8, 0.0
CONSTANT, VARIES = 2.0, 4.0
AFFINE, BENT = 0.99, 0.95
BENDS = 0.02


def saturation(numbers: RunNumbers) -> Measured:
    """Update of the initial state at the 99.9 % gradient over its linear extrapolation."""
    record = required(numbers.mechanisms).clipping
    return Measured(
        value=record.saturation,
        holds=between(record.saturation, SATURATED, STRAIGHT),
        detail=f"{number(100 * record.beyond_knee)} % of met gradients lie beyond the knee.",
    )


def saturation_follows_task(runs: Mapping[str, RunNumbers]) -> Measured:
    """Rank correlation over tasks of the share beyond the knee with how far updates saturate."""
    records = {task: required(numbers.mechanisms).clipping for task, numbers in runs.items()}
    order = sorted(records, key=lambda task: records[task].beyond_knee)
    said = ", ".join(
        f"{task.replace('_', ' ')} {number(100 * records[task].beyond_knee)} %" for task in order
    )
    if len(records) < 3:
        return Measured(math.nan, None, f"Fewer than three tasks. Beyond the knee: {said}.")
    correlation = rank_correlation(
        [record.beyond_knee for record in records.values()],
        [1 - record.saturation for record in records.values()],
    )
    return Measured(
        value=correlation,
        holds=between(correlation, FOLLOWS, DOES_NOT),
        detail=f"Gradients beyond the knee, from the least: {said}.",
    )


def threshold_constant(numbers: RunNumbers) -> Measured:
    """Largest over smallest knee of the initial and of visited states."""
    knees = required(numbers.mechanisms).clipping.knees
    ratio = float(knees.max() / knees.min()) if np.all(np.isfinite(knees)) else math.inf
    return Measured(
        value=ratio,
        holds=between(ratio, CONSTANT, VARIES),
        detail=f"Knees lie from {number(float(knees.min()))} to {number(float(knees.max()))}.",
    )


def affine_centre(numbers: RunNumbers) -> Measured:
    """R^2 of a line through the update function on the central 80 % of met gradients."""
    fit = required(numbers.mechanisms).clipping.affine_fit
    return Measured(fit, between(fit, AFFINE, BENT))


def backward_bend(numbers: RunNumbers) -> Measured:
    """How far the update falls back from its extreme by the largest met gradient; lesser side."""
    record = required(numbers.mechanisms).clipping
    middle = len(record.gradients) // 2
    away = np.abs(record.updates[0] - record.updates[0][middle])
    falls = [
        1 - arm[-1] / arm.max() if arm.max() > 0 else 0.0
        for arm in (away[middle::-1], away[middle:])
    ]
    # Round-off of a plateau is no bend.
    fall = float(min(falls))
    return Measured(
        value=fall,
        holds=between(fall, BENDS, 1e-6),
        detail=f"For negative gradients {number(100 * float(falls[0]))} %, for positive "
        f"{number(100 * float(falls[1]))} %.",
    )
