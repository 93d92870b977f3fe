"""One step back through many lanes: blocks and the written-out product, against `jax.vjp`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tables import OPTIMIZERS, mostly_long

import lrevopt as lo
from lrevopt.inner_loop.pullbacks import BLOCK, Lanes, needs_following, pull_back
from lrevopt.inner_loop.steps import transitions


def moving(units: int = 5, **options: Any) -> lo.RecurrentOptimizer:
    """A GRU whose readout and readout bias are not 0."""
    optimizer = lo.GRUOptimizer(units, key=jr.key(0), input_scale=0.3, output_scale=2.0, **options)
    parts: Any = [jr.normal(jr.key(1), (units,)), jr.normal(jr.key(2), (3 * units,))]
    optimizer = eqx.tree_at(lambda o: (o.weights, o.cell.bias), optimizer, parts)
    if optimizer.bias is None:
        return optimizer
    return eqx.tree_at(lambda o: o.bias, optimizer, jnp.asarray(0.2))


UNITS = 8

CASES: dict[str, Any] = {name: lambda name=name: OPTIMIZERS[name](0.1) for name in OPTIMIZERS} | {
    "gru that moves": moving,
    "gru with a bias": lambda: moving(bias=True),
    "equinox gru": lambda: lo.RecurrentOptimizer(eqx.nn.GRUCell(1, 4, key=jr.key(3)), 4),
    "with x": lambda: lo.from_optax(optax.adamw, learning_rate=0.1, weight_decay=0.5),
}


@pytest.mark.parametrize("count", [1, 7, 2 * BLOCK + 5])
@pytest.mark.parametrize("name", mostly_long(CASES, "adam", "gru that moves", "with x"))
def test_it_is_the_vector_jacobian_product_of_all_lanes(name, count):
    optimizer = CASES[name]()
    readout = optimizer.readout
    keys = jr.split(jr.key(9), 5)
    start = jnp.abs(jr.normal(keys[0], (readout.size, count))) + 0.1
    lanes = Lanes(
        parameters=jr.normal(keys[1], (count,)),
        states=start,
        gradients=jr.normal(keys[2], (count,)),
        over_parameters=jr.normal(keys[3], (count,)),
        over_states=jr.normal(keys[4], (readout.size, count)),
    )
    if needs_following(optimizer):
        following = transitions(optimizer, start, lanes.gradients, lanes.parameters)
        lanes = lanes._replace(following=following)
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    sums = (jax.tree.map(jnp.ones_like, weights), jnp.ones_like(readout))
    pulled, (to_weights, to_readout) = jax.jit(
        lambda lanes, sums: pull_back((weights, fixed), readout, lanes, sums)
    )(lanes, sums)

    def moved(weights: Any, readout: Any, lanes: Lanes) -> Any:
        following = transitions(
            eqx.combine(weights, fixed), lanes.states, lanes.gradients, lanes.parameters
        )
        return following, readout @ following

    _, pull = jax.vjp(moved, weights, readout, lanes)
    over_weights, over_readout, over = pull((lanes.over_states, lanes.over_parameters))
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(pulled.to_states, over.states, **near)
    np.testing.assert_allclose(pulled.to_gradients, over.gradients, **near)
    np.testing.assert_allclose(pulled.to_parameters, over.parameters, **near)
    np.testing.assert_allclose(to_readout - 1, over_readout, **near)
    for ours, expected in zip(*map(jax.tree.leaves, (to_weights, over_weights)), strict=True):
        np.testing.assert_allclose(ours - 1, expected, **near)


@pytest.mark.parametrize("bias", [3.0, 8.0, 16.0, 40.0])
def test_a_candidate_from_the_states_is_as_good_where_the_update_gate_is_1(bias):
    """In single precision 1 - u is then a few units in the last place, or 0, and c is lost."""
    optimizer = moving(UNITS)
    cell: Any = optimizer.cell
    optimizer = eqx.tree_at(lambda o: o.cell.bias, optimizer, cell.bias.at[:UNITS].set(bias))
    keys = jr.split(jr.key(4), 3)
    states, over = (jr.normal(key, (UNITS, 6)) for key in keys[:2])
    gradients = jr.normal(keys[2], (6,))

    def cotangents(kind: Any) -> Any:
        own, *arrays = jax.tree.map(
            lambda a: a.astype(kind) if eqx.is_inexact_array(a) else a,
            (optimizer, states, gradients, over),
        )
        h, g, H = arrays
        following = transitions(own, h, g, g)
        lanes = Lanes(g, h, g, jnp.zeros_like(g), H, following)
        weights, fixed = eqx.partition(own, eqx.is_inexact_array)
        sums = (jax.tree.map(jnp.zeros_like, weights), jnp.zeros_like(own.readout))
        pulled, (to_weights, _) = pull_back((weights, fixed), own.readout, lanes, sums)
        return pulled.to_states, pulled.to_gradients, jax.tree.leaves(to_weights)

    for single, double in zip(
        *map(jax.tree.leaves, (cotangents(jnp.float32), cotangents(jnp.float64))), strict=True
    ):
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=0, atol=2e-5 * np.abs(over).max())
