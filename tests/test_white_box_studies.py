"""Worth of parts, paths of ever more numbers, and white boxes as text."""

import copy
import csv
import dataclasses
import io
import json
import keyword
import re
import symtable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float, Key
from matplotlib.patches import Rectangle
from tables import mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop.recorded_runs import Typical
from lrevopt.optimizers import saved
from lrevopt.optimizers.white_box import PARTS
from lrevopt.optimizers.white_box_documents import box_of, distilled_box, document_of
from lrevopt.plots.distillation import waterfall
from lrevopt.plots.style import render
from lrevopt.runs import distill as distill_module
from lrevopt.runs.contents import Run
from lrevopt.runs.distill import DistillSettings, _write, distill_run
from lrevopt.runs.distill_command import Distill
from lrevopt.runs.experiment import key_stream
from lrevopt.studies import distillation as distillation_package
from lrevopt.studies.distillation import (
    Attribution,
    BoxTraining,
    WhiteBoxPath,
    attribute,
    grow_path,
    latex_text,
    optax_text,
)
from lrevopt.studies.distillation import attribution as attribution_module
from lrevopt.studies.distillation.attribution import explained
from lrevopt.studies.distillation.contestants import measured_beside
from lrevopt.studies.distillation.games import all_subsets, ranking, shapley_values
from lrevopt.studies.distillation.moves import moves_from, simplest
from lrevopt.studies.distillation.training import train_boxes
from lrevopt.tasks import AbstractProblem, AbstractTask
from lrevopt.text import csv_text

ROOT = Path(__file__).parents[1]

GENERATOR = np.random.default_rng(0)
TYPICAL = Typical(gradient=1.0, largest=5.0, steps=40)

SHORT = BoxTraining(
    training=lo.MetaTraining(
        steps=40, unroll=40, problems=8, objective="log_mean", learning_rate=0.05, warm_up=0,
        clip=1.0, penalty=0.0, early_snapshots=False, snapshot_every=20, selection_problems=16,
    ),
    starts=2, candidates=16, screening_problems=8,
)  # fmt: skip


def attribution(objectives: np.ndarray, learned: float = 0.1, baseline: float = 0.5) -> Attribution:
    """A record with these mean meta-objectives, by seed and subset, on five problems."""
    count = objectives.shape[1].bit_length() - 1
    spread = np.linspace(0.8, 1.2, 5)
    box = json.dumps(document_of(lo.WhiteBox(0.1)))
    return Attribution(
        parts=PARTS[:count],
        subsets=all_subsets(count),
        objectives=objectives[..., None] * spread,
        learned=learned * spread,
        baseline=baseline * spread,
        baseline_name="adam",
        documents=(box,) * objectives.size,
        selection_scores=objectives,
        start_scores=objectives[..., None],
    )


@pytest.mark.parametrize("count", [1, 3, 4])
def test_shapley_values_sum_to_what_is_explained(count):
    subsets = all_subsets(count)
    values = GENERATOR.normal(size=len(subsets))
    found = shapley_values(subsets, values)
    np.testing.assert_allclose(found.sum(), values[-1] - values[0], rtol=0, atol=1e-14)


def test_shapley_values_of_an_additive_game_are_its_weights():
    subsets, weights = all_subsets(4), np.array([0.5, -0.2, 0.0, 0.3])
    np.testing.assert_allclose(shapley_values(subsets, subsets @ weights), weights, atol=1e-15)
    pair = subsets[:, 0] & subsets[:, 2]  # only together worth anything: half each
    np.testing.assert_allclose(shapley_values(subsets, pair.astype(float)), [0.5, 0, 0.5, 0],
                               atol=1e-15)  # fmt: skip


def test_one_part_that_does_everything_gets_all_of_it():
    has = all_subsets(4)[:, 1]
    record = attribution(np.where(has, 0.1, 0.7)[None])
    worth = record.worth()
    np.testing.assert_allclose(worth.values, [0, 1, 0, 0], atol=1e-14)
    np.testing.assert_allclose(worth.rest, 0, atol=1e-14)
    assert worth.none == 0
    assert "100 %" in str(record)


def test_worth_and_rest_sum_to_one():
    objectives = GENERATOR.uniform(0.15, 0.6, size=(3, 16))
    objectives[:, 0] = 0.9  # no part: below the baseline, explains nothing
    record = attribution(objectives)
    worth = record.worth()
    np.testing.assert_allclose(worth.values.sum() + worth.none + worth.rest[0], 1, atol=1e-14)
    assert np.all((worth.lows <= worth.values) & (worth.values <= worth.highs))
    each = np.mean([record.worth_of_seed(seed) for seed in range(3)], axis=0)
    np.testing.assert_allclose(each, worth.values, atol=1e-14)
    assert record.white_box(2, ()).parts == ()


def rows_of(record: Attribution) -> dict[str, list[float]]:
    """Numbers of the table as CSV, in percent."""
    table = record.table()
    lines = csv.reader(io.StringIO(csv_text(table.heads, table.rows)))
    next(lines)
    return {
        name: [float(cell.removesuffix(" %").replace("\N{MINUS SIGN}", "-")) for cell in cells]
        for name, *cells in lines
    }


def test_rows_of_the_table_sum_to_the_whole_gain():
    """Also where the learning rate alone is better than the baseline."""
    objectives = np.array([[0.3, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.15]])
    rows = rows_of(attribution(objectives))
    assert list(rows) == ["rate alone", "momentum", "saturation", "rest"]
    # Means over both seeds of (0.5 - 0.3) / 0.4 and (0.5 - 0.4) / 0.4, and so on.
    assert rows["rate alone"][0] == 37.5
    assert rows["rest"][0] == pytest.approx(6.25)
    assert sum(cells[0] for cells in rows.values()) == pytest.approx(100, abs=0.2)  # 3 digits
    assert all(low <= value <= high for value, low, high in rows.values())
    assert rows["rate alone"][1:] == [25.0, 50.0]  # one seed, or the other


def with_problems(learned: Any, baseline: Any, box: Any = 0.3) -> Attribution:
    """A record of one part with these meta-objectives by problem; the box has `box` on all."""
    learned, baseline = np.asarray(learned, float), np.asarray(baseline, float)
    record = attribution(np.array([[0.45, 0.3]]))
    objectives = np.broadcast_to(box, (1, 2, learned.size)) * np.array([1.0, 0.9])[:, None]
    return dataclasses.replace(
        record, learned=learned, baseline=baseline, objectives=objectives + 0.0
    )


def test_rankings_state_no_order_of_what_is_equal():
    assert ranking("abcd", np.array([0.0, 0.2, -1.0, 0.2])) == "b = d > a > c"
    worthless = attribution(np.full((1, 8), 0.9))  # all worse than the baseline
    assert "momentum = saturation = adaptation." in " ".join(str(worthless).split())


FIVE = np.full(5, 0.5)
NO_GAIN: dict[str, tuple[Attribution, str]] = {
    "worse": (with_problems(FIVE, FIVE / 2), "learned optimizer is not better than adam"),
    "equal": (with_problems(FIVE, FIVE), "learned optimizer is not better than adam"),
    "diverged": (
        with_problems([0.1, 0.1, np.inf, 0.1, np.nan], FIVE),
        "learned optimizer diverged on 2 of 5 test problems",
    ),
    "baseline diverged": (
        with_problems(FIVE / 2, [0.5, np.inf, 0.5, 0.5, 0.5]),
        "adam diverged on 1 of 5 test problems",
    ),
    "baseline is not a number": (
        with_problems(FIVE / 2, np.full(5, np.nan)), "adam diverged on 5 of 5 test problems"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_GAIN)
def test_without_a_gain_nothing_is_said_of_worths(name):
    """Neither intervals, from resamples that missed what diverged, nor a ranking."""
    record, reason = NO_GAIN[name]
    worth = record.worth()
    for found in (worth.values, worth.lows, worth.highs, worth.none_ends, worth.rest):
        assert np.isnan(found).all()
    assert np.isnan(worth.none)
    assert np.isnan(record.worth_of_seed(0)).all()
    assert " ".join(str(record).split()).endswith(f"There is no gain to share: {reason}.")
    assert "Ranking" not in str(record)
    figure = waterfall(record)
    assert render(figure, "png")
    (text,) = figure.axes[0].texts
    assert " ".join(text.get_text().split()) == f"no gain to share: {reason}"


def one_point_path(learned: Any, baseline: Any) -> WhiteBoxPath:
    box = json.dumps(document_of(lo.WhiteBox(0.1)))
    return WhiteBoxPath(
        names=("learning rate",), counts=np.array([1]), documents=(box,),
        objectives=np.array([[0.3, 0.4]]), selection_scores=np.array([0.3]),
        learned=np.array(learned), baseline=np.array(baseline), baseline_name="adam", tried=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("learned", "baseline", "reason"),
    [
        ([0.2, 0.1], [0.5, np.inf], "adam diverged on 1 of 2 test problems"),
        ([0.5, 0.6], [0.5, 0.5], "learned optimizer is not better than adam"),
    ],
)
def test_paths_without_a_gain_say_why_none_is_kept(learned, baseline, reason):
    words = " ".join(str(one_point_path(learned, baseline)).split())
    assert words.endswith(f"There is no gain to keep: {reason}.")
    assert "no gain" not in str(one_point_path([0.2, 0.1], [0.5, 0.5]))


def ends_and_bars(record: Attribution) -> tuple[tuple[float, float], np.ndarray, str]:
    """Ends of the axis of a waterfall, where its bars end, and the words beside the axis."""
    (ax,) = waterfall(record).axes
    bars = [bar for bar in ax.patches if isinstance(bar, Rectangle)]
    ends = np.array([[bar.get_y(), bar.get_y() + bar.get_height()] for bar in bars])
    return ax.get_ylim(), ends, ax.get_ylabel()


def test_waterfalls_show_bars_that_end_far_above_0():
    """From 0.99 to 0.97: of an axis from 0 they would have a fiftieth."""
    record = attribution(np.array([[0.985, 0.98, 0.98, 0.975]]), learned=0.97, baseline=0.99)
    record = dataclasses.replace(record, learned=np.full(5, 0.97), baseline=np.full(5, 0.99))
    record = dataclasses.replace(record, objectives=record.objectives.mean(axis=2)[..., None]
                                 * np.ones(5))  # fmt: skip
    (low, high), _, words = ends_and_bars(record)
    assert 0.9 < low < 0.97
    assert 0.99 < high < 1.0
    assert words.endswith("(the axis does not begin at 0)")


def test_waterfalls_show_negative_worths_and_what_ends_below_0():
    """A part that makes what the others reach worse, and all of them better than any loss of 0."""
    worse = np.array([[0.5, 0.45, 0.2, 0.6]])
    (low, high), bars, words = ends_and_bars(attribution(worse, learned=0.4, baseline=0.5))
    assert low == 0
    assert high > bars.max()
    assert words == "meta-objective"
    below = attribution(np.array([[0.5, 0.5, 0.5, -0.1]]), learned=0.1, baseline=0.5)
    (low, high), bars, _ = ends_and_bars(below)
    assert low < bars.min() < 0
    assert high > bars.max()


def test_intervals_are_withheld_where_many_resamples_have_no_gain():
    """A gain on one problem of five: a third of the resamples, (4/5)^5, miss it."""
    record = with_problems([0.1, 0.5, 0.5, 0.5, 0.5], FIVE)
    worth = record.worth()
    assert np.isfinite(worth.values).all()
    assert np.isnan([*worth.lows, *worth.highs, *worth.none_ends, *worth.rest[1:]]).all()
    assert "Intervals: not available, since the learned optimizer gains nothing" in (
        " ".join(str(record).split())
    )


@pytest.mark.usefixtures("as_user")
def test_seeds_and_parts_that_a_record_lacks_are_refused():
    record = attribution(GENERATOR.uniform(0.15, 0.6, size=(3, 4)))
    parts: Any = "momentum"
    calls: dict[str, Any] = {
        "`parts` must be one of momentum, saturation, got 'foo'.":
            lambda: record.white_box(0, ("foo",)),
        "`parts` must be a list of names of parts, got 'momentum'.":
            lambda: record.white_box(0, parts),
        "`seed` must be below 3, the number of seeds, got 3.": lambda: record.white_box(3),
        "`seed` must be below 3, the number of seeds, got 5.": lambda: record.worth(5),
        "`seed` must be an integer of at least 0, got -1.": lambda: record.worth(-1),
        "`seed` must be below 3, the number of seeds, got 7.": lambda: record.worth_of_seed(7),
    }  # fmt: skip
    for words, call in calls.items():
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            call()


def a_path(*counts: int) -> WhiteBoxPath:
    """A record of white boxes of so many numbers."""
    size = len(counts)
    box = json.dumps(document_of(lo.WhiteBox(0.1)))
    return WhiteBoxPath(
        names=("move",) * size, counts=np.array(counts), documents=(box,) * size,
        objectives=np.full((size, 5), 0.3), selection_scores=np.arange(size, dtype=float),
        learned=FIVE / 5, baseline=FIVE, baseline_name="adam", tried=(),
    )  # fmt: skip


def test_paths_say_where_they_lead():
    titles = {(1, 2, 4): "White boxes of ever more numbers", (4, 1): "White boxes of ever fewer num"
              "bers", (1,): "White box of 1 number"}  # fmt: skip
    for counts, title in titles.items():
        assert a_path(*counts).table().title == title


def test_a_path_has_no_white_box_of_fewer_numbers_than_its_smallest():
    path = a_path(3, 5)
    assert path.white_box(3).numbers().keys() == {"learning_rate"}
    with pytest.raises(
        ValueError, match="^`numbers` must be at least 3, the least of this path, got 2.$"
    ):
        path.white_box(2)


def test_a_white_box_without_a_score_is_not_the_best():
    path = dataclasses.replace(
        a_path(1, 1, 2), selection_scores=np.array([np.nan, 0.1, np.nan]),
        documents=tuple(json.dumps(document_of(lo.WhiteBox(rate))) for rate in (0.1, 0.2, 0.3)),
    )  # fmt: skip
    assert float(path.white_box(2).numbers()["learning_rate"]) == pytest.approx(0.2)
    path = dataclasses.replace(path, selection_scores=np.full(3, np.nan))
    with pytest.raises(
        ValueError, match="^`numbers` must be those of a white box with a selection score, but of "
        "at most 2 none has any: all scores are NaN.$"
    ):  # fmt: skip
        path.white_box(2)


def test_paths_name_what_diverged():
    path = a_path(1, 2)
    assert "Diverged" not in str(path)
    objectives = path.objectives.copy()
    objectives[1, 3] = np.inf
    found = " ".join(str(dataclasses.replace(path, objectives=objectives)).split())
    assert found.endswith(
        "Diverged on test problems, and so count as infinitely worse, whichever problems are "
        "drawn: move (2) on 1 of 5."
    )


def test_diverged_subsets_explain_nothing():
    found = explained(np.array([[np.inf, 0.3, 0.9]]), 0.1, 0.5)
    np.testing.assert_allclose(found, [[0.0, 0.5, 0.0]])
    assert np.isnan(explained(np.array([[0.3]]), 0.5, 0.1)).all()
    assert np.isnan(explained(np.array([[np.inf, 0.3]]), 0.1, np.inf)).all()


def with_divergences(seeds: int) -> Attribution:
    """All else equal, saturation explains all: by rows none, momentum, saturation, both.

    Momentum alone diverged on one of 256 problems, both together in the last seed on two.
    """
    means = np.array([0.7, 0.3, 0.1, 0.1])
    objectives = np.tile(means[:, None], (seeds, 1, 256))
    objectives[:, 1, 17] = objectives[-1, 3, :2] = np.inf
    return dataclasses.replace(
        attribution(np.tile(means, (seeds, 1))), objectives=objectives,
        learned=np.full(256, 0.1), baseline=np.full(256, 0.5),
    )  # fmt: skip


def test_resamples_do_not_draw_a_divergence_away():
    """v is 0, 0, 1 and 0 in every resample; where the diverged problem is missed, too."""
    worth = with_divergences(1).worth()
    np.testing.assert_allclose(worth.values, [-0.5, 0.5], atol=1e-12)
    for ends in (worth.lows, worth.highs):
        np.testing.assert_allclose(ends, worth.values, atol=1e-12)
    assert worth.none_ends == (0.0, 0.0)
    np.testing.assert_allclose(worth.rest, 1.0)
    # In one seed of two both parts explain all: intervals are over the seeds that are drawn.
    worth = with_divergences(2).worth()
    np.testing.assert_allclose(worth.values, [-0.25, 0.75], atol=1e-12)
    np.testing.assert_allclose(worth.lows, [-0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(worth.highs, [0.0, 1.0], atol=1e-12)


def test_tables_name_the_subsets_that_diverged():
    words = "Diverged on test problems, and so explain nothing: "
    found = " ".join(str(with_divergences(2)).split())
    assert found.endswith(
        words + "momentum (seed 0) on 1 of 256; momentum (seed 1) on 1 of 256; "
        "momentum + saturation (seed 1) on 2 of 256."
    )
    assert with_divergences(1)._divergences() == [
        words + "momentum on 1 of 256; momentum + saturation on 2 of 256."
    ]
    assert attribution(GENERATOR.uniform(0.15, 0.6, size=(3, 4)))._divergences() == []


def test_without_a_finite_baseline_no_subset_explains_a_share():
    """As `worth` and `unknown` have it."""
    record, reason = NO_GAIN["baseline diverged"]
    assert record.unknown() == reason
    assert np.isnan(record.explained()).all()


def test_records_come_back_from_disk(tmp_path):
    record = attribution(GENERATOR.uniform(0.15, 0.6, size=(2, 4)))
    storage.save_record(tmp_path / "a.npz", record)
    again = storage.load_record(Attribution, tmp_path / "a.npz")
    np.testing.assert_array_equal(again.objectives, record.objectives)
    assert str(again) == str(record)


def test_a_record_is_kept_where_drawing_fails(tmp_path):
    """And no picture of another record is left beside it."""
    record = attribution(GENERATOR.uniform(0.15, 0.6, size=(1, 4)))
    (tmp_path / "attribution.png").write_text("of other numbers")

    def fail(_):
        raise RuntimeError("no fonts")

    with pytest.raises(RuntimeError, match="no fonts"):
        _write(tmp_path, "attribution", record, lambda _: None, fail)
    again = storage.load_record(Attribution, tmp_path / "attribution.npz")
    np.testing.assert_array_equal(again.objectives, record.objectives)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"attribution.npz", "attribution.csv", "attribution.txt"}


@pytest.mark.parametrize("given", [(), ("fit", "fit")])
def test_studies_are_different_names_at_least_one(given):
    said = f"`studies` must be different names, at least one, got {given}."
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        DistillSettings(studies=given)


@pytest.mark.parametrize("name", ["seeds", "numbers", "problems"])
def test_counts_are_refused_before_anything_is_trained(name):
    """Of Python's calls, too: the last study would meet them first."""
    with pytest.raises(ValueError, match=f"^`{name}` must be an integer of at least 1, got 0.$"):
        partial(DistillSettings, **{name: 0})()  # type: ignore[arg-type]


def test_names_of_baselines_replace_nothing():
    """White boxes, the learned optimizer and baselines are measured whatever baselines' names."""
    boxes = [lo.GradientDescent(rate) for rate in (1e-5, 2e-5)]
    learned, slow, best = (lo.GradientDescent(rate) for rate in (1e-4, 1e-6, 5e-5))
    task = lo.Rosenbrock()

    def beside(*names):
        return measured_beside(
            boxes, learned, dict(zip(names, (slow, best), strict=True)), task, settings=SHORT,
            key=jr.key(0), test_key=jr.key(1), problems=4,
        )  # fmt: skip

    plain = lo.evaluate(
        {"0": boxes[0], "1": boxes[1], "learned": learned, "best": best}, task, problems=4,
        steps=40, key=jr.key(1),
    ).meta_objectives()  # fmt: skip
    for names in (("slow", "best"), ("0", "1"), ("1", "learned"), ("0 0", "fitted to updates")):
        found = beside(*names)
        assert found.baseline_name == names[1]
        rows = np.stack([*found.boxes, found.learned, found.baseline])
        np.testing.assert_array_equal(rows, plain)


ONE_MODE = lo.WhiteBox(0.1, momentum=0.9, saturation=lo.BoxSaturation(1.0), hold=("knee",))
GIVEN: dict[str, Any] = {
    "`distilled` must have the numbers of `white_box`, but `white_box` alone has 'knee'.":
        lo.WhiteBox(0.1, momentum=0.9),
    "`distilled` must have the numbers of `white_box`, but `white_box` alone has 'momentum'.":
        lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.9, 0.5)), saturation=lo.BoxSaturation(1.0)),
    "`distilled` must have the numbers of `white_box`, but it alone has 'asymmetry'.":
        lo.WhiteBox(0.1, momentum=0.9, saturation=lo.BoxSaturation(1.0, 2.0, 0.1)),
    "`distilled` must have the `saturation_of` of `white_box`, 'gradient', got 'update'.":
        lo.WhiteBox(0.1, momentum=0.9, saturation=lo.BoxSaturation(1.0, of="update")),
    "`distilled` must hold the numbers that `white_box` holds, ":
        ONE_MODE.holding("momentum"),
    "`distilled` must be a `WhiteBox`, got 3.": 3,
}  # fmt: skip


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("said", GIVEN)
def test_starts_of_another_structure_are_refused(said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        attribute(
            CLIPPING, ONE_MODE, lo.Rosenbrock(), key=jr.key(0), test_key=jr.key(1),
            baselines={"descent": lo.GradientDescent(1e-6)}, distilled=GIVEN[said],
        )  # fmt: skip


@pytest.mark.usefixtures("as_user")
def test_optimizers_that_never_move_and_bad_baselines_are_refused_first():
    """As an untrained GRU, whose readout is 0; before anything is trained."""
    common: dict[str, Any] = {"key": jr.key(0), "test_key": jr.key(1), "settings": SHORT}
    calls: dict[str, Any] = {
        "attribute": partial(attribute, white_box=ONE_MODE),
        "grow": grow_path,
        "prune": partial(lo.prune_path, white_box=ONE_MODE),
    }
    for call in calls.values():
        run = partial(call, task=lo.Rosenbrock(), **common)
        with pytest.raises(
            ValueError, match="^`optimizer` must move, but all of its updates are 0"
        ):
            run(lo.GRUOptimizer(2, key=jr.key(0)), baselines={"a": lo.GradientDescent(1e-6)})
        with pytest.raises(ValueError, match=r"^`baselines\['a'\]` must "):
            run(CLIPPING, baselines={"a": 3})
        task = lo.FunctionTask(lambda x: 0.5 * x**2 - 100.0, jr.normal)
        with pytest.raises(ValueError, match="^`task` must have losses of at least 0 at initial"):
            partial(call, task=task, **common)(CLIPPING, baselines={"a": lo.GradientDescent(0.1)})


CLIPPING = lo.WhiteBox(0.01, saturation=lo.BoxSaturation(5.0))
"""Better on Rosenbrock than the gradient descent that it is compared with."""


@pytest.mark.long
def test_subsets_are_trained_and_their_gains_shared():
    """On an optimizer that clips, over gradient descent."""
    box = lo.WhiteBox(1e-3, saturation=lo.BoxSaturation(1.0), hold=("sharpness",))
    record = attribute(
        CLIPPING, box, lo.Rosenbrock(), key=jr.key(0), test_key=jr.key(1), problems=32,
        baselines={"descent": lo.GradientDescent(1e-6)}, settings=SHORT,
    )  # fmt: skip

    found = record.explained()[0]
    assert record.parts == ("saturation",)
    assert found[1] > 0.8
    np.testing.assert_allclose(record.worth().values, found[1:] - found[0], rtol=0, atol=1e-14)
    assert record.white_box().numbers()["knee"] > 0
    assert np.isfinite(record.start_scores).sum() == 2 + 3  # random ones, and one given


class TroughProblem(AbstractProblem):
    """One parameter on a slope, beside a flat trough."""

    slope: Float[Array, ""]
    initial_parameters: Float[Array, "1"]


class Trough(AbstractTask):
    """A trough of width 1 from a start at distance 1, with slopes over two decades.

    A step of size 1 ends in it whatever the slope, and one of descent only where the slope is
    within a factor 3.
    """

    def sample(self, key: Key[Array, ""]) -> TroughProblem:
        slope, sign = jr.split(key)
        return TroughProblem(
            10 ** (2 * jr.uniform(slope) - 2), jnp.where(jr.bernoulli(sign), 1.0, -1.0)[None]
        )

    def loss(
        self, problem: TroughProblem, parameters: Float[Array, "1"], step: Any
    ) -> Float[Array, ""]:
        return problem.slope * jnp.maximum(jnp.abs(parameters[0]) - 0.5, 0.0)


@pytest.mark.long
def test_a_planted_saturation_is_worth_all_of_the_gain():
    """Of two updates, clipped descent needs one: no optimizer is better, so no part adds to it."""
    training = lo.MetaTraining(
        steps=60, unroll=2, problems=32, objective="mean", learning_rate=0.2, warm_up=0, clip=1.0,
        penalty=0.0, early_snapshots=False, snapshot_every=10, selection_problems=64,
    )  # fmt: skip
    box = lo.WhiteBox(
        1.0, momentum=0.5, saturation=lo.BoxSaturation(1.0), schedule=lo.BoxSchedule(2.0, 2.0),
        hold=("sharpness",),
    )  # fmt: skip
    record = attribute(
        lo.ClippedGradientDescent(100.0, 0.01), box, Trough(), key=jr.key(0), test_key=jr.key(1),
        baselines={str(rate): lo.GradientDescent(rate) for rate in (1.0, 1.5, 2.0, 3.0)},
        settings=BoxTraining(training=training, starts=2, candidates=32, screening_problems=32),
    )  # fmt: skip
    np.testing.assert_allclose(record.learned, 1 / 3, rtol=1e-6)  # losses 1, 0 and 0
    worth, shares = record.worth(), record.explained()[0]
    assert record.parts == ("momentum", "saturation", "schedule")
    np.testing.assert_allclose(worth.values, [0.0, 1.0, 0.0], atol=0.1)
    np.testing.assert_allclose(worth.values.sum(), shares[-1] - shares[0], atol=1e-12)
    np.testing.assert_allclose([worth.none, worth.rest[0]], 0.0, atol=0.1)
    has = record.subsets[:, 1]
    assert shares[has].min() > 0.9
    assert shares[~has].max() < 0.2


@pytest.mark.long
def test_only_the_most_promising_starts_are_trained():
    """As if the others had not been there; NaN stands in their places."""
    far, near = (
        lo.WhiteBox(1e-3, saturation=lo.BoxSaturation(knee), hold=("sharpness",))
        for knee in (1e-4, 5.0)
    )
    train = partial(train_boxes, far, lo.Rosenbrock(), key=jr.key(0), typical=TYPICAL)
    every = train(given=[far, near], settings=SHORT)
    assert np.isfinite(every.scores).all()
    for count in (1, 2, 3):
        some = train(given=[far, near], settings=dataclasses.replace(SHORT, trained_starts=count))
        trained = np.isfinite(some.scores)
        assert trained.sum() == count
        assert not trained[0]  # moves a parameter by a thousandth of what the other does
        np.testing.assert_allclose(some.scores[trained], every.scores[trained], rtol=1e-9)
    same = train(given=[far, near], settings=dataclasses.replace(SHORT, trained_starts=4))
    np.testing.assert_array_equal(same.scores, every.scores)


@pytest.mark.slow
def test_paths_grow_by_moves_and_do_not_get_worse():
    path = grow_path(
        CLIPPING, lo.Rosenbrock(), key=jr.key(0), test_key=jr.key(1), settings=SHORT, numbers=3,
        problems=16, baselines={"descent": lo.GradientDescent(1e-6)},
    )  # fmt: skip
    assert path.counts[0] == 1
    assert np.all(np.diff(path.counts) > 0)
    assert path.counts[-1] <= 3
    assert path.selection_scores[-1] < path.selection_scores[0]
    assert np.isfinite(np.array(path.gains())).all()
    assert len(path.white_box(2).numbers()) <= 2
    assert "gain kept" in str(path)


def every_form() -> dict[str, lo.WhiteBox]:
    """White boxes of all structures that differ in more than a number."""
    pair = lo.BoxMomentum((0.9, 0.5 + 0.5j), (0.6, 0.4 + 0.2j))
    three = lo.BoxMomentum((0.0, 0.9, 0.5 + 0.3j), (0.5, 1.0, -0.5))
    forms: dict[str, Any] = {
        f"{of} {divided} {outside}": lo.WhiteBox(
            1e-3, momentum=pair, schedule=lo.BoxSchedule(2.0, 20.0),
            saturation=lo.BoxSaturation(50.0, 1.5, None if of == "memory" else 0.1, of=of),
            adaptation=lo.BoxAdaptation(0.95, 0.2, 5.0, of=divided, floor_outside=outside))
        for of in ("gradient", "update", "memory")
        for divided in ("gradient", "update")
        for outside in (False, True)
    }  # fmt: skip
    return forms | {
        "descent": lo.WhiteBox(0.1),
        "agreement": lo.WhiteBox(0.1, agreement=lo.BoxAgreement(0.7, 0.6)),
        "agreement of all parts": lo.WhiteBox(
            1e-3,
            momentum=pair,
            saturation=lo.BoxSaturation(50.0, 1.5, of="memory"),
            adaptation=lo.BoxAdaptation(0.95, 0.2, 5.0),
            schedule=lo.BoxSchedule(2.0, 20.0),
            agreement=lo.BoxAgreement(-0.4, 0.9),
        ),
        "agreement of the knee, sharpness of each mode": lo.WhiteBox(
            1e-3,
            momentum=pair,
            saturation=lo.BoxSaturation(50.0, 1.5, of="memory", sharpness_ratio=0.7),
            agreement=lo.BoxAgreement(0.8, 0.7, 0.5, -1.5),
        ),
        "agreement of the knee, asymmetry": lo.WhiteBox(
            0.1,
            saturation=lo.BoxSaturation(5.0, 1.5, 0.2),
            agreement=lo.BoxAgreement(0.8, 0.7, None, 0.5),
        ),
        "no memory to saturate": lo.WhiteBox(
            0.1,
            saturation=lo.BoxSaturation(2.0, of="memory"),
            adaptation=lo.BoxAdaptation(0.9, 0.3),
        ),
        "clipped": lo.WhiteBox.of_clipped(0.1, 2.0),
        "adam": lo.WhiteBox.of_adam(0.1),
        "nesterov": lo.WhiteBox.of_nesterov(0.1, 0.9),
        "forgets": lo.WhiteBox(0.1, momentum=three, saturation=lo.BoxSaturation(2.0)),
        "forgets all": lo.WhiteBox(
            0.1, momentum=0.0, saturation=lo.BoxSaturation(2.0, of="update")
        ),
        "bounded memories": lo.WhiteBox(
            0.1,
            momentum=three,
            saturation=lo.BoxSaturation(2.0, of="memory"),
            agreement=lo.BoxAgreement(0.5),
        ),
        "two pairs": lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.9j, 0.3 + 0.3j), (0.5, 0.5))),
    }


@pytest.mark.parametrize(
    "name", mostly_long(every_form(), "adam", "gradient update True", "two pairs")
)
def test_text_is_an_optimizer_of_the_same_updates(name):
    """A dozen lines of plain optax, executed beside the white box."""
    box = every_form()[name]
    text = optax_text(box, digits=17)
    space: dict[str, Any] = {}
    exec(text, space)
    written, ours = space["distilled"](), lo.to_optax(box)
    parameters = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    states = written.init(parameters), ours.init(parameters)
    for size in np.geomspace(100, 1e-3, 20):
        gradients = {"a": size * jnp.asarray(GENERATOR.normal(size=3)), "b": jnp.asarray(size)}
        first, one = written.update(gradients, states[0])
        second, two = ours.update(gradients, states[1], parameters)
        states = one, two
        for leaf in gradients:
            np.testing.assert_allclose(first[leaf], second[leaf], rtol=1e-10)
    latex = latex_text(box)
    assert latex.count("{") == latex.count("}")
    assert latex.count("\\left") == latex.count("\\right")


def test_text_says_nothing_that_does_nothing():
    """No factor 1, no term 0, no copy of a value, no line twice; each sum has its signs."""
    for box in every_form().values():
        text = optax_text(box)
        lines = [line.strip() for line in text.split("def init")[0].splitlines() if line]
        idle = r" \+ -| - -|[-+(=] 0 \* |[-+(=] 1 \* |\b(\w+) = [a-z]$"
        assert not [line for line in lines if re.search(idle, line) and line != "b = g"], text
        assert len({*lines}) == len(lines), text
        assert not re.search(r"\+ -|[-+(=] 0 ?\\|[-+(=] 1\\|\(\(|\(-?0\)", latex_text(box))
    assert "-0.1 * v, v\n" in optax_text(lo.WhiteBox(0.1, momentum=0.9))
    assert "(-0.1 * g,)\n" in optax_text(lo.WhiteBox(0.1, momentum=0.0))


@pytest.mark.parametrize("tree", [{}, (), {"a": None}])
def test_text_takes_trees_without_arrays(tree):
    """As of a module whose parameters are all masked: nothing moves, and the state stays."""
    space: dict[str, Any] = {}
    exec(optax_text(lo.WhiteBox(0.1, momentum=0.9)), space)
    transformation = space["distilled"]()
    state = transformation.init(tree)
    assert transformation.update(tree, state) == (tree, state)
    ours = lo.to_optax(lo.WhiteBox(0.1))
    assert ours.update(tree, ours.init(tree))[0] == tree


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_text_keeps_the_type_of_parameters(dtype):
    """So that a step can be the body of a loop: updates and state are of the gradients' type."""
    full = lo.WhiteBox(
        0.1, momentum=0.9, saturation=lo.BoxSaturation(2.0), adaptation=lo.BoxAdaptation(0.9),
        schedule=lo.BoxSchedule(3.0, 20.0), agreement=lo.BoxAgreement(0.5),
    )  # fmt: skip
    for box in (full, lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(0.9, floor=1e-3))):
        space: dict[str, Any] = {}
        exec(optax_text(box), space)
        written = space["distilled"]()
        gradients = jnp.asarray([[1.0, -2.0]] * 3, dtype)
        state, moves = written.init(gradients[0]), []
        for gradient in gradients:
            before = jax.tree.map(jnp.result_type, state)
            move, state = written.update(gradient, state)
            assert jax.tree.map(jnp.result_type, state) == before
            moves.append(move)
        moved = jnp.stack(moves)
        assert moved.dtype == dtype
        wide = jnp.asarray(gradients, jnp.float64)
        state, expected = written.init(wide[0]), []
        for gradient in wide:
            move, state = written.update(gradient, state)
            expected.append(move)
        rtol = 20 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(moved.astype(float), jnp.stack(expected), rtol=rtol)


def test_text_defines_a_name_that_it_does_not_use():
    """What it looks up outside its functions is refused as its name, and so are Python's words."""
    text = optax_text(lo.WhiteBox.of_adam(0.1))
    tables = list(symtable.symtable(text, "text", "exec").get_children())
    looked_up: set[str] = set()
    for table in tables:
        tables += table.get_children()
        looked_up |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    assert looked_up >= {"jax", "jnp", "optax"}
    for name in [*looked_up, *keyword.kwlist, "__debug__", "two words"]:
        with pytest.raises(ValueError, match="`name` must be a name"):
            optax_text(lo.WhiteBox(0.1), name)


@pytest.mark.parametrize("wide", [False, True])
def test_text_keeps_the_digits_of_what_is_forgotten(wide):
    """Kept and added shares sum to 1, near 1 with the digits of the smaller, as short as can be."""
    with jax.enable_x64(wide):
        short = "s = 0.999 * s + 0.001 * g**2", "v = 0.9 * v + d", "p = 0.7 * p + 0.3 * g * b"
        ordinary = lo.WhiteBox(
            0.1, momentum=0.9, adaptation=lo.BoxAdaptation(0.999), agreement=lo.BoxAgreement(0.5)
        )
        assert all(f" {line}\n" in optax_text(ordinary) for line in short)
        assert "s' &= 0.999\\, s + 0.001\\, g^2" in latex_text(ordinary)
        long = lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(0.999185))
        assert "s' &= 0.999185\\, s + 0.000815\\, g^2" in latex_text(long)
        assert "v = -0.99999 * v + g" in optax_text(lo.WhiteBox(0.1, momentum=-0.99999), digits=2)
        text = optax_text(lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(0.01234567)))
        assert "s = 0.0123457 * s + 0.9876543 * g**2" in text
    if wide:
        assert "v = 0.9999998 * v + g" in optax_text(lo.WhiteBox(0.1, momentum=0.9999998))
        slow = optax_text(lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(0.9999998)))
        assert "s = 0.9999998 * s + 2e-07 * g**2" in slow
        momentum = 0.9999998 * np.exp(0.3j)
        line = optax_text(lo.WhiteBox(0.1, momentum=momentum)).split("x, y = ")[1]
        found = complex(float(line.split(" * ")[0]), float(line.split(" - ")[1].split(" * ")[0]))
        np.testing.assert_allclose(1 - abs(found), 2e-7, rtol=1e-5)


def test_text_keeps_the_digits_of_what_nearly_cancels():
    """A schedule that begins near 0, and large shares, which sum to 1: first updates are right."""
    begins = lo.WhiteBox(0.1, schedule=lo.BoxSchedule(1.234567e-5, 50.0))
    shares = lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.5, 0.4), (1000.123456, -999.123456)))
    for box, wanted in ((begins, -1.23457e-6), (shares, -0.1)):
        space: dict[str, Any] = {}
        exec(optax_text(box), space)
        transformation = space["distilled"]()
        update, _ = transformation.update(jnp.ones(1), transformation.init(jnp.ones(1)))
        np.testing.assert_allclose(update, wanted, rtol=1e-5)
    assert r"\left(1 - 0.9999877\, e^{-k / 50}\right)" in latex_text(begins)
    assert "d &= 1000.12\\, v_1' - 999.12\\, v_2'" in latex_text(shares)
    nothing = lo.WhiteBox(0.1, schedule=lo.BoxSchedule(1e-30, 50.0))
    assert "d = g * (1 - z)\n" in optax_text(nothing)


def test_latex_divides_by_products_in_parentheses():
    saturation = lo.BoxSaturation(2e3, 3.0, 0.4)
    text = latex_text(lo.WhiteBox(0.1, saturation=saturation, schedule=lo.BoxSchedule(2.0, 2e4)))
    knee = r"(2 \times 10^{3}\, e^{0.4 \operatorname{sign} u})"
    assert rf"S(u) &= u / \left(1 + |u / {knee}|^{{3}}\right)^{{1 / 3}}" in text
    assert r"e^{-k / (2 \times 10^{4})}" in text
    plain = latex_text(lo.WhiteBox(0.1, saturation=lo.BoxSaturation(2.0, 3.0)))
    assert r"S(u) &= u / \left(1 + |u / 2|^{3}\right)^{1 / 3}" in plain


def test_moves_add_numbers_and_change_little():
    document, seen = simplest(), set()
    for _ in range(6):
        moves = moves_from(document, TYPICAL)
        for name, (larger, new) in moves.items():
            box = box_of(larger)
            assert set(new) <= set(box.numbers())
            assert len(box.numbers()) > len(box_of(document).numbers())
            seen.add(name)
        document = list(moves.values())[-1][0]
    assert {"momentum", "oscillating momentum", "schedule", "agreement", "free timescale"} <= seen


def test_distilled_optimizers_come_with_the_package():
    """Better than Adam on Rosenbrock, in a loop of optax."""
    task = lo.Rosenbrock()
    transformation = lo.distilled("rosenbrock")
    contestants: dict[str, Any] = {
        "distilled": distilled_box("rosenbrock"),
        "adam": lo.Adam(0.0562, 0.832, 0.842),  # tuned, results/rosenbrock
    }
    means = lo.evaluate(contestants, task, problems=32, steps=200, key=jr.key(9)).mean_scores()
    assert means["distilled"] < 0.8 * means["adam"]
    problem = task.sample(jr.key(0))
    run = lo.unroll(contestants["distilled"], task, problem, 20)
    x = problem.initial_parameters
    state = transformation.init(x)
    for k in range(20):
        updates, state = transformation.update(run.gradients[k], state, x)
        x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(x, run.parameters[-1], rtol=1e-10)


def test_distilled_linear_regression_is_better_than_momentum():
    contestants: dict[str, Any] = {
        "distilled": distilled_box("linear_regression"),
        "momentum": lo.Momentum(3.743, 0.8906),  # fitted to 512 training problems
    }
    assert len(contestants["distilled"].numbers()) == 8
    task = lo.LinearRegression()
    means = lo.evaluate(contestants, task, problems=64, steps=200, key=jr.key(9)).mean_scores()
    assert means["distilled"] < 0.9 * means["momentum"]


@pytest.mark.parametrize(
    ("task", "count", "share", "least"), [("two_moons", 6, 0.7, 0.65), ("mnist", 4, 0.9, 0.85)]
)
def test_distilled_networks_are_those_that_were_measured(task, count, share, least):
    box = distilled_box(task)
    folder = ROOT / "results" / "distillation" / task / "nested"
    record = storage.load_record(WhiteBoxPath, folder / "nested.npz")
    numbers = pytest.approx(document_of(box)["numbers"], rel=1e-5)  # single precision
    place = [json.loads(one)["numbers"] == numbers for one in record.documents].index(True)
    assert record.counts[place] == count
    assert record.gains()[place].value > share
    assert record.gains()[place].low > least
    evaluation = lo.Run(ROOT / "results" / task).evaluation
    assert evaluation is not None
    rows = dict(zip(evaluation.names, evaluation.meta_objectives(), strict=True))
    np.testing.assert_allclose(record.learned, rows["learned"], rtol=1e-6)
    np.testing.assert_allclose(record.baseline, rows["adam"], rtol=1e-6)


def test_distilled_two_moons_is_better_than_adam():
    """In its first updates too; what was measured at 200 stands in the results."""
    tuned = lo.Run(ROOT / "results" / "two_moons").tuning["adam"].best
    contestants: dict[str, Any] = {
        "distilled": distilled_box("two_moons"),
        "adam": lo.Adam(**{name: float(value) for name, value in tuned.items()}),
    }
    means = lo.evaluate(
        contestants, lo.TwoMoons(), problems=1, steps=40, key=jr.key(9)
    ).mean_scores()
    assert means["distilled"] < means["adam"]


def test_settings_are_those_of_the_task_with_what_the_command_gives():
    """On networks a run takes long, so that fewer problems, starts and steps are the default."""
    command = Distill(run=Path("unused"), training_problems=3, estimator="clipped", tried=1)
    small = lo.Rosenbrock(), DistillSettings()
    for task, usual in (small, (lo.TwoMoons(), DistillSettings.for_task(lo.TwoMoons()))):
        found = command._settings(task)
        assert found.boxes.training == dataclasses.replace(
            usual.boxes.training, problems=3, estimator="clipped"
        )
        assert found.boxes == dataclasses.replace(
            usual.boxes, training=found.boxes.training, tried=1
        )
        assert found.distilling == usual.distilling
        assert found.seeds == usual.seeds
    network = DistillSettings.for_task(lo.TwoMoons())
    assert network.boxes.training.problems < DistillSettings().boxes.training.problems
    assert network.distilling.problems < DistillSettings().distilling.problems


@pytest.mark.parametrize(
    ("study", "box", "words"),
    [
        ("elimination",
         lo.WhiteBox(1e-3, momentum=lo.BoxMomentum((0.1, 0.2, 0.3), (0.1, 0.2, 0.7))),
         "`white_box` must have at most 2 modes, got 3."),
        ("parts", lo.WhiteBox(1e-3), "`white_box` must have at least one part, got none."),
        ("parts", lo.WhiteBox(1e-3, momentum=0.5, hold=("learning_rate",)),
         "`white_box` must leave `learning_rate` free, the one number of its subset without parts, "
         "got it held at 0.001."),
    ],
)  # fmt: skip
def test_what_a_later_study_cannot_take_is_refused_before_the_first(study, box, words, tmp_path):
    run, settings = Run(ROOT / "results" / "rosenbrock"), DistillSettings(studies=("fit", study))
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        distill_run(run, tmp_path / "new", settings, white_box=box)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("given", [lo.Momentum(0.1, 0.9), 0])
def test_what_is_no_white_box_is_refused(given, tmp_path):
    """As what a `module:factory` of the command may make."""
    run: Any = Run(ROOT / "results" / "rosenbrock")
    with pytest.raises(ValueError, match="^`white_box` must be a `WhiteBox`, got (Mom|0)"):
        distill_run(run, tmp_path / "new", DistillSettings(), white_box=given)
    assert not (tmp_path / "new").exists()


def test_a_fit_of_another_scale_or_beside_other_baselines_is_not_taken_up(tmp_path, monkeypatch):
    """What was interrupted is of that optimizer, and of the baselines beside it."""
    settings = DistillSettings(
        studies=("fit", "path"), problems=2,
        distilling=lo.Distilling(starts=1, candidates=2, iterations=2, refinement=0, problems=2,
                                 test_problems=2, steps=5),
    )  # fmt: skip
    run, box = Run(ROOT / "results" / "rosenbrock"), lo.WhiteBox(1e-3, momentum=0.5)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(distillation_package, "grow_path", interrupted)
    learned: Any = lo.load(run.folder)
    twice = copy.copy(learned)
    object.__setattr__(twice, "output_scale", 2 * learned.output_scale)  # a constant
    for rate, own in ((1e-4, learned), (2e-4, learned), (2e-4, twice)):
        monkeypatch.setattr(saved, "load", lambda folder, own=own: own)
        rivals = {"momentum": lo.Momentum(rate, 0.5), "slow": lo.Momentum(1e-6, 0.5)}
        monkeypatch.setattr(distill_module, "tuned_baselines", lambda tuned, rivals=rivals: rivals)
        with pytest.raises(KeyboardInterrupt):
            distill_run(run, tmp_path / "cut", settings, white_box=box, say=lambda _: None)
        record = storage.load_record(lo.Distillation, tmp_path / "cut" / "distillation.npz")
        key, entered = key_of_scores(settings), {"momentum": rivals["momentum"], "learned": own}
        tested = lo.evaluate(entered, run.task, problems=2, steps=5, key=key)
        rows = [record.objectives[record.contestants.index(name)] for name in entered]
        np.testing.assert_allclose(rows, tested.meta_objectives(), rtol=1e-6)


def key_of_scores(settings: DistillSettings) -> jax.Array:
    """Key of the problems on which `distill` scores."""
    return jr.split(key_stream("analysis", settings.seed), 5)[2]


@pytest.mark.slow
def test_an_interrupted_stage_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Trained white boxes are not trained again, and the folder has records, tables and figures."""
    settings = DistillSettings(
        studies=("path", "parts"), seeds=1, numbers=1, problems=4,
        boxes=dataclasses.replace(SHORT, starts=1, candidates=8),
    )  # fmt: skip
    box = lo.WhiteBox(1e-3, saturation=lo.BoxSaturation(1.0), hold=("sharpness",))
    run, said, trained = Run(ROOT / "results" / "rosenbrock"), list[str](), list[int]()
    whole = distill_run(run, tmp_path / "whole", settings, white_box=box, say=said.append)
    # One random start, one from the subset without the part, one from the numbers that were given.
    assert np.isfinite(whole["parts"].start_scores[0, -1]).sum() == 3

    def once(*arguments, **options):
        if trained:
            raise KeyboardInterrupt
        trained.append(1)
        return train_boxes(*arguments, **options)

    monkeypatch.setattr(attribution_module, "train_boxes", once)
    with pytest.raises(KeyboardInterrupt):
        distill_run(run, tmp_path / "cut", settings, white_box=box, say=said.append)
    trained.clear()  # one more may be trained: the second of two subsets
    again = distill_run(run, tmp_path / "cut", settings, white_box=box, say=said.append)
    np.testing.assert_array_equal(again["parts"].objectives, whole["parts"].objectives)
    np.testing.assert_array_equal(again["path"].objectives, whole["path"].objectives)
    files = {path.name for path in (tmp_path / "cut").iterdir()}
    assert {"attribution.npz", "attribution.png", "path.csv", "distilled.json", "distilled.py"} <= (
        files
    )
    assert "unfinished" not in files
    # A folder that holds a run, or a distillation with other settings, is left as it is.
    other = dataclasses.replace(settings, seed=5)
    for folder, chosen, named in ((run.folder, settings, "studies"),
                                  (tmp_path / "whole", other, "seed")):  # fmt: skip
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=f"`output` must be a folder .*, whose `{named}` diff"):
            distill_run(run, folder, chosen, white_box=box, say=said.append)
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert after == before
