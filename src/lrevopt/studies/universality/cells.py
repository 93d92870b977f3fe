"""Recurrent optimizers of several architectures: what a population of a study is made of.

Each factory makes an untrained `RecurrentOptimizer` of `units` and its scales, with weights drawn
from `key`; `lrevopt train TASK --optimizer lrevopt.studies.universality.cells:lstm` trains one. The
readout of all begins at 0, so that none moves before it is trained.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from lrevopt.checks import positive_integer, random_key
from lrevopt.optimizers.recurrent import AbstractCell, GRUOptimizer, RecurrentOptimizer


class TanhCell(AbstractCell):
    """The plain recurrent network of Elman (1990): `h' = tanh(W h + a g + b)`.

    All weights are normal with deviation 1 / sqrt(units) and the bias is 0, as in `GRUCell`, so
    that cells differ by their gates and not by their start. Raises `ValueError` for a width below
    1.
    """

    recurrent: Float[Array, "units units"]
    inputs: Float[Array, " units"]
    bias: Float[Array, " units"]

    def __init__(self, units: int, *, key: Key[Array, ""]):
        units = positive_integer("units", units)
        recurrent, inputs = jr.split(random_key("key", key))
        self.recurrent = units**-0.5 * jr.normal(recurrent, (units, units))
        self.inputs = units**-0.5 * jr.normal(inputs, (units,))
        self.bias = jnp.zeros(units)

    def __call__(
        self, inputs: Float[Array, "1"], hidden: Float[Array, " units"]
    ) -> Float[Array, " units"]:
        return jnp.tanh(self.recurrent @ hidden + self.inputs * inputs[0] + self.bias)


def gru(
    units: int, *, key: Key[Array, ""], input_scale: float = 1.0, output_scale: float = 1.0
) -> RecurrentOptimizer:
    """The paper's GRU, of Cho et al. (2014): the reset gate before the recurrent product."""
    return GRUOptimizer(units, key=key, input_scale=input_scale, output_scale=output_scale)


def equinox_gru(
    units: int, *, key: Key[Array, ""], input_scale: float = 1.0, output_scale: float = 1.0
) -> RecurrentOptimizer:
    """`eqx.nn.GRUCell`: the reset gate after the recurrent product, weights drawn uniformly."""
    units = positive_integer("units", units)
    cell = eqx.nn.GRUCell(1, units, key=key)
    return RecurrentOptimizer(cell, units, input_scale=input_scale, output_scale=output_scale)


def vanilla(
    units: int, *, key: Key[Array, ""], input_scale: float = 1.0, output_scale: float = 1.0
) -> RecurrentOptimizer:
    """`TanhCell`: no gates at all."""
    cell = TanhCell(units, key=key)
    return RecurrentOptimizer(cell, units, input_scale=input_scale, output_scale=output_scale)


def lstm(
    units: int, *, key: Key[Array, ""], input_scale: float = 1.0, output_scale: float = 1.0
) -> RecurrentOptimizer:
    """`eqx.nn.LSTMCell`: its pair of hidden and cell state is a state of 2 `units` coordinates."""
    units = positive_integer("units", units)
    cell = eqx.nn.LSTMCell(1, units, key=key)
    return RecurrentOptimizer(cell, units, input_scale=input_scale, output_scale=output_scale)


CELLS: dict[str, Callable[..., RecurrentOptimizer]] = {
    "gru": gru,
    "equinox_gru": equinox_gru,
    "vanilla": vanilla,
    "lstm": lstm,
}
"""Factories by name."""

CELL_TITLES = {
    "gru": "GRU (Cho)",
    "equinox_gru": "GRU (Equinox)",
    "vanilla": "tanh",
    "lstm": "LSTM",
}
"""What figures and tables call them."""


def factory_of(cell: str) -> str:
    """The name of a cell's factory, as `module:name`; that of another factory is as it is."""
    return f"{__name__}:{cell}" if cell in CELLS else cell


def title_of_cell(cell: str) -> str:
    """What a cell is called: a title, or the name of a factory of one's own."""
    return CELL_TITLES.get(cell, cell.rpartition(":")[2].replace("_", " "))
