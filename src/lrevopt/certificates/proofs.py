"""Fixed points with a proof: where exactly one lies, whether it attracts, and from how far.

The theorem is that of Newton and Kantorovich, with bounds for the derivative in place of
Lipschitz constants. Let `h0` be a point from `find_fixed_points`, `A ~ (I - DF(h0))^-1` and

    T(h) = h - A (h - F(h))

whose fixed points are those of F if A is regular. On the ball B of radius r around h0, T contracts
by

    kappa(r) = sup over M in DF(B) of ||I - A (I - M)||

and if `||A (F(h0) - h0)|| + kappa(r) r <= r`, then T maps B into itself: exactly one fixed point
lies in B, and T converges to it from everywhere in B. (This implies that A is regular.) The
smallest such r says where the point is, the largest where no other is. Newton's own iteration,
which uses the derivative at the current h, shrinks the distance to the point by
`2 kappa / (1 - kappa)`, and so converges from balls with kappa below 1/3.

Bounds come from the program of F (see `programs`), whichever optimizer it is, and include rounding
errors. Where F may jump, or where an operation is not known, nothing is certified and the record
says why.

Coordinates that F never reads, such as the step direction of Adam, follow from the others and are
left out. Distances are between the coordinates that F does read.

What is certified is the fixed point of the exact function, in real numbers, that the stored
weights define in double precision.
"""

import dataclasses
import functools
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
"""Relative accuracy of the largest radius that can be proved."""

WIDEST = 1e3
"""Finite radii are searched up to this multiple of max(1, ||h||)."""

SMALLEST = 1e-300
"""Radius of the smallest ball that is tried, well above the least double-precision number."""

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
    """The record of a point of which nothing could be proved, and why."""
    unknown = np.full_like(state, np.inf)
    return Proof(state, -unknown, unknown, obstacle=obstacle)


@dataclasses.dataclass(frozen=True)
class _NewtonMap:
    """The map T of the module's docstring, at `state` with A = `inverse`."""

    program: ClosedJaxpr
    read: np.ndarray
    state: np.ndarray
    inverse: np.ndarray

    def derivative(self, radius: float, frame: np.ndarray | None = None) -> Interval:
        """DF, read rows, over a ball of the frame, times the frame (by default the identity)."""
        frame = np.eye(len(self.inverse)) if frame is None else frame
        rows = enclose(self.program, self.state, self.read, frame, radius)[1]
        return rows[self.read]

    def contraction(self, radius: float) -> float:
        """The bound kappa of the module's docstring."""
        identity = exactly(np.eye(len(self.inverse)))
        bound = identity - product(exactly(self.inverse), identity - self.derivative(radius))
        return norm_of_magnitudes(bound.magnitude())

    @functools.cached_property
    def rough(self) -> float:
        """kappa(0): what rounding errors alone leave."""
        return self.contraction(0.0)

    def first_step(self) -> float:
        """A bound of `||A (F(h0) - h0)||`; 0 where F(h0) is h0 to the last bit."""
        own = self.state[self.read]
        frame = np.eye(len(self.inverse))
        image = enclose(self.program, self.state, self.read, frame, 0.0)[0][self.read]
        if np.all((image.low == own) & (image.high == own)):
            return 0.0
        return length(product(exactly(self.inverse), image - exactly(own)).magnitude())


def prove(
    opt: AbstractOptimizer, program: ClosedJaxpr, read: np.ndarray, state: np.ndarray, gradient: Any
) -> Proof:
    """Existence, uniqueness, stability and attraction of the fixed point near `state`.

    `program` is F as a program, `read` the coordinates that it reads, see `read_coordinates`.
    """
    jacobian = value_and_jacobian(opt, state, gradient)[1][np.ix_(read, read)]
    if not np.isfinite(jacobian).all():
        return nothing_proved(state, NOT_SMOOTH)
    try:
        inverse = np.linalg.inv(np.eye(len(jacobian)) - jacobian)
    except np.linalg.LinAlgError:
        return nothing_proved(state, NOT_REGULAR)
    if not np.isfinite(inverse).all():
        return nothing_proved(state, NOT_REGULAR)
    refined = _refined(opt, inverse, read, state, gradient)
    return _prove_around(_NewtonMap(program, read, refined, inverse))


def _prove_around(newton: _NewtonMap) -> Proof:
    """The theorem of the module's docstring, at the state of `newton`."""
    state, first = newton.state, newton.first_step()
    if not newton.rough < 1:
        return nothing_proved(state, NOT_REGULAR)

    def bound(radius: float) -> float:
        """Below 1 where T maps the ball into itself and contracts."""
        return upwards(first / radius + newton.contraction(radius))

    radius = max(2 * first / (1 - newton.rough), SMALLEST)
    if not bound(radius) < 1:
        return nothing_proved(state, NOT_CONTRACTING)
    # With no first step at all, the state is the fixed point.
    existence = upwards(first / (1 - newton.contraction(radius))) if first > 0 else 0.0
    lower, upper = _bounds(newton.program, state, newton.read, existence)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return nothing_proved(state, NOT_FINITE)
    widest = WIDEST * max(1.0, float(np.linalg.norm(state)))
    stability, attraction = _stability(newton.derivative, existence, widest)
    return Proof(
        state=state,
        lower=lower,
        upper=upper,
        existence=existence,
        newton=_newton_radius(newton, radius, widest, existence),
        # Where F itself contracts there is no other point either.
        uniqueness=max(attraction, _largest(bound, radius, widest, newton.rough)),
        stability=stability,
        attraction=attraction,
    )


def _newton_radius(newton: _NewtonMap, radius: float, widest: float, existence: float) -> float:
    """Within which distance of the fixed point Newton's iteration converges: kappa < 1/3."""

    def bound(radius: float) -> float:
        return upwards(3 * newton.contraction(radius))

    if not 3 * newton.contraction(radius) < 1:
        return 0.0
    reach = _largest(bound, radius, widest, 3 * newton.rough)
    return max(0.0, (reach - 2 * existence) * (1 - 8 * EPS))


def _refined(
    opt: AbstractOptimizer,
    inverse: np.ndarray,
    read: np.ndarray,
    state: np.ndarray,
    gradient: Any,
) -> np.ndarray:
    """The state, moved nearer to its fixed point where that is possible.

    The solver stops at a residual of 1e-13; one or two steps of T reduce it to round-off. Many
    optimizers have their fixed point at 0 exactly, and some (Adam, by its square root) have no
    derivative close to it: coordinates within round-off of 0 are set to 0, unless the residual
    then grows.
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
    small = np.abs(state) <= 1e-13 * max(1.0, float(np.linalg.norm(state[read])))
    cleared = np.where(small & read, 0.0, state)
    state = cleared if distance(cleared) <= distance(state) else state
    for _ in range(int((~read).sum())):  # one may depend on another
        state = np.where(read, state, image(state) + 0.0)  # 0, not -0
    return state


def _largest(
    bound: Callable[[float], float], proved: float, widest: float, at_zero: float
) -> float:
    """The largest radius up to `widest` at which `bound` is found below 1, as it is at `proved`.

    Most bounds grow linearly from `at_zero`, their value at radius 0: the next radius is the one
    where such a bound reaches 1. Where that does not halve the (logarithmic) bracket, bisection.
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
            guess = middle * (1 - at_zero) / max(found - at_zero, TINY) * (1 + nudge)
    return low


def _bounds(
    program: ClosedJaxpr, state: np.ndarray, read: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the fixed point in all coordinates, given its distance `radius` in those read.

    Coordinates that F does not read follow by applying F, as many times as there are any, since
    one may depend on another.
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
    if not len(jacobian.low):
        return "stable", np.inf
    if spectral_radius_of(jacobian.middle()) < 1:
        attraction = _attraction(derivative, jacobian.middle(), existence, widest)
        return ("undecided", 0.0) if attraction is None else ("stable", attraction)
    return ("unstable" if _repels(jacobian) else "undecided"), 0.0


def _attraction(
    derivative: Callable[..., Interval], middle: np.ndarray, existence: float, widest: float
) -> float | None:
    """Within which distance F contracts towards a point, where DF is about `middle`.

    `None` if it cannot be proved to contract at all.
    """
    # For J / c with spectral radius < c < 1, so that F contracts by c with something to spare.
    P = _lyapunov(middle / ((1 + spectral_radius_of(middle)) / 2))
    try:
        R = np.linalg.cholesky(P).T
        inverse = np.linalg.inv(R)
    except np.linalg.LinAlgError:
        return None
    # R^-1 = S (R S)^-1, and ||(R S)^-1|| is at most 1 / (1 - ||R S - I||).
    defect = product(exactly(R), exactly(inverse)) - exactly(np.eye(len(R)))
    off = norm_of_magnitudes(defect.magnitude())
    if not off < 0.5:
        return None

    def bound(radius: float) -> float:
        moved = product(exactly(R), derivative(radius, inverse))
        return norm(moved) / (1 - 2 * off)

    stretch = norm(exactly(R))
    least = 2 * upwards(stretch * existence)
    at_least = bound(least)
    if not at_least < 1:
        return None
    # These balls are around h0, but F contracts towards the point, which may be `least` away.
    reach = _largest(bound, max(least, SMALLEST), stretch * widest, at_least)
    room = (reach * (1 - 2 * off) - 2 * least) / stretch
    return max(0.0, room * (1 - 8 * EPS))


def _repels(jacobian: Interval) -> bool:
    """Whether every matrix of `jacobian` is proved to have an eigenvalue outside the circle."""
    P = _lyapunov(jacobian.middle())
    if not np.isfinite(P).all():
        return False
    transposed = Interval(jacobian.low.T, jacobian.high.T)
    decrease = exactly(P) - product(product(transposed, exactly(P)), jacobian)
    # Close to the identity, and so positive definite.
    definite = norm_of_magnitudes((decrease - exactly(np.eye(len(P)))).magnitude()) < 1
    x = np.linalg.eigh(P)[1][:, :1]
    negative = product(product(exactly(x.T), exactly(P)), exactly(x)).high.item() < 0
    return bool(definite and negative)


def _lyapunov(J: np.ndarray) -> np.ndarray:
    """The symmetric P with `P - J' P J = I`, up to rounding errors; NaN if there is none."""
    from scipy import linalg  # slow to import

    try:
        with warnings.catch_warnings():  # of a bad condition: what P is used for is proved
            warnings.simplefilter("ignore")
            P = linalg.solve_discrete_lyapunov(J.T, np.eye(len(J)))
    except (np.linalg.LinAlgError, ValueError):
        return np.full_like(J, np.nan)
    return (P + P.T) / 2


def read_coordinates(program: ClosedJaxpr, size: int) -> np.ndarray:
    """Which coordinates F reads, directly or through others, as a mask.

    Coordinates whose columns of DF vanish on the whole space are left out, then those that only
    such coordinates depend on, and so on.
    """
    read = np.ones(size, bool)
    while read.any():
        slopes = enclose(program, np.zeros(size), read, np.eye(int(read.sum())), np.inf)[1][read]
        used = ((slopes.low != 0) | (slopes.high != 0)).any(axis=0)
        if used.all():
            break
        read[np.flatnonzero(read)[~used]] = False
    return read
