"""How many momenta a linearized optimizer is, whatever the basis of its state (paper, 5.1 and C).

Eigenmodes mislead where eigenvectors are nearly parallel: two of them then have large learning
rates that cancel, and each alone says nothing about the optimizer. What an optimizer does with
small gradients is its impulse response, the updates

    w J^k B,  k = 0, 1, ...

that one unit of gradient causes, and that does not depend on any basis. Two questions to it:

- *Hankel singular values.* With the Gramians P = J P J' + B B' and Q = J' Q J + w' w they are the
  square roots of the eigenvalues of P Q. They are the singular values of the map from past
  gradients to later updates. An optimizer of r momenta has r of them that are not 0. By the theorem
  of Adamyan, Arov and Krein, value r + 1 over the largest is the least relative error, in the norm
  of that map, of any optimizer of r momenta.
- *The best fit* by r momenta, sum_m alpha_m lambda_m^k, in the mean square over updates. All
  updates weigh the same: this is the mean square difference of both optimizers' updates under
  gradients that are independent from update to update, and favours no frequency.
"""

import itertools

import equinox as eqx
import numpy as np
from jaxtyping import Complex, Float, Inexact

from lrevopt.analysis.impulse import response_of
from lrevopt.analysis.linearization import (
    DIGITS,
    PER_GRADIENT,
    Linearization,
    check_differentiable,
    impulse_response,
    timescale,
)
from lrevopt.analysis.rest import MARGINAL
from lrevopt.checks import at_most_32_bits, positive_integer
from lrevopt.text import Printed, Table, number, signed_complex

MOST_GROWTH = 1e90
"""Growth of an impulse response beyond which no fit is tried: recurrences overflow on the way."""

ABSENT = 1e-6
"""Share of the impulse response up to which modes are not in it: more than round-off in J and B."""

DOUBLINGS = 60

GRID = np.concatenate([1 - np.geomspace(2, 1e-4, 240), [0.0]])
"""Momenta among which a fit begins, from -1 to 0.9999."""

LOST = 1e-9
"""A residual may be larger by this once a recurrence is written out as momenta and rates."""

SPLITS = np.geomspace(1e-12, 1e-2, 11)
"""Changes of a recurrence by which momenta that coincide are moved apart."""

COARSE = np.concatenate([[-0.95, -0.8, -0.6, -0.4, -0.2], 1 - np.geomspace(1, 1e-3, 15)])
REAL_PAIRS = np.array(list(itertools.combinations(COARSE, 2)))
"""Pairs of real momenta among which a fit of two or more begins."""

OSCILLATIONS = np.array([
    (size * np.exp(1j * angle), size * np.exp(-1j * angle))
    for size in (0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.995)
    for angle in np.pi * np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
])  # fmt: skip
"""Pairs of conjugates, likewise."""


class MomentumFit(Printed, eqx.Module):
    """The optimizer of a few momenta whose impulse response is the nearest. Float64.

    - `eigenvalues`, `learning_rates`: of its momenta, slowest first, complex, as those of `Modes`:
      `v' = eigenvalue v + g` and `x' = x - learning_rate v'`. A pair of conjugates is one damped
      oscillation.
    - `residual`: root mean square of the difference of both impulse responses over that of the
      optimizer's own, from 0 to 1: of `sum_m learning_rate_m eigenvalue_m^k`, as it is returned.
      Where momenta nearly coincide, their rates are large and cancel.
    - `steps`: number of updates that were compared.

    Prints as a table.
    """

    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    residual: float
    steps: int

    @property
    def timescales(self) -> Float[np.ndarray, " mode"]:
        """Updates until each momentum has fallen to 1/e, infinite where it does not."""
        return np.array([timescale(value) for value in self.eigenvalues])

    def table(self) -> Table:
        """A row for each momentum."""
        rows = [
            (str(place), signed_complex(value, DIGITS), number(timescale(value), 4),
             signed_complex(rate, DIGITS))
            for place, (value, rate) in enumerate(
                zip(self.eigenvalues, self.learning_rates, strict=True)
            )
        ]  # fmt: skip
        notes = [
            f"Root mean square error of the impulse response over {self.steps} updates: "
            f"{number(self.residual)} of the response itself."
        ]
        heads = ("momentum", "eigenvalue", "timescale (updates)", f"learning rate ({PER_GRADIENT})")
        return Table("Best fit of a linearized optimizer by momenta", heads, rows, notes)


def hankel_values(linearization: Linearization) -> Float[np.ndarray, " state"]:
    """Hankel singular values of (J, B, w) divided by the largest, in falling order: the first is 1.

    The number of momenta that the optimizer has is the number of values that are not small. All are
    0 where gradients cause no updates. Unlike eigenvalues they do not depend on the coordinates of
    the state (paper, 5.1 and C, where eigenmodes are counted instead).

    Modes that do not fade (eigenvalues within 1e-6 of the unit circle, or beyond) have no finite
    values. They are left out, with the value 0, if no gradient reaches them or no parameter moves
    with them: on a line of fixed points, say, or of a counter.

    Raises `ValueError` where such a mode is in the impulse response, or J or B is not finite.
    """
    check_differentiable(linearization)
    J, B, w = _fading_part(linearization)
    B, w = (part / (np.abs(part).max(initial=0.0) or 1.0) for part in (B, w))  # squares are finite
    values = np.zeros(len(linearization.input))
    if response_of(w, J, B, 2 * len(J)).any():
        with np.errstate(over="ignore", invalid="ignore"):
            product = _gramian_factor(J.T, w).T @ _gramian_factor(J, B)
        if not np.isfinite(product).all():
            raise ValueError(
                "`linearization.recurrent` must have eigenvalues of size below 1 (by 1e-6), but "
                "its powers grow: an eigenvalue lies there only up to round-off."
            )
        found = np.linalg.svd(product, compute_uv=False)
        values[: len(found)] = found
    return values / values[0] if values[0] > 0 else values


def _fading_part(
    linearization: Linearization,
) -> tuple[Float[np.ndarray, "part part"], Float[np.ndarray, " part"], Float[np.ndarray, " part"]]:
    """J, B and w without the modes that do not fade. Raises `ValueError` if these respond."""
    from scipy.linalg import matrix_balance, schur, solve_sylvester  # slow to import

    # Coordinates of very different size (Adam's step direction) are brought to one size first.
    J, scaling = matrix_balance(linearization.recurrent, permute=False)
    sizes = np.diag(scaling)
    B, w = linearization.input / sizes, linearization.readout * sizes
    eigenvalues = np.linalg.eigvals(J)
    if not (np.abs(eigenvalues) > 1 - MARGINAL).any():
        return J, B, w
    T, basis, count = schur(J, sort=lambda re, im=0.0: bool(np.hypot(re, im) <= 1 - MARGINAL))
    B, w = basis.T @ B, w @ basis
    # Coordinates in which the first `count` and the others are apart: T11 X - X T22 = -T12.
    X = solve_sylvester(T[:count, :count], -T[count:, count:], -T[:count, count:])
    staying = w[:count] @ X + w[count:], T[count:, count:], B[count:]
    whole = np.abs(impulse_response(linearization, 2 * len(J))).max()
    largest = np.abs(response_of(*staying, 2 * len(J))).max()
    if not largest <= ABSENT * whole:
        worst = eigenvalues[np.argmax(np.abs(eigenvalues))]
        raise ValueError(
            "`linearization.recurrent` must have eigenvalues of size below 1 (by 1e-6) in all "
            f"modes of the impulse response, or it has no finite Hankel values, got {worst:.7g}."
        )
    return T[:count, :count], B[:count] - X @ B[count:], w[:count]


def _gramian_factor(
    A: Float[np.ndarray, "part part"], b: Float[np.ndarray, " part"]
) -> Float[np.ndarray, "part column"]:
    """L with P = L L' for P = A P A' + b b', by doubling (Smith): P is never formed.

    After d doublings L L' holds the first 2^d terms of sum_k A^k b b' A'^k. Rows of L keep their
    own relative precision, however different they are in size.
    """
    factor, power = b[:, None], A
    for _ in range(DOUBLINGS):
        more = power @ factor
        done = np.linalg.norm(more, axis=1) <= 1e-17 * np.linalg.norm(factor, axis=1)
        both = np.concatenate([factor, more], axis=1)
        factor = both
        if both.shape[1] > len(A):
            factor = np.asarray(np.linalg.qr(both.T, mode="r")).T
        if done.all():
            break
        power = power @ power
    return factor


def momentum_fit(linearization: Linearization, count: int = 1, *, steps: int = 200) -> MomentumFit:
    """The `count` momenta that fit the impulse response over `steps` updates best.

    Momenta are the roots of a real polynomial, so that a damped oscillation takes two. Searched
    from several starts: the balanced truncation of the response to this order, momenta added one at
    a time, and the best pair of real and of conjugate momenta on a grid, with more added to it. A
    better minimum that none of these leads to is possible.

    Raises `ValueError` for a count that is not from 1 to the number of coordinates of the state,
    fewer steps than twice the count, so many that the response of an unstable J grows by 1e90, or
    where J or B is not finite.
    """
    check_differentiable(linearization)
    count, size = positive_integer("count", count), len(linearization.input)
    if count > size:
        raise ValueError(
            f"`count` must be at most {size}, the number of coordinates of the state, got {count}."
        )
    steps = at_most_32_bits("steps", positive_integer("steps", steps))
    if steps < 2 * count:
        raise ValueError(f"`steps` must be at least {2 * count}, twice the count, got {steps}.")
    with np.errstate(over="ignore", invalid="ignore"):
        response = -impulse_response(linearization, steps)
    if not followed(response, size):
        radius = np.abs(np.linalg.eigvals(linearization.recurrent)).max()
        raise ValueError(
            f"`steps` must be so few that the impulse response grows by less than "
            f"{MOST_GROWTH:.0e}, but `linearization.recurrent` has an eigenvalue of size "
            f"{radius:.4g}, got {steps}."
        )
    return fit_response(response, count)


def followed(response: Float[np.ndarray, " step"], size: int) -> bool:
    """Whether the response of a state of `size` coordinates grows so little that a fit works."""
    # As many updates as there are coordinates are 0 only if all are.
    first, largest = np.abs(response[:size]).max(), np.abs(response).max()
    return bool(np.isfinite(largest) and largest / MOST_GROWTH <= first)


def fit_response(response: Float[np.ndarray, " step"], count: int) -> MomentumFit:
    """The best fit of `count` momenta to the falls of a parameter after one unit of gradient.

    The search is among recurrences, in which momenta may coincide. Equal momenta have no rates of
    their own, and nearly equal ones rates that are lost to round-off. Where the momenta and rates
    of the best recurrence miss more than the recurrence itself (by 1e-9), the fit is the best that
    can be written out of all that the search met and of momenta slightly apart from the best. The
    residual is always that of the momenta and rates that are returned.
    """
    from scipy.optimize import least_squares  # slow to import

    largest = float(np.abs(response).max(initial=0.0))
    if not largest > 0:
        none = np.zeros(count, complex)
        return MomentumFit(none, none, 0.0, len(response))
    scaled = response / largest  # first, since squares of a response of 1e160 overflow
    norm = float(np.linalg.norm(scaled))
    scaled, size = scaled / norm, largest * norm

    def missed(coefficients: Float[np.ndarray, " mode"]) -> Float[np.ndarray, " step"]:
        return _missed(scaled, coefficients)

    found = []
    for start in _starts(scaled, count):
        found.append(start)
        if not np.isfinite(missed(start)).all():
            continue
        tight: dict[str, float] = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15)
        found.append(least_squares(missed, start, x_scale="jac", **tight).x)
    errors = np.array([np.linalg.norm(missed(coefficients)) for coefficients in found])
    best = found[int(np.argmin(np.nan_to_num(errors, nan=np.inf)))]
    roots, rates, residual = _written_out(scaled, best)
    if residual > np.nanmin(errors) + LOST:
        tried = [_written_out(scaled, one) for one in [*found, *_nearby(best)]]
        roots, rates, residual = min(tried, key=lambda one: one[-1])
    if not residual <= 1:  # nothing can be written out, or round-off: no momentum at all misses 1
        rates, residual = np.zeros(count, complex), 1.0
    return MomentumFit(roots, size * rates, residual, len(response))


def _written_out(
    response: Float[np.ndarray, " step"], coefficients: Float[np.ndarray, " mode"]
) -> tuple[Complex[np.ndarray, " mode"], Complex[np.ndarray, " mode"], float]:
    """Momenta with these coefficients, slowest first, their best rates, and what both miss."""
    count = len(coefficients)
    if not np.isfinite(coefficients).all():
        return np.zeros(count, complex), np.zeros(count, complex), np.inf
    roots = np.roots(np.append(1.0, -coefficients)).astype(complex)
    roots = np.append(roots, np.zeros(count - len(roots)))
    roots = roots[np.argsort(-np.abs(roots), kind="stable")]
    powers = _powers(roots, len(response))
    # Conjugates as their real and imaginary parts: rates of a real response are conjugates, too.
    real, up, down = roots.imag == 0, roots.imag > 0, roots.imag < 0
    columns = np.concatenate(
        [powers[:, real].real, powers[:, up].real, -powers[:, up].imag], axis=1
    )
    if not np.isfinite(columns).all():
        return roots, np.zeros(count, complex), np.inf
    own, x, y = np.split(
        np.linalg.lstsq(columns, response, rcond=None)[0], [real.sum(), real.sum() + up.sum()]
    )
    rates = np.zeros(count, complex)
    rates[real], rates[up], rates[down] = own, (x + 1j * y) / 2, (x - 1j * y) / 2
    return roots, rates, float(np.linalg.norm(response - powers @ rates))


def _nearby(coefficients: Float[np.ndarray, " mode"]) -> list[Float[np.ndarray, " mode"]]:
    """Coefficients whose roots are a little apart where those of the given ones coincide."""
    last = np.zeros(len(coefficients))
    last[-1] = 1.0
    return [coefficients + sign * shift * last for shift in SPLITS for sign in (1, -1)]


def _powers(
    eigenvalues: Complex[np.ndarray, " mode"], steps: int
) -> Complex[np.ndarray, "step mode"]:
    with np.errstate(over="ignore", invalid="ignore"):
        return eigenvalues[None] ** np.arange(steps)[:, None]


def _missed(
    response: Float[np.ndarray, " step"], coefficients: Float[np.ndarray, " mode"]
) -> Float[np.ndarray, " step"]:
    """What is left of a response after the best combination of momenta with these coefficients.

    The momenta are the roots of `z^r = c_1 z^(r-1) + ... + c_r`. The answers of that recurrence
    to a unit at each of the first r steps span all combinations, also where roots coincide.
    """
    from scipy.signal import lfilter  # slow to import

    unit = np.zeros(len(response))
    unit[0] = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        answer = lfilter([1.0], np.append(1.0, -coefficients), unit)
        limit = np.abs(answer).max()
    if not limit < 1e100:
        return np.full(len(response), 1e3)
    columns = [np.append(np.zeros(lag), answer[: len(answer) - lag])
               for lag in range(len(coefficients))]  # fmt: skip
    basis = np.linalg.qr(np.stack(columns, axis=1))[0]
    return response - basis @ (basis.T @ response)


def _starts(response: Float[np.ndarray, " step"], count: int) -> list[Float[np.ndarray, " mode"]]:
    """Coefficients from which fits begin."""

    def best_of(momenta: np.ndarray) -> np.ndarray:
        """The row of momenta that misses least."""
        errors = [np.linalg.norm(_missed(response, _coefficients(row))) for row in momenta]
        return momenta[int(np.argmin(errors))]

    begun = [np.zeros(0)]
    if count > 1:  # momenta that are the best together need not be so one after the other
        begun += [best_of(pairs) for pairs in (REAL_PAIRS, OSCILLATIONS)]
    starts = [_truncated(response, count)]
    for chosen in begun:
        while len(chosen) < count:
            chosen = best_of(np.stack([np.append(chosen, value) for value in GRID]))
        starts.append(_coefficients(chosen))
    return starts


def _coefficients(momenta: Inexact[np.ndarray, " mode"]) -> Float[np.ndarray, " mode"]:
    return -np.poly(momenta)[1:].real


def _truncated(response: Float[np.ndarray, " step"], count: int) -> Float[np.ndarray, " mode"]:
    """Coefficients of the balanced truncation (Kung): shifts of the leading Hankel vectors."""
    half = (len(response) + 1) // 2
    index = np.arange(half)
    hankel = np.append(response, 0.0)[index[:, None] + index[None]]
    leading = np.linalg.svd(hankel)[0][:, :count]
    shifted = np.linalg.lstsq(leading[:-1], leading[1:], rcond=None)[0]
    return -np.poly(shifted)[1:].real
