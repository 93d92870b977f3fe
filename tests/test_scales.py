"""Scales of a trained optimizer: what they do, their search, and the run that has the best."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from test_scripts import call

import lrevopt as lo
from lrevopt import storage
from lrevopt.optimizers import saved
from lrevopt.optimizers.wrappers import ScaledGradients
from lrevopt.runs import report_page as report
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune_scales import rescale_run

SHIPPED = Path(__file__).parents[1] / "results" / "rosenbrock"
TASK = lo.LinearRegression()

ONE: dict[str, Any] = {"input_factors": (1.0,), "output_factors": (1.0,), "problems": 1, "steps": 1,
                       "say": lambda _: None}  # fmt: skip


def optimizer(*, bias: bool = False) -> lo.RecurrentOptimizer:
    """Untrained, but with a readout and a start, so that it moves."""
    found = lo.RecurrentOptimizer(
        lo.GRUCell(4, key=jr.key(0)), 4, input_scale=0.5, output_scale=0.1, bias=bias
    )
    parts = (jnp.linspace(-1, 1, 4), jnp.full(4, 0.3))
    found = eqx.tree_at(lambda o: (o.weights, o.start), found, parts)
    return eqx.tree_at(lambda o: o.bias, found, jnp.asarray(0.2)) if bias else found


@pytest.mark.parametrize("bias", [False, True])
def test_factors_multiply_gradients_and_moves(bias):
    plain = optimizer(bias=bias)
    scaled = lo.rescaled(plain, 3.0, 0.25)
    state, gradient = plain.initial_state(), jnp.asarray(0.7)
    np.testing.assert_array_equal(scaled.initial_state(), state)
    np.testing.assert_allclose(scaled.readout, 0.25 * plain.readout, rtol=1e-14)
    np.testing.assert_allclose(
        scaled.transition(state, gradient), plain.transition(state, 3 * gradient), rtol=1e-14
    )


def test_factors_of_one_change_nothing():
    assert eqx.tree_equal(lo.rescaled(optimizer(bias=True)), optimizer(bias=True))


def test_scores_are_those_of_evaluate_and_the_best_is_the_least():
    found = lo.search_scales(
        TASK, optimizer(), input_factors=(1.0, 2.0), output_factors=(0.1, 1.0), key=jr.key(1),
        problems=4, steps=10,
    )  # fmt: skip
    assert found.input_factors.tolist() == [1, 1, 2, 2]
    assert found.output_factors.tolist() == [0.1, 1, 0.1, 1]
    for pair, score in zip(
        zip(found.input_factors, found.output_factors, strict=True), found.scores, strict=True
    ):
        one = {"one": lo.rescaled(optimizer(), *map(float, pair))}
        expected = lo.evaluate(one, TASK, problems=4, steps=10, key=jr.key(1)).mean_scores()
        np.testing.assert_allclose(score, expected["one"], rtol=1e-12)
    assert found.best == (found.input_factors[np.argmin(found.scores)],
                          found.output_factors[np.argmin(found.scores)])  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "said"),
    [((3, 1, 2), []), ((1, 2, 3), ["0.5 is the least"]), ((3, 2, 1), ["2 is the largest"])],
)
def test_a_best_factor_at_the_edge_is_said(scores, said):
    found = lo.ScaleSearch(np.ones(3), np.array([0.5, 1.0, 2.0]), np.array(scores, float))
    assert [sentence.split(" factor")[0] for sentence in found.at_edge] == said
    assert all("on the output scale" in sentence for sentence in found.at_edge)


def search(**changed):
    """A search of four problems, with some arguments changed."""
    usual: dict[str, Any] = {"output_factors": (1.0,), "key": jr.key(1), "problems": 4}
    return lo.search_scales(TASK, optimizer(), **(usual | changed))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda: search(input_factors=()), "`input_factors` must hold at least one factor"),
        (lambda: search(output_factors=(0.0,)), "`output_factors` must be"),
        (
            lambda: search(output_factors=(1e300,), steps=40),
            "must hold a factor with which no run diverges",
        ),
        (lambda: search(problems=0), "`problems` must be"),
        (lambda: lo.rescaled(optimizer(), -1.0), "`input_factor` must be"),
        (lambda: lo.rescaled(optimizer(), 1.0, float("inf")), "`output_factor` must be"),
    ],
)
def test_refusals_name_the_argument(refused, said):
    with pytest.raises(ValueError, match=said):
        refused()


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda: lo.rescaled(optimizer(), 1e40), "`input_factor` must be .* float32 .* got 1e"),
        (lambda: lo.rescaled(optimizer(), 1.0, 1e-50), "`output_factor` must be .* got 1e-50"),
        (
            lambda: lo.rescaled(lo.rescaled(optimizer(), 1e30), 1e30),
            "`input_factor` times `optimizer.input_scale` must be .* got 5e",
        ),
        (lambda: lo.GRUOptimizer(2, key=jr.key(0), input_scale=1e40), "`input_scale` must be"),
        (lambda: lo.GRUOptimizer(2, key=jr.key(0), output_scale=1e-50), "`output_scale` must be"),
        (lambda: lo.GRUCell(2, key=jr.key(0), input_deviation=1e40), "`input_deviation` must be"),
        (
            lambda: ScaledGradients(lo.Momentum(0.1, 0.9), jnp.asarray(jnp.inf)),
            "`scale` must be finite",
        ),
        (lambda: ScaledGradients(lo.Momentum(0.1, 0.9), jnp.ones(2)), "`scale` must be a scalar"),
    ],
)
def test_single_precision_must_hold_all_scales(refused, said):
    """It has no 1e40, and 1e-50 is 0 there."""
    with jax.enable_x64(False), pytest.raises(ValueError, match=said):
        refused()


@pytest.mark.long
def test_a_rescaled_run_is_a_run(tmp_path):
    said: list[str] = []
    found = rescale_run(
        Run(SHIPPED),
        tmp_path / "new",
        input_factors=(1.0,),
        output_factors=(0.01, 0.5),
        problems=4,
        steps=50,
        say=said.append,
    )
    before, after = lo.load(SHIPPED), lo.load(tmp_path / "new")
    assert isinstance(before, lo.RecurrentOptimizer)
    assert isinstance(after, lo.RecurrentOptimizer)
    assert found.best == (1.0, 0.5)
    assert after.output_scale == 0.5 * before.output_scale
    assert eqx.tree_equal(lo.rescaled(before, 1.0, 0.5), after)
    settings = storage.load_json(tmp_path / "new" / storage.SETTINGS)
    assert settings["scales"]["chosen"] == [1.0, 0.5]
    assert report._scales(settings).endswith("the best of 2 pairs on 4 problems")
    assert len(said) == 4
    assert said[2] == (
        "0.5 is the largest factor that was tried on the output scale: larger ones may be better."
    )
    assert (tmp_path / "new" / "tuning" / "adam.npz").read_bytes() == (
        SHIPPED / "tuning" / "adam.npz"
    ).read_bytes()


def test_the_script_refuses_a_folder_that_holds_something(tmp_path, monkeypatch, capsys):
    (tmp_path / "kept").write_text("mine")
    code = call(monkeypatch, "tune_scales.py", SHIPPED, "--output", tmp_path)
    assert code == 2
    assert "`output` must be an empty or a new folder" in capsys.readouterr().err
    assert (tmp_path / "kept").read_text() == "mine"


def test_baselines_in_the_new_folder_are_not_overwritten(tmp_path):
    """What `lrevopt tune` wrote has the names of the copies, but is nobody's copy."""
    kept = tmp_path / "tuned" / "tuning" / "adam.npz"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(ValueError, match="`output` must be an empty or a new folder"):
        rescale_run(Run(SHIPPED), tmp_path / "tuned", **ONE)
    assert kept.read_text() == "mine"
    assert [path.name for path in (tmp_path / "tuned").iterdir()] == ["tuning"]


def test_an_interrupted_search_leaves_no_baselines_of_another_run(tmp_path):
    """Copies that it left are replaced as a whole."""
    new, other = tmp_path / "new", tmp_path / "new" / "tuning" / "of_another.npz"
    rescale_run(Run(SHIPPED), new, **ONE)
    (new / "weights.npz").unlink()
    other.write_text("left")
    rescale_run(Run(SHIPPED), new, **ONE)
    assert (new / "weights.npz").is_file()
    assert {path.name for path in (new / "tuning").iterdir()} == {
        path.name for path in (SHIPPED / "tuning").iterdir()
    }


def test_the_same_search_goes_on_where_all_is_saved(tmp_path, monkeypatch):
    """A signal may arrive when all is there, and then the same command is said to continue."""
    new = tmp_path / "new"
    first = rescale_run(Run(SHIPPED), new, **ONE)
    before = {path: path.read_bytes() for path in new.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr("lrevopt.runs.tune_scales.search_scales", lambda *_, **__: 1 / 0)
        assert eqx.tree_equal(rescale_run(Run(SHIPPED), new, **ONE), first)
    assert {path: path.read_bytes() for path in new.rglob("*") if path.is_file()} == before
    for other in ({"output_factors": (0.5,)}, {"steps": 2}, {"seed": 1}):
        with pytest.raises(ValueError, match="`output` must be an empty or a new folder"):
            rescale_run(Run(SHIPPED), new, **(ONE | other))
    saved.save_optimizer(new, lo.rescaled(optimizer(), 2.0))
    with pytest.raises(ValueError, match="`output` must be an empty or a new folder"):
        rescale_run(Run(SHIPPED), new, **ONE)


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1e40, "`input_factors` must be a number that float32 holds"),
     (1e38, "`input_factors` times `input_scale` must be a number that float32 holds")],
)  # fmt: skip
def test_scales_beyond_single_precision_are_refused(factor, said):
    with jax.enable_x64(False):
        large = lo.rescaled(optimizer(), 100.0)
        with pytest.raises(ValueError, match=f"^{said}"):
            lo.search_scales(
                TASK, large, input_factors=[factor], key=jr.key(1), problems=1, steps=1
            )


@pytest.mark.long
def test_images_of_another_size_are_where_training_goes_on(tmp_path):
    task = lo.MNIST("digits", side=14)
    settings = {"task": storage.describe(task), "optimizer": storage.describe(optimizer())}
    (tmp_path / "small").mkdir()
    storage.save_json(tmp_path / "small" / storage.SETTINGS, settings)
    saved.save_optimizer(tmp_path / "small", optimizer())
    found = rescale_run(Run(tmp_path / "small"), tmp_path / "new", input_factors=(1.0,), side=7,
                        output_factors=(0.1,), problems=1, steps=1, say=lambda _: None)  # fmt: skip
    smaller = lo.MNIST("digits", side=7)
    scaled = {"it": lo.rescaled(optimizer(), 1.0, 0.1)}
    key = key_stream("training", 0)
    expected = lo.evaluate(scaled, smaller, problems=1, steps=1, key=key).mean_scores()
    np.testing.assert_allclose(found.scores, [expected["it"]], rtol=1e-12)
    written = storage.load_json(tmp_path / "new" / storage.SETTINGS)
    assert written["task"]["side"] == 14, "the optimizer was trained on these"
    assert written["scales"]["task"]["side"] == 7


def test_other_tasks_have_no_side(tmp_path):
    with pytest.raises(ValueError, match="`side` must be left out for a run on rosenbrock"):
        rescale_run(Run(SHIPPED), tmp_path / "new", input_factors=(1.0,), output_factors=(1.0,),
                    problems=1, side=14)  # fmt: skip
