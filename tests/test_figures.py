"""Every figure draws from small records, without warnings, and the same way each time."""

import copy

import jax
import jax.random as jr
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import _pylab_helpers
from synthetic_records import BASELINES, evaluation, history, mechanisms, numbers, tuning

import lrevopt as lo
from lrevopt import figures
from lrevopt.figures import FIGURES, FigureNumbers, available, render, save_figure
from lrevopt.figures.style import LOOKS, figure_name, looks
from lrevopt.task_pictures import task_picture

ONE, BOTH = numbers("rosenbrock"), numbers("linear_regression", "rosenbrock")
OWN = numbers("my_task")
CASES = [
    pytest.param(spec, case, id=f"{spec.name}-{name}")
    for name, case in {"one task": ONE, "two tasks": BOTH}.items()
    for spec in available(case)
    # These do not depend on the number of tasks.
    if not (name == "two tasks" and spec.number in ("training", 2, 4, 6, 16, 19))
]
SPECS = {spec.number: spec for spec in FIGURES}


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_figure_draws_with_labels_and_leaves_everything_else_alone(spec, case):
    before, settings = copy.deepcopy(case), dict(mpl.rcParams)
    figure = spec.draw(case)
    figure.draw_without_rendering()
    assert not _pylab_helpers.Gcf.figs, "no figure is registered with pyplot"
    assert dict(mpl.rcParams) == settings
    for old, new in zip(jax.tree.leaves(vars(before)), jax.tree.leaves(vars(case)), strict=True):
        np.testing.assert_array_equal(old, new)
    assert figure.get_figwidth() in (3.25, 6.75)
    drawn = [ax for ax in figure.axes if ax.axison]
    assert all(ax.get_xlabel() or ax.get_ylabel() for ax in drawn)
    panels = [ax for ax in drawn if ax.get_subplotspec() and not hasattr(ax, "_colorbar")]
    assert all(ax.get_xlabel() for ax in panels)
    # Panel letters run from (a) without gaps.
    letters = [
        title[len(r"$\mathbf{(") :][0] for ax in panels if (title := ax.get_title(loc="left"))
    ]
    assert letters == [chr(ord("a") + k) for k in range(len(letters))]


@pytest.mark.parametrize("number", [1, 3, 6, 18])
def test_no_text_is_smaller_than_seven_points(number):
    figure = SPECS[number].draw(BOTH)
    figure.draw_without_rendering()
    texts = figure.findobj(mpl.text.Text)
    assert min(float(text.get_fontsize()) for text in texts if text.get_text()) >= 7


@pytest.mark.parametrize(("number", "kind"), [(3, "svg"), (18, "svg"), (17, "png")])
def test_same_numbers_give_the_same_bytes(number, kind):
    first, second = (render(SPECS[number].draw(BOTH), kind) for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first


def test_a_task_of_your_own_has_figures():
    for number in (1, 17):
        figure = SPECS[number].draw(OWN)
        figure.draw_without_rendering()
        assert any(ax.axison and ax.has_data() for ax in figure.axes)


def test_every_figure_of_the_first_two_tasks_is_registered_once():
    numbered = [spec.number for spec in FIGURES if isinstance(spec.number, int)]
    assert numbered == [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 17, 18, 19]
    assert len({spec.name for spec in FIGURES}) == len(FIGURES)
    assert all(len(spec.caption) > 100 for spec in FIGURES), "captions say how to read a figure"


def test_figures_without_numbers_are_not_available():
    assert [spec.number for spec in available(FigureNumbers())] == [16]
    assert {spec.number for spec in available(ONE)} == {spec.number for spec in FIGURES} - {18}


def test_looks_are_distinct_for_known_and_unknown_optimizers():
    found = looks(["learned", *BASELINES, "mine", "yours"])
    assert len({look.color for look in found.values()}) == len(found)
    assert len({str(look.dashes) for look in found.values()}) == len(found)
    assert found["learned"] == LOOKS["learned"]


def test_save_figure_writes_two_small_files(tmp_path):
    paths = save_figure(figures.figure_18(BOTH.tuning["linear_regression"]), tmp_path, 18)
    assert [path.name for path in paths] == ["figure_18.png", "figure_18.svg"]
    assert all(0 < path.stat().st_size < 400_000 for path in paths)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert figure_name("training") == "figure_training"


def test_diverged_optimizers_are_named_and_the_rest_still_drawn():
    figure = figures.figure_01({"rosenbrock": evaluation(diverged=True)}, {})
    texts = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    assert "inner step\nruns diverged, of 6: Adam 2" in texts
    assert any(
        "2 of 6" in text.get_text()
        for text in figures.figure_17({"mine": evaluation(diverged=True)}).findobj(mpl.text.Text)
    )


def test_everything_diverged_still_draws():
    ruined = evaluation()
    ruined = type(ruined)(names=ruined.names, losses=np.full_like(ruined.losses, np.inf))
    for figure in (
        figures.figure_01({"rosenbrock": ruined}, {}),
        figures.figure_17({"rosenbrock": ruined}),
    ):
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(mpl.text.Text)]
        assert any("diverged" in text for text in texts)
    searched = tuning("momentum")
    lost = type(searched)(**(vars(searched) | {"scores": np.full(30, np.inf)}))
    figures.figure_18({"momentum": lost}).draw_without_rendering()


def test_loss_curve_is_the_mean_of_the_runs_that_stay_finite():
    runs = evaluation(diverged=True)
    ax = figures.figure_01({"rosenbrock": runs}, {}).axes[0]
    curves = {line.get_label(): np.asarray(line.get_ydata(), float) for line in ax.lines}
    np.testing.assert_allclose(curves["Adam"], runs.losses[3, 2:].mean(axis=0))
    np.testing.assert_allclose(curves["Learned"], runs.losses[0].mean(axis=0))


def test_tuning_panels_share_one_scale_and_show_every_pair():
    figure = figures.figure_18(BOTH.tuning["linear_regression"])
    scatters = [
        ax.collections[0] for ax in figure.axes if ax.collections and ax.get_title(loc="left")
    ]
    assert len(scatters) == 1 + 1 + 3
    assert len({(part.norm.vmin, part.norm.vmax) for part in scatters}) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: figures.figure_01({}, {}),
        lambda: figures.figure_03({}),
        lambda: figures.figure_12({}, {}),
        lambda: figures.figure_18({}),
    ],
)
def test_nothing_to_draw_is_refused(call):
    with pytest.raises(ValueError, match="must hold"):
        call()


@pytest.mark.parametrize("states", [1, 2])
def test_mechanism_figures_of_small_optimizers(states):
    record = {"linear_regression": mechanisms(states)}
    for draw in (figures.figure_03, figures.figure_04):
        figure = draw(record)
        figure.draw_without_rendering()
        assert all(ax.has_data() for ax in figure.axes if ax.axison)
    figures.figure_05(record, {}).draw_without_rendering()


def test_logarithmic_objectives_are_drawn_on_a_linear_axis():
    figure = figures.figure_training(history(logarithmic=True))
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
