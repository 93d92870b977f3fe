"""White boxes in the structure of larger ones: at first, the new parts change nothing."""

import itertools
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
from lrevopt.optimizers.white_box_documents import box_of, document_of, with_parts
from lrevopt.studies.distillation.embedding import embedded
from lrevopt.studies.distillation.moves import moves_from

KEY = jr.key(3)

PLACES: dict[str, Any] = {
    f"{what}, {whose}{', floor outside' * outside}": (what, whose, outside)
    for what in ("gradient", "memory", "update")
    for whose in ("gradient", "update")
    for outside in (False, True)
}
"""What saturates, what is divided, and where the floor stands."""

replays = eqx.filter_jit(replayed)


@pytest.mark.parametrize("name", mostly_long(PLACES, "memory, gradient, floor outside"))
def test_embedding_changes_nothing_wherever_parts_stand(name):
    """Every pair of a white box and one with more parts, under random and under held gradients."""
    what, whose, outside = PLACES[name]
    full = lo.WhiteBox(
        0.1,
        momentum=lo.BoxMomentum((0.95, 0.7 + 0.5j), (0.6, 0.4 + 0.1j)),
        saturation=lo.BoxSaturation(3.0, 1.5, of=what),
        adaptation=lo.BoxAdaptation(0.95, 0.3, 0.5, of=whose, floor_outside=outside),
    )
    random = jax.random.normal(KEY, (60, 3)).clip(-3.0, 3.0)
    gradients = jnp.concatenate([random, jnp.full((60, 1), 3.0)], axis=1)
    typical = Typical(gradient=1.0, largest=3.0, steps=60)
    for there in itertools.product((0, 1, 2), repeat=3):  # in neither, in the larger, in both
        few, more = (
            with_parts(
                full, [part for part, at in zip(full.parts, there, strict=True) if at >= low]
            )
            for low in (2, 1)
        )
        expected = replays(few, gradients)
        missed = jnp.abs(replays(embedded(few, more, typical), gradients) - expected)
        assert (missed.max(axis=0) <= 0.005 * jnp.abs(expected).max(axis=0)).all()


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_adam_and_saturated_memory_are_embedded_at_any_size(scale):
    typical = Typical(gradient=scale, largest=5 * scale, steps=200)
    adam = lo.WhiteBox.of_adam(0.1)
    gradients = scale * jax.random.normal(KEY, (50, 2))
    small = with_parts(adam, ["momentum"])
    np.testing.assert_allclose(
        replayed(embedded(small, adam, typical), gradients), replayed(small, gradients), rtol=1e-6
    )
    small = lo.WhiteBox(0.1, momentum=0.99)
    held = jnp.full((200, 1), 5 * scale)
    moves = moves_from(document_of(small), typical)
    larger = box_of(moves["saturation of memory"][0])
    np.testing.assert_allclose(replayed(larger, held), replayed(small, held), rtol=0.01)
