"""Meta-objectives, which a learned optimizer is trained to minimise (paper, D.2).

`losses[0]` is the loss of the initial parameters. Each objective is a number per problem;
training, tuning and selection minimise its mean over problems. A run that begins at a loss of 0 and
stays there has the ratio 1; one that leaves has the ratio infinity.

    mean        mean(losses) / losses[0]          the paper's average loss over the initial loss
    log_mean    log of the above                  gives every problem the same weight
    final       losses[-1] / losses[0]
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lrevopt.checks import one_of, real_array
from lrevopt.inner_loop.objective_kinds import OBJECTIVES as OBJECTIVES
from lrevopt.inner_loop.objective_kinds import Objective as Objective


def meta_objective(
    losses: Float[Array, "*problem visited"], kind: Objective = "mean"
) -> Float[Array, "*problem"]:
    """Meta-objective of one run, or of many along leading axes (paper, D.2).

    `losses[..., k]` is the loss after k updates. `kind` is "mean", mean(losses) / losses[0]; its
    logarithm "log_mean"; or "final", losses[-1] / losses[0]. Less is better. Raises `ValueError`
    for another kind, and for losses that are not real numbers or have no entry.
    """
    losses = jnp.asarray(real_array("losses", losses))
    if losses.ndim == 0 or losses.shape[-1] == 0:
        raise ValueError(f"`losses` must hold at least one loss, got shape {losses.shape}.")
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        losses = losses.astype(float)
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
        return _over_first(last, first)
    ratio = _over_first(mean, first)
    return jnp.log(ratio) if kind == "log_mean" else ratio


def _over_first(
    losses: Float[Array, "*problem"], first: Float[Array, "*problem"]
) -> Float[Array, "*problem"]:
    """`losses / first`; over a first loss of 0, 1 for 0 and infinity for more."""
    zero = first == 0
    ratio = losses / jnp.where(zero, 1.0, first)
    return jnp.where(zero & (losses == 0), 1.0, jnp.where(zero, jnp.inf, ratio))


def log_objectives(objectives: Float[np.ndarray, "*problem"]) -> Float[np.ndarray, "*problem"]:
    """Natural logarithms, for ratios; NaN where a mean loss of 0 or less has no ratio to others."""
    positive = objectives > 0
    return np.where(positive, np.log(np.where(positive, objectives, 1.0)), np.nan)


def ratio_of_means(ours: float, theirs: float) -> float:
    """Of two means: 1 for two of 0; NaN for one below 0, where a larger ratio may be better."""
    if min(ours, theirs) < 0:
        return np.nan
    if theirs == 0:
        return np.inf if ours else 1.0
    return ours / theirs
