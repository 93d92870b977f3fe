"""The bridge to optax, in both directions.

`from_optax` puts a component-wise gradient transformation into the form of this package,

    h' = F(h, g)        h: what optax keeps for one parameter, then the update itself
    x' = x + w . h'     w = (0, ..., 0, 1)

so that every tool here takes it apart, and `to_optax` makes a transformation of any optimizer
here, so that it trains whatever optax trains.
"""

import operator
import re
from functools import lru_cache, partial
from math import prod
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

from lrevopt.optimizers.classical import hyperparameter
from lrevopt.optimizers.interface import AbstractOptimizer, state_size

SHAPES = ((1,), (5,), (128, 130))
"""Arrays in which parameters stand when couplings are looked for. The last is large enough for
Adafactor to factor it."""

HERE = (np.s_[:, 0], np.s_[:, 2], np.s_[:, 60, 70])
"""The parameter of each array that is watched, at every step."""

STEPS = 12
"""Updates of such a run."""

SIZES = (0.0, 3.0, -3.0, 6.0)
"""Decimal exponents of its gradients, in turn: a bound on a norm shows only beyond the bound."""

ROUND_OFF = 1e-4
"""Relative difference below which two updates are one: a transformation may compute in single
precision inside."""

LONGEST = 10_000
"""Updates after which counters are extrapolated."""

CACHED = 32
"""Transformations whose runs are remembered, for those who look at many steps of one."""


class StateLeaf(NamedTuple):
    """One array of a transformation's state for a single parameter, and what becomes of it."""

    name: str
    kind: Literal["value", "counter", "flag", "constant", "held"]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of coordinates of the flat state."""
        return 0 if self.kind in ("constant", "held") else prod(self.shape)


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
        start = _arrays(_init(self.transformation, self.parameter[None]))
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
      linearisation and modes are those of that moment. k = 0 is the first update, a large k the
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
    leaves = _describe(transformation)
    # Inside `jit` as well, what is known is computed and compared. In single precision, another
    # order of operations could turn the rounding of an accumulator of half precision.
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
    ):
        _check_runs(transformation, parameter is None)
    if at_step is None:
        return OptaxOptimizer(transformation, leaves, shown, ())
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        held = _held(transformation, leaves, at_step)
    leaves = tuple(
        leaf._replace(kind="held") if leaf.kind in ("counter", "flag") else leaf for leaf in leaves
    )
    return OptaxOptimizer(transformation, leaves, shown, held)


class OptimizerState(NamedTuple):
    """What `to_optax` keeps: for every array of parameters, states of shape (state, *shape)."""

    states: PyTree[Float[Array, "state ..."]]


def to_optax(optimizer: AbstractOptimizer) -> optax.GradientTransformation:
    """Any optimizer, a learned one included, as an optax transformation.

        states' = F(states, gradients)        updates = w . states'

    It acts on any pytree of floating-point arrays, alone or in `optax.chain`, `optax.masked` and
    `optax.MultiSteps`, and is added by `optax.apply_updates`; `None` leaves, as
    `eqx.filter(model, eqx.is_inexact_array)` has them, stay `None`. The state is an
    `OptimizerState` of arrays, to be saved with Orbax like any other: `states` has the structure
    of the parameters, the state axis first, in the optimizer's dtype. Gradients of another dtype
    are converted, and updates have the dtype of the gradients.

    Inside, all parameters stand side by side in the order of the tree, as in `unroll`: fed the
    same gradients, a compiled loop with a GRU repeats `unroll` to the last bit on a CPU. With a
    hand-written optimizer it may differ in the last place, since XLA joins a product and a sum
    to one operation in some programs and not in others; and in another program the same loss may
    have other gradients, as those of networks do.

    Raises `ValueError` for an optimizer without a flat state and a readout to match, and, when
    the transformation is used, for parameters or gradients that are not real floating-point
    arrays.
    """
    size = state_size(optimizer)

    def init(parameters: PyTree) -> OptimizerState:
        start = optimizer.initial_state()

        def states(path: Any, leaf: Any) -> Array:
            shape = jnp.shape(_floating("parameters", path, leaf))
            return jnp.broadcast_to(start.reshape(size, *(1 for _ in shape)), (size, *shape))

        return OptimizerState(jax.tree_util.tree_map_with_path(states, parameters))

    def update(
        gradients: PyTree, state: OptimizerState, parameters: PyTree | None = None
    ) -> tuple[PyTree, OptimizerState]:
        structure: Any
        named, structure = jax.tree_util.tree_flatten_with_path(gradients)
        leaves = [jnp.asarray(_floating("gradients", path, leaf)) for path, leaf in named]
        states = structure.flatten_up_to(state.states)
        if not leaves:
            return gradients, state
        dtype = states[0].dtype
        lanes = jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in leaves])
        side_by_side = jnp.concatenate([array.reshape(size, -1) for array in states], axis=1)
        following = jax.vmap(optimizer.transition, (-1, 0), -1)(side_by_side, lanes)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        moved = jnp.split(optimizer.readout @ following, ends)
        parts = jnp.split(following, ends, axis=1)
        updates = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(moved, leaves, strict=True)
        ]
        kept = [part.reshape(old.shape) for part, old in zip(parts, states, strict=True)]
        return structure.unflatten(updates), OptimizerState(structure.unflatten(kept))

    return optax.GradientTransformation(init, update)


def _floating(name: str, path: Any, leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", type(leaf))
    if not jnp.issubdtype(dtype, jnp.floating):
        found = getattr(dtype, "__name__", dtype)
        raise ValueError(
            f"`{name}` must be real floating-point arrays, got {found} at "
            f"`{jax.tree_util.keystr(path)}`: leave it out, as `eqx.filter(model, "
            "eqx.is_inexact_array)` does."
        )
    return leaf


def _plain_transition(
    transformation: Any,
    leaves: tuple[StateLeaf, ...],
    point: Float[Array, " point"],
    held: tuple[Array, ...],
) -> Float[Array, " state"]:
    """F(h, g), where the point is h, g and the value of the parameter."""
    dtype, parameter = point.dtype, point[-1:]
    start, structure = jax.tree.flatten(_init(transformation, parameter))
    parts = jnp.split(point[:-2], np.cumsum([leaf.size for leaf in leaves]))[: len(leaves)]
    standing = iter(held)
    given = []
    for leaf, part, array in zip(leaves, parts, _arrays(start), strict=True):
        if leaf.kind == "held":
            given.append(next(standing).astype(array.dtype))
        elif leaf.kind == "constant":
            given.append(array)
        else:
            part = part.reshape(leaf.shape)
            value = {"counter": jnp.round(part), "flag": part > 0.5}.get(leaf.kind, part)
            given.append(value.astype(array.dtype))
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        state = jax.tree.unflatten(structure, given)
        update, after = transformation.update(point[-2:-1], state, parameter)
    following = []
    for leaf, part, before, array in zip(leaves, parts, given, _arrays(after), strict=True):
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


def _init(transformation: Any, parameters: PyTree[Array]) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        return transformation.init(parameters)


def _arrays(tree: PyTree) -> list[Array]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]


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


def _describe(transformation: Any) -> tuple[StateLeaf, ...]:
    """The state's arrays for one parameter, if the transformation runs on one at all.

    The one parameter is an array of shape (1,), because some transformations fail on scalars.
    """
    one = jnp.zeros(1)
    try:
        start = _init(transformation, one)
        with jax.numpy_dtype_promotion("standard"):
            traced, shapes = jax.make_jaxpr(transformation.update, return_shape=True)(
                one, start, one
            )
    except Exception as error:  # whatever a transformation may raise on so small a problem
        raise ValueError(
            "`transformation` must update a single parameter from its gradient alone, got "
            f"{_complaint(error)}."
        ) from error
    named = jax.tree_util.tree_leaves_with_path(start)
    before = [jax.typeof(leaf) for _, leaf in named]
    changed = [leaf.shape for leaf in jax.tree.leaves(shapes[1])]
    if [leaf.shape for leaf in before] != changed:
        raise ValueError(
            "`transformation` must keep the shapes of its state, got one that changes them from "
            f"{[leaf.shape for leaf in before]} to {changed}."
        )
    given, found = traced.jaxpr.invars[1:-1], traced.jaxpr.outvars[1:]
    return tuple(
        _describe_leaf(jax.tree_util.keystr(path), array, constant=first is last)
        for (path, _), array, first, last in zip(named, before, given, found, strict=True)
    )


def _describe_leaf(name: str, array: Any, *, constant: bool) -> StateLeaf:
    old_key = array.dtype == jnp.uint32 and array.shape[-1:] == (2,)
    if old_key or jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"`transformation` must not draw random numbers, got one with a key at `{name}`."
        )
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"`transformation` must keep real numbers, got {array.dtype} at `{name}`.")
    if constant:
        return StateLeaf(name, "constant", array.shape)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return StateLeaf(name, "value", array.shape)
    return StateLeaf(name, "flag" if array.dtype == jnp.bool_ else "counter", array.shape)


def _complaint(error: Exception) -> str:
    """What a transformation asks for in vain, or the first line of what it raised."""
    text = str(error).strip()
    if missing := re.search(r"missing \d+ required keyword-only arguments?: (.*)", text):
        return f"one that also asks for {missing[1]}"
    kind = type(error).__name__
    return f"a {kind}: {text.splitlines()[0].rstrip('.')}" if text else f"a {kind}"


def _run(transformation: Any, gradients: PyTree[Array], parameters: PyTree[Array]) -> Any:
    """Updates of a run, and states from its start on, each with an axis of steps."""
    start = transformation.init(jax.tree.map(lambda path: path[0], parameters))
    start = jax.tree.map(jnp.asarray, start)

    def body(state: Any, given: Any) -> Any:
        gradient, parameter = given
        update, after = transformation.update(gradient, state, parameter)
        # A scan's carry must not change its dtype.
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        return after, (update, after)

    _, (updates, states) = lax.scan(body, start, (gradients, parameters))
    visited = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
    return updates, visited


def _draw(random: np.random.Generator) -> list[Array]:
    """Random numbers of all sizes for every step of a run, the same `HERE` in every array."""
    sizes = 10.0 ** np.resize(SIZES, STEPS)
    drawn = [sizes * random.normal(size=(*shape, STEPS)) for shape in SHAPES]
    paths = [np.moveaxis(array, -1, 0) for array in drawn]
    for path, here in zip(paths, HERE, strict=True):
        path[here] = paths[0][HERE[0]]
    return [jnp.asarray(path) for path in paths]


@lru_cache(maxsize=CACHED)
def _check_runs(transformation: Any, hidden: bool) -> None:
    """Refuse a transformation that couples parameters or, if they are `hidden`, looks at them.

    One program is run on several gradients and parameters: what should not matter is changed.
    """
    random = np.random.default_rng(0)
    gradients, starts = _draw(random), _draw(random)
    # Going down, for those that estimate a distance; not from 0, where LARS does not scale.
    moving = [
        start[0] - 1e-3 * jnp.cumsum(path, axis=0)
        for start, path in zip(starts, gradients, strict=True)
    ]
    alone = [
        jnp.zeros_like(path).at[here].set(path[here])
        for path, here in zip(gradients, HERE, strict=True)
    ]
    run = jax.jit(lambda *given: _run(transformation, *given)[0])
    try:
        together = run(gradients, moving)
    except Exception as error:
        raise ValueError(
            f"`transformation` must update arrays of any shape, got {_complaint(error)}."
        ) from error
    if isinstance(together[0], jax.core.Tracer):
        return
    _require_component_wise(together, run(alone, moving))
    # What does not depend on parameters is equal to the last bit.
    pairs = zip(together, run(gradients, starts), strict=True)
    if hidden and not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
        raise ValueError(
            "`parameter` must be the value of x at which to look at this transformation, whose "
            "updates depend on it (by weight decay, say), got None."
        )


def _require_component_wise(together: list[Array], alone: list[Array]) -> None:
    """Refuse updates that change when other gradients become 0, or with the array."""
    before, after = (
        [np.asarray(path[here]) for path, here in zip(run, HERE, strict=True)]
        for run in (together, alone)
    )
    for shape, one, other in zip(SHAPES, before, after, strict=True):
        if np.any((gaps := _gaps(one, other)) > ROUND_OFF):
            raise ValueError(
                "`transformation` must update every parameter by itself, got one that couples "
                f"them: the update of one, in an array of shape {shape}, changed when the "
                f"gradients of others became 0, by {gaps.max():.1e} of its size at step "
                f"{gaps.argmax() + 1}."
            )
    for shape, other in zip(SHAPES[1:], before[1:], strict=True):
        if np.any(_gaps(before[0], other) > ROUND_OFF):
            raise ValueError(
                "`transformation` must not look at the array that a parameter stands in, got one "
                f"that updates it otherwise in an array of shape {shape} than alone."
            )


def _gaps(one: Float[np.ndarray, " step"], other: Float[np.ndarray, " step"]) -> np.ndarray:
    """Differences of updates in the unit of the larger; none where both are NaN."""
    size = np.maximum(np.abs(one), np.abs(other))
    with np.errstate(invalid="ignore", divide="ignore"):
        gaps = np.abs(one - other) / size
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isnan(gaps), np.inf, gaps))


@lru_cache(maxsize=CACHED)
def _counter_paths(transformation: Any) -> dict[int, Array]:
    """Integers and booleans by their place in the state: from the start on, twice, in a run
    without gradients and in one with random gradients.
    """
    random = np.random.default_rng(0)
    drawn = 10 ** random.uniform(-3, 3, LONGEST) * random.normal(size=LONGEST)
    gradients = jnp.asarray(np.stack([np.zeros(LONGEST), drawn])[..., None], float)

    def visited(gradients: Array) -> dict[int, Array]:
        states = _arrays(_run(transformation, gradients, jnp.zeros_like(gradients))[1])
        return {
            place: path
            for place, path in enumerate(states)
            if not jnp.issubdtype(path.dtype, jnp.floating)
        }

    return jax.jit(jax.vmap(visited))(gradients)


def _held(transformation: Any, leaves: tuple[StateLeaf, ...], at_step: int) -> tuple[Array, ...]:
    """Integers and booleans of the state after `at_step` updates."""
    places = [place for place, leaf in enumerate(leaves) if leaf.kind in ("counter", "flag")]
    if not places:
        return ()
    paths = _counter_paths(transformation)
    if isinstance(paths[places[0]], jax.core.Tracer):
        if at_step > LONGEST:
            raise ValueError(
                f"`at_step` must be at most {LONGEST} where hyperparameters are traced, "
                f"got {at_step}."
            )
        return tuple(paths[place][0, at_step] for place in places)
    held = []
    for place in places:
        name, (quiet, driven) = leaves[place].name, np.asarray(paths[place])
        if not np.array_equal(quiet, driven):
            raise ValueError(
                "`transformation` must have counters that do not depend on gradients, to be held "
                f"at a step, got one with `{name}`: leave `at_step` out."
            )
        held.append(jnp.asarray(_extrapolate(name, quiet, at_step)))
    return tuple(held)


def _extrapolate(name: str, path: np.ndarray, at_step: int) -> np.ndarray:
    """Entry `at_step` of a counter's path, or where it will be if it goes on evenly."""
    last = len(path) - 1
    if at_step <= last:
        return np.asarray(path[at_step])
    moves = np.diff(path.astype(np.int64), axis=0)[last // 2 :]
    if np.any(moves != moves[0]):
        raise ValueError(
            f"`at_step` must be at most {LONGEST} for a transformation whose counter `{name}` "
            f"does not count evenly, got {at_step}."
        )
    end = path[-1].astype(object) + moves[0].astype(object) * (at_step - last)
    largest = 1 if path.dtype == bool else np.iinfo(path.dtype).max
    return np.asarray(np.minimum(end, largest), path.dtype)
