"""Every figure comes with its caption and with the numbers that it draws."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tyro
from matplotlib.collections import PathCollection
from synthetic_records import BASELINES, evaluation, history, interventions, runs
from tables import mostly_long
from test_scripts import call

from lrevopt import storage
from lrevopt.paper.commands import Figures
from lrevopt.paper.figures import available, drawn_numbers, save_figure_data
from lrevopt.paper.figures.drawing import draw_figures
from lrevopt.runs.contents import Run

FOUR = runs("linear_regression", "rosenbrock", "two_moons", "mnist")
SPECS = {spec.number: spec for spec in available(FOUR)}
TRAINING = {spec.number: spec for spec in available(runs("rosenbrock"))}["training"]
DERIVED = ("its linear part", "running median")
"""Beginnings of the labels of curves that are made of other drawn numbers."""
SINGLE = 1e-6
"""Relative tolerance for rounding to single precision, whose error is 6e-8."""
POINTS = 4
"""Lines of fewer points are marks, axes and ends of error bars."""


def saved_values(spec) -> np.ndarray:
    """All saved numbers and, of complex ones, parts and sizes; sorted."""
    arrays = [a for a in drawn_numbers(spec, FOUR).values() if a.dtype.kind in "iufc"]
    forms = [form(a).ravel() for a in arrays for form in (np.real, np.imag, np.abs)]
    return np.unique(np.concatenate([np.asarray(form, float) for form in forms]))


def drawn_values(figure) -> np.ndarray:
    """What curves go through, and places and colours of points; no steps or tick marks."""
    parts = []
    for ax in figure.axes:
        for line in ax.lines:
            derived = str(line.get_label()).startswith(DERIVED)
            if len(line.get_xdata()) >= POINTS and not derived:
                parts.append(np.asarray(line.get_ydata(), float))
        for points in ax.collections:
            if isinstance(points, PathCollection):
                colors = points.get_array()
                parts += [
                    np.ravel(points.get_offsets()),
                    np.ravel([] if colors is None else colors),
                ]
    values = np.concatenate(parts).astype(float)
    return values[np.isfinite(values)]


WITHOUT_CURVES = (16, 17, "interventions")


@pytest.mark.parametrize(
    "number", mostly_long([number for number in SPECS if number not in WITHOUT_CURVES], 1, 3, 7, 18)
)
def test_everything_drawn_is_among_the_numbers(number):
    spec = SPECS[number]
    drawn, saved = drawn_values(spec.draw(FOUR)), saved_values(spec)
    assert drawn.size > 40
    above = np.clip(np.searchsorted(saved, drawn), 1, len(saved) - 1)
    nearest = np.minimum(np.abs(drawn - saved[above - 1]), np.abs(drawn - saved[above]))
    # Single precision has a relative rounding error of 6e-8, sizes of complex numbers twice that.
    assert np.all(nearest <= 2e-7 * np.abs(drawn))


def test_dots_of_interventions_are_the_exponentials_of_the_numbers():
    spec = SPECS["interventions"]
    arrays = drawn_numbers(spec, FOUR)
    panels = spec.draw(FOUR).axes
    assert len(panels) == len(FOUR)
    for ax, task in zip(panels, FOUR, strict=True):
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        ratios = np.sort([np.asarray(line.get_xdata())[0] for line in dots])
        expected = np.sort(np.exp(arrays[f"{task}/log_ratios"]))[:-1]
        np.testing.assert_allclose(ratios, expected, rtol=SINGLE)  # the last is beyond the axis


def test_losses_are_summed_up_as_they_are_drawn():
    """Means over runs that stay finite, and the score of each run."""
    record = FOUR["linear_regression"].evaluation
    assert record is not None
    curves, scores = (drawn_numbers(SPECS[number], FOUR) for number in (1, 17))
    finite = np.isfinite(record.losses[3]).all(axis=1)
    kept = record.losses[3, finite]
    mean = curves["linear_regression/mean"][3]
    np.testing.assert_allclose(mean, kept.mean(axis=0), rtol=SINGLE)
    error = kept.std(axis=0, ddof=1) / np.sqrt(len(kept))
    np.testing.assert_allclose(curves["linear_regression/standard_error"][3], error, rtol=SINGLE)
    assert curves["linear_regression/diverged"].tolist() == [0, 0, 0, 2]
    assert curves["linear_regression/optimizers"].tolist() == ["learned", *BASELINES]
    expected = record.losses.mean(axis=-1) / record.losses[..., 0]
    expected[3, ~finite] = np.inf
    found = scores["linear_regression/meta_objectives"]
    np.testing.assert_allclose(found, expected, rtol=SINGLE)
    assert all(a.shape != record.losses.shape for a in (*curves.values(), *scores.values()))


def test_figures_of_one_task_have_the_numbers_of_that_task():
    """The paper's choice of task, or the first there is; momentum's line where it is known."""

    def tasks(number, *names):
        found = drawn_numbers(SPECS[number], runs(*names))
        return {name.partition("/")[0] for name in found}

    assert tasks(3, "rosenbrock", "two_moons") == {"rosenbrock"}
    assert tasks(3, "linear_regression", "two_moons") == {"linear_regression"}
    assert tasks(8, "rosenbrock", "two_moons", "mnist") == {"rosenbrock", "two_moons"}
    assert tasks(10, "rosenbrock", "mnist") == {"rosenbrock", "mnist"}
    assert tasks(19, "rosenbrock", "two_moons") == {"rosenbrock"}
    rates = drawn_numbers(SPECS[11], FOUR)
    best = FOUR["linear_regression"].tuning["momentum"].best["learning_rate"]
    assert rates["linear_regression/momentum_rate"] == np.float32(best)
    untuned = Run.of("mine", mechanisms=FOUR["mnist"].mechanisms)
    assert "mine/momentum_rate" not in drawn_numbers(SPECS[11], {"mine": untuned})


def test_names_of_numbers_are_single_words():
    """Captions list them in a column, and readers split its lines."""
    names = [name for spec in SPECS.values() for name in drawn_numbers(spec, FOUR)]
    assert len(names) > 100
    assert not [name for name in names if name.split() != [name]]


@pytest.mark.parametrize("number", mostly_long(list(SPECS), 1, 3, 16, 18))
def test_files_tell_what_they_hold_and_are_the_same_each_time(number, tmp_path):
    spec = SPECS[number]
    first, second = (save_figure_data(spec, FOUR, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == [
        f"{spec.name}{suffix}" for suffix in ([".txt"] if number == 16 else [".txt", ".npz"])
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    caption = first[0].read_text()
    assert caption.startswith(f"{spec.label}: {spec.title}\n\n")
    assert " ".join(spec.caption.split()) in " ".join(caption.split())
    if number == 16:
        assert "It draws no numbers." in caption
        return
    content = first[1].read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = dict(found)
    assert arrays.keys() == drawn_numbers(spec, FOUR).keys()
    lines = [line.split() for line in caption.splitlines()]
    for name, array in arrays.items():
        assert array.dtype in (np.float32, np.complex64) or array.dtype.kind in "iubU"
        shape = " x ".join(map(str, array.shape)) or "one number"
        assert [name, *shape.split()] in lines


def test_numbers_too_large_for_single_precision_are_infinite():
    """Losses may be finite in double precision alone; nothing warns."""
    record = history()
    record.objectives[:2] = 1e-3, 1e200
    found = drawn_numbers(TRAINING, {"mine": Run.of("mine", history=record)})
    assert found["objectives"][:2].tolist() == [np.float32(1e-3), np.inf]


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """A folder of two runs that were tested, and neither tuned nor analysed."""
    monkeypatch.chdir(tmp_path)
    for task, kind in (("rosenbrock", "Rosenbrock"), ("two_moons", "TwoMoons")):
        run = tmp_path / "results" / task
        storage.save_json(run / storage.SETTINGS, {"task": {"kind": kind}})
        storage.save_record(run / "evaluation.npz", evaluation())
    return tmp_path / "results"


def files_of(*numbers):
    return sorted(
        f"figure_{number:02d}{suffix}"
        for number in numbers
        for suffix in (".png", ".svg", ".txt", *([".npz"] if number != 16 else []))
    )


def test_figures_of_stages_that_are_missing_are_left_out(results):
    drawn = draw_figures([results / "two_moons"], results / "two_moons" / "figures")
    assert [spec.number for spec, _ in drawn] == [1, 16, 17]
    there = sorted(path.name for path in (results / "two_moons" / "figures").iterdir())
    assert there == files_of(1, 16, 17)


def test_the_script_redraws_what_is_shipped(results, monkeypatch, capsys):
    assert call(monkeypatch, "make_figures.py", "--figure", 17) == 0
    assert sorted(path.name for path in (results / "figures").iterdir()) == files_of(17)
    with np.load(results / "figures" / "figure_17.npz") as found:
        assert {name.partition("/")[0] for name in found.files} == {"rosenbrock", "two_moons"}
    assert "Figure 17: Meta-objective on test problems" in capsys.readouterr().out
    run = Path("results/rosenbrock")
    assert call(monkeypatch, "make_figures.py", run, "--figure", 17) == 0
    assert sorted(path.name for path in (run / "figures").iterdir()) == files_of(17)


def test_figures_have_numbers_or_names_on_the_command_line():
    """Those that the refusal of another one lists."""
    for words, figure in (([], None), (["--figure", "16"], 16), (["--figure", "training"],
                                                                 "training")):  # fmt: skip
        assert tyro.cli(Figures, args=words).figure == figure


@pytest.mark.parametrize("figure", [16, "interventions"])
def test_one_figure_is_drawn_by_its_number_or_its_name(results, figure):
    if figure == "interventions":
        storage.save_record(results / "rosenbrock" / "interventions.npz", interventions())
    drawn = draw_figures([results / "rosenbrock"], results / "own", figure)
    assert [spec.number for spec, _ in drawn] == [figure]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["results/rosenbrock", "results/two_moons"], "`output` must name a folder for figures"),
        (["--figure", 12], "`figure` must be one of 1, 16, 17 here, got 12"),
        (["--figure", "streams"], "`figure` must be one of 1, 16, 17 here, got streams"),
        (["--output", "results/rosenbrock/settings.json/figures"], "can be written"),
    ],
)
def test_refusals_are_one_sentence(results, monkeypatch, capsys, arguments, said):
    before = sorted(results.rglob("*"))
    assert call(monkeypatch, "make_figures.py", *arguments) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert sorted(results.rglob("*")) == before


def test_without_runs_there_is_nothing_to_draw(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "make_figures.py") == 2
    assert "`results` must be a folder with a run in linear_regression" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figure_data_of_a_folder_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder that can be written"):
        save_figure_data(SPECS[16], FOUR, tmp_path / "file" / "figures")
