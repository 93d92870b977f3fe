"""Every record survives the disk: one table of all that is kept in files."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.random as jr
import numpy as np
import pytest
import synthetic_records as made

import lrevopt as lo
from lrevopt import storage
from lrevopt.meta_training import LearningRateSearch
from lrevopt.paper import contents as paper_contents
from lrevopt.runs.contents import CONTENTS
from lrevopt.studies.transfer import Sweep, Transfer
from lrevopt.tasks.pictures import TaskPicture, task_picture
from lrevopt.tuning.scales import ScaleSearch
from lrevopt.tuning.well_known import TunedRate

NUMBERS, MOMENTUM = np.array([1.0, np.inf, np.nan]), lo.Momentum(0.1, 0.9)

RECORDS: dict[str, Callable[[], Any]] = {
    "evaluation": made.evaluation,
    "evaluation, diverged": lambda: made.evaluation(diverged=True),
    "mechanisms": made.mechanisms,
    "dynamics": made.dynamics,
    "dynamics, settles nowhere": lambda: made.dynamics(attractors=0),
    "parameter types": made.parameter_types,
    "manifold": made.manifold,
    "manifold, none found": lambda: made.manifold(found=False),
    "mode shifts": made.mode_shifts,
    "momentum mimic": made.momentum_mimic,
    "meta-dynamics": made.meta_dynamics,
    "tuning": lambda: made.tuning("adam"),
    "history": made.history,
    "interventions": made.interventions,
    "gradient replay": made.replay,
    "scorecard": lambda: made.scorecard(reason="none"),
    "gallery": made.gallery,
    "comparison": lambda: made.evaluation().compare("learned", "adam"),
    "textbook": lo.textbook_update_functions,
    "certificates": lambda: lo.certify(
        MOMENTUM, lo.find_fixed_points(MOMENTUM, np.array([[0.0], [1.0]]))
    ),
    "picture": lambda: task_picture(lo.LinearRegression(), key=jr.key(0), draws=3),
    "transfer": lambda: Transfer(("a", "b"), "a", NUMBERS[None].repeat(2, axis=0), NUMBERS[:2]),
    "sweep": lambda: Sweep(("a",), NUMBERS[:2], NUMBERS[None, None].repeat(2, axis=1)),
    "tuned rate": lambda: TunedRate(NUMBERS, NUMBERS, np.array([0, 1, 2])),
    "scale search": lambda: ScaleSearch(NUMBERS, NUMBERS, NUMBERS),
    "learning rates": lambda: LearningRateSearch(NUMBERS, NUMBERS, NUMBERS, 0.1),
}
"""A new record adds one line."""


def assert_equal(again: Any, record: Any) -> None:
    """The same class, and field by field the same type of value, whatever is nested in it."""
    if dataclasses.is_dataclass(record):
        assert type(again) is type(record)
        for field in dataclasses.fields(record):
            assert_equal(getattr(again, field.name), getattr(record, field.name))
    elif isinstance(record, dict):
        assert list(again) == list(record)
        for name, value in record.items():
            assert_equal(again[name], value)
    elif isinstance(record, tuple | str):
        assert again == record
        assert type(again) is type(record)
    else:
        expected = np.asarray(record)
        assert np.asarray(again).dtype == expected.dtype
        np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("name", RECORDS)
def test_records_survive_the_disk(name, tmp_path):
    record = RECORDS[name]()
    storage.save_record(tmp_path / "record.npz", record)
    assert_equal(storage.load_record(type(record), tmp_path / "record.npz"), record)


def test_all_records_in_folders_of_runs_are_in_the_table():
    """What `runs.contents` reads with `load_record`, and nothing less."""
    assert {"momentum_mimic", "meta_dynamics"} == {
        part.name for part in (paper_contents.MOMENTUM_MIMIC, paper_contents.META_DYNAMICS)
    }
    kept = {
        part.read.args[0]
        for part in CONTENTS.values()
        if isinstance(part.read, functools.partial) and part.read.func is storage.load_record
    }
    assert len(kept) > 10
    assert TaskPicture in kept
    assert kept <= {type(make()) for make in RECORDS.values()}


def test_six_digits_are_of_the_named_fields_alone():
    record = RECORDS["mechanisms"]()
    found = storage.six_digits(record, "states.paths", "states.variance")
    for name in ("paths", "variance"):
        exact = getattr(record.states, name)
        np.testing.assert_allclose(getattr(found.states, name), exact, rtol=2.0**-20)
        assert (getattr(found.states, name) != exact).any()
    restored = dataclasses.replace(
        found.states, paths=record.states.paths, variance=record.states.variance
    )
    assert_equal(dataclasses.replace(found, states=restored), record)
