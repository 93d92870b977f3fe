"""Random white boxes: in units of gradients, so that no size of gradients is special."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import mostly_long

import lrevopt as lo
from lrevopt.inner_loop.recorded_runs import Typical, replayed
from lrevopt.optimizers.stacking import unstacked
from lrevopt.optimizers.white_box_documents import box_of, document_of
from lrevopt.studies.distillation import path
from lrevopt.studies.distillation.embedding import NO_KNEE, _drives, _signals, embedded
from lrevopt.studies.distillation.moves import FLOOR, moves_from
from lrevopt.studies.distillation.removals import all_free, removals
from lrevopt.studies.distillation.starts import default_box, random_boxes

KEY = jr.key(5)
SCALES = (1e-3, 1.0, 1e3)
DRAWS = 64


def typical(scale: float) -> Typical:
    return Typical(gradient=scale, largest=6 * scale, steps=40)


ADAPTATIONS: dict[str, Any] = {"no adaptation": None} | {
    f"adaptation of {of}{', floor outside' * outside}": lo.BoxAdaptation(
        0.9, 0.5, 1e-8, of=of, floor_outside=outside)
    for of in ("gradient", "update") for outside in (False, True)
}  # fmt: skip


def forms() -> dict[str, lo.WhiteBox]:
    """What saturates, what is divided and where the floor stands, beside all other parts."""
    others: dict[str, Any] = {
        "momentum": lo.BoxMomentum((0.9, 0.5 + 0.5j)),
        "schedule": lo.BoxSchedule(2.0, 20.0),
        "agreement": lo.BoxAgreement(0.5, 0.7, 0.2, -0.5),
    }
    found = {}
    for what in ("gradient", "memory", "update"):
        saturation = lo.BoxSaturation(1.0, of=what)
        for name, adaptation in ADAPTATIONS.items():
            found[f"{what}, {name}"] = lo.WhiteBox(
                0.1, saturation=saturation, adaptation=adaptation, **others
            )
    adam = ADAPTATIONS["adaptation of update, floor outside"]
    held = lo.WhiteBox(0.1, momentum=0.9, adaptation=adam, saturation=lo.BoxSaturation(1.0, of="up"
                       "date"), hold=("exponent",))  # fmt: skip
    return found | {"update, a held exponent": held, "as by default": default_box()}


FORMS = forms()
SHORT_ONES = (
    "memory, adaptation of gradient", "update, adaptation of update, floor outside",
    "update, a held exponent",
)  # fmt: skip


@eqx.filter_jit
def replays(boxes: lo.WhiteBox, gradients: jax.Array) -> jax.Array:
    arrays, others = eqx.partition(boxes, eqx.is_array)
    return jax.vmap(lambda one: replayed(eqx.combine(one, others), gradients))(arrays)


@pytest.mark.parametrize("name", mostly_long(FORMS, *SHORT_ONES))
def test_random_white_boxes_make_the_same_updates_at_any_size_of_gradients(name):
    """Drawn with the same key for gradients c times as large, they do the same under them."""
    gradients = jr.normal(KEY, (40, 3)).at[:, 2].set(6.0)
    found = [
        np.asarray(replays(random_boxes(FORMS[name], DRAWS, typical(c), key=KEY), c * gradients))
        for c in SCALES
    ]
    assert np.isfinite(found[1]).all()
    size = np.abs(found[1]).max(axis=(1, 2), keepdims=True)
    for other in (found[0], found[2]):
        np.testing.assert_allclose(other / size, found[1] / size, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", mostly_long(FORMS, "update, adaptation of update, floor outside"))
def test_drawn_knees_are_of_the_size_of_what_they_saturate(name):
    """Over the largest signal of runs without saturation, as `far_knee` measures it: one law.

    Where gradients saturate, that is the largest gradient.
    """
    shares = []
    for c in SCALES:
        boxes = random_boxes(FORMS[name], DRAWS, typical(c), key=KEY)
        drives, signals = jnp.asarray(_drives(typical(c))), [6 * c]
        if boxes.saturation_of != "gradient":
            signals = [float(_signals(box, NO_KNEE, drives)[0]) for box in unstacked(boxes)]
        shares.append(np.asarray(boxes.numbers()["knee"]) / np.asarray(signals))
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-5)
    np.testing.assert_allclose(shares[2], shares[1], rtol=1e-5)


def test_units_follow_an_exponent_that_stays():
    """The exponent 1/2 of a white box, not one of the draws: signals have no unit behind it."""
    box = lo.WhiteBox(0.1, momentum=0.5, saturation=lo.BoxSaturation(1.0, of="update"),
                      adaptation=lo.BoxAdaptation(0.9, 0.5, 1.0))  # fmt: skip
    boxes = random_boxes(box, DRAWS, typical(1e6), key=KEY, keep=("exponent", "momentum"))
    numbers = {name: np.asarray(value) for name, value in boxes.numbers().items()}
    np.testing.assert_allclose(numbers["exponent"], 0.5)
    np.testing.assert_allclose(numbers["momentum"], 0.5)
    assert (numbers["knee"] >= 0.1).all()
    assert (numbers["knee"] <= 3.0).all()
    assert (numbers["learning_rate"] <= 3.0).all()
    assert (numbers["floor"] >= 1e4).all()  # 1e-8 of 1e12


def test_moves_draw_a_knee_for_the_exponent_that_a_white_box_has():
    adam = lo.WhiteBox(0.1, momentum=0.5, adaptation=lo.BoxAdaptation(0.9, 0.5, 1.0))
    larger, new = moves_from(document_of(adam), typical(1e6))["saturation of update"]
    assert new == ("knee",)
    box = box_of(larger)
    boxes = path._drawn(box, new, DRAWS, typical(1e6), key=KEY)
    knees = np.asarray(boxes.numbers()["knee"])
    assert knees[0] == pytest.approx(float(box.numbers()["knee"]))
    assert ((knees[1:] >= 0.1) & (knees[1:] <= 3.0)).all()
    for name in ("momentum", "memory", "exponent", "floor"):
        np.testing.assert_allclose(boxes.numbers()[name], float(box.numbers()[name]), rtol=1e-6)
    rates = np.sort(np.asarray(boxes.numbers()["learning_rate"])) / 0.1
    assert (rates[0], rates[-1]) == (pytest.approx(0.1, rel=0.2), pytest.approx(10.0, rel=0.2))


TIED: dict[str, tuple[bool, float, Callable[[float], float]]] = {
    "inside": (False, 0.5, lambda square: FLOOR * square),
    "outside a root": (True, 0.5, lambda square: (FLOOR * square) ** 0.5),
    "outside another power": (True, 0.3, lambda square: (FLOOR * square) ** 0.3),
}


@pytest.mark.parametrize("name", TIED)
def test_a_floor_is_tied_beside_what_it_is_added_to(name):
    """Gradients of 1e5, as of the fault: outside the root of 1e10 a floor of 1e6 would hide it."""
    outside, exponent, wanted = TIED[name]
    box = lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(0.9, exponent, 1e-8, of="update",
                                                       floor_outside=outside))  # fmt: skip
    sizes = Typical(1e5, 5e5, 200)
    found = removals(*all_free(box), sizes)["free floor"]
    assert found == {"floor": pytest.approx(np.log(wanted(1e10)), rel=1e-6)}


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("exponent", [0.3, 0.5])
@pytest.mark.parametrize("scale", SCALES)
def test_beside_a_held_exponent_embedding_keeps_the_size_of_updates(scale, exponent, outside):
    """Under gradients of the typical size, after those that the running square forgets."""
    size = lo.BoxAdaptation(0.5, exponent, 1.0, floor_outside=outside)
    large = lo.WhiteBox(0.1, momentum=0.5, adaptation=size, hold=("exponent",))
    small = lo.WhiteBox(0.1, momentum=0.5)
    gradients = jnp.full((200, 1), scale)
    found = replayed(embedded(small, large, typical(scale)), gradients)
    np.testing.assert_allclose(found[-1], replayed(small, gradients)[-1], rtol=1e-6)
