"""A factorial: planted main effects and interactions come back; the whole study, tiny."""

import csv
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.__main__ import main
from lrevopt.optimizers import GRUCell, RecurrentOptimizer
from lrevopt.paper.experiments import FACTORIAL_TRAINING
from lrevopt.paper.factorial import _snapshot
from lrevopt.paper.factorial_cells import CellTraining, FactorialSettings, train_cells
from lrevopt.plots.factorial import columns_of, figure_factorial
from lrevopt.runs.tune import tune_baselines
from lrevopt.studies.factorial import (
    Factorial,
    largest_interaction,
    main_effect,
    what_must_hold,
)
from lrevopt.studies.factorial.effects import share_interval
from lrevopt.studies.factorial.tables import cells_table, factorial_markdown, members_table
from lrevopt.studies.universality.record import wilson_interval
from lrevopt.tuning.settings import Tuning

SIZES = (2, 3, 3, 2)
"""Levels of initialisation, width, meta-steps and estimator in planted records."""

Rule = Callable[[int, int, int, int, int], int]
"""Verdict by the level of each factor and the seed."""

RULES: dict[str, Rule] = {
    "always": lambda i, w, s, e, seed: 1,
    "never": lambda i, w, s, e, seed: -1,
    "silent": lambda i, w, s, e, seed: 0,
    "by-start": lambda i, w, s, e, seed: 1 if i else -1,
    "late": lambda i, w, s, e, seed: 1 if s else -1,
    "both": lambda i, w, s, e, seed: 1 if i and w else -1,
    "either-or": lambda i, w, s, e, seed: 1 if i != e else -1,
    "by-seed": lambda i, w, s, e, seed: 1 if seed == 1 else -1,
}


def planted(
    seeds: int = 3, there: Callable[[int, int, int, int], bool] = lambda i, w, s, e: True
) -> Factorial:
    """Verdicts by rule on all cells that are `there`, of one task."""
    axes = map(range, SIZES)
    cells = [(i, w, s, e) for i, w, s, e in itertools.product(*axes) if there(i, w, s, e)]
    members = [(cell, seed) for cell in cells for seed in range(seeds)]
    verdicts = np.array([[rule(*cell, seed) for rule in RULES.values()] for cell, seed in members])
    names = {"initialisation": ("1", "1/sqrt"), "width": ("16", "64", "256"),
             "meta-steps": ("500", "2,000", "5,000"), "estimator": ("exact", "first")}  # fmt: skip
    return Factorial(
        tasks=("rosenbrock",) * len(members),
        design=np.array([cell for cell, _ in members]),
        seeds=np.array([seed for _, seed in members]),
        factors=tuple(names),
        within=("meta-steps",),
        level_factors=tuple(name for name, levels in names.items() for _ in levels),
        levels=tuple(itertools.chain(*names.values())),
        objectives=np.linspace(0.1, 0.2, len(members)),
        diverged=np.zeros(len(members), int),
        statements=tuple(RULES),
        says=tuple(f"It is {name}." for name in RULES),
        task_names=("linear_regression", "rosenbrock"),
        expected=np.array([[-1] * len(RULES), [1] * (len(RULES) - 1) + [0]]),
        statistics=np.where(verdicts == 0, np.nan, 0.5 * verdicts),
        verdicts=verdicts,
        rivals=("momentum", "adam"),
        rival_scores=np.array([0.1, 0.15]),
        missing=("something",),
    )


def shares(record: Factorial, statement: str, factor: str) -> list[float]:
    effect = main_effect(record, "rosenbrock", record.statements.index(statement), factor)
    return [own.share for own in effect.shares if own is not None]


def said(record: Factorial, statement: str) -> str:
    return what_must_hold(record, "rosenbrock", record.statements.index(statement))


@pytest.mark.parametrize(("count", "total"), [(0, 6), (1, 6), (6, 6), (33, 50)])
def test_intervals_are_wilson_s(count, total):
    np.testing.assert_allclose(share_interval(count / total, total), wilson_interval(count, total))
    assert share_interval(0.0, 0) == (0.0, 1.0)


def test_planted_main_effects_come_back():
    record = planted()
    assert shares(record, "by-start", "initialisation") == [0, 1]
    assert shares(record, "by-start", "width") == [0.5, 0.5, 0.5]
    assert shares(record, "late", "meta-steps") == [0, 1, 1]
    np.testing.assert_allclose(shares(record, "both", "initialisation"), [0, 2 / 3])
    np.testing.assert_allclose(shares(record, "both", "width"), [0, 0.5, 0.5])
    np.testing.assert_allclose(shares(record, "by-seed", "estimator"), [1 / 3, 1 / 3])


def test_sentences_say_what_was_planted():
    record = planted()
    assert said(record, "always") == "Nothing: it holds at every level tried (108 of 108)."
    assert said(record, "never") == "Nothing tried brings it about (0 of 108, 108 not so)."
    assert said(record, "silent") == (
        "Nothing tried shows it: most cannot tell (0 of 108, 108 cannot tell)."
    )
    assert said(record, "by-start") == (
        "Needs initialisation 1/sqrt (54 of 54 with 1/sqrt, 0 of 54 with 1)."
    )
    assert said(record, "late") == (
        "Needs meta-steps 2,000 or 5,000 (36 of 36 with 2,000, 0 of 36 with 500)."
    )
    assert said(record, "both") == (
        "Needs initialisation 1/sqrt and width 64 or 256 together (36 of 36, elsewhere 0 of 72)."
    )
    partly = planted(there=lambda i, w, s, e: e == 0 or w == 0)  # of wide ones, e is not known
    assert said(partly, "both") == (
        "Needs initialisation 1/sqrt and width 64 or 256 together (18 of 18, elsewhere 0 of 54)."
    )
    few = planted(seeds=1, there=lambda i, w, s, e: w < 2 and s == e == 0)
    assert said(few, "both") == "No factor tried decides it (1 of 4, 3 not so)."
    assert said(record, "either-or") == "No factor tried decides it (54 of 108, 54 not so)."


def test_planted_interactions_come_back():
    record = planted()

    def found(statement: str) -> tuple[set[str], float, bool] | None:
        one = largest_interaction(record, "rosenbrock", record.statements.index(statement))
        return None if one is None else ({one.changed[0], one.at[0]}, one.difference, one.clear)

    assert found("either-or") == ({"initialisation", "estimator"}, -2.0, True)
    assert found("both") == ({"initialisation", "width"}, 1.0, True)
    additive = found("by-start")
    assert additive is not None
    assert additive[1:] == (0.0, False)
    one = largest_interaction(record, "rosenbrock", record.statements.index("either-or"))
    assert one is not None
    assert one.gains == (1.0, -1.0)
    assert one.low == one.difference == -2.0 < one.high < 0  # Wilson's intervals end at 0 and 1


def test_snapshots_of_one_run_count_once():
    """Intervals are those of the runs: three snapshots of each do not narrow them."""
    record = planted()
    effect = main_effect(record, "rosenbrock", 0, "initialisation")
    own = effect.shares[0]
    assert own is not None
    assert (own.members, own.runs) == (54, 18)  # 3 widths, 2 estimators, 3 seeds
    assert (own.low, own.high) == pytest.approx(wilson_interval(18, 18))
    alone = planted(there=lambda i, w, s, e: s == 0)
    few = main_effect(alone, "rosenbrock", 0, "initialisation").shares[0]
    assert few is not None
    assert (few.low, few.high, few.members) == (own.low, own.high, 18)


def test_levels_are_compared_on_cells_that_differ_in_nothing_else():
    """Of the widest only early snapshots are there, so that it seems to do worse, and does not."""
    record = planted(there=lambda i, w, s, e: w < 2 or s == 0)
    place = record.statements.index("late")
    effect = main_effect(record, "rosenbrock", place, "width")
    assert effect.compared == (True, True, False)
    assert [own.share for own in effect.shares if own] == pytest.approx([2 / 3, 2 / 3, 0])
    beside = effect.beside[2]
    assert beside is not None
    assert (beside.share, beside.members) == (0, 24)
    assert not effect.decides
    # The meta-steps are compared on the widths that have all of them.
    steps = main_effect(record, "rosenbrock", place, "meta-steps")
    assert [own.share for own in steps.shares if own] == [0, 1, 1]
    assert steps.compared == (True, True, True)
    assert steps.decides
    assert "*, the others 0 [" in factorial_markdown(record, {})


def test_an_estimator_tried_on_some_cells_is_compared_on_these():
    record = planted(there=lambda i, w, s, e: w < 2 - e)
    effect = main_effect(record, "rosenbrock", record.statements.index("both"), "estimator")
    assert [own.share for own in effect.shares if own] == [0, 0]  # of 16 units, on which both are
    assert effect.compared == (True, True)


def test_a_level_without_members_has_no_share():
    record = planted(there=lambda i, w, s, e: w < 2)
    effect = main_effect(record, "rosenbrock", 0, "width")
    assert effect.shares[2] is None
    assert len(figure_factorial(record).axes) == 2


def test_tables_say_what_the_record_holds(tmp_path):
    record = planted()
    storage.save_record(tmp_path / "record.npz", record)
    again = storage.load_record(Factorial, tmp_path / "record.npz")
    for field in dataclasses.fields(record):
        np.testing.assert_array_equal(getattr(record, field.name), getattr(again, field.name))
    cells = cells_table(record).splitlines()
    assert len(cells) == 1 + 36 * len(RULES)
    assert "rosenbrock,1/sqrt,64,500,exact,both,1,3,3,0,0,1,0.4385,1,0.5,0.5,0.5" in cells
    assert len(members_table(record).splitlines()) == 1 + 108
    text = factorial_markdown(record, {"rosenbrock": "Valley"})
    assert "## Valley" in text
    assert "linear" not in text  # no members, no table
    assert "- something" in text
    assert "| no by seed | " in text  # it is said to be absent
    assert "Needs initialisation 1/sqrt" in str(record)


def test_a_task_whose_trainings_have_not_begun_is_left_out():
    record = planted()
    begun = dataclasses.replace(record, expected=np.ones_like(record.expected))
    assert "linear" not in str(begun)
    assert "linear" not in cells_table(begun)
    assert what_must_hold(begun, "linear_regression", 0) == "Not tried: there are no members."


def test_one_infinite_statistic_is_not_that_of_a_cell():
    """A cell's statistic is the median of its seeds."""
    record = planted()
    statistics = record.statistics.copy()
    statistics[record.seeds == 1, 0] = np.inf
    statistics[record.seeds == 2, 0] = 0.75
    rows = list(csv.DictReader(
        cells_table(dataclasses.replace(record, statistics=statistics)).splitlines()))  # fmt: skip
    of_first = [row for row in rows if row["statement"] == record.statements[0]]
    assert {(row["median"], row["least"], row["largest"]) for row in of_first} == {
        ("0.75", "0.5", "inf")
    }


def test_the_figure_has_a_number_for_each_level_and_a_box_where_a_factor_decides():
    record = planted(there=lambda i, w, s, e: w < 2 or s == 0)
    ax = figure_factorial(record).axes[0]
    numbers = [text.get_text() for text in ax.texts]
    levels = sum(map(len, columns_of(record).values()))
    assert len(numbers) == levels * (len(RULES) + 1) + 4  # and names of levels and factors
    assert sum(text.endswith("*") for text in numbers) == len(RULES)
    boxes = [patch for patch in ax.patches if not patch.get_fill()]
    decided = sum(
        main_effect(record, "rosenbrock", place, factor).decides
        for place in range(len(RULES)) for factor in record.factors
    )  # fmt: skip
    assert len(boxes) == decided > 0


TINY = Tuning(settings=6, problems=2, steps=20, grid=5, finalists=1, fresh_problems=2)

SMALL = dataclasses.replace(FACTORIAL_TRAINING, unroll=5, problems=2, selection_problems=2)

SETTINGS = FactorialSettings(
    tasks=("linear_regression", "rosenbrock"), initialisations=("unit", "scaled"), widths=(2, 3),
    meta_steps=(4, 2), estimators=("exact", "first_order"), leave_out=("3x4",), seeds=2,
    training=SMALL, problems=2, test_problems=2, steps=10, seed=0,
)  # fmt: skip


def test_trainings_come_in_the_order_of_what_they_tell():
    found = SETTINGS.trainings()
    assert len(found) == len(set(found)) == 16
    assert [(one.width, one.estimator) for one in found[::4]] == [
        (2, "exact"), (3, "exact"), (2, "first_order"), (3, "first_order")]  # fmt: skip
    for block in (found[:4], found[4:8]):
        assert {(one.task, one.initialisation) for one in block} == set(
            itertools.product(SETTINGS.tasks, SETTINGS.initialisations)
        )
    assert {one.meta_steps for one in found if one.width == 2} == {(2, 4)}
    assert {one.meta_steps for one in found if one.width == 3} == {(2,)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"widths": (16, 16)}, "`widths`"),
        ({"widths": (0,)}, "`widths`"),
        ({"meta_steps": ()}, "`meta_steps`"),
        ({"tasks": ("mnist", "quantum")}, "`tasks`"),
        ({"estimators": ("newton",)}, "`estimators`"),
        ({"estimators": ("exact", "cma")}, "`estimators` must be one of .*, got 'cma'"),
        ({"estimators": ("exact", "pes")}, "`es_window` must divide `unroll`"),
        ({"initialisations": ("zero",)}, "`initialisations`"),
        ({"leave_out": ("3x5",)}, "`leave_out`"),
        ({"leave_out": ("three",)}, "`leave_out`"),
        ({"leave_out": ("2x2", "2x4", "3x2", "3x4")}, "`leave_out`"),
        ({"seeds": 0}, "`seeds`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_settings_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(SETTINGS, **change)


def test_initialisations_differ_by_the_scale_of_input_weights_alone():
    """The same draw, times sqrt(units)."""
    built: dict[str, GRUCell] = {}
    for start in ("unit", "scaled"):
        training = CellTraining("rosenbrock", start, 4, "exact", (2,))
        optimizer = training.experiment(SETTINGS).optimizer.build(jax.random.key(0))
        assert isinstance(optimizer, RecurrentOptimizer)
        assert isinstance(optimizer.cell, GRUCell)
        assert optimizer.bias is not None
        built[start] = optimizer.cell
    ratios = built["unit"].inputs / built["scaled"].inputs
    np.testing.assert_allclose(ratios, 2.0, rtol=1e-12)
    np.testing.assert_array_equal(built["unit"].gates, built["scaled"].gates)


@pytest.mark.long
def test_a_snapshot_is_what_a_training_of_that_length_gives(tmp_path):
    """Nothing in a training depends on how long it goes on."""
    long, short = (CellTraining("rosenbrock", "scaled", 2, "exact", steps)
                   for steps in ((2, 4), (2,)))  # fmt: skip
    longer = train_cells(long, tmp_path / "long", SETTINGS, progress=False)
    shorter = train_cells(short, tmp_path / "short", SETTINGS, progress=False)
    for one, other in zip(longer.members, shorter.members, strict=True):
        found = jax.tree.leaves(_snapshot(one, 2))
        for leaf, wanted in zip(found, jax.tree.leaves(other.last), strict=True):
            np.testing.assert_array_equal(leaf, wanted)


@pytest.fixture
def words(tmp_path: Path, monkeypatch) -> list[str]:
    """A command on two trainings of two cells each."""
    monkeypatch.chdir(tmp_path)
    tune_baselines(lo.Rosenbrock(), TINY, tmp_path / "tuned",
                   baselines={"momentum": lo.Momentum}, say=lambda _: None)  # fmt: skip
    return ["factorial", "--tasks", "rosenbrock", "--widths", "2", "--meta-steps", "2", "4",
            "--estimators", "exact", "--seeds", "1", "--output", "out",
            "--baselines", "tuned", "--problems", "2",
            "--test-problems", "3", "--steps", "20", "--training.unroll", "5",
            "--training.problems", "2", "--training.selection-problems", "2"]  # fmt: skip


@pytest.mark.long
def test_the_study_from_the_command_line(words, tmp_path, capsys):
    """What is interrupted goes on; what is measured is not measured again, also beside more."""
    assert main([*words, "--time-limit", "1e-6"]) == 0
    assert "stopped (time limit); the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "out" / "factorial.npz").exists()
    assert main(words) == 0
    record = storage.load_record(Factorial, tmp_path / "out" / "factorial.npz")
    assert len(record.tasks) == 2 * 2
    assert record.missing == ()
    assert np.isin(record.verdicts[:, record.asked_of("rosenbrock")], (-1, 0, 1)).all()
    assert np.isfinite(record.objectives).all()
    assert record.levels_of("initialisation") == ("1", "1/√N")
    for name in ("factorial.md", "factorial.csv", "factorial_members.csv", "factorial.png"):
        assert (tmp_path / "out" / name).is_file()
    cells = sorted((tmp_path / "out" / "cells").iterdir())
    assert len(cells) == 4
    before = [cell.stat().st_mtime_ns for cell in cells]
    assert main([*words, "--widths", "2", "3", "--time-limit", "1e-6"]) == 0
    assert [cell.stat().st_mtime_ns for cell in cells] == before
    more = storage.load_record(Factorial, tmp_path / "out" / "factorial.npz")
    assert len(more.missing) == 2
    assert all(" 3 units" in line for line in more.missing)
    np.testing.assert_array_equal(more.statistics, record.statistics)
    cells[0].unlink()
    assert main(words) == 0
    assert [cell.stat().st_mtime_ns for cell in cells[1:]] == before[1:]
    again = storage.load_record(Factorial, tmp_path / "out" / "factorial.npz")
    np.testing.assert_array_equal(again.statistics, record.statistics)
