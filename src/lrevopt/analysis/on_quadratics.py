"""An optimizer on a quadratic: the map of state and parameter together, near a point.

On a loss of curvature c the gradient follows the parameter, g = g* + c (x - x*). With the
Jacobians J = dF/dh, B = dF/dg and P = dF/dx at a point (P = 0 unless F takes x),

    h' ~ h* + J (h - h*) + (c B + P) (x - x*)
    x' = x + w . h'

so that small deviations of (h, x) are multiplied by the matrix

    M = [ J      c B + P           ]
        [ w J    1 + w . (c B + P) ]

at every update. They shrink if all its eigenvalues are inside the unit circle: for gradient
descent if c < 2 / rate, for momentum if c < 2 (1 + momentum) / rate.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.checks import finite
from lrevopt.optimizers.interface import AbstractOptimizer, moved_at
from lrevopt.optimizers.limits import with_limits


class QuadraticMap(eqx.Module):
    """Linear map of state and parameter together on a quadratic loss. Host arrays in float64.

    `recurrent`, `input` and `by_parameter` are the Jacobians J = dF/dh, B = dF/dg and P = dF/dx at
    the point of linearization, `readout` is w, and `curvature` the second derivative c of the loss.
    """

    recurrent: Float[np.ndarray, "state state"]
    input: Float[np.ndarray, " state"]
    by_parameter: Float[np.ndarray, " state"]
    readout: Float[np.ndarray, " state"]
    curvature: float

    @property
    def matrix(self) -> Float[np.ndarray, "both both"]:
        """M = [[J, c B + P], [w J, 1 + w . (c B + P)]], by which an update multiplies deviations.

        The axis `both` has the coordinates of the state and then the parameter.
        """
        moved = self.curvature * self.input + self.by_parameter
        states = np.column_stack([self.recurrent, moved])
        return np.vstack([states, self.readout @ states + np.eye(len(moved) + 1)[-1]])

    @property
    def eigenvalues(self) -> Complex[np.ndarray, " both"]:
        """Eigenvalues of `matrix`, largest size first."""
        found = np.linalg.eigvals(self.matrix).astype(complex)
        return found[np.argsort(-np.abs(found), kind="stable")]

    @property
    def spectral_radius(self) -> float:
        """Size of the largest eigenvalue: small deviations shrink if it is below 1."""
        return float(np.abs(self.eigenvalues[0]))


def quadratic_map(
    opt: AbstractOptimizer,
    curvature: float,
    state: Float[AnyArray, " state"],
    *,
    gradient: float = 0.0,
    parameter: float = 0.0,
) -> QuadraticMap:
    """The map of state and parameter (h, x) on a quadratic loss, linearized at a point.

    - `curvature`: second derivative of the loss; negative ones are allowed.
    - `state`, `gradient`, `parameter`: where the optimizer is linearized. `parameter` matters only
      to an `AbstractParameterOptimizer`.

    Computed by forward derivatives in float64. Where F has no derivative because of a root of 0,
    the limit from above is taken. A live step counter has eigenvalue 1: hold it (`at_step` of
    `from_optax`).

    Raises `ValueError` for the state of another optimizer, numbers that are not finite, and a point
    where a derivative is not finite.
    """
    point = double_states(opt, state)
    values = [
        finite(name, value) for name, value in (("gradient", gradient), ("parameter", parameter))
    ]
    curvature = finite("curvature", curvature)
    with double_precision():
        inputs = (point, *(jnp.asarray(value) for value in values))
        J, B, P, w = (np.asarray(part) for part in _jacobians(as_double(opt), *inputs))
    if not all(np.isfinite(part).all() for part in (J, B, P)):
        raise ValueError(
            f"`state` must be a point where F has finite derivatives, but those of "
            f"{type(opt).__name__} at gradient {values[0]:g} and parameter {values[1]:g} are not."
        )
    return QuadraticMap(J, B, P, w, curvature)


@eqx.filter_jit
def _jacobians(opt, state, gradient, parameter):
    def move(state, gradient, parameter):
        return moved_at(opt, state, gradient, parameter)

    derivatives = jax.jacfwd(move, argnums=(0, 1, 2))
    return *with_limits(lambda h: derivatives(h, gradient, parameter), state), opt.readout
