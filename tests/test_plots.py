"""`lo.plot`: each plot by one call, with the numbers of what it is given, whatever that is."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import matplotlib as mpl
import numpy as np
import optax
import pytest
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from synthetic_records import evaluation, interventions, scorecard

import lrevopt as lo
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.plots.performance import violins
from lrevopt.plots.style import Drawing

TASK = lo.Rosenbrock()
GRU = lo.GRUOptimizer(64, key=jr.key(0))
CLIPPED = lo.ClippedGradientDescent(0.5, 2.0)
DEFECTIVE = lo.LinearOptimizer(
    jnp.zeros(2), jnp.array([[0.9, 1.0], [0.0, 0.9]]), jnp.array([0.0, 1.0]),
    -jnp.array([0.1, 0.0]),
)  # fmt: skip
MODEL = lo.linearize(lo.Momentum(0.1, 0.9), jnp.zeros(1))
OPTIMIZERS = {
    "gradient descent": lo.GradientDescent(0.1),
    "clipped": CLIPPED,
    "momentum": lo.Momentum(0.1, 0.9),
    "adam": lo.Adam(0.01),
    "gru": GRU,
    "optax": lo.from_optax(optax.adam(0.01)),
    "near-defective": DEFECTIVE,
    "explodes": lo.Momentum(0.1, 1e3),
}


def a_run(optimizer, steps=12):
    return lo.unroll(optimizer, TASK, TASK.sample(jr.key(1)), steps)


def test_losses_that_are_not_positive_are_drawn_and_not_said_to_diverge():
    fall = np.linspace(1.0, -1.0, 5)
    record = Evaluation(("a", "b"), np.stack([np.stack([fall] * 3), -np.ones((3, 5))]))
    figure = lo.plot.losses(record)
    (ax,) = figure.axes
    assert ax.get_yscale() == "linear"
    low, high = ax.get_ylim()
    assert low < -1 < 1 < high
    own = Figure().subplots()
    violins(own, record)
    assert own.get_yscale() == "linear"
    assert not [text for text in own.texts if "diverged" in text.get_text()]
    positive = Evaluation(("a", "b"), np.exp(record.losses))
    assert lo.plot.losses(positive).axes[0].get_yscale() == "log"


CALLS = {
    "update_functions": lambda ax: lo.plot.update_functions(CLIPPED, ax=ax),
    "eigenmodes": lambda ax: lo.plot.eigenmodes(CLIPPED, ax=ax),
    "losses": lambda ax: lo.plot.losses(evaluation(diverged=True), ax=ax),
    "interventions": lambda ax: lo.plot.interventions(interventions(), ax=ax),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("plot", [lo.plot.update_functions, lo.plot.eigenmodes])
def test_an_optimizer_alone_is_enough(plot, name):
    settings = dict(mpl.rcParams)
    figure = plot(OPTIMIZERS[name])
    figure.draw_without_rendering()
    assert not _pylab_helpers.Gcf.figs, "no figure is registered with pyplot"
    assert dict(mpl.rcParams) == settings
    panels = [ax for ax in figure.axes if ax.get_subplotspec() and not hasattr(ax, "_colorbar")]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in panels)


@pytest.mark.parametrize("name", CALLS)
def test_one_panel_is_drawn_on_an_axis_of_your_own(name, as_user):
    own = Figure()
    left, right = own.subplots(1, 2)
    assert CALLS[name](left) is own
    assert left.has_data()
    assert not right.has_data()
    with pytest.raises(ValueError, match="`ax` must be an axis of matplotlib, got 3."):
        CALLS[name](3)


def curves(figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    lines = figure.axes[0].get_legend_handles_labels()
    return {
        label: (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for line, label in zip(*lines, strict=True)
    }


def test_update_functions_are_those_of_the_states_and_say_their_rate():
    found = curves(lo.plot.update_functions(lo.Momentum(0.1, 0.9), {"moving": jnp.array([2.0])}))
    gradients, updates = found["moving, rate 0.1"]
    np.testing.assert_allclose(updates, -0.1 * (0.9 * 2.0 + gradients), rtol=1e-12)
    assert (gradients[0], gradients[-1]) == (-1, 1)


def test_gradients_reach_to_three_times_the_knee_or_as_far_as_a_run_met():
    figure = lo.plot.update_functions(CLIPPED)
    gradients, _ = curves(figure)["fixed point, rate 0.5"]
    assert gradients[-1] == pytest.approx(3 * 2.0)  # the threshold is the knee
    assert "three times the largest knee" in figure.axes[0].get_xlabel()
    run = a_run(CLIPPED)
    figure = lo.plot.update_functions(CLIPPED, trajectory=run, parameter=1)
    gradients, updates = curves(figure)["after 12 updates, rate 0.5"]
    assert gradients[-1] == pytest.approx(float(np.abs(run.gradients[:, 1]).max()))
    np.testing.assert_allclose(updates, -0.5 * np.clip(gradients, -2, 2), rtol=1e-12)
    axis = np.linspace(-1, 3, 5)
    figure = lo.plot.update_functions(CLIPPED, gradients=axis)
    np.testing.assert_array_equal(curves(figure)["initial state, rate 0.5"][0], axis)


def test_a_frozen_counter_rests_where_a_live_one_does_not():
    live, frozen = (lo.from_optax(optax.adam(0.01), at_step=step) for step in (None, 10**6))
    labels = " ".join(curves(lo.plot.update_functions(live)))
    assert "after 500 zero gradients" in labels
    assert "fixed point" in " ".join(curves(lo.plot.update_functions(live, at_rest=frozen)))


def test_eigenmodes_are_those_of_start_and_fixed_point():
    tilted = lo.LinearOptimizer(
        jnp.zeros(2), jnp.diag(jnp.array([0.9, 0.3])), jnp.array([1.0, 1.0]),
        -jnp.array([0.1, 0.2]), start=jnp.ones(2),
    )  # fmt: skip
    figure = lo.plot.eigenmodes(tilted)
    panels = [ax for ax in figure.axes if ax.collections and ax.get_subplotspec()]
    assert [ax.get_title(loc="left").partition("$ ")[2] for ax in panels] == [
        "initial state: rate 0.3", "fixed point: rate 0.3",
    ]  # fmt: skip
    for ax in panels:
        points = ax.collections[0]
        np.testing.assert_allclose(np.asarray(points.get_offsets()), [[0.9, 0], [0.3, 0]])
        np.testing.assert_allclose(np.asarray(points.get_array()), [0.1, 0.2])
        (ring,) = [line for line in ax.lines if line.get_marker() == "o"]
        assert np.asarray(ring.get_xdata()).tolist() == [0.9]  # 0.1 / 0.1 against 0.2 / 0.7
    model = lo.linearize(tilted, jnp.zeros(2))
    for given in (model, lo.eigenmodes(model)):
        assert lo.plot.eigenmodes(given).axes[0].get_title(loc="left") == "rate 0.3"


def test_near_defective_jacobians_have_grey_eigenvalues_and_say_why():
    figure = lo.plot.eigenmodes(DEFECTIVE, jnp.zeros(2))
    assert "near-defective" in figure.axes[0].get_xlabel()
    assert np.isnan(np.asarray(figure.axes[0].collections[0].get_array(), float)).all()


@pytest.mark.parametrize("optimizer", [lo.GradientDescent(1e-4), GRU, lo.GradientDescent(1e3)])
def test_trajectories_show_the_run_and_where_it_ends(optimizer):
    run = a_run(optimizer)
    figure = lo.plot.trajectory(run)
    figure.draw_without_rendering()
    loss, parameters, states = figure.axes
    finite = np.abs(np.asarray(run.losses, float)) <= 1e100
    drawn = np.asarray(loss.lines[0].get_ydata(), float)
    np.testing.assert_array_equal(drawn[finite], np.asarray(run.losses, float)[finite])
    assert ("diverged at update" in loss.get_xlabel()) == (not finite.all())
    assert len(parameters.lines) == 2
    assert states.get_ylabel()


def test_losses_of_single_runs_are_their_losses():
    runs = {"one": a_run(lo.GradientDescent(1e-4)), "two": a_run(lo.Momentum(1e-4, 0.5))}
    found = curves(lo.plot.losses(runs))
    for label, run in zip(("One", "Two"), runs.values(), strict=True):
        np.testing.assert_allclose(found[label][1], run.losses)
    with pytest.raises(ValueError, match=r"`runs` must hold runs of one number of updates, got"):
        lo.plot.losses(runs | {"three": a_run(GRU, 3)})
    with pytest.raises(ValueError, match="got none"):
        lo.plot.losses({})


def test_scorecards_have_their_title():
    figure = lo.plot.scorecard(scorecard(), "Mine on a bowl")
    assert any("Mine on a bowl" in text.get_text() for text in figure.findobj(mpl.text.Text))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lo.plot.update_functions(CLIPPED, {"h": jnp.zeros(3)}), "`h` must have shape"),
        (lambda: lo.plot.update_functions(CLIPPED, gradients=np.ones(3)), "must be one increasing"),
        (lambda: lo.plot.update_functions(CLIPPED, trajectory=a_run(CLIPPED), parameter=7),
         "`parameter` must be from 0 to 1, got 7"),
        (lambda: lo.plot.eigenmodes(CLIPPED, jnp.zeros(3)), "must have shape"),
        (lambda: lo.plot.eigenmodes(CLIPPED, gradient=np.inf), "`gradient` must be a finite"),
        (lambda: lo.plot.eigenmodes(MODEL, jnp.ones(2)),
         "`state` must be left out with a linearization, got an array of float64 and shape"),
        (lambda: lo.plot.eigenmodes(MODEL, gradient=0.0), "`gradient` must be left out with a lin"),
        (lambda: lo.plot.eigenmodes(lo.eigenmodes(MODEL), x=1.0),
         "`x` must be left out with modes, got 1.0"),
        (
            lambda: lo.plot.eigenmodes(CLIPPED, CLIPPED.initial_state(), at_rest=CLIPPED),
            "`at_rest` must be left out with a `state`",
        ),
        (
            lambda: lo.plot.update_functions(
                CLIPPED, {"a": CLIPPED.initial_state()}, at_rest=CLIPPED
            ),
            "`at_rest` must be left out with `states`",
        ),
        (lambda: lo.plot.eigenmodes(MODEL, at_rest=CLIPPED), "`at_rest` must be left out with a"),
        (lambda: lo.plot.update_functions(CLIPPED, parameter=7),
         "`parameter` must be left out without a trajectory, got 7"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(call, said, as_user):
    with pytest.raises(ValueError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_notebooks_show_a_figure_without_pyplot():
    figures: list[Any] = [lo.plot.update_functions(CLIPPED), lo.plot.interventions(interventions())]
    for figure in figures:
        assert isinstance(figure, Drawing)
        data, size = figure._repr_png_()
        assert data.startswith(b"\x89PNG")
        assert size["width"] == int(100 * figure.get_figwidth())


def decaying(rate, decay):
    return optax.chain(optax.add_decayed_weights(decay), optax.scale(-rate))


def test_an_optimizer_that_takes_x_is_drawn_at_its_values():
    """Decoupled decay shifts every update by -rate * decay * x, and moves no slope."""
    rate, decay = 0.1, 0.5
    decayed = lo.from_optax(decaying, rate=rate, decay=decay)
    axis = np.linspace(-1.0, 1.0, 5)
    figure = lo.plot.update_functions(decayed, x=[-2.0, 0.0, 1.0], gradients=axis)
    curves = {str(c.get_label()): np.asarray(c.get_ydata(), float) for c in figure.axes[0].lines}
    for x, sign in ((-2.0, "\N{MINUS SIGN}2"), (0.0, "0"), (1.0, "1")):
        (curve,) = [
            c for name, c in curves.items() if name.startswith(f"initial state, x = {sign},")
        ]
        np.testing.assert_allclose(curve, -rate * (axis + decay * x), rtol=1e-12)
    modes = lo.plot.eigenmodes(decayed, x=3.0)
    assert "rate 0.1" in modes.axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="^`x` must be"):
        lo.plot.update_functions(decayed, x=[0.0, np.nan])
    with pytest.raises(ValueError, match="^`x` must hold at least one number"):
        lo.plot.update_functions(decayed, x=[])


def test_a_state_of_a_run_is_drawn_at_the_x_that_it_met():
    rate, decay = 1e-4, 5.0
    decayed = lo.from_optax(decaying, rate=rate, decay=decay)
    task = lo.Rosenbrock()
    run = lo.unroll(decayed, task, task.sample(jr.key(0)), 8)
    axis = np.linspace(-1.0, 1.0, 5)
    figure = lo.plot.update_functions(decayed, trajectory=run, parameter=1, gradients=axis)
    curves = {str(c.get_label()): np.asarray(c.get_ydata(), float) for c in figure.axes[0].lines}
    (last,) = [curve for name, curve in curves.items() if name.startswith("after 8 updates")]
    expected = -rate * (axis + decay * float(run.parameters[8, 1]))
    np.testing.assert_allclose(last, expected, rtol=1e-12)
