"""What every function that runs an optimizer on a task checks before it begins.

Only shapes and types are followed through the optimizer and the task. The first losses of problems
that have been drawn are the one thing that is computed, where an objective is relative to them.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.checks import shown
from lrevopt.inner_loop.steps import losses_of
from lrevopt.optimizers.interface import AbstractOptimizer, check_optimizer
from lrevopt.tasks.interface import AbstractTask, check_task, drawn_parameters

AT_A_TIME = 64
"""Problems whose first losses are computed side by side."""


def check_run(
    optimizer: AbstractOptimizer, task: AbstractTask, key: Key[Array, ""], name: str = "optimizer"
) -> Any:
    """Shape and type of a draw's parameters, if this optimizer can be run on this task.

    Raises `ValueError` for what is no optimizer, no task or no single key, and for each way in
    which the two do not fit (see `check_optimizer` and `check_task`). `name` is what the message
    calls the optimizer.
    """
    dtype = check_optimizer(optimizer, name)
    parameters = drawn_parameters(task, key)
    _fine_enough(optimizer, dtype, parameters.dtype, name)
    return parameters


def check_fit(optimizer: AbstractOptimizer, task: AbstractTask, problem: Any) -> None:
    """As `check_run`, for a problem that has been drawn."""
    dtype = check_optimizer(optimizer)
    check_task(task, problem)
    _fine_enough(
        optimizer,
        dtype,
        jax.dtypes.canonicalize_dtype(problem.initial_parameters.dtype),
        "optimizer",
    )


def check_stacked(name: str, tree: Any) -> None:
    """Raise `ValueError` unless all arrays have one common first axis of at least 1."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    shapes = [leaf.shape for leaf in leaves]
    if not shapes or () in shapes or len({shape[0] for shape in shapes} | {0}) != 2:
        found = f"shapes {shapes}" if len(str(shapes)) <= 80 else f"{len(shapes)} arrays"
        found = found if shapes else shown(tree)
        raise ValueError(f"`{name}` must be arrays with one common first axis, got {found}.")


def check_first_losses(
    task: AbstractTask, problems: Any, *, finite: bool = False, positive: bool = False
) -> None:
    """Raise `ValueError` unless the first losses of stacked problems are at least 0.

    With `finite` they must be finite, too, and with `positive` above 0. Traced problems pass.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((task, problems))):
        return
    first = np.asarray(_first_losses(task, problems))
    unfit = first <= 0 if positive else first < 0
    if finite:
        unfit |= ~np.isfinite(first)
    if unfit.any():
        wanted = f"{'finite ' * finite}losses {'above' if positive else 'of at least'} 0"
        found = float(first[unfit].min())
        more = ": add a constant to the loss" if found <= 0 else ""
        raise ValueError(
            f"`task` must have {wanted} at initial parameters, because meta-objectives are "
            f"relative to them, got {found:.3g} on {unfit.sum()} of {unfit.size} problems{more}."
        )


@eqx.filter_jit
def _first_losses(task: AbstractTask, problems: Any) -> Float[Array, " problem"]:
    def first(problem: Any) -> Any:
        stacked = jax.tree.map(lambda leaf: leaf[None], problem)
        return losses_of(task, stacked, stacked.initial_parameters, 0)[0]

    return jax.lax.map(first, problems, batch_size=AT_A_TIME)


def first_of(stacked: Any) -> Any:
    """The first entry of every array."""
    return jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, stacked)


def _fine_enough(optimizer: AbstractOptimizer, own: Any, other: Any, name: str) -> None:
    """Parameters of lower precision than the optimizer's state are rounded once a step."""
    if jnp.finfo(own).bits < jnp.finfo(other).bits:
        raise ValueError(
            f"`{name}` must compute in at least the type of the task's parameters, {other}, but "
            f"this {type(optimizer).__name__} computes in {own}."
        )
