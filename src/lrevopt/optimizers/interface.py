"""Optimizers as small dynamical systems, one copy per parameter of the problem.

    h' = F(h, g)        `transition`      (paper, equation 1)
    x' = x + w . h'     `readout` is w    (paper, equation 2)

`g` is one component of the gradient, `x` the same component of the parameters. The step is
added, so a descending optimizer has a negative slope of `w . F(h, g)` in `g`.
"""

import abc
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractOptimizer(eqx.Module):
    """A component-wise optimizer in state-space form.

    `transition` is written for one parameter; `unroll` and the analysis map it over all. All
    arrays share one floating dtype. Hyperparameters and weights are array leaves, so that a grid
    of settings is one stacked module. Sizes are static.
    """

    if TYPE_CHECKING:
        # To type checkers what it is to users: readable, whether it is a field or a property.
        @property
        def readout(self) -> Float[Array, " state"]: ...
    else:
        readout: eqx.AbstractVar[Float[Array, " state"]]

    @abc.abstractmethod
    def initial_state(self) -> Float[Array, " state"]:
        """State before the first gradient arrives."""

    @abc.abstractmethod
    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        """Next state `F(h, g)`."""


def state_size(optimizer: AbstractOptimizer) -> int:
    """Number of state coordinates of one parameter.

    Raises `ValueError` if readout and initial state are not vectors of one length.
    """
    readout = eqx.filter_eval_shape(lambda o: o.readout, optimizer).shape
    state = eqx.filter_eval_shape(lambda o: o.initial_state(), optimizer).shape
    if len(state) != 1 or readout != state:
        raise ValueError(
            f"`optimizer` must have a flat initial state and a readout of the same length, "
            f"got shapes {state} and {readout} from {type(optimizer).__name__}."
        )
    return state[0]


def check_state(
    optimizer: AbstractOptimizer, state: Float[Array, "..."], name: str = "state", axes: int = 1
) -> Float[Array, "..."]:
    """`state` as an array with `axes` axes, the last of them the state of this optimizer.

    Raises `ValueError` for another shape, such as the state of another optimizer; `name` is what
    the message calls the argument.
    """
    size = state_size(optimizer)
    state = jnp.asarray(state)
    if state.ndim != axes or state.shape[-1] != size:
        wanted = f"({size},)" if axes == 1 else f"(number of states, {size})"
        raise ValueError(
            f"`{name}` must have shape {wanted} for this {type(optimizer).__name__}, "
            f"got {state.shape}."
        )
    return state
