"""Random white boxes to start from."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
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
from lrevopt.studies.distillation.units import adapted, behind_adaptation, floor_of

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
"""Ranges of draws. A floor is relative to the squared size of gradients, or where it stands outside
to that power of it, a learning rate to what moves a parameter by 1 under the largest of them."""

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


def random_boxes(
    box: WhiteBox,
    count: int,
    typical: Typical,
    *,
    key: Key[Array, ""],
    keep: Collection[str] = (),
) -> WhiteBox:
    """`count` white boxes of the structure of `box`, stacked, with random free numbers.

    Those in `keep` stay as they are in `box`. All are in units of gradients (see `units`): under
    larger ones, for larger `typical` sizes, the white boxes make the same updates.
    """
    names = [name for name, value in box.coordinates.items() if eqx.is_array(value)]
    keys = dict(zip(names, jr.split(key, len(names)), strict=True))
    shares = {name: jr.uniform(keys[name], (count,)) for name in names}
    # The exponent comes first: units of other numbers depend on it.
    exponent: Any = box.held.get("exponent", 0.0)
    if "exponent" in keep:
        exponent = box.numbers()["exponent"]
    elif "exponent" in names:
        exponent = _between(*RANGES["exponent"], shares["exponent"], "exponent")
    units = _Units(box.description(), typical, exponent)
    found: dict[str, Any] = dict(box.coordinates)
    for name in names:
        value, dtype = found[name], found[name].dtype
        if name in keep:
            found[name] = jnp.broadcast_to(value, (count,))
        else:
            drawn = _between(*units.range(head_of(name)), shares[name], head_of(name))
            found[name] = jnp.asarray(scale_of(name).inward(drawn), dtype)
    return eqx.tree_at(lambda b: b.coordinates, box, found)


def _between(low: Any, high: Any, share: Float[Array, " start"], head: str) -> Array:
    """Values of one number in plain units, at these shares of the way."""
    if head in UNIFORM:
        return low + (high - low) * share
    value = low * (high / low) ** share
    return 1 - value if head in FORGETTING else value


@dataclasses.dataclass(frozen=True)
class _Units:
    """Ranges of numbers beside adaptations of this exponent, of one or of many white boxes."""

    structure: Mapping[str, Any]
    typical: Typical
    exponent: Any

    def range(self, head: str) -> tuple[Any, Any]:
        """Ends of the range of a number in plain units."""
        typical = self.typical
        if head == "knee":
            exponent = self.exponent if behind_adaptation(self.structure) else 0.0
            size, largest = (adapted(one, exponent) for one in (typical.gradient, typical.largest))
            return 0.1 * size, jnp.maximum(3 * largest, size)
        if head == "timescale":
            return max(1.0, typical.steps / 40), float(typical.steps)
        low, high = RANGES[head]
        if head == "floor":
            outside = self.structure["floor_outside"]
            low, high = (
                floor_of(end, typical, self.exponent, outside=outside) for end in (low, high)
            )
        if head == "learning_rate":
            unit = adapted(typical.largest, self.exponent)
            return low / unit, high / unit
        return low, high
