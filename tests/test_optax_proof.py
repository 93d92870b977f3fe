"""What `from_optax` refuses by proof: hidden couplings, traced values, tests of finiteness."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optax.contrib
import pytest
from tables import mostly_long

import lrevopt as lo

CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))


def after(steps: int, transformation: Any) -> Any:
    """Applies a transformation from a step on, and none before."""
    return optax.conditionally_transform(transformation, lambda step: step >= steps)


def nan_times_lamb() -> Any:
    return optax.chain(optax.lamb(0.1), optax.scale(float("nan")))


def mean_of_signs() -> Any:
    """A while loop that runs until the sign of a sum changes."""

    def update(updates, state, params=None):
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))
        turns = jax.lax.while_loop(lambda n: n < jnp.sign(total), lambda n: n + 1.0, 0.0)
        return jax.tree.map(lambda leaf: leaf * (turns + 1), updates), state

    return optax.GradientTransformation(lambda params: (), update)


HIDDEN: dict[str, tuple[Any, str]] = {
    "accumulated": (optax.MultiSteps(CLIPPED, 16), "`reduce_sum` in `tree_sum` of optax"),
    "accumulated_longer": (optax.MultiSteps(CLIPPED, 10**6), "`reduce_sum` in"),
    "accumulated_lamb": (optax.MultiSteps(optax.lamb(0.1), 16), "`reduce_sum` in `safe_norm`"),
    "applied_every": (optax.chain(optax.apply_every(50), CLIPPED), "`reduce_sum`"),
    "warm_up": (
        optax.chain(CLIPPED, optax.scale_by_schedule(lambda n: jnp.where(n < 1000, 0.0, 1.0))),
        "`reduce_sum` in",
    ),
    "rate_0": (optax.chain(optax.lamb(0.0)), "`reduce_sum` in `safe_norm`"),
    "conditional": (after(1000, CLIPPED), "`reduce_sum` in"),
    "huge_bound": (optax.chain(optax.clip_by_global_norm(1e30), optax.sgd(0.1)), "`reduce_sum`"),
    "nan": (nan_times_lamb(), "`reduce_sum`"),
    "adafactor": (optax.adafactor(1e-3, decay_offset=3), "`reduce_sum` in"),
    "factored_if_large": (
        optax.chain(optax.scale_by_factored_rms(min_dim_size_to_factor=200), optax.scale(-0.1)),
        "`reduce_sum` in",
    ),
    "dadapt": (optax.contrib.dadapt_adamw(0.1, weight_decay=0.0), "`dot_general` in `_vdot`"),
    "large": (
        optax.MultiSteps(
            optax.sgd(0.1),
            2,
            should_skip_update_fn=partial(optax.skip_large_updates, max_squared_norm=1e30),
        ),
        "`reduce_sum` in `skip_large_updates` of optax",
    ),
    "loop": (mean_of_signs(), "in `mean_of_signs.update.<genexpr>` of test_optax_proof"),
}
"""Couplings that twelve updates with random gradients do not show, and where they are."""


@pytest.mark.parametrize("name", HIDDEN)
def test_a_coupling_is_refused_whenever_it_acts(name):
    transformation, place = HIDDEN[name]
    pattern = "got one that couples them: .*" + re.escape(place) + ".*`assume_component_wise=True`"
    with pytest.raises(ValueError, match=pattern) as error:
        lo.from_optax(transformation)
    assert "\n" not in str(error.value)


def test_a_caller_may_know_better():
    """Clipping far beyond every gradient; what trial runs show is refused all the same."""
    transformation = HIDDEN["huge_bound"][0]
    found = lo.from_optax(transformation, assume_component_wise=True)
    state = found.transition(found.initial_state(), jnp.array(2.0))
    np.testing.assert_allclose(found.readout @ state, -0.2, rtol=1e-12)
    with pytest.raises(ValueError, match="couples them: with the gradients or the values of all"):
        lo.from_optax(CLIPPED, assume_component_wise=True)


def test_values_of_other_parameters_couple_too():
    """A norm of parameters alone, without any gradient."""

    def update(updates, state, params):
        return jax.tree.map(lambda u, p: u / (1 + jnp.sum(p**2)), updates, params), state

    transformation = optax.GradientTransformation(lambda params: (), update)
    with pytest.raises(ValueError, match="`reduce_sum` in"):
        lo.from_optax(transformation, parameter=1.0)
    with pytest.raises(ValueError, match="the gradients or the values of all others"):
        lo.from_optax(transformation, parameter=1.0, assume_component_wise=True)


UNTIL_FINITE = {
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "skip_not_finite": optax.MultiSteps(
        optax.adam(0.1), 2, should_skip_update_fn=optax.skip_not_finite
    ),
}


@pytest.mark.parametrize("name", UNTIL_FINITE)
def test_a_stop_where_one_gradient_is_not_finite_is_said(name):
    """An option decides; then a NaN stops its own parameter, and optax's loop agrees on one."""
    transformation = UNTIL_FINITE[name]
    with pytest.raises(ValueError, match="one gradient is infinite or NaN.*`assume_finite=True`"):
        lo.from_optax(transformation)
    optimizer = lo.from_optax(transformation, assume_finite=True)
    gradients = [0.3, np.nan, -1.0, 0.5, np.inf, 2.0]
    state, theirs = optimizer.initial_state(), transformation.init(jnp.zeros(()))
    for gradient in gradients:
        state = optimizer.transition(state, jnp.asarray(gradient))
        with jax.numpy_dtype_promotion("standard"):
            update, theirs = transformation.update(jnp.asarray(gradient), theirs)
        np.testing.assert_allclose(optimizer.readout @ state, update, rtol=1e-6)


def test_what_only_watches_is_taken():
    """`optax.monitor` adds measurements at its first update, and updates do not read them."""
    watched = optax.chain(
        optax.sgd(0.1, momentum=0.9),
        optax.monitor(
            {"norm": optax.tree.norm, "mean": optax.measure_with_ema(optax.tree.norm, 0.9)}
        ),
        optax.snapshot("last", optax.tree.norm),
    )
    found, plain = lo.from_optax(watched), lo.from_optax(optax.sgd(0.1, momentum=0.9))
    assert found.coordinates[0] == plain.coordinates[0].replace("[0]", "[0][0]", 1)
    ours, theirs = found.initial_state(), plain.initial_state()
    for gradient in (1.0, -2.0, 0.5):
        ours = found.transition(ours, jnp.array(gradient))
        theirs = plain.transition(theirs, jnp.array(gradient))
        np.testing.assert_array_equal(found.readout @ ours, plain.readout @ theirs)


def test_what_is_added_and_used_is_refused():
    def update(updates, state, params=None):
        used = sum(state.values()) if state else 1.0
        return jax.tree.map(lambda u: u * used, updates), {"count": jnp.ones(())}

    transformation = optax.GradientTransformation(lambda params: {}, update)
    with pytest.raises(ValueError, match="keep the shapes of its state, got one that adds arrays"):
        lo.from_optax(transformation)


def mean_loss(optimizer: Any) -> Any:
    task = lo.Rosenbrock()
    return lo.unroll(optimizer, task, task.sample(jr.key(0)), 10).losses.mean()


CLOSED = {
    "grad": lambda make: jax.grad(lambda rate: mean_loss(lo.from_optax(make(rate))))(1e-3),
    "jit": lambda make: jax.jit(lambda rate: mean_loss(lo.from_optax(make(rate))))(1e-3),
    "vmap": lambda make: jax.vmap(lambda r: mean_loss(lo.from_optax(make(r))))(jnp.full(2, 1e-3)),
    "both": lambda make: jax.jit(jax.grad(lambda r: mean_loss(lo.from_optax(make(r)))))(1e-3),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_over_traced_values_are_refused(name):
    """In an update, in a schedule, and in the initial state: their derivative would be lost."""
    for make in (
        optax.sgd,
        lambda rate: optax.sgd(lambda step: rate / (1 + step)),
        lambda rate: optax.chain(optax.scale_by_rss(rate), optax.scale(-0.1)),
        lambda rate: optax.inject_hyperparams(optax.sgd)(learning_rate=rate),
    ):
        with pytest.raises(ValueError, match="must not close over traced values.*pass the factory"):
            CLOSED[name](make)


@pytest.mark.parametrize("axes", mostly_long([1, 2, 3, 4], 2))
def test_masks_by_the_number_of_axes_are_refused(axes):
    """A decay of kernels alone: one parameter has no kernel, so that its update would lack it."""

    def kernels(parameters):
        return jax.tree.map(lambda x: x.ndim > axes, parameters)

    decay = optax.masked(optax.add_decayed_weights(0.5), kernels)
    with pytest.raises(ValueError, match="must not depend on the shape of a parameter's array"):
        lo.from_optax(optax.chain(decay, optax.sgd(0.1)))
