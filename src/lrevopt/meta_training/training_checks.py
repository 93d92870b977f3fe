"""What meta-training checks before it begins."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lrevopt.checks import instance
from lrevopt.inner_loop.run_checks import check_first_losses, check_run
from lrevopt.meta_training.settings import MetaTraining
from lrevopt.optimizers.interface import AbstractOptimizer, AbstractParameterOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems


def check_training(
    task: AbstractTask,
    optimizer: AbstractOptimizer,
    settings: MetaTraining,
    key: Key[Array, ""],
    name: str = "optimizer",
) -> None:
    """Raise `ValueError` unless this optimizer can be trained on this task with these settings.

    It must have floating-point arrays with at least one number among its leaves. One problem is
    drawn: its first loss must be finite and above 0, because the objective is relative to it.
    A penalty on drift needs updates that do not depend on the parameter. `name` is what the message
    calls the optimizer.
    """
    instance("settings", settings, MetaTraining, "MetaTraining settings")
    check_run(optimizer, task, key, name)
    if settings.drift_penalty and isinstance(optimizer, AbstractParameterOptimizer):
        raise ValueError(
            f"`drift_penalty` must be 0 for this {type(optimizer).__name__}, whose updates depend "
            f"on the value of x, got {settings.drift_penalty:g}."
        )
    weights = [leaf for leaf in jax.tree.leaves(optimizer) if eqx.is_inexact_array(leaf)]
    if not sum(leaf.size for leaf in weights):
        raise ValueError(
            f"`{name}` must have floating-point arrays to train, but this "
            f"{type(optimizer).__name__} has none."
        )
    problem = task.sample(key)
    first = float(jnp.asarray(task.loss(problem, problem.initial_parameters, 0)))
    if not 0 < first < float("inf"):
        raise ValueError(
            "`task` must have a finite loss above 0 at initial parameters, because the objective "
            f"is relative to it, got {first:g} on a first problem."
        )


def selection_problems(
    task: AbstractTask, key: Key[Array, ""], settings: MetaTraining
) -> PyTree[Array]:
    """Problems on which snapshots are scored, drawn from `key`.

    Whether they fit into memory is for `check_sizes` to say, before. Raises `ValueError` unless all
    their first losses are finite and above 0. A snapshot's score is infinite if one problem's is,
    and of a start of loss 0 that is so of all that move from it.
    """
    problems = sample_problems(task, key, settings.selection_problems)
    check_first_losses(task, problems, finite=True, positive=True)
    return problems
