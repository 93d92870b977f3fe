"""Optax transformations as optimizers in state-space form.

Derivatives of the transition are JAX's wherever those are finite. They are not at a root of 0:
the update m / (sqrt(v) + epsilon) of `optax.adam` at rest has the derivative 0 times infinity in
v. There the derivative is taken at a state whose coordinates are larger by 2^20 times the smallest
normal number, which gives the limit v -> 0 from above: 0 for Adam, and a huge number where the
slope is infinite.

Couplings between parameters are found by running a transformation: in 12 updates with random
gradients of sizes 1e-3 to 1e6, a parameter must move in arrays of several shapes as it does
alone. A coupling that acts only later, or on larger gradients, is not noticed.
"""

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
    """An optax transformation in state-space form, as `from_optax` returns it.

    `leaves` describes optax's state, `held` holds the values of counters that are fixed, and
    `parameter` is the value of x that is passed to the transformation.
    """

    transformation: optax.GradientTransformation | optax.MultiSteps = eqx.field(static=True)
    leaves: tuple[StateLeaf, ...] = eqx.field(static=True)
    parameter: Float[Array, ""]
    held: tuple[Array, ...]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Name of each state coordinate: its path in optax's state, and `update` for the last."""
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
    """A component-wise optax transformation as an optimizer: `from_optax(optax.adam(1e-3))`.

    The state is optax's state of one parameter, array after array in the order of its tree, and
    then the update, with sign and learning rate. `coordinates` names its entries, for Adam
    `("[0].count", "[0].mu", "[0].nu", "update")`. Arrays that never change, such as the constants
    of `optax.inject_hyperparams`, are left out. `at_step` says what becomes of step counters, the
    integers and booleans of optax's state:

    - `at_step=None`: counters are state coordinates and count. A run makes optax's own updates,
      with bias correction and schedules. A state with a live counter has no fixed point, so
      `find_fixed_points` converges nowhere. The derivative of a counter in itself is 1; all else
      is differentiated as if counters were constant.
    - `at_step=k`: counters are held at k and are not part of the state. F is that of update k,
      which turns `states[k]` into `states[k + 1]`, at every step. It can have fixed points, and
      linearization and modes are those of that step. k = 0 is the first update; a large k is the
      limit without bias correction, at the end of every schedule.

    `parameter` is the value of x that is passed to transformations which use it, such as weight
    decay; it does not change along a run. Without it they are refused.

    Raises `ValueError` if the update of one parameter depends on others (`clip_by_global_norm`,
    LAMB, LARS, Adafactor, SM3, Muon, ...) or on the shape of its array, as far as trial runs show
    (see the module). Also for random numbers, arguments beside the gradient (`value`,
    `value_fn`), complex numbers, a negative `at_step`, an `at_step` where counters depend on
    gradients, and a `parameter` that is not one finite number. With traced hyperparameters (a
    grid of learning rates under `jax.vmap`) trial runs have no values and are skipped.
    """
    _require_transformation(transformation)
    if at_step is not None:
        _require_count(at_step)
    shown = hyperparameter("parameter", 0.0 if parameter is None else parameter)
    leaves = describe_state(transformation)
    # Computed at once, inside `jit` too. In double precision, because in single precision another
    # order of operations could change how an accumulator of half precision is rounded.
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
    """F(h, g). `point` is h, then g, then the value of the parameter."""
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
            # The old value plus optax's increment, so that the derivative in itself is 1.
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

    # The gradient stays: an update that vanishes with it must vanish faster than the root.
    aside = point.at[:-2].add(2**20 * jnp.finfo(point.dtype).tiny)
    slopes = jacobian(point)
    slopes = jnp.where(jnp.isfinite(slopes), slopes, jacobian(aside))
    # A product is linear in the tangent, so that JAX can transpose it.
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
