"""Tuning: scores that another route gives too, edges that move, and keys that decide."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import mostly_long

import lrevopt as lo
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.inner_loop.objectives import OBJECTIVES, meta_objective
from lrevopt.inner_loop.scoring import score_settings
from lrevopt.tasks import AbstractProblem, AbstractTask, sample_problems
from lrevopt.tuning.constructors import stack_settings
from lrevopt.tuning.decision import decide
from lrevopt.tuning.random_search import analytic_momentum, tune
from lrevopt.tuning.settings import SearchRange, Tuning

TASK = lo.LinearRegression(dim=3)
SMALL = Tuning(settings=60, problems=6, steps=12, grid=25, finalists=5, fresh_problems=7)
CONSTRUCTORS = {
    "gradient_descent": (lo.GradientDescent, {"learning_rate": [0.1, 1.0, 1e120]}),
    "momentum": (lo.Momentum, {"learning_rate": [0.1, 1.0, 3.0], "momentum": [0.0, 0.5, 0.9]}),
    "nesterov": (lo.Nesterov, {"learning_rate": [0.1, 1.0, 3.0], "momentum": [0.0, 0.5, 0.9]}),
    "rmsprop": (lo.RMSProp, {"learning_rate": [0.1, 1.0, 3.0], "decay": [0.0, 0.5, 0.9]}),
    "adam": (lo.Adam, {"learning_rate": [0.1, 1.0], "b1": [0.5, 0.9], "b2": [0.9, 0.99]}),
}


class QuadraticProblem(AbstractProblem):
    hessian: jax.Array
    initial_parameters: jax.Array


class Quadratic(AbstractTask):
    """`1/2 x'Hx` with one fixed H, eigenvalues 0.01 and 1, and random starts.

    Value and gradient come from one product, through `jax.custom_jvp`.
    """

    def sample(self, key):
        return QuadraticProblem(jnp.diag(jnp.array([0.01, 1.0])), jr.normal(key, (2,)))

    def loss(self, problem, parameters, step):
        return half_square(problem.hessian, parameters)


@jax.custom_jvp
def half_square(hessian, x):
    return 0.5 * jnp.dot(x, hessian @ x)


@half_square.defjvp
def half_square_derivative(primals, tangents):
    hessian, x = primals
    over_hessian, over_x = tangents
    product = hessian @ x
    derivative = jnp.dot(product, over_x) + 0.5 * jnp.dot(x, over_hessian @ x)
    return 0.5 * jnp.dot(x, product), derivative


@eqx.filter_jit
def plain_scores(task, stacked, problems, steps, objective):
    """Every setting on its own, all losses kept."""

    def score(optimizer):
        def run(problem):
            return meta_objective(lo.unroll(optimizer, task, problem, steps).losses, objective)

        return jax.vmap(run)(problems).mean()

    return eqx.filter_vmap(score)(stacked)


@pytest.fixture(scope="module")
def problems():
    return eqx.filter_jit(sample_problems)(TASK, jr.key(1), 5)


@pytest.mark.parametrize("name", mostly_long(CONSTRUCTORS, "momentum", "adam"))
def test_scores_are_those_of_plain_unrolls(name, problems):
    constructor, values = CONSTRUCTORS[name]
    stacked = stack_settings(constructor, {k: np.array(v) for k, v in values.items()})
    scores, diverged = score_settings(TASK, stacked, problems, 9)
    expected = np.asarray(plain_scores(TASK, stacked, problems, 9, "mean"))
    finite = np.isfinite(expected)
    # Sums in another order, amplified along 9 steps.
    np.testing.assert_allclose(scores[finite], expected[finite], rtol=1e-10)
    assert np.all(scores[~finite] == np.inf)
    np.testing.assert_array_equal(diverged, np.where(finite, 0, 5))
    assert finite.all() == (name != "gradient_descent")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_scored(objective, problems):
    stacked = stack_settings(lo.GradientDescent, {"learning_rate": np.array([0.3, 1.0])})
    scores, _ = score_settings(TASK, stacked, problems, 9, objective)
    expected = plain_scores(TASK, stacked, problems, 9, objective)
    np.testing.assert_allclose(scores, expected, rtol=1e-10)


def test_blocks_do_not_show():
    """501 settings make three blocks of 167, 499 two of which the last is filled up."""
    task = Quadratic()
    draws = eqx.filter_jit(sample_problems)(task, jr.key(1), 2)
    rates = np.geomspace(0.01, 1.9, 501)
    scores, _ = score_settings(
        task, stack_settings(lo.GradientDescent, {"learning_rate": rates}), draws, 4
    )
    fewer = stack_settings(lo.GradientDescent, {"learning_rate": rates[:499]})
    np.testing.assert_allclose(scores[:499], score_settings(task, fewer, draws, 4)[0], rtol=1e-13)
    # Closed form of one component: the losses are (1 - rate c)^(2k) c x^2 / 2.
    x = np.asarray(draws.initial_parameters)[:, None, :]
    c = np.array([0.01, 1.0])
    factors = (1 - rates[:, None] * c)[..., None] ** (2 * np.arange(5))
    losses = np.einsum("psc,scv->psv", x**2 * c / 2 + 0 * factors[None, ..., 0], factors)
    expected = (losses.mean(-1) / losses[..., 0]).mean(0)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_scores_are_those_of_evaluation():
    """The same key draws the same problems for `evaluate`."""
    optimizer = lo.Momentum(1.0, 0.5)
    key = jr.key(5)
    draws = eqx.filter_jit(sample_problems)(TASK, key, 4)
    stacked = jax.tree.map(lambda leaf: leaf[None], optimizer)
    scores, _ = score_settings(TASK, stacked, draws, 9)
    result = evaluate({"momentum": optimizer}, TASK, problems=4, steps=9, key=key)
    np.testing.assert_allclose(scores[0], result.meta_objectives()[0].mean(), rtol=1e-12)


def test_float32_agrees_with_float64(problems):
    """XLA fuses single precision differently; on the way it must not lose a sum."""
    values = {"learning_rate": np.geomspace(0.01, 1.9, 250), "momentum": np.linspace(0, 0.9, 250)}
    stacked = stack_settings(lo.Momentum, values)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (stacked, problems))
    scores, _ = score_settings(TASK, stacked, problems, 9)
    # Rounding of losses that start in the thousands, relative to their mean.
    np.testing.assert_allclose(score_settings(TASK, single[0], single[1], 9)[0], scores, rtol=1e-4)


def test_tuned_momentum_is_near_the_analytic_optimum():
    """Two eigenvalues, many steps: the best rate of contraction nearly is the best mean loss."""
    settings = Tuning(
        settings=800, problems=16, steps=60, objective="final", grid=81, finalists=10,
        fresh_problems=16, ranges={"learning_rate": (0.1, 10.0), "momentum": (0.1, 0.99)},
    )  # fmt: skip
    result = tune(Quadratic(), lo.Momentum, settings, key=jr.key(0))
    best = analytic_momentum((-2, 0))
    # Cells are 6 % wide in each axis, 800 draws hit one in eight of them, and of 60 steps some
    # are transient.
    np.testing.assert_allclose(result.best["learning_rate"], best.learning_rate, rtol=0.2)
    np.testing.assert_allclose(1 - result.best["momentum"], 1 - best.momentum, rtol=0.3)
    assert result.widened == ()
    assert result.at_limit == ()
    # What the analytic setting reaches on other draws, the tuned one reaches to a factor.
    assert result.fresh_score < 1e-6
    tuned, expected = result.optimizer(lo.Momentum), lo.Momentum(**result.best)
    np.testing.assert_array_equal(tuned.readout, expected.readout)


@pytest.mark.parametrize("double", [False, True])
def test_the_best_momentum_of_any_range_is_one_that_ends(double):
    """In single precision the momentum of 20 decades was 1, and a rate of 4e-80 was 0."""
    with jax.enable_x64(double):
        for widest in (20, 40, 800):
            best = analytic_momentum((-widest, 0))
            # (1 - r)^2 / (1 + r)^2 with r = 10^(-widest / 2): below half a unit in the last place.
            assert 0 < 1 - float(best.momentum) < 1e-7
            np.testing.assert_allclose(best.learning_rate, 4, rtol=1e-6)
        for ends in ((60, 80), (-80, -60), (0, 800)):
            if double and max(ends) < 300:
                rate = float(analytic_momentum(ends).learning_rate)
                np.testing.assert_allclose(rate, 4 / 10.0 ** ends[1], rtol=1e-9)
            else:
                with pytest.raises(ValueError, match="`log10_eigenvalues` .* learning rate, .*"):
                    analytic_momentum(ends)


def test_analytic_momentum_is_the_published_one():
    best = analytic_momentum((-3, 0))
    np.testing.assert_allclose([best.learning_rate, best.momentum], [3.7585, 0.88114], rtol=2e-5)
    with pytest.raises(ValueError, match="`log10_eigenvalues` must be two finite numbers"):
        analytic_momentum((0, -3))


@pytest.fixture(scope="module")
def result():
    return tune(TASK, lo.Momentum, SMALL, key=jr.key(3))


def test_the_key_decides(result):
    again = tune(TASK, lo.Momentum, SMALL, key=jr.key(3))
    np.testing.assert_array_equal(again.scores, result.scores)
    assert (again.best, again.fresh_score) == (result.best, result.fresh_score)
    other = tune(TASK, lo.Momentum, SMALL, key=jr.key(4))
    assert not np.array_equal(other.values["learning_rate"], result.values["learning_rate"])


def test_a_result_is_consistent(result):
    assert (result.name, result.parameter_names) == ("Momentum", ("learning_rate", "momentum"))
    places = [i for i in range(60) if all(result.values[n][i] == b for n, b in result.best.items())]
    assert result.best_score in result.scores[places]
    assert result.best_score in np.sort(result.scores)[: SMALL.finalists]
    np.testing.assert_array_equal(result.scores == np.inf, result.diverged > 0)
    for name, (low, high) in result.ranges.items():
        assert low <= result.values[name].min() <= result.values[name].max() <= high
        assert low < high
        # From a grid, not from a continuum.
        assert len(np.unique(result.values[name])) <= SMALL.grid
    assert np.isfinite([result.best_score, result.fresh_score]).all()


def test_a_narrow_range_is_widened_and_says_so():
    """Gradient descent on eigenvalues 0.01 and 1 wants a rate near 2 / 1.01."""
    narrow = dataclasses.replace(SMALL, ranges={"learning_rate": (0.01, 0.1)})
    result = tune(Quadratic(), lo.GradientDescent, narrow, key=jr.key(0))
    assert result.widened[0] == (
        "The best learning_rate lay on an edge, so the range of learning_rate was widened from "
        "(0.01, 0.1) to (0.01, 1) and searched again."
    )
    assert result.ranges["learning_rate"][1] >= 1
    assert result.at_limit == ()
    low, high = result.ranges["learning_rate"]
    assert low * 1.01 < result.best["learning_rate"] < high / 1.01


def test_a_natural_limit_is_reported_and_not_widened():
    """On a parabola any memory hurts: the best momentum is none."""

    class Parabola(AbstractTask):
        def sample(self, key):
            return QuadraticProblem(jnp.ones((1, 1)), jr.normal(key, (1,)) + 3)

        def loss(self, problem, parameters, step):
            return 0.5 * parameters @ parameters

    settings = dataclasses.replace(SMALL, settings=600, grid=7, steps=5)
    settings = dataclasses.replace(settings, ranges={"learning_rate": (0.001, 1000.0)})
    result = tune(Parabola(), lo.Momentum, settings, key=jr.key(0))
    # The grid holds the rate 1, which jumps to the minimum at once.
    assert result.best == pytest.approx({"learning_rate": 1.0, "momentum": 0.0})
    assert result.fresh_score == pytest.approx(1 / 6)
    assert result.at_limit == ("The best momentum, 0, is at or next to its natural limit of 0.",)
    assert result.widened == ()


def test_a_search_in_which_everything_diverges_is_a_result():
    steep = dataclasses.replace(SMALL, ranges={"learning_rate": (1e100, 1e101)})
    result = tune(TASK, lo.GradientDescent, steep, key=jr.key(0))
    assert np.all(result.diverged == SMALL.problems)
    assert (result.best_score, result.fresh_score) == (np.inf, np.inf)
    assert result.widened == ()


@pytest.mark.long
def test_arguments_with_defaults_stay_unless_a_range_names_them():
    adam = tune(TASK, lo.Adam, SMALL, key=jr.key(0))
    assert adam.parameter_names == ("learning_rate", "b1", "b2")
    assert adam.best.keys() == {"learning_rate", "b1", "b2"}
    clipped = dataclasses.replace(SMALL, ranges={"threshold": (0.1, 10.0)})
    result = tune(TASK, lo.ClippedGradientDescent, clipped, key=jr.key(0))
    assert result.parameter_names == ("learning_rate", "threshold")


def test_a_partial_keeps_an_argument_at_its_value():
    steady = functools.partial(lo.Momentum, momentum=0.5)
    result = tune(TASK, steady, SMALL, key=jr.key(0))
    assert (result.name, result.parameter_names) == ("Momentum", ("learning_rate",))
    tuned = result.optimizer(steady)
    assert isinstance(tuned, lo.Momentum)
    assert tuned.momentum == 0.5
    fixed = dataclasses.replace(SMALL, ranges={"momentum": (0.1, 0.9)})
    with pytest.raises(ValueError, match=r"Momentum \(learning_rate\), got 'momentum'"):
        tune(TASK, steady, fixed, key=jr.key(0))


@pytest.mark.parametrize(
    ("shift", "sentence"),
    [(-100.0, "got -.*: add a constant to the loss"), (np.nan, "got nan"), (np.inf, "got inf")],
)
def test_a_loss_that_nothing_can_be_relative_to_is_refused(shift, sentence):
    """The least score would be that of the setting that goes furthest down, or diverges."""
    task = lo.FunctionTask(lambda x: jnp.sum(x**2) + shift, lambda key: jr.normal(key, (2,)))
    with pytest.raises(ValueError, match=f"must have finite losses of at least 0 .*{sentence}"):
        tune(task, lo.Momentum, SMALL, key=jr.key(0))
    if shift == -100:
        stacked = stack_settings(lo.GradientDescent, {"learning_rate": np.array([0.1, 0.2])})
        with pytest.raises(ValueError, match="must have losses of at least 0 at initial parameter"):
            score_settings(task, stacked, sample_problems(task, jr.key(0), 3), 5)


def replaced(**changes: Any) -> Tuning:
    return dataclasses.replace(SMALL, **changes)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Tuning(settings=0), "`settings` must be an integer of at least 1, got 0"),
        (lambda: replaced(steps=1.5), "`steps` must be an integer of at least 1, got 1.5"),
        (lambda: Tuning(grid=1), "`grid` must be an integer of at least 2, got 1"),
        (lambda: replaced(objective="best"), "`objective` must be one of"),
        (lambda: Tuning(ranges={"learning_rate": (1.0, 0.1)}), r"`ranges\['learning_rate'\]`"),
        (lambda: Tuning(ranges={"learning_rate": (0.0, 0.1)}), "above 0, got 0.0"),
        (lambda: Tuning(ranges={"momentum": (0.5, 1.0)}), r"must lie in \[0, 1\)"),
        (lambda: SearchRange(0.1, 2.0, complement=True), "`high` must be at most 1"),
        (
            lambda: tune(TASK, lo.ClippedGradientDescent, SMALL, key=jr.key(0)),
            "must hold a range for `threshold` of ClippedGradientDescent",
        ),
        (
            lambda: tune(TASK, lo.Momentum, Tuning(ranges={"decay": (0.0, 0.9)}), key=jr.key(0)),
            r"must name arguments of Momentum \(learning_rate, momentum\), got 'decay'",
        ),
        (
            lambda: tune(TASK, lambda: lo.GradientDescent(0.1), SMALL, key=jr.key(0)),
            "`constructor` must have an argument to search",
        ),
    ],
)
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.usefixtures("as_user")
def test_scoring_refuses_what_does_not_fit(problems):
    stacked = stack_settings(lo.GradientDescent, {"learning_rate": np.array([0.1, 0.2])})
    unknown: Any = "median"
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1, got 0"):
        score_settings(TASK, stacked, problems, 0)
    with pytest.raises(ValueError, match="`objective` must be one of mean, log_mean, final"):
        score_settings(TASK, stacked, problems, 2, unknown)
    with pytest.raises(ValueError, match="`optimizers` must be arrays with one common first axis"):
        score_settings(TASK, lo.GradientDescent(0.1), problems, 2)


def decided(means: dict[int, list[float]], problems: int = 4) -> tuple[Any, list[tuple[int, ...]]]:
    """The decision between finalists with these means over the problems of each decision."""
    calls = []

    def score(places, decision):
        calls.append((decision, *places.tolist()))
        return np.array([means[place][min(decision, 9)] for place in places])

    return decide(score, np.array(list(means)), problems), calls


def test_a_winner_that_holds_is_checked_once():
    found, calls = decided({7: [1.0, 1.09], 3: [1.2, 1.2]})
    assert (found.winner, found.score, found.checked, found.problems) == (7, 1.0, 1.09, 4)
    assert not found.sentences
    assert calls == [(0, 7, 3), (1, 7)]


def test_a_lucky_winner_gives_way_on_more_problems():
    """0.5 on four problems and 1.5 on four others: mean 1.0, while the other has 0.9 throughout."""
    found, calls = decided({7: [0.5, 1.5, 1.5], 3: [0.9, 0.9, 0.9]})
    assert found.winner == 3
    np.testing.assert_allclose((found.score, found.checked, found.problems), (0.9, 0.9, 8))
    assert calls == [(0, 7, 3), (1, 7), (1, 7, 3), (2, 3)]
    (sentence,) = found.sentences
    assert sentence == (
        "The winner on 4 fresh problems had 0.5 there and 1.5 on 4 further ones, so finalists were "
        "decided on all of them."
    )


def test_a_winner_that_diverges_on_further_problems_loses():
    found, _ = decided({7: [0.5, np.inf], 3: [0.9, 0.9, 0.95]})
    assert (found.winner, found.problems) == (3, 8)


def test_decisions_end_and_say_so():
    found, calls = decided({7: [1.0, 2.0, 4.0, 8.0, 16.0]})
    assert found.problems == 16
    assert found.sentences[-1].endswith("at the last decision.")
    assert len(found.sentences) == 4
    assert len(calls) == 8
    everything_diverged, calls = decided({7: [np.inf] * 5})
    assert not everything_diverged.sentences
    assert len(calls) == 2
