"""Trainings whose losses, penalties or scores are not numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import Quadratic

import lrevopt as lo

SETTINGS = lo.MetaTraining(
    steps=4, unroll=5, problems=4, selection_problems=4, snapshot_every=2, early_snapshots=False,
    warm_up=0, schedule="constant", clip=1.0,
)  # fmt: skip
KEY = jr.key(0)
PARABOLA = Quadratic(jnp.ones(1), jnp.ones(1))


@pytest.mark.parametrize("together", [False, True])
def test_a_penalty_that_is_not_a_number_skips_the_step(together):
    """Without gradients, states grow by 3 an update: over 1,000 updates, drift overflows."""
    growing = lo.LinearOptimizer(
        jnp.zeros(1), jnp.array([[3.0]]), jnp.array([1.0]), jnp.array([-1e-3])
    )
    settings = dataclasses.replace(SETTINGS, drift_penalty=1e-3)
    if together:
        run = lo.meta_train_population(
            PARABOLA, [growing], settings, keys=KEY[None], progress=False
        ).members[0]
    else:
        run = lo.meta_train(PARABOLA, growing, settings, key=KEY, progress=False)
    assert np.isfinite(run.history.objectives).all()
    assert run.history.skipped == settings.steps
    for last, first in zip(jax.tree.leaves(run.last), jax.tree.leaves(growing), strict=True):
        np.testing.assert_array_equal(last, first)
    np.testing.assert_array_equal(run.history.selection_scores, np.inf)
