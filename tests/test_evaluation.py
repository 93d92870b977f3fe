"""Evaluation: the same problems for all, divergence counted, intervals that cover."""

import contextlib
import shutil
from pathlib import Path

import equinox as eqx
import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop import evaluation
from lrevopt.inner_loop.evaluation import Evaluation, comparison, evaluate, paired_interval
from lrevopt.runs import evaluate as comparing
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import key_stream
from lrevopt.tasks import AbstractTask, sample_problems

TASK = lo.LinearRegression(dim=3)
SHIPPED = Path(__file__).parent.parent / "results"
SLOW, FAST = lo.GradientDescent(0.1), lo.GradientDescent(1.0)


def test_losses_are_those_of_unroll_on_shared_problems():
    key = jr.key(0)
    result = evaluate({"slow": SLOW, "fast": FAST}, TASK, problems=4, steps=6, key=key)
    problems = eqx.filter_jit(sample_problems)(TASK, key, 4)
    one = eqx.filter_jit(lambda optimizer, problem: lo.unroll(optimizer, TASK, problem, 6).losses)
    for j in range(4):
        problem = jax.tree.map(lambda leaf, place=j: leaf[place], problems)
        # Same arithmetic in another batch: a few units of round-off.
        np.testing.assert_allclose(result.losses[0, j], one(SLOW, problem), rtol=1e-12)
        np.testing.assert_allclose(result.losses[1, j], one(FAST, problem), rtol=1e-12)


def test_gradient_descent_with_an_exact_rate_solves_isotropic_problems():
    """With all eigenvalues near 1, one step of learning rate 1 lands on the minimum."""
    task = lo.LinearRegression(dim=2, log10_eigenvalues=(-1e-9, 0.0))
    result = evaluate({"exact": FAST}, task, problems=5, steps=4, key=jr.key(1))
    # Losses are (f0, 0, 0, 0, 0) up to the square of the spread of eigenvalues.
    np.testing.assert_allclose(result.meta_objectives()[0], 1 / 5, rtol=1e-12)
    np.testing.assert_allclose(result.meta_objectives("log_mean")[0], -np.log(5), rtol=1e-12)
    assert np.all(result.meta_objectives("final")[0] < 1e-12)


class CountedTask(AbstractTask):
    """Linear regression that counts how often its loss is traced."""

    traces: list = eqx.field(static=True)

    def __hash__(self) -> int:
        return id(self.traces)

    def sample(self, key):
        return TASK.sample(key)

    def loss(self, problem, parameters, step):
        self.traces.append(step)
        return TASK.loss(problem, parameters, step)


def test_a_structure_compiles_once():
    """Other values and other keys of the same shape run the program that is there."""
    task = CountedTask([])
    evaluate({"a": SLOW}, task, problems=2, steps=3, key=jr.key(0))
    first = len(task.traces)
    evaluate({"b": FAST, "c": SLOW}, task, problems=2, steps=3, key=jr.key(1))
    assert first > 0
    assert len(task.traces) == first


def test_divergence_is_counted_and_never_a_nan():
    steep = lo.GradientDescent(1e200)
    result = evaluate({"bad": steep, "good": FAST}, TASK, problems=6, steps=10, key=jr.key(2))
    np.testing.assert_array_equal(result.diverged(), [6, 0])
    assert np.all(result.meta_objectives()[0] == np.inf)
    assert not np.isnan(result.mean_curve()).any()
    assert not np.isnan(result.standard_error()).any()
    assert np.isfinite(result.mean_curve()[:, 0]).all()
    lost = result.compare("bad", "good")
    assert (lost.difference, lost.low, lost.high) == (np.inf, np.inf, np.inf)
    assert (lost.ratio_of_means, lost.diverged, lost.baseline_diverged) == (np.inf, 6, 0)
    won = result.compare("good", "bad")
    assert (won.difference, won.high, won.ratio_of_means) == (-np.inf, -np.inf, 0.0)
    tie = result.compare("bad", "bad")
    assert (tie.difference, tie.low, tie.high) == (0.0, 0.0, 0.0)


def shifted(by):
    """A parabola and a constant, from starts between (0.3, 0.3) and (0.6, 0.6)."""
    return lo.FunctionTask(
        lambda x: jnp.sum(x**2) + by, lambda key: 0.3 * (1 + jr.uniform(key, (2,)))
    )


def test_losses_without_a_logarithm_count_as_diverged():
    """Losses that begin above 0 and have a mean below 0."""
    found = evaluate({"slow": lo.GradientDescent(1e-3), "fast": SLOW}, shifted(-0.05), problems=8,
                     steps=40, key=jr.key(0))  # fmt: skip
    scores = found.mean_scores("log_mean")
    assert np.isfinite(scores["slow"])
    assert scores["fast"] == np.inf
    compared = found.compare("fast", "slow", "log_mean")
    assert compared.difference == compared.ratio_of_means == np.inf
    assert compared.diverged > 0
    assert found.mean_scores()["fast"] < found.mean_scores()["slow"]


def test_negative_first_losses_are_refused_before_the_runs(monkeypatch):
    monkeypatch.setattr(evaluation, "_run", None)
    with pytest.raises(ValueError, match=r"must have losses of at least 0 .* got -.*: add a const"):
        evaluate({"slow": SLOW}, shifted(-50.0), problems=2, steps=3, key=jr.key(0))


def test_of_baselines_that_all_diverged_somewhere_the_best_is_the_least_bad():
    """Fewest divergences first, then the mean on the other problems; never the first in order."""
    losses = np.ones((4, 6, 5))
    losses[1:] *= np.array([0.9, 0.3, 0.5])[:, None, None]
    losses[:, :, 0] = 1.0
    losses[1, :, 2:] = np.inf  # everywhere
    losses[2:, 0, 3:] = np.nan  # on one problem
    found = Evaluation(("learned", "steep", "good", "fair"), losses)
    assert (found.best(), found.best_beside("learned")) == ("learned", "good")
    assert found.only(["fair", "good"]).best() == "good"
    assert found.only(["steep", "fair"]).best() == "fair"
    assert found.only(["steep"]).best_beside("steep") is None


def test_curves_are_mean_and_standard_error():
    losses = np.random.default_rng(0).uniform(1, 2, (2, 9, 4))
    result = Evaluation(("a", "b"), losses)
    np.testing.assert_allclose(result.mean_curve(), losses.mean(1), rtol=1e-15)
    expected = losses.std(1, ddof=1) / 3
    np.testing.assert_allclose(result.standard_error(), expected, rtol=1e-14)
    single = Evaluation(("a", "b"), losses[:, :1])
    np.testing.assert_array_equal(single.standard_error(), np.zeros((2, 4)))


def test_a_constant_shift_has_an_interval_of_no_width():
    losses = np.ones((2, 5, 3))
    losses[1] = [1.0, 0.5, 0.0]
    comparison = Evaluation(("flat", "falling"), losses).compare("falling", "flat")
    assert (comparison.difference, comparison.low, comparison.high) == (-0.5, -0.5, -0.5)
    assert (comparison.ratio_of_means, comparison.problems) == (0.5, 5)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [(-0.4, -0.2, np.nan), (0.1, -0.2, np.nan), (-0.1, 0.2, np.nan),
     (0.0, 0.0, 1.0), (0.1, 0.0, np.inf), (0.0, 0.2, 0.0)],
)  # fmt: skip
def test_means_below_0_have_a_difference_and_no_ratio(ours, theirs, ratio):
    found = comparison("a", "b", np.full(4, ours), np.full(4, theirs))
    assert found.difference == pytest.approx(ours - theirs)
    np.testing.assert_equal(found.ratio_of_means, ratio)


def test_interval_of_normal_differences_is_the_textbook_one():
    generator = np.random.default_rng(3)
    baseline = generator.lognormal(2, 1, 400)
    noise = generator.normal(0, 0.2, 400)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * 0.2
    mean, low, high = paired_interval(baseline - 0.3 + noise, baseline)
    half = 1.96 * 0.2 / np.sqrt(400)
    np.testing.assert_allclose(mean, -0.3, rtol=1e-12)
    # 10,000 resamples place a 2.5 % quantile to about 2 % of the half width, the skewness of
    # 400 draws moves it by a few more.
    np.testing.assert_allclose([low, high], [-0.3 - half, -0.3 + half], rtol=0, atol=0.08 * half)
    assert (mean, low, high) == paired_interval(baseline - 0.3 + noise, baseline)


@pytest.mark.long
def test_interval_covers_as_often_as_it_says():
    """95 % of intervals hold the true mean: of 200, at least 180 (four deviations below 190)."""
    generator = np.random.default_rng(4)
    hits = 0
    for _ in range(200):
        differences = generator.normal(0.5, 1.0, 40)
        _, low, high = paired_interval(differences, np.zeros(40))
        hits += low <= 0.5 <= high
    assert 180 <= hits < 200


def test_one_divergence_in_many_shows_in_one_end():
    """One infinite entry of n is missed by (1 - 1/n)^n = 37 % of resamples."""
    ours = np.linspace(0.4, 0.6, 50)
    ours[7] = np.inf
    mean, low, high = paired_interval(ours, np.ones(50))
    assert mean == np.inf
    assert -0.6 < low < -0.4
    assert high == np.inf
    mean, low, high = paired_interval(np.ones(50), ours)
    assert (mean, low) == (-np.inf, -np.inf)
    assert 0.4 < high < 0.6


def test_what_no_number_measures_has_no_interval():
    """A third of the resamples lack the NaN; the least of their means was the lower end."""
    ours = np.linspace(0.4, 0.6, 16)
    ours[3] = np.nan
    np.testing.assert_array_equal(paired_interval(ours, np.ones(16)), np.nan)
    ours[7] = np.inf
    np.testing.assert_array_equal(paired_interval(ours, np.ones(16)), [np.inf, np.nan, np.nan])


@pytest.mark.long
@hypothesis.given(
    arrays.arrays(float, (2, 6), elements=st.sampled_from([0.1, 0.2, 0.5, 3.0, np.inf]))
)
@hypothesis.settings(max_examples=15)
def test_intervals_are_ordered_and_never_nan(values):
    mean, low, high = paired_interval(values[0], values[1])
    assert low <= high
    assert not np.isnan([mean, low, high]).any()


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"optimizers": {}}, "`optimizers` must name at least one"),
        ({"problems": 0}, "`problems` must be an integer of at least 1, got 0"),
        ({"steps": -1}, "`steps` must be an integer of at least 1, got -1"),
    ],
)
def test_bad_input_is_refused(arguments, sentence):
    keywords = {"optimizers": {"a": SLOW}, "problems": 2, "steps": 2, **arguments}
    with pytest.raises(ValueError, match=sentence):
        evaluate(task=TASK, key=jr.key(0), **keywords)


def test_unknown_names_are_refused():
    result = Evaluation(("a", "b"), np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="`name` must be one of a, b, got 'c'"):
        result.compare("c", "a")
    with pytest.raises(ValueError, match="`baseline` must be one of a, b, got 'd'"):
        result.compare("a", "d")
    with pytest.raises(ValueError, match="`names` must be one of a, b, got 'c'"):
        result.only(["a", "c"])


def test_records_are_parted_and_joined_with_their_metrics():
    """What is taken apart by name comes together again; metrics that one lacks are missed."""
    generator = np.random.default_rng(0)
    metrics = {"accuracy": generator.random((3, 2)), "loss": generator.random((3, 2))}
    losses = generator.random((3, 2, 4))
    losses[:, :, 0] = losses[0, :, 0]
    whole = Evaluation(("a", "b", "c"), losses, metrics)
    again = whole.only(["a"]).beside(whole.only(["c", "b", "a"]))
    assert again.names == ("a", "c", "b")
    back = again.only(whole.names)
    np.testing.assert_array_equal(back.losses, whole.losses)
    for name, values in metrics.items():
        np.testing.assert_array_equal(back.metrics[name], values)
    plain = Evaluation(("d",), whole.losses[:1])
    assert plain.beside(whole).metrics == {}
    assert plain.only([]).beside(plain).names == plain.beside(plain.only([])).names == ("d",)
    with pytest.raises(ValueError, match="`other` must have the metrics of this record, got none"):
        whole.beside(plain)
    elsewhere = Evaluation(
        ("d",), 2 * whole.losses[:1], metrics={n: m[:1] for n, m in metrics.items()}
    )
    with pytest.raises(ValueError, match="`other` must have runs on the same problems"):
        whole.beside(elsewhere)


def test_huge_differences_and_losses_of_zero_compare_without_nan():
    ours, theirs = np.array([1e130, 3e130, 2e130, 5e130]), np.array([1e-3, 2e-3, 1e-3, 3e-3])
    mean, low, high = paired_interval(ours, theirs)
    small = paired_interval(ours / 2.0**400, theirs / 2.0**400)
    np.testing.assert_allclose([mean, low, high], np.array(small) * 2.0**400, rtol=1e-14)
    assert 0 < low < mean < high
    ends = np.array([[[1, 0], [1, 0]], [[1, 0], [2, 0]], [[1, 0], [1, 0.5]]], float)
    result = Evaluation(("a", "b", "c"), ends)
    assert result.compare("a", "b", "final").ratio_of_means == 1
    assert result.compare("c", "b", "final").ratio_of_means == np.inf


@pytest.mark.long
def test_an_interrupted_evaluation_runs_only_what_is_missing(monkeypatch, tmp_path):
    """Whatever was run is kept, and used again only for the same weights and problems."""
    run = tmp_path / "run"
    shutil.copytree(SHIPPED / "linear_regression" / "tuning", run / "tuning")
    for name in ("settings.json", "weights.npz"):
        shutil.copy(SHIPPED / "linear_regression" / name, run)
    run_one, asked = evaluation._run, []

    def counted(optimizer, *arguments):
        asked.append(type(optimizer).__name__)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return run_one(optimizer, *arguments)

    monkeypatch.setattr(evaluation, "_run", counted)

    def evaluated(seed):
        return comparing.evaluate_run(
            Run(run), problems=3, steps=4, seed=seed, say=lambda sentence: None
        )

    with pytest.raises(KeyboardInterrupt):
        evaluated(0)
    assert not (run / "evaluation.npz").exists()
    whole = evaluated(0)
    assert asked == ["RecurrentOptimizer", "Momentum", "RMSProp", "RMSProp", "Adam"]
    assert not (run / storage.UNFINISHED).exists()
    together = evaluate(
        comparing.contestants(Run(run)),
        lo.LinearRegression(),
        problems=3,
        steps=4,
        key=key_stream("test", 0),
    )
    assert whole.names == together.names
    np.testing.assert_array_equal(whole.losses, storage.shortened(together.losses))
    # Kept runs of other problems are of no use.
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluated(0)
    evaluated(1)
    every = ["RecurrentOptimizer", "Momentum", "RMSProp", "Adam"]
    assert asked == [*every[:3], *every]


class Counted(lo.LinearRegression):
    """Linear regression with a metric."""

    def metrics(self, problem, parameters):
        return {"largest": jnp.max(jnp.abs(parameters))}


def test_metrics_survive_an_interruption(tmp_path, monkeypatch):
    """The runs of one optimizer are kept while the next one is interrupted, metrics included."""
    task: lo.LinearRegression = Counted(3, (-3.0, 0.0))
    optimizers = {"one": lo.GradientDescent(0.1), "two": lo.GradientDescent(0.2)}
    whole = lo.evaluate(optimizers, task, problems=3, steps=4, key=jr.key(0))
    real, calls = evaluation._run, []

    def interrupted(optimizer, *rest):
        calls.append(optimizer)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(optimizer, *rest)

    monkeypatch.setattr(evaluation, "_run", interrupted)
    for _ in range(2):
        with (
            contextlib.suppress(KeyboardInterrupt),
            storage.claimed(tmp_path),
            storage.resumable(tmp_path, "evaluate", {}),
        ):
            again = lo.evaluate(optimizers, task, problems=3, steps=4, key=jr.key(0))
    assert len(calls) == 3  # the first optimizer ran once
    np.testing.assert_array_equal(again.losses, whole.losses)
    np.testing.assert_array_equal(again.metrics["largest"], whole.metrics["largest"])
