"""Classical (metric) multidimensional scaling: points in a plane from a table of distances.

    B = -1/2 J D^2 J,    J = 1 - 1 1'/n,    B = V diag(l) V',    points = V_2 diag(l_2)^(1/2)

With Euclidean distances between points of a plane, these are the points, up to a motion (Torgerson
1952). Else the plane shows a part, and `shown` and `stress` say which.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lrevopt.checks import finite_leaves, real_array

UNEQUAL = 1e-6
"""Share of the largest distance by which a distance may differ from that of the way back."""


class PlaneMap(eqx.Module):
    """Points in a plane, and how well they show distances.

    - `points`: coordinates, centred; each axis has its largest coordinate positive.
    - `shown`: the two largest eigenvalues of B over the sum of all in absolute value, from 0 to 1.
    - `stress`: `(sum (d - d_plane)^2 / sum d^2)^(1/2)` over pairs, 0 for a perfect map.
    """

    points: Float[np.ndarray, "entrant 2"]
    shown: float
    stress: float


def plane_map(distances: Float[np.ndarray, "entrant entrant"]) -> PlaneMap:
    """Classical scaling of a symmetric table of distances.

    Raises `ValueError` for what is no square table of finite numbers with at least one row, or has
    a negative entry, one on its diagonal that is not 0, or two across it that differ (by more than
    1e-6 of the largest).
    """
    distances = np.asarray(real_array("distances", distances), float)
    if distances.ndim != 2 or not distances.size or len(set(distances.shape)) > 1:
        raise ValueError(
            f"`distances` must be a square table with at least one row, got shape "
            f"{distances.shape}."
        )
    finite_leaves("distances", distances)
    _check_distances(distances)
    count = len(distances)
    centre = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    kept = np.argsort(-values)[:2]
    points = np.zeros((count, 2))
    points[:, : len(kept)] = vectors[:, kept] * np.sqrt(np.maximum(values[kept], 0.0))
    largest = np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0)
    points *= np.where(largest < 0, -1.0, 1.0)
    plane = np.linalg.norm(points[:, None] - points[None], axis=-1)
    whole, total = float(np.abs(values).sum()), float((distances**2).sum())
    return PlaneMap(
        points=points,
        shown=float(np.maximum(values[kept], 0.0).sum()) / whole if whole else 1.0,
        stress=float(np.sqrt(((distances - plane) ** 2).sum() / total)) if total else 0.0,
    )


def _check_distances(table: Float[np.ndarray, "entrant entrant"]) -> None:
    """Raise `ValueError` unless entries of a square table can be distances."""
    away = np.maximum(np.abs(table - table.T), np.where(np.eye(len(table)), np.abs(table), 0.0))
    odd = (table < 0) | (away > UNEQUAL * np.abs(table).max())
    if odd.any():
        row, column = (int(place) for place in np.argwhere(odd)[0])
        back = "" if row == column else f" and {table[column, row]:.6g} at [{column}, {row}]"
        raise ValueError(
            "`distances` must be symmetric and at least 0, with 0 on the diagonal, got "
            f"{table[row, column]:.6g} at [{row}, {column}]{back}."
        )
