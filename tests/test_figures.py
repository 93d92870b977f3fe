"""Every figure draws from small records, without warnings, and the same way each time."""

import copy
import dataclasses
import itertools
import types

import jax
import jax.random as jr
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from synthetic_records import (
    BASELINES,
    PICTURES,
    changed,
    evaluation,
    history,
    manifold,
    mechanisms,
    mode_shifts,
    parameter_types,
    runs,
    tuning,
)

import lrevopt as lo
from lrevopt.paper.figures import FIGURES, available
from lrevopt.plots.panel import Panel, column_per_run, of, panel_per_run, side_by_side
from lrevopt.plots.style import LOOKS, Drawing, figure_name, looks, render, save_figure
from lrevopt.runs.contents import Run
from lrevopt.tasks.pictures import task_picture

ONE, BOTH = runs("rosenbrock"), runs("linear_regression", "rosenbrock")
FOUR = runs("linear_regression", "rosenbrock", "two_moons", "mnist")
OWN = runs("my_task", title="Ising model")
BY_TASK = (1, 8, 10, 11, 12, 17)
"""Figures with a column or a panel for each task."""
CASES = [
    pytest.param(
        spec,
        case,
        id=f"{spec.name}-{name}",
        marks=pytest.mark.long if name == "two tasks" else (),
    )
    for name, case in {"one task": ONE, "two tasks": BOTH, "four tasks": FOUR}.items()
    for spec in available(case)
    # Others do not depend on the number of tasks.
    if name == "one task" or spec.number in BY_TASK or (name, spec.number) == ("two tasks", 18)
]
SPECS = {spec.number: spec for spec in FIGURES}


def drawn(number, **records):
    """A figure of one run on Rosenbrock that has these records."""
    return SPECS[number].draw({"rosenbrock": Run.of("rosenbrock", **records)})


def records_of(case):
    """All records of these runs, and of their training seeds."""
    found = {}
    for task, run in case.items():
        seeds = {seed: vars(other) for seed, other in run.seeds.items()}
        found[task] = vars(run) | {"_loaded": vars(run)["_loaded"] | {"seeds": seeds}}
    return found


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_figure_draws_with_labels_and_leaves_everything_else_alone(spec, case):
    before, settings = copy.deepcopy(records_of(case)), dict(mpl.rcParams)
    figure = spec.draw(case)
    assert isinstance(figure, Drawing), "or notebooks do not show it"
    figure.draw_without_rendering()
    assert not _pylab_helpers.Gcf.figs, "no figure is registered with pyplot"
    assert dict(mpl.rcParams) == settings
    leaves = jax.tree.leaves(before), jax.tree.leaves(records_of(case))
    for old, new in zip(*leaves, strict=True):
        np.testing.assert_array_equal(old, new)
    assert figure.get_figwidth() in (3.25, 6.75)
    shown = [ax for ax in figure.axes if ax.axison]
    assert all(ax.get_xlabel() or ax.get_ylabel() for ax in shown)
    panels = [ax for ax in shown if ax.get_subplotspec() and not hasattr(ax, "_colorbar")]
    shared = [ax.get_shared_x_axes().get_siblings(ax) for ax in panels]
    assert all(any(ax.get_xlabel() for ax in siblings) for siblings in shared)
    # Panel letters run from (a) without gaps.
    letters = [
        title[len(r"$\mathbf{(") :][0] for ax in panels if (title := ax.get_title(loc="left"))
    ]
    assert letters == [chr(ord("a") + k) for k in range(len(letters))]


def texts(figure):
    """All that is written on a figure, without ticks beyond the ends of their axes."""
    figure.draw_without_rendering()
    beyond = {
        id(label)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if np.clip(tick.get_loc(), *sorted(axis.get_view_interval())) != tick.get_loc()
        for label in (tick.label1, tick.label2)
    }
    found = figure.findobj(mpl.text.Text)
    return [t for t in found if t.get_text().strip() and t.get_visible() and id(t) not in beyond]


@pytest.mark.parametrize("number", [3, 6, 7, 9, 13, *BY_TASK])
def test_texts_are_large_enough_and_do_not_overlap(number):
    """Four columns on a page are 1.6 inches each: here is where things collide first."""
    case = BOTH if number in (3, 6) else FOUR
    written = [t for t in texts(SPECS[number].draw(case)) if t.axes is None or t.axes.axison]
    assert min(float(text.get_fontsize()) for text in written) >= 7
    # The text of an annotation without its arrow.
    boxes = [mpl.text.Text.get_window_extent(text).padded(-1) for text in written]
    pairs = itertools.combinations(zip(written, boxes, strict=True), 2)
    overlapping = [
        (first.get_text(), second.get_text())
        for (first, box), (second, other) in pairs
        if box.overlaps(other)
    ]
    assert not overlapping


@pytest.mark.parametrize(
    ("number", "kind"), [(3, "svg"), pytest.param(18, "svg", marks=pytest.mark.long), (17, "png")]
)
def test_same_numbers_give_the_same_bytes(number, kind):
    first, second = (render(SPECS[number].draw(BOTH), kind) for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first


@pytest.mark.long
def test_a_task_of_your_own_has_every_figure_under_its_own_title():
    """All of the paper's but the searches on its tasks, in place of which it has its own."""
    specs = available(OWN)
    paper = {spec.number for spec in FIGURES} - {18, 19, 20, 21}
    assert {spec.number for spec in specs} == paper | {"tuning"}
    assert specs[-1].title == "Tuning of the baselines on Ising model"
    for spec in specs:
        figure = spec.draw(OWN)
        figure.draw_without_rendering()
        assert spec.panels == () or any(ax.axison and ax.has_data() for ax in figure.axes)
    for number in (1, 3, 8, 17):
        assert "Ising model" in titles(SPECS[number].draw(OWN))[0]
    # Columns stand in the order given.
    both = titles(SPECS[17].draw(OWN | {"other": Run.of("other", evaluation=evaluation())}))
    assert [title.partition(" ")[2] for title in both] == ["Ising model", "Other"]


def test_figures_are_drawn_of_anything_with_a_title_and_records():
    run = types.SimpleNamespace(title="Mine", evaluation=evaluation())
    assert "Mine" in titles(column_per_run([SPECS[1].panels[0]], [run], height=2.0))[0]
    assert "Mine" in titles(panel_per_run(SPECS[17].panels[0], [run], height=2.0))[0]


def stem(ax, values, item=None):
    """A panel of one curve."""
    ax.plot(values, label="curve")
    ax.set(xlabel=f"item {item}", ylabel="value")


def test_numbers_captions_and_legends_follow_from_panels():
    """A panel for each item; records in records by their path; each legend entry once."""
    panel = Panel(
        lambda ax, run, item: stem(ax, run.found.values[item], item),
        ("found.values", "found.inner.points"),
        "What is seen.",
        title=lambda item: f"Part {item}",
        plane=("found.points",),
        made=lambda run: {"total": np.sum(run.found.values)},
        needs=("other",),
        each=lambda run: range(len(run.found.values)),
    )
    found = types.SimpleNamespace(
        values=np.arange(6.0).reshape(2, 3),
        inner=types.SimpleNamespace(points=np.ones(2)),
        points=np.zeros((4, 3)),
    )
    run = types.SimpleNamespace(title="Mine", found=found, other=1)
    assert panel.records() == {"found", "other"}
    assert panel.possible(run)
    assert not panel.possible(types.SimpleNamespace(found=found, other=None))
    assert not panel.possible(types.SimpleNamespace(found=found))
    arrays = panel.numbers(run)
    assert {name: np.shape(array) for name, array in arrays.items()} == {
        "values": (2, 3), "inner/points": (2,), "points": (4, 2), "total": (),
    }  # fmt: skip
    figure = side_by_side([panel], run, height=2.0)
    assert titles(figure) == [r"$\mathbf{(a)}$ Mine: Part 0", r"$\mathbf{(b)}$ Part 1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["curve"]


def test_options_reach_how_a_panel_is_drawn():
    seen = []
    panel = Panel(of("found", lambda ax, record, **options: seen.append((record, options))), (), "")
    panel.drawn(wide=True).draw(Figure().subplots(), types.SimpleNamespace(found=3))
    assert seen == [(3, {"wide": True})]


def test_labels_that_repeat_in_a_row_are_written_once():
    panel = Panel(of("found", stem), ("found",), "What is seen.")
    cases = [types.SimpleNamespace(title=str(place), found=np.arange(3.0)) for place in range(3)]
    axes = column_per_run([panel, panel], cases, height=1.0).axes
    assert [ax.get_ylabel() for ax in axes] == ["value", "", ""] * 2


def test_legends_are_read_row_by_row():
    """Seven entries need two rows of a page's width; matplotlib fills columns."""
    names = [f"a rather long name {place}" for place in range(7)]
    marks = [mpl.lines.Line2D([], [], label=name) for name in names]
    panel = Panel(of("found", stem), ("found",), "", marks=lambda runs: marks)
    run = types.SimpleNamespace(title="", found=np.arange(3.0))
    legend = side_by_side([panel, panel], run, height=2.0).legends[0]
    entries = [text.get_text() for text in legend.get_texts()]
    columns = legend._ncols  # type: ignore[attr-defined]  # matplotlib tells it nowhere else
    assert 1 < columns < 7
    rows = -(-len(entries) // columns)
    lengths = [rows if place < len(entries) % columns or len(entries) % columns == 0 else rows - 1
               for place in range(columns)]  # fmt: skip
    starts = np.cumsum([0, *lengths])[:-1]
    read = [entries[start + row] for row in range(rows) for start, length
            in zip(starts, lengths, strict=True) if row < length]  # fmt: skip
    assert read == [*names, "curve"]


def test_every_figure_is_registered_once_and_in_order():
    numbered = [spec.number for spec in FIGURES if isinstance(spec.number, int)]
    assert numbered == sorted(set(numbered))
    assert set(numbered) >= {*range(1, 22)}
    assert len({spec.name for spec in FIGURES}) == len(FIGURES)
    assert all(len(spec.caption) > 100 for spec in FIGURES), "captions say how to read a figure"


def test_figures_without_numbers_are_not_available():
    assert [spec.number for spec in available({})] == [16]
    possible = {spec.number for spec in FIGURES} - {18, 20, 21}
    assert {spec.number for spec in available(ONE)} == possible
    # A run without other seeds has no curves of them.
    lone = {"rosenbrock": Run.of("rosenbrock", history=history())}
    assert "seeds" not in {spec.number for spec in available(lone)}
    # The record of meta-training belongs to one run.
    assert "training" not in {spec.number for spec in available(BOTH)}


def test_looks_are_distinct_for_known_and_unknown_optimizers():
    found = looks(["learned", *BASELINES, "mine", "yours"])
    assert len({look.color for look in found.values()}) == len(found)
    assert len({str(look.dashes) for look in found.values()}) == len(found)
    assert found["learned"] == LOOKS["learned"]


def test_save_figure_writes_two_small_files(tmp_path):
    paths = save_figure(SPECS[18].draw(BOTH), tmp_path, 18)
    assert [path.name for path in paths] == ["figure_18.png", "figure_18.svg"]
    assert all(0 < path.stat().st_size < 400_000 for path in paths)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert figure_name("training") == "figure_training"


def test_diverged_optimizers_are_named_and_the_rest_still_drawn():
    figure = drawn(1, evaluation=evaluation(diverged=True))
    texts = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    assert "inner step\nruns diverged, of 6: Adam 2" in texts
    assert any(
        "2 of 6" in text.get_text()
        for text in drawn(17, evaluation=evaluation(diverged=True)).findobj(mpl.text.Text)
    )


def test_everything_diverged_still_draws():
    ruined = evaluation()
    ruined = type(ruined)(names=ruined.names, losses=np.full_like(ruined.losses, np.inf))
    for figure in (drawn(1, evaluation=ruined), drawn(17, evaluation=ruined)):
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(mpl.text.Text)]
        assert any("diverged" in text for text in texts)
    searched = tuning("momentum")
    lost = type(searched)(**(vars(searched) | {"scores": np.full(30, np.inf)}))
    drawn(19, tuning={"momentum": lost}).draw_without_rendering()


def test_loss_curve_is_the_mean_of_the_runs_that_stay_finite():
    record = evaluation(diverged=True)
    ax = drawn(1, evaluation=record).axes[0]
    curves = {line.get_label(): np.asarray(line.get_ydata(), float) for line in ax.lines}
    np.testing.assert_allclose(curves["Adam"], record.losses[3, 2:].mean(axis=0))
    np.testing.assert_allclose(curves["Learned"], record.losses[0].mean(axis=0))


def test_tuning_panels_share_one_scale_and_show_every_pair():
    figure = SPECS[18].draw(BOTH)
    scatters = [
        ax.collections[0] for ax in figure.axes if ax.collections and ax.get_title(loc="left")
    ]
    assert len(scatters) == 1 + 1 + 3
    assert len({(part.norm.vmin, part.norm.vmax) for part in scatters}) == 1


@pytest.mark.parametrize("number", [1, 3, 7, 9, 12, 13, 18])
def test_nothing_to_draw_is_refused(number):
    with pytest.raises(ValueError, match=f"`runs` must hold one with .* for figure_{number:02d}"):
        SPECS[number].draw({"rosenbrock": Run.of("rosenbrock")})
    with pytest.raises(ValueError, match="`runs` must hold at least one run, got none."):
        column_per_run(SPECS[8].panels, [], height=2.0)


def test_one_hyperparameter_has_no_plane():
    searched = tuning("momentum")
    single = dataclasses.replace(
        searched,
        parameter_names=("learning_rate",),
        values={"learning_rate": searched.values["learning_rate"]},
        ranges={"learning_rate": searched.ranges["learning_rate"]},
        best={"learning_rate": searched.best["learning_rate"]},
    )
    with pytest.raises(ValueError, match="two hyperparameters or more, got .'momentum'."):
        drawn(19, tuning={"momentum": single})


@pytest.mark.parametrize("states", [1, 2])
def test_mechanism_figures_of_small_optimizers(states):
    for number in (3, 4, 5):
        figure = drawn(number, mechanisms=mechanisms(states))
        figure.draw_without_rendering()
        assert all(ax.has_data() for ax in figure.axes if ax.axison)


def titles(figure):
    return [title for ax in figure.axes if (title := ax.get_title(loc="left"))]


@pytest.mark.parametrize("number", [8, 12])
def test_mnist_has_figures_of_its_own(number):
    """It converges to no single point: the paper's columns are the other three."""
    written = titles(SPECS[number].draw(FOUR))
    assert len(written) == 9
    assert not any("MNIST" in title for title in written)
    assert any("MNIST" in title for title in titles(SPECS[number].draw(runs("mnist"))))


def test_figures_of_one_task_prefer_the_paper_s():
    for number in (7, 9, 13):
        assert "MNIST" in titles(SPECS[number].draw(FOUR))[0]
        assert "Rosenbrock" in titles(SPECS[number].draw(ONE))[0]
    # Both records are needed, so a task with one of them only is passed over.
    few = FOUR | {"mnist": Run.of("mnist", mode_shifts=mode_shifts(6))}
    assert "Linear regression" in titles(SPECS[9].draw(few))[0]


def test_types_are_told_apart_by_line_and_colour():
    record = parameter_types()
    figure = drawn(7, parameter_types=record)
    (rates,) = [ax for ax in figure.axes if ax.get_ylabel() == "effective learning rate"]
    np.testing.assert_array_equal([line.get_ydata() for line in rates.lines], record.rates)
    assert len({line.get_color() for line in rates.lines}) == len(record.groups)
    dashed = [line.is_dashed() for line in rates.lines]
    assert dashed == [group.endswith("bias") for group in record.groups]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*record.groups, "initial state"]


def test_a_manifold_without_points_still_draws():
    figure = drawn(13, manifold=manifold(found=False))
    figure.draw_without_rendering()
    panels = [ax for ax in figure.axes if ax.get_subplotspec()]
    assert all(ax.get_xlabel() for ax in panels)


def test_points_of_the_manifold_have_the_colours_of_their_update_functions():
    record = manifold()
    figure = drawn(13, manifold=record)
    figure.draw_without_rendering()
    points, curves = figure.axes[0].collections[0], figure.axes[1].lines[2:]
    colors = np.asarray(points.get_facecolor())[record.chosen]
    for color, curve in zip(colors, curves, strict=True):
        # A colour map has 256 steps.
        np.testing.assert_allclose(mpl.colors.to_rgba(curve.get_color()), color, atol=0.02)


def test_modes_without_rates_are_grey():
    lost = changed(
        mechanisms(3),
        momentum__learning_rates=np.full(3, np.nan, complex),
        momentum__energy=np.full(3, np.nan),
    )
    for figure in (
        drawn(3, mechanisms=lost),
        drawn(9, mechanisms=lost, mode_shifts=mode_shifts(3)),
    ):
        figure.draw_without_rendering()
    colors = drawn(3, mechanisms=lost).axes[2].collections[0]
    np.testing.assert_array_equal(colors.cmap(np.nan), mpl.colors.to_rgba("#8A8A8A"))


def test_examples_stand_side_by_side():
    images = PICTURES["mnist"].arrays["images"]
    for case, across in ((FOUR, 6), (runs("mnist"), 10)):
        axes = SPECS[1].draw(case).axes
        (shown,) = [np.asarray(ax.images[0].get_array()) for ax in axes if ax.images]
        assert shown.shape == (7 * 30 // across, 7 * across)
        np.testing.assert_array_equal(shown[:7, 7:14], images[1])
        np.testing.assert_array_equal(shown[7:14, :7], images[across])


def test_logarithmic_objectives_are_drawn_on_a_linear_axis():
    figure = drawn("training", history=history(logarithmic=True))
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "log", "log"]


def test_task_pictures():
    """Condition numbers are within the spectrum's range; the surface has its minimum at (1, 1)."""
    picture = task_picture(lo.LinearRegression(), key=jr.key(0), draws=20)
    condition = picture.arrays["condition_numbers"]
    # Eigenvalues in 10^[-3, 0]; a little more for round-off in the factorisation.
    assert condition.shape == (20,)
    assert np.all((condition >= 1) & (condition <= 1e3 * (1 + 1e-6)))
    arrays = task_picture(lo.Rosenbrock(), key=jr.key(0)).arrays
    row, column = np.unravel_index(arrays["surface"].argmin(), arrays["surface"].shape)
    # Within one cell of the grid.
    np.testing.assert_allclose((arrays["x"][column], arrays["y"][row]), (1, 1), atol=0.034)
    with pytest.raises(ValueError, match="`draws`"):
        task_picture(lo.Rosenbrock(), key=jr.key(0), draws=0)
    moons = task_picture(lo.TwoMoons(), key=jr.key(0)).arrays
    np.testing.assert_array_equal(np.bincount(moons["label"]), [512, 512])
    # The moons are half circles of radius 1 around (0, 0) and (1, 1/2), with noise of 0.1.
    centers = np.stack([moons["label"], moons["label"] / 2])
    radii = np.hypot(*(np.stack([moons["x"], moons["y"]]) - centers))
    np.testing.assert_allclose(radii, 1, atol=0.5)
    task = lo.MNIST(source="digits")
    digits = task_picture(task, key=jr.key(0)).arrays["images"]
    assert digits.shape == (30, 28, 28)
    assert digits.dtype == np.dtype(np.uint8)
    every = {image.tobytes() for image in np.asarray(task.images)}
    assert len({image.tobytes() for image in digits}) == 30
    assert {image.tobytes() for image in digits} <= every


def test_points_of_the_s_curve_that_are_not_fixed_are_hollow_everywhere():
    """Its chosen points, and learning rates along both arms: the last three are not fixed."""
    record = mechanisms()
    converged = np.arange(9) < 6
    figure = drawn(6, mechanisms=changed(record, adaptation__converged=converged))
    curve, _, rates = [ax for ax in figure.axes if ax.get_subplotspec()][:3]
    chosen = [line.get_markerfacecolor() for line in curve.lines if line.get_marker() == "D"]
    assert [face == "white" for face in chosen] == [False, False, True, True, True]
    hollow = [line for line in rates.lines if line.get_markerfacecolor() == "white"]
    found = np.concatenate([np.asarray(line.get_xdata()) for line in hollow])
    np.testing.assert_array_equal(found, record.adaptation.gradients[6:])
    assert "hollow where the search did not converge" in SPECS[6].panels[2].caption
    assert "mechanisms.adaptation.converged" in SPECS[6].panels[2].fields
