"""The figures of the paper and those beyond it, in reading order, out of panels.

for spec in available(runs):
save_figure(spec.draw(runs), directory, spec.number)
"""

from lrevopt.paper.figures.meta_dynamics import DYNAMICS, MIMIC, figure_14, figure_15
from lrevopt.paper.figures.schematic import figure_16
from lrevopt.paper.figures.specs import (
    FigureSpec,
    Runs,
    figure_by_task,
    figure_of_one,
    one,
    only,
)
from lrevopt.paper.tasks import TITLES
from lrevopt.plots.adaptation import ARM, RATES, S_CURVE
from lrevopt.plots.clipping import GRADIENTS, SATURATION
from lrevopt.plots.interventions import (
    COSTS,
    EXCHANGED,
    REPLAYED_RATES,
    SEPARATION,
    figure_interventions,
)
from lrevopt.plots.manifolds import CHOSEN_UPDATES, RATES_ALONG, SLOW_POINTS
from lrevopt.plots.momentum import (
    ALONG_MODES,
    MODES,
    NUMBERED_MODES,
    OFFSETS,
    STATES,
    UNSHIFTED_STATES,
)
from lrevopt.plots.parameter_types import FIRST_GRADIENTS, GROUP_RATES, MEAN_STATES, figure_types
from lrevopt.plots.performance import LOSSES, TASK, VIOLINS
from lrevopt.plots.schedules import PATH, SCHEDULE
from lrevopt.plots.textbook import TEXTBOOK
from lrevopt.plots.training import META_GRADIENTS, OBJECTIVES, SELECTION, SELECTION_OF_SEEDS
from lrevopt.plots.tuning import SEARCHES, figure_tuning


def converging(runs: Runs) -> Runs:
    """All tasks but MNIST, unless it is the only one: the paper's columns of figures 8 and 12.

    Its optimizer does not converge to one point: figures 9 and 13 are about that.
    """
    return {task: run for task, run in runs.items() if task != "mnist"} or runs


def alone(runs: Runs) -> Runs:
    """The run, if it is the only one."""
    return runs if len(runs) == 1 else {}


def tuning_figure(number: int | str, task: str, title: str) -> FigureSpec:
    """The settings tried for each baseline on one task, a panel for each two hyperparameters."""
    return figure_of_one(
        number, f"Tuning of the baselines on {title}", (SEARCHES,), only(task),
        layout=lambda panels, runs: figure_tuning(runs[0]),
    )  # fmt: skip


FIGURES: tuple[FigureSpec, ...] = (
    figure_of_one(
        "training", "Meta-training", (OBJECTIVES, SELECTION, META_GRADIENTS), alone,
        height=2.3, titled=False, named_by_task=False,
    ),
    figure_by_task(
        "seeds", "Meta-training of every seed", (SELECTION_OF_SEEDS,), height=2.3,
        intro="One panel per task.",
    ),
    figure_by_task(
        1, "Optimizers on their test problems", (LOSSES, TASK),
        height=1.95, height_ratios=[1.1, 1],
    ),
    figure_of_one(
        2, "Update functions of textbook optimizers", (TEXTBOOK,), one(),
        intro="Four signatures that later figures look for.", height=1.75, width=6.75,
        titled=False, named_by_task=False,
    ),
    figure_of_one(
        3, "Momentum in a learned optimizer", (STATES, OFFSETS, MODES), one("rosenbrock"),
        height=2.35,
    ),
    figure_of_one(
        4, "Gradient clipping in a learned optimizer", (SATURATION, GRADIENTS), one("rosenbrock"),
        height=2.15,
    ),
    figure_of_one(
        5, "A learning-rate schedule in a learned optimizer", (PATH, SCHEDULE),
        one("linear_regression"), height=2.3,
    ),
    figure_of_one(
        6, "Learning-rate adaptation in a learned optimizer", (S_CURVE, ARM, RATES),
        one("rosenbrock"), height=2.35,
    ),
    figure_of_one(
        7, "Tuning per layer and parameter type", (MEAN_STATES, GROUP_RATES, FIRST_GRADIENTS),
        one("mnist"), layout=lambda panels, runs: figure_types(panels, runs[0]),
    ),
    figure_by_task(
        8, "Momentum, by task", (STATES, OFFSETS, MODES.drawn(bar_below=True)), converging,
        height=2.25,
    ),
    figure_of_one(
        9, "Momentum of many modes", (NUMBERED_MODES, ALONG_MODES, UNSHIFTED_STATES), one("mnist"),
        places=("(a)", "(b) to (e)", "Last:"), height=2.3, columns=3,
    ),
    figure_by_task(
        10, "Gradient clipping, by task", (SATURATION, GRADIENTS), height=1.8,
        intro="One column per task, each with its own range of gradients.",
    ),
    figure_by_task(11, "Learning-rate schedules, by task", (PATH, SCHEDULE), height=1.9),
    figure_by_task(
        12, "Learning-rate adaptation, by task",
        (S_CURVE.drawn(bar_below=True), ARM.drawn(bar_below=True), RATES), converging, height=2.3,
    ),
    figure_of_one(
        13, "A line of fixed points", (SLOW_POINTS, CHOSEN_UPDATES, RATES_ALONG), one("mnist"),
        height=2.35,
    ),
    figure_of_one(
        14, "A learned optimizer that is momentum", MIMIC, one(),
        layout=lambda panels, runs: figure_14(panels, runs[0]), named_by_task=False,
        intro="The snapshot of one run on linear regression whose mean meta-objective on "
        "selection problems is nearest to tuned momentum's (of records of version 0.1: whose loss "
        "curve is).",
    ),
    figure_of_one(
        15, "How meta-training finds momentum", DYNAMICS, one(),
        layout=lambda panels, runs: figure_15(panels, runs[0]), named_by_task=False,
        intro="Snapshots of the run of Figure 14, linearized at the point where each comes to "
        "rest.",
    ),
    FigureSpec(
        16, "Schematic of a learned optimizer",
        "From left to right, inner steps on one problem. Each gradient moves the state of the "
        "GRU, whose readout is added to the parameter. Blue parts are learned, and shared by all "
        "steps and all parameters; the meta-gradient flows back through the whole run.",
        (), lambda panels, runs: figure_16(),
    ),
    figure_by_task(17, "Meta-objective on test problems", (VIOLINS,), height=2.3, intro=""),
    tuning_figure(18, "linear_regression", "linear regression"),
    tuning_figure(19, "rosenbrock", "Rosenbrock"),
    tuning_figure(20, "two_moons", "two moons"),
    tuning_figure(21, "mnist", "MNIST"),
    FigureSpec(
        "interventions", "What each mechanism is worth", f"One panel per task. {COSTS.caption}",
        (COSTS,), lambda panels, runs: figure_interventions(runs),
    ),
    figure_of_one(
        "streams", "What tells layers apart", (REPLAYED_RATES, SEPARATION, EXCHANGED), one("mnist"),
        height=2.6, width_ratios=[1.1, 0.9, 0.9],
    ),
)  # fmt: skip
"""Every figure, in reading order."""


def available(runs: Runs) -> list[FigureSpec]:
    """The figures that these runs, by the names of their tasks, suffice for.

    Tasks that are not the paper's have figures of tuning of their own.
    """
    others = {task: run for task, run in runs.items() if task not in TITLES}
    own = [
        tuning_figure("tuning" if len(others) == 1 else f"tuning_{task}", task, run.title)
        for task, run in others.items()
    ]
    return [spec for spec in (*FIGURES, *own) if spec.possible(runs)]
