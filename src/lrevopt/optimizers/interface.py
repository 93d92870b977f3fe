"""Optimizers as small dynamical systems, one copy per parameter of the problem.

    h' = F(h, g)        `transition`      (paper, equation 1)
    x' = x + w . h'     `readout` is w    (paper, equation 2)

`g` is one component of the gradient, `x` the same component of the parameters. The step is
added, so a descending optimizer has a negative slope of `w . F(h, g)` in `g`.

Rules with weight decay, or that average parameters, also look at x:

    h' = F(h, g, x)     `AbstractParameterOptimizer`

Loops over steps call `start_at` and `moved_at`, which take either kind. Everything else looks at
such an optimizer at one x (`lrevopt.at_parameter`).
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


class AbstractParameterOptimizer(AbstractOptimizer):
    """A component-wise optimizer that takes the parameter, too: `x' = x + w . F(h, g, x)`.

    `parameter` is x before the update, and at the start of a run for `initial_state`. Both methods
    raise `ValueError` where it is left out (`given_parameter` does so).
    """

    @abc.abstractmethod
    def initial_state(self, parameter: Float[Array, ""] | None = None) -> Float[Array, " state"]:
        """State before the first gradient arrives, at the start `parameter` of the run."""

    @abc.abstractmethod
    def transition(
        self,
        state: Float[Array, " state"],
        gradient: Float[Array, ""],
        parameter: Float[Array, ""] | None = None,
    ) -> Float[Array, " state"]:
        """Next state `F(h, g, x)`."""


def given_parameter(
    optimizer: AbstractOptimizer, parameter: Float[Array, ""] | None
) -> Float[Array, ""]:
    """`parameter`, if it is there; `ValueError` otherwise."""
    if parameter is None:
        raise ValueError(
            f"`parameter` must be given to this {type(optimizer).__name__}, whose updates depend "
            "on the value of x: `lrevopt.at_parameter(optimizer, x)` holds it at one value."
        )
    return parameter


def start_at(optimizer: AbstractOptimizer, parameter: Float[Array, ""]) -> Float[Array, " state"]:
    """State before the first gradient of a run that starts at `parameter`."""
    if isinstance(optimizer, AbstractParameterOptimizer):
        return optimizer.initial_state(parameter)
    return optimizer.initial_state()


def moved_at(
    optimizer: AbstractOptimizer,
    state: Float[Array, " state"],
    gradient: Float[Array, ""],
    parameter: Float[Array, ""],
) -> Float[Array, " state"]:
    """Next state of an optimizer of either kind."""
    if isinstance(optimizer, AbstractParameterOptimizer):
        return optimizer.transition(state, gradient, parameter)
    return optimizer.transition(state, gradient)


def state_size(optimizer: AbstractOptimizer) -> int:
    """Number of state coordinates of one parameter.

    Raises `ValueError` if readout and initial state are not vectors of one length.
    """
    readout = eqx.filter_eval_shape(lambda o: o.readout, optimizer).shape
    state = eqx.filter_eval_shape(lambda o: start_at(o, jnp.zeros(())), optimizer).shape
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
