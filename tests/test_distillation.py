"""Distillation: planted white boxes come back, and what cannot be known is named."""

import dataclasses
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import mostly_long

import lrevopt as lo
from lrevopt.inner_loop.recorded_runs import (
    RecordedRuns,
    Typical,
    r_squared,
    record_runs,
    replayed,
    typical_of,
)
from lrevopt.inner_loop.unroll import run_all
from lrevopt.optimizers.stacking import stacked, unstacked
from lrevopt.optimizers.white_box_documents import (
    box_of,
    described_box,
    distilled_box,
    document_of,
    load_box,
    reordered,
    with_parts,
)
from lrevopt.studies.distillation import fitting
from lrevopt.studies.distillation.distilling import CLOSED, FITTED, _closed
from lrevopt.studies.distillation.embedding import embedded
from lrevopt.studies.distillation.gain import gain_kept
from lrevopt.tasks.interface import sample_problems

TASK = lo.Rosenbrock()
KEY = jr.key(3)
QUICK = lo.Distilling(
    starts=10, candidates=16, iterations=100, refinement=0, problems=6, test_problems=8, steps=60
)
BELOW_0 = lo.FunctionTask(lambda x: 0.5 * x**2 - 100.0, jr.normal)
BASELINES = {"momentum": lo.Momentum(1e-5, 0.5), "slow": lo.Momentum(1e-6, 0.5)}

PLANTED: dict[str, lo.WhiteBox] = {
    "momentum": lo.WhiteBox.of_momentum(2e-4, 0.8),
    "clipping": lo.WhiteBox(3e-4, saturation=lo.BoxSaturation(40.0, 1.5)),
    "rmsprop": lo.WhiteBox(0.02, adaptation=lo.BoxAdaptation(0.9, 0.4, 2.0)),
    "schedule": lo.WhiteBox(2e-4, schedule=lo.BoxSchedule(3.0, 15.0)),
    "agreement": lo.WhiteBox(2e-4, agreement=lo.BoxAgreement(0.6, 0.8)),
    "update saturates": lo.WhiteBox(
        2e-4, momentum=0.8, saturation=lo.BoxSaturation(60.0, 1.5, of="update")),
    "memory saturates behind adaptation": lo.WhiteBox(
        0.02, momentum=0.8, saturation=lo.BoxSaturation(1.0, 1.5, of="memory"),
        adaptation=lo.BoxAdaptation(0.9, 0.4, 2.0)),
    "floor outside": lo.WhiteBox(
        0.02, momentum=0.8,
        adaptation=lo.BoxAdaptation(0.9, 0.4, 0.5, of="update", floor_outside=True)),
}  # fmt: skip

FULL = lo.WhiteBox(
    3e-3,
    momentum=lo.BoxMomentum((0.9, 0.5 + 0.5j), (0.6, 0.4 + 0.2j)),
    saturation=lo.BoxSaturation(50.0, 1.5),
    adaptation=lo.BoxAdaptation(0.95, 0.2, 5.0),
    schedule=lo.BoxSchedule(2.0, 20.0),
    agreement=lo.BoxAgreement(0.5, 0.7),
)


def distances(found: lo.Distillation, box: lo.WhiteBox) -> np.ndarray:
    """Largest relative departure of each start's numbers from the planted ones."""
    planted = np.array([float(box.numbers()[name]) for name in found.names])
    return np.abs(found.fitted / planted - 1).max(axis=1)


@pytest.mark.parametrize("name", mostly_long(PLANTED, "momentum"))
def test_planted_numbers_come_back_from_every_start(name):
    box = PLANTED[name]
    alike = described_box(box.description())  # of the same structure, with other numbers
    found = lo.distill(box, alike, TASK, key=KEY, baselines=BASELINES, settings=QUICK)
    assert np.all(distances(found, box) < 1e-3)
    assert found.identifiable.all()
    np.testing.assert_allclose(found.test_r_squared, 1, atol=1e-12)
    np.testing.assert_allclose(found.gain_kept(FITTED), 1, atol=1e-6)
    assert found.baseline == "momentum"
    assert "100 %" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gradient", "memory"])
def test_all_parts_at_once_come_back_from_every_start(what):
    planted = box_of(document_of(FULL) | {"saturation_of": what})
    alike = described_box(planted.description())
    settings = lo.Distilling(refinement=0, problems=16, test_problems=16, steps=100)
    found = lo.distill(planted, alike, TASK, key=jr.key(1), baselines=BASELINES, settings=settings)
    assert np.all(distances(found, planted) < 1e-3)


@pytest.mark.long
def test_what_no_update_depends_on_is_not_identifiable():
    """Without adaptation its memory and its floor have no effect; the other numbers come back."""
    planted = lo.WhiteBox.of_momentum(2e-4, 0.8)
    box = lo.WhiteBox(1.0, momentum=0.5, adaptation=lo.BoxAdaptation(0.9, 0.3, 1.0))
    settings = dataclasses.replace(QUICK, starts=2)
    found = lo.distill(planted, box, TASK, key=KEY, baselines=BASELINES, settings=settings)
    known = dict(zip(found.names, found.identifiable.tolist(), strict=True))
    numbers = dict(zip(found.names, found.fitted[found.chosen].tolist(), strict=True))
    assert abs(numbers["exponent"]) < 1e-6
    assert not known["memory"]
    assert not known["floor"]
    assert known["momentum"]
    np.testing.assert_allclose(numbers["momentum"], 0.8, rtol=1e-5)
    assert "not identifiable" in str(found)


@pytest.mark.long
def test_fit_to_losses_lowers_the_mismatch():
    """A momentum optimizer cannot do what a clipped one does; it comes closer in closed loop."""
    learned = lo.WhiteBox(3e-4, momentum=0.8, saturation=lo.BoxSaturation(30.0))
    settings = dataclasses.replace(QUICK, starts=2, refinement=60)
    box = lo.WhiteBox.of_momentum(1.0, 0.5)
    plain = dataclasses.replace(settings, refinement=0)
    both = [
        lo.distill(learned, box, TASK, key=KEY, baselines=BASELINES, settings=each)
        for each in (plain, settings)
    ]
    assert both[1].mismatch.min() < 0.9 * both[0].mismatch.min()
    np.testing.assert_array_equal(both[0].fitted, both[1].fitted)
    assert both[1].gain_kept(CLOSED).value != both[1].gain_kept(FITTED).value


def test_streams_are_what_unroll_does():
    box = PLANTED["clipping"]
    recorded = record_runs(box, TASK, key=KEY, problems=3, steps=20)
    problems = [TASK.sample(key) for key in jr.split(jr.split(KEY)[0], 3)]
    runs = [lo.unroll(box, TASK, problem, 20) for problem in problems]
    gradients = jnp.concatenate([run.gradients for run in runs], axis=1)
    updates = jnp.concatenate([jnp.diff(run.parameters, axis=0) for run in runs], axis=1)
    np.testing.assert_allclose(recorded.gradients, gradients, rtol=1e-12)
    np.testing.assert_allclose(recorded.updates, updates, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(replayed(box, recorded.gradients), recorded.updates, rtol=1e-12)
    assert float(r_squared(box, recorded)) == pytest.approx(1.0, abs=1e-14)
    typical = typical_of(recorded.gradients)
    assert 0 < typical.gradient <= np.abs(gradients).max()


def test_marquardt_solves_what_is_linear_at_once():
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)))
    wanted = jnp.array([1.0, -2.0, 0.5])
    flat, cost = fitting.marquardt(lambda x: matrix @ (x - wanted), jnp.zeros(3), 60)
    np.testing.assert_allclose(flat, wanted, rtol=1e-8)
    assert cost < 1e-14


def test_documents_hold_white_boxes():
    box = FULL.holding("sharpness", "exponent")
    document = document_of(box)
    again = box_of(json.loads(json.dumps(document)))
    assert document_of(again).keys() == document.keys()
    assert again.held.keys() == box.held.keys()
    for name, value in box.numbers().items():
        np.testing.assert_allclose(again.numbers()[name], value, rtol=1e-12)
    assert with_parts(box, ("saturation",)).parts == ("saturation",)
    assert with_parts(box, ()).numbers().keys() == {"learning_rate"}
    boxes = unstacked(stacked([box, again]))
    np.testing.assert_allclose(boxes[1].numbers()["knee"], 50.0)


SIMPLE: dict[str, Any] = {
    "numbers": {"learning_rate": 0.1}, "held": [], "saturation_of": None, "adaptation_of": None,
    "floor_outside": False,
}  # fmt: skip

DAMAGED: dict[str, Any] = {
    "`numbers` must be a dictionary of numbers by name, got [1, 2].": {"numbers": [1, 2]},
    "`numbers` must be one of learning_rate, got 'kneee'.": {
        "numbers": {"learning_rate": 0.1, "kneee": 5}},
    "`numbers` must be one of learning_rate, got 'knee'.": {
        "numbers": {"learning_rate": 0.1, "knee": 5}},
    "`learning_rate` must be a finite number, got 'x'.": {"numbers": {"learning_rate": "x"}},
    "`held` must be a list of names, got 'knee'.": {"held": "knee"},
    "'knee' is missing in it.": {"saturation_of": "gradient"},
}  # fmt: skip


@pytest.mark.parametrize("words", DAMAGED)
def test_documents_that_are_no_white_box(words, tmp_path):
    path = tmp_path / "box.json"
    path.write_text(json.dumps(SIMPLE | DAMAGED[words]))
    expected = f"`{path}` must be a white box as JSON, but {words}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        load_box(path)


@pytest.mark.usefixtures("as_user")
def test_gradients_of_other_parameters_are_refused():
    transformation = lo.distilled("rosenbrock")
    state = transformation.init({"a": jnp.zeros(3), "b": jnp.zeros(())})
    refused: dict[str, Any] = {
        "shapes of the parameters given to `init`, (3,) at `['a']`, got (2,).": {
            "a": jnp.ones(2), "b": jnp.ones(())},
        "tree structure of the parameters given to `init`, got arrays at `['a']` instead of "
        "`['a']`, `['b']`.": {"a": jnp.ones(3)},
    }  # fmt: skip
    for words, gradients in refused.items():
        with pytest.raises(ValueError, match=f"^`gradients` must have the {re.escape(words)}$"):
            transformation.update(gradients, state)
    with pytest.raises(ValueError, match="^`state` must be what `init` or `update` returned, got"):
        transformation.update({"a": jnp.ones(3)}, ())


def test_modes_in_order_do_the_same():
    box = lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.2, 0.9, 0.3j), (0.2, 0.5, 0.3 + 0.1j)))
    other = reordered(box)
    assert float(other.numbers()["momentum_1"]) == pytest.approx(0.9)
    gradients = jr.normal(KEY, (30, 2))
    np.testing.assert_allclose(replayed(other, gradients), replayed(box, gradients), atol=1e-14)


HELD: dict[str, tuple[lo.WhiteBox, list[float]]] = {
    "one that stays behind": (distilled_box("linear_regression"), [0.0, 0.8741]),
    "one that stays in front": (
        lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.1, 0.5, 0.9), (0.2, 0.3, 0.5)),
                    hold=("momentum_1",)), [0.1, 0.9, 0.5]),
    "a share of both": (
        lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.2, 0.9), (0.5, 0.5)), hold=("share_1",)),
        [0.9, 0.2]),
    "a share of one": (
        lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.2, 0.9), (0.3, 0.7)), hold=("share_1",)),
        [0.2, 0.9]),
    "an angle": (
        lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.2, 0.9, 0.3j, 0.6j), (0.1, 0.2, 0.3, 0.4)),
                    hold=("angle_1",)), [0.9, 0.2]),
}  # fmt: skip
"""White boxes with held numbers, and their real momenta in order."""


@pytest.mark.parametrize("name", HELD)
def test_held_numbers_keep_their_values_when_modes_are_put_in_order(name):
    box, momenta = HELD[name]
    other = reordered(box)
    assert other.held == box.held
    everything = {**other.numbers(), **other.held}
    found = [float(everything[f"momentum_{place + 1}"]) for place in range(len(momenta))]
    np.testing.assert_allclose(found, momenta, rtol=1e-3)
    gradients = jr.normal(KEY, (30, 2))
    np.testing.assert_allclose(replayed(other, gradients), replayed(box, gradients), atol=1e-12)
    typical = Typical(gradient=1.0, largest=3.0, steps=60)
    np.testing.assert_allclose(
        replayed(embedded(other, box, typical), gradients), replayed(box, gradients), atol=1e-12
    )


def test_a_fit_keeps_a_held_momentum_beside_a_slower_one():
    """The numbers of the record are those that were fitted: they explain all updates."""
    both = lo.BoxMomentum((0.5, 0.95), (0.5, 0.5))
    planted = lo.WhiteBox(1e-5, momentum=both)
    box = lo.WhiteBox(1e-5, momentum=both, hold=("momentum_1",))
    settings = dataclasses.replace(QUICK, starts=3)
    found = lo.distill(planted, box, TASK, key=KEY, baselines=BASELINES, settings=settings)
    assert found.white_box.held == {"momentum_1": 0.5}
    assert float(found.white_box.numbers()["momentum_2"]) == pytest.approx(0.95, rel=1e-3)
    np.testing.assert_allclose(found.test_r_squared, 1.0, atol=1e-6)


def test_problems_on_which_the_learned_optimizer_diverges_are_left_out_of_the_fit_to_losses():
    """The start that is the optimizer is chosen, and the record says how many were left out."""
    optimizer = lo.WhiteBox(2e-3)  # diverges on some problems, but not on all
    boxes = stacked([lo.WhiteBox(1e-5), optimizer])
    settings = lo.Distilling(starts=2, problems=8, steps=30, refinement=5)
    keys = jr.key(1), jr.key(2)
    _, mismatch, diverged = _closed(boxes, optimizer, TASK, settings, keys=keys)
    assert np.isfinite(mismatch).all()
    assert mismatch[1] < 1e-6 < mismatch[0]
    problems = [sample_problems(TASK, jr.split(key)[0], 8) for key in keys]
    runs = [np.asarray(run_all(optimizer, TASK, each, 30)[0]) for each in problems]
    wanted = [int((~np.isfinite(losses).all(axis=1)).sum()) for losses in runs]
    assert diverged.tolist() == wanted
    assert min(wanted) > 0
    with pytest.raises(ValueError, match="must stay finite on some problem of Rosenbrock"):
        _closed(boxes, lo.WhiteBox(1.0), TASK, settings, keys=keys)


def test_oscillating_modes_alone_are_embedded_without_memory():
    typical = Typical(gradient=1.0, largest=3.0, steps=60)
    gradients = jax.random.uniform(KEY, (60, 4), minval=-3.0, maxval=3.0)
    small = lo.WhiteBox(0.1)
    for momenta, shares in (((0.5 + 0.4j,), (1.0,)), ((0.5 + 0.4j, 0.8 + 0.1j), (0.4, 0.6))):
        large = lo.WhiteBox(0.1, momentum=lo.BoxMomentum(momenta, shares))
        found, expected = replayed(embedded(small, large, typical), gradients), -0.1 * gradients
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("parts", [(), ("momentum",), ("adaptation", "schedule"), ("agreement",)])
def test_embedding_changes_nothing(parts):
    """Up to the far knee, which is felt by less than 1 % at the size of typical gradients."""
    typical = Typical(gradient=1.0, largest=3.0, steps=60)
    small = with_parts(FULL, parts)
    large = embedded(small, FULL, typical)
    assert large.numbers().keys() == FULL.numbers().keys()
    gradients = jax.random.uniform(KEY, (60, 4), minval=-3.0, maxval=3.0)
    found, expected = replayed(large, gradients), replayed(small, gradients)
    if parts == ("momentum",):  # its own modes come along
        assert float(large.numbers()["radius"]) == pytest.approx(abs(0.5 + 0.5j))
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_fewer_updates_than_numbers_identify_none_that_they_leave_open(steps):
    """Two momenta, their share and the rate: the first update tells the rate alone."""
    box = lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.9, 0.5), (0.7, 0.3)))
    gradients = jnp.ones((steps, 1)).at[1:].set(0.0)
    recorded = RecordedRuns(gradients, replayed(box, gradients), jnp.ones(steps))
    found = fitting.identify(box, recorded)
    names = sorted(box.numbers())
    expected = {1: ["learning_rate"], 2: ["learning_rate"], 4: names}[steps]
    assert [
        name for name, there in zip(names, found.identifiable, strict=True) if there
    ] == expected
    assert np.isinf(found.standard_errors).all()  # no residual is left over


def test_gain_kept_and_its_interval():
    generator = np.random.default_rng(0)
    baseline = generator.uniform(0.4, 0.6, 200)
    learned = 0.2 * baseline
    half = 0.6 * baseline
    share = gain_kept(half, learned, baseline)
    np.testing.assert_allclose(share, 0.5, rtol=1e-12)  # the same on every problem
    noisy = gain_kept(half + generator.normal(0, 0.05, 200), learned, baseline)
    assert noisy.low < noisy.value < noisy.high
    assert abs(noisy.value - 0.5) < 0.05
    assert np.isnan(gain_kept(half, baseline, baseline).value)
    diverged = np.where(np.arange(200) == 0, np.inf, half)
    assert gain_kept(diverged, learned, baseline) == (-np.inf,) * 3


def test_losses_below_0_are_no_divergence():
    """Descent on x^2 / 2 - 0.2 from above ends below 0; in closed loop that counts as 0."""
    task = lo.FunctionTask(lambda x: 0.5 * x**2 - 0.2, lambda key: 1.0 + jr.uniform(key))
    optimizer, settings = lo.WhiteBox(0.3), lo.Distilling(problems=3, steps=8, refinement=0)
    boxes = stacked([lo.WhiteBox(0.1), optimizer])
    keys = jr.key(1), jr.key(2)
    _, mismatch, diverged = _closed(boxes, optimizer, task, settings, keys=keys)
    assert diverged.tolist() == [0, 0]
    starts = np.array([float(task.sample(key).initial_parameters[0]) for key in
                       jr.split(jr.split(keys[1])[0], 3)])  # fmt: skip
    logs = []
    for rate in (0.1, 0.3):
        losses = 0.5 * ((1 - rate) ** (2 * np.arange(9)))[:, None] * starts**2 - 0.2
        logs.append(np.log(np.maximum(losses, 0) / losses[0] + 1e-3))
    assert (losses[-1] < 0).all()
    ends = np.asarray(fitting.log_losses(jnp.array([[2.0, -jnp.inf, jnp.nan, jnp.inf, -1.0]])))[0]
    np.testing.assert_allclose(ends[[0, -1]], np.log([1.001, 0.001]))
    assert not np.isfinite(ends[1:4]).any()  # a loss without a lower bound may diverge
    np.testing.assert_allclose(mismatch, [((logs[0] - logs[1]) ** 2).mean(), 0.0], atol=1e-9)


@pytest.mark.usefixtures("as_user")
def test_refusals():
    distill: Any = lo.distill
    calls: dict[str, Any] = {
        "`white_box` must be a `WhiteBox`": lambda: distill(FULL, None, TASK, key=KEY),
        "`key` must be": lambda: distill(FULL, FULL, TASK, key=0),
        "`starts` must be": lambda: lo.Distilling(starts=0),
        "^`baselines` must have other names than learned, fitted to updates, fitted to losses, got "
        "'fitted to updates'.$": lambda: distill(
            FULL, FULL, TASK, key=KEY, baselines={"fitted to updates": FULL}
        ),
        r"^`baselines\['a'\]` must ": lambda: distill(
            FULL, FULL, TASK, key=KEY, baselines={"a": 3}
        ),
        "^`optimizer` must move, but all of its updates are 0: train it first.$": lambda: distill(
            lo.GRUOptimizer(2, key=KEY), FULL, TASK, key=KEY, baselines=BASELINES, settings=QUICK
        ),
        "^`task` must have losses of at least 0 at initial parameters": lambda: distill(
            lo.GradientDescent(0.1), FULL, BELOW_0, key=KEY, baselines=BASELINES, settings=QUICK
        ),
        "`parts` must be one of": lambda: with_parts(PLANTED["momentum"], ("schedule",)),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=words):
            call()
