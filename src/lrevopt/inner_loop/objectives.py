"""Meta-objectives, which a learned optimizer is trained to minimise (paper, D.2).

`losses[0]` is the loss of the initial parameters. Each objective is a number per problem;
training, tuning and selection minimise its mean over problems.

    mean        mean(losses) / losses[0]          the paper's average loss over the initial loss
    log_mean    log of the above                  gives every problem the same weight
    final       losses[-1] / losses[0]
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lrevopt.checks import one_of
from lrevopt.inner_loop.objective_kinds import OBJECTIVES as OBJECTIVES
from lrevopt.inner_loop.objective_kinds import Objective as Objective


def meta_objective(
    losses: Float[Array, "*problem visited"], kind: Objective = "mean"
) -> Float[Array, "*problem"]:
    """Meta-objective of one run, or of many along leading axes.

    `kind` is "mean", "log_mean" or "final"; `ValueError` for another.
    """
    return objective_of_summary(losses[..., 0], losses.mean(axis=-1), losses[..., -1], kind)


def objective_of_summary(
    first: Float[Array, "*problem"],
    mean: Float[Array, "*problem"],
    last: Float[Array, "*problem"],
    kind: Objective = "mean",
) -> Float[Array, "*problem"]:
    """`meta_objective` from a run's first, mean and last loss, where losses are not kept."""
    one_of("kind", kind, OBJECTIVES)
    if kind == "final":
        return last / first
    return jnp.log(mean / first) if kind == "log_mean" else mean / first
