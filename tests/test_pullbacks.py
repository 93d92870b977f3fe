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
from lrevopt.inner_loop.pullbacks import BLOCK, Lanes, pull_back
from lrevopt.inner_loop.steps import transitions


def moving(**options: Any) -> lo.RecurrentOptimizer:
    """A GRU whose readout and readout bias are not 0."""
    optimizer = lo.GRUOptimizer(5, key=jr.key(0), input_scale=0.3, output_scale=2.0, **options)
    parts: Any = [jr.normal(jr.key(1), (5,)), jr.normal(jr.key(2), (15,))]
    optimizer = eqx.tree_at(lambda o: (o.weights, o.cell.bias), optimizer, parts)
    if optimizer.bias is None:
        return optimizer
    return eqx.tree_at(lambda o: o.bias, optimizer, jnp.asarray(0.2))


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
