"""Trainings whose losses, penalties or scores are not numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import Quadratic

import lrevopt as lo
from lrevopt.meta_training.records import collapsed

SETTINGS = lo.MetaTraining(
    steps=4, unroll=5, problems=4, selection_problems=4, snapshot_every=2, early_snapshots=False,
    warm_up=0, schedule="constant", clip=1.0,
)  # fmt: skip
KEY = jr.key(0)
PARABOLA = Quadratic(jnp.ones(1), jnp.ones(1))


def trained(task, optimizer, settings, together):
    """The outcome of one training, alone or as the only member of a population."""
    if not together:
        return lo.meta_train(task, optimizer, settings, key=KEY, progress=False)
    keys = KEY[None]
    return lo.meta_train_population(task, [optimizer], settings, keys=keys, progress=False).members[
        0
    ]


@pytest.mark.parametrize("together", [False, True])
def test_a_penalty_that_is_not_a_number_skips_the_step(together):
    """Without gradients, states grow by 3 an update: over 1,000 updates, drift overflows."""
    growing = lo.LinearOptimizer(
        jnp.zeros(1), jnp.array([[3.0]]), jnp.array([1.0]), jnp.array([-1e-3])
    )
    settings = dataclasses.replace(SETTINGS, drift_penalty=1e-3)
    run = trained(PARABOLA, growing, settings, together)
    assert np.isfinite(run.history.objectives).all()
    assert run.history.skipped == settings.steps
    for last, first in zip(jax.tree.leaves(run.last), jax.tree.leaves(growing), strict=True):
        np.testing.assert_array_equal(last, first)
    np.testing.assert_array_equal(run.history.selection_scores, np.inf)


def some_start_at_the_minimum(key):
    """Starts, of which one in twenty is the minimum of a parabola."""
    place, kept = jr.split(key)
    return jnp.where(jr.uniform(kept) > 0.05, 1 + jr.normal(place, (2,)), 0.0)


UNFIT = [
    (0.0, some_start_at_the_minimum, r"got 0 on \d of 64 problems: add a constant to the loss"),
    (-1.5, lambda key: jr.normal(key, (2,)), r"got -.* on \d+ of 64 problems: add a constant"),
    (0.0, lambda key: jnp.where(jr.uniform(key) < 0.05, jnp.inf, jnp.ones(2)), "got inf on"),
]
"""What is added to a parabola, its starts, and what is said of their losses."""


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("added", "start", "words"), UNFIT)
@pytest.mark.parametrize("how", ["alone", "together", "cma"])
def test_first_losses_that_nothing_is_relative_to_are_refused(how, added, start, words, tmp_path):
    """One such problem would make every score infinite, and each snapshot a rollback."""
    task = lo.FunctionTask(lambda x: (x**2).sum() + added, start)
    optimizer, folder = lo.Momentum(0.01, 0.5), tmp_path / "run"
    key = next(
        key
        for key in jr.split(jr.key(1), 20)
        if 0 < task.loss(problem := task.sample(key), problem.initial_parameters, 0) < jnp.inf
    )
    settings = dataclasses.replace(
        SETTINGS, selection_problems=64, estimator="cma" if how == "cma" else "exact"
    )
    options = {"directory": folder, "progress": False}

    def train():
        if how == "together":
            lo.meta_train_population(task, [optimizer], settings, keys=key[None], **options)
        else:
            lo.meta_train(task, optimizer, settings, key=key, **options)

    with pytest.raises(ValueError, match="losses above 0 at initial parameters, .* " + words):
        train()
    assert not list(folder.glob("*"))


def test_an_untrained_optimizer_is_not_selected_without_a_word():
    """Any first step of 1e10 in momentum's rate diverges."""
    settings = dataclasses.replace(SETTINGS, learning_rate=1e10)
    task, optimizer = lo.Rosenbrock(), lo.Momentum(1e-4, 0.5)
    run = lo.meta_train(task, optimizer, settings, key=KEY, progress=False)
    np.testing.assert_array_equal(run.history.selection_scores[1:], np.inf)
    assert run.history.selected == 0
    assert np.isfinite(run.history.selection_scores[0])
    end = "at meta-step 0: untrained, because all later scores are infinite"
    assert run.history.summary().endswith(end)
    sound = lo.meta_train(PARABOLA, lo.Momentum(0.01, 0.5), SETTINGS, key=KEY, progress=False)
    assert "untrained" not in sound.history.summary()


def test_a_search_whose_candidates_all_diverge_is_refused():
    """The score of the untrained optimizer is none of theirs."""
    with pytest.raises(ValueError, match="`bounds` must hold a learning rate that does not div"):
        lo.search_learning_rate(
            lo.Rosenbrock(), lo.Momentum(1e-4, 0.5), SETTINGS, candidates=2, bounds=(1e9, 1e10),
            key=KEY, progress=False,
        )  # fmt: skip


def below_zero(x):
    """A loss whose minimum, at 3, is -1/2."""
    return ((x - 3.0) ** 2).sum() / 9 - 0.5


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("together", [False, True])
def test_a_score_below_zero_that_improves_is_no_collapse(together):
    """Twice a negative score is a better one: each snapshot seemed to be worse than that."""
    task = lo.FunctionTask(below_zero, lambda key: 0.1 * jr.normal(key, (1,)))
    settings = dataclasses.replace(SETTINGS, steps=6, unroll=20, learning_rate=1e-2)
    optimizer = lo.Momentum(0.3, 0.5)
    run = trained(task, optimizer, settings, together)
    scores = run.history.selection_scores
    assert (np.diff(scores) < 0).all()
    assert (scores < 0).all()
    assert run.history.rollbacks == 0


def test_what_counts_as_a_collapse():
    """Twice 0.1, and 0.1 above -0.1, are the limits for a ratio of 2."""
    scores, best = np.array([0.19, 0.21, -0.01, 0.01, np.inf]), np.array([0.1, 0.1, -0.1, -0.1, 1])
    np.testing.assert_array_equal(collapsed(scores, best, 2.0), [False, True, False, True, True])
    # Of 3: 0.2 above -0.1. With none ever below the best, and never without a ratio.
    assert not collapsed(np.float32(0.09), np.float32(-0.1), 3.0)
    assert collapsed(np.float32(0.11), np.float32(-0.1), 3.0)
    assert not collapsed(np.float32(-0.1), np.float32(-0.1), 1.01)
    assert not collapsed(np.float32(np.inf), np.float32(np.inf), 2.0)
    assert not collapsed(scores, best, None).any()
