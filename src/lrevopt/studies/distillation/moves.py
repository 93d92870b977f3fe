"""Ways to give a white box one or two numbers more.

White boxes are JSON here (`document_of`). Numbers that a move ties are held at textbook values.
"""

from collections.abc import Iterator

from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.optimizers.white_box_documents import Document, box_of
from lrevopt.studies.distillation.embedding import FAR, far_knee
from lrevopt.studies.distillation.units import floor_of

HELD = {"exponent": 0.5, "sharpness": 2.0, "agreement_memory": 0.7}
"""Values of numbers that a part begins with, held."""

FLOOR = 1e-4
"""Held floor of an adaptation, in squared typical gradients."""

OSCILLATION = {"radius": 0.8, "angle": 0.3, "quadrature": 0.0}
"""Where an oscillating mode begins."""


def simplest() -> Document:
    """Gradient descent: one number."""
    return {
        "numbers": {"learning_rate": 1e-3}, "held": [], "saturation_of": None,
        "adaptation_of": None, "floor_outside": False,
    }  # fmt: skip


def moves_from(document: Document, typical: Typical) -> dict[str, tuple[Document, tuple[str, ...]]]:
    """Every larger white box by the name of the move, and the names of its new free numbers."""
    found: dict[str, tuple[Document, tuple[str, ...]]] = {}
    for make in (_momentum, _saturation, _adaptation, _schedule, _agreement, _freed):
        for name, larger in make(document, typical):
            old = set(document["numbers"]) - set(document["held"])
            new = set(larger["numbers"]) - set(larger["held"])
            found[name] = larger, tuple(sorted(new - old))
    return found


Moves = Iterator[tuple[str, Document]]


def _with(document: Document, numbers: dict[str, float], **changed: object) -> Document:
    return document | {"numbers": document["numbers"] | numbers} | changed


def _momentum(document: Document, typical: Typical) -> Moves:
    n = document["numbers"]
    real, pair = [name for name in n if name.startswith("momentum")], "radius" in n
    if not real and not pair:
        yield "momentum", _with(document, {"momentum": 0.0})
        yield "oscillating momentum", _with(document, dict(OSCILLATION))
    elif len(real) == 1 and not pair:
        rest = {name: value for name, value in n.items() if name != "momentum"}
        two = {"momentum_1": n["momentum"], "momentum_2": 0.0, "share_1": 1.0}
        yield "second momentum", document | {"numbers": rest | two}
        yield "oscillating mode", _with(document, OSCILLATION | {"share_1": 1.0})
    elif not real:
        yield "momentum beside", _with(document, {"momentum": 0.0, "share_1": 0.0})


def _saturation(document: Document, typical: Typical) -> Moves:
    if document["saturation_of"] is not None:
        if "asymmetry" not in document["numbers"] and document["saturation_of"] != "memory":
            yield "asymmetry", _with(document, {"asymmetry": 0.0})
        one = "sharpness_ratio" not in document["numbers"]
        both = {"radius", "share_1", "sharpness"} <= document["numbers"].keys()
        if document["saturation_of"] == "memory" and one and both:
            yield "sharpness of each mode", _with(document, {"sharpness_ratio": 1.0})
        return
    held = [*document["held"], "sharpness"]
    knee = {"knee": FAR * typical.largest, "sharpness": HELD["sharpness"]}
    for of in ("gradient", "update", "memory"):
        if of != "memory" or {"momentum", "momentum_1", "radius"} & set(document["numbers"]):
            larger = _with(document, knee, held=held, saturation_of=of)
            larger["numbers"] |= {"knee": far_knee(box_of(larger), typical)}
            yield f"saturation of {of}", larger


def _adaptation(document: Document, typical: Typical) -> Moves:
    if document["adaptation_of"] is not None:
        return
    exponent = HELD["exponent"]
    floor = floor_of(FLOOR, typical, exponent, outside=document["floor_outside"])
    numbers = {"memory": 0.9, "exponent": exponent, "floor": floor}
    held = [*document["held"], "exponent", "floor"]
    for of in ("gradient", "update"):
        yield f"adaptation of {of}", _with(document, numbers, held=held, adaptation_of=of)


def _schedule(document: Document, typical: Typical) -> Moves:
    if "timescale" not in document["numbers"]:
        numbers = {"start_over_end": 1.0, "timescale": typical.steps / 4}
        yield "schedule", _with(document, numbers, held=[*document["held"], "timescale"])


def _agreement(document: Document, typical: Typical) -> Moves:
    if "agreement" not in document["numbers"]:
        numbers = {"agreement": 0.0, "agreement_memory": HELD["agreement_memory"]}
        yield "agreement", _with(document, numbers, held=[*document["held"], "agreement_memory"])
        return
    if "agreement_curvature" not in document["numbers"]:
        yield "curvature of agreement", _with(document, {"agreement_curvature": 0.0})
    if document["saturation_of"] is not None and "agreement_knee" not in document["numbers"]:
        yield "agreement of the knee", _with(document, {"agreement_knee": 0.0})


def _freed(document: Document, typical: Typical) -> Moves:
    for name in document["held"]:
        rest = [other for other in document["held"] if other != name]
        yield f"free {name}", document | {"held": rest}
