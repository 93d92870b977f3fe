"""Optimizers of every kind as one thing: updates from gradients and parameters, step by step.

What is audited is this behaviour alone. A *trace* is the history of one small array of parameters;
gradients and parameters are given, so that a trace asks how an optimizer answers, wherever its own
updates would have led.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from lrevopt.optimizers.interface import AbstractOptimizer, moved_at, start_at
from lrevopt.optimizers.optax.trial_runs import trial_run
from lrevopt.specs import takes

Traces = Float[np.ndarray, "step trace dim"]

LANES = 32
"""Numbers of traces are rounded up to multiples of this: each shape compiles once."""


class Subject(NamedTuple):
    """An optimizer under audit: a name to print, and its updates on given traces."""

    name: str
    run: Callable[[Traces, Traces], Traces]


def as_subject(argument: str, optimizer: Any, name: str | None = None) -> Subject:
    """The behaviour of an optimizer of any kind that `audit` takes.

    Raises `ValueError`, naming `argument`, for anything else; so does `run`, where the optimizer
    fails.
    """
    if isinstance(optimizer, AbstractOptimizer):
        step = _of_optimizer(_in_double(optimizer))
        return Subject(name or type(optimizer).__name__, _compiled(argument, *step))
    if isinstance(optimizer, tuple) and len(optimizer) == 2 and type(optimizer) is tuple:
        if all(callable(part) for part in optimizer):
            return Subject(name or "formula", _by_hand(argument, *optimizer))
    elif all(callable(getattr(optimizer, part, None)) for part in ("init", "update")):
        run = _compiled(argument, optimizer.init, optimizer.update)
        return Subject(name or "optax", run)
    elif callable(optimizer) and not inspect.isclass(optimizer):
        said = getattr(optimizer, "__name__", "<formula>").strip("<>")
        said = "formula" if said == "lambda" else said
        return Subject(name or said, _of_history(argument, optimizer))
    raise ValueError(
        f"`{argument}` must be an optimizer, an optax transformation, a function of the gradient "
        f"history, or a pair (init, update), got {optimizer!r}."
    )


def _in_double(optimizer: AbstractOptimizer) -> AbstractOptimizer:
    """Leaves of single precision as the decimals that they stand for: 0.1, not 0.10000000149.

    An optimizer made without double precision is then the one that its user wrote down.
    """

    def read(leaf: Any) -> Any:
        if getattr(leaf, "dtype", None) != jnp.float32:
            return leaf
        host = np.asarray(leaf)
        exact = [float(str(entry)) for entry in host.ravel()]
        return jnp.asarray(np.reshape(exact, host.shape))

    with jax.enable_x64(True):
        return jax.tree.map(read, optimizer)


def _of_optimizer(
    optimizer: AbstractOptimizer,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An optimizer in state-space form as a pair of functions, as optax has them."""

    def init(parameters: Any) -> Any:
        return jax.vmap(lambda x: start_at(optimizer, x).astype(x.dtype))(parameters)

    def update(gradients: Any, states: Any, parameters: Any) -> Any:
        def one(state: Any, gradient: Any, parameter: Any) -> Any:
            return moved_at(optimizer, state, gradient, parameter)

        following = jax.vmap(one)(states, gradients, parameters)
        return following @ optimizer.readout, following

    return init, update


def _compiled(
    argument: str, init: Callable[..., Any], update: Callable[..., Any]
) -> Callable[[Traces, Traces], Traces]:
    """Updates of a pair that JAX can trace, all traces in one program of double precision."""
    pair = optax.GradientTransformation(init, update)

    def one(gradients: Any, parameters: Any) -> Any:
        updates = jnp.asarray(trial_run(pair, gradients, parameters)[0])
        if updates.shape != gradients.shape:
            raise ValueError(
                f"an update of shape {updates.shape[1:]} for a gradient of {gradients.shape[1:]}"
            )
        return _real(updates)

    program = eqx.filter_jit(jax.vmap(one, in_axes=1, out_axes=1))

    def run(gradients: Traces, parameters: Traces) -> Traces:
        count = gradients.shape[1]
        missing = -count % LANES
        padded = [np.pad(a, ((0, 0), (0, missing), (0, 0))) for a in (gradients, parameters)]
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            try:
                updates = program(*(jnp.asarray(array) for array in padded))
            except Exception as error:  # transformations raise many kinds of errors
                raise ValueError(_failed(argument, error)) from error
            return np.asarray(updates, float)[:, :count]

    return run


def _by_hand(
    argument: str, init: Callable[..., Any], update: Callable[..., Any]
) -> Callable[[Traces, Traces], Traces]:
    """Updates of a pair of plain functions, called with NumPy arrays of shape (dim,)."""

    def one(gradients: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        state, updates = init(parameters[0].copy()), []
        for gradient, parameter in zip(gradients, parameters, strict=True):
            moved, state = update(gradient.copy(), state, parameter.copy())
            updates.append(np.broadcast_to(np.asarray(_real(moved), float), gradient.shape))
        return np.array(updates)

    return _one_by_one(argument, one)


def _of_history(argument: str, formula: Callable[..., Any]) -> Callable[[Traces, Traces], Traces]:
    """Updates of a function of the gradient history of one parameter."""
    sees_parameters = takes(formula, "parameters")

    def history(gradients: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        def ask(steps: int) -> Any:
            known = [gradients[:steps].copy()]
            if sees_parameters:
                known.append(parameters[:steps].copy())
            found = formula(*known)
            if isinstance(found, str | bytes | Mapping):
                raise ValueError(f"a {type(found).__name__} is no update")
            return list(found) if isinstance(found, Iterable) else found

        found = ask(len(gradients))
        if not isinstance(found, list):  # the update after the whole history
            return np.array([float(ask(step + 1)) for step in range(len(gradients))])
        if len(found) != len(gradients):
            raise ValueError(f"{len(found)} updates for {len(gradients)} gradients")
        return np.array([float(each) for each in found])

    def one(gradients: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        columns = zip(gradients.T, parameters.T, strict=True)
        return np.stack([history(*column) for column in columns], axis=-1)

    return _one_by_one(argument, one)


def _real(updates: Any) -> Any:
    """Updates, if they are real: NumPy would drop imaginary parts."""
    if np.iscomplexobj(updates):
        raise ValueError(f"complex updates, {np.result_type(updates)}")
    return updates


def _one_by_one(
    argument: str, one: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Callable[[Traces, Traces], Traces]:
    """All traces, one after the other."""

    def run(gradients: Traces, parameters: Traces) -> Traces:
        try:
            with np.errstate(all="ignore"):
                found = [one(gradients[:, k], parameters[:, k]) for k in range(gradients.shape[1])]
        except Exception as error:  # whatever somebody else's function raises
            raise ValueError(_failed(argument, error)) from error
        return np.stack(found, axis=1)

    return run


def _failed(argument: str, error: Exception) -> str:
    text = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
    return (
        f"`{argument}` must give an update for a gradient, a state and a parameter of shape (1,) "
        f"or (3,), got a {type(error).__name__}: {text}."
    )
