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
from lrevopt.analysis.meta_dynamics import MetaDynamics
from lrevopt.analysis.mode_shifts import ModeShifts
from lrevopt.analysis.momentum_mimic import MomentumMimic
from lrevopt.analysis.parameter_types import ParameterTypes
from lrevopt.analysis.update_functions import Textbook
from lrevopt.checks import given
from lrevopt.evaluation import Evaluation
from lrevopt.figures.adaptation import figure_06, figure_12
from lrevopt.figures.clipping import figure_04, figure_10
from lrevopt.figures.manifolds import figure_13
from lrevopt.figures.meta_dynamics import figure_14, figure_15
from lrevopt.figures.momentum import figure_03, figure_08, figure_09
from lrevopt.figures.parameter_types import figure_07
from lrevopt.figures.performance import figure_01, figure_17
from lrevopt.figures.schedules import figure_05, figure_11
from lrevopt.figures.schematic import figure_16
from lrevopt.figures.style import figure_name
from lrevopt.figures.textbook import figure_02
from lrevopt.figures.training import figure_training
from lrevopt.figures.tuning import figure_18, figure_19, figure_20, figure_21
from lrevopt.meta_training import History
from lrevopt.task_pictures import TaskPicture
from lrevopt.tuning import TuningResult


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


@dataclasses.dataclass(frozen=True)
class FigureSpec:
    """A figure of the paper, or an unnumbered one of our own, which has a name for a number.

    `caption` says how to read it. `needs` names the fields of `FigureNumbers` it cannot do
    without, and `task` the task that they must cover, for a figure of one task.
    """

    number: int | str
    title: str
    caption: str
    needs: tuple[str, ...]
    draw: Callable[[FigureNumbers], Figure]
    task: str | None = None

    def possible(self, numbers: FigureNumbers) -> bool:
        """Whether there are numbers for it."""
        fields = [getattr(numbers, need) for need in self.needs]
        return all(field and (self.task is None or self.task in field) for field in fields)

    @property
    def label(self) -> str:
        """Heading: "Figure 3", or "Figure" for an unnumbered one."""
        return f"Figure {self.number}" if isinstance(self.number, int) else "Figure"

    @property
    def name(self) -> str:
        """Name of its files without suffix."""
        return figure_name(self.number)


STATES = (
    "Thin lines are the states of single parameters during test runs, projected on the first two "
    "principal components of all visited states; the black square is the point they converge to "
    "without gradient, grey dots are slow points nearby. The inset shows the total variance of "
    "the states over the inner steps: it goes to 0 when all runs end in the same point."
)
OFFSETS = (
    "Update functions of states displaced from the convergence point along the slow mode; "
    "triangles in the same colours mark these states in the projection. Curves that are shifted "
    "up and down mean momentum, as in Figure 2c."
)
MODES = (
    "Eigenvalues of the Jacobian at the convergence point; the dashed line is the unit circle. "
    "An eigenvalue near 1 is a long memory, like the coefficient of momentum; the colour is the "
    "size of the learning rate with which that mode moves the parameter. The ring marks the slow "
    "mode."
)
SATURATION = (
    "Update function of the initial state out to the largest gradient met (thick), what it would "
    "be if it were linear (dotted), and the update functions of states visited later (grey). "
    "Where the thick curve leaves the dotted line, gradients are clipped, as in Figure 2b."
)
GRADIENTS = (
    "Density of the gradients met on test problems, on a logarithmic axis: how much of it lies "
    "beyond the straight part of the update function says how much clipping is used."
)
PATH = (
    "Path of the state when every gradient is 0, from the initial state (triangle) to the "
    "convergence point (square), on its own principal components, among slow points (grey)."
)
SCHEDULE = (
    "Effective learning rate, minus the slope of the update function at zero gradient, along "
    "that path: a learning-rate schedule that runs without input. Dashed: the learning rate of "
    "tuned momentum."
)
S_CURVE = (
    "Fixed points of the state when one gradient is held for ever, one point per gradient, in "
    "the projection of Figure 3; green for positive, pink for negative gradients, hollow where "
    "the search did not converge. The square is the convergence point without gradient."
)
ARM = (
    "Update functions at the points marked by diamonds of the same colours. A flatter curve is a "
    "smaller learning rate, as in Figure 2d."
)
RATES = (
    "Effective learning rate at each fixed point against the size of its gradient. Where it "
    "falls, large gradients make the optimizer cautious. Dashed: tuned momentum."
)
TUNED = (
    "Each point is one random setting of a baseline, in the plane of two of its "
    "hyperparameters; its colour is the meta-objective on the tuning problems, on one scale for "
    "all panels: purple is best, yellow is no better than not moving. Grey crosses diverged on "
    "some problem. The star is the best setting, which is the baseline everywhere else."
)

TYPES = (
    "(a) States averaged over the parameters of one layer and type and over test problems, from "
    "the initial state (triangle) to the end of the run (dots), on three principal components of "
    "single parameters' states. Blue solid lines are weights, orange dashed ones biases, darker "
    "in later layers: lines that part mean that the optimizer tells these parameters apart. (b) "
    "Effective learning rate at each of these mean states. (c) How large the first gradients of "
    "each layer are, with their medians: what the optimizer may tell parameters apart by. This is "
    "a correlation, not yet a cause."
)
MANY_MODES = (
    "Eigenvalues of the Jacobian at a convergence point, as in Figure 8, with the slowest modes "
    "numbered. (b) to (e) Update functions of the state when it is moved along each of these "
    "modes, as far as test runs go to both sides. Curves that are shifted up and down mean "
    "momentum; curves that tilt mean that moving along the mode changes the learning rate. Last: "
    "states of test runs, as in Figure 3, with their variance over the inner steps: where it "
    "stays up, runs of different parameters end in different states."
)
LINE = (
    "(a) Approximate fixed points without gradient, found from visited states (pale), on the "
    "principal components of these; the colour is the effective learning rate at each. One place "
    "means that the optimizer always comes to rest in the same state, a line that it may rest "
    "anywhere along it. (b) Update functions at the points marked by diamonds of the same colours. "
    "(c) Effective learning rate along the points' own first principal component, in units of the "
    "spread of visited states: where it changes, the place on the line sets the learning rate."
)

MIMIC = (
    "The snapshot of one run on linear regression whose loss curve is nearest to tuned momentum's. "
    "(a) States of the five parameters of one problem, from the initial state (triangle) to the "
    "fixed point, on the principal components of visited states; the inset shows how much of "
    "their variance each component explains. (b) Update functions of the fixed point moved along "
    "the first component: curves that are shifted and not bent are momentum's, as in Figure 2c. "
    "(c) Eigenvalues at the fixed point, as in Figure 8; the ring marks the top mode, which gives "
    "most of the steady response. (d) The same modes as settings of momentum, beside tuned "
    "momentum (star) and the optimum from theory (cross); the diamond is the momentum that all "
    "modes are together, with their immediate and their total response. (e) Mean loss on test "
    "problems of the whole optimizer, of the ringed mode run alone, and of momentum. If one mode "
    "is all there is, its curve lies on the whole's; modes of opposite signs need each other."
)
HISTORY = (
    "Snapshots of the run of Figure 14, linearised at the point where each comes to rest. (a) "
    "Learning rate and timescale of every mode, the later in meta-training the darker, and the "
    "optimum from theory (star). (b) and (c) The same for the top mode, the one that gives most of "
    "the steady response, with the optimum as a line; complex values are shown by their size. "
    "Dashed: the momentum that all modes are together. Hollow points are snapshots where no fixed "
    "point was found."
)

HALVED = (
    "Grey dots are settings that successive halving stopped, the darker the later; only those "
    "that ran in full have a colour, because scores of unequal length cannot be compared."
)

FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        "training", "Meta-training",
        "(a) Meta-objective of each batch of training problems and its running median. (b) Mean "
        "loss over first loss on selection problems, which no meta-gradient sees, for each "
        "snapshot; the star is the snapshot that was kept. (c) Norm of the meta-gradient before "
        "clipping. Gaps are skipped meta-steps.",
        ("history",),
        lambda numbers: figure_training(given(numbers.history)),
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
        lambda numbers: figure_02(given(numbers.textbook)),
    ),
    FigureSpec(
        3, "Momentum in a learned optimizer", f"(a) {STATES} (b) {OFFSETS} (c) {MODES}",
        ("mechanisms",),
        lambda numbers: figure_03(numbers.mechanisms),
    ),
    FigureSpec(
        4, "Gradient clipping in a learned optimizer", f"(a) {SATURATION} (b) {GRADIENTS}",
        ("mechanisms",),
        lambda numbers: figure_04(numbers.mechanisms),
    ),
    FigureSpec(
        5, "A learning-rate schedule in a learned optimizer", f"(a) {PATH} (b) {SCHEDULE}",
        ("mechanisms",),
        lambda numbers: figure_05(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        6, "Learning-rate adaptation in a learned optimizer",
        f"(a) {S_CURVE} (b) {ARM} (c) {RATES}",
        ("mechanisms",),
        lambda numbers: figure_06(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        7, "Tuning per layer and parameter type", TYPES,
        ("parameter_types",),
        lambda numbers: figure_07(numbers.parameter_types),
    ),
    FigureSpec(
        8, "Momentum, by task",
        f"One column per task. Top: {STATES} Middle: {OFFSETS} Bottom: {MODES}",
        ("mechanisms",),
        lambda numbers: figure_08(numbers.mechanisms),
    ),
    FigureSpec(
        9, "Momentum of many modes", f"(a) {MANY_MODES}",
        ("mechanisms", "mode_shifts"),
        lambda numbers: figure_09(numbers.mechanisms, numbers.mode_shifts),
    ),
    FigureSpec(
        10, "Gradient clipping, by task",
        f"One column per task, each with its own range of gradients. Top: {SATURATION} Bottom: "
        f"{GRADIENTS}",
        ("mechanisms",),
        lambda numbers: figure_10(numbers.mechanisms),
    ),
    FigureSpec(
        11, "Learning-rate schedules, by task",
        f"One column per task. Top: {PATH} Bottom: {SCHEDULE}",
        ("mechanisms",),
        lambda numbers: figure_11(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        12, "Learning-rate adaptation, by task",
        f"One column per task. Top: {S_CURVE} Middle: {ARM} Bottom: {RATES}",
        ("mechanisms",),
        lambda numbers: figure_12(numbers.mechanisms, numbers.momentum_rates),
    ),
    FigureSpec(
        13, "A line of fixed points", LINE,
        ("manifolds",),
        lambda numbers: figure_13(numbers.manifolds),
    ),
    FigureSpec(
        14, "A learned optimizer that is momentum", MIMIC,
        ("momentum_mimic",),
        lambda numbers: figure_14(given(numbers.momentum_mimic)),
    ),
    FigureSpec(
        15, "How meta-training finds momentum", HISTORY,
        ("meta_dynamics",),
        lambda numbers: figure_15(given(numbers.meta_dynamics)),
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
        18, "Tuning of the baselines on linear regression", TUNED,
        ("tuning",),
        lambda numbers: figure_18(numbers.tuning["linear_regression"]),
        task="linear_regression",
    ),
    FigureSpec(
        19, "Tuning of the baselines on Rosenbrock", TUNED,
        ("tuning",),
        lambda numbers: figure_19(numbers.tuning["rosenbrock"]),
        task="rosenbrock",
    ),
    FigureSpec(
        20, "Tuning of the baselines on two moons", f"{TUNED} {HALVED}",
        ("tuning",),
        lambda numbers: figure_20(numbers.tuning["two_moons"]),
        task="two_moons",
    ),
    FigureSpec(
        21, "Tuning of the baselines on MNIST", f"{TUNED} {HALVED}",
        ("tuning",),
        lambda numbers: figure_21(numbers.tuning["mnist"]),
        task="mnist",
    ),
)  # fmt: skip
"""Every figure, in reading order."""


def available(numbers: FigureNumbers) -> list[FigureSpec]:
    """The figures that these numbers suffice for."""
    return [spec for spec in FIGURES if spec.possible(numbers)]
