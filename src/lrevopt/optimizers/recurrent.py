"""Recurrent networks as optimizers: the GRU of the paper, and any other cell.

The paper cites Cho et al. (2014) for its GRU, whose reset gate multiplies the state before the
product with the recurrent matrix; the authors' code does the same. Equinox's `eqx.nn.GRUCell`
applies it after the product and draws its weights uniformly. `RecurrentOptimizer` takes either;
`GRUOptimizer` is the paper's.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from lrevopt.checks import positive_integer, positive_of_type, random_key, shown, yes_or_no
from lrevopt.optimizers.interface import AbstractOptimizer


class AbstractCell(eqx.Module):
    """A recurrent cell, `cell(input, hidden) -> hidden`.

    `RecurrentOptimizer` takes any callable module with this signature; it need not be a subclass.
    """

    @abc.abstractmethod
    def __call__(
        self, inputs: Float[Array, "1"], hidden: Float[Array, " units"]
    ) -> Float[Array, " units"]:
        """Next hidden state."""


def sigmoid(value: Float[Array, "*gate"]) -> Float[Array, "*gate"]:
    """Logistic function by tanh, which on a CPU takes half the time of XLA's own."""
    return 0.5 * jnp.tanh(0.5 * value) + 0.5


class GRUCell(AbstractCell):
    """Gated recurrent unit of Cho et al. (2014), one input, one bias per gate.

        z = sigmoid(Wz h + az g + bz)        update gate: keeps the old state
        r = sigmoid(Wr h + ar g + br)        reset gate, before the recurrent product
        c = tanh(Wc (r h) + ac g + bc)
        h' = z h + (1 - z) c

    All weights are normal with standard deviation 1 / sqrt(units), and biases are 0, as in the
    authors' code. The usual rule (variance 1 / fan-in, as in `flax.linen.GRUCell`) would give input
    weights the deviation 1, because there is one input. `input_deviation` chooses another deviation
    of the input weights. PyTorch and Equinox draw all weights and biases uniformly from
    +-1 / sqrt(units). The choice matters: with deviation 1 a GRU saturates early, learns faster for
    the first hundred meta-steps and worse after them.

    `gates` stacks the matrices of z and r; `inputs` and `bias` stack z, r and c. Raises
    `ValueError` for a width below 1, or a deviation that is not a positive number which the
    default floating type holds.
    """

    gates: Float[Array, "2*units units"]
    candidate: Float[Array, "units units"]
    inputs: Float[Array, " 3*units"]
    bias: Float[Array, " 3*units"]

    def __init__(self, units: int, *, key: Key[Array, ""], input_deviation: float | None = None):
        units = positive_integer("units", units)
        gates, candidate, inputs = jr.split(random_key("key", key), 3)
        scale = units**-0.5
        deviation = scale if input_deviation is None else input_deviation
        positive_of_type("input_deviation", deviation, jnp.result_type(float))
        self.gates = scale * jr.normal(gates, (2 * units, units))
        self.candidate = scale * jr.normal(candidate, (units, units))
        self.inputs = deviation * jr.normal(inputs, (3 * units,))
        self.bias = jnp.zeros(3 * units)

    def __call__(
        self, inputs: Float[Array, "1"], hidden: Float[Array, " units"]
    ) -> Float[Array, " units"]:
        units = self.candidate.shape[0]
        # Input and bias as one product with (g, 1): under `vmap` over the last axis every term
        # keeps that axis last, which saves transposes.
        weights = jnp.stack([self.inputs, self.bias], axis=1)
        drive = weights @ jnp.concatenate([inputs, jnp.ones_like(inputs)])
        gates = sigmoid(self.gates @ hidden + drive[: 2 * units])
        update, reset = gates[:units], gates[units:]
        candidate = jnp.tanh(self.candidate @ (reset * hidden) + drive[2 * units :])
        return candidate + update * (hidden - candidate)


class FlatCell(AbstractCell):
    """A cell whose hidden state is a tuple of vectors, such as `eqx.nn.LSTMCell`, on one vector."""

    cell: Callable[[Float[Array, "1"], tuple[Array, ...]], tuple[Array, ...]]
    parts: int = eqx.field(static=True)

    def __call__(
        self, inputs: Float[Array, "1"], hidden: Float[Array, " units"]
    ) -> Float[Array, " units"]:
        return jnp.concatenate(self.cell(inputs, tuple(jnp.split(hidden, self.parts))))


TUPLES = (2, 3)
"""Lengths of tuples that are tried as a cell's hidden state."""


class RecurrentOptimizer(AbstractOptimizer):
    """Any recurrent cell with a linear readout as an optimizer.

        h' = cell(input_scale g, h)        x' = x + output_scale weights . h' (+ bias)

    `cell` maps an input of shape (1,) and a hidden state of shape (units,) to the next hidden
    state: `GRUCell`, `eqx.nn.GRUCell`, or a cell of your own. A cell with a tuple of vectors of
    that shape as its hidden state, such as `eqx.nn.LSTMCell`, becomes a `FlatCell`, and the state
    is those vectors one after another. The initial state `start` and the readout `weights` are
    trained with the cell. Both begin at 0, so an untrained optimizer does not move. `input_scale`
    and `output_scale` are settings and are not trained.

    `bias`, which the authors' code has and the paper's equations lack, becomes a last state
    coordinate whose value is always 1, so that the readout stays a vector.

    Raises `ValueError` for a width below 1, a scale that is not a positive number which the
    default floating type holds, or a cell that does not map these shapes.
    """

    cell: Callable[[Float[Array, "1"], Float[Array, " units"]], Float[Array, " units"]]
    start: Float[Array, " units"]
    weights: Float[Array, " units"]
    bias: Float[Array, ""] | None
    input_scale: float = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        cell: Callable[[Float[Array, "1"], Float[Array, " units"]], Float[Array, " units"]],
        units: int,
        *,
        input_scale: float = 1.0,
        output_scale: float = 1.0,
        bias: bool = False,
    ):
        units = positive_integer("units", units)
        yes_or_no("bias", bias)
        self.cell, units = _on_one_vector(cell, units)
        self.start = jnp.zeros(units)
        self.weights = jnp.zeros(units)
        self.bias = jnp.zeros(()) if bias else None
        dtype = self.start.dtype
        self.input_scale = positive_of_type("input_scale", input_scale, dtype)
        self.output_scale = positive_of_type("output_scale", output_scale, dtype)

    @property
    def readout(self) -> Float[Array, " state"]:
        weights = self.output_scale * self.weights
        if self.bias is None:
            return weights
        return jnp.append(weights, self.output_scale * self.bias)

    def initial_state(self) -> Float[Array, " state"]:
        return self.start if self.bias is None else jnp.append(self.start, 1.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        inputs = self.input_scale * gradient[None]
        if self.bias is None:
            return self.cell(inputs, state)
        return jnp.append(self.cell(inputs, state[:-1]), 1.0)


def _on_one_vector(cell: Callable[..., Any], units: int) -> tuple[Callable[..., Any], int]:
    """The cell on one vector, and the length of that. Raises `ValueError` for any other cell."""
    vector = jnp.zeros(units)
    found = _shapes_after(cell, vector)
    if found == (units,):
        return cell, units
    for parts in TUPLES:
        if _shapes_after(cell, (vector,) * parts) == ((units,),) * parts:
            return FlatCell(cell, parts), parts * units
    raise ValueError(
        f"`cell` must map an input of shape (1,) and a hidden state of shape ({units},), or a "
        f"tuple of such states, to a hidden state of shape ({units},) or such a tuple, got {found}."
    )


def _shapes_after(cell: Callable[..., Any], hidden: Any) -> Any:
    """Shape of the next hidden state, or of each in a tuple; or what the cell raises."""
    if isinstance(cell, type) or not callable(cell):
        return shown(cell)
    try:
        after = eqx.filter_eval_shape(cell, jnp.zeros(1), hidden)
    except (TypeError, ValueError) as error:
        return f"a {type(error).__name__}"
    if isinstance(after, tuple):
        return tuple(getattr(each, "shape", None) for each in after)
    return getattr(after, "shape", after)


def GRUOptimizer(
    units: int,
    *,
    key: Key[Array, ""],
    input_scale: float = 1.0,
    output_scale: float = 1.0,
    bias: bool = False,
    input_deviation: float | None = None,
) -> RecurrentOptimizer:
    """The learned optimizer of the paper, untrained: `GRUCell` with a linear readout.

    - `units`: width N of the state.
    - `key`: of the weights, which are drawn as the authors draw them (see `GRUCell`).
    - `input_scale`: factor on each gradient before it enters the cell; `output_scale`: factor on
      each step (paper, D.2; the authors tuned both per task).
    - `bias`: whether the readout has a bias, as in the authors' code but not in the equations.
    - `input_deviation`: standard deviation of the input weights (default: 1 / sqrt(units)).

    Raises `ValueError` for a width below 1, or a scale or deviation that is not a positive number
    which the default floating type holds.
    """
    return RecurrentOptimizer(
        GRUCell(units, key=key, input_deviation=input_deviation),
        units,
        input_scale=input_scale,
        output_scale=output_scale,
        bias=bias,
    )


def beside_cell(optimizer: RecurrentOptimizer) -> tuple[Any, ...]:
    """What is trained beside the cell: start, readout weights and, if there is one, the bias."""
    parts = (optimizer.start, optimizer.weights, optimizer.bias)
    return tuple(part for part in parts if part is not None)
