"""A task from a user's own functions: a loss of any pytree of parameters.

    task = FunctionTask(loss, init)                      loss(params), init(key) -> params
    task = FunctionTask(loss, init, batches)             loss(params, batch)

`params` is what `init` returns: an Equinox module, Flax's dictionaries, nested dictionaries,
lists and tuples of arrays, one array. Optimizers see its floating-point arrays as one flat
vector; `task.parameters(problem, flat)` is the way back.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, PyTree, UInt32

from lrevopt.checks import text
from lrevopt.storage.contents import full_name
from lrevopt.storage.sameness import Static
from lrevopt.tasks.batches import as_batches
from lrevopt.tasks.callables import (
    Callback,
    as_array,
    check_no_tracers,
    digest,
    shown,
)
from lrevopt.tasks.interface import AbstractProblem, AbstractTask, Step


class FunctionProblem(AbstractProblem):
    """Initial parameters of one draw, and what is drawn with them.

    `carried` has, for each leaf of `init`'s tree, an array that is not trained or None. `seed`
    makes the key that `batches(step, key)` is called with.
    """

    initial_parameters: Float[Array, " dim"]
    carried: list[Array | None]
    seed: UInt32[Array, "2"]


class _Layout(eqx.Module):
    """Where the leaves of `init`'s tree stand in the flat vector. All static."""

    structure: jax.tree_util.PyTreeDef = eqx.field(static=True)
    rest: Static = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dtypes: tuple[str, ...] = eqx.field(static=True)
    trained: tuple[bool, ...] = eqx.field(static=True)

    def spans(self) -> list[slice]:
        """The slice of each trained leaf."""
        spans, first = [], 0
        for shape in self.shapes:
            spans.append(slice(first, first + math.prod(shape)))
            first += math.prod(shape)
        return spans


class FunctionTask(AbstractTask):
    """A task from a loss and a way to draw initial parameters.

    - `loss`: `loss(params)`, or `loss(params, batch)` with batches. Returns a floating scalar,
      a function of `params` that JAX can differentiate twice.
    - `init`: `init(key)` draws a pytree. Its floating-point arrays (JAX's and NumPy's) are
      trained. Integers, booleans and random keys among its arrays are carried along as drawn;
      everything else (activation functions, Python numbers, strings) is static.
    - `batches`: what `loss` sees at inner step k = 0, 1, ...: a pytree of arrays whose first axis
      counts steps, of which entry k modulo their number is taken; or a function `batches(k)` or
      `batches(k, key)` that JAX can trace. `key` belongs to the problem and is the same at each
      step: data drawn from it alone are data of the problem, `jr.fold_in(key, k)` is fresh at
      each step. `Minibatches` draws them from a dataset. A second argument that has a default and
      another name than `key` is left at it.
    - `metrics`: `metrics(params)` returns scalars by name that evaluations report of final
      parameters.
    - `title`: what reports and figures call the task.

    A problem is a draw of `key`, split into one for `init` and one for `batches`. The flat vector
    has JAX's default floating type; the loss sees each leaf in its own type again, so leaves of
    different types may be mixed. `parameter_groups` has the tree's paths, `layers.0.weight`.

    Data belong into `batches`, or into arguments that `functools.partial` binds, or into fields
    of an Equinox module that is called: they are then arguments of compiled functions. What a
    function closes over becomes a constant of every program. Two tasks of the same functions and
    of data of the same shapes share compiled programs, also if they are lambdas, if all that the
    functions refer to has the same contents when the tasks are made. Where it changes later, make
    the task anew: what is compiled already stays as it is.

    Raises `ValueError` for functions that are not callable with these arguments, a tree without
    floating-point arrays or with complex ones, a loss or metrics that are not such scalars, batches
    that have no common first axis, and functions that close over arrays that are being traced.
    """

    loss_function: Callback
    init_function: Callback
    metrics_function: Callback | None
    batches: Callback | PyTree[Array]
    layout: _Layout
    name: str = eqx.field(static=True)

    def __init__(
        self,
        loss: Callable[..., Any],
        init: Callable[..., Any],
        batches: Any = None,
        *,
        metrics: Callable[..., Any] | None = None,
        title: str = "own task",
    ):
        self.loss_function = _callback("loss", loss, 1 if batches is None else 2)
        self.init_function = _callback("init", init, 1)
        self.metrics_function = None if metrics is None else _callback("metrics", metrics, 1)
        self.batches = as_batches(batches)
        self.name = text("title", title)
        self.layout = _layout_of(self.init_function)
        self._check()

    def _check(self) -> None:
        """The loss and metrics of a draw are floating scalars."""
        problem = eqx.filter_eval_shape(self.sample, jr.key(0))
        found = _evaluated("loss", self._loss_of, problem, problem.initial_parameters)
        if not _is_floating_scalar(found):
            raise ValueError(f"`loss` must return a floating scalar, got {shown(found)}.")
        if self.metrics_function is None:
            return
        named = _evaluated("metrics", self._metrics_of, problem, problem.initial_parameters)
        scalars = isinstance(named, dict) and all(
            isinstance(name, str) and _is_real_scalar(value) for name, value in named.items()
        )
        if not scalars:
            raise ValueError(f"`metrics` must return scalars by name, got {shown(named)}.")

    @property
    def title(self) -> str:
        return self.name

    @property
    def parameter_groups(self) -> dict[str, slice]:
        pairs = zip(self.layout.names, self.layout.spans(), strict=True)
        return {name: span for name, span in pairs if span.start < span.stop}

    def sample(self, key: Key[Array, ""]) -> FunctionProblem:
        init_key, batch_key = jr.split(key)
        leaves = jax.tree.leaves(self.init_function(init_key))
        leaves = [as_array(leaf) for leaf in leaves]
        pairs = list(zip(leaves, self.layout.trained, strict=True))
        dtype = default_dtype()
        flat = jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf, on in pairs if on])
        kept = [leaf if eqx.is_array(leaf) and not on else None for leaf, on in pairs]
        return FunctionProblem(flat, kept, jr.bits(batch_key, (2,), jnp.uint32))

    def parameters(self, problem: FunctionProblem, flat: Float[Array, " dim"]) -> Any:
        """The pytree that a flat vector stands for: what `init` returns, with these values.

        `problem` is the draw that the vector belongs to: it has the leaves that are not trained.
        """
        layout = self.layout
        parts = zip(layout.spans(), layout.shapes, layout.dtypes, strict=True)
        values = (flat[span].reshape(shape).astype(dtype) for span, shape, dtype in parts)
        rest = zip(layout.trained, problem.carried, layout.rest.value, strict=True)
        leaves = [
            next(values) if on else static if kept is None else kept for on, kept, static in rest
        ]
        return jax.tree.unflatten(layout.structure, leaves)

    def batch(self, problem: FunctionProblem, step: Step) -> Any:
        """What the loss sees at step `step`, counted from 0. None for a task without batches."""
        if isinstance(self.batches, Callback):
            key = jr.wrap_key_data(problem.seed, impl="threefry2x32")
            return self.batches(step, key) if self.batches.takes_key() else self.batches(step)
        if self.batches is None:
            return None
        count = jax.tree.leaves(self.batches)[0].shape[0]
        place = jnp.asarray(step, jnp.int32) % count
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, keepdims=False), self.batches
        )

    def loss(
        self, problem: FunctionProblem, parameters: Float[Array, " dim"], step: Step
    ) -> Float[Array, ""]:
        return self._loss_of(problem, parameters, step).astype(parameters.dtype)

    def metrics(
        self, problem: FunctionProblem, parameters: Float[Array, " dim"]
    ) -> dict[str, Array]:
        found = {} if self.metrics_function is None else self._metrics_of(problem, parameters)
        return {name: jnp.asarray(value, parameters.dtype) for name, value in found.items()}

    def _loss_of(self, problem: FunctionProblem, flat: Float[Array, " dim"], step: Step = 0) -> Any:
        params = self.parameters(problem, flat)
        if self.batches is None:
            return self.loss_function(params)
        return self.loss_function(params, self.batch(problem, step))

    def _metrics_of(self, problem: FunctionProblem, flat: Float[Array, " dim"]) -> Any:
        assert self.metrics_function is not None
        return self.metrics_function(self.parameters(problem, flat))

    def description(self) -> dict[str, Any]:
        """What makes it this task, as JSON, the same in each process: names and digests.

        A digest of a function covers its source and what it closes over and refers to.
        """
        functions = {
            "loss": self.loss_function,
            "init": self.init_function,
            "metrics": self.metrics_function,
            "batches": self.batches if isinstance(self.batches, Callback) else None,
        }
        found: dict[str, Any] = {
            name: {"name": full_name(function.parts()[0]), "digest": digest(function)}
            for name, function in functions.items()
            if function is not None
        }
        if "batches" not in found and self.batches is not None:
            shapes = [list(leaf.shape) for leaf in jax.tree.leaves(self.batches)]
            found["batches"] = {"shapes": shapes, "digest": digest(jax.tree.leaves(self.batches))}
        shapes = [list(shape) for shape in self.layout.shapes]
        parameters = dict(zip(self.layout.names, shapes, strict=True))
        return found | {"title": self.name, "parameters": parameters}


def default_dtype() -> jnp.dtype:
    """JAX's default floating type: float32, or float64 where that is enabled."""
    return jnp.zeros(()).dtype


def _callback(name: str, function: Any, arguments: int) -> Callback:
    if not callable(function):
        raise ValueError(f"`{name}` must be a function, got {shown(function)}.")
    check_no_tracers(name, function)
    callback = Callback(function)
    if not callback.takes(arguments):
        wanted = {"loss": "params, batch", "init": "key", "metrics": "params"}[name]
        wanted = "params" if arguments == 1 and name == "loss" else wanted
        reason = {1: " without `batches`", 2: " with `batches`"}[arguments] * (name == "loss")
        raise ValueError(
            f"`{name}` must be callable as {name}({wanted}){reason}, got {callback.signature()}."
        )
    return callback


def _layout_of(init: Callback) -> _Layout:
    """The tree that `init` returns, without computing it."""

    def drawn(key: Key[Array, ""]) -> Any:
        return jax.tree.map(as_array, init(key))

    tree = _evaluated("init", drawn, jr.key(0))
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    trained = [_is_trained(leaf) for _, leaf in pairs]
    _check_leaves(tree, pairs, trained)
    parameters = [(path, leaf) for (path, leaf), on in zip(pairs, trained, strict=True) if on]
    return _Layout(
        structure=structure,
        rest=Static(tuple(None if _is_array(leaf) else leaf for _, leaf in pairs)),
        names=_names([path for path, _ in parameters]),
        shapes=tuple(leaf.shape for _, leaf in parameters),
        dtypes=tuple(str(leaf.dtype) for _, leaf in parameters),
        trained=tuple(trained),
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)


def _is_trained(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _check_leaves(tree: Any, pairs: list[Any], trained: list[bool]) -> None:
    if not pairs:
        raise ValueError(f"`init` must return a tree with arrays, got {shown(tree)}.")
    for path, leaf in pairs:
        if _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"`init` must return real parameters, got {leaf.dtype} for "
                f"{_names([path])[0]}: use two real arrays."
            )
    if not any(on and math.prod(leaf.shape) for (_, leaf), on in zip(pairs, trained, strict=True)):
        raise ValueError(
            f"`init` must return at least one floating-point array, got {shown(tree)}."
        )


def _names(paths: list[Any]) -> tuple[str, ...]:
    """`layers.0.weight` from each path; the paths as JAX prints them where that is ambiguous.

    The variables of Flax's nnx, each with one array called `value`, do not show.
    """
    plain = [
        path[:-1] if len(path) > 1 and getattr(path[-1], "name", "") == "value" else path
        for path in paths
    ]
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".") or "parameters" for path in plain
    ]
    if len(set(names)) < len(names):
        names = [jax.tree_util.keystr(path) for path in paths]
    return tuple(names)


def _evaluated(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Shapes of what a function returns."""
    try:
        return eqx.filter_eval_shape(function, *arguments)
    except jax.errors.UnexpectedTracerError:
        raise ValueError(
            f"`{name}` must not use an array of a transformation that has ended (jit, grad or "
            f"vmap): pass it through `batches`, or create the task outside."
        ) from None


def _is_floating_scalar(value: Any) -> bool:
    return getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, jnp.floating)


def _is_real_scalar(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return True
    scalar = getattr(value, "shape", None) == ()
    return scalar and not jnp.issubdtype(value.dtype, jnp.complexfloating)
