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

Nothing here asks which optimizer it was given. What F computes is traced once, as a program of
JAX's primitives, and run again on *enclosures*: intervals that hold every value and every
derivative that occur while h goes through B. Each operation rounds outwards, so that rounding
errors are inside. Over a Euclidean ball a value x(h) is also held to `x(h0) +- r sup ||grad x||`,
which is much tighter than intervals alone where many coordinates are summed. Where F has kinks
(`max`, `clip`, `abs`), derivatives are hulls of those on both sides; where it may jump, or where
an operation is not known, nothing is certified and the record says why.

Coordinates that F never reads, such as the step direction of Adam, are left out of all this: they
follow from the others. Distances are between the coordinates that F does read.

Certified is the fixed point of the function in real numbers that the stored weights define, in
double precision. Of elementary functions (exp, log, tanh, ...) it is taken for granted that they
are accurate to `ULPS` units in the last place.
"""

import dataclasses
import functools
import string
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import ArrayLike, Bool, Float

from lrevopt.analysis.fixed_points import SAME_POINT, FixedPoints
from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.analysis.projections import spread
from lrevopt.checks import positive_integer
from lrevopt.optimizers.interface import AbstractOptimizer, state_size

VISITED = 500
"""Visited states whose basin is looked for, at most."""

RESOLUTION = 0.01
"""How far a radius may be below the largest that could be proved, as a share of it."""

WIDEST = 1e3
"""Finite radii are searched up to this multiple of max(1, ||h||)."""

SMALLEST = 1e-300
"""Radius of the smallest ball that is tried, far from the least of double precision."""

CHUNK = 50
"""Steps between two looks at which states have settled."""

ULPS = 4
"""Units in the last place by which values of elementary functions are widened."""

EPS = float(np.finfo(float).eps)
TINY = float(np.finfo(float).tiny)

NOT_REGULAR = (
    "I - DF is singular or nearly so: another fixed point as close as rounding errors, or a line "
    "of them, cannot be excluded"
)
NOT_CONTRACTING = "the bounds of the derivative are too wide even in the smallest ball around it"
NOT_SMOOTH = "F has no finite derivative there"
NOT_FINITE = "a coordinate that F does not read has no finite value there"


class Certificates(eqx.Module):
    """What could be proved of each distinct fixed point. Host arrays in float64.

    All distances are Euclidean, over the coordinates marked in `read`; the others are determined
    by them.

    - `states`: the points, refined; `residuals`: `||F(h) - h||` there, in float64.
    - `existence_radius`, `uniqueness_radius`: exactly one fixed point lies within either distance
      of the state; it is within the first, and the second is the largest that could be proved.
      Infinite and 0 where nothing could be, and `obstacles` then says why ("" elsewhere).
    - `newton_radius`: from every state within this distance, Newton's iteration is proved to
      converge to the point; 0 where nothing could be proved.
    - `lower`, `upper`: bounds of the true fixed point, coordinate by coordinate.
    - `spectral_radius` of DF at the state, computed (NaN without a derivative); `stability`:
      "stable" or "unstable" if that is proved for the true fixed point, else "undecided".
    - `attraction_radius`: from every state within this distance, iterating F is proved to converge
      to the point; 0 where nothing could be proved.
    - `basin_share`: share of `visited` states from which F, iterated, was seen to end at the
      point; `unsettled`: share that ended at none of them.
    - `gradient`: the gradient held.
    """

    states: Float[np.ndarray, "distinct state"]
    residuals: Float[np.ndarray, " distinct"]
    existence_radius: Float[np.ndarray, " distinct"]
    uniqueness_radius: Float[np.ndarray, " distinct"]
    newton_radius: Float[np.ndarray, " distinct"]
    lower: Float[np.ndarray, "distinct state"]
    upper: Float[np.ndarray, "distinct state"]
    spectral_radius: Float[np.ndarray, " distinct"]
    stability: tuple[str, ...]
    attraction_radius: Float[np.ndarray, " distinct"]
    basin_share: Float[np.ndarray, " distinct"]
    unsettled: float
    visited: int
    obstacles: tuple[str, ...]
    read: Bool[np.ndarray, " state"]
    gradient: float

    @property
    def certified(self) -> Bool[np.ndarray, " distinct"]:
        """Which points were proved to exist."""
        return self.uniqueness_radius > 0


def certificate_lines(record: Certificates) -> list[str]:
    """The record in words, one line per fixed point."""
    lines = []
    for index, obstacle in enumerate(record.obstacles):
        line = f"fixed point {index + 1}: residual {record.residuals[index]:.1e}, "
        if obstacle:
            line += f"not certified ({obstacle})"
        else:
            line += (
                f"exists within {record.existence_radius[index]:.1e}, unique within "
                f"{record.uniqueness_radius[index]:.2e}, {record.stability[index]}, attracts from "
                f"within {record.attraction_radius[index]:.1e}"
            )
        lines.append(
            f"{line}; spectral radius {record.spectral_radius[index]:.4f}; basin "
            f"{100 * record.basin_share[index]:.1f} % of {record.visited} visited states"
        )
    return [*lines, f"in no basin: {100 * record.unsettled:.1f} %"]


@dataclasses.dataclass(frozen=True)
class _Proof:
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


def certify(
    opt: AbstractOptimizer,
    points: FixedPoints,
    visited: Float[AnyArray, "visited state"] | None = None,
    *,
    steps: int = 10_000,
) -> Certificates:
    """Prove what can be proved of every distinct point of a search, and look for its basin.

    `visited` are states whose basins are counted, by default those from which the search began;
    of more than `VISITED`, evenly spaced ones. Each is iterated for `steps` at most, or until it
    is as close to a point as two copies of one point may be (`SAME_POINT`).

    Raises `ValueError` for states of another optimizer, no visited states, or fewer than 1 step.
    """
    steps = positive_integer("steps", steps)
    states = double_states(opt, points.distinct, "points.distinct", axes=2)
    seen = points.start if visited is None else visited
    cloud = spread(double_states(opt, seen, "visited", axes=2), VISITED)
    if not len(cloud):
        raise ValueError("`visited` must hold at least one state, got none.")
    read = np.ones(state_size(opt), bool)
    # Bounds that are infinite, or of infinities that cancel, are nothing to warn of.
    with double_precision(), np.errstate(all="ignore"):
        opt = as_double(opt)
        gradient = jnp.asarray(points.gradient)
        try:
            program = jax.make_jaxpr(lambda h: opt.transition(h, gradient))(opt.initial_state())
            read = _read_coordinates(program, len(read))
            proofs = [_prove(opt, program, read, state, gradient) for state in states]
        except _UnknownPrimitiveError as error:
            proofs = [_nothing(state, f"no bounds for the operation {error}") for state in states]
        refined = np.array([proof.state for proof in proofs]).reshape(states.shape)
        expanded = [_expanded(opt, state, gradient) for state in refined]
        radii = np.array([_spectral_radius(J) for _, J in expanded])
        ends = np.asarray(_ends(opt, cloud, refined, radii < 1, gradient, steps))
    shares = np.array([np.mean(ends == index) for index in range(len(states))])
    return Certificates(
        states=refined,
        residuals=np.array(
            [np.linalg.norm(image - own) for (image, _), own in zip(expanded, refined, strict=True)]
        ),
        existence_radius=np.array([proof.existence for proof in proofs]),
        uniqueness_radius=np.array([proof.uniqueness for proof in proofs]),
        newton_radius=np.array([proof.newton for proof in proofs]),
        lower=np.array([proof.lower for proof in proofs]).reshape(states.shape),
        upper=np.array([proof.upper for proof in proofs]).reshape(states.shape),
        spectral_radius=radii,
        stability=tuple(proof.stability for proof in proofs),
        attraction_radius=np.array([proof.attraction for proof in proofs]),
        basin_share=shares,
        unsettled=float(np.mean(ends < 0)),
        visited=len(cloud),
        obstacles=tuple(proof.obstacle for proof in proofs),
        read=read,
        gradient=points.gradient,
    )


def _expanded(
    opt: AbstractOptimizer, state: np.ndarray, gradient: Any
) -> tuple[np.ndarray, np.ndarray]:
    """F and DF at one state."""
    image, jacobian = _expand(opt, state, gradient)
    return np.asarray(image), np.asarray(jacobian)


def _spectral_radius(matrix: np.ndarray) -> float:
    """Largest |eigenvalue|; NaN if an entry is not finite."""
    if not np.isfinite(matrix).all():
        return np.nan
    return float(np.abs(np.linalg.eigvals(matrix)).max())


@eqx.filter_jit
def _expand(opt, state, gradient):
    return opt.transition(state, gradient), jax.jacfwd(opt.transition)(state, gradient)


@eqx.filter_jit
def _ends(opt, states, points, attracting, gradient, steps):
    """Which point each state is at after `steps` of F, -1 if none.

    Ends early when all have come to an attracting point or stand still: a path that passes by a
    saddle goes on.
    """
    reach = SAME_POINT * jnp.maximum(1.0, jnp.linalg.norm(points, axis=1))
    once = jax.vmap(opt.transition, (0, None))

    def places(states):
        gaps = jnp.linalg.norm(states[:, None] - points, axis=-1)
        near = gaps <= reach
        return jnp.where(near.any(axis=1), jnp.argmin(jnp.where(near, gaps, jnp.inf), axis=1), -1)

    def go_on(carry):
        states, step = carry
        where = places(states)
        settled = (where >= 0) & attracting[where]
        moved = jnp.linalg.norm(once(states, gradient) - states, axis=1)
        still = moved <= 1e-14 * jnp.maximum(1.0, jnp.linalg.norm(states, axis=1))
        return ~jnp.all(settled | still) & (step < steps)

    def body(carry):
        states, step = carry
        count = jnp.minimum(CHUNK, steps - step)
        return lax.fori_loop(0, count, lambda _, h: once(h, gradient), states), step + count

    if not len(points):
        return jnp.full(len(states), -1)
    return places(lax.while_loop(go_on, body, (states, 0))[0])


# What can be proved of one point.


def _nothing(state: np.ndarray, obstacle: str) -> _Proof:
    unknown = np.full_like(state, np.inf)
    return _Proof(state, -unknown, unknown, obstacle=obstacle)


def _prove(
    opt: AbstractOptimizer, program: ClosedJaxpr, read: np.ndarray, state: np.ndarray, gradient: Any
) -> _Proof:
    """Existence, uniqueness, stability and attraction of the fixed point near `state`."""
    size = int(read.sum())
    identity = np.eye(size)
    jacobian = _expanded(opt, state, gradient)[1][np.ix_(read, read)]
    if not np.isfinite(jacobian).all():
        return _nothing(state, NOT_SMOOTH)
    try:
        inverse = np.linalg.inv(identity - jacobian)
    except np.linalg.LinAlgError:
        return _nothing(state, NOT_REGULAR)
    if not np.isfinite(inverse).all():
        return _nothing(state, NOT_REGULAR)
    state = _refined(opt, inverse, read, state, gradient)

    def derivative(radius: float, frame: np.ndarray = identity) -> "Interval":
        """DF, read rows, over the ball of the frame, times the frame."""
        rows = _enclose(program, state, read, frame, radius)[1]
        return rows[read]

    def contraction(radius: float) -> float:
        """The bound kappa of the module's docstring."""
        bound = exactly(identity) - product(
            exactly(inverse), exactly(identity) - derivative(radius)
        )
        return norm_of_magnitudes(bound.magnitude())

    at_state = _enclose(program, state, read, identity, 0.0)[0][read]
    step = product(exactly(inverse), at_state - exactly(state[read]))
    # Where F(h0) is h0 to the last bit, as at the rest of momentum, h0 is the fixed point.
    exact = bool(np.all((at_state.low == state[read]) & (at_state.high == state[read])))
    first = 0.0 if exact else length(step.magnitude())
    rough = contraction(0.0)
    if not rough < 1:
        return _nothing(state, NOT_REGULAR)

    def bound(radius: float) -> float:
        """Below 1 where T maps the ball into itself and contracts."""
        return upwards(first / radius + contraction(radius))

    radius = max(2 * first / (1 - rough), SMALLEST)
    if not bound(radius) < 1:
        return _nothing(state, NOT_CONTRACTING)
    existence = 0.0 if exact else upwards(first / (1 - contraction(radius)))
    lower, upper = _bounds(program, state, read, existence)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return _nothing(state, NOT_FINITE)
    widest = WIDEST * max(1.0, float(np.linalg.norm(state)))
    stability, attraction = _stability(derivative, existence, widest)
    newton = 0.0
    if 3 * contraction(radius) < 1:
        reach = _largest(lambda r: upwards(3 * contraction(r)), radius, widest, 3 * rough)
        newton = max(0.0, (reach - 2 * existence) * (1 - 8 * EPS))
    return _Proof(
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
        return _expanded(opt, state, gradient)[0]

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
        image = _image(program, low, high)
        low = np.where(read, low, np.maximum(low, image.low))
        high = np.where(read, high, np.minimum(high, image.high))
        if np.isfinite(low).all() and np.isfinite(high).all():
            break
    return low, high


def _stability(
    derivative: Callable[..., "Interval"], existence: float, widest: float
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
    spectral_radius = _spectral_radius(middle)
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


def _read_coordinates(program: ClosedJaxpr, size: int) -> np.ndarray:
    """Coordinates that F reads, for ever: those whose columns of DF vanish on the whole space are
    left out, then those that only such coordinates read, and so on.
    """
    read = np.ones(size, bool)
    while read.any():
        slopes = _enclose(program, np.zeros(size), read, np.eye(int(read.sum())), np.inf)[1][read]
        used = ((slopes.low != 0) | (slopes.high != 0)).any(axis=0)
        if used.all():
            break
        read[np.flatnonzero(read)[~used]] = False
    return read


# Intervals.


class Interval:
    """Arrays between two bounds. Every operation rounds outwards; what is not a number is any."""

    def __init__(self, low: ArrayLike, high: ArrayLike):
        self.low, self.high = np.asarray(low, float), np.asarray(high, float)

    def __add__(self, other: "Interval") -> "Interval":
        # Nothing is rounded where nothing is added.
        total = outwards(self.low + other.low, self.high + other.high)
        return choose(self.is_zero(), other, choose(other.is_zero(), self, total))

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low)

    def __sub__(self, other: "Interval") -> "Interval":
        return self + (-other)

    def __mul__(self, other: "Interval") -> "Interval":
        # 0 times infinity is 0: bounds may be infinite, numbers between them are not.
        corners = [
            np.where(np.isnan(corner), 0.0, corner)
            for corner in (
                self.low * other.low,
                self.low * other.high,
                self.high * other.low,
                self.high * other.high,
            )
        ]
        bounds = outwards(np.minimum.reduce(corners), np.maximum.reduce(corners))
        return choose(self.is_zero() | other.is_zero(), exactly(0.0), bounds)

    def __getitem__(self, index: Any) -> "Interval":
        return Interval(self.low[index], self.high[index])

    def is_zero(self) -> np.ndarray:
        """Where both bounds are 0."""
        return np.asarray((self.low == 0) & (self.high == 0))

    def is_point(self) -> np.ndarray:
        """Where both bounds are equal."""
        return np.asarray(self.low == self.high)

    def magnitude(self) -> np.ndarray:
        """Largest absolute value."""
        return np.asarray(np.maximum(np.abs(self.low), np.abs(self.high)))

    def middle(self) -> np.ndarray:
        """A number about halfway; 0 where a bound is infinite on both sides."""
        middle = self.low / 2 + self.high / 2
        return np.where(np.isnan(middle), 0.0, middle)

    def reciprocal(self) -> "Interval":
        """1 / x; anything where x may be 0."""
        through = (self.low <= 0) & (self.high >= 0)
        low, high = np.where(through, 1.0, self.low), np.where(through, 1.0, self.high)
        return choose(through, ANYTHING, outwards(1 / high, 1 / low))

    def square(self) -> "Interval":
        """x^2."""
        through = (self.low <= 0) & (self.high >= 0)
        squares = self.low**2, self.high**2
        found = outwards(np.where(through, 0.0, np.minimum(*squares)), np.maximum(*squares))
        return choose(self.is_zero(), self, Interval(np.maximum(found.low, 0.0), found.high))


def exactly(value: Any) -> Interval:
    """A number or an array as an interval of no width."""
    return Interval(value, value)


ANYTHING = Interval(-np.inf, np.inf)
NOTHING = Interval(np.inf, -np.inf)


def outwards(low: ArrayLike, high: ArrayLike, ulps: int = 1) -> Interval:
    """Computed bounds, widened by their rounding error."""
    low, high = np.asarray(low), np.asarray(high)
    low = np.where(np.isnan(low), -np.inf, low)
    high = np.where(np.isnan(high), np.inf, high)
    for _ in range(ulps):
        low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
    return Interval(low, high)


def upwards(value: float) -> float:
    """A computed number of a few operations, rounded up."""
    return float(value) * (1 + 16 * EPS) + TINY


def choose(which: ArrayLike, yes: Interval, no: Interval) -> Interval:
    """`yes` where `which`, elsewhere `no`."""
    return Interval(np.where(which, yes.low, no.low), np.where(which, yes.high, no.high))


def hull(first: Interval, second: Interval) -> Interval:
    """The least interval around both."""
    return Interval(np.minimum(first.low, second.low), np.maximum(first.high, second.high))


def product(
    first: Interval,
    second: Interval,
    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.matmul,
    terms: int | None = None,
) -> Interval:
    """A matrix product, by middles and radii; `terms` are summed for each entry.

    The error of a computed product of n terms is at most `n eps` times that of magnitudes, in
    whatever order they are summed.
    """
    terms = first.low.shape[-1] if terms is None else terms
    first_middle, second_middle = first.middle(), second.middle()
    first_radius = _radius(first, first_middle)
    second_radius = _radius(second, second_middle)
    sizes = np.abs(first_middle), np.abs(second_middle)
    rounding = (terms + 4) * EPS
    middle = multiply(first_middle, second_middle)
    radius = (
        multiply(sizes[0] + first_radius, second_radius)
        + multiply(first_radius, sizes[1])
        + rounding * multiply(*sizes)
    )
    radius = radius * (1 + 2 * rounding) + (terms + 1) * TINY
    return outwards(middle - radius, middle + radius)


def _radius(interval: Interval, middle: np.ndarray) -> np.ndarray:
    reach = np.maximum(interval.high - middle, middle - interval.low)
    return np.where(interval.is_point(), 0.0, np.nextafter(reach, np.inf))


def length(magnitudes: np.ndarray) -> float:
    """Upper bound of a Euclidean norm, given magnitudes that are at least the entries'."""
    return upwards(float(np.linalg.norm(magnitudes)) * (1 + magnitudes.size * EPS))


def norm_of_magnitudes(magnitudes: np.ndarray) -> float:
    """Upper bound of the spectral norm of all matrices with entries no larger than these.

    The largest eigenvalue of N'N, N >= 0, is at most max (N'N u) / u for any u > 0 (Collatz).
    """
    if not np.isfinite(magnitudes).all():
        return np.inf
    frobenius = length(magnitudes)
    if frobenius <= TINY:
        return frobenius
    scaled = magnitudes / frobenius
    vector = np.ones(scaled.shape[1])
    for _ in range(30):
        vector = scaled.T @ (scaled @ vector)
        # Positive, also where a column is all zeros.
        vector = vector / vector.max() + 1e-3
    ratio = float(np.max(scaled.T @ (scaled @ vector) / vector))
    collatz = frobenius * np.sqrt(ratio) * (1 + (sum(scaled.shape) + 16) * EPS)
    return min(frobenius, upwards(collatz))


def norm(matrix: Interval) -> float:
    """Upper bound of the spectral norm, by a singular value decomposition and its defects."""
    middle = matrix.middle()
    rest = norm_of_magnitudes((matrix - exactly(middle)).magnitude())
    if not np.isfinite(middle).all() or not np.isfinite(rest):
        return np.inf
    left, values, right = np.linalg.svd(middle, full_matrices=False)
    rebuilt = product(exactly(left * values), exactly(right))
    # The columns `left * values` are rounded as well.
    residual = length((rebuilt - exactly(middle)).magnitude()) + EPS * length(values)
    stretched = 1.0
    for factor in (left, right.T):
        gram = product(exactly(factor.T), exactly(factor)) - exactly(np.eye(factor.shape[1]))
        stretched *= 1 + length(gram.magnitude())
    return upwards(values[0] * stretched + residual + rest)


# A program on enclosures.


class _UnknownPrimitiveError(Exception):
    """An operation for which there is no rule; its name is the message."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Enclosure:
    """An array of a program while the state goes through a ball.

    `value` holds what it may be, `slopes` its derivatives along each direction of the ball (the
    first axis; None if it does not depend on the state), `center` its value at the centre.
    """

    value: Interval
    slopes: Interval | None
    center: Interval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.low.shape


Rule = Callable[[Any, Sequence[_Enclosure], int], _Enclosure]
"""From an equation, enclosures of its operands and the number of directions to the enclosure of
its result. Rules fill in `value` and `slopes`; for `center` they are called
once more with operands that have the centre for a value and no slopes."""

RULES: dict[str, Rule] = {}


def _enclose(
    program: ClosedJaxpr, center: np.ndarray, read: np.ndarray, frame: np.ndarray, radius: float
) -> tuple[Interval, Interval]:
    """F and its derivative times `frame`, over all h = center + frame y with ||y|| <= radius.

    `frame` has a row for each coordinate in `read`. The others may be anything.
    """
    size, directions = len(center), frame.shape[1]
    free = choose(read, exactly(center), ANYTHING)
    slopes = np.zeros((directions, size))
    slopes[:, read] = frame.T
    start = _Enclosure(free, exactly(slopes), free)
    start = dataclasses.replace(start, value=_within_reach(start, radius, ANYTHING))
    (result,) = _run(program, [start], directions, radius)
    slopes_of = exactly(np.zeros((directions, size))) if result.slopes is None else result.slopes
    return result.value, Interval(slopes_of.low.T, slopes_of.high.T)


def _image(program: ClosedJaxpr, low: np.ndarray, high: np.ndarray) -> Interval:
    """Values of F over a box."""
    box = Interval(low, high)
    (result,) = _run(program, [_Enclosure(box, None, box)], 0, 0.0)
    return result.value


def _within_reach(found: _Enclosure, radius: float, known: Interval) -> Interval:
    """`known`, held to the mean value theorem: |x(h) - x(h0)| <= radius sup ||grad x||."""
    assert found.slopes is not None
    magnitudes = found.slopes.magnitude()
    steepest = np.sqrt(np.sum(magnitudes**2, axis=0)) * (1 + (len(magnitudes) + 4) * EPS) + TINY
    # What has no slope at all is a constant, also on the whole space.
    still = (magnitudes == 0).all(axis=0)
    reach = np.where(still, 0.0, radius * np.where(still, 0.0, steepest) * (1 + EPS))
    held = found.center + Interval(-reach, reach)
    return Interval(np.maximum(known.low, held.low), np.minimum(known.high, held.high))


def _run(
    program: ClosedJaxpr, operands: Sequence[_Enclosure], directions: int, radius: float
) -> list[_Enclosure]:
    """The results of a program, given enclosures of its arguments."""
    known: dict[Any, _Enclosure] = {}

    def constant(value: Any) -> _Enclosure:
        point = exactly(value)
        return _Enclosure(point, None, point)

    def read(variable: Any) -> _Enclosure:
        return constant(variable.val) if isinstance(variable, Literal) else known[variable]

    jaxpr = program.jaxpr
    for variable, value in zip(jaxpr.constvars, program.consts, strict=True):
        known[variable] = constant(value)
    known.update(zip(jaxpr.invars, operands, strict=True))
    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        results = _step(equation, inputs, directions, radius)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _step(
    equation: Any, inputs: Sequence[_Enclosure], directions: int, radius: float
) -> list[_Enclosure]:
    """The results of one equation."""
    name = equation.primitive.name
    if name in CALLS:
        keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
        inner = next(equation.params[key] for key in keys if key in equation.params)
        closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
        return _run(closed, inputs, directions, radius)
    if _is_exact(equation, inputs):
        return _exact(equation, inputs)
    if name in REARRANGEMENTS or name in PICKS:
        return _rearranged(equation, inputs, directions)
    if name not in RULES:
        raise _UnknownPrimitiveError(f"`{name}`")
    rule = RULES[name]
    centers = [_Enclosure(operand.center, None, operand.center) for operand in inputs]
    found = rule(equation, inputs, directions)
    found = _Enclosure(found.value, found.slopes, rule(equation, centers, directions).value)
    if found.slopes is not None:
        found = dataclasses.replace(found, value=_within_reach(found, radius, found.value))
    return [found]


CALLS = (
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
)  # fmt: skip
"""Primitives that hold a program. A function with a derivative of its own making is
taken for what it computes: its derivatives are those of its program."""


def _is_exact(equation: Any, inputs: Sequence[_Enclosure]) -> bool:
    """Whether an equation is about constants that are integers or truth values, as indices are."""
    return all(
        operand.slopes is None and operand.value.is_point().all() for operand in inputs
    ) and (all(not jnp.issubdtype(out.aval.dtype, jnp.floating) for out in equation.outvars))


def _exact(equation: Any, inputs: Sequence[_Enclosure]) -> list[_Enclosure]:
    values = [
        jnp.asarray(operand.value.low).astype(variable.aval.dtype)
        for operand, variable in zip(inputs, equation.invars, strict=True)
    ]
    results = equation.primitive.bind(*values, **equation.params)
    results = results if equation.primitive.multiple_results else [results]
    points = [exactly(np.asarray(result)) for result in results]
    return [_Enclosure(point, None, point) for point in points]


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def _result(value: Interval, slopes: Interval | None) -> _Enclosure:
    """What a rule returns; the centre is filled in by `_step`."""
    return _Enclosure(value, slopes, value)


def _slopes(operand: _Enclosure, directions: int, rank: int) -> Interval:
    """Slopes, zeros if there are none, with axes for a result of this rank: scalars have none."""
    missing = [1] * (rank - len(operand.shape))
    shape = (directions, *missing, *operand.shape)
    if operand.slopes is None:
        return exactly(np.zeros(shape))
    return Interval(operand.slopes.low.reshape(shape), operand.slopes.high.reshape(shape))


def _combined(
    value: Interval, terms: Sequence[tuple[_Enclosure, Interval | None]], directions: int
) -> _Enclosure:
    """A result whose slopes are the sum of operands' slopes, each times a factor (None: 1)."""
    shape = value.low.shape
    parts = []
    for operand, factor in terms:
        if operand.slopes is not None:
            slopes = _slopes(operand, directions, len(shape))
            parts.append(slopes if factor is None else slopes * factor)
    if not parts:
        return _result(value, None)
    total = functools.reduce(Interval.__add__, parts)
    whole = (directions, *shape)
    return _result(
        value, Interval(np.broadcast_to(total.low, whole), np.broadcast_to(total.high, whole))
    )


def _jump(value: Interval, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    """A step function of its operands: flat where it is decided, anything where it may jump."""
    if all(operand.slopes is None for operand in operands):
        return _result(value, None)
    moves = np.zeros((directions, *value.low.shape), bool)
    for operand in operands:
        moves = moves | ~_slopes(operand, directions, value.low.ndim).is_zero()
    return _result(value, choose(moves & ~value.is_point(), ANYTHING, exactly(0.0)))


@_rule("add", "add_any")
def _add(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    first, second = operands
    return _combined(first.value + second.value, [(first, None), (second, None)], directions)


@_rule("neg")
def _negate(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    return _result(-operand.value, None if operand.slopes is None else -operand.slopes)


@_rule("sub")
def _subtract(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    first, second = operands
    return _add(equation, [first, _negate(equation, [second], directions)], directions)


@_rule("mul")
def _multiply(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    first, second = operands
    terms = [(first, second.value), (second, first.value)]
    return _combined(first.value * second.value, terms, directions)


@_rule("div")
def _divide(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    first, second = operands
    reciprocal = second.value.reciprocal()
    value = first.value * reciprocal
    return _combined(value, [(first, reciprocal), (second, -(value * reciprocal))], directions)


@_rule("max")
def _maximum(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    first, second = operands
    a, b = first.value, second.value
    value = Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))
    if first.slopes is None and second.slopes is None:
        return _result(value, None)
    each = [_slopes(operand, directions, value.low.ndim) for operand in operands]
    slopes = choose(a.low >= b.high, each[0], choose(b.low >= a.high, each[1], hull(*each)))
    return _result(value, slopes)


@_rule("min")
def _minimum(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    negated = [_negate(equation, [operand], directions) for operand in operands]
    return _negate(equation, [_maximum(equation, negated, directions)], directions)


@_rule("abs")
def _absolute(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    pair = [operand, _negate(equation, [operand], directions)]
    return _maximum(equation, pair, directions)


@_rule("clamp")
def _clamp(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    low, operand, high = operands
    raised = _maximum(equation, [operand, low], directions)
    return _minimum(equation, [raised, high], directions)


@_rule("lt", "le", "gt", "ge", "eq", "ne")
def _compare(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    name = equation.primitive.name
    a, b = (operand.value for operand in operands)
    if name in ("gt", "ge"):
        a, b = b, a
    if name in ("lt", "gt"):
        certain, possible = a.high < b.low, a.low < b.high
    elif name in ("le", "ge"):
        certain, possible = a.high <= b.low, a.low <= b.high
    else:
        certain = a.is_point() & b.is_point() & (a.low == b.low)
        possible = (a.low <= b.high) & (b.low <= a.high)
        if equation.invars[0] is equation.invars[1]:
            # x != x asks whether x is not a number, which no number is.
            certain = possible
        if name == "ne":
            certain, possible = ~possible, ~certain
    return _jump(Interval(certain.astype(float), possible.astype(float)), operands, directions)


@_rule("and", "or", "not")
def _logic(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    name = equation.primitive.name
    if any(variable.aval.dtype != bool for variable in equation.outvars):
        raise _UnknownPrimitiveError(f"`{name}` of integers")
    values = [operand.value for operand in operands]
    if name == "not":
        found = Interval(1 - values[0].high, 1 - values[0].low)
    else:
        take = np.minimum if name == "and" else np.maximum
        found = Interval(*(take(*(getattr(v, end) for v in values)) for end in ("low", "high")))
    return _jump(found, operands, directions)


@_rule("sign", "floor", "ceil", "round")
def _staircase(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    name = {"round": "rint"}.get(equation.primitive.name, equation.primitive.name)
    step = getattr(np, name)
    return _jump(Interval(step(operand.value.low), step(operand.value.high)), operands, directions)


@_rule("is_finite")
def _finite(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    certain = np.isfinite(operand.value.low) & np.isfinite(operand.value.high)
    return _jump(Interval(certain.astype(float), np.ones(operand.shape)), operands, directions)


@_rule("select_n")
def _select(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    which, *cases = operands
    rank = len(cases[0].shape)
    value: Interval = NOTHING
    slopes: Interval = NOTHING
    for index, case in enumerate(cases):
        possible = (which.value.low <= index) & (which.value.high >= index)
        value = hull(value, choose(possible, case.value, NOTHING))
        slopes = hull(slopes, choose(possible, _slopes(case, directions, rank), NOTHING))
    if all(operand.slopes is None for operand in operands):
        return _result(value, None)
    if which.slopes is not None:
        # Between two cases there may be a jump, along directions that change the choice.
        moves = ~_slopes(which, directions, rank).is_zero()
        slopes = choose(moves & ~which.value.is_point(), ANYTHING, slopes)
    return _result(value, slopes)


def _increasing(
    function: Callable[[np.ndarray], np.ndarray], low: float = -np.inf, high: float = np.inf
) -> Callable[[Interval], Interval]:
    """An increasing function, whose values are known to lie between `low` and `high`."""

    def values(x: Interval) -> Interval:
        found = outwards(function(x.low), function(x.high), ULPS)
        return Interval(np.maximum(found.low, low), np.minimum(found.high, high))

    return values


def _logistic(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


SMOOTH: dict[
    str,
    tuple[float, Callable[[Interval], Interval], Callable[[Interval, Interval], Interval]],
] = {
    "exp": (-np.inf, _increasing(np.exp, 0.0), lambda x, y: y),
    "expm1": (-np.inf, _increasing(np.expm1, -1.0), lambda x, y: y + exactly(1.0)),
    "log": (0.0, _increasing(np.log), lambda x, y: x.reciprocal()),
    "log1p": (-1.0, _increasing(np.log1p), lambda x, y: (x + exactly(1.0)).reciprocal()),
    "tanh": (-np.inf, _increasing(np.tanh, -1.0, 1.0), lambda x, y: exactly(1.0) - y.square()),
    "logistic": (
        -np.inf,
        _increasing(_logistic, 0.0, 1.0),
        lambda x, y: exactly(0.25) - (y - exactly(0.5)).square(),
    ),
    "sqrt": (0.0, _increasing(np.sqrt, 0.0), lambda x, y: (y + y).reciprocal()),
    "rsqrt": (
        0.0,
        lambda x: -_increasing(lambda v: -1 / np.sqrt(v), -np.inf, 0.0)(x),
        lambda x, y: -(y * x.reciprocal() * exactly(0.5)),
    ),
    "square": (-np.inf, Interval.square, lambda x, y: x + x),
}
"""Smooth functions: the number above which they are defined and smooth, their values, and their
derivatives given argument and value."""


@_rule(*SMOOTH)
def _smooth(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    above, function, derivative = SMOOTH[equation.primitive.name]
    x = operand.value
    # At the end of its domain a function may have a value and no derivative.
    value = choose(x.low >= above, function(x), ANYTHING)
    inside = (x.low > above) | (above == -np.inf)
    steepness = choose(inside, derivative(x, value), ANYTHING)
    return _combined(value, [(operand, steepness)], directions)


@_rule("integer_pow")
def _integer_power(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    exponent = equation.params["y"]
    value = _power(operand.value, exponent)
    steepness = exactly(exponent) * _power(operand.value, exponent - 1)
    return _combined(value, [(operand, steepness)], directions)


def _power(x: Interval, exponent: int) -> Interval:
    if exponent < 0:
        return _power(x, -exponent).reciprocal()
    if exponent == 0:
        return exactly(np.ones(x.low.shape))
    half = _power(x.square(), exponent // 2)
    return x * half if exponent % 2 else half


@_rule("pow")
def _real_power(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    base, exponent = operands
    inside = base.value.low > 0
    positive = choose(inside, base.value, exactly(1.0))
    logarithm = SMOOTH["log"][1](positive)
    value = choose(inside, SMOOTH["exp"][1](exponent.value * logarithm), ANYTHING)
    steepness = choose(inside, exponent.value * value * positive.reciprocal(), ANYTHING)
    return _combined(value, [(base, steepness), (exponent, value * logarithm)], directions)


@_rule("reduce_sum")
def _total(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    axes = tuple(equation.params["axes"])

    def total(summed: Interval, axes: tuple[int, ...]) -> Interval:
        terms = int(np.prod([summed.low.shape[axis] for axis in axes], initial=1.0))
        error = terms * EPS * summed.magnitude().sum(axis=axes) + TINY
        return outwards(summed.low.sum(axis=axes) - error, summed.high.sum(axis=axes) + error)

    later = tuple(axis + 1 for axis in axes)
    slopes = None if operand.slopes is None else total(operand.slopes, later)
    return _result(total(operand.value, axes), slopes)


@_rule("dot_general")
def _dot(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    first, second = operands
    numbers = equation.params["dimension_numbers"]
    terms = int(np.prod([first.shape[axis] for axis in numbers[0][0]], initial=1.0))

    letters = _letters(numbers, len(first.shape), len(second.shape))

    def along(a: str, b: str, out: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda x, y: np.einsum(f"{a},{b}->{out}", x, y, optimize=True)

    value = product(first.value, second.value, along(*letters), terms)
    parts: list[tuple[_Enclosure, None]] = []
    for own, mapped in ((first, (1, 0, 1)), (second, (0, 1, 1))):
        if own.slopes is None:
            continue
        pair = (own.slopes, second.value) if own is first else (first.value, own.slopes)
        marked = [f"z{word}" if mark else word for word, mark in zip(letters, mapped, strict=True)]
        found = product(*pair, along(*marked), terms)
        # Infinite values would make slopes of what does not move.
        still = own.slopes.is_zero().reshape(directions, -1).all(axis=1)
        slopes = choose(still.reshape(-1, *[1] * value.low.ndim), exactly(0.0), found)
        parts.append((_result(value, slopes), None))
    return _combined(value, parts, directions)


def _letters(numbers: Any, first_rank: int, second_rank: int) -> tuple[str, str, str]:
    """The subscripts of a general product, as for `einsum`; z is left for directions."""
    (contracted, partners), (batched, others) = numbers
    names = string.ascii_lowercase
    first, second = list(names[:first_rank]), list(names[first_rank : first_rank + second_rank])
    for own, other in (*zip(contracted, partners, strict=True), *zip(batched, others, strict=True)):
        second[other] = first[own]
    batch = [first[axis] for axis in batched]
    gone = {*batch, *(first[axis] for axis in contracted)}
    free = [name for name in (*first, *second) if name not in gone]
    return "".join(first), "".join(second), "".join([*batch, *free])


@_rule("convert_element_type")
def _convert(equation: Any, operands: Sequence[_Enclosure], directions: int) -> _Enclosure:
    (operand,) = operands
    old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
    floating = [jnp.issubdtype(dtype, jnp.floating) for dtype in (old, new)]
    if new == np.float64 or not any(floating):
        return operand
    if jnp.issubdtype(new, jnp.integer):
        truncated = Interval(np.trunc(operand.value.low), np.trunc(operand.value.high))
        return _jump(truncated, operands, directions)
    raise _UnknownPrimitiveError(f"`convert_element_type` to {new}")


def _unlayered(equation: Any) -> Callable[..., Any]:
    """The primitive itself, mapped over the first axis."""

    def move(*arrays: Any) -> Any:
        return equation.primitive.bind(*arrays, **equation.params)

    return jax.vmap(move)


def _reshaped(equation: Any) -> Callable[..., Any]:
    return lambda array: array.reshape(len(array), *equation.outvars[0].aval.shape)


def _broadcast(equation: Any) -> Callable[..., Any]:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]

    def move(array: np.ndarray) -> np.ndarray:
        sizes = [1] * len(shape)
        for place, size in zip(places, array.shape[1:], strict=True):
            sizes[place] = size
        return np.broadcast_to(array.reshape(len(array), *sizes), (len(array), *shape))

    return move


def _sliced(equation: Any) -> Callable[..., Any]:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or [1] * len(starts)
    places = map(slice, starts, limits, strides)
    return lambda array, place=(slice(None), *places): array[place]


def _joined(equation: Any) -> Callable[..., Any]:
    axis = equation.params["dimension"] + 1
    return lambda *arrays: np.concatenate(arrays, axis)


REARRANGEMENTS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "concatenate": _joined,
} | dict.fromkeys(
    ("stack", "unstack", "split", "transpose", "pad", "rev", "copy", "optimization_barrier"),
    _unlayered,
)
"""Primitives that move entries about, and how to do it to many layers at once. JAX itself can
always; the most frequent have a faster way."""

PICKS = ("gather", "dynamic_slice")
"""Primitives that move entries of their first operand, to or from places that the others name."""


def _rearranged(equation: Any, operands: Sequence[_Enclosure], directions: int) -> list[_Enclosure]:
    """Move entries about: those of all bounds alike, as layers of one array."""
    name = equation.primitive.name
    if name in PICKS:
        operands, move = operands[:1], _pick(equation, operands[1:])
    else:
        move = REARRANGEMENTS[name](equation)
    moving = any(operand.slopes is not None for operand in operands)
    stacked = []
    for operand in operands:
        values = [operand.value, operand.center]
        layers = [bound[None] for each in values for bound in (each.low, each.high)]
        if moving:
            own = _slopes(operand, directions, len(operand.shape))
            layers += [own.low, own.high]
        stacked.append(np.concatenate(layers))
    found = move(*stacked)
    results = []
    for array in map(np.asarray, found if equation.primitive.multiple_results else [found]):
        slopes = Interval(*np.split(array[4:], 2)) if moving else None
        results.append(_Enclosure(Interval(*array[:2]), slopes, Interval(*array[2:4])))
    return results


def _pick(equation: Any, places: Sequence[_Enclosure]) -> Callable[..., Any]:
    indices = []
    for place, variable in zip(places, equation.invars[1:], strict=True):
        if place.slopes is not None or not place.value.is_point().all():
            raise _UnknownPrimitiveError(f"`{equation.primitive.name}` at a place that varies")
        indices.append(jnp.asarray(place.value.low).astype(variable.aval.dtype))
    return jax.vmap(lambda array: equation.primitive.bind(array, *indices, **equation.params))
