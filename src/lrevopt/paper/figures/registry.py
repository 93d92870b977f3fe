"""Which figures there are: number, title, how to read it, what it needs, how it is drawn.

`FIGURES` is the one list that scripts and reports go through:

    for spec in available(numbers):
        save_figure(spec.draw(numbers), directory, spec.number)
"""

import dataclasses
from collections.abc import Callable

from matplotlib.figure import Figure

from lrevopt.analysis.manifolds import Manifold
from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.analysis.mode_shifts import ModeShifts
from lrevopt.analysis.parameter_types import ParameterTypes
from lrevopt.analysis.update_functions import Textbook
from lrevopt.checks import required
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.meta_training import History
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.paper.figures import captions
from lrevopt.paper.figures.meta_dynamics import figure_14, figure_15
from lrevopt.paper.figures.schematic import figure_16
from lrevopt.plots.adaptation import figure_06, figure_12
from lrevopt.plots.clipping import figure_04, figure_10
from lrevopt.plots.interventions import figure_gradient_replay, figure_interventions
from lrevopt.plots.manifolds import figure_13
from lrevopt.plots.momentum import figure_03, figure_08, figure_09
from lrevopt.plots.parameter_types import figure_07
from lrevopt.plots.performance import figure_01, figure_17
from lrevopt.plots.schedules import figure_05, figure_11
from lrevopt.plots.style import figure_name
from lrevopt.plots.textbook import figure_02
from lrevopt.plots.training import figure_training
from lrevopt.plots.tuning import figure_18, figure_19, figure_20, figure_21
from lrevopt.studies.gradient_replay import GradientReplay
from lrevopt.studies.interventions import Interventions
from lrevopt.studies.scorecard import Scorecard
from lrevopt.tasks.pictures import TaskPicture
from lrevopt.tuning.random_search import TuningResult


@dataclasses.dataclass(frozen=True)
class FigureNumbers:
    """All numbers that figures are drawn from, by task; a run of one task has one of each.

    `momentum_rates` are the learning rates of tuned momentum, `tuning` the searches by task and
    then by baseline; `parameter_types`, `manifolds` and `mode_shifts` exist for tasks whose
    parameters have groups; `momentum_mimic` and `meta_dynamics` are of linear regression. What a
    run does not have stays empty, and its figures are left out.
    """

    evaluations: dict[str, Evaluation] = dataclasses.field(default_factory=dict)
    pictures: dict[str, TaskPicture] = dataclasses.field(default_factory=dict)
    mechanisms: dict[str, Mechanisms] = dataclasses.field(default_factory=dict)
    momentum_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    tuning: dict[str, dict[str, TuningResult]] = dataclasses.field(default_factory=dict)
    textbook: Textbook | None = None
    history: History | None = None
    parameter_types: dict[str, ParameterTypes] = dataclasses.field(default_factory=dict)
    manifolds: dict[str, Manifold] = dataclasses.field(default_factory=dict)
    mode_shifts: dict[str, ModeShifts] = dataclasses.field(default_factory=dict)
    momentum_mimic: MomentumMimic | None = None
    meta_dynamics: MetaDynamics | None = None
    interventions: dict[str, Interventions] = dataclasses.field(default_factory=dict)
    replay: dict[str, GradientReplay] = dataclasses.field(default_factory=dict)
    scorecards: dict[str, Scorecard] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FigureText:
    """What a figure is called and how it is read: one of the paper's, or one with a name."""

    number: int | str
    title: str
    caption: str

    @property
    def label(self) -> str:
        """Heading: "Figure 3", or "Figure" for an unnumbered one."""
        return f"Figure {self.number}" if isinstance(self.number, int) else "Figure"

    @property
    def name(self) -> str:
        """Name of its files without suffix."""
        return figure_name(self.number)


@dataclasses.dataclass(frozen=True)
class FigureSpec(FigureText):
    """A figure that is drawn from runs.

    `needs` names the fields of `FigureNumbers` it cannot do without, and `task` the task that they
    must cover, for a figure of one task.
    """

    needs: tuple[str, ...]
    draw: Callable[[FigureNumbers], Figure]
    task: str | None = None

    def possible(self, numbers: FigureNumbers) -> bool:
        """Whether there are numbers for it."""
        fields = [getattr(numbers, need) for need in self.needs]
        return all(field and (self.task is None or self.task in field) for field in fields)


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        "training", "Meta-training",
        "(a) Meta-objective of each batch of training problems and its running median. (b) Mean "
        "loss over first loss on selection problems, which no meta-gradient sees, for each "
        "snapshot; the star is the snapshot that was kept. (c) Norm of the meta-gradient before "
        "clipping. Gaps are skipped meta-steps.",
        ("history",),
        lambda numbers: figure_training(required(numbers.history)),
    ),
    FigureSpec(
        1, "Optimizers on their test problems",
        "Top: loss against inner step, mean over the test problems, with a band of one standard "
        "error on each side; lower is better. Optimizers that diverged on a problem are named, "
        "and their mean is over the others. Bottom: what the task is like: for linear regression "
        "the condition numbers of random problems (the larger, the harder), for Rosenbrock the "
        "surface, with its minimum at the star, for two moons the points to be told apart by "
        "their colour, for MNIST some of the digits to be read.",
        ("evaluations",),
        lambda numbers: figure_01(numbers.evaluations, numbers.pictures),
    ),
    FigureSpec(
        2, "Update functions of textbook optimizers",
        "Change of a parameter against its gradient, one curve per state of the optimizer. (a) "
        "Gradient descent is a line whose slope is the learning rate. (b) Clipping saturates. "
        "(c) Momentum shifts the line by the accumulated velocity. (d) RMSProp changes the slope "
        "with the accumulated squared gradient. Later figures look for these four signatures.",
        ("textbook",),
        lambda numbers: figure_02(required(numbers.textbook)),
    ),
    FigureSpec(
        3, "Momentum in a learned optimizer",
        f"(a) {captions.STATES} (b) {captions.OFFSETS} (c) {captions.MODES}",
        ("mechanisms",),
        lambda numbers: figure_03(numbers.mechanisms),
    ),
    FigureSpec(
        4, "Gradient clipping in a learned optimizer",
        f"(a) {captions.SATURATION} (b) {captions.GRADIENTS}",
        ("mechanisms",),
        lambda numbers: figure_04(numbers.mechanisms),
    ),
    FigureSpec(
        5, "A learning-rate schedule in a learned optimizer",
        f"(a) {captions.PATH} (b) {captions.SCHEDULE}",
        ("mechanisms",),
        lambda numbers: figure_05(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        6, "Learning-rate adaptation in a learned optimizer",
        f"(a) {captions.S_CURVE} (b) {captions.ARM} (c) {captions.RATES}",
        ("mechanisms",),
        lambda numbers: figure_06(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        7, "Tuning per layer and parameter type", captions.TYPES,
        ("parameter_types",),
        lambda numbers: figure_07(numbers.parameter_types),
    ),
    FigureSpec(
        8, "Momentum, by task",
        f"One column per task. Top: {captions.STATES} Middle: {captions.OFFSETS} Bottom: "
        f"{captions.MODES}",
        ("mechanisms",),
        lambda numbers: figure_08(numbers.mechanisms),
    ),
    FigureSpec(
        9, "Momentum of many modes", f"(a) {captions.MANY_MODES}",
        ("mechanisms", "mode_shifts"),
        lambda numbers: figure_09(numbers.mechanisms, numbers.mode_shifts),
    ),
    FigureSpec(
        10, "Gradient clipping, by task",
        "One column per task, each with its own range of gradients. "
        f"Top: {captions.SATURATION} Bottom: {captions.GRADIENTS}",
        ("mechanisms",),
        lambda numbers: figure_10(numbers.mechanisms),
    ),
    FigureSpec(
        11, "Learning-rate schedules, by task",
        f"One column per task. Top: {captions.PATH} Bottom: {captions.SCHEDULE}",
        ("mechanisms",),
        lambda numbers: figure_11(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        12, "Learning-rate adaptation, by task",
        f"One column per task. Top: {captions.S_CURVE} Middle: {captions.ARM} Bottom: "
        f"{captions.RATES}",
        ("mechanisms",),
        lambda numbers: figure_12(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        13, "A line of fixed points", captions.LINE,
        ("manifolds",),
        lambda numbers: figure_13(numbers.manifolds),
    ),
    FigureSpec(
        14, "A learned optimizer that is momentum", captions.MIMIC,
        ("momentum_mimic",),
        lambda numbers: figure_14(required(numbers.momentum_mimic)),
    ),
    FigureSpec(
        15, "How meta-training finds momentum", captions.HISTORY,
        ("meta_dynamics",),
        lambda numbers: figure_15(required(numbers.meta_dynamics)),
    ),
    FigureSpec(
        16, "Schematic of a learned optimizer",
        "From left to right, inner steps on one problem. Each gradient moves the state of the "
        "GRU, whose readout is added to the parameter. Blue parts are learned, and shared by all "
        "steps and all parameters; the meta-gradient flows back through the whole run.",
        (),
        lambda numbers: figure_16(),
    ),
    FigureSpec(
        17, "Meta-objective on test problems",
        "One violin per optimizer: distribution over test problems of the mean loss divided by "
        "the first loss, on a logarithmic axis; lower is better. Dots are means, bars one "
        "standard error on each side. Runs that diverged are counted above and left out.",
        ("evaluations",),
        lambda numbers: figure_17(numbers.evaluations),
    ),
    FigureSpec(
        18, "Tuning of the baselines on linear regression", captions.TUNED,
        ("tuning",),
        lambda numbers: figure_18(numbers.tuning["linear_regression"]),
        task="linear_regression",
    ),
    FigureSpec(
        19, "Tuning of the baselines on Rosenbrock", captions.TUNED,
        ("tuning",),
        lambda numbers: figure_19(numbers.tuning["rosenbrock"]),
        task="rosenbrock",
    ),
    FigureSpec(
        20, "Tuning of the baselines on two moons", f"{captions.TUNED} {captions.HALVED}",
        ("tuning",),
        lambda numbers: figure_20(numbers.tuning["two_moons"]),
        task="two_moons",
    ),
    FigureSpec(
        21, "Tuning of the baselines on MNIST", f"{captions.TUNED} {captions.HALVED}",
        ("tuning",),
        lambda numbers: figure_21(numbers.tuning["mnist"]),
        task="mnist",
    ),
    FigureSpec(
        "interventions", "What each mechanism is worth", captions.COSTS,
        ("interventions",),
        lambda numbers: figure_interventions(numbers.interventions),
    ),
    FigureSpec(
        "streams", "What tells layers apart", captions.GRADIENT_STREAMS,
        ("replay",),
        lambda numbers: figure_gradient_replay(numbers.replay),
    ),
)  # fmt: skip
"""Every figure, in reading order."""


def available(numbers: FigureNumbers) -> list[FigureSpec]:
    """The figures that these numbers suffice for."""
    return [spec for spec in FIGURES if spec.possible(numbers)]
