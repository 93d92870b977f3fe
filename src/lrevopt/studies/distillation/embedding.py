"""A smaller white box as one with more parts or numbers, which at first change nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.inner_loop.steps import visited_states
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import box_of, document_of, with_parts
from lrevopt.optimizers.white_box_numbers import head_of, in_range_of_type
from lrevopt.studies.distillation.units import behind_adaptation, divisor_of, floor_of

FAR = 10.0
"""Knee of a saturation that is added, in the largest signal that it meets: there S of sharpness 2
is within 0.5 % of no saturation, and its derivative is not yet lost."""

FELT = 0.005
"""Largest change, as a share of the largest update, that a saturation of memory or update may make
when it is added: memory is saturated anew at each update, and a small change adds up."""

NO_KNEE = 1e26
"""A knee that no signal comes near."""

PERIODS = (2, 4, 8, 16, 32, 64)
"""Updates after which gradients come back that a saturation is measured under; also constant."""

FADED = 1e-3
"""Radius of an oscillating mode that is added where there is no real one: it remembers a thousandth
of the last gradient, and its derivative is not yet lost."""


def embedded(small: WhiteBox, large: WhiteBox, typical: Typical) -> WhiteBox:
    """`small` in the structure of `large`, with neutral values of the numbers that it lacks.

    Neutral is: momentum 0, a share of 0 for oscillating modes, a far knee, one sharpness, exponent
    0, a start over end of 1, and an agreement of 0 on rate and knee. Where `large` has oscillating
    modes alone, the first of them has all of the share, and hardly any memory. With a floor outside
    the power, exponent 0 leaves the factor 1 / (1 + floor), for which the learning rate makes up,
    and a knee behind it. For an exponent that is held they make up under typical gradients.

    Updates on typical gradients change by about 0.5 % of the largest at most. Numbers that `large`
    holds are held at its values, neutral or not.
    """
    wanted, known = document_of(large), document_of(small)["numbers"]
    adapts = "exponent" in wanted["numbers"] and "exponent" not in known
    exponent = large.held.get("exponent", 0.0)
    floor = floor_of(1.0, typical, exponent, outside=large.floor_outside)
    if not exponent:  # a power of 1, which will grow: a floor far above it would hide it
        floor = min(floor, typical.gradient**2)
    neutral = {
        "momentum": 0.0, "radius": 0.8, "angle": 0.3, "quadrature": 0.0, "sharpness": 2.0,
        "knee": FAR * typical.largest, "asymmetry": 0.0, "memory": 0.9, "exponent": 0.0,
        "floor": floor, "start_over_end": 1.0, "timescale": typical.steps / 4,
        "agreement": 0.0, "agreement_memory": 0.7, "agreement_curvature": 0.0,
        "agreement_knee": 0.0, "sharpness_ratio": 1.0,
    }  # fmt: skip
    numbers = {}
    alone = not small.real_modes + small.complex_modes and not large.real_modes
    for name in wanted["numbers"]:
        if name in known:
            numbers[name] = known[name]
        elif head_of(name) == "share":
            numbers[name] = 1.0 if name in ("share", "share_1") else 0.0
        elif alone and name in ("radius", "radius_1"):
            numbers[name] = FADED
        else:
            numbers[name] = neutral[head_of(name)]
    held = {name: wanted["numbers"][name] for name in wanted["held"]}
    if adapts:
        outside = large.floor_outside
        left = divisor_of(typical, exponent, held.get("floor", floor), outside=outside)
        numbers["learning_rate"] *= left
        if "knee" in known and behind_adaptation(wanted):
            numbers["knee"] /= left
    box = box_of(wanted | {"numbers": numbers | held})
    if "knee" in numbers and "knee" not in {*known, *held}:
        return box.with_numbers({"knee": in_range_of_type("knee", far_knee(box, typical))})
    return box


def far_knee(box: WhiteBox, typical: Typical) -> float:
    """A knee that hardly changes the updates of a white box under typical gradients.

    It is `FAR` times the largest signal that saturates, which is a gradient, a memory, or an
    update before agreement and schedule; and farther, by factors of 2, until updates change by
    `FELT` at most. `knee` must be a free number of the white box.
    """
    plain = FAR * typical.largest
    document = document_of(box)
    modes = box.real_modes + box.complex_modes
    if box.saturation_of == "gradient" or not (modes or behind_adaptation(document)):
        return plain
    parts = [part for part in box.parts if part not in ("agreement", "schedule")]
    bare = with_parts(box, parts)
    gradients = jnp.asarray(_drives(typical), bare.readout.dtype)
    signal, free = (np.asarray(part) for part in _signals(bare, NO_KNEE, gradients))
    knee = FAR * float(signal)
    if not (0 < knee < NO_KNEE and np.isfinite(free).all()):
        return plain
    largest = np.maximum(np.abs(free).max(axis=1, keepdims=True), np.finfo(free.dtype).tiny)
    while knee < NO_KNEE:
        found = np.asarray(_signals(bare, knee, gradients)[1])
        if (np.abs(found - free) <= FELT * largest).all():
            break
        knee *= 2
    return knee


def _drives(typical: Typical) -> Float[np.ndarray, "drive step"]:
    """Gradients of the largest typical size that keep or alternate their sign, and random ones."""
    step = np.arange(typical.steps)
    waves = [np.where(step % period < period / 2, 1.0, -1.0) for period in PERIODS]
    random = np.random.default_rng(0).normal(size=typical.steps) * typical.gradient
    constant = np.ones(typical.steps)
    return np.stack([
        typical.gradient * constant, random.clip(-typical.largest, typical.largest),
        *(typical.largest * wave for wave in (constant, *waves)),
    ])  # fmt: skip


def _signals(
    box: WhiteBox, knee: float, gradients: Float[Array, "drive step"]
) -> tuple[Float[Array, ""], Float[Array, "drive step"]]:
    """The largest of what saturates in a white box with this knee, and directions of its steps."""
    return _measured(box.with_numbers({"knee": knee}), gradients)


@eqx.filter_jit
def _measured(
    box: WhiteBox, gradients: Float[Array, "drive step"]
) -> tuple[Float[Array, ""], Float[Array, "drive step"]]:
    states = jax.vmap(lambda of_run: visited_states(box, of_run))(gradients)[:, 1:]
    real, pairs = box.real_modes, box.complex_modes
    directions = states[..., -1]
    if box.saturation_of == "update" or not real + pairs:
        return jnp.abs(directions).max(), directions
    modes = states[..., real : real + 2 * pairs].reshape(*directions.shape, pairs, 2)
    sizes = jnp.concatenate([jnp.abs(states[..., :real]), jnp.hypot(*jnp.moveaxis(modes, -1, 0))],
                            axis=-1)  # fmt: skip
    return sizes.max(), directions
