"""What meta-training checks before it begins."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from lrevopt.checks import instance
from lrevopt.inner_loop.doors import check_run
from lrevopt.meta_training.settings import MetaTraining
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask


def check_training(
    task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining, key: Key[Array, ""]
) -> None:
    """Raise `ValueError` unless this optimizer can be trained on this task with these settings.

    It must have floating-point arrays with at least one number among its leaves, all of the type
    in which it computes. One problem is drawn: its first loss must be finite and above 0, because
    the objective is relative to it.
    """
    instance("settings", settings, MetaTraining, "MetaTraining settings")
    wanted = check_run(optimizer, task, key).dtype
    check_weights(optimizer, wanted)
    problem = task.sample(key)
    first = float(jnp.asarray(task.loss(problem, problem.initial_parameters, 0)))
    if not 0 < first < float("inf"):
        raise ValueError(
            "`task` must have a finite loss above 0 at initial parameters, because the objective "
            f"is relative to it, got {first:g} on a first problem."
        )


def check_weights(optimizer: AbstractOptimizer, wanted: Any) -> None:
    """Raise `ValueError` unless there is something to train, of one floating type."""
    weights = [leaf for leaf in jax.tree.leaves(optimizer) if eqx.is_inexact_array(leaf)]
    if not sum(leaf.size for leaf in weights):
        raise ValueError(
            "`optimizer` must have floating-point arrays to train, but this "
            f"{type(optimizer).__name__} has none."
        )
    # NumPy's float64 is JAX's default type, whatever that is.
    kinds = {jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in weights} - {wanted}
    if kinds:
        raise ValueError(
            f"`optimizer` must have weights of {wanted}, in which it computes, but this "
            f"{type(optimizer).__name__} has some of {kinds.pop()}."
        )
