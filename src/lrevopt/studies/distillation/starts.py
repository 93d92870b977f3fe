"""Random white boxes to start from."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_numbers import head_of, scale_of
from lrevopt.optimizers.white_box_parts import (
    BoxAdaptation,
    BoxAgreement,
    BoxMomentum,
    BoxSaturation,
    BoxSchedule,
)

FORGETTING = ("momentum", "radius", "memory", "agreement_memory")
"""Numbers of which 1 - value is drawn, log-uniformly."""

RANGES: dict[str, tuple[float, float]] = {
    "momentum": (3e-3, 1.0),
    "radius": (1e-2, 0.5),
    "memory": (1e-3, 0.5),
    "angle": (0.02, 2.0),
    "sharpness": (0.5, 5.0),
    "sharpness_ratio": (0.7, 1.4),
    "floor": (1e-8, 1.0),
    "start_over_end": (0.2, 5.0),
    "share": (0.0, 1.0),
    "exponent": (0.0, 0.6),
    "quadrature": (-1.0, 1.0),
    "asymmetry": (-0.5, 0.5),
    "agreement": (-0.3, 1.0),
    "agreement_memory": (0.05, 0.9),
    "agreement_curvature": (-0.5, 0.5),
    "agreement_knee": (-2.0, 0.5),
    "learning_rate": (1e-4, 3.0),
}
"""Ranges of draws. A floor is relative to the squared size of gradients, a learning rate to what
moves a parameter by 1 under the largest of them."""

UNIFORM = (
    "share", "exponent", "quadrature", "asymmetry", "agreement", "agreement_curvature",
    "agreement_knee",
)  # fmt: skip
"""Numbers that are drawn uniformly; all others log-uniformly."""


def default_box() -> WhiteBox:
    """All parts: a real and a complex mode whose memory saturates, adaptation, schedule, agreement.

    15 numbers, whose values here are not used.
    """
    return WhiteBox(
        1e-3,
        momentum=BoxMomentum((0.9, 0.5 + 0.5j), (0.5, 0.5)),
        saturation=BoxSaturation(1.0, of="memory"),
        adaptation=BoxAdaptation(0.95, 0.2, 1.0),
        schedule=BoxSchedule(1.0, 50.0),
        agreement=BoxAgreement(0.3),
    )


def random_boxes(box: WhiteBox, count: int, typical: Typical, *, key: Key[Array, ""]) -> WhiteBox:
    """`count` white boxes of the structure of `box`, stacked, with random free numbers."""
    names = [name for name, value in box.coordinates.items() if eqx.is_array(value)]
    keys = dict(zip(names, jr.split(key, len(names)), strict=True))
    drawn = {name: _draw(name, count, typical, key=keys[name]) for name in names}
    if "learning_rate" in drawn:
        exponent = drawn.get("exponent", box.held.get("exponent", 0.0))
        unit = typical.largest ** (1 - 2 * exponent)
        drawn["learning_rate"] = drawn["learning_rate"] / unit
    found: dict[str, Any] = dict(box.coordinates)
    for name in names:
        dtype = box.coordinates[name].dtype
        found[name] = jnp.asarray(scale_of(name).inward(drawn[name]), dtype)
    return eqx.tree_at(lambda b: b.coordinates, box, found)


def _draw(
    name: str, count: int, typical: Typical, *, key: Key[Array, ""]
) -> Float[Array, " start"]:
    """Values of one number in plain units."""
    head = head_of(name)
    low, high = _range(head, typical)
    share = jr.uniform(key, (count,))
    if head in UNIFORM:
        return low + (high - low) * share
    value = low * (high / low) ** share
    return 1 - value if head in FORGETTING else value


def _range(head: str, typical: Typical) -> tuple[float, float]:
    if head == "knee":
        return 0.1 * typical.gradient, max(3 * typical.largest, typical.gradient)
    if head == "timescale":
        return max(1.0, typical.steps / 40), float(typical.steps)
    low, high = RANGES[head]
    if head == "floor":
        unit = max(typical.gradient**2, float(np.finfo(np.float32).tiny))
        return low * unit, high * unit
    return low, high
