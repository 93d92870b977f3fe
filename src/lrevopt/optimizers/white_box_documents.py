"""White boxes as JSON, with other parts, and those that come with the package."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from lrevopt import storage
from lrevopt.checks import finite, instance, mapping, names, one_of, text
from lrevopt.optimizers.optax import to_optax
from lrevopt.optimizers.shipped_files import DISTILLED
from lrevopt.optimizers.white_box import PARTS, WhiteBox
from lrevopt.optimizers.white_box_numbers import (
    head_of,
    in_range_of_type,
    indexed,
    plain_number,
)
from lrevopt.optimizers.white_box_parts import (
    BoxAdaptation,
    BoxAgreement,
    BoxMomentum,
    BoxSaturation,
    BoxSchedule,
)

Document = dict[str, Any]
"""A white box as JSON: `numbers` in plain units, names of the `held` ones, what saturates, what is
divided, and where the floor stands."""

NUMBERS_OF: dict[str, tuple[str, ...]] = {
    "momentum": ("momentum", "share", "radius", "angle", "quadrature"),
    "saturation": ("knee", "sharpness", "asymmetry", "sharpness_ratio"),
    "adaptation": ("memory", "exponent", "floor"),
    "schedule": ("start_over_end", "timescale"),
    "agreement": ("agreement", "agreement_memory", "agreement_curvature", "agreement_knee"),
}
"""Names of the numbers of each part, without indices."""

ALSO_NEEDS = {"sharpness_ratio": "momentum", "agreement_knee": "saturation"}
"""A second part that some numbers act on."""


def document_of(box: WhiteBox) -> Document:
    """A white box as JSON. Raises `ValueError` for what is none."""
    instance("white_box", box, WhiteBox, "a `WhiteBox`")
    numbers = {name: plain_number(name, value) for name, value in box.coordinates.items()}
    return {
        "numbers": numbers, "held": sorted(box.held), "saturation_of": box.saturation_of,
        "adaptation_of": box.adaptation_of, "floor_outside": box.floor_outside,
    }  # fmt: skip


def box_of(document: Mapping[str, Any]) -> WhiteBox:
    """The white box that `document_of` described.

    In single precision, numbers of a document from double precision that are too large for it are
    its largest one, those that it would take for 0 its least, and those that it would take for a
    bound of 1 the nearest within.

    Raises `ValueError` for numbers out of range or that the white box does not have, and for names
    of held ones that are no list; `KeyError` for one that is missing.
    """
    numbers = {
        name: in_range_of_type(name, finite(name, value))
        for name, value in mapping("numbers", document["numbers"], "numbers").items()
    }
    names("held", document["held"])
    box = _box({**document, "numbers": numbers}, _modes(numbers))
    for name in numbers:
        one_of("numbers", name, tuple(box.coordinates))
    return box


def described_box(description: Mapping[str, Any]) -> WhiteBox:
    """A white box of the structure that `WhiteBox.description` tells of; free numbers are 0.5.

    Raises `ValueError`, `KeyError` or `TypeError` for a damaged description.
    """
    held = description["held"]
    numbers = {name: held.get(name, 0.5) for name in description["numbers"]}
    return box_of({**description, "numbers": numbers, "held": sorted(held)})


def _box(document: Mapping[str, Any], momentum: BoxMomentum | None) -> WhiteBox:
    """The white box of a document with these modes."""
    n = document["numbers"]
    saturation = adaptation = schedule = agreement = None
    if document["saturation_of"] is not None:
        saturation = BoxSaturation(
            n["knee"], n.get("sharpness", float("inf")), n.get("asymmetry"),
            of=document["saturation_of"], sharpness_ratio=n.get("sharpness_ratio"),
        )  # fmt: skip
    if document["adaptation_of"] is not None:
        adaptation = BoxAdaptation(
            n["memory"], n["exponent"], n["floor"], of=document["adaptation_of"],
            floor_outside=document["floor_outside"],
        )  # fmt: skip
    if "timescale" in n:
        schedule = BoxSchedule(n["start_over_end"], n["timescale"])
    if "agreement" in n:
        agreement = BoxAgreement(
            n["agreement"], n["agreement_memory"], n.get("agreement_curvature"),
            n.get("agreement_knee"),
        )  # fmt: skip
    return WhiteBox(
        n["learning_rate"], momentum=momentum, saturation=saturation, adaptation=adaptation,
        schedule=schedule, agreement=agreement, hold=document["held"],
    )  # fmt: skip


def _modes(n: Mapping[str, float]) -> BoxMomentum | None:
    """Momentum modes from numbers by name."""
    heads = [head_of(name) for name in n]
    real, pairs = heads.count("momentum"), heads.count("radius")
    if not real + pairs:
        return None
    momenta: list[complex] = [n[name] for name in indexed("momentum", real)]
    shares: list[complex] = [n[i] for i in indexed("share", real + pairs, free=real + pairs - 1)]
    shares.append(1 - sum(shares))
    for place in range(pairs):
        radius, angle, other = (
            n[indexed(name, pairs)[place]] for name in ("radius", "angle", "quadrature")
        )
        momenta.append(radius * complex(math.cos(angle), math.sin(angle)))
        shares[real + place] += 1j * other
    return BoxMomentum(momenta, shares)


def reordered(box: WhiteBox) -> WhiteBox:
    """The same white box with its modes in order, slowest first among real and complex ones.

    Held numbers keep name and value: where an order would change one, modes that have held numbers
    stay in their places, and the others are put in order among themselves.
    """
    document = document_of(box)
    found = _modes(document["numbers"])
    if found is None or len(found.momenta) == 1:
        return box
    places = _modes_with_held(box)
    after = _in_order(document, found, box.real_modes, frozenset())
    if any(not math.isclose(after.held[name], value) for name, value in box.held.items()):
        after = _in_order(document, found, box.real_modes, places)
    return after.with_numbers(box.held)


def _modes_with_held(box: WhiteBox) -> frozenset[int]:
    """Places of modes of which a number is held, complex ones after real ones."""
    real, pairs = box.real_modes, box.complex_modes
    names = [*zip(indexed("momentum", real), strict=True)]
    names += zip(*(indexed(name, pairs) for name in ("radius", "angle", "quadrature")), strict=True)
    shares = [*indexed("share", real + pairs, free=real + pairs - 1), ""]
    return frozenset(place for place, own in enumerate(names)
                     if any(name in box.held for name in (*own, shares[place])))  # fmt: skip


def _in_order(document: Document, modes: BoxMomentum, real: int, kept: frozenset[int]) -> WhiteBox:
    """The white box of a document with its modes slowest first, but for those that are kept."""
    order = list(range(len(modes.momenta)))
    for kind in (range(real), range(real, len(order))):
        places = [place for place in kind if place not in kept]
        slowest = sorted(places, key=lambda place: -abs(modes.momenta[place]))
        for place, other in zip(places, slowest, strict=True):
            order[place] = other
    momenta, shares = ([of[place] for place in order] for of in (modes.momenta, modes.shares))
    return _box(document, BoxMomentum(momenta, shares))


def with_parts(box: WhiteBox, parts: Sequence[str]) -> WhiteBox:
    """The white box with only these of its parts. Raises `ValueError` for a part it lacks."""
    for part in parts:
        one_of("parts", part, box.parts)
    gone = {name for part in PARTS if part not in parts for name in NUMBERS_OF[part]}
    gone |= {name for name, part in ALSO_NEEDS.items() if part not in parts}
    document = document_of(box)
    numbers = {n: value for n, value in document["numbers"].items() if head_of(n) not in gone}
    for part, entry in (("saturation", "saturation_of"), ("adaptation", "adaptation_of")):
        if part not in parts:
            document[entry] = None
    document["floor_outside"] = document["floor_outside"] and "adaptation" in parts
    held = [name for name in document["held"] if name in numbers]
    return box_of(document | {"numbers": numbers, "held": held})


def distilled(name: str) -> optax.GradientTransformation:
    """The distilled optimizer of a task as an optax transformation (see `distilled_names`).

        updates, state = lrevopt.distilled("rosenbrock").update(gradients, state)

    Its numbers come with the package; its steps add to parameters by `optax.apply_updates`.
    Raises `ValueError` for a name that the package does not have.
    """
    return to_optax(distilled_box(name))


def distilled_box(name: str) -> WhiteBox:
    """The white box behind `distilled`. Raises `ValueError` for a name without one."""
    one_of("name", text("name", name), distilled_names())
    return box_of(storage.load_json(DISTILLED / f"{name}.json"))


def load_box(path: Path | str) -> WhiteBox:
    """The white box of a JSON file that `lrevopt distill` wrote (`distilled.json`).

    Raises `ValueError` for a file that is not there or holds something else.
    """
    document = storage.load_json(Path(path))
    try:
        return box_of(document)
    except KeyError as error:
        raise ValueError(
            f"`{path}` must be a white box as JSON, but {error} is missing in it."
        ) from error
    except ValueError as error:
        raise ValueError(f"`{path}` must be a white box as JSON, but {error}") from error


def distilled_names() -> tuple[str, ...]:
    """Names of the distilled optimizers that come with the package."""
    return tuple(sorted(path.stem for path in DISTILLED.glob("*.json")))
