"""Watch any optax optimizer inside a training loop: `observe(transformation, every=10)`.

In every `every`-th update the response of the optimizer to its gradient is measured at the state of
that moment, and a few numbers for each group of parameters go into the state.

Let R_0, R_1, R_2 be the responses of this update and of the next two to a small gradient z, where
the gradient is 0 otherwise (one Jacobian-vector product of three updates). For optimizers that
treat entries alone, z of random signs gives every entry's response at once, z R z; where entries
are coupled it is an estimate. With minus signs, so that descent is positive:

- effective learning rate: R_0, averaged over entries with weights g^2;
- memory: rho = sum R_2 / sum R_1, so that momentum's coefficient is found exactly, with the
  timescale -1 / ln rho;
- saturation: an entry is saturated if its response at the gradient met is below half of R_0;
- stability: on a quadratic of curvature H, the iterates x' = x - sum_j R_j H x alternate and grow
  beyond v.H v = 2 v.G^-1 v, G = R_0 - R_1 / (1 + rho). That is 2 / rate for gradient descent,
  2 (1 + beta) / rate for momentum, and the preconditioned threshold of Adam (Cohen et al. 2022).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from lrevopt.checks import instance, positive_integer, shown, yes_or_no
from lrevopt.optimizers.optax.recipe import is_transformation
from lrevopt.studies.observation.measuring import Loss, Step, measure_curvature, measure_groups

FIELDS = ("rates", "ratios", "memories", "saturated", "known")
"""Numbers of each group; `known` is the share of entries whose response is finite."""

CURVATURES = ("losses", "sharpness", "stable", "top_sharpness", "top_stable")
"""Numbers of each record that need a loss."""


class Records(eqx.Module):
    """The last records: row `count % length` is written next. Numbers that do not exist are 0,
    ratios `NO_RATIO`.

    `stiffest` is the direction that power iteration has reached, None without a sharpness.
    """

    count: Int[Array, ""]
    steps: Int[Array, " record"]
    groups: Float[Array, "record group field"]
    curvatures: Float[Array, "record curvature"]
    stiffest: PyTree


class ObserveState(eqx.Module):
    """State of `observe`: the optimizer's own in `inner`, and what `observation` reads."""

    inner: PyTree
    updates: Int[Array, ""]
    records: Records
    names: tuple[str, ...] = eqx.field(static=True)
    watched: bool = eqx.field(static=True)
    """Whether there is a sharpness."""


def observe(
    transformation: optax.GradientTransformation,
    *,
    every: int = 1,
    groups: Callable[[str], str] | None = None,
    length: int = 1000,
    sharpness: bool = False,
    announce: Callable[[str], None] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, which also records what it does: rate, memory, saturation, stability.

        optimizer = lo.observe(optax.adam(1e-3), every=10)
        state = optimizer.init(params)
        ...                                      # updates as ever, under jit
        print(lo.observation(state))
        lo.plot.observation(state)

    - `every`: one update in this many is measured, beginning with the first.
    - `groups`: maps an array's path, `layers.0.weight`, to its group; by default it is its own.
    - `length`: how many records are kept; older ones are overwritten.
    - `sharpness`: whether curvature is measured. Then `update` needs `loss=`, a function of the
      parameters alone (close over the batch), and takes two Hessian-vector products per record.
    - `announce`: a function such as `print` that gets a sentence, while the loop runs, whenever the
      sharpness begins to exceed what is stable; only with `sharpness=True`.

    Updates are those of `transformation`, which may couple parameters and take more arguments. The
    state is an `ObserveState`, arrays of fixed shapes. Raises `ValueError` for bad arguments and,
    in `update`, for gradients not of the parameters, and without what the sharpness needs.
    """
    every, length = positive_integer("every", every), positive_integer("length", length)
    _check_announce(announce, sharpness=yes_or_no("sharpness", sharpness))
    inner = _inner(transformation, groups)

    def init(params: PyTree) -> ObserveState:
        names = tuple(dict.fromkeys(group_names(params, groups)))
        records = _empty(params, len(names), length, sharpness)
        return ObserveState(inner.init(params), jnp.int32(0), records, names, sharpness)

    def update(
        gradients: PyTree,
        state: ObserveState,
        params: PyTree | None = None,
        *,
        loss: Loss | None = None,
        **extra: Any,
    ) -> tuple[PyTree, ObserveState]:
        _require(loss, params, wanted=sharpness)
        places = _places(gradients, params, state, groups)
        measure = _measuring(
            lambda gradient, before: inner.update(gradient, before, params, **extra),
            (gradients, params), state, places, (loss if sharpness else None, announce),
        )  # fmt: skip
        records = lax.cond(state.updates % every == 0, measure, lambda same: same, state.records)
        # The record comes first: the gradient may then be overwritten by what the update returns.
        gradients, records = lax.optimization_barrier((gradients, records))
        updates, after = inner.update(gradients, state.inner, params, **extra)
        return updates, ObserveState(after, state.updates + 1, records, state.names, sharpness)

    return optax.GradientTransformationExtraArgs(init, update)


def _inner(transformation: Any, groups: Any) -> optax.GradientTransformationExtraArgs:
    """The transformation with more arguments of `update`; refuses what is none."""
    if not is_transformation(transformation):
        kind = getattr(transformation, "__name__", type(transformation).__name__)
        hint = ": call it with its settings" if callable(transformation) else ""
        raise ValueError(
            f"`transformation` must be an optax.GradientTransformation, got {kind}{hint}."
        )
    if groups is not None and not callable(groups):
        raise ValueError(f"`groups` must be a function of an array's path or None, got {groups!r}.")
    return optax.with_extra_args_support(transformation)


def _check_announce(announce: Any, *, sharpness: bool) -> None:
    """Refuse what is no function, and one that would never be called."""
    if announce is None:
        return
    if not callable(announce):
        raise ValueError(
            f"`announce` must be a function of one sentence or None, got {shown(announce)}."
        )
    if not sharpness:
        raise ValueError(
            "`announce` must be None without sharpness=True, for it tells when the sharpness "
            f"exceeds what is stable, got {shown(announce)}."
        )


def _require(loss: Loss | None, params: PyTree | None, *, wanted: bool) -> None:
    for name, value in (("params", params), ("loss", loss)):
        if wanted and value is None:
            raise ValueError(f"`{name}` must be given to `update` where sharpness=True, got None.")
    if wanted and not callable(loss):
        raise ValueError(f"`loss` must be a function of the parameters, got {shown(loss)}.")


def _places(
    gradients: PyTree, params: PyTree | None, state: Any, groups: Callable[[str], str] | None
) -> list[int]:
    """The group of each gradient, by its number. Refuses gradients that are not of the parameters,
    and a state of another optimizer.
    """
    instance("state", state, ObserveState, "what `init` or `update` returned")
    known, found = state.names, group_names(gradients, groups)
    if unknown := [name for name in found if name not in known]:
        raise ValueError(
            "`gradients` must be of the parameters that were given to `init`, in "
            f"{', '.join(known[:4])}{', ...' * (len(known) > 4)}, got one in {unknown[0]}: a "
            "wrapper with parameters of its own, such as `optax.lookahead`, goes around "
            "`lo.observe`."
        )
    if params is not None:
        _require_shapes(gradients, params)
    return [known.index(name) for name in found]


def _require_shapes(gradients: PyTree, params: PyTree) -> None:
    places = dict(jax.tree_util.tree_leaves_with_path(params))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        wanted = jnp.shape(places[path]) if path in places else None
        if wanted != jnp.shape(gradient):
            raise ValueError(
                f"`params` must have an array of shape {jnp.shape(gradient)} where the gradient "
                f"`{jax.tree_util.keystr(path)}` is, got {'none' if wanted is None else wanted}."
            )


def _measuring(
    step: Step,
    required: tuple[PyTree, PyTree | None],
    state: ObserveState,
    places: list[int],
    options: tuple[Loss | None, Callable[[str], None] | None],
) -> Callable[[Records], Records]:
    """What writes one more record. `required` is gradients and parameters."""
    params = required[1]
    loss, announce = options

    def measure(records: Records) -> Records:
        numbers, bounds, updates = measure_groups(
            step, state.inner, required, places, state.updates
        )
        if loss is None:
            return _written(records, state.updates, numbers, None)
        found = measure_curvature(loss, (params, updates), bounds, records.stiffest)
        if announce is not None:
            _announce(announce, records, state.updates, found[0])
        return _written(records, state.updates, numbers, found)

    return measure


def group_names(tree: PyTree, groups: Callable[[str], str] | None) -> list[str]:
    """The group of each array of a tree of parameters."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".") or "parameters" for path, _ in paths
    ]
    return names if groups is None else [str(groups(name)) for name in names]


def _empty(params: PyTree, groups: int, length: int, sharpness: bool) -> Records:
    dtype = jnp.result_type(float)
    arrays = eqx.filter(params, eqx.is_array_like)
    return Records(
        count=jnp.zeros((), jnp.int32),
        steps=jnp.zeros(length, jnp.int32),
        groups=jnp.zeros((length, groups, len(FIELDS)), dtype),
        curvatures=jnp.zeros((length, len(CURVATURES)), dtype),
        stiffest=jax.tree.map(jnp.zeros_like, arrays) if sharpness else None,
    )


def _written(
    records: Records,
    step: Int[Array, ""],
    numbers: Float[Array, "group field"],
    curvature: tuple[Float[Array, " curvature"], PyTree] | None,
) -> Records:
    """One more record."""
    row = records.count % len(records.steps)
    table, stiffest = records.curvatures, records.stiffest
    if curvature is not None:
        table, stiffest = table.at[row].set(curvature[0].astype(table.dtype)), curvature[1]
    return Records(
        count=records.count + 1,
        steps=records.steps.at[row].set(step),
        groups=records.groups.at[row].set(numbers.astype(records.groups.dtype)),
        curvatures=table,
        stiffest=stiffest,
    )


def sentence(step: int, sharpness: float, stable: float) -> str:
    """The sentence that announces that the edge of stability is crossed."""
    return (
        f"In update {step + 1} the sharpness {sharpness:.4g} exceeds {stable:.4g}, up to which the "
        "optimizer is stable: the edge of stability is crossed."
    )


def beyond(sharpness: Any, stable: Any) -> Any:
    """Whether a curvature is beyond its bound; a bound of 0 is not known."""
    return (stable > 0) & (sharpness > stable)


def _announce(
    announce: Callable[[str], None],
    records: Records,
    step: Int[Array, ""],
    found: Float[Array, " curvature"],
) -> None:
    """Say so in the record in which the edge is crossed, not again while it stays so."""
    last = records.curvatures[(records.count - 1) % len(records.steps)]
    was = beyond(last[3], last[4]) & (records.count > 0)

    def say(step: Any, sharpness: Any, stable: Any) -> None:
        announce(sentence(int(step), float(sharpness), float(stable)))

    lax.cond(
        beyond(found[3], found[4]) & ~was,
        lambda: jax.debug.callback(say, step, found[3], found[4]),
        lambda: None,
    )
