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
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from lrevopt.checks import finite_leaves, floating_type, real_array, shown, squares_finite
from lrevopt.shapes import shapes_of


class AbstractOptimizer(eqx.Module):
    """A component-wise optimizer in state-space form (paper, equations 1 and 2).

        h' = F(h, g)        x' = x + w . h'

    Derive from it and write `readout` (w, as a field or a property), `initial_state` and
    `transition` (F) for an optimizer of your own. `transition` is written for one parameter and
    must be traceable by JAX; `unroll` and the analysis map it over all parameters. All arrays share
    one floating dtype. Hyperparameters and weights are array leaves, so that a grid of settings is
    one stacked module. Sizes are static.
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
        """Next state `F(h, g)` from the state h and one component g of the gradient."""


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


def state_size(optimizer: Any, name: str = "optimizer") -> int:
    """Number of state coordinates of one parameter, if the optimizer is one: see `check_optimizer`.

    Raises `ValueError` if readout and initial state are not vectors of one length.
    """
    if not isinstance(optimizer, AbstractOptimizer):
        hint = ""
        if isinstance(optimizer, type) and issubclass(optimizer, AbstractOptimizer):
            hint = ": call it with its settings"
        elif callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update"):
            hint = ": use `from_optax`"
        raise ValueError(f"`{name}` must be an optimizer, got {shown(optimizer)}{hint}.")
    readout, state = (jnp.shape(part) for part in _ends(optimizer))
    if len(state) != 1 or readout != state:
        raise ValueError(
            f"`{name}` must have a flat initial state and a readout of the same length, "
            f"got shapes {state} and {readout} from {type(optimizer).__name__}."
        )
    return state[0]


def check_optimizer(optimizer: Any, name: str = "optimizer") -> Any:
    """The floating type of an optimizer, if its state can be carried from step to step.

    Nothing is computed. Raises `ValueError` for what is no optimizer, a readout that does not fit
    the initial state, an empty state, numbers that are not of float32 or float64, and a transition
    that returns another shape or type than it was given, or fails.
    """
    if state_size(optimizer, name) == 0:
        raise ValueError(f"`{name}` must have a state of at least one coordinate, got none.")
    readout, state = _ends(optimizer)
    owner = type(optimizer).__name__
    for part, found in (("initial_state()", state), ("readout", readout)):
        floating_type(f"{name}.{part}", found.dtype)
    if readout.dtype != state.dtype:
        raise ValueError(
            f"`{name}` must have a readout and a state of one type, got {readout.dtype} and "
            f"{state.dtype} from {owner}."
        )
    wanted = f"`{name}.transition` must map a state of {described(state)} and one gradient to the "
    try:
        number = ShapeDtypeStruct((), state.dtype)
        following = shapes_of(_moved, optimizer, state, number)
    except (TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else ""
        raise ValueError(
            f"{wanted}next state, but that of {owner} raises a {type(error).__name__}: {first}."
        ) from error
    if described(following) != described(state):
        raise ValueError(
            f"{wanted}next state of the same shape and type, but that of {owner} returns "
            f"{described(following)}."
        )
    return state.dtype


def described(value: Any) -> str:
    """Type and shape of an array, or what there is instead."""
    if not hasattr(value, "dtype"):
        return shown(value)
    return f"{value.dtype} and shape {tuple(value.shape)}"


def _ends(optimizer: AbstractOptimizer) -> tuple[Any, Any]:
    """Readout and initial state, as shapes and types."""
    both = shapes_of(_readout_and_start, optimizer)
    return tuple(
        part if hasattr(part, "dtype") else eqx.filter_eval_shape(lambda p=part: jnp.asarray(p))
        for part in both
    )


# Compiled functions, of which only the trace is used: it is kept for optimizers of one structure.
@eqx.filter_jit
def _readout_and_start(optimizer: AbstractOptimizer) -> Any:
    return optimizer.readout, start_at(optimizer, jnp.zeros(()))


@eqx.filter_jit
def _moved(optimizer: AbstractOptimizer, state: Any, gradient: Any) -> Any:
    return moved_at(optimizer, state, gradient, gradient)


def check_state(
    optimizer: AbstractOptimizer,
    state: Any,
    name: str = "state",
    axes: int = 1,
    *,
    squares: bool = True,
) -> Float[Array, "..."]:
    """`state` as an array with `axes` axes, the last of them the state of this optimizer.

    It comes back in the optimizer's floating type. Raises `ValueError` for what is no such
    optimizer (`check_optimizer`), for another shape, such as the state of another optimizer, and
    for entries that are not real and finite or, with `squares`, whose squares overflow; `name` is
    what the message calls the argument.
    """
    dtype = check_optimizer(optimizer, "opt")
    size, array = state_size(optimizer), real_array(name, state)
    if array.ndim != axes or array.shape[-1] != size:
        wanted = f"({size},)" if axes == 1 else f"(number of states, {size})"
        raise ValueError(
            f"`{name}` must have shape {wanted} for this {type(optimizer).__name__}, "
            f"got {array.shape}."
        )
    if squares:
        squares_finite(name, array, dtype)
    finite_leaves(name, array)
    return jnp.asarray(array, dtype)
