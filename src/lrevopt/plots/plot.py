"""Plots by one call each: `lo.plot.update_functions(optimizer)`, and so on.

Each returns the figure, which notebooks show and `figure.savefig(path)` writes; pyplot is left as
it is. A plot of one panel draws on an axis of your own with `ax=`, and then returns its figure.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.analysis.fixed_points import find_fixed_points
from lrevopt.analysis.linearization import Linearization, Modes, local_model
from lrevopt.analysis.linearization import eigenmodes as separate
from lrevopt.analysis.precision import AnyArray, double_states
from lrevopt.analysis.projections import fit_projection
from lrevopt.analysis.schedules import autonomous_path
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import rate_table, update_table
from lrevopt.checks import (
    finite,
    instance,
    integer_of_at_least,
    left_out,
    mapping,
    text,
)
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.inner_loop.unroll import Trajectory
from lrevopt.optimizers.interface import AbstractOptimizer, check_optimizer
from lrevopt.optimizers.wrappers import at_parameter
from lrevopt.plots.distillation import path, waterfall
from lrevopt.plots.gradient_axes import Point, gradient_axis_of, values_of
from lrevopt.plots.interventions import costs, mechanism_marks
from lrevopt.plots.momentum import eigenvalue_plane
from lrevopt.plots.observation import observation
from lrevopt.plots.panel import legend_above, letter_panels
from lrevopt.plots.performance import loss_curves
from lrevopt.plots.scorecard import figure_scorecard
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREY,
    SKY,
    VERMILLION,
    grid_of_panels,
    journal_style,
    one_panel,
    shades,
    zero_lines,
)
from lrevopt.studies.interventions import Interventions
from lrevopt.studies.scorecard import Scorecard
from lrevopt.text import number

__all__ = [
    "eigenmodes", "interventions", "losses", "observation", "path", "scorecard", "trajectory",
    "update_functions", "waterfall",
]  # fmt: skip

UNTIL_REST = 500
"""Updates without gradient after which the fixed point is looked for."""

MOMENTS = 5
"""States of a run that are shown."""

LARGEST = 1e100
"""Numbers of runs that are larger are left out, like those that are not finite."""

LINES = 30
"""Parameters of a run that are shown, at most."""

START, REST = "initial state", "fixed point"


@journal_style
def update_functions(
    optimizer: AbstractOptimizer,
    states: Mapping[str, Float[AnyArray, " state"]] | None = None,
    *,
    gradients: Float[AnyArray, " grid"] | None = None,
    trajectory: Trajectory | None = None,
    parameter: int | None = None,
    x: float | Sequence[float] = 0.0,
    at_rest: AbstractOptimizer | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Update `w . F(h, g)` of a parameter against its gradient, one curve for each state.

    By default the initial state and the fixed point at zero gradient. The search for the latter
    starts from the state after 500 updates with zero gradient, which is shown if none is found. The
    legend has the effective learning rate of each state, minus the slope at zero gradient.

    - `states`: other states, of shape (state,), by the names that the legend gives them.
    - `trajectory`: a run of `lo.unroll`, of which `parameter`, an index or 0, adds five states.
    - `gradients`: the gradient axis, increasing. By default the range met by that parameter;
      without a trajectory three times the largest *knee*, the gradient at which the tangent at zero
      reaches the largest update; and -1 to 1 where none has a knee between 1e-6 and 1e6.
    - `x`: for an optimizer that takes the parameter's value, such as AdamW, the value or the values
      at which curves are drawn. States of the trajectory have the value that they met.
    - `at_rest`: the optimizer with its step counter held, whose fixed point is shown: with a live
      counter there is none. Not beside `states`.

    Raises `ValueError` for a state of another optimizer, an axis that is not increasing, a
    parameter that the trajectory does not have, arguments that nothing comes of, or `x` not finite.
    """
    shown: dict[str, Point] = {}
    held = _checked_rest(optimizer, at_rest, "`states`" if states is not None else "")
    values = values_of("x", x)
    for value in values:
        note = f", x = {number(value)}" if len(values) > 1 else ""
        points = _points_at(value, optimizer, held, states)
        shown |= {f"{name}{note}": point for name, point in points.items()}
    shown |= _states_of_run(optimizer, trajectory, parameter)
    axis, chosen = gradient_axis_of(shown, gradients, trajectory, parameter or 0)
    alone = ax is None
    figure, ax = one_panel(ax)
    zero_lines(ax)
    updates = np.array([update_table(opt, state[None], axis)[0] for opt, state in shown.values()])
    rates = [rate_table(opt, state[None])[0] for opt, state in shown.values()]
    updates = np.where(np.isfinite(updates), updates, np.nan)
    colors = {START: SKY, REST: VERMILLION}
    others = iter(shades("crest", len(shown)))
    for name, update, rate in zip(shown, updates, rates, strict=True):
        ax.plot(axis, update, color=colors.get(name) or next(others),
                linestyle=(0, (5, 1.2)) if name.startswith(REST) else "-",
                label=f"{name}, rate {number(float(rate))}")  # fmt: skip
    if np.isnan(updates).all():
        _say(ax, "updates are not finite")
    ax.set(xlim=(axis[0], axis[-1]), xlabel=f"gradient $g$\n({chosen})",
           ylabel=r"update $\Delta x$")  # fmt: skip
    ax.locator_params(axis="x", nbins=5)
    _legend(figure, ax, alone=alone)
    return figure


def _checked_rest(
    optimizer: AbstractOptimizer, at_rest: AbstractOptimizer | None, given: str
) -> AbstractOptimizer:
    """The optimizer whose fixed point is searched for; beside a state that is `given`, none is."""
    check_optimizer(optimizer)
    left_out(f"with {given}: no fixed point is searched for", at_rest=at_rest if given else None)
    check_optimizer(at_rest or optimizer, "at_rest")
    return at_rest or optimizer


def _points_at(
    x: float,
    optimizer: AbstractOptimizer,
    at_rest: AbstractOptimizer,
    states: Mapping[str, Any] | None,
) -> dict[str, Point]:
    """The states that are shown by name, at one value of the parameter."""
    optimizer, at_rest = at_parameter(optimizer, x), at_parameter(at_rest, x)
    if states is None:
        return _two_states(optimizer, at_rest)
    named = mapping("states", states, "states")
    return {n: (optimizer, double_states(optimizer, state, n)) for n, state in named.items()}


def _two_states(optimizer: AbstractOptimizer, at_rest: AbstractOptimizer) -> dict[str, Point]:
    """The initial state, and the fixed point or else the state after many updates."""
    start = np.asarray(optimizer.initial_state(), float)
    last = autonomous_path(at_rest, UNTIL_REST)[-1]
    shown: dict[str, Point] = {START: (optimizer, start)}
    if not np.isfinite(last).all():
        return shown
    found = find_fixed_points(at_rest, last[None])
    if found.converged[0]:
        return shown | {REST: (at_rest, found.states[0])}
    return shown | {f"after {UNTIL_REST} zero gradients": (at_rest, last)}


def _states_of_run(
    optimizer: AbstractOptimizer, run: Trajectory | None, parameter: int | None
) -> dict[str, Point]:
    """States of one parameter, by default the first, at moments of a run, if there is one."""
    if run is None:
        left_out("without a trajectory", parameter=parameter)
        return {}
    parameter = 0 if parameter is None else parameter
    instance("trajectory", run, Trajectory, "a trajectory of `unroll`")
    dim = run.parameters.shape[1]
    if integer_of_at_least(0, "parameter", parameter) >= dim:
        raise ValueError(f"`parameter` must be from 0 to {dim - 1}, got {parameter!r}.")
    states = double_states(optimizer, run.states[:, parameter], "trajectory.states", axes=2)
    steps = np.unique(np.linspace(1, len(states) - 1, MOMENTS).round().astype(int))
    values = np.asarray(run.parameters[:, parameter], float)
    return {f"after {k} updates": (at_parameter(optimizer, values[k]), states[k]) for k in steps}


@journal_style
def eigenmodes(
    optimizer: AbstractOptimizer | Linearization | Modes,
    state: Float[AnyArray, " state"] | None = None,
    *,
    gradient: float | None = None,
    x: float | None = None,
    at_rest: AbstractOptimizer | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Eigenvalues of the linearized optimizer beside the unit circle, coloured by learning rate.

    By default there are two panels: (a) at the initial state, and (b) at the fixed point at zero
    gradient, searched for as in `update_functions`. There is one panel if a `state` is given, if a
    linearization or its modes take the place of the optimizer, or if `ax` is given, which then
    shows the fixed point. The ring marks the dominant mode, and the title has the effective
    learning rate. Where J is near-defective, eigenvalues are grey: modes have no learning rates of
    their own.

    `gradient`, by default 0, is what the optimizer is linearized at, and `x`, for an optimizer that
    takes it, the value of the parameter, by default 0; `at_rest` is as in `update_functions`.

    Raises `ValueError` for a state of another optimizer, a gradient that is not finite, `at_rest`
    beside a `state`, or any of these beside a linearization or modes, taken at a state already.
    """
    found: dict[str, Linearization | Modes]
    if isinstance(optimizer, Linearization | Modes):
        what = "a linearization" if isinstance(optimizer, Linearization) else "modes"
        left_out(f"with {what}", state=state, gradient=gradient, x=x, at_rest=at_rest)
        found = {"": optimizer}
    else:
        held = _checked_rest(optimizer, at_rest, "a `state`" if state is not None else "")
        gradient, x = (
            finite(name, 0.0 if value is None else value)
            for name, value in (("gradient", gradient), ("x", x))
        )
        held, optimizer = at_parameter(held, x), at_parameter(optimizer, x)
        points = {"": (optimizer, state)} if state is not None else {}
        points = points or _two_states(optimizer, held)
        if ax is not None:
            points = dict(list(points.items())[-1:])
        found = {name: local_model(opt, at, gradient) for name, (opt, at) in points.items()}
    if ax is not None or len(found) == 1:
        figure, ax = one_panel(ax)
        axes = [ax]
    else:
        figure, grid = grid_of_panels(1, len(found), height=2.4)
        axes = list(grid.flat)
    titles = [_modes(each, model) for each, model in zip(axes, found.values(), strict=True)]
    titles = [": ".join(part for part in pair if part) for pair in zip(found, titles, strict=True)]
    if len(axes) > 1:
        letter_panels(axes, titles)
    else:
        axes[0].set_title(titles[0])
    return figure


def _modes(ax: Axes, model: Linearization | Modes) -> str:
    """Draw the modes of a model; what is said of them in its title."""
    if isinstance(model, Linearization):
        if not model.differentiable:
            _say(ax, "the Jacobian is not finite")
            return ""
        rate = f"rate {number(float(-model.readout @ model.input))}"
        try:
            modes = separate(model)
        except ValueError:
            values = np.linalg.eigvals(model.recurrent).astype(complex)
            eigenvalue_plane(ax, values, np.full(len(values), np.nan, complex), [])
            ax.set_xlabel(f"{ax.get_xlabel()}\nnear-defective: modes have no learning rates")
            return rate
    else:
        modes, rate = model, f"rate {number(float(np.sum(model.learning_rates).real))}"
    eigenvalue_plane(ax, modes.eigenvalues, modes.learning_rates, [modes.dominant])
    return rate


@journal_style
def trajectory(run: Trajectory) -> Figure:
    """One run of `lo.unroll`: loss (a), parameters (b), and states of parameters (c).

    Of more than 30 parameters, 30 evenly spaced ones are shown. States are projected on the first
    two principal components of all states shown; a triangle marks the initial state, dots the last
    ones. A state of one coordinate is drawn over the updates. Numbers that are not finite or beyond
    1e100 are left out; the first update with such a loss is named below the axis.
    """
    instance("run", run, Trajectory, "a trajectory of `unroll`")
    curve = _shown(run.losses)
    left_out = np.isnan(curve)
    figure, axes = grid_of_panels(1, 3, height=2.2)
    loss, parameters, states = axes[0]
    loss.plot(curve, color=BLUE)
    positive = not left_out.all() and bool((curve[~left_out] > 0).all())
    note = f"\ndiverged at update {int(np.argmax(left_out))}" if left_out.any() else ""
    loss.set(xlabel=f"update{note}", ylabel="loss", yscale="log" if positive else "linear")
    values = _shown(run.parameters)
    chosen = evenly_spaced(np.arange(values.shape[1]), LINES)
    colors = shades("viridis", len(chosen), 0.0, 0.9)
    for index, color in zip(chosen, colors, strict=True):
        parameters.plot(values[:, index], color=color, linewidth=0.9)
    part = f"{len(chosen)} of {values.shape[1]}" if len(chosen) < values.shape[1] else "all"
    parameters.set(xlabel="update", ylabel=f"parameters ({part})")
    _draw_states(states, _shown(run.states)[:, chosen], colors)
    letter_panels([loss, parameters, states], ["Loss", "Parameters", "States"])
    return figure


def _shown(values: AnyArray) -> np.ndarray:
    """Numbers in float64, NaN for those that are left out."""
    array = np.asarray(values, float)
    return np.where(np.abs(array) <= LARGEST, array, np.nan)


def _draw_states(
    ax: Axes, states: Float[np.ndarray, "visited dim state"], colors: Sequence[Any]
) -> None:
    """Paths of the states of parameters, in the plane or, of one coordinate, over updates."""
    if states.shape[-1] == 1:
        for path, color in zip(states[..., 0].T, colors, strict=True):
            ax.plot(path, color=color, linewidth=0.9)
        ax.set(xlabel="update", ylabel="state")
        return
    cloud = states.reshape(-1, states.shape[-1])
    cloud = cloud[np.isfinite(cloud).all(axis=1)]
    if len(cloud) < 2:
        _say(ax, "states are not finite")
        return
    projection = fit_projection(cloud, components=2)
    for path, color in zip(np.swapaxes(projection(states), 0, 1), colors, strict=True):
        ax.plot(*path.T, color=color, linewidth=0.8)
        last = path[np.isfinite(path).all(axis=1)][-1:]
        ax.plot(*last.T, "o", color=color, markersize=3)
    ax.plot(*projection(states[0, 0]), marker="^", markersize=5.5, color=SKY, zorder=5,
            markeredgecolor=BLACK, markeredgewidth=0.6, linestyle="none")  # fmt: skip
    first, second = (100 * share for share in projection.explained_variance)
    ax.set(xlabel=f"PC 1 ({first:.0f} %)", ylabel=f"PC 2 ({second:.0f} %)")
    ax.locator_params(nbins=5)


@journal_style
def losses(runs: Evaluation | Mapping[str, Trajectory], *, ax: Axes | None = None) -> Figure:
    """Loss against updates: of an evaluation, or of single runs by name.

    An evaluation is drawn as the mean over the problems on which an optimizer stays finite, with a
    band of one standard error on each side; the number of diverged runs is given below. Raises
    `ValueError` for no run, or runs of unequal length.
    """
    if isinstance(runs, Evaluation):
        record = runs
    else:
        for run in mapping("runs", runs, "trajectories").values():
            instance("runs", run, Trajectory, "an evaluation or trajectories of `unroll` by name")
        each = {name: np.asarray(run.losses, float) for name, run in runs.items()}
        lengths = {len(curve) for curve in each.values()}
        if len(lengths) != 1:
            raise ValueError("`runs` must hold runs of one number of updates, got "
                             f"{sorted(length - 1 for length in lengths) or 'none'}.")  # fmt: skip
        record = Evaluation(tuple(each), np.stack(list(each.values()))[:, None])
    alone = ax is None
    figure, ax = one_panel(ax)
    loss_curves(ax, record)
    ax.set_xlabel(ax.get_xlabel().replace("inner step", "update"))
    _legend(figure, ax, alone=alone)
    return figure


def scorecard(card: Scorecard, title: str = "Scorecard") -> Figure:
    """A scorecard of one optimizer on one task: six panels and all numbers with their units."""
    instance("card", card, Scorecard, "a scorecard of `measure_scorecard`")
    return figure_scorecard(card, text("title", title))


@journal_style
def interventions(record: Interventions, *, ax: Axes | None = None) -> Figure:
    """What it costs to remove each mechanism: ratios of meta-objectives, changed over original.

    Dots are geometric means over problems, bars 95 % intervals, colours mechanisms; a bar that goes
    on beyond the axis has an arrowhead. The number of diverged runs stands at the right; the dot is
    then hollow and is the mean over the other runs. That of the original stands below the axis.
    """
    instance("record", record, Interventions, "interventions of `intervene`")
    alone = ax is None
    figure, ax = one_panel(ax, height=0.9 + 0.2 * len(record.names), width=1.4 * COLUMN)
    costs(ax, record)
    marks = mechanism_marks([record])
    if alone:
        legend_above(figure, marks)
    else:
        ax.legend(handles=marks, loc="best")
    return figure


def _legend(figure: Figure, ax: Axes, *, alone: bool) -> None:
    """Labelled curves above a panel of its own, or inside one that is given."""
    if alone:
        legend_above(figure, ax.get_legend_handles_labels()[0])
    elif ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")


def _say(ax: Axes, sentence: str) -> None:
    """A panel without numbers says why."""
    ax.text(0.5, 0.5, textwrap.fill(sentence, 24), ha="center", va="center",
            transform=ax.transAxes, color=GREY)  # fmt: skip
