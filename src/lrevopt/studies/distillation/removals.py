"""Ways to take numbers from a white box, one part or one number at a time.

A number is taken away by a *tie*: its coordinate is fixed where it leaves a part out, or at a
textbook value. Tied white boxes keep the structure of the full one, so that all removals of a
round are trained by one program; `reduced` writes out the smaller white box that does the same.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import NUMBERS_OF, Document, document_of
from lrevopt.optimizers.white_box_numbers import indexed, scale_of
from lrevopt.studies.distillation.moves import FLOOR, HELD
from lrevopt.studies.distillation.units import behind_adaptation, floor_of

Ties = dict[str, float]
"""Coordinates that are fixed, by the name of their number."""

ABSENT_KNEE, NO_MEMORY, NO_ANGLE = 60.0, -80.0, 40.0
"""Coordinates of a knee, a radius and an angle that have no effect in single precision: a knee of
1e26, a radius of 2e-35, and an angle of 8e-18."""

OF_THE_KNEE = ("asymmetry", "sharpness_ratio", "agreement_knee")
"""Numbers that have no effect without saturation, nor where their coordinate is 0."""

MORE = (*OF_THE_KNEE, "agreement_curvature")
"""Numbers that have no effect where their coordinate is 0."""

AGREEMENT = {
    "agreement_curvature": ("curvature of agreement", 0.5),
    "agreement_knee": ("agreement of the knee", -1.5),
}
"""What these numbers are called, and values that they are tied at: with a curvature of 1/2 the
rate is multiplied by about (1 - c)^-strength."""

MOST_MODES = 2
"""Modes of a white box whose numbers can be taken away."""


class Tied(AbstractOptimizer):
    """A white box of which only the numbers that are `free` are trained; all are arrays."""

    box: WhiteBox
    free: dict[str, Bool[Array, ""]]

    @property
    def _box(self) -> WhiteBox:
        found = {
            name: jnp.where(self.free[name], value, lax.stop_gradient(value))
            for name, value in self.box.coordinates.items()
        }
        return eqx.tree_at(lambda box: box.coordinates, self.box, found)

    @property
    def readout(self) -> Float[Array, " state"]:
        return self._box.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.box.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self._box.transition(state, gradient)


def tied(box: WhiteBox, ties: Mapping[str, float]) -> Tied:
    """The white box with these coordinates fixed at these values."""
    found = {
        name: jnp.asarray(ties.get(name, value), jnp.asarray(value).dtype)
        for name, value in box.coordinates.items()
    }
    free = {name: jnp.asarray(name not in ties) for name in found}
    return Tied(eqx.tree_at(lambda b: b.coordinates, box, found), free)


def all_free(box: WhiteBox) -> tuple[WhiteBox, Ties]:
    """The white box with all numbers free, and ties of those that were held.

    Raises `ValueError` for more than two modes.
    """
    if box.real_modes + box.complex_modes > MOST_MODES:
        raise ValueError(
            f"`white_box` must have at most {MOST_MODES} modes, got "
            f"{box.real_modes + box.complex_modes}."
        )
    ties = {name: float(c) for name, c in box.coordinates.items() if not eqx.is_array(c)}
    return box.holding(), ties


def removals(box: WhiteBox, ties: Ties, typical: Typical) -> dict[str, Ties]:
    """New ties by what they take away; each takes at least one free number.

    `box` has no held numbers (see `all_free`), `ties` are those that stand.
    """
    state = _State(box, ties)
    makers = (_modes, _saturation, _adaptation, _schedule, _agreement)
    every = (one for make in makers for one in make(state, typical))
    return {name: new for name, new in every if set(new) - set(ties)}


@dataclasses.dataclass(frozen=True)
class _Mode:
    """A mode of a white box with ties: names of its numbers, and what is left of it."""

    names: tuple[str, ...]
    turns: bool
    remembers: bool

    @property
    def size(self) -> str:
        """The number that is its momentum, or the modulus of it."""
        return self.names[0]


@dataclasses.dataclass(frozen=True)
class _State:
    """A white box with ties."""

    box: WhiteBox
    ties: Ties

    def now(self, *names: str) -> Ties:
        """Ties of these numbers at the values that they have."""
        return {name: float(self.value(name)) for name in names if name in self.box.coordinates}

    def value(self, name: str) -> Any:
        """A coordinate."""
        return self.ties.get(name, self.box.coordinates.get(name))

    def free(self, name: str) -> bool:
        """Whether the white box has this number, and it is not tied."""
        return name in self.box.coordinates and name not in self.ties

    def has(self, part: str) -> bool:
        """Whether a part other than momentum is still there."""
        name, absent = {
            "saturation": ("knee", ABSENT_KNEE), "adaptation": ("exponent", 0.0),
            "schedule": ("start_over_end", 0.0), "agreement": ("agreement", 0.0),
        }[part]  # fmt: skip
        return name in self.box.coordinates and self.ties.get(name) != absent

    def modes(self) -> list[_Mode]:
        """Modes that are still there, in the order of the white box."""
        real, pairs = self.box.real_modes, self.box.complex_modes
        names: list[tuple[str, ...]] = [(name,) for name in indexed("momentum", real)]
        names += [
            tuple(indexed(head, pairs)[place] for head in ("radius", "angle", "quadrature"))
            for place in range(pairs)
        ]
        gone = {1.0: 1, 0.0: 0}.get(self.ties.get("share_1", math.nan))
        return [
            _Mode(
                own, len(own) > 1 and self.ties.get(own[1]) != NO_ANGLE,
                self.ties.get(own[0]) not in (0.0, NO_MEMORY),
            )
            for place, own in enumerate(names) if len(names) == 1 or place != gone
        ]  # fmt: skip


Removals = Iterator[tuple[str, Ties]]


def _modes(state: _State, typical: Typical) -> Removals:
    modes = state.modes()
    labels = _labels(modes)
    for mode, label in zip(modes, labels, strict=True):
        straight = {} if len(mode.names) == 1 else {mode.names[1]: NO_ANGLE, mode.names[2]: 0.0}
        straight |= dict.fromkeys(state.now("sharpness_ratio") if mode.turns else (), 0.0)
        still = {mode.size: 0.0 if len(mode.names) == 1 else NO_MEMORY} | straight
        if len(modes) == MOST_MODES:
            away = state.now(*mode.names) | {"share_1": 0.0 if mode is modes[0] else 1.0}
            away |= dict.fromkeys(state.now("sharpness_ratio"), 0.0)
            yield f"{label}", away | dict.fromkeys(mode.names[2:], 0.0)
            if not mode.turns and mode.remembers and all(one.remembers for one in modes):
                yield f"memory of {label}", still
            if state.free("share_1"):
                yield "unequal shares", {"share_1": 0.5}
        elif mode.remembers:
            yield "momentum", still
        if mode.turns:
            yield f"oscillation of {label}", straight
            if state.free(mode.names[2]):
                yield f"quadrature of {label}", {mode.names[2]: 0.0}


def _labels(modes: list[_Mode]) -> list[str]:
    """Such as `real mode`, `oscillating mode`; counted where there are two of a kind."""
    kinds = ["oscillating mode" if mode.turns else "real mode" for mode in modes]
    if len(set(kinds)) == len(kinds):
        return kinds
    return [f"{kind} {place + 1}" for place, kind in enumerate(kinds)]


def _saturation(state: _State, typical: Typical) -> Removals:
    if state.has("saturation"):
        rest = state.now("sharpness") | dict.fromkeys(state.now(*OF_THE_KNEE), 0.0)
        yield "saturation", {"knee": ABSENT_KNEE} | rest
        if state.free("sharpness"):
            yield "free sharpness", {"sharpness": _inward("sharpness", HELD["sharpness"])}
            yield "free sharpness (1/2)", {"sharpness": _inward("sharpness", 0.5)}
        if state.free("asymmetry"):
            yield "asymmetry", {"asymmetry": 0.0}
        if state.free("sharpness_ratio"):
            yield "sharpness of each mode", {"sharpness_ratio": 0.0}


def _adaptation(state: _State, typical: Typical) -> Removals:
    if state.has("adaptation"):
        yield "adaptation", {"exponent": 0.0} | state.now("memory", "floor")
        if state.free("exponent"):
            yield "free exponent", {"exponent": HELD["exponent"]}
        if state.free("floor"):
            exponent, outside = float(state.value("exponent")), state.box.floor_outside
            floor = floor_of(FLOOR, typical, exponent, outside=outside)
            yield "free floor", {"floor": _inward("floor", floor)}


def _schedule(state: _State, typical: Typical) -> Removals:
    if state.has("schedule"):
        yield "schedule", {"start_over_end": 0.0} | state.now("timescale")
        if state.free("timescale"):
            yield "free timescale", {"timescale": _inward("timescale", typical.steps / 4)}


def _agreement(state: _State, typical: Typical) -> Removals:
    if state.has("agreement"):
        none = dict.fromkeys(state.now("agreement_curvature", "agreement_knee"), 0.0)
        yield "agreement", {"agreement": 0.0} | state.now("agreement_memory") | none
        for name, (label, value) in AGREEMENT.items():
            if state.free(name):
                yield label, {name: 0.0}
                yield f"free {label}", {name: value}
        if state.free("agreement_memory"):
            value = _inward("agreement_memory", HELD["agreement_memory"])
            yield "free memory of agreement", {"agreement_memory": value}


def _inward(name: str, value: float) -> float:
    return float(scale_of(name).inward(as_float(value)))


def reduced(box: WhiteBox, ties: Ties) -> Document:
    """The smaller white box that does what `box` does with these ties.

    Parts that are left out are gone, the other tied numbers are held.
    """
    state, whole = _State(box, ties), document_of(tied(box, ties).box)
    values = whole["numbers"]
    kept = {"learning_rate": values["learning_rate"]}
    document = whole | {"floor_outside": False}
    for part in ("saturation", "adaptation", "schedule", "agreement"):
        if state.has(part):
            kept |= {name: values[name] for name in NUMBERS_OF[part] if name in values}
        elif f"{part}_of" in document:
            document[f"{part}_of"] = None
    if document["adaptation_of"] is not None:
        document["floor_outside"] = whole["floor_outside"]
    elif whole["floor_outside"]:  # 1 / (1 + floor) is left
        kept["learning_rate"] /= 1 + values["floor"]
        if "knee" in kept and behind_adaptation(whole):
            kept["knee"] *= 1 + values["floor"]
    for name in MORE:
        if ties.get(name) == 0.0:
            kept.pop(name, None)
    modes, held = _written_modes(state, values)
    held += [name for name in kept if name in ties]
    return document | {"numbers": kept | modes, "held": sorted(held)}


def _written_modes(
    state: _State, values: Mapping[str, float]
) -> tuple[dict[str, float], list[str]]:
    """Numbers of the modes that are left, real ones first, and names of those that are tied."""
    modes = state.modes()
    if not any(mode.remembers for mode in modes):
        return {}, []
    order = sorted(range(len(modes)), key=lambda place: modes[place].turns)
    real = [modes[place] for place in order if not modes[place].turns]
    pairs = [modes[place] for place in order if modes[place].turns]
    numbers: dict[str, float] = {}
    held = []

    def write(name: str, source: str, value: float) -> None:
        numbers[name] = value
        if source in state.ties:
            held.append(name)

    for name, mode in zip(indexed("momentum", len(real)), real, strict=True):
        write(name, mode.size, values[mode.size] if mode.remembers else 0.0)
    for place, mode in enumerate(pairs):
        for head, source in zip(("radius", "angle", "quadrature"), mode.names, strict=True):
            write(indexed(head, len(pairs))[place], source, values[source])
    if len(modes) == MOST_MODES:
        share = values["share_1"]
        write("share_1", "share_1", share if order[0] == 0 else 1 - share)
    return numbers, held


class Kept(eqx.Module):
    """A white box with ties as a record: coordinates and ties as JSON, and scores of its starts."""

    coordinates: str
    ties: str
    scores: Float[np.ndarray, " start"]

    @classmethod
    def of(cls, box: WhiteBox, ties: Ties, scores: Float[np.ndarray, " start"]) -> "Kept":
        """The record."""
        values = {name: float(value) for name, value in box.coordinates.items()}
        return cls(json.dumps(values), json.dumps(ties), scores)

    def state(self, box: WhiteBox) -> tuple[WhiteBox, Ties]:
        """What it is a record of; `box` has the structure."""
        values, ties = json.loads(self.coordinates), json.loads(self.ties)
        found = {
            name: jnp.asarray(values[name], value.dtype) for name, value in box.coordinates.items()
        }
        return eqx.tree_at(lambda b: b.coordinates, box, found), ties
