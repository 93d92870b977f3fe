"""Well-known optimizers under the microscope: what each one does in runs of a task.

A learned optimizer is read by its update functions and by its modes (paper, sections 4 and 5).
Here optimizers whose workings are known are read in the same way, to see what momentum,
adaptation and clipping look like in these pictures, and what is left out.

All are treated alike, by one convention. Their learning rates are tuned on some problems, and
they run on others. Of the parameters of these runs, one is *typical*: before the last update,
the magnitudes of its state's coordinates and of its gradient have the ranks nearest to the middle
of all parameters. This parameter is followed from the start:

    u_k(g) = w . F_k(h_k, g)        J = dF_K / dh (h_K, g_K)        B = dF_K / dg (h_K, g_K)

F_k is the transition with step counters standing at k (`from_optax(..., at_step=k)`), h_k the
state that the parameter had before update k, g_k the gradient that it met there, and K the last
update. J and B are taken there and not at rest without gradient, where Adam's slope is 1/epsilon
and a second moment, to first order, does not answer a gradient at all. Updates that jump with a
gradient's sign have the slope 0 on both sides of it, and so modes without a learning rate.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, Key

from lrevopt.analysis.linearization import Linearization, eigenmodes, linearize, timescale
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import gradient_axis, update_table
from lrevopt.checks import one_of, positive_integer
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.inner_loop.sampled_states import SampledStates, sample_states
from lrevopt.optimizers import from_optax
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import csv_text, number, signed_complex
from lrevopt.tuning.well_known import WELL_KNOWN, tune_rate

SHOWN = 5
"""Inner steps at which update functions are shown."""

POOL = 200
"""Paths, at most, whose update functions are measured at each of these steps."""

SHIFTS, TILTS, SATURATES = 0.05, 1.05, 0.05
"""Shift, tilt and loss above which an update function is said to do so: far above round-off."""


CAPTION = (
    "{task}: learning rates tuned on {problems} problems and scored on as many others, {steps} "
    "updates each. Update functions and eigenvalues are those of one typical parameter of the test "
    "runs: the magnitudes of its state and gradient before the last update have the ranks nearest "
    "to the middle of all parameters. Eigenvalues, and the learning rates of their modes, belong "
    "to the transition of the last update (step counters stand there), linearized at the state and "
    "the gradient that this parameter had then. Shift, tilt and loss are measured on up to {pool} "
    "parameters before each of the updates that the figure shows but the first: update without "
    "gradient over half the range of updates on the gradient axis, 90 % over 10 % quantile of the "
    "slope across the axis, share of the steepest slope that is missing from it."
)
"""What the numbers are, below a table or a figure."""


class GalleryEntry(eqx.Module):
    """One optimizer of a `Gallery`, whose fields say what these are."""

    learning_rate: float
    on_edge: bool
    score: float
    median_score: float
    diverged: int
    gradients: Float[np.ndarray, " grid"]
    updates: Float[np.ndarray, "shown grid"]
    state: Float[np.ndarray, " state"]
    gradient: float
    eigenvalues: Complex[np.ndarray, " mode"]
    mode_rates: Complex[np.ndarray, " mode"]
    inseparable: str
    shift: float
    tilt: float
    loss: float


class Gallery(eqx.Module):
    """Optimizers on one task, by the convention above. Host arrays in float64.

    - `learning_rates`: the best of those tried; `on_edge`: whether that is the least or the
      largest of them. `scores`: mean meta-objective on fresh problems, infinite where a run
      diverged, which `diverged` counts; `median_scores`: the median, finite if less than half did.
    - `gradients`: a symmetric axis over the central 98 % of the gradients that each met;
      `updates`: u_k of the typical parameter on it, before the updates `shown`, the first of
      which meets the initial state.
    - `states`, `last_gradients`: h_K without step counters, and g_K. `eigenvalues` of J there,
      slowest       first,
      and `mode_rates`: the modes' learning rates. Where J is near-defective, so that modes have
      none of their own, these are NaN, and `inseparable` says why; otherwise it is empty.

    Of up to 200 parameters before each of the updates `shown` but the first, with r the end of
    the gradient axis:

    - `shifts`: `u(0)` over half the range `(u(-r) - u(r)) / 2`, root mean squares: momentum;
    - `tilts`: 90 % over 10 % quantile of the mean slope `(u(-r) - u(r)) / 2r`: adaptation,
      infinite where a tenth of the states do not answer within the axis;
    - `losses`: share of the range that is lost to saturation, `1 - mean slope / steepest slope`,
      median; states without any slope are left out, and if all are, it is NaN.
    """

    task: str
    names: tuple[str, ...]
    problems: int
    steps: int
    learning_rates: Float[np.ndarray, " optimizer"]
    on_edge: Bool[np.ndarray, " optimizer"]
    scores: Float[np.ndarray, " optimizer"]
    median_scores: Float[np.ndarray, " optimizer"]
    diverged: Int[np.ndarray, " optimizer"]
    shown: Int[np.ndarray, " shown"]
    gradients: Float[np.ndarray, "optimizer grid"]
    updates: Float[np.ndarray, "optimizer shown grid"]
    states: dict[str, Float[np.ndarray, " _"]]
    last_gradients: Float[np.ndarray, " optimizer"]
    eigenvalues: dict[str, Complex[np.ndarray, " _"]]
    mode_rates: dict[str, Complex[np.ndarray, " _"]]
    inseparable: tuple[str, ...]
    shifts: Float[np.ndarray, " optimizer"]
    tilts: Float[np.ndarray, " optimizer"]
    losses: Float[np.ndarray, " optimizer"]

    def timescale(self, name: str) -> float:
        """Updates in which the slowest mode falls to 1/e; infinite where it does not fall."""
        return timescale(self.eigenvalues[name][0])

    def does(self, name: str) -> str:
        """What its update function does, by the numbers above."""
        place = self.names.index(name)
        verbs = {
            "shifts": self.shifts[place] > SHIFTS,
            "tilts": self.tilts[place] > TILTS,
            "saturates": self.losses[place] > SATURATES,
        }
        return ", ".join(verb for verb, holds in verbs.items() if holds) or "one straight line"


def measure_gallery(
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    tuning_key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    names: Sequence[str] = tuple(WELL_KNOWN),
    report: Callable[[str], None] = lambda line: None,
) -> Gallery:
    """Tune optimizers on `tuning_key`'s problems, and look at how they run on as many of `key`'s.

    `report` gets a line for each. Raises `ValueError` for counts below 1, a name that is not in
    `WELL_KNOWN`, the same name twice, no names, or an optimizer that diverges on every problem.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    names = tuple(one_of("names", name, tuple(WELL_KNOWN)) for name in names)
    if len(set(names)) < max(1, len(names)):
        raise ValueError(f"`names` must be different optimizers, at least one, got {names}.")
    found: dict[str, GalleryEntry] = {}
    for name in names:
        found[name] = measure_specimen(
            name, task, key=key, tuning_key=tuning_key, problems=problems, steps=steps
        )
        report(_line(name, found[name], problems))
    each = found.values()
    return Gallery(
        task=type(task).__name__,
        names=names,
        problems=problems,
        steps=steps,
        learning_rates=np.array([one.learning_rate for one in each]),
        on_edge=np.array([one.on_edge for one in each]),
        scores=np.array([one.score for one in each]),
        median_scores=np.array([one.median_score for one in each]),
        diverged=np.array([one.diverged for one in each]),
        shown=shown_steps(steps),
        gradients=np.stack([one.gradients for one in each]),
        updates=np.stack([one.updates for one in each]),
        states={name: one.state for name, one in found.items()},
        last_gradients=np.array([one.gradient for one in each]),
        eigenvalues={name: one.eigenvalues for name, one in found.items()},
        mode_rates={name: one.mode_rates for name, one in found.items()},
        inseparable=tuple(one.inseparable for one in each),
        shifts=np.array([one.shift for one in each]),
        tilts=np.array([one.tilt for one in each]),
        losses=np.array([one.loss for one in each]),
    )


def measure_specimen(
    name: str,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    tuning_key: Key[Array, ""],
    problems: int,
    steps: int,
) -> GalleryEntry:
    """One optimizer of `WELL_KNOWN`, tuned, run and looked at."""
    make = WELL_KNOWN[name]
    tuned = tune_rate(make, task, key=tuning_key, problems=problems, steps=steps)
    transformation = make(tuned.best)
    runs = from_optax(transformation)
    tested = evaluate({name: runs}, task, key=key, problems=problems, steps=steps)
    objectives = tested.meta_objectives()[0]
    sampled = sample_states(runs, task, key=key, problems=problems, steps=steps)

    shown = shown_steps(steps)
    stopped = [from_optax(transformation, at_step=step) for step in shown.tolist()]
    # Without the step counters, which are no part of these optimizers' states.
    kept = [runs.coordinates.index(coordinate) for coordinate in stopped[-1].coordinates]
    states = sampled.states[..., kept]
    axis, path = gradient_axis(sampled.pooled_gradients), typical_path(states, sampled)
    updates = [
        update_table(opt, states[path, step][None], axis)[0]
        for opt, step in zip(stopped, shown, strict=True)
    ]
    pool = evenly_spaced(states, POOL)
    # The initial state is the same everywhere, and says nothing unless there is no other.
    several = [
        update_table(opt, pool[:, step], axis)
        for opt, step in zip(stopped, shown, strict=True)
        if step or steps == 1
    ]
    shift, tilt, loss = measure_shapes(axis, np.concatenate(several))

    last = steps - 1
    state, gradient = states[path, last], float(sampled.gradients[path, last])
    eigenvalues, rates, inseparable = _modes(linearize(stopped[-1], state, gradient))
    return GalleryEntry(
        learning_rate=tuned.best,
        on_edge=tuned.on_edge,
        score=float(objectives.mean()),
        median_score=float(np.median(objectives)),
        diverged=int(tested.diverged()[0]),
        gradients=axis,
        updates=np.stack(updates),
        state=state,
        gradient=gradient,
        eigenvalues=eigenvalues,
        mode_rates=rates,
        inseparable=inseparable,
        shift=shift,
        tilt=tilt,
        loss=loss,
    )


def shown_steps(steps: int) -> Int[np.ndarray, " shown"]:
    """The first update, the last, and some between, ever further apart; fewer in short runs."""
    last = steps - 1
    later = np.geomspace(max(1, last / 40), max(1, last), SHOWN - 1).round().astype(int)
    return np.unique(np.append(0, np.minimum(later, last)))


def typical_path(states: Float[np.ndarray, "path visited state"], sampled: SampledStates) -> int:
    """The path whose magnitudes before the last update have the ranks nearest to the middle."""
    from scipy.stats import rankdata  # most of a second and 60 MB, only here

    last = sampled.gradients.shape[1] - 1
    ranks = rankdata(np.abs(np.c_[states[:, last], sampled.gradients[:, last]]), axis=0)
    return int(np.argmin(np.sum((ranks - (len(states) + 1) / 2) ** 2, axis=1)))


def measure_shapes(
    gradients: Float[np.ndarray, " grid"], updates: Float[np.ndarray, "point grid"]
) -> tuple[float, float, float]:
    """Shift, tilt and loss of many update functions, as `Gallery` defines them."""
    middle, reach = len(gradients) // 2, gradients[-1]
    half_ranges = (updates[:, 0] - updates[:, -1]) / 2
    slopes = half_ranges / reach
    steepest = np.abs(np.diff(updates, axis=1) / np.diff(gradients)).max(axis=1)
    low, high = np.quantile(slopes, [0.1, 0.9])
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.sqrt(np.mean(updates[:, middle] ** 2) / np.mean(half_ranges**2))
        tilt = high / low if low > 0 else np.inf
    answering = steepest > 0
    lost = 1 - slopes[answering] / steepest[answering]
    return float(shift), float(tilt), float(np.median(lost)) if lost.size else np.nan


def _modes(model: Linearization) -> tuple[np.ndarray, np.ndarray, str]:
    """Eigenvalues, slowest first, their learning rates, and why there are none, if so.

    Rates within round-off of 0, beside the largest, are 0.
    """
    try:
        modes = eigenmodes(model)
    except ValueError as error:
        eigenvalues = np.linalg.eigvals(model.recurrent).astype(complex)
        eigenvalues = eigenvalues[np.argsort(-np.abs(eigenvalues), kind="stable")]
        return eigenvalues, np.full_like(eigenvalues, np.nan), str(error)
    rates, sizes = modes.learning_rates, np.abs(modes.learning_rates)
    return modes.eigenvalues, np.where(sizes > 1e-14 * sizes.max(), rates, 0.0), ""


def _line(name: str, one: GalleryEntry, problems: int) -> str:
    edge = " (on the edge)" if one.on_edge else ""
    return (
        f"{name}: learning rate {one.learning_rate:.3g}{edge}, score {one.score:.4g}, "
        f"{one.diverged} of {problems} diverged"
    )


def gallery_table(gallery: Gallery) -> str:
    """The record as CSV: one row per optimizer, eigenvalues and their rates by falling size."""
    heads = [
        "name", "learning_rate", "on_edge", "score", "median_score", "diverged", "problems",
        "eigenvalues", "mode_learning_rates", "timescale", "shift", "tilt", "loss", "does",
        "inseparable",
    ]  # fmt: skip
    rows = [
        [
            name, f"{gallery.learning_rates[place]:.6g}", gallery.on_edge[place],
            f"{gallery.scores[place]:.6g}", f"{gallery.median_scores[place]:.6g}",
            gallery.diverged[place], gallery.problems,
            *(" ".join(f"{_plain(value):.6g}" for value in values[name])
              for values in (gallery.eigenvalues, gallery.mode_rates)),
            f"{gallery.timescale(name):.6g}", f"{gallery.shifts[place]:.6g}",
            f"{gallery.tilts[place]:.6g}", f"{gallery.losses[place]:.6g}",
            gallery.does(name), gallery.inseparable[place],
        ]
        for place, name in enumerate(gallery.names)
    ]  # fmt: skip
    return csv_text(heads, rows)


def gallery_rows(gallery: Gallery) -> tuple[list[str], list[list[str]]]:
    """The record in three digits and two: heads of the columns, and a row for each optimizer.

    Modes at 0 without a learning rate, mostly the update itself, are left out.
    """
    heads = ["optimizer", "learning rate", "on edge", "score", "median", "diverged",
             "eigenvalues (their learning rates)", "slowest, in updates", "shift", "tilt", "lost",
             "its update function"]  # fmt: skip
    rows = []
    for place, name in enumerate(gallery.names):
        pairs = zip(gallery.eigenvalues[name], gallery.mode_rates[name], strict=True)
        rows.append(
            [
                name,
                number(gallery.learning_rates[place]),
                "yes" if gallery.on_edge[place] else "no",
                number(gallery.scores[place]),
                number(gallery.median_scores[place]),
                f"{gallery.diverged[place]} of {gallery.problems}",
                ", ".join(
                    f"{signed_complex(one)} ({signed_complex(rate, 2)})"
                    for one, rate in pairs
                    if one or rate
                ),
                number(gallery.timescale(name)),
                *(number(values[place], 2) for values in (gallery.shifts, gallery.tilts)),
                _percent(gallery.losses[place]),
                gallery.does(name),
            ]
        )
    return heads, rows


def gallery_markdown(gallery: Gallery) -> str:
    """The record as a table in Markdown, and what the numbers are."""
    heads, rows = gallery_rows(gallery)
    lines = [heads, ["---", *["---:"] * 5, "---", *["---:"] * 4, "---"], *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{gallery_caption(gallery)}\n"


def gallery_caption(gallery: Gallery) -> str:
    """One paragraph below the figure or the table."""
    counts = {"problems": gallery.problems, "steps": gallery.steps, "pool": POOL}
    return CAPTION.format(task=gallery.task, **counts)


def _plain(value: complex) -> complex | float:
    """A complex number, or its real part where it has no other."""
    return value if value.imag else value.real


def _percent(share: float) -> str:
    return number(share) if np.isnan(share) else f"{100 * abs(share):.0f} %"
