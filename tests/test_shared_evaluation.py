"""Runs of other training seeds take the baselines' losses from the run that tuned them."""

import shutil
from typing import Any

import numpy as np
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import evaluate_run
from lrevopt.runs.experiment import Experiment, Learned
from lrevopt.runs.readers import SHARED
from lrevopt.runs.train import train
from lrevopt.runs.tune import tune_baselines

pytestmark = pytest.mark.long

SHORT = lo.MetaTraining(steps=2, unroll=5, problems=2, snapshot_every=1, selection_problems=2)
COUNTS: dict[str, Any] = {"problems": 3, "steps": 5, "say": lambda _: None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with tuned baselines and an evaluation, and one of another seed without."""
    front = tmp_path_factory.mktemp("shared") / "front"
    for seed, path in ((0, front), (1, front / "seeds" / "1")):
        train(Experiment("rosenbrock", Learned(3), SHORT, seed), path)
    settings = lo.Tuning(settings=3, problems=2, steps=5)
    tune_baselines(lo.Rosenbrock(), settings, front, say=lambda _: None)
    evaluate_run(Run(front), **COUNTS)
    return front


def test_the_record_is_that_of_running_everything(folder, tmp_path):
    """Two routes: with the losses taken over, and with every baseline run again."""
    shared = evaluate_run(Run(folder / "seeds" / "1"), baselines=folder, **COUNTS)
    alone = tmp_path / "alone"
    shutil.copytree(folder / "seeds" / "1", alone)
    shutil.copytree(folder / "tuning", alone / "tuning")
    whole = evaluate_run(Run(alone), **COUNTS)
    for found in (shared, Run(folder / "seeds" / "1").evaluation):
        assert found is not None
        assert found.names == whole.names
        np.testing.assert_array_equal(found.losses, whole.losses)
    kept = storage.load_record(Evaluation, folder / "seeds" / "1" / "evaluation.npz")
    assert kept.names == ("learned",)


def test_other_problems_are_run(folder):
    """Five problems where the other run has three: nothing can be taken over."""
    path = folder / "seeds" / "1"
    found = evaluate_run(Run(path), baselines=folder, **COUNTS | {"problems": 5})
    assert found.losses.shape[1] == 5
    assert SHARED not in storage.load_json(path / "evaluation.json")


def test_a_reference_that_no_longer_holds_is_refused(folder):
    path = folder / "seeds" / "1"
    evaluate_run(Run(path), baselines=folder, **COUNTS)
    evaluate_run(Run(folder), **COUNTS | {"problems": 4})
    with pytest.raises(ValueError, match=r"other problems by now: evaluate this run again"):
        _ = Run(path).evaluation
    storage.remove(folder / "evaluation.npz")
    storage.remove(folder / "evaluation.json")
    with pytest.raises(ValueError, match=r"evaluation.json` cannot be read"):
        _ = Run(path).evaluation
    evaluate_run(Run(folder), **COUNTS)


@pytest.fixture
def chain(folder, tmp_path):
    """Three runs with an evaluation; each takes the baselines of the one before."""
    paths = [tmp_path / name for name in ("first", "second", "third")]
    for path, source in zip(paths, (folder, *[folder / "seeds" / "1"] * 2), strict=True):
        ignored = shutil.ignore_patterns("seeds", "evaluation*", "comparisons.csv")
        shutil.copytree(source, path, ignore=ignored)
    shutil.copytree(paths[0] / "tuning", paths[1] / "tuning")
    evaluate_run(Run(paths[0]), **COUNTS)
    for path, before in zip(paths[1:], paths, strict=False):
        evaluate_run(Run(path), baselines=before, **COUNTS)
    return paths


def test_baselines_come_through_several_folders(chain):
    whole, _, last = (Run(path).evaluation for path in chain)
    assert whole is not None
    assert last is not None
    assert last.names == whole.names == ("learned", "momentum", "rmsprop", "adam")
    np.testing.assert_array_equal(last.losses[1:], whole.losses[1:])
    kept = storage.load_json(chain[2] / "evaluation.json")
    assert kept["baselines"] == ["momentum", "rmsprop", "adam"]


def test_a_run_does_not_take_baselines_from_itself(chain):
    """Its own evaluation is what the others refer to, and is replaced."""
    before = Run(chain[0]).evaluation
    assert before is not None
    for other in (chain[1], chain[0]):
        evaluate_run(Run(chain[0]), baselines=other, **COUNTS)
        kept = storage.load_record(Evaluation, chain[0] / "evaluation.npz")
        np.testing.assert_array_equal(kept.losses, before.losses)


def test_baselines_in_a_circle_and_lost_ones_are_refused(chain):
    facts = storage.load_json(chain[0] / "evaluation.json")
    whole = storage.load_record(Evaluation, chain[0] / "evaluation.npz")
    storage.save_record(chain[0] / "evaluation.npz", whole.only(["learned", "adam"]), facts)
    with pytest.raises(ValueError, match="has no momentum by now: evaluate this run again"):
        _ = Run(chain[2]).evaluation
    storage.save_json(chain[0] / "evaluation.json", facts | {SHARED: "../third"})
    with pytest.raises(ValueError, match="which takes them from here"):
        _ = Run(chain[1]).evaluation
