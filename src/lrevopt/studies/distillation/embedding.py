"""A smaller white box as one with more parts or numbers, which at first change nothing."""

from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import box_of, document_of
from lrevopt.optimizers.white_box_numbers import head_of

FAR = 10.0
"""Knee of a saturation that is added, in the largest typical gradients: at that place S is within
0.5 % of no saturation, and its derivative is not yet lost."""

FADED = 1e-3
"""Radius of an oscillating mode that is added where there is no real one: it remembers a thousandth
of the last gradient, and its derivative is not yet lost."""


def embedded(small: WhiteBox, large: WhiteBox, typical: Typical) -> WhiteBox:
    """`small` in the structure of `large`, with neutral values of the numbers that it lacks.

    Neutral is: momentum 0, a share of 0 for oscillating modes, a far knee, one sharpness, exponent
    0, a start over end of 1, and an agreement of 0 on rate and knee. Where `large` has oscillating
    modes alone, the first of them has all of the share, and hardly any memory.
    """
    wanted, known = document_of(large), document_of(small)["numbers"]
    neutral = {
        "momentum": 0.0, "radius": 0.8, "angle": 0.3, "quadrature": 0.0, "sharpness": 2.0,
        "knee": FAR * typical.largest, "asymmetry": 0.0, "memory": 0.9, "exponent": 0.0,
        "floor": typical.gradient**2, "start_over_end": 1.0, "timescale": typical.steps / 4,
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
    return box_of(wanted | {"numbers": numbers | held})
