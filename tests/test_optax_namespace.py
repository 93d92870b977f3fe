"""All of optax and optax.contrib: taken and equal to optax's own loop, or refused in a sentence."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax_namespace import Configuration, configurations

import lrevopt as lo
from lrevopt.optimizers.interface import AbstractOptimizer, moved_at, start_at

# Some are deprecated, and are tried all the same.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ALL = configurations()

LANES = 3
"""Parameters that are run side by side."""

REASONS = {
    "coupled": "must update every parameter on its own, got one that couples them",
    "finite": "must update every parameter on its own, got one that stops all of them",
    "shape": "must not depend on the shape of a parameter's array",
    "asks": "must update a single parameter from its gradient alone",
    "random": "must not draw random numbers",
    "another": "must give an update of the shape",
}
"""How a refusal begins, after the name of the argument."""


def refusal(transformation: Any, **options: Any) -> str | None:
    """Why `from_optax` refuses a transformation, in one word, if it does."""
    try:
        lo.from_optax(transformation, **options)
    except ValueError as error:
        text = str(error)
        (reason,) = [name for name, begins in REASONS.items() if begins in text]
        assert re.fullmatch(r"`transformation` must [^\n]*\.", text)
        return reason
    return None


def gradients_and_start(steps: int) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(0)
    sizes = 10 ** random.uniform(-2, 1, (steps, LANES))
    return jnp.asarray(sizes * random.normal(size=sizes.shape)), jnp.array([0.5, -1.0, 2.0])


def our_step(optimizer: AbstractOptimizer, carry: Any, gradient: Any) -> tuple[Any, Any]:
    parameters, states = carry
    states = jax.vmap(lambda *each: moved_at(optimizer, *each))(states, gradient, parameters)
    return (parameters + states @ optimizer.readout, states), parameters


def their_step(transformation: Any, carry: Any, gradient: Any) -> tuple[Any, Any]:
    parameters, state = carry
    update, state = transformation.update(gradient, state, parameters)
    return (parameters + update, state), parameters


def paths(transformation: Any, steps: int, *, compiled: bool) -> tuple[Any, Any]:
    """Parameters along a run: ours, and optax's own on an array of `LANES`."""
    # Where one gradient is not finite is another matter: here all are.
    optimizer = lo.from_optax(transformation, assume_finite=True)
    gradients, start = gradients_and_start(steps)

    def both(gradients: Any) -> tuple[Any, Any]:
        ours = (start, jax.vmap(lambda x: start_at(optimizer, x))(start))
        theirs = (start, jax.tree.map(jnp.asarray, transformation.init(start)))
        if compiled:
            return (
                jax.lax.scan(lambda c, g: our_step(optimizer, c, g), ours, gradients)[1],
                scanned(transformation, theirs, gradients),
            )
        found: list[list[Any]] = [[], []]
        for gradient in gradients:
            ours, place = our_step(optimizer, ours, gradient)
            theirs, other = their_step(transformation, theirs, gradient)
            found[0].append(place)
            found[1].append(other)
        return jnp.stack(found[0]), jnp.stack(found[1])

    with jax.numpy_dtype_promotion("standard"):
        return (jax.jit(both) if compiled else both)(gradients)


def scanned(transformation: Any, carry: Any, gradients: Any) -> Any:
    """Parameters along optax's own run. A scan asks for a state of one structure and one dtype, as
    it has from the first update on, which is made before: AdEMAMix ignores its `mu_dtype` there.
    """

    def step(carry: Any, gradient: Any) -> tuple[Any, Any]:
        (parameters, after), place = their_step(transformation, carry, gradient)
        found = dict(jax.tree_util.tree_leaves_with_path(after))
        kept = jax.tree_util.tree_map_with_path(lambda path, _: found[path], carry[1])
        return (parameters, jax.tree.map(jnp.asarray, kept)), place

    def same_types(carry: Any, gradient: Any) -> tuple[Any, Any]:
        (parameters, after), place = step(carry, gradient)
        kept = jax.tree.map(lambda new, old: new.astype(old.dtype), after, carry[1])
        return (parameters, kept), place

    carry, first = step(carry, gradients[0])
    rest = jax.lax.scan(same_types, carry, gradients[1:])[1]
    return jnp.concatenate([first[None], rest])


def test_the_namespaces_are_all_there():
    names = {each.name for each in ALL}
    assert len(names) == len(ALL)
    assert sum(not each.varied for each in ALL) >= 128
    assert {"adam", "lamb", "contrib.muon", "contrib.schedule_free_adamw", "sgd-momentum"} < names


@pytest.mark.parametrize(
    "each",
    [
        pytest.param(each, id=each.name, marks=() if place % 8 == 0 else pytest.mark.long)
        for place, each in enumerate(c for c in ALL if not c.varied)
    ],
)
def test_taken_and_right_or_refused(each: Configuration):
    """A few updates, each operation by itself; the slow test makes 200 in every setting."""
    transformation = each.make()
    if refusal(transformation, assume_finite=True) is None:
        ours, theirs = paths(transformation, 5, compiled=False)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("each", ALL, ids=lambda c: c.name)
def test_two_hundred_updates_in_every_setting(each: Configuration):
    """A refused coupling is there: trial runs see it too, unless it acts beyond what they do."""
    transformation = each.make()
    reason = refusal(transformation, assume_finite=True)
    if reason == "coupled":
        assert refusal(transformation, assume_component_wise=True) == "coupled"
    if reason is None:
        ours, theirs = paths(transformation, 200, compiled=True)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
