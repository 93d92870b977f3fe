"""Fixed points with a proof, as a record."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float

from lrevopt.analysis.fixed_points import SAME_POINT, FixedPoints
from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.certificates.enclosures import UnknownPrimitiveError
from lrevopt.certificates.proofs import (
    nothing_proved,
    prove,
    read_coordinates,
    spectral_radius_of,
    value_and_jacobian,
)
from lrevopt.checks import instance, positive_integer
from lrevopt.optimizers.interface import AbstractOptimizer, state_size

VISITED = 500
"""States of which the basin is determined, at most."""

CHUNK = 50
"""Steps between two checks of which states have settled."""


class Certificates(eqx.Module):
    """What is proved of each distinct fixed point. Host arrays in float64.

    All distances are Euclidean, over the coordinates marked in `read`; the other coordinates
    follow from these.

    - `states`: the points, refined; `residuals`: `||F(h) - h||` there, in float64.
    - `existence_radius`: a fixed point lies within this distance of the state (infinite if nothing
      is proved). `uniqueness_radius`: the largest distance within which it is proved to be the only
      one (0 if nothing is proved). `obstacles`: why nothing is proved ("" where something is).
    - `newton_radius`: from every state within this distance, Newton's iteration is proved to
      converge to the point; 0 where nothing is proved.
    - `lower`, `upper`: bounds of the true fixed point, coordinate by coordinate.
    - `spectral_radius` of DF at the state, computed (NaN without a derivative); `stability`:
      "stable" or "unstable" if that is proved for the true fixed point, else "undecided".
    - `attraction_radius`: from every state within this distance, iterating F is proved to converge
      to the point; 0 where nothing is proved.
    - `basin_share`: share of the given states from which iterating F ends at the point, by
      computation and not by proof; `unsettled`: share that ends at none; `visited`: how many.
    - `gradient`: the held gradient.
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
            f"{100 * record.basin_share[index]:.1f} % of {record.visited} sampled states"
        )
    return [*lines, f"in no basin: {100 * record.unsettled:.1f} %"]


def certify(
    opt: AbstractOptimizer,
    points: FixedPoints,
    visited: Float[AnyArray, "visited state"] | None = None,
    *,
    steps: int = 10_000,
) -> Certificates:
    """Certify every distinct fixed point of a search, and estimate its basin of attraction.

    The basin is estimated by iterating the states `visited`, by default those from which the search
    began; of more than 500, evenly spaced ones. A state is iterated for at most `steps` updates, or
    until it comes within 1e-5 max(1, ||h||) of a point.

    Raises `ValueError` for states of another optimizer, an empty `visited`, or fewer than 1 step.
    """
    steps = positive_integer("steps", steps)
    instance("points", points, FixedPoints, "the fixed points of `find_fixed_points`")
    states = double_states(opt, points.distinct, "points.distinct", axes=2)
    given = points.start if visited is None else visited
    cloud = evenly_spaced(double_states(opt, given, "visited", axes=2, squares=False), VISITED)
    if not len(cloud):
        raise ValueError("`visited` must hold at least one state, got none.")
    read = np.ones(state_size(opt), bool)
    # Infinite bounds, and infinities that cancel, are expected.
    with double_precision(), np.errstate(all="ignore"):
        opt = as_double(opt)
        gradient = jnp.asarray(points.gradient)
        try:
            program = jax.make_jaxpr(lambda h: opt.transition(h, gradient))(opt.initial_state())
            read = read_coordinates(program, len(read))
            proofs = [prove(opt, program, read, state, gradient) for state in states]
        except UnknownPrimitiveError as error:
            proofs = [
                nothing_proved(state, f"no bounds for the operation {error}") for state in states
            ]
        refined = np.array([proof.state for proof in proofs]).reshape(states.shape)
        expanded = [value_and_jacobian(opt, state, gradient) for state in refined]
        radii = np.array([spectral_radius_of(J) for _, J in expanded])
        ends = np.asarray(_ends(opt, cloud, refined, radii < 1, gradient=gradient, steps=steps))
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


@eqx.filter_jit
def _ends(opt, states, points, attracting, *, gradient, steps):
    """Index of the point that each state is at after `steps` of F, -1 if none.

    Ends early when every state is at an attracting point or stands still; near a saddle it goes
    on.
    """
    reach = SAME_POINT * jnp.maximum(1.0, jnp.linalg.norm(points, axis=1))
    once = jax.vmap(opt.transition, (0, None))

    def places(states):
        gaps = jnp.linalg.norm(states[:, None] - points[None], axis=-1)
        near = gaps <= reach[None]
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
