"""White boxes: optimizers of a few numbers, put together from the mechanisms of the paper.

Per parameter, with the gradient g and every part optional:

    s' = memory s + (1 - memory) g^2                     adaptation: running square of g
    a  = (s' + floor)^-exponent
    u  = a S(g)                                          saturation S
    v_j' = m_j v_j + u,   d = Re sum_j share_j v_j'      momentum: modes, real or complex
    z' = exp(-1 / timescale) z,   z^0 = 1                schedule: decay by itself
    p' = n p + (1 - n) g g_before                        agreement of successive gradients, c,
    q' = n q + (1 - n) (g^2 + g_before^2) / 2            from -1 to 1, with memory n
    c  = p' / q',   0 where q' is below 1e-19
    e  = c + agreement_curvature c^2
    x' = x - learning_rate (1 + (start_over_end - 1) z) exp(agreement e) d

The saturation keeps the sign and the slope 1 at 0, and levels off at the knee:

    S(u) = u / (1 + |u / knee|^sharpness)^(1 / sharpness)

A sharpness of infinity clips. With an asymmetry the knee of a positive input is
`knee exp(asymmetry)`, that of a negative one `knee exp(-asymmetry)`. Adaptation and saturation can
act on the update d instead of the gradient (`of="update"`, d = S(a d)); saturation also on what
the modes keep (`of="memory"`, v_j' = S(m_j v_j + u), by its modulus where v_j is complex); there
`sharpness_ratio` multiplies the sharpness of complex modes.

Agreement has no unit: it tells a direction in which gradients persist (c near 1: the curvature is
small for the rate) from one in which they alternate (c near -1), at any size of the gradients.
With `agreement_knee` it sets the saturation, too: the knee is multiplied by
`exp(agreement agreement_knee c)`.

Where squares of gradients are kept, a gradient whose square would overflow (beyond 9.2e18 in single
precision) counts as the largest one whose square does not.

Shares sum to 1 (their real parts), so that without adaptation `learning_rate` is the effective
learning rate at rest without memory: minus the slope of the update against the gradient.

The numbers are leaves in coordinates without bounds (logarithms and the like), so that any value
that training arrives at is valid. Constructor, `numbers` and printing have them in plain units.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lrevopt.checks import instance, names, one_of, yes_or_no
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.white_box_numbers import (
    complement,
    coordinate_of,
    cosine_and_sine,
    held_words,
    indexed,
    plain_number,
    scale_of,
    valid_number,
)
from lrevopt.optimizers.white_box_parts import (
    AdaptationOf,
    BoxAdaptation,
    BoxAgreement,
    BoxMomentum,
    BoxSaturation,
    BoxSchedule,
    SaturationOf,
    agreement_numbers,
    check_together,
    mode_numbers,
    saturation_numbers,
)
from lrevopt.optimizers.white_box_terms import (
    power,
    quotient,
    root_of_shrinkage,
    running_products,
    with_finite_square,
)

Part = Literal["momentum", "saturation", "adaptation", "schedule", "agreement"]

PARTS: tuple[Part, ...] = get_args(Part)
"""Parts that a white box can have: the mechanisms of the paper in its order, and agreement."""


class WhiteBox(AbstractOptimizer):
    """An optimizer of named, optional parts with a few numbers each (see the module).

        WhiteBox(0.1, momentum=0.9)
        WhiteBox(0.1, momentum=BoxMomentum((0.9, 0.5 + 0.4j), (0.7, 0.3 + 0.1j)),
                 saturation=BoxSaturation(2.0), adaptation=BoxAdaptation(0.99, 0.3),
                 schedule=BoxSchedule(3.0, 50.0), hold=("sharpness",))

    State: v of real modes, real and imaginary parts of v of complex ones, running square, the
    gradient before with p and q, z, and last the step direction. `coordinates` are the numbers
    without bounds, by name: arrays are trained, Python numbers (those in `hold`) are not.

    Exact settings: `of_momentum`, `of_nesterov`, `of_clipped`, `of_rmsprop`, and `of_adam` without
    bias correction. Raises `ValueError` for numbers out of their range, shares that do not sum to
    1, or an unknown name in `hold`.
    """

    coordinates: dict[str, Any]
    real_modes: int = eqx.field(static=True)
    complex_modes: int = eqx.field(static=True)
    saturation_of: SaturationOf | None = eqx.field(static=True)
    adaptation_of: AdaptationOf | None = eqx.field(static=True)
    floor_outside: bool = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        *,
        momentum: Any = None,
        saturation: BoxSaturation | None = None,
        adaptation: BoxAdaptation | None = None,
        schedule: BoxSchedule | None = None,
        agreement: BoxAgreement | None = None,
        hold: Sequence[str] = (),
    ):
        values = {"learning_rate": learning_rate}
        modes, self.real_modes, self.complex_modes = mode_numbers(momentum)
        values |= modes | saturation_numbers(saturation)
        self.saturation_of = None if saturation is None else saturation.of
        self.adaptation_of, self.floor_outside = None, False
        if adaptation is not None:
            instance("adaptation", adaptation, BoxAdaptation, "a `BoxAdaptation`")
            one_of("adaptation.of", adaptation.of, get_args(AdaptationOf))
            yes_or_no("adaptation.floor_outside", adaptation.floor_outside)
            self.adaptation_of, self.floor_outside = adaptation.of, adaptation.floor_outside
            numbers = ("memory", "exponent", "floor")
            values |= {name: getattr(adaptation, name) for name in numbers}
        if schedule is not None:
            instance("schedule", schedule, BoxSchedule, "a `BoxSchedule`")
            values |= {name: getattr(schedule, name) for name in ("start_over_end", "timescale")}
        values |= agreement_numbers(agreement)
        check_together(values, self.saturation_of)
        found = {name: coordinate_of(name, value) for name, value in values.items()}
        self.coordinates = _held(found, hold)

    @classmethod
    def of_momentum(cls, learning_rate: Any, momentum: Any) -> "WhiteBox":
        """`Momentum(learning_rate, momentum)`."""
        return cls(learning_rate, momentum=momentum)

    @classmethod
    def of_nesterov(cls, learning_rate: Any, momentum: Any) -> "WhiteBox":
        """`Nesterov(learning_rate, momentum)`: a mode with momentum and one without memory."""
        valid_number("learning_rate", learning_rate)
        valid_number("momentum", momentum)
        both = BoxMomentum((momentum, 0.0), (momentum / (1 + momentum), 1 / (1 + momentum)))
        return cls(learning_rate * (1 + momentum), momentum=both)

    @classmethod
    def of_clipped(cls, learning_rate: Any, threshold: Any) -> "WhiteBox":
        """`ClippedGradientDescent(learning_rate, threshold)`."""
        valid_number("knee", threshold, "threshold")
        return cls(learning_rate, saturation=BoxSaturation(threshold, math.inf))

    @classmethod
    def of_rmsprop(cls, learning_rate: Any, decay: Any = 0.9, epsilon: Any = 1e-8) -> "WhiteBox":
        """`RMSProp(learning_rate, decay, epsilon)`."""
        valid_number("memory", decay, "decay")
        valid_number("floor", epsilon, "epsilon")
        return cls(learning_rate, adaptation=BoxAdaptation(decay, 0.5, epsilon))

    @classmethod
    def of_adam(
        cls, learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, epsilon: Any = 1e-8
    ) -> "WhiteBox":
        """`Adam(learning_rate, b1, b2, epsilon)` without its bias correction."""
        valid_number("learning_rate", learning_rate)
        valid_number("momentum", b1, "b1")
        valid_number("memory", b2, "b2")
        valid_number("floor", epsilon, "epsilon")
        size = BoxAdaptation(b2, 0.5, epsilon, of="update", floor_outside=True)
        return cls(learning_rate * (1 - b1), momentum=b1, adaptation=size)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts that are present."""
        present = (
            self.real_modes + self.complex_modes > 0, self.saturation_of is not None,
            self.adaptation_of is not None, "timescale" in self.coordinates,
            "agreement" in self.coordinates,
        )  # fmt: skip
        return tuple(part for part, there in zip(PARTS, present, strict=True) if there)

    def numbers(self) -> dict[str, Any]:
        """The free numbers in plain units, by name; arrays where white boxes are stacked."""
        free = {name: c for name, c in self.coordinates.items() if eqx.is_array(c)}
        return {name: scale_of(name).outward(c) for name, c in free.items()}

    @property
    def held(self) -> dict[str, float]:
        """Numbers that are not trained, in plain units."""
        fixed = {n: c for n, c in self.coordinates.items() if not eqx.is_array(c)}
        return {name: plain_number(name, c) for name, c in fixed.items()}

    def with_numbers(self, values: Mapping[str, Any]) -> "WhiteBox":
        """The same white box with other numbers, in plain units; held ones stay held.

        Raises `ValueError` for a name that it does not have, or a number out of its range.
        """
        instance("values", values, Mapping, "a dictionary of numbers by name")
        found = dict(self.coordinates)
        for name, value in values.items():
            one_of("values", name, tuple(self.coordinates))
            if not _is_number_of(found[name], name, value):  # whose digits near 1 would be lost
                inward = coordinate_of(name, value)
                found[name] = inward if eqx.is_array(found[name]) else float(inward)
        return eqx.tree_at(lambda box: box.coordinates, self, found)

    def holding(self, *names: str) -> "WhiteBox":
        """The same white box with exactly these numbers held."""
        free = {name: as_float(value) for name, value in self.coordinates.items()}
        return eqx.tree_at(lambda box: box.coordinates, self, _held(free, names))

    def description(self) -> dict[str, Any]:
        """Structure, as JSON: what the settings of a run keep."""
        return {
            "numbers": sorted(self.coordinates), "held": self.held,
            "saturation_of": self.saturation_of, "adaptation_of": self.adaptation_of,
            "floor_outside": self.floor_outside,
        }  # fmt: skip

    @property
    def _dtype(self) -> Any:
        arrays = [c for c in self.coordinates.values() if eqx.is_array(c)]
        return jnp.result_type(*arrays) if arrays else jnp.result_type(float)

    @property
    def _memories(self) -> int:
        """State coordinates of the modes."""
        return self.real_modes + 2 * self.complex_modes

    @property
    def readout(self) -> Float[Array, " state"]:
        rate = jnp.asarray(jnp.exp(self.coordinates["learning_rate"]), self._dtype)
        return jnp.concatenate([jnp.zeros(self._size - 1, self._dtype), -rate[None]])

    @property
    def _size(self) -> int:
        agreement = 3 * ("agreement" in self.coordinates)
        more = (self.adaptation_of is not None) + ("timescale" in self.coordinates)
        return self._memories + more + agreement + 1

    def initial_state(self) -> Float[Array, " state"]:
        state = jnp.zeros(self._size, self._dtype)
        return state.at[-2].set(1.0) if "timescale" in self.coordinates else state

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        # Angles are not needed: their sines come from coordinates.
        needed = [name for name in self.coordinates if not name.startswith("angle")]
        n = {name: scale_of(name).outward(self.coordinates[name]) for name in needed}
        if self.adaptation_of is not None or "agreement" in self.coordinates:
            gradient = with_finite_square(gradient)
        kept: list[Array] = []
        agreed = jnp.zeros((), state.dtype)
        if "agreement" in self.coordinates:
            place = self._memories + (self.adaptation_of is not None)
            running = running_products(
                state[place : place + 3], gradient, n["agreement_memory"],
                complement(self.coordinates["agreement_memory"]),
            )  # fmt: skip
            agreed = quotient(*running[1:])
            kept += running
        if "agreement_knee" in n:
            n["knee"] = n["knee"] * jnp.exp(n["agreement"] * n["agreement_knee"] * agreed)
        size = jnp.ones((), state.dtype)
        if self.adaptation_of is not None:
            rest = complement(self.coordinates["memory"])
            square = n["memory"] * state[self._memories] + rest * gradient**2
            size = power(square, n["exponent"], n["floor"], outside=self.floor_outside)
            kept.insert(0, square)
        u = self._saturated(n, gradient) if self.saturation_of == "gradient" else gradient
        u = u * size if self.adaptation_of == "gradient" else u
        modes, direction = self._modes(n, state[: self._memories], u)
        direction = direction * size if self.adaptation_of == "update" else direction
        if self.saturation_of == "update":
            direction = self._saturated(n, direction)
        if "agreement" in self.coordinates:
            if "agreement_curvature" in n:
                agreed = agreed + n["agreement_curvature"] * agreed**2
            direction = direction * jnp.exp(n["agreement"] * agreed)
        if "timescale" in self.coordinates:
            excess = state[-2]
            direction = direction * (1 + (n["start_over_end"] - 1) * excess)
            kept.append(jnp.exp(-1 / n["timescale"]) * excess)
        return jnp.stack([*modes, *kept, direction])

    def _modes(
        self, n: Mapping[str, Any], memory: Float[Array, " memory"], u: Float[Array, ""]
    ) -> tuple[list[Array], Float[Array, ""]]:
        """Next memories of the modes, and the update direction that they give."""
        real, count = self.real_modes, self.complex_modes
        bounded = self.saturation_of == "memory"
        if not self._memories:  # as a mode of momentum 0
            return [], self._saturated(n, u) if bounded else u
        shares = [n[name] for name in indexed("share", real + count, free=real + count - 1)]
        shares.append(1 - sum(shares))
        moved, direction = [], jnp.zeros((), u.dtype)
        for place, name in enumerate(indexed("momentum", real)):
            after = n[name] * memory[place] + u
            after = self._saturated(n, after) if bounded else after
            moved.append(after)
            direction = direction + shares[place] * after
        sharpness = n.get("sharpness")
        if "sharpness_ratio" in n:
            sharpness = sharpness * n["sharpness_ratio"]
        for place in range(count):
            radius, other = (n[indexed(name, count)[place]] for name in ("radius", "quadrature"))
            cosine, sine = cosine_and_sine(self.coordinates[indexed("angle", count)[place]])
            x, y = memory[real + 2 * place], memory[real + 2 * place + 1]
            a, b = radius * cosine, radius * sine
            x, y = a * x - b * y + u, b * x + a * y
            if bounded:
                root = root_of_shrinkage(x, y, n["knee"], sharpness)
                x, y = x * root * root, y * root * root
            moved += [x, y]
            direction = direction + shares[real + place] * x - other * y
        return moved, direction

    def _saturated(self, n: Mapping[str, Any], u: Float[Array, ""]) -> Float[Array, ""]:
        """S(u)."""
        knee = n["knee"]
        if "asymmetry" in n:
            knee = knee * jnp.exp(jnp.where(u >= 0, n["asymmetry"], -n["asymmetry"]))
        if "sharpness" not in n:
            return jnp.clip(u, -knee, knee)
        root = root_of_shrinkage(u, None, knee, n["sharpness"])
        return u * root * root

    def __repr__(self) -> str:
        """Parts and numbers in plain units."""
        return held_words(self)


def _is_number_of(coordinate: Any, name: str, value: Any) -> bool:
    """Whether a coordinate, known and no stack, has this number to the last bit of its type."""
    known = not any(isinstance(leaf, jax.core.Tracer) for leaf in (coordinate, value))
    if not known or np.ndim(coordinate) or not isinstance(value, jax.Array) or value.ndim:
        return False
    return bool(scale_of(name).outward(coordinate) == value)


def _held(coordinates: Mapping[str, Array], hold: Sequence[str]) -> dict[str, Any]:
    """Coordinates with those of these names as Python numbers."""
    for name in names("hold", hold):
        one_of("hold", name, tuple(coordinates))
    return {n: float(c) if n in hold else c for n, c in coordinates.items()}
