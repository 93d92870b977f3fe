"""Parts of an interrupted stage are taken up for the same optimizers and problems alone."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop import evaluation
from lrevopt.optimizers import saved
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import evaluate_run
from lrevopt.runs.experiment import Experiment, Named, key_stream
from lrevopt.runs.train import adopt
from lrevopt.runs.tune import tune_baselines
from lrevopt.tasks import sample_problems

TASK = lo.LinearRegression(dim=2)


def interrupt(monkeypatch, run: int) -> list[int]:
    """Interrupt at the `run`-th run; the list counts the problems of the runs so far."""
    run_one = evaluation._run
    counts: list[int] = []

    def counted(optimizer, task, problems, *rest):
        if len(counts) == run - 1:
            raise KeyboardInterrupt
        counts.append(problems.initial_parameters.shape[0])
        return run_one(optimizer, task, problems, *rest)

    monkeypatch.setattr(evaluation, "_run", counted)
    return counts


def test_an_evaluation_that_goes_on_with_other_devices_has_all_problems(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "PIECE", 40)

    def go(devices):
        with storage.resumable(tmp_path, "evaluate", {}):
            return lo.evaluate(
                {"learned": lo.Momentum(0.1, 0.9)}, TASK, problems=16, steps=5, key=jr.key(3),
                mesh=lo.problem_mesh(devices),
            )  # fmt: skip

    whole = go(1)
    with monkeypatch.context() as patched:
        counts = interrupt(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            go(1)
        assert counts == [4, 4, 4]
    assert len(list((tmp_path / storage.UNFINISHED).iterdir())) == 3
    again = go(2)
    assert again.losses.shape == (1, 16, 6)
    np.testing.assert_allclose(again.losses, whole.losses, rtol=1e-12)


def moving(input_scale: float) -> lo.RecurrentOptimizer:
    """A GRU whose readout is not 0."""
    optimizer = lo.GRUOptimizer(2, input_scale=input_scale, key=jr.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.1 if eqx.is_array(leaf) else leaf, optimizer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lo.from_optax(optax.sgd(0.1)), lo.from_optax(optax.sgd(0.5))),
        (moving(1.0), moving(2.0)),
    ],
)
def test_optimizers_that_differ_in_constants_share_no_part(tmp_path, one, other):
    def go(optimizer):
        with storage.resumable(tmp_path, "evaluate", {}):
            found = lo.evaluate({"own": optimizer}, TASK, problems=2, steps=3, key=jr.key(0))
            if optimizer is one:
                raise KeyboardInterrupt
        return found.losses

    alone = lo.evaluate({"own": other}, TASK, problems=2, steps=3, key=jr.key(0)).losses
    with pytest.raises(KeyboardInterrupt):
        go(one)
    np.testing.assert_allclose(go(other), alone, rtol=1e-12)


def test_weights_of_another_scale_are_not_held(tmp_path):
    one, other = (lo.GRUOptimizer(2, input_scale=by, key=jr.key(0)) for by in (1.0, 2.0))
    saved.save_optimizer(tmp_path, one)
    assert saved.holds(tmp_path, one)
    assert not saved.holds(tmp_path, other)


def sgd(rate: float) -> Experiment:
    kwargs = {"learning_rate": rate}
    return Experiment("linear_regression", Named("optax:sgd", kwargs), task_kwargs={"dim": 2})


def test_a_folder_of_another_constant_is_refused_and_overwritten_whole(tmp_path):
    adopt(sgd(0.1), tmp_path)
    tune_baselines(TASK, lo.Tuning(settings=3, problems=2, steps=4), tmp_path, say=lambda _: None)
    counts: dict[str, Any] = {"problems": 2, "steps": 4, "say": lambda _: None}
    evaluate_run(Run(tmp_path), **counts)
    adopt(sgd(0.1), tmp_path)
    assert (tmp_path / "evaluation.npz").is_file()
    with pytest.raises(ValueError, match=r"holds another run \(different: optimizer_spec\)"):
        adopt(sgd(0.5), tmp_path)
    assert storage.load_settings(tmp_path)[saved.SPEC]["kwargs"] == {"learning_rate": 0.1}
    adopt(sgd(0.5), tmp_path, overwrite=True)
    assert not (tmp_path / "evaluation.npz").exists()
    assert not (tmp_path / "tuning").exists()


def test_baselines_may_be_tuned_first(tmp_path):
    """Into a folder that becomes the run of an optimizer as it is; other files are refused."""
    tune_baselines(TASK, lo.Tuning(settings=3, problems=2, steps=4), tmp_path, say=lambda _: None)
    adopt(sgd(0.1), tmp_path)
    assert set(Run(tmp_path).tuning) == {"momentum", "rmsprop", "adam"}
    assert saved.load(tmp_path).initial_state().shape == (1,)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="holds files that are no run"):
        adopt(sgd(0.1), tmp_path)


def test_a_folder_of_an_older_version_without_the_entry_is_kept(tmp_path):
    adopt(sgd(0.1), tmp_path)
    settings = storage.load_settings(tmp_path)
    del settings[saved.SPEC]
    storage.save_json(tmp_path / storage.SETTINGS, settings)
    adopt(sgd(0.1), tmp_path)
    assert storage.load_settings(tmp_path)[saved.SPEC]["spec"] == "optax:sgd"


RATES = {"learning_rate": (0.01, 1.0)}


def test_searches_of_another_constructor_are_made_again(tmp_path):
    def tuned(constructor, **ranges):
        said: list[str] = []
        settings = lo.Tuning(settings=3, problems=2, steps=4, ranges=RATES | ranges)
        found = tune_baselines(
            TASK, settings, tmp_path, baselines={"m": constructor}, say=said.append
        )
        return found["m"].name, any("tuned before" in line for line in said)

    def heavy(learning_rate, momentum=0.9):
        return lo.Momentum(learning_rate, momentum)

    def light(momentum):
        return lambda learning_rate: lo.Momentum(learning_rate, momentum)

    for constructor in (
        functools.partial(lo.Momentum, momentum=0.9), functools.partial(lo.Momentum, momentum=0.1),
        lo.Momentum, lo.Adam, heavy, light(0.9), light(0.1),
    ):  # fmt: skip
        made = tuned(constructor)
        assert not made[1]
        assert tuned(constructor) == (made[0], True)


def test_searches_of_older_versions_that_name_no_constructor_are_kept(tmp_path):
    settings = lo.Tuning(settings=3, problems=2, steps=4)
    said: list[str] = []
    chosen = {"m": lo.Momentum}
    first = tune_baselines(TASK, settings, tmp_path, baselines=chosen, say=said.append)
    file = tmp_path / "tuning" / "m.npz"
    source = storage.load_source(file)
    assert source is not None
    del source["constructor"]
    storage.save_record(file, first["m"], source)
    tune_baselines(TASK, settings, tmp_path, baselines=chosen, say=said.append)
    assert "tuned before" in said[-1]


@pytest.mark.usefixtures("as_user")
def test_a_search_that_is_refused_leaves_what_is_there(tmp_path):
    """Whether a first loss is below 0 depends on the draw: seed 0 has none, another seed has."""
    task = lo.FunctionTask(
        lambda x: (x**2).sum() - 0.5, lambda key: jnp.where(jr.uniform(key, (1,)) < 0.1, 0.5, 1.0)
    )
    settings = lo.Tuning(settings=3, problems=2, steps=4, fresh_problems=4)

    def tuned(seed, where=tmp_path):
        tune_baselines(
            task, settings, where, seed=seed, baselines={"m": lo.Momentum}, say=lambda _: None
        )

    def negative(part, seed):
        """Whether the problems of one part of a search have a first loss below 0."""
        _, own, fresh = jr.split(key_stream("tuning", seed), 3)
        keys = {"scored": own, "decided": fresh, "checked": jr.fold_in(fresh, 1)}
        drawn = sample_problems(task, keys[part], 2 if part == "scored" else 4)
        return bool((drawn.initial_parameters == 0.5).any())

    def seed_of(*parts):
        """A seed whose problems are below 0 in these parts alone."""
        all_parts = ("scored", "decided", "checked")
        return next(
            seed for seed in range(1000)
            if all(negative(part, seed) == (part in parts) for part in all_parts)
        )  # fmt: skip

    sound = seed_of()
    tuned(sound)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) > 1
    for part in ("scored", "decided", "checked"):
        with pytest.raises(ValueError, match="`task` must have finite losses of at least 0 at"):
            tuned(seed_of(part))
        now = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert now == before
        with pytest.raises(ValueError, match="`task` must have finite losses"):
            tuned(seed_of(part), tmp_path / "new")
        assert not (tmp_path / "new").exists()
