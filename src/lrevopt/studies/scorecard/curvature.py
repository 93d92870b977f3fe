"""An optimizer at rest on a quadratic of one curvature: does it contract, and how fast?

The gradient of `c (x - x*)^2 / 2` is `c (x - x*)`. Near rest, with A, b and w as in
`analysis.linearization`, state and parameter then move together by a matrix: from one time, both
before the update, to the next,

    h' - h* = A (h - h*) + c b (x - x*)                       M(c) = [[A,    c b      ],
    x' - x* = w . A (h - h*) + (1 + c w . b) (x - x*)                 [w A,  1 + c w.b]]

At c = 0 the parameter stands still, an eigenvalue of 1. For momentum, M has the eigenvalues of
`lambda^2 - (1 + momentum - learning_rate c) lambda + momentum = 0`.
"""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lrevopt.analysis.linearization import Linearization, impulse_response

POINTS = 161
"""Curvatures on the axis."""

RESPONSE = 200
"""Updates after one gradient that set the scale of the axis."""

NEUTRAL = 1e-9
"""How far above 1 a spectral radius still counts as 1: a coordinate that only adds up, such as
Adagrad's sum of squares, has an eigenvalue of 1 at every curvature."""

AS_FAST = 1e-6
"""Relative excess over the least spectral radius that counts as equal: momentum is as fast on
curvatures from (1 - sqrt(momentum))^2 / learning_rate up to where the root becomes a plus."""

HALVINGS = 60


class CurvatureResponse(eqx.Module):
    """Spectral radius of M(c) over curvatures. Host arrays in float64.

    - `curvatures`: ascending and log-spaced, from `1e-5 / sum_k |w A^k b|`, where a displacement
      is undone in 10^5 updates, to `1000 / max_k |w A^k b|`, where one update overdoes it.
    - `radii` at them.
    - `stable_up_to`: where the radius first rises above 1, `largest_stable` where it last does:
      an optimizer for a long and narrow valley may contract on two ranges of curvatures with
      a gap between them. Infinite if not within the axis, 0 if the radius is above 1 all along.
    - `fastest`, `fastest_radius`: the least curvature of the least radius, and that radius.
    """

    curvatures: Float[np.ndarray, " grid"]
    radii: Float[np.ndarray, " grid"]
    stable_up_to: float
    largest_stable: float
    fastest: float
    fastest_radius: float


def coupled_map(model: Linearization, curvature: float) -> Float[np.ndarray, "both both"]:
    """M(c): deviations of state and parameter, both before the update, to those after it."""
    A, b, w = model.recurrent, model.input, model.readout
    return np.block([
        [A, curvature * b[:, None]],
        [(w @ A)[None], np.array([[1 + curvature * (w @ b)]])],
    ])  # fmt: skip


def spectral_radius(model: Linearization, curvature: float) -> float:
    """Largest |eigenvalue| of M(c): below 1, the optimizer at rest returns to the minimum."""
    return float(np.abs(np.linalg.eigvals(coupled_map(model, curvature))).max())


def curvature_response(model: Linearization) -> CurvatureResponse:
    """Spectral radii over curvatures, where they cross 1 and where they are least.

    Raises `ValueError` for an optimizer without response to a gradient: it moves on no curvature.
    """
    responses = np.abs(impulse_response(model, RESPONSE))
    if not 0 < responses.max() < np.inf:
        raise ValueError(
            f"`model` must respond to a gradient by finite updates, got up to {responses.max():g}."
        )
    axis = np.geomspace(1e-5 / responses.sum(), 1000 / responses.max(), POINTS)
    radii = np.array([spectral_radius(model, curvature) for curvature in axis])
    stable_up_to, largest_stable = _ends(model, axis, radii)
    fastest, fastest_radius = _fastest(model, axis, radii)
    return CurvatureResponse(
        curvatures=axis,
        radii=radii,
        stable_up_to=stable_up_to,
        largest_stable=largest_stable,
        fastest=fastest,
        fastest_radius=fastest_radius,
    )


def _ends(
    model: Linearization, axis: Float[np.ndarray, " grid"], radii: Float[np.ndarray, " grid"]
) -> tuple[float, float]:
    """Upper ends of the first and of the last stable range."""
    stable = radii <= 1 + NEUTRAL
    if not stable.any():
        return 0.0, 0.0
    ends = [
        _last(lambda c: spectral_radius(model, c) <= 1 + NEUTRAL, axis[index], axis[index + 1])
        for index in np.flatnonzero(stable[:-1] & ~stable[1:])
    ]
    ends += [np.inf] * bool(stable[-1])
    return ends[0], ends[-1]


def _fastest(
    model: Linearization, axis: Float[np.ndarray, " grid"], radii: Float[np.ndarray, " grid"]
) -> tuple[float, float]:
    """Refined between neighbours of the least on the axis, then moved down to the first as fast."""
    from scipy.optimize import minimize_scalar  # slow to import

    index = int(np.argmin(radii))
    ends = axis[max(index - 1, 0)], axis[min(index + 1, len(axis) - 1)]
    found = minimize_scalar(
        lambda log: spectral_radius(model, float(np.exp(log))),
        bounds=tuple(np.log(ends)), method="bounded", options={"xatol": 1e-12},
    )  # fmt: skip
    refined, place = min((float(found.fun), float(np.exp(found.x))), (radii[index], axis[index]))
    enough = refined * (1 + AS_FAST)
    first = float(np.append(axis[radii <= enough], place).min())
    slower = axis[axis < first]
    if slower.size:
        first = _last(lambda c: spectral_radius(model, c) > enough, float(slower[-1]), first)
    return first, float(refined)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where between `low`, where something holds, and `high` it ceases to, by halving logs."""
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if holds(middle) else (low, middle)
    return float(low)
