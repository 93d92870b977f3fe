"""Scales and settings that a command line leaves open on a task of one's own."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import lrevopt as lo

# It has the settings for tasks such as rosenbrock.
import lrevopt.paper.experiments
from lrevopt import storage
from lrevopt.runs import suggested
from lrevopt.runs.command_line import run_command
from lrevopt.runs.commands import Train
from lrevopt.runs.experiment import Learned
from lrevopt.runs.options import TrainingSettings

MODULE = """
import lrevopt as lo

def make_task(dim=2):
    return lo.LinearRegression(dim=dim)
"""

TRAINING = lo.MetaTraining(
    steps=4, unroll=5, problems=2, snapshot_every=2, selection_problems=2, early_snapshots=False
)

FOUND = lo.Suggestion(
    units=3,
    input_scale=0.7,
    output_scale=0.2,
    settings=TRAINING,
    gradient=1.0,
    learning_rate=0.1,
    adam=-1.0,
    input_scales=np.array([0.7]),
    output_scales=np.array([0.2]),
    scores=np.array([-0.5]),
    trial_steps=1,
    seconds=0.1,
)


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """Calls of the search, which is replaced by one that takes no time."""
    (tmp_path / "their_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_module", raising=False)
    calls = []

    def search(task, **options):
        calls.append(options)
        return FOUND

    monkeypatch.setattr(suggested, "suggest_training", search)
    return calls


OPEN = TrainingSettings("their_module:make_task")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (OPEN, True),
        (dataclasses.replace(OPEN, time_limit=3.0, seed=4), True),
        (dataclasses.replace(OPEN, task="rosenbrock"), False),
        (dataclasses.replace(OPEN, preset="paper"), False),
        (dataclasses.replace(OPEN, optimizer=Learned(8)), False),
        (dataclasses.replace(OPEN, training=TRAINING), False),
        (dataclasses.replace(OPEN, named="their_module:make"), False),
        (dataclasses.replace(OPEN, start=Path("runs/x")), False),
    ],
)
def test_only_what_nobody_has_set_is_searched(options, expected):
    assert suggested.left_open(options) == expected


def test_a_search_decides_and_a_begun_run_keeps_its_settings(searched, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["their_module:make_task", "--output", str(folder), "--time-limit", "50"]
    assert run_command(Train, words, "train") == 0
    assert "choosing scales and settings for 50 s of training" in capsys.readouterr().out
    assert [call["time_limit"] for call in searched] == [50.0]
    assert searched[0]["steps"] == 200
    found = lo.load(folder)
    assert isinstance(found, lo.RecurrentOptimizer)
    assert (found.start.size, found.input_scale, found.output_scale) == (3, 0.7, 0.2)
    begun = suggested.experiment_to_train(
        dataclasses.replace(OPEN, time_limit=50.0), folder, say=pytest.fail
    )
    assert begun.optimizer == Learned(3, 0.7, 0.2)
    settings = storage.load_json(folder / "settings.json")["training"]
    assert dataclasses.asdict(begun.training) == settings
    before = (folder / "weights.npz").read_bytes()
    assert run_command(Train, [*words, "--resume"], "train") == 0
    assert len(searched) == 1
    assert (folder / "weights.npz").read_bytes() == before


def test_options_that_are_given_are_taken_as_they_are(searched, tmp_path):
    options = dataclasses.replace(OPEN, training=TRAINING)
    chosen = suggested.experiment_to_train(options, tmp_path / "run")
    assert not searched
    assert (chosen.optimizer, chosen.training) == (Learned(), TRAINING)


def test_a_run_of_another_kind_is_left_for_training_to_refuse(searched, tmp_path):
    storage.save_json(tmp_path / "settings.json", {"optimizer": {"kind": "Adam"}, "training": {}})
    assert suggested.experiment_to_train(OPEN, tmp_path) == OPEN.experiment()
    assert not searched
