"""What comes with each figure: the numbers that it draws, and how to read it.

    figure_03.npz    arrays `task/field`, fields as in the record they come from
    figure_03.txt    title, caption, and the shape of each array

Figures of one record that is not kept by task (2, 14, 15, training) have `field` alone.
Floating-point numbers are rounded to single precision, which is finer than any figure shows and
half the size. Figures are redrawn from the records of their runs, which stay whole.
"""

import dataclasses
import io
import operator
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt.checks import required
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.paper.figures.registry import FigureNumbers, FigureSpec
from lrevopt.plots.momentum import tasks_converging
from lrevopt.plots.performance import finite_mean
from lrevopt.plots.style import one_task, tasks_of
from lrevopt.storage import write_atomically

Arrays = dict[str, np.ndarray]

WIDTH = 100
"""Characters in a line of a caption."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """Fields of a record that a panel draws; of those in `plane`, the first two components.

    A field of a record within the record is written `clipping/knees`.
    """

    fields: tuple[str, ...] = ()
    plane: tuple[str, ...] = ()

    def of(self, record: Any) -> Arrays:
        """The fields of one record."""
        whole = {name: _field(record, name) for name in self.fields}
        return whole | {name: _field(record, name)[..., :2] for name in self.plane}


def _field(record: Any, name: str) -> np.ndarray:
    return np.asarray(operator.attrgetter(name.replace("/", "."))(record))


STATES = Panel(
    ("states/variance",),
    plane=(
        "states/explained_variance",
        "states/paths",
        "fixed_points/fixed_point",
        "fixed_points/slow_points",
    ),
)
OFFSETS = Panel(
    ("momentum/shifts", "momentum/gradients", "momentum/updates"),
    plane=("momentum/shifted_points",),
)
MODES = Panel(("momentum/eigenvalues", "momentum/learning_rates", "momentum/dominant_mode"))
SATURATION = Panel(("clipping/gradients", "clipping/updates"))
GRADIENTS = Panel(("clipping/edges", "clipping/density"))
PATH = Panel(("schedule/path", "schedule/slow_points", "schedule/fixed_point"))
SCHEDULE = Panel(("schedule/rates",))
S_CURVE = Panel(
    ("adaptation/gradients", "adaptation/converged", "adaptation/arm"),
    plane=("states/explained_variance", "adaptation/points"),
)
ARM = Panel(("adaptation/axis", "adaptation/arm_updates"))
RATES = Panel(("adaptation/rates",))
MODE_SHIFTS = Panel(("modes", "shifts", "gradients", "updates"))
TYPES = Panel(
    ("groups", "paths", "explained_variance", "rates", "log10_edges", "histograms", "medians")
)
LINE = Panel(
    ("rates", "positions", "chosen", "gradients", "updates"),
    plane=("explained_variance", "visited", "points", "initial"),
)
MIMIC = Panel(
    (
        "explained_variance",
        "shifts",
        "gradients",
        "shift_updates",
        "eigenvalues",
        "learning_rates",
        "dominant_mode",
        "names",
    ),
    plane=("paths", "fixed_point"),
)
COSTS = Panel(
    (
        "names",
        "mechanisms",
        "log_ratios",
        "log_ratio_lows",
        "log_ratio_highs",
        "original_diverged",
        "diverged",
    )
)
TRAINING = Panel(("objectives", "gradient_norms", "snapshot_steps", "selection_scores", "selected"))


def _flat(value: Any, prefix: str = "") -> Arrays:
    """Every array of a record, or of records by name."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("/"): np.asarray(value)}
    found: Arrays = {}
    for name, entry in value.items():
        found |= _flat(entry, f"{prefix}{name}/")
    return found


def _by_task(records: Mapping[str, Any], tasks: Iterable[str], *panels: Panel) -> Arrays:
    return {
        f"{task}/{name}": array
        for task in tasks
        for panel in panels
        for name, array in panel.of(records[task]).items()
    }


def _of_one(records: dict[str, Any], preferred: str, *panels: Panel) -> Arrays:
    """Of the task that a main figure shows."""
    return _by_task(records, [one_task(records, "records", preferred)], *panels)


def _of_all(records: dict[str, Any], *panels: Panel) -> Arrays:
    return _by_task(records, tasks_of(records, "records"), *panels)


def _of_converging(records: dict[str, Any], *panels: Panel) -> Arrays:
    return _by_task(records, tasks_converging(records), *panels)


def _with_momentum(arrays: Arrays, numbers: FigureNumbers) -> Arrays:
    """With the dashed lines: learning rates of tuned momentum on the tasks that are drawn."""
    tasks = dict.fromkeys(name.partition("/")[0] for name in arrays)
    return arrays | {
        f"{task}/momentum_rate": np.asarray(numbers.momentum_rates[task])
        for task in tasks
        if task in numbers.momentum_rates
    }


def _curves(numbers: FigureNumbers) -> Arrays:
    """Figure 1: mean and standard error over the problems where an optimizer stays finite."""
    arrays: Arrays = {}
    for task in tasks_of(numbers.evaluations, "evaluations"):
        evaluation = numbers.evaluations[task]
        mean, error = np.stack([finite_mean(losses) for losses in evaluation.losses], axis=1)
        arrays |= _names(task, evaluation) | {
            f"{task}/mean": mean,
            f"{task}/standard_error": error,
            f"{task}/diverged": evaluation.diverged(),
        }
        if task in numbers.pictures:
            picture = numbers.pictures[task].arrays
            arrays |= {f"{task}/picture/{name}": array for name, array in picture.items()}
    return arrays


def _scores(numbers: FigureNumbers) -> Arrays:
    """Figure 17: the meta-objective of each run, infinite where it diverged."""
    arrays: Arrays = {}
    for task in tasks_of(numbers.evaluations, "evaluations"):
        evaluation = numbers.evaluations[task]
        scores = evaluation.meta_objectives()
        arrays |= _names(task, evaluation) | {f"{task}/meta_objectives": scores}
    return arrays


def _names(task: str, evaluation: Evaluation) -> Arrays:
    return {f"{task}/optimizers": np.asarray(evaluation.names, dtype=np.str_)}


def _many_modes(numbers: FigureNumbers) -> Arrays:
    """Figure 9, of a task that has both of its records."""
    both = {task: r for task, r in numbers.mode_shifts.items() if task in numbers.mechanisms}
    task = one_task(both, "mode_shifts", "mnist")
    return _by_task(numbers.mechanisms, [task], MODES, STATES) | _by_task(both, [task], MODE_SHIFTS)


def _mimic(numbers: FigureNumbers) -> Arrays:
    """Figure 14: of the losses, their means over problems."""
    record = required(numbers.momentum_mimic)
    curves = np.stack([record.curve(name) for name in record.names])
    momenta = _flat({"tuned": record.tuned, "optimum": record.optimum, "together": record.together})
    return MIMIC.of(record) | {"mean_losses": curves} | momenta


def _dynamics(numbers: FigureNumbers) -> Arrays:
    """Figure 15: the record, and all modes of a snapshot together."""
    record = required(numbers.meta_dynamics)
    rates, momenta = record.together()
    return _flat(record) | {"together/learning_rate": rates, "together/momentum": momenta}


def _streams(numbers: FigureNumbers) -> Arrays:
    """The whole record of the task that the figure shows."""
    task = one_task(numbers.replay, "streams", "mnist")
    return _flat({task: numbers.replay[task]})


def _searches(task: str) -> Callable[[FigureNumbers], Arrays]:
    """Figures 18 to 21: every setting tried. `steps` is empty where all ran in full."""

    def arrays(numbers: FigureNumbers) -> Arrays:
        found: Arrays = {}
        for name, result in numbers.tuning[task].items():
            own: Arrays = {f"values/{key}": array for key, array in result.values.items()}
            own |= {f"best/{key}": np.asarray(value) for key, value in result.best.items()}
            own |= {f"ranges/{key}": pair for key, pair in result.ranges.items()}
            own |= {"scores": result.scores, "steps": result.steps}
            found |= {f"{task}/{name}/{key}": array for key, array in own.items()}
        return found

    return arrays


DRAWN: dict[int | str, Callable[[FigureNumbers], Arrays]] = {
    "training": lambda numbers: TRAINING.of(numbers.history),
    1: _curves,
    3: lambda numbers: _of_one(numbers.mechanisms, "rosenbrock", STATES, OFFSETS, MODES),
    4: lambda numbers: _of_one(numbers.mechanisms, "rosenbrock", SATURATION, GRADIENTS),
    5: lambda numbers: _with_momentum(
        _of_one(numbers.mechanisms, "linear_regression", PATH, SCHEDULE), numbers
    ),
    6: lambda numbers: _with_momentum(
        _of_one(numbers.mechanisms, "rosenbrock", S_CURVE, ARM, RATES), numbers
    ),
    7: lambda numbers: _of_one(numbers.parameter_types, "mnist", TYPES),
    8: lambda numbers: _of_converging(numbers.mechanisms, STATES, OFFSETS, MODES),
    9: _many_modes,
    10: lambda numbers: _of_all(numbers.mechanisms, SATURATION, GRADIENTS),
    11: lambda numbers: _with_momentum(_of_all(numbers.mechanisms, PATH, SCHEDULE), numbers),
    12: lambda numbers: _with_momentum(
        _of_converging(numbers.mechanisms, S_CURVE, ARM, RATES), numbers
    ),
    13: lambda numbers: _of_one(numbers.manifolds, "mnist", LINE),
    14: _mimic,
    15: _dynamics,
    17: _scores,
    18: _searches("linear_regression"),
    19: _searches("rosenbrock"),
    20: _searches("two_moons"),
    21: _searches("mnist"),
    "interventions": lambda numbers: _of_all(numbers.interventions, COSTS),
    "streams": _streams,
}
"""What a figure draws of the records that it needs; figures not named here draw all of them."""


def drawn_numbers(spec: FigureSpec, numbers: FigureNumbers) -> Arrays:
    """The numbers that a figure draws, by `task/field`; none for a schematic.

    Floating-point arrays are in single precision, where numbers beyond 3.4e38 are infinite.
    """
    if spec.number in DRAWN:
        arrays = DRAWN[spec.number](numbers)
    else:
        arrays = {}
        for need in spec.needs:
            records = getattr(numbers, need)
            arrays |= _flat(records if spec.task is None else {spec.task: records[spec.task]})
    return {name: _single(array) for name, array in arrays.items()}


def _single(array: np.ndarray) -> np.ndarray:
    kinds = {"f": np.float32, "c": np.complex64}
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(kinds.get(array.dtype.kind, array.dtype))


def caption_text(spec: FigureSpec, arrays: Arrays) -> str:
    """Title, caption, and which numbers come with the figure, in lines of 100 characters."""
    paragraphs = [f"{spec.label}: {spec.title}", textwrap.fill(spec.caption, WIDTH)]
    if arrays:
        said = (
            f"Numbers drawn, in {spec.name}.npz (read them with numpy.load), in single precision:"
        )
        widest = max(map(len, arrays))
        rows = [f"    {name:{widest}}  {_shape(array)}" for name, array in arrays.items()]
        paragraphs.append("\n".join([said, "", *rows]))
    else:
        paragraphs.append("It draws no numbers.")
    return "\n\n".join(paragraphs) + "\n"


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "one number"


def save_sidecars(spec: FigureSpec, numbers: FigureNumbers, directory: Path | str) -> list[Path]:
    """Write `figure_NN.txt` and, unless it is a schematic, `figure_NN.npz`; their paths.

    The same numbers give the same bytes. Raises `ValueError` for a folder that cannot be written.
    """
    arrays = drawn_numbers(spec, numbers)
    stem = Path(directory) / spec.name
    caption = stem.with_suffix(".txt")
    write_atomically(caption, caption_text(spec, arrays))
    if not arrays:
        return [caption]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # names are strings
    write_atomically(stem.with_suffix(".npz"), buffer.getvalue())
    return [caption, stem.with_suffix(".npz")]
