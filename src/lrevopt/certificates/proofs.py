"""Fixed points with a proof: where exactly one lies, whether it attracts, and from how far.

The theorem is that of Newton and Kantorovich, with bounds for the derivative in place of
Lipschitz constants. Let `h0` be a point from `find_fixed_points`, `A ~ (I - DF(h0))^-1` and

    T(h) = h - A (h - F(h))

whose fixed points are those of F if A is regular. On the ball B of radius r around h0, T contracts
by

    kappa(r) = sup over M in DF(B) of ||I - A (I - M)||

and if `||A (F(h0) - h0)|| + kappa(r) r <= r`, then T maps B into itself: exactly one fixed point
lies in B, and T converges to it from everywhere in B. (A is then regular by itself.) The smallest
such r says where the point is, the largest where no other is. Newton's own iteration, whose matrix
is that of the current h, shrinks the distance to the point by `2 kappa / (1 - kappa)`, and so
converges from balls with kappa below 1/3.

Nothing here asks which optimizer it was given: bounds are those of `.programs`, with
rounding errors inside. Where F may jump, or where an operation is not known, nothing is certified
and the record says why.

Coordinates that F never reads, such as the step direction of Adam, are left out of all this: they
follow from the others. Distances are between the coordinates that F does read.

Certified is the fixed point of the function in real numbers that the stored weights define, in
double precision.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from lrevopt.certificates.intervals import (
    EPS,
    TINY,
    Interval,
    exactly,
    length,
    norm,
    norm_of_magnitudes,
    product,
    upwards,
)
from lrevopt.certificates.programs import enclose, image_of_box
from lrevopt.optimizers.interface import AbstractOptimizer

RESOLUTION = 0.01
"""How far a radius may be below the largest that could be proved, as a share of it."""

WIDEST = 1e3
"""Finite radii are searched up to this multiple of max(1, ||h||)."""

SMALLEST = 1e-300
"""Radius of the smallest ball that is tried, far from the least of double precision."""

NOT_REGULAR = (
    "I - DF is singular or nearly so: another fixed point as close as rounding errors, or a line "
    "of them, cannot be excluded"
)
NOT_CONTRACTING = "the bounds of the derivative are too wide even in the smallest ball around it"
NOT_SMOOTH = "F has no finite derivative there"
NOT_FINITE = "a coordinate that F does not read has no finite value there"


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was proved of one point."""

    state: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    existence: float = np.inf
    uniqueness: float = 0.0
    newton: float = 0.0
    stability: str = "undecided"
    attraction: float = 0.0
    obstacle: str = ""


def value_and_jacobian(
    opt: AbstractOptimizer, state: np.ndarray, gradient: Any
) -> tuple[np.ndarray, np.ndarray]:
    """F and DF at one state."""
    image, jacobian = _expand(opt, state, gradient)
    return np.asarray(image), np.asarray(jacobian)


def spectral_radius_of(matrix: np.ndarray) -> float:
    """Largest |eigenvalue|; NaN if an entry is not finite."""
    if not np.isfinite(matrix).all():
        return np.nan
    return float(np.abs(np.linalg.eigvals(matrix)).max())


@eqx.filter_jit
def _expand(opt, state, gradient):
    return opt.transition(state, gradient), jax.jacfwd(opt.transition)(state, gradient)


def nothing_proved(state: np.ndarray, obstacle: str) -> Proof:
    unknown = np.full_like(state, np.inf)
    return Proof(state, -unknown, unknown, obstacle=obstacle)


def prove(
    opt: AbstractOptimizer, program: ClosedJaxpr, read: np.ndarray, state: np.ndarray, gradient: Any
) -> Proof:
    """Existence, uniqueness, stability and attraction of the fixed point near `state`."""
    size = int(read.sum())
    identity = np.eye(size)
    jacobian = value_and_jacobian(opt, state, gradient)[1][np.ix_(read, read)]
    if not np.isfinite(jacobian).all():
        return nothing_proved(state, NOT_SMOOTH)
    try:
        inverse = np.linalg.inv(identity - jacobian)
    except np.linalg.LinAlgError:
        return nothing_proved(state, NOT_REGULAR)
    if not np.isfinite(inverse).all():
        return nothing_proved(state, NOT_REGULAR)
    state = _refined(opt, inverse, read, state, gradient)

    def derivative(radius: float, frame: np.ndarray = identity) -> Interval:
        """DF, read rows, over the ball of the frame, times the frame."""
        rows = enclose(program, state, read, frame, radius)[1]
        return rows[read]

    def contraction(radius: float) -> float:
        """The bound kappa of the module's docstring."""
        bound = exactly(identity) - product(
            exactly(inverse), exactly(identity) - derivative(radius)
        )
        return norm_of_magnitudes(bound.magnitude())

    at_state = enclose(program, state, read, identity, 0.0)[0][read]
    step = product(exactly(inverse), at_state - exactly(state[read]))
    # Where F(h0) is h0 to the last bit, as at the rest of momentum, h0 is the fixed point.
    exact = bool(np.all((at_state.low == state[read]) & (at_state.high == state[read])))
    first = 0.0 if exact else length(step.magnitude())
    rough = contraction(0.0)
    if not rough < 1:
        return nothing_proved(state, NOT_REGULAR)

    def bound(radius: float) -> float:
        """Below 1 where T maps the ball into itself and contracts."""
        return upwards(first / radius + contraction(radius))

    radius = max(2 * first / (1 - rough), SMALLEST)
    if not bound(radius) < 1:
        return nothing_proved(state, NOT_CONTRACTING)
    existence = 0.0 if exact else upwards(first / (1 - contraction(radius)))
    lower, upper = _bounds(program, state, read, existence)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return nothing_proved(state, NOT_FINITE)
    widest = WIDEST * max(1.0, float(np.linalg.norm(state)))
    stability, attraction = _stability(derivative, existence, widest)
    newton = 0.0
    if 3 * contraction(radius) < 1:
        reach = _largest(lambda r: upwards(3 * contraction(r)), radius, widest, 3 * rough)
        newton = max(0.0, (reach - 2 * existence) * (1 - 8 * EPS))
    return Proof(
        state=state,
        lower=lower,
        upper=upper,
        existence=existence,
        newton=newton,
        # Where F itself contracts there is no other point either.
        uniqueness=max(attraction, _largest(bound, radius, widest, rough)),
        stability=stability,
        attraction=attraction,
    )


def _refined(
    opt: AbstractOptimizer,
    inverse: np.ndarray,
    read: np.ndarray,
    state: np.ndarray,
    gradient: Any,
) -> np.ndarray:
    """The state after what brings it nearer to its fixed point.

    The solver stops at a residual of 1e-13, and a step or two of T ends at round-off. Many
    optimizers rest at 0 exactly, and some (Adam's root) are smooth nowhere around it: round-off
    beside 0 is set to 0, unless F then moves the state further.
    """

    def image(state: np.ndarray) -> np.ndarray:
        return value_and_jacobian(opt, state, gradient)[0]

    def distance(state: np.ndarray) -> float:
        return float(np.linalg.norm((image(state) - state)[read]))

    for _ in range(2):
        nearer = state.copy()
        nearer[read] += inverse @ (image(state) - state)[read]
        if distance(nearer) < distance(state):
            state = nearer
    for _ in range(int((~read).sum())):  # one may depend on another
        state = np.where(read, state, image(state))
    small = np.abs(state) <= 1e-13 * max(1.0, float(np.linalg.norm(state)))
    cleared = np.where(small, 0.0, state)
    return cleared if distance(cleared) <= distance(state) else state


def _largest(bound: Callable[[float], float], proved: float, widest: float, rest: float) -> float:
    """The largest radius at which `bound` was seen to be below 1, as it is at `proved`.

    Bounds mostly grow linearly from `rest`, which is how the next radius is chosen, or else, and
    where that does not halve the (logarithmic) bracket, as in a bisection.
    """
    if bound(np.inf) < 1:
        return np.inf
    low, high = proved, widest
    guess = 1e-6 * widest
    while high > (1 + RESOLUTION) * low:
        before = high / low
        middle = guess if low < guess < high else float(np.sqrt(low) * np.sqrt(high))
        found = bound(middle)
        low, high = (middle, high) if found < 1 else (low, middle)
        guess = 0.0
        if high / low < np.sqrt(before) or np.isinf(before):
            nudge = RESOLUTION / 3 if found < 1 else -RESOLUTION / 3
            guess = middle * (1 - rest) / max(found - rest, TINY) * (1 + nudge)
    return low


def _bounds(
    program: ClosedJaxpr, state: np.ndarray, read: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the fixed point, also of coordinates that F does not read, by applying F to them.

    One may depend on another, which F of the first does not read: hence as often as there are any.
    """
    box = exactly(state) + Interval(-radius, radius)
    low, high = np.where(read, box.low, -np.inf), np.where(read, box.high, np.inf)
    for _ in range(int((~read).sum())):
        image = image_of_box(program, low, high)
        low = np.where(read, low, np.maximum(low, image.low))
        high = np.where(read, high, np.minimum(high, image.high))
        if np.isfinite(low).all() and np.isfinite(high).all():
            break
    return low, high


def _stability(
    derivative: Callable[..., Interval], existence: float, widest: float
) -> tuple[str, float]:
    """Whether the point attracts, by Lyapunov functions, and within which distance.

    If `P - M' P M` is positive definite, M has no eigenvalue on the unit circle, and as many
    outside it as P has negative ones (Stein). For a stable point P = R' R, and F contracts in
    the norm `||R h||` by the norm of R M R^-1. Both are proved for all M in DF of a ball.
    """
    jacobian = derivative(existence)
    middle, size = jacobian.middle(), len(jacobian.low)
    if not size:
        return "stable", np.inf
    spectral_radius = spectral_radius_of(middle)
    if spectral_radius < 1:
        # For J / c with spectral_radius < c < 1, so that F contracts by c with the rest to spare.
        P = _lyapunov(middle / ((1 + spectral_radius) / 2))
        try:
            R = np.linalg.cholesky(P).T
            inverse = np.linalg.inv(R)
        except np.linalg.LinAlgError:
            return "undecided", 0.0
        # R^-1 = S (R S)^-1, and ||(R S)^-1|| is at most 1 / (1 - ||R S - I||).
        defect = product(exactly(R), exactly(inverse)) - exactly(np.eye(size))
        off = norm_of_magnitudes(defect.magnitude())
        if not off < 0.5:
            return "undecided", 0.0

        def bound(radius: float) -> float:
            moved = product(exactly(R), derivative(radius, inverse))
            return norm(moved) / (1 - 2 * off)

        stretch = norm(exactly(R))
        least = 2 * upwards(stretch * existence)
        rest = bound(least)
        if not rest < 1:
            return "undecided", 0.0
        # These balls are around h0, but F contracts towards the point, which may be `least` away.
        reach = _largest(bound, max(least, SMALLEST), stretch * widest, rest)
        room = (reach * (1 - 2 * off) - 2 * least) / stretch
        return "stable", max(0.0, room * (1 - 8 * EPS))
    P = _lyapunov(middle)
    if not np.isfinite(P).all():
        return "undecided", 0.0
    transposed = Interval(jacobian.low.T, jacobian.high.T)
    decrease = exactly(P) - product(product(transposed, exactly(P)), jacobian)
    # Close to the identity, and so positive definite.
    definite = norm_of_magnitudes((decrease - exactly(np.eye(size))).magnitude()) < 1
    x = np.linalg.eigh(P)[1][:, :1]
    negative = product(product(exactly(x.T), exactly(P)), exactly(x)).high.item() < 0
    return ("unstable" if definite and negative else "undecided"), 0.0


def _lyapunov(J: np.ndarray) -> np.ndarray:
    """The symmetric P with `P - J' P J = I`, as well as it can be computed; NaN if it cannot."""
    from scipy import linalg  # slow to import

    try:
        with warnings.catch_warnings():  # the result is proved to do, or not used
            warnings.simplefilter("ignore")
            P = linalg.solve_discrete_lyapunov(J.T, np.eye(len(J)))
    except (np.linalg.LinAlgError, ValueError):
        return np.full_like(J, np.nan)
    return (P + P.T) / 2


def read_coordinates(program: ClosedJaxpr, size: int) -> np.ndarray:
    """Coordinates that F reads, for ever: those whose columns of DF vanish on the whole space are
    left out, then those that only such coordinates read, and so on.
    """
    read = np.ones(size, bool)
    while read.any():
        slopes = enclose(program, np.zeros(size), read, np.eye(int(read.sum())), np.inf)[1][read]
        used = ((slopes.low != 0) | (slopes.high != 0)).any(axis=0)
        if used.all():
            break
        read[np.flatnonzero(read)[~used]] = False
    return read
