"""A signal within a training that a study needs as a whole reaches the study."""

import dataclasses
import signal

import interrupting
import jax.random as jr
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.__main__ import main
from lrevopt.meta_training.evolution import Evolving
from lrevopt.meta_training.loop import Training
from lrevopt.meta_training.population import Population
from lrevopt.storage.signals import pass_on
from lrevopt.studies.distillation.training import best_of

TASK = lo.LinearRegression(dim=2)
SHORT = lo.MetaTraining(steps=4, unroll=4, problems=2, selection_problems=2, snapshot_every=2)


def signal_in_training(monkeypatch, number: int, step: int = 2) -> None:
    """Let a signal arrive within the meta-step of this count."""
    left = [step]

    def late(plain):
        def taken(self) -> None:
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(number)
            plain(self)

        return taken

    for kind in (Training, Evolving, Population):
        monkeypatch.setattr(kind, "step", late(kind.step))


@pytest.mark.parametrize("estimator", ["exact", "cma"])
def test_half_a_training_is_not_taken_for_a_white_box(monkeypatch, estimator):
    """Its best snapshot was kept as if the training had come to its end, and the study went on."""
    settings = dataclasses.replace(SHORT, estimator=estimator)
    starts = [lo.WhiteBox(rate, momentum=0.5) for rate in (0.1, 0.2)]
    signal_in_training(monkeypatch, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        best_of(starts, TASK, settings, key=jr.key(0))


def test_half_a_training_is_not_compared_with_others(monkeypatch):
    """The search gave the rate that was best until then, or called all of them divergent."""
    signal_in_training(monkeypatch, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        lo.search_learning_rate(
            TASK, lo.Momentum(0.01, 0.5), SHORT, candidates=2, key=jr.key(0), progress=False
        )


def test_a_handler_that_does_nothing_does_not_make_it_whole(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        pass_on("finished")
        assert heard == []
        with pytest.raises(KeyboardInterrupt):
            pass_on("SIGTERM")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with a run, the baselines that were tuned for it, and a white box."""
    monkeypatch.chdir(tmp_path)
    assert main(interrupting.TRAIN) == 0
    assert main(interrupting.STAGES["tune"]) == 0
    storage.save_json(tmp_path / "box.json", interrupting.BOX)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_stops_and_continues_to_the_same_bytes(run, monkeypatch, capsys, number):
    words = [
        "distill", interrupting.RUN, "--studies", "parts", "--white-box", "box.json",
        "--starts", "1", "--candidates", "2", "--screening-problems", "2", "--tried", "1",
        "--seeds", "1", "--training-steps", "4", "--training-problems", "2",
        "--selection-problems", "2", *interrupting.COUNTS, "--output",
    ]  # fmt: skip
    assert main([*words, "whole"]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patched:
        signal_in_training(patched, number, step=3)
        assert main([*words, "stopped"]) == 128 + number
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"stopped ({signal.Signals(number).name}); the same command continues"
    assert main([*words, "stopped"]) == 0
    assert interrupting.differences(run / "stopped", run / "whole") == []


@pytest.mark.long
def test_the_search_of_a_rate_stops(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    signal_in_training(monkeypatch, signal.SIGTERM)
    words = ["search-learning-rate", "linear_regression", "--optimizer.units", "2"]
    assert main([*words, "--training.steps", "4", "--training.unroll", "4"]) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped (SIGTERM)")


def test_what_is_whole_is_used():
    starts = [lo.WhiteBox(rate, momentum=0.5) for rate in (0.1, 0.2)]
    best, scores = best_of(starts, TASK, SHORT, key=jr.key(0))
    assert isinstance(best, lo.WhiteBox)
    assert best.numbers().keys() == starts[0].numbers().keys()
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
