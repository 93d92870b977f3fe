"""Optax transformations as optimizers in state-space form."""

import operator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float

from lrevopt.optimizers.classical import hyperparameter
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.optax.counters import held_counters
from lrevopt.optimizers.optax.couplings import check_runs
from lrevopt.optimizers.optax.state_leaves import StateLeaf, arrays_of, describe_state, init_state


class OptaxOptimizer(AbstractOptimizer):
    """An optax transformation in state-space form, as `from_optax` makes it.

    `held` are the counters that stand still; `parameter` is the value of x that the
    transformation is shown.
    """

    transformation: optax.GradientTransformation | optax.MultiSteps = eqx.field(static=True)
    leaves: tuple[StateLeaf, ...] = eqx.field(static=True)
    parameter: Float[Array, ""]
    held: tuple[Array, ...]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """What each coordinate of the state is, by its path in optax's; the last is the update."""
        names = [
            leaf.name if leaf.size == 1 else f"{leaf.name}[{index}]"
            for leaf in self.leaves
            for index in range(leaf.size)
        ]
        return (*names, "update")

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.zeros(len(self.coordinates), self.parameter.dtype).at[-1].set(1)

    def initial_state(self) -> Float[Array, " state"]:
        start = arrays_of(init_state(self.transformation, self.parameter[None]))
        kept = [
            array.reshape(-1).astype(self.parameter.dtype)
            for leaf, array in zip(self.leaves, start, strict=True)
            if leaf.size
        ]
        return jnp.concatenate([*kept, jnp.zeros_like(self.parameter[None])])

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        point = jnp.concatenate([state, jnp.stack([gradient, self.parameter])])
        return _transition(self.transformation, self.leaves, point, self.held)


def from_optax(
    transformation: optax.GradientTransformation | optax.MultiSteps,
    *,
    at_step: int | None = None,
    parameter: ArrayLike | None = None,
) -> OptaxOptimizer:
    """A component-wise optax transformation as an optimizer, `from_optax(optax.adam(1e-3))`.

    The state is what optax keeps for one parameter, array after array in the order of its tree,
    and then the update (sign and learning rate included). `coordinates` names them:
    `("[0].count", "[0].mu", "[0].nu", "update")`. Arrays that a transformation only hands on,
    like the constants of `optax.inject_hyperparams`, are left out.

    Step counters, the integers and booleans of optax's state, are a matter of their own
    (`optax.rmsprop`, say, keeps none, and `at_step` changes nothing):

    - `at_step=None`: counters are coordinates that count, so that a run has optax's own updates,
      with bias correction and schedules as they go. Such a state never rests:
      `find_fixed_points` reports that nothing converged. A counter's derivative in itself is 1;
      whatever else depends on it is differentiated as if it were constant.
    - `at_step=k`: counters stand at k and are no part of the state. F is then that of update k,
      which turns `states[k]` into `states[k + 1]`, for ever: it can rest, and fixed points,
      linearization and modes are those of that moment. k = 0 is the first update, a large k the
      limit without bias correction, at the end of every schedule.

    Transformations that use the value of the parameter, such as weight decay, are shown
    `parameter`, always the same: good for looking at one moment, wrong along a run, in which
    the parameter moves. Without `parameter` they are refused.

    Derivatives are JAX's where those are finite. They are not where a root stands at 0: JAX
    finds that the update m / (sqrt(v) + epsilon) of `optax.adam` at rest changes with v by 0
    times infinity. There the derivative is that of a state whose coordinates are larger by 2^20
    times the smallest normal number, which is the limit v -> 0 from above: 0 for Adam, a huge
    number where the slope is infinite.

    Raises `ValueError` if an update of one parameter depends on others (`clip_by_global_norm`,
    LAMB, LARS, Adafactor, SM3, Muon, ...) or on the array in which it stands. This is found by
    running it: in 12 updates with random gradients of sizes 1e-3 to 1e6, a parameter must move
    in arrays of several shapes as it does alone. A coupling that acts only later, or on larger
    gradients, is not noticed. Also raises for noise, for arguments beside the gradient (`value`,
    `value_fn`), for complex numbers, for counters that depend on gradients if `at_step` is
    given, for a negative `at_step`, and for a `parameter` that is not one finite number.
    Hyperparameters may be traced (a grid of learning rates under `jax.vmap`): such a run has no
    values yet, and passes.
    """
    _require_transformation(transformation)
    if at_step is not None:
        _require_count(at_step)
    shown = hyperparameter("parameter", 0.0 if parameter is None else parameter)
    leaves = describe_state(transformation)
    # Inside `jit` as well, what is known is computed and compared. In single precision, another
    # order of operations could turn the rounding of an accumulator of half precision.
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
    ):
        check_runs(transformation, parameter is None)
    if at_step is None:
        return OptaxOptimizer(transformation, leaves, shown, ())
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        held = held_counters(transformation, leaves, at_step)
    leaves = tuple(
        leaf._replace(kind="held") if leaf.kind in ("counter", "flag") else leaf for leaf in leaves
    )
    return OptaxOptimizer(transformation, leaves, shown, held)


def _plain_transition(
    transformation: Any,
    leaves: tuple[StateLeaf, ...],
    point: Float[Array, " point"],
    held: tuple[Array, ...],
) -> Float[Array, " state"]:
    """F(h, g), where the point is h, g and the value of the parameter."""
    dtype, parameter = point.dtype, point[-1:]
    start, structure = jax.tree.flatten(init_state(transformation, parameter))
    parts = jnp.split(point[:-2], np.cumsum([leaf.size for leaf in leaves]))[: len(leaves)]
    standing = iter(held)
    required = []
    for leaf, part, array in zip(leaves, parts, arrays_of(start), strict=True):
        if leaf.kind == "held":
            required.append(next(standing).astype(array.dtype))
        elif leaf.kind == "constant":
            required.append(array)
        else:
            part = part.reshape(leaf.shape)
            value = {"counter": jnp.round(part), "flag": part > 0.5}.get(leaf.kind, part)
            required.append(value.astype(array.dtype))
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        state = jax.tree.unflatten(structure, required)
        update, after = transformation.update(point[-2:-1], state, parameter)
    following = []
    for leaf, part, before, array in zip(leaves, parts, required, arrays_of(after), strict=True):
        if leaf.kind == "counter":
            # By as much as optax moves it, so that it has a derivative in itself.
            moved = array.astype(dtype) - before.astype(dtype)
            following.append(part + moved.reshape(-1))
        elif leaf.size:
            following.append(array.reshape(-1).astype(dtype))
    return jnp.concatenate([*following, update.astype(dtype)])


_transition = jax.custom_jvp(_plain_transition, nondiff_argnums=(0, 1))


@_transition.defjvp
def _transition_jvp(transformation, leaves, primals, tangents):
    point, held = primals

    def jacobian(at: Array) -> Array:
        return jax.jacfwd(partial(_plain_transition, transformation, leaves))(at, held)

    # Not the gradient: what vanishes with it shall vanish faster than the root.
    aside = point.at[:-2].add(2**20 * jnp.finfo(point.dtype).tiny)
    slopes = jacobian(point)
    slopes = jnp.where(jnp.isfinite(slopes), slopes, jacobian(aside))
    # As a product, the rule is linear in the tangent and has a transpose.
    return _transition(transformation, leaves, point, held), slopes @ tangents[0]


def _require_transformation(transformation: Any) -> None:
    if not all(callable(getattr(transformation, name, None)) for name in ("init", "update")):
        kind = getattr(transformation, "__name__", type(transformation).__name__)
        hint = ": call it with its settings" if callable(transformation) else ""
        raise ValueError(
            f"`transformation` must be an optax.GradientTransformation, got {kind}{hint}."
        )


def _require_count(at_step: Any) -> None:
    try:
        number = operator.index(at_step)
    except TypeError:
        number = -1
    if number < 0 or isinstance(at_step, bool):
        raise ValueError(f"`at_step` must be an integer of at least 0 or None, got {at_step!r}.")
