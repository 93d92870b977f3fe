"""The paper's four experiments: what suits each task (section 3.2 and D.2)."""

import dataclasses
import functools

from lrevopt.checks import finite, positive_integer, sequence
from lrevopt.meta_training.settings import PRESETS, WITH_BIAS, Preset
from lrevopt.paper.tasks import TITLES
from lrevopt.runs.experiment import TASK_DEFAULTS, Learned, TaskDefaults
from lrevopt.tuning.settings import LARGE_NETWORK_TUNING, NETWORK_TUNING, Tuning

LEARNED_BY_TASK: dict[str, Learned] = {
    # Gradients reach 4,000 at the paper's starts, where a GRU saturates.
    "rosenbrock": Learned(64, 0.1, 0.1),
    # Gradients of a parameter among thousands are small: MNIST's dense weights meet 1e-3 at first
    # and 1e-5 after 100 updates, and a GRU acts alike on large and small ones only where it
    # saturates. Those of two moons' regulariser are smaller still.
    "two_moons": Learned(32, 1000.0, 0.1),
    "mnist": Learned(16, 4000.0, 0.03),
}
"""Width and scales where the defaults do not suit (the authors tuned both scales per task)."""

NETWORK_TRAINING = dataclasses.replace(
    PRESETS["quick"],
    steps=250,
    unroll=60,
    problems=1,
    estimator="clipped",
    objective="log_mean",
    learning_rate=1e-3,
    warm_up=20,
    schedule="constant",
    clip=1.0,
    snapshot_every=25,
    early_snapshots=False,
    selection_problems=16,
    selection_unroll=200,
)
"""Settings that train networks' optimizers on two cores. At these scales the exact
meta-gradient has no use: its norm grows to 1e5 and beyond as soon as the optimizer works. (At input
scales of 100 and 300 it trains, but less far: see `results/README.md`.) Short unrolls teach most of
what 200 updates need, and the snapshot is chosen on these."""

TUNING_BY_TASK: dict[str, Tuning] = {
    "two_moons": NETWORK_TUNING,
    "mnist": LARGE_NETWORK_TUNING,
}
"""How baselines are tuned where runs are too expensive for the default, all settings in full."""


POPULATION_TRAINING = dataclasses.replace(
    PRESETS["released"],
    steps=1500,
    problems=32,
    learning_rate=3e-3,
    warm_up=50,
    rollback_ratio=2.0,
    snapshot_every=100,
    early_snapshots=False,
    selection_problems=128,
)
"""Meta-training of populations of small cells: the published configuration, shorter, at a rate that
suits a few hundred weights, and with a way back where a member falls apart."""

NETWORK_POPULATION_TRAINING = dataclasses.replace(
    NETWORK_TRAINING,
    steps=200,
    learning_rate=3e-3,
    schedule="exponential",
    decay_factor=0.555,
    decay_steps=100,
    snapshot_every=50,
    selection_problems=8,
)
"""The same on networks: their meta-training at the rate of small cells, which then falls."""

FACTORIAL_TRAINING = dataclasses.replace(
    PRESETS["released"],
    problems=16,
    selection_problems=64,
)
"""Meta-training of the cells of a factorial: the published configuration on fewer problems. Its
schedule does not depend on the number of meta-steps, so that the snapshot after 500 is what a
training of 500 gives; nothing is selected, and no run goes back."""

CLIPPING_TUNING = Tuning(
    settings=600, problems=64, fresh_problems=128, finalists=10, ranges={"threshold": (1e-3, 1e4)}
)
"""Search of clipped gradient descent, which the paper does not tune."""

NETWORK_CLIPPING_TUNING = dataclasses.replace(
    CLIPPING_TUNING, settings=300, problems=2, rungs=((20, 60), (60, 20)), finalists=8,
    fresh_problems=8,
)  # fmt: skip
"""The same on networks, where a run takes seconds."""


def suggested(task: str, preset: Preset) -> TaskDefaults:
    """Settings for one of the four tasks."""
    learned, training = LEARNED_BY_TASK.get(task, Learned(64)), PRESETS[preset]
    learned = dataclasses.replace(learned, bias=preset in WITH_BIAS)
    if preset == "quick" and task in TUNING_BY_TASK:
        training = NETWORK_TRAINING
    if preset == "released":
        learned = dataclasses.replace(learned, units=256)
    return TaskDefaults(learned, training, TUNING_BY_TASK.get(task, Tuning()))


TASK_DEFAULTS |= {task: functools.partial(suggested, task) for task in TITLES}


@dataclasses.dataclass(frozen=True)
class TransferSettings:
    """How much is run to see what optimizers do on tasks that they were not trained on.

    Raises `ValueError` for counts below 1, factors that are not positive, or none of a kind.
    """

    problems: int = 64
    """Test problems of vectors: linear regression, Rosenbrock."""
    network_problems: int = 4
    """Test problems of networks."""
    steps: int = 200
    """Updates in each run of the matrix and of the sweeps of scale and dimension."""
    scales: tuple[float, ...] = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
    """Factors on every gradient."""
    horizons: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000)
    """Updates after which a run is scored."""
    dimensions: tuple[int, ...] = (2, 5, 10, 20, 50, 100)
    """Parameters of linear regression."""
    image_scales: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Factors on MNIST, where a run takes ten seconds."""
    image_horizons: tuple[int, ...] = (50, 100, 200, 400)
    """Updates on MNIST."""
    image_problems: int = 2
    """Test problems of MNIST."""
    analysed: int = 16
    """Most problems that a scorecard is of."""
    image_analysed: int = 0
    """The same on MNIST, where one takes minutes: 0 leaves them and their distances out."""
    seed: int = 0
    """Of the problems, those of the analysis and those of the test."""

    def __post_init__(self) -> None:
        for name in ("problems", "network_problems", "steps", "image_problems", "analysed"):
            positive_integer(name, getattr(self, name))
        for name in ("horizons", "dimensions", "image_horizons"):
            for value in sequence(name, getattr(self, name), "number"):
                positive_integer(name, value)
        for name in ("scales", "image_scales"):
            for value in sequence(name, getattr(self, name), "factor"):
                finite(name, value, above=0.0)

    def problems_of(self, task: str) -> int:
        """Test problems of a task."""
        if task == "mnist":
            return self.image_problems
        return self.network_problems if task == "two_moons" else self.problems

    def analysed_of(self, task: str) -> int:
        """Problems of the scorecards on a task."""
        most = self.image_analysed if task == "mnist" else self.analysed
        return min(self.problems_of(task), most)

    def swept(self, task: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Factors on gradients, and lengths of runs, of a task."""
        if task == "mnist":
            return self.image_scales, self.image_horizons
        return self.scales, self.horizons
