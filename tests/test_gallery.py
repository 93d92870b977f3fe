"""The gallery: modes in closed form, optax's own updates, planted shapes, table, figure, script."""

import csv
import io
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tables import mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.inner_loop.sampled_states import SampledStates
from lrevopt.optimizers import from_optax
from lrevopt.plots.gallery import FAINTEST, figure_gallery
from lrevopt.runs.gallery import write_gallery
from lrevopt.studies.gallery import (
    Gallery,
    gallery_markdown,
    gallery_table,
    measure_gallery,
    measure_shapes,
    shown_steps,
    typical_path,
)
from lrevopt.tuning.well_known import WELL_KNOWN

SCRIPT = Path(__file__).parent.parent / "scripts" / "gallery.py"
PROBLEMS, STEPS, KEY = 6, 30, jr.key(1)


def no_modes(rate):
    """Momentum of momentum: the eigenvalue 0.9 twice, and one eigenvector."""
    return optax.chain(optax.trace(0.9), optax.trace(0.9), optax.scale(-rate))


def measured(*names: str) -> Gallery:
    """These optimizers, and one of our own that has no modes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WELL_KNOWN, "no_modes", no_modes)
        return measure_gallery(
            lo.Rosenbrock(),
            key=KEY,
            tuning_key=jr.key(2),
            problems=PROBLEMS,
            steps=STEPS,
            names=[*names, "no_modes"],
        )


@pytest.fixture(scope="module")
def few() -> Gallery:
    """Enough of a gallery for whatever does not depend on what is in it."""
    return measured(*FEW)


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    """All optimizers that have closed forms below."""
    return measured(*MODES)


def sgd(rate, state, g):
    return {0.0: rate}


def momentum(rate, state, g):
    return {0.9: rate}


def nesterov(rate, state, g):
    """Momentum that is read after one more decay, and gradient descent beside it."""
    return {0.9: 0.9 * rate, 0.0: rate}


def adagrad(rate, state, g):
    """The slope of -rate g / sqrt(s + g^2), of which s forgets nothing."""
    s = state[0] + g**2
    return {1.0: -rate * g**2 / (s + 1e-7) ** 1.5, 0.0: rate / np.sqrt(s + 1e-7)}


def rmsprop(rate, state, g):
    """As AdaGrad, of which a tenth is the newest gradient's."""
    v = 0.9 * state[0] + 0.1 * g**2
    return {0.9: -0.1 * rate * g**2 / (v + 1e-8) ** 1.5, 0.0: rate / np.sqrt(v + 1e-8)}


def adam(rate, state, g):
    """Both moments, with bias corrections as of the last update."""
    b1, b2 = 0.9, 0.999
    m, v = b1 * state[0] + (1 - b1) * g, b2 * state[1] + (1 - b2) * g**2
    c1, c2 = 1 - b1**STEPS, 1 - b2**STEPS
    root = np.sqrt(v / c2)
    through_v = -(1 - b2) * 2 * g * rate * (m / c1) / (root + 1e-8) ** 2 / (2 * c2 * root)
    return {b2: through_v, b1: rate * (1 - b1) / c1 / (root + 1e-8)}


def lion(rate, state, g):
    """A memory that only signs are read from."""
    return {0.99: 0.0}


MODES = {form.__name__: form for form in (sgd, momentum, nesterov, adagrad, rmsprop, adam, lion)}
FEW = ("momentum", "lion")


@pytest.mark.parametrize("name", mostly_long(MODES, *FEW))
def test_modes_are_those_of_the_closed_form(request, name):
    """By hand from each optimizer's equations, at the state and gradient that are on record."""
    gallery = request.getfixturevalue("few" if name in FEW else "gallery")
    place = gallery.names.index(name)
    expected = MODES[name](
        gallery.learning_rates[place], gallery.states[name], gallery.last_gradients[place]
    )
    found = zip(gallery.eigenvalues[name], gallery.mode_rates[name], strict=True)
    moving = [(value, rate) for value, rate in found if value or rate]
    assert len(moving) == len(expected)
    # Forward derivatives and an inverse of eigenvectors whose entries differ by 1e4.
    np.testing.assert_allclose([value for value, _ in moving], list(expected), rtol=1e-10)
    rates = np.array(list(expected.values()))
    np.testing.assert_allclose([rate for _, rate in moving], rates, rtol=1e-7)
    assert gallery.inseparable[place] == ""


@pytest.mark.long
def test_timescales_follow_from_the_slowest_eigenvalue(gallery):
    assert gallery.timescale("sgd") == 0
    assert gallery.timescale("adagrad") == np.inf
    np.testing.assert_allclose(gallery.timescale("momentum"), -1 / np.log(0.9), rtol=1e-12)


def test_a_defective_jacobian_has_eigenvalues_and_says_why_it_has_no_rates(few):
    place = few.names.index("no_modes")
    # A double eigenvalue is known to the root of the precision.
    np.testing.assert_allclose(few.eigenvalues["no_modes"], [0.9, 0.9, 0], atol=1e-7)
    assert np.isnan(few.mode_rates["no_modes"]).all()
    assert "near-defective" in few.inseparable[place]
    assert "0.9 (not available), 0.9 (not available)" in gallery_markdown(few)
    figure = figure_gallery(few)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "no rate of its own" in labels


def test_scores_are_those_of_an_evaluation(few):
    place = few.names.index("momentum")
    opt = from_optax(WELL_KNOWN["momentum"](few.learning_rates[place]))
    whole = lo.evaluate({"it": opt}, lo.Rosenbrock(), key=KEY, problems=PROBLEMS, steps=STEPS)
    np.testing.assert_allclose(few.scores[place], whole.mean_scores()["it"], rtol=1e-12)
    np.testing.assert_allclose(
        few.median_scores[place], np.median(whole.meta_objectives()), rtol=1e-12
    )
    assert few.diverged[place] == 0


@pytest.mark.long
def test_update_functions_are_optax_s_own(gallery):
    """The first and the last of Adam: optax's update of a whole axis of gradients."""
    place, last = gallery.names.index("adam"), STEPS - 1
    gradients = jnp.asarray(gallery.gradients[place])
    transformation = optax.adam(gallery.learning_rates[place])
    first = transformation.init(gradients)
    m, v, _ = (jnp.full_like(gradients, value) for value in gallery.states["adam"])
    moments = first[0]._replace(count=jnp.array(last, jnp.int32), mu=m, nu=v)
    assert gallery.shown.tolist() == [0, 1, 3, 9, last]
    with jax.numpy_dtype_promotion("standard"):
        updates = [transformation.update(gradients, s)[0] for s in (first, (moments, *first[1:]))]
    found = gallery.updates[place, [0, -1]]
    np.testing.assert_allclose(found, updates, rtol=1e-12, atol=1e-16)


@pytest.mark.long
def test_well_known_shapes_are_told_apart(gallery):
    """What the papers say of them: momentum shifts, adaptation tilts, signs saturate."""
    assert gallery.does("sgd") == "one straight line"
    assert gallery.does("momentum") == gallery.does("nesterov") == "shifts"
    assert gallery.does("adagrad") == gallery.does("rmsprop") == "tilts, saturates"
    assert {"shifts", "saturates"} <= set(gallery.does("lion").split(", "))
    linear = [gallery.names.index(name) for name in ("sgd", "momentum", "nesterov", "no_modes")]
    np.testing.assert_allclose(gallery.tilts[linear], 1, rtol=1e-10)
    np.testing.assert_allclose(gallery.losses[linear], 0, atol=1e-10)


def test_planted_shapes_are_measured():
    """Lines that are shifted, tilted or clipped by known amounts, and one that does not answer."""
    g = np.linspace(-2.0, 2.0, 201)
    shifted = np.stack([-(g + offset) for offset in (-1.0, 1.0)])
    np.testing.assert_allclose(measure_shapes(g, shifted), [1 / 2, 1, 0], atol=1e-12)
    tilted = np.stack([-slope * g for slope in [1.0] * 10 + [3.0] * 10])
    np.testing.assert_allclose(measure_shapes(g, tilted), [0, 3, 0], atol=1e-12)
    clipped = -np.clip(g, -0.5, 0.5)[None]
    np.testing.assert_allclose(measure_shapes(g, clipped), [0, 1, 3 / 4], atol=1e-12)
    shift, tilt, loss = measure_shapes(g, np.ones((1, 201)))
    assert (shift, tilt) == (np.inf, np.inf)
    assert np.isnan(loss)


def test_the_typical_path_is_in_the_middle_of_all():
    """Of five paths with two coordinates of very different size; signs do not matter."""
    sizes = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
    states = np.zeros((5, 4, 2))
    states[:, 2] = np.stack([-(10.0**sizes), sizes / 1e6], axis=1)
    gradients = np.zeros((5, 3))
    gradients[:, 2] = -sizes
    sampled = SampledStates(
        states=states, gradients=gradients, pooled_gradients=gradients.ravel(), diverged=0
    )
    assert typical_path(states, sampled) == 2


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (200, [0, 5, 17, 58, 199])]
)
def test_steps_are_shown_from_the_first_to_the_last(steps, expected):
    assert shown_steps(steps).tolist() == expected


def test_a_record_survives_the_disk(few, tmp_path):
    storage.save_record(tmp_path / "gallery.npz", few)
    again = storage.load_record(Gallery, tmp_path / "gallery.npz")
    assert gallery_table(again) == gallery_table(few)
    # Where there are no rates, NaN is equal to NaN.
    jax.tree.map(np.testing.assert_array_equal, again, few)


@pytest.mark.long
def test_the_tables_hold_the_record(gallery):
    rows = list(csv.DictReader(io.StringIO(gallery_table(gallery))))
    assert tuple(row["name"] for row in rows) == gallery.names
    found = [float(row["learning_rate"]) for row in rows]
    np.testing.assert_allclose(found, gallery.learning_rates, rtol=1e-5)
    nesterov = rows[gallery.names.index("nesterov")]
    assert nesterov["eigenvalues"] == "0.9 0"
    unsplit = [row["name"] for row in rows if row["inseparable"]]
    assert unsplit == ["no_modes"]
    *lines, empty, caption = gallery_markdown(gallery).splitlines()
    assert len(lines) == 2 + len(gallery.names)
    assert empty == ""
    assert caption.startswith(f"Rosenbrock: learning rates tuned on {PROBLEMS} problems")
    assert len({line.count(" | ") for line in lines}) == 1


def fifteen(gallery: Gallery) -> Gallery:
    """As many optimizers as there are, of what a few have measured."""
    names = tuple(WELL_KNOWN)
    places = [place % len(gallery.names) for place in range(len(names))]
    own = dict(zip(names, [gallery.names[place] for place in places], strict=True))
    arrays: Any = {
        field: getattr(gallery, field)[places]
        for field in ("learning_rates", "on_edge", "scores", "median_scores", "diverged",
                      "gradients", "updates", "last_gradients", "shifts", "tilts", "losses")
    }  # fmt: skip
    return Gallery(
        task=gallery.task,
        names=names,
        problems=gallery.problems,
        steps=gallery.steps,
        shown=gallery.shown,
        states={name: gallery.states[one] for name, one in own.items()},
        eigenvalues={name: gallery.eigenvalues[one] for name, one in own.items()},
        mode_rates={name: gallery.mode_rates[one] for name, one in own.items()},
        inseparable=tuple(gallery.inseparable[place] for place in places),
        **arrays,
    )


@pytest.mark.long
def test_the_figure_has_fifteen_labelled_panels(gallery):
    record = fifteen(gallery)
    figure = figure_gallery(record)
    pairs, bar = figure.axes[:-1], figure.axes[-1]
    assert len(pairs) == 2 * len(WELL_KNOWN)
    assert "learning rate" in bar.get_xlabel()
    titles = [ax.get_title(loc="left") for ax in pairs[::2]]
    assert [title.split(")}$ ")[1].lower() for title in titles] == list(WELL_KNOWN)
    for place, (left, right) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        assert right.get_title(loc="right").startswith("rate ")
        assert "score" in right.get_xlabel()
        curves = [line for line in left.lines if np.size(line.get_xdata()) > 2]
        assert len(curves) == len(record.shown)
        np.testing.assert_array_equal(curves[-1].get_ydata(), record.updates[place, -1])
    assert {ax.get_ylabel() for ax in pairs[0::6]} == {r"update $\Delta x$"}
    assert {ax.get_xlabel() for ax in pairs[-6::2]} == {"gradient $g$"}


@pytest.mark.long
def test_marks_tell_rates_apart(gallery):
    """RMSProp's memory has a negative rate, Lion's none; nothing is cut off."""
    panels = dict(zip(gallery.names, figure_gallery(gallery).axes[1::2], strict=False))
    marks = {
        name: [line for line in ax.lines if line.get_marker() != "None"]
        for name, ax in panels.items()
    }
    rates = gallery.mode_rates["rmsprop"]
    assert np.abs(rates).min() / np.abs(rates).max() > FAINTEST
    assert {line.get_marker() for line in marks["rmsprop"]} == {"v", "o"}
    assert [line.get_markerfacecolor() for line in marks["lion"]] == ["white"]
    assert len(marks["nesterov"]) == 2
    assert {line.get_marker() for line in marks["no_modes"]} == {"x"}
    for name, ax in panels.items():
        (left, right), values = ax.get_xlim(), gallery.eigenvalues[name].real
        assert left < values.min()
        assert values.max() < right


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problems": 0}, "`problems` must be an integer of at least 1, got 0"),
        ({"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
        ({"names": ["sgd", "adamw"]}, "`names` must be one of sgd, .*, got 'adamw'"),
        ({"names": ["sgd", "sgd"]}, "`names` must be different optimizers, at least one, got"),
        ({"names": []}, r"`names` must be different optimizers, at least one, got \(\)"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        measure_gallery(lo.Rosenbrock(), key=KEY, tuning_key=KEY, **settings)
    assert "\n" not in str(error.value)


def call(monkeypatch, *arguments) -> int:
    """Exit code of the script, run in this process."""
    monkeypatch.setattr(sys, "argv", ["gallery.py", *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.long
def test_the_script_writes_all_it_promises(monkeypatch, capsys, tmp_path):
    small = ["--names", "sgd", "momentum", "--problems", 2, "--steps", 1]
    assert call(monkeypatch, "rosenbrock", "--output", tmp_path / "new", *small) == 0
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {f"gallery.{kind}" for kind in ("npz", "csv", "md", "png", "svg")}
    record = storage.load_record(Gallery, tmp_path / "new" / "gallery.npz")
    assert record.names == ("sgd", "momentum")
    said = capsys.readouterr().out
    assert said.startswith("sgd: learning rate ")
    assert said.endswith((tmp_path / "new" / "gallery.md").read_text())


def test_a_gallery_of_other_settings_is_replaced_with_a_word(tmp_path):
    """The same call again is silent; another task is another setting."""
    said: list[str] = []
    for task, steps in ((lo.Rosenbrock(), 1), (lo.Rosenbrock(), 1), (lo.LinearRegression(), 2)):
        write_gallery(task, tmp_path, names=("sgd",), problems=2, steps=steps, say=said.append)
    replaced = [line for line in said if line.startswith("Replaces")]
    path, sentence = tmp_path / "gallery.npz", "which was made with other settings: steps, task."
    assert replaced == [f"Replaces {path}, {sentence}"]
    assert storage.load_record(Gallery, path).task == "LinearRegression"
    path.write_bytes(b"no record")
    write_gallery(lo.Rosenbrock(), tmp_path, names=("sgd",), problems=2, steps=1, say=said.append)
    assert f"Replaces {path}, which is damaged." in said
    said.clear()
    with pytest.raises(ValueError, match="`names` must be one of"):
        write_gallery(lo.Rosenbrock(), tmp_path, names=("adamw",), problems=2, say=said.append)
    assert said == []  # what is refused replaces nothing


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quantum"], "mnist, or module:factory, got 'quantum'"),
        (["--problems", "0"], "`problems` must be an integer of at least 1, got 0"),
        (["--names", "adamw"], "`names` must be one of sgd, momentum"),
        (["--output", "taken/inside"], "`taken/inside` must be a folder that can be written"),
        (["mnist", "--images.data-dir", "taken"], "`data_dir` must"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    assert call(monkeypatch, *arguments) == 2
    # tyro draws its messages in a box and wraps them.
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in message
    assert "Traceback" not in message
