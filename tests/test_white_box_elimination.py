"""Backward elimination: ties leave exactly the smaller white box, and what is not needed goes."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import Quadratic, mostly_long

import lrevopt as lo
from lrevopt.inner_loop.recorded_runs import Typical, replayed
from lrevopt.optimizers.white_box_documents import box_of, document_of, load_box
from lrevopt.studies.distillation import BoxTraining
from lrevopt.studies.distillation.removals import all_free, reduced, removals, tied

TYPICAL = Typical(gradient=1.0, largest=5.0, steps=40)

GRADIENTS = jnp.asarray(np.random.default_rng(1).normal(size=(50, 3)))

PARTS: dict[str, Any] = {
    "saturation": lo.BoxSaturation(2.0, 1.5, 0.2),
    "adaptation": lo.BoxAdaptation(0.95, 0.3, 0.1),
    "schedule": lo.BoxSchedule(2.0, 20.0),
    "agreement": lo.BoxAgreement(0.6, 0.8, 0.3, -0.4),
}

FULL = {
    "a real and an oscillating mode": lo.WhiteBox(
        0.1, momentum=lo.BoxMomentum((0.9, 0.5 + 0.4j), (0.7, 0.3 + 0.1j)), **PARTS),
    "two real modes": lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.9, 0.2), (0.7, 0.3)), **PARTS),
    "two oscillating modes": lo.WhiteBox(
        0.1, momentum=lo.BoxMomentum((0.8j, 0.5 + 0.4j), (0.7 + 0.2j, 0.3 + 0.1j)), **PARTS),
    "an oscillating mode": lo.WhiteBox(0.1, momentum=0.5 + 0.4j, **PARTS),
    "held numbers": lo.WhiteBox(
        0.1, momentum=0.5, **PARTS, hold=("exponent", "sharpness", "timescale")),
    "memory saturates": lo.WhiteBox(
        0.1, momentum=lo.BoxMomentum((0.9, 0.5 + 0.4j), (0.7, 0.3)),
        saturation=lo.BoxSaturation(2.0, of="memory", sharpness_ratio=0.7)),
    "as in Adam": lo.WhiteBox(
        0.1, momentum=0.8, adaptation=lo.BoxAdaptation(
            0.9, 0.4, 0.3, of="update", floor_outside=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_long(FULL, "held numbers", "as in Adam"))
@pytest.mark.parametrize("seed", mostly_long([0, 1, 2], 0))
def test_removals_end_at_the_learning_rate_and_write_out_what_runs(name, seed):
    """In whatever order: the reduced white box makes the same updates, with the same numbers."""
    box, ties = all_free(FULL[name])
    generator = np.random.default_rng(seed)
    counts = [len(FULL[name].numbers())]
    assert len(box_of(reduced(box, ties)).numbers()) == counts[0]
    while options := removals(box, ties, TYPICAL):
        ties = ties | list(options.values())[generator.integers(len(options))]
        one, small = tied(box, ties), box_of(json.loads(json.dumps(reduced(box, ties))))
        counts.append(len(small.numbers()))
        expected = replayed(one, GRADIENTS)
        # The angle of a real mode that oscillated is 8e-18, not 0.
        np.testing.assert_allclose(replayed(small, GRADIENTS), expected, rtol=1e-9, atol=1e-12)
    assert np.all(np.diff(counts) < 0)
    assert small.numbers().keys() == {"learning_rate"}


@pytest.mark.parametrize("whose", ["gradient", "update"])
@pytest.mark.parametrize("what", ["gradient", "memory", "update"])
def test_without_adaptation_a_knee_behind_its_floor_is_written_in_its_units(what, whose):
    """Of the floor outside the power there stays a factor, which stands before some saturations."""
    full = lo.WhiteBox(
        0.1, momentum=0.8, saturation=lo.BoxSaturation(0.7, of=what),
        adaptation=lo.BoxAdaptation(0.9, 0.4, 0.6, of=whose, floor_outside=True),
    )  # fmt: skip
    box, ties = all_free(full)
    ties = ties | removals(box, ties, TYPICAL)["adaptation"]
    small = box_of(reduced(box, ties))
    assert small.parts == ("momentum", "saturation")
    np.testing.assert_allclose(
        replayed(small, GRADIENTS), replayed(tied(box, ties), GRADIENTS), rtol=1e-9
    )


def test_tied_numbers_have_no_derivative():
    box, ties = all_free(FULL["a real and an oscillating mode"])
    ties = ties | removals(box, ties, TYPICAL)["saturation"]

    @eqx.filter_jit
    def slopes(one):
        return eqx.filter_grad(lambda o: jnp.sum(replayed(o, GRADIENTS) ** 2))(one)

    found = slopes(tied(box, ties)).box.coordinates
    for name, value in found.items():
        assert np.isfinite(value)
        assert (float(value) == 0) == (name in ties)


def test_names_of_removals():
    box, ties = all_free(FULL["a real and an oscillating mode"])
    assert set(removals(box, ties, TYPICAL)) == {
        "real mode", "oscillating mode", "memory of real mode", "unequal shares",
        "oscillation of oscillating mode", "quadrature of oscillating mode", "saturation",
        "free sharpness", "free sharpness (1/2)", "asymmetry", "adaptation", "free exponent",
        "free floor", "schedule", "free timescale", "agreement", "free memory of agreement",
        "curvature of agreement", "free curvature of agreement", "agreement of the knee",
        "free agreement of the knee",
    }  # fmt: skip
    memory = FULL["memory saturates"]
    assert "sharpness of each mode" in removals(*all_free(memory), TYPICAL)
    ties = ties | removals(box, ties, TYPICAL)["oscillating mode"]
    assert "momentum" in removals(box, ties, TYPICAL)
    assert "unequal shares" not in removals(box, ties, TYPICAL)


WITHOUT_SATURATION: dict[str, tuple[lo.WhiteBox, set[str]]] = {
    "nothing beside it": (lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1.0)), set()),
    "asymmetry": (lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1.0, asymmetry=0.1)), {"asymmetry"}),
    "sharpness of each mode": (FULL["memory saturates"], {"sharpness_ratio"}),
    "curvature of agreement": (
        lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1.0),
                    agreement=lo.BoxAgreement(0.5, 0.7, 0.5)), set()),
    "agreement of the knee": (
        lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1.0),
                    agreement=lo.BoxAgreement(0.5, 0.7, 0.5, -0.4)), {"agreement_knee"}),
}  # fmt: skip
"""White boxes that saturate, and what goes with knee and sharpness."""


@pytest.mark.parametrize("name", WITHOUT_SATURATION)
def test_with_saturation_goes_only_what_acts_on_its_knee(name):
    """What is left is the white box that was never given a saturation, with all other numbers."""
    full, more = WITHOUT_SATURATION[name]
    box, ties = all_free(full)
    ties = removals(box, ties, TYPICAL)["saturation"]
    assert ties.keys() == {"knee", "sharpness"} | more
    small = box_of(reduced(box, ties))
    assert small.numbers().keys() == full.numbers().keys() - ties.keys()
    document = document_of(full) | {"saturation_of": None}
    document["numbers"] = {
        name: value for name, value in document["numbers"].items() if name not in ties
    }
    expected = replayed(box_of(document), GRADIENTS)
    np.testing.assert_allclose(replayed(small, GRADIENTS), expected, rtol=1e-6)


SHORT = BoxTraining(
    training=lo.MetaTraining(
        steps=30, unroll=20, problems=4, objective="log_mean", learning_rate=0.05, warm_up=0,
        clip=1.0, penalty=0.0, early_snapshots=False, snapshot_every=10, selection_problems=4,
    ),
    starts=1, candidates=8, screening_problems=4,
)  # fmt: skip


def test_momentum_stays_longest_where_it_is_what_helps():
    """On a quadratic of condition 50, a schedule is worth little and momentum a lot."""
    task = Quadratic(jnp.array([1.0, 0.02]), jnp.array([1.0, -2.0]))
    box = lo.WhiteBox(0.3, momentum=0.6, schedule=lo.BoxSchedule(1.1, 10.0))
    keys = jr.split(jr.key(0))
    baselines = {"descent": lo.GradientDescent(0.5), "slow": lo.GradientDescent(0.01)}
    learned = lo.Momentum(1.5, 0.5)
    record = lo.prune_path(
        learned, box, task, key=keys[0], test_key=keys[1], baselines=baselines, settings=SHORT,
        problems=4,
    )  # fmt: skip
    assert record.counts[0] == 4
    assert record.counts[-2:].tolist() == [2, 1]
    assert np.all(np.diff(record.counts) < 0)
    assert record.names[-1] == "without momentum"
    assert set(box_of(json.loads(record.documents[-2])).numbers()) == {"learning_rate", "momentum"}
    assert record.baseline_name == "descent"
    # What is written out runs as what was tested.
    for document, row in zip(record.documents, record.objectives, strict=True):
        again = lo.evaluate(
            {"box": box_of(json.loads(document))}, task, problems=4, steps=20, key=keys[1]
        )
        np.testing.assert_allclose(again.meta_objectives()[0], row, rtol=1e-6)
    assert "ever fewer numbers" in str(record)
    assert np.isfinite([share.value for share in record.gains()]).all()
    assert lo.plot.path(record).axes[0].get_xlabel()
    nothing_to_keep = dataclasses.replace(record, learned=2 * record.baseline)
    drawn = lo.plot.path(nothing_to_keep).axes[0]
    assert "triangle" not in drawn.get_ylabel(), "no gain is no loss"
    assert record.white_box(2).numbers().keys() == {"learning_rate", "momentum"}


@pytest.mark.long
def test_a_search_without_gradients_keeps_what_is_tied():
    """What the search found at each count is what is written out, ties and all."""
    task = Quadratic(jnp.array([1.0, 0.02]), jnp.array([1.0, -2.0]))
    box = lo.WhiteBox(0.3, momentum=0.6, schedule=lo.BoxSchedule(1.1, 10.0), hold=("timescale",))
    searched = dataclasses.replace(
        SHORT,
        training=dataclasses.replace(SHORT.training, estimator="cma", cma_deviation=0.3, steps=8),
    )  # fmt: skip
    keys = jr.split(jr.key(0))
    record = lo.prune_path(
        lo.Momentum(1.5, 0.5), box, task, key=keys[0], test_key=keys[1],
        baselines={"descent": lo.GradientDescent(0.5)}, settings=searched, problems=4,
    )  # fmt: skip
    assert record.counts.tolist() == [3, 2, 1]
    assert box_of(json.loads(record.documents[0])).held["timescale"] == pytest.approx(10.0)
    for document, row in zip(record.documents, record.objectives, strict=True):
        again = lo.evaluate(
            {"box": box_of(json.loads(document))}, task, problems=4, steps=20, key=keys[1]
        )
        np.testing.assert_allclose(again.meta_objectives()[0], row, rtol=1e-6)
    assert record.objectives.mean(axis=1).max() < 0.9 * record.baseline.mean()


MOVING: dict[str, dict[str, Any]] = {
    "es": {"estimator": "es"},
    "penalty": {"penalty": 0.1},
    "cma, rate held": {"estimator": "cma", "cma_deviation": 0.3},
}


@pytest.mark.parametrize("name", mostly_long(MOVING, "es"))
def test_scores_are_those_of_white_boxes_with_their_ties(name):
    """Perturbations and penalties move what has no derivative, but not what is tied or held.

    All draws of this task are alike, so scores on selection problems are those of the test.
    """
    task = Quadratic(jnp.array([1.0, 0.02]), jnp.array([1.0, -2.0]))
    hold = ("learning_rate",) if "rate held" in name else ("timescale",)
    box = lo.WhiteBox(0.3, schedule=lo.BoxSchedule(1.1, 10.0), hold=hold)
    training = dataclasses.replace(SHORT.training, steps=5, snapshot_every=5, problems=2,
                                   selection_problems=2, **MOVING[name])  # fmt: skip
    few = BoxTraining(training, starts=1, candidates=2, screening_problems=2, tried=1)
    keys = jr.split(jr.key(0))
    record = lo.prune_path(
        lo.Momentum(1.5, 0.5), box, task, key=keys[0], test_key=keys[1],
        baselines={"descent": lo.GradientDescent(0.5)}, settings=few, problems=2,
    )  # fmt: skip
    assert record.counts[-1] == (0 if "rate held" in name else 1)
    held = [box_of(json.loads(document)).held for document in record.documents]
    assert held[0][hold[0]] == pytest.approx({"learning_rate": 0.3, "timescale": 10.0}[hold[0]])
    assert held[-1].keys() <= {"learning_rate"}
    # Losses on test problems are kept in single precision.
    np.testing.assert_allclose(record.selection_scores, record.objectives[:, 0], rtol=1e-6)


def test_white_boxes_load_from_json(tmp_path):
    box = FULL["held numbers"]
    file = tmp_path / "box.json"
    file.write_text(json.dumps(document_of(box)))
    found = document_of(load_box(file))
    assert found["numbers"] == pytest.approx(document_of(box)["numbers"])
    assert found["held"] == ["exponent", "sharpness", "timescale"]
    file.write_text(json.dumps({"numbers": {}}))
    with pytest.raises(ValueError, match="must be a white box as JSON"):
        load_box(file)
