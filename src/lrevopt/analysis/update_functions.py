"""Update functions: what an optimizer in a given state does with a gradient (paper, 4.1).

    update(g) = w . F(h, g)        effective learning rate = - d update / d g

The paper reads the slope at zero gradient. A descending optimizer has a negative slope and thus
a positive rate.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.checks import real_array, squares_finite
from lrevopt.optimizers import ClippedGradientDescent, GradientDescent, Momentum, RMSProp
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer, check_state
from lrevopt.optimizers.limits import slope

GRID = 201
"""Points on a gradient axis."""


def update_function(
    opt: AbstractOptimizer, state: Float[AnyArray, " state"], gradients: Float[AnyArray, " grid"]
) -> Float[Array, " grid"]:
    """Update `w . F(h, g)`, what is added to the parameter, of the state `h` for each gradient.

    Raises `ValueError` for the state of another optimizer, numbers that are not finite, or
    gradients that are not one axis or whose squares overflow.
    """
    state = check_state(opt, state)
    gradients = real_array("gradients", gradients)
    if gradients.ndim != 1:
        raise ValueError(f"`gradients` must have one axis, got shape {gradients.shape}.")
    squares_finite("gradients", gradients, state.dtype)
    return _update_table(opt, state[None], jnp.asarray(gradients, state.dtype))[0]


def effective_learning_rate(
    opt: AbstractOptimizer,
    state: Float[AnyArray, " state"],
    gradient: float | Float[AnyArray, ""] = 0.0,
) -> Float[Array, ""]:
    """Effective learning rate of a state: minus the slope of its update function at `gradient`.

    Positive for an optimizer that descends. Computed by automatic differentiation, in float64
    unless it is part of a traced computation. Where F has no derivative because of a root of 0, the
    limit from above is taken.

    Raises `ValueError` for the state of another optimizer, a gradient that is not one finite
    number, or a point where there is no slope.
    """
    required, state = state, check_state(opt, state)
    at = real_array("gradient", gradient)
    if at.ndim != 0:
        raise ValueError(f"`gradient` must be one number, got shape {at.shape}.")
    squares_finite("gradient", at, jnp.float64)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((opt, state, at))):
        return _rate_table(opt, state[None], jnp.asarray(at, state.dtype))[0]
    with double_precision():
        exact = double_states(opt, required)[None], np.asarray(at, float)
        rate = _rates(as_double(opt), *exact)[0]
        if not np.isfinite(rate):
            raise ValueError(
                f"`state` must be a point where the update has a slope at gradient {float(at):g}, "
                f"but its derivative there is {rate}."
            )
        return jnp.asarray(rate)


def update_table(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " grid"],
) -> Float[np.ndarray, "point grid"]:
    """Update functions of many states, in float64 on the host."""
    with double_precision():
        return np.asarray(_update_table(as_double(opt), states, gradients))


def rate_table(
    opt: AbstractOptimizer, states: Float[np.ndarray, "point state"]
) -> Float[np.ndarray, " point"]:
    """Effective learning rates of many states at zero gradient, in float64 on the host.

    Limits from above stand in where there is no slope; NaN where these do not exist either.
    """
    with double_precision():
        return _rates(as_double(opt), states, np.zeros(()))


def gradient_axis(pooled: Float[np.ndarray, " gradient"]) -> Float[np.ndarray, " grid"]:
    """Symmetric axis over the central 98 % of pooled gradients."""
    reach = float(np.quantile(np.abs(pooled), 0.98))
    reach = reach if reach > 0 else 1.0
    return np.linspace(-reach, reach, GRID)


def transition_table(
    opt: AbstractOptimizer,
    states: Float[np.ndarray, "point state"],
    gradients: Float[np.ndarray, " point"],
) -> Float[np.ndarray, "point state"]:
    """Transitions of many states, each with its own gradient, in float64 on the host."""
    with double_precision():
        return np.asarray(_transition_table(as_double(opt), states, gradients))


class Textbook(eqx.Module):
    """Update functions of textbook optimizers (Figure 2).

    `panels` holds, under "gradient_descent", "clipping", "momentum" and "rmsprop", one update
    function per row; `levels` the state that each row belongs to: the accumulated velocity, the
    accumulated squared gradient, and 0 for the stateless two.
    """

    gradients: Float[np.ndarray, " grid"]
    panels: dict[str, Float[np.ndarray, "_ grid"]]
    levels: dict[str, Float[np.ndarray, " _"]]


def textbook_update_functions() -> Textbook:
    """The numbers of Figure 2, in the figure's order of panels."""
    gradients = np.linspace(-2.0, 2.0, 201)
    zero, velocities, seconds = np.zeros(1), np.linspace(-1.0, 1.0, 5), np.linspace(0.05, 2.0, 5)
    one, most = as_float(1.0), as_float(0.9)
    cases: dict[str, tuple[AbstractOptimizer, np.ndarray, np.ndarray]] = {
        "gradient_descent": (GradientDescent(learning_rate=one), zero, zero[:, None]),
        "clipping": (ClippedGradientDescent(learning_rate=one, threshold=one), zero, zero[:, None]),
        "momentum": (Momentum(learning_rate=one, momentum=most), velocities, velocities[:, None]),
        "rmsprop": (
            RMSProp(learning_rate=one, decay=most),
            seconds,
            np.stack([seconds, np.zeros(5)], axis=1),
        ),
    }
    return Textbook(
        gradients=gradients,
        panels={name: update_table(opt, h, gradients) for name, (opt, _, h) in cases.items()},
        levels={name: levels for name, (_, levels, _) in cases.items()},
    )


@eqx.filter_jit
def _update_table(opt, states, gradients):
    over_gradients = jax.vmap(lambda h, g: opt.readout @ opt.transition(h, g), (None, 0))
    return jax.vmap(over_gradients, (0, None))(states, gradients)


@eqx.filter_jit
def _transition_table(opt, states, gradients):
    return jax.vmap(opt.transition)(states, gradients)


def _rates(opt, states, gradient):
    rates = np.asarray(_rate_table(opt, states, gradient))
    if np.isfinite(rates).all():
        return rates
    return np.asarray(_rate_table(opt, states, gradient, limits=True))


@eqx.filter_jit
def _rate_table(opt, states, gradient, limits=False):
    slopes = jax.vmap(lambda state: slope(opt, state, gradient, limits=limits))(states)
    return -slopes @ opt.readout
