"""Random search of the meta learning rate (paper, D.2: "tuned via random search")."""

import dataclasses
import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.checks import finite, increasing_pair, positive_integer, random_key, yes_or_no
from lrevopt.meta_training.population import meta_train_population
from lrevopt.meta_training.settings import MetaTraining
from lrevopt.meta_training.training_checks import check_training
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.storage.signals import pass_on
from lrevopt.tasks.interface import AbstractTask


class LearningRateSearch(eqx.Module):
    """Each candidate learning rate with the score of its best snapshot on selection problems.

    The first snapshot is left out, which is untrained and the same for all. `scores` are means of
    mean(losses) / losses[0], less is better; `skipped` counts meta-steps whose meta-gradient was
    not finite. `best` is the learning rate with the least score.
    """

    learning_rates: Float[np.ndarray, " candidate"]
    scores: Float[np.ndarray, " candidate"]
    skipped: Float[np.ndarray, " candidate"]
    best: float

    def settings(self, settings: MetaTraining) -> MetaTraining:
        """The same settings with the best learning rate."""
        return dataclasses.replace(settings, learning_rate=self.best)


def search_learning_rate(
    task: AbstractTask,
    optimizer: AbstractOptimizer,
    settings: MetaTraining,
    *,
    candidates: int = 8,
    bounds: tuple[float, float] = (1e-4, 1e-2),
    key: Key[Array, ""],
    progress: bool = True,
) -> LearningRateSearch:
    """Train once with each of `candidates` meta learning rates, log-uniform within `bounds`.

    All candidates start from `optimizer`, train on the same problems, as one population, and are
    compared on the same selection problems. `settings.steps` is the number of meta-steps for each;
    `settings.learning_rate` is not used. `key` draws the learning rates and the problems. No test
    problems are used. `progress` shows a progress bar. A signal that stops the training is passed
    on, for then nothing is to be compared.

    Raises `ValueError` for bounds that are reversed or not positive, fewer than one candidate,
    or if every candidate diverged.
    """
    positive_integer("candidates", candidates)
    yes_or_no("progress", progress)
    key = random_key("key", key)
    check_training(task, optimizer, settings, key)
    low, high = increasing_pair("bounds", bounds)
    finite("bounds", low, above=0.0)
    draw_key, train_key = jr.split(key)
    exponents = jr.uniform(draw_key, (candidates,), minval=math.log(low), maxval=math.log(high))
    rates = np.exp(np.asarray(exponents, float))
    found = meta_train_population(
        task,
        [optimizer] * candidates,
        settings,
        keys=jnp.stack([train_key] * candidates),
        learning_rates=rates,
        progress=progress,
    )
    pass_on(found.outcome)
    trained = np.stack([run.history.selection_scores[1:] for run in found.members])
    scores = np.where(np.isnan(trained), np.inf, trained).min(axis=1)
    if not np.any(np.isfinite(scores)):
        raise ValueError(f"`bounds` must hold a learning rate that does not diverge, got {bounds}.")
    return LearningRateSearch(
        learning_rates=rates,
        scores=scores,
        skipped=np.array([run.history.skipped for run in found.members], float),
        best=float(rates[np.argmin(scores)]),
    )
