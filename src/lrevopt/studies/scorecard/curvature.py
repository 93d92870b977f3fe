"""Whether and how fast a linearized optimizer converges on a quadratic, over its curvature.

On the loss `c (x - x*)^2 / 2` an update near the fixed point multiplies the deviations of state and
parameter by the matrix M(c) of `analysis.on_quadratics`:

    M(c) = [[J,    c B + P          ],
            [w J,  1 + w . (c B + P)]]

P = dF/dx is 0 unless the optimizer takes the parameter, as one with weight decay does. Where it is
0, the parameter does not move at c = 0, which gives the eigenvalue 1. For momentum, the eigenvalues
of M are the roots of `lambda^2 - (1 + momentum - learning_rate c) lambda + momentum = 0`.
"""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lrevopt.analysis.linearization import Linearization, impulse_response
from lrevopt.analysis.on_quadratics import QuadraticMap

POINTS = 161
"""Curvatures on the axis."""

RESPONSE = 200
"""Updates after one gradient that set the scale of the axis."""

NEUTRAL = 1e-9
"""Excess over 1 up to which a spectral radius counts as 1: a coordinate that only accumulates, such
as Adagrad's sum of squares, has the eigenvalue 1 at every curvature."""

Radius = Callable[[float], float]
"""Spectral radius of M(c) at a curvature."""

AS_FAST = 1e-6
"""Relative excess over the least spectral radius that counts as equal: momentum is equally fast for
curvatures between (1 -+ sqrt(momentum))^2 / learning_rate."""

HALVINGS = 60


class CurvatureResponse(eqx.Module):
    """Spectral radius of M(c) over curvatures. Host arrays in float64.

    - `curvatures`: ascending and log-spaced, from `1e-5 / sum_k |w J^k B|`, where converging takes
      about 10^5 updates, to `1000 / max_k |w J^k B|`, where one update overshoots a thousandfold.
    - `radii`: spectral radius at each.
    - `stable_up_to`: curvature at which the radius first rises above 1; `largest_stable`: curvature
      at which it last does. They differ where an optimizer converges on two separate ranges.
      Infinite if that is not within the axis, 0 if the radius is above 1 everywhere.
    - `fastest`, `fastest_radius`: the least radius, and the smallest curvature at which it occurs.
    """

    curvatures: Float[np.ndarray, " grid"]
    radii: Float[np.ndarray, " grid"]
    stable_up_to: float
    largest_stable: float
    fastest: float
    fastest_radius: float


def coupled_map(
    model: Linearization, curvature: float, by_parameter: Float[np.ndarray, " state"] | None = None
) -> Float[np.ndarray, "both both"]:
    """M(c), which maps deviations of state and parameter before an update to those after it.

    `by_parameter` is P, by default 0.
    """
    slope = np.zeros_like(model.input) if by_parameter is None else by_parameter
    return QuadraticMap(model.recurrent, model.input, slope, model.readout, curvature).matrix


def spectral_radius(
    model: Linearization, curvature: float, by_parameter: Float[np.ndarray, " state"] | None = None
) -> float:
    """Largest |eigenvalue| of M(c). Below 1, the linearized optimizer converges."""
    return float(np.abs(np.linalg.eigvals(coupled_map(model, curvature, by_parameter))).max())


def curvature_response(
    model: Linearization, by_parameter: Float[np.ndarray, " state"] | None = None
) -> CurvatureResponse:
    """Spectral radii over curvatures, where they cross 1 and where they are least.

    `by_parameter` is P, by default 0. Raises `ValueError` for an optimizer whose updates do not
    respond to a gradient.
    """
    responses = np.abs(impulse_response(model, RESPONSE))
    if not 0 < responses.max() < np.inf:
        raise ValueError(
            f"`model` must respond to a gradient by finite updates, got up to {responses.max():g}."
        )

    def radius(curvature: float) -> float:
        return spectral_radius(model, curvature, by_parameter)

    axis = np.geomspace(1e-5 / responses.sum(), 1000 / responses.max(), POINTS)
    radii = np.array([radius(curvature) for curvature in axis])
    stable_up_to, largest_stable = _ends(radius, axis, radii)
    fastest, fastest_radius = _fastest(radius, axis, radii)
    return CurvatureResponse(
        curvatures=axis,
        radii=radii,
        stable_up_to=stable_up_to,
        largest_stable=largest_stable,
        fastest=fastest,
        fastest_radius=fastest_radius,
    )


def _ends(
    radius: Radius, axis: Float[np.ndarray, " grid"], radii: Float[np.ndarray, " grid"]
) -> tuple[float, float]:
    """Upper ends of the first and of the last stable range."""
    stable = radii <= 1 + NEUTRAL
    if not stable.any():
        return 0.0, 0.0
    ends = [
        _last(lambda c: radius(c) <= 1 + NEUTRAL, axis[index], axis[index + 1])
        for index in np.flatnonzero(stable[:-1] & ~stable[1:])
    ]
    ends += [np.inf] * bool(stable[-1])
    return ends[0], ends[-1]


def _fastest(
    radius: Radius, axis: Float[np.ndarray, " grid"], radii: Float[np.ndarray, " grid"]
) -> tuple[float, float]:
    """The least radius, refined between grid points, and the smallest curvature that is as fast."""
    from scipy.optimize import minimize_scalar  # slow to import

    index = int(np.argmin(radii))
    ends = axis[max(index - 1, 0)], axis[min(index + 1, len(axis) - 1)]
    found = minimize_scalar(
        lambda log: radius(float(np.exp(log))),
        bounds=tuple(np.log(ends)), method="bounded", options={"xatol": 1e-12},
    )  # fmt: skip
    refined, place = min((float(found.fun), float(np.exp(found.x))), (radii[index], axis[index]))
    enough = refined * (1 + AS_FAST)
    first = float(np.append(axis[radii <= enough], place).min())
    slower = axis[axis < first]
    if slower.size:
        first = _last(lambda c: radius(c) > enough, float(slower[-1]), first)
    return first, float(refined)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The end of the range above `low` in which `holds`, by bisection in the logarithm."""
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if holds(middle) else (low, middle)
    return float(low)
