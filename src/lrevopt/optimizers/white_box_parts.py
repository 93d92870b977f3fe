"""Parts of white boxes in plain units, and the numbers that they have by name."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np

from lrevopt.checks import instance, numbers, one_of, real_array, shown
from lrevopt.optimizers.white_box_numbers import head_of, indexed

SaturationOf = Literal["gradient", "memory", "update"]
AdaptationOf = Literal["gradient", "update"]


@dataclasses.dataclass(frozen=True, eq=False)
class BoxMomentum:
    """Momentum of a white box: `v_j' = m_j v_j + u`, and the share of each mode in the update."""

    momenta: Any
    """A number for each mode in (-1, 1). A complex one, of modulus below 1, stands for itself and
    its conjugate: it oscillates. Traced ones, as under `jax.vmap`, are real."""
    shares: Any = None
    """Weight of each mode (default: equal). Real parts sum to 1; a share may be complex for a
    complex mode only. Traced ones are real; the last is 1 minus the others."""


@dataclasses.dataclass(frozen=True, eq=False)
class BoxSaturation:
    """Saturation of a white box, `S(u) = u / (1 + |u / knee|^sharpness)^(1 / sharpness)`."""

    knee: Any
    """Size at which S levels off, positive."""
    sharpness: Any = 2.0
    """How suddenly, positive; infinity clips, and is no number of the white box."""
    asymmetry: Any = None
    """Half the logarithm of the knee of positive over that of negative values (default: none)."""
    of: SaturationOf = "gradient"
    """What saturates: gradient, memory or update."""
    sharpness_ratio: Any = None
    """Sharpness of oscillating modes over that of real ones where memory saturates, positive
    (default: the same, and no number)."""


@dataclasses.dataclass(frozen=True, eq=False)
class BoxAdaptation:
    """Adaptation of a white box: rates are divided by a power of a running square of gradients."""

    memory: Any
    """Share of the running square that is kept each step, in (0, 1)."""
    exponent: Any = 0.5
    """Power of the running square: 0 is no adaptation, 0.5 the root of RMSProp and Adam."""
    floor: Any = 1e-8
    """Added to the running square, or with `floor_outside` to its power; positive."""
    of: AdaptationOf = "gradient"
    """What is divided: the gradient before the modes as in RMSProp, or the update as in Adam."""
    floor_outside: bool = False
    """Whether the floor stands outside the power, as in Adam."""


@dataclasses.dataclass(frozen=True, eq=False)
class BoxSchedule:
    """Schedule of a white box: its rate decays by itself from the start of a run to its end."""

    start_over_end: Any
    """Learning rate of the first update over that of the end, positive."""
    timescale: Any
    """Updates in which the excess falls by a factor e, positive."""


@dataclasses.dataclass(frozen=True, eq=False)
class BoxAgreement:
    """Agreement of a white box: its rate is larger where successive gradients agree in sign."""

    strength: Any
    """Logarithm of the factor of the rate under gradients that stay the same: positive speeds up
    where gradients persist and slows down where they alternate."""
    memory: Any = 0.7
    """Share of the running products of gradients that is kept each step, in (0, 1)."""
    curvature: Any = None
    """The rate is multiplied by exp(strength (c + curvature c^2)), where c is the agreement, from
    -1 to 1 (default: 0, and no number). With 1/2 that is about (1 - c)^-strength."""
    knee: Any = None
    """The knee of the saturation is multiplied by exp(strength knee c) (default: 0, and no number).
    Negative bounds what persists, and lets alternating gradients cancel unbounded."""


def agreement_numbers(agreement: BoxAgreement | None) -> dict[str, Any]:
    """Numbers of an agreement."""
    if agreement is None:
        return {}
    instance("agreement", agreement, BoxAgreement, "a `BoxAgreement`")
    values = {"agreement": agreement.strength, "agreement_memory": agreement.memory}
    more = {"agreement_curvature": agreement.curvature, "agreement_knee": agreement.knee}
    return values | {name: value for name, value in more.items() if value is not None}


def saturation_numbers(saturation: BoxSaturation | None) -> dict[str, Any]:
    """Numbers of a saturation; an infinite sharpness is none."""
    if saturation is None:
        return {}
    instance("saturation", saturation, BoxSaturation, "a `BoxSaturation`")
    one_of("saturation.of", saturation.of, get_args(SaturationOf))
    values = {"knee": saturation.knee}
    if not _clips(saturation.sharpness):
        values["sharpness"] = saturation.sharpness
    if saturation.asymmetry is not None:
        if saturation.of == "memory":
            raise ValueError("`saturation.asymmetry` must be left out where memory saturates.")
        values["asymmetry"] = saturation.asymmetry
    if saturation.sharpness_ratio is not None:
        values["sharpness_ratio"] = saturation.sharpness_ratio
    return values


def _clips(sharpness: Any) -> bool:
    """Whether a sharpness is infinite, of any type."""
    if isinstance(sharpness, jax.core.Tracer | str | bytes | bool):
        return False
    try:
        return float(sharpness) == math.inf
    except (TypeError, ValueError, OverflowError):  # no number: refused where its range is checked
        return False


def check_together(values: Mapping[str, Any], saturation_of: SaturationOf | None) -> None:
    """Raise `ValueError` for numbers of parts that act on what is not there."""
    if "agreement_knee" in values and "knee" not in values:
        raise ValueError("`agreement.knee` must be left out where nothing saturates.")
    if "sharpness_ratio" in values:
        heads = {head_of(name) for name in values}
        if saturation_of != "memory" or not {"momentum", "radius", "sharpness"} <= heads:
            raise ValueError(
                "`saturation.sharpness_ratio` must be left out unless memory saturates, with a "
                "finite sharpness, in real and oscillating modes."
            )


def mode_numbers(momentum: Any) -> tuple[dict[str, Any], int, int]:
    """Numbers of momentum modes, and how many are real and how many complex."""
    if momentum is None:
        return {}, 0, 0
    if not isinstance(momentum, BoxMomentum):
        momentum = BoxMomentum(momentum)
    momenta, known = _entries("momentum", momentum.momenta)
    if not momenta or not (np.abs(known) < 1).all():
        raise ValueError(
            f"`momentum` must be numbers of modulus below 1, one for each mode, got "
            f"{shown(momentum.momenta)}."
        )
    real = np.imag(known) == 0
    shares: list[Any] = [1 / len(momenta)] * len(momenta)
    if momentum.shares is not None:
        shares, known = _entries("momentum.shares", momentum.shares)
        if len(shares) != len(momenta) or not (_traced(shares) or _sums_to_1(known)):
            raise ValueError(
                f"`momentum.shares` must be one for each of {len(momenta)} modes, finite, with "
                f"real parts that sum to 1, got {shown(momentum.shares)}."
            )
        if np.imag(known[real]).any():
            raise ValueError(
                f"`momentum.shares` must be real for real modes, got {shown(momentum.shares)}."
            )
    return _numbers_of_modes(momenta, shares, real), int(real.sum()), int((~real).sum())


def _entries(name: str, value: Any) -> tuple[list[Any], Any]:
    """Numbers one by one, and as an array in which traced ones are 0; those must be real."""
    several = isinstance(value, list | tuple) or np.ndim(value) == 1
    entries = list(value) if several else [value]
    for entry in filter(_is_traced, entries):
        real_array(name, entry)
        if entry.ndim:
            raise ValueError(f"`{name}` must be scalars where traced, got shape {entry.shape}.")
    untraced = [0.0 if _is_traced(entry) else entry for entry in entries]
    known = np.atleast_1d(numbers(name, untraced if _traced(entries) else value))
    if known.ndim != 1:
        raise ValueError(f"`{name}` must be numbers, one for each mode, got {shown(value)}.")
    pairs = zip(entries, known.tolist(), strict=True)
    return [entry if _is_traced(entry) else number for entry, number in pairs], known


def _is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def _traced(values: list[Any]) -> bool:
    """Whether a value is traced, so that the sum is not known."""
    return any(map(_is_traced, values))


def _sums_to_1(shares: Any) -> bool:
    """Whether shares are finite with real parts that sum to 1."""
    return bool(np.isfinite(shares).all() and abs(shares.real.sum() - 1) <= 1e-6)


def _numbers_of_modes(momenta: list[Any], shares: list[Any], real: Any) -> dict[str, Any]:
    """Numbers by name: real modes first, the share of the last mode left out."""
    order = np.argsort(~real, kind="stable")
    momenta, shares = [momenta[place] for place in order], [shares[place] for place in order]
    count = int(real.sum())
    pairs, others = np.asarray(momenta[count:], complex), [_quadrature(s) for s in shares[count:]]
    ordered = [*map(_real_part, momenta[:count])]
    values = dict(zip(indexed("momentum", count), ordered, strict=True))
    names = indexed("share", len(momenta), free=len(momenta) - 1)
    values |= dict(zip(names, map(_real_part, shares), strict=False))
    lengths = {
        "radius": np.abs(pairs), "angle": np.abs(np.angle(pairs)),
        "quadrature": np.asarray(others, float) * np.where(np.imag(pairs) < 0, -1, 1),
    }  # fmt: skip
    for name, of in lengths.items():
        values |= dict(zip(indexed(name, pairs.size), of.tolist(), strict=True))
    return values


def _real_part(value: Any) -> Any:
    return value if _is_traced(value) else value.real


def _quadrature(value: Any) -> float:
    return 0.0 if _is_traced(value) else value.imag
