"""A gallery of well-known optimizers: the update functions and modes of each on one task.

The paper analyses learned optimizers by their update functions and modes (sections 4 and 5). Here
optimizers whose rules are known are analysed in the same way, to show how momentum, adaptation and
clipping appear, and what does not.

All are treated alike. Learning rates are tuned on some problems, and the optimizers run on others.
Of the parameters of these runs, one is *typical*: before the last update, the magnitudes of its
state coordinates and of its gradient have the ranks nearest to the middle of all parameters. For
this parameter, along the run,

    u_k(g) = w . F_k(h_k, g)        J = dF_K / dh (h_K, g_K)        B = dF_K / dg (h_K, g_K)

F_k is the transition with step counters held at k (`from_optax(..., at_step=k)`), h_k the state
before update k, g_k its gradient, and K the last update. J and B are taken at (h_K, g_K) and not at
the fixed point without gradient, where Adam's slope is 1/epsilon and a second moment does not
respond to a gradient to first order. Updates that depend on a gradient's sign only have the slope 0
on either side of it, and so modes without a learning rate.
"""

import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, Key

from lrevopt import storage
from lrevopt.analysis.linearization import Linearization, eigenmodes, local_model, timescale
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
"""Most paths whose update functions are measured at each of these steps."""

SHIFTS, TILTS, SATURATES = 0.05, 1.05, 0.05
"""Shift, tilt and loss above which they are reported in words: far above round-off."""


CAPTION = (
    "{task}: learning rates tuned on {problems} problems and scored on as many others, {steps} "
    "updates each. Update functions and eigenvalues are those of one typical parameter of the test "
    "runs, whose magnitudes of state and gradient before the last update have the ranks nearest to "
    "the middle of all parameters. Eigenvalues, and the learning rates of their modes, are those "
    "of the transition of the last update, with step counters held there, linearized at the state "
    "and gradient of this parameter. Shift, tilt and loss are measured on up to {pool} parameters "
    "before each shown update except the first. Shift is the update without gradient over half the "
    "range of updates on the gradient axis, tilt the 90 % over the 10 % quantile of the mean slope "
    "across the axis, loss the share by which the mean slope is below the steepest."
)
"""Caption of the table and of the figure."""


class GalleryEntry(eqx.Module):
    """One optimizer of a `Gallery`. Fields are described there."""

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
    """Optimizers on one task, as described above. Host arrays in float64.

    - `learning_rates`: the best of those tried; `on_edge`: whether that is the least or the
      largest of them. `scores`: mean meta-objective on fresh problems, infinite where a run
      diverged; `diverged` counts these runs. `median_scores`: the median, finite if less than half
      diverged.
    - `gradients`: a symmetric axis over the central 98 % of the gradients of each optimizer;
      `updates`: u_k of the typical parameter on it, before the updates `shown`, the first of
      which is at the initial state.
    - `states`, `last_gradients`: h_K without step counters, and g_K. `eigenvalues`: of J there,
      slowest first; `mode_rates`: the modes' learning rates. Where J is near-defective, modes have
      no rates of their own: these are NaN, and `inseparable` says why. Otherwise it is empty.

    For up to 200 parameters before each of the updates `shown` except the first, with r the end of
    the gradient axis:

    - `shifts`: `u(0)` over half the range `(u(-r) - u(r)) / 2`, root mean squares: momentum;
    - `tilts`: 90 % over 10 % quantile of the mean slope `(u(-r) - u(r)) / 2r`: adaptation.
      Infinite where a tenth of the states have no slope across the axis;
    - `losses`: median of `1 - mean slope / steepest slope`: saturation. States without any slope
      are left out; NaN if all are.
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
        """Updates in which the slowest mode decays to 1/e; infinite if it does not decay."""
        return timescale(self.eigenvalues[name][0])

    def does(self, name: str) -> str:
        """In words, which of shift, tilt and saturation its update function has."""
        place = self.names.index(name)
        verbs = {
            "shifts": self.shifts[place] > SHIFTS,
            "tilts": self.tilts[place] > TILTS,
            "saturates": self.losses[place] > SATURATES,
        }
        return ", ".join(verb for verb, holds in verbs.items() if holds) or "one straight line"


def well_known_names(names: Sequence[str]) -> tuple[str, ...]:
    """`names`, if each is one of `WELL_KNOWN`, all differ, and there is at least one."""
    names = tuple(one_of("names", name, tuple(WELL_KNOWN)) for name in names)
    if len(set(names)) < max(1, len(names)):
        raise ValueError(f"`names` must be different optimizers, at least one, got {names}.")
    return names


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
    """Tune optimizers on problems of `tuning_key`, and analyse runs on as many problems of `key`.

    `report` is called with a line for each. Raises `ValueError` for counts below 1, a name that is
    not in `WELL_KNOWN`, the same name twice, no names, or an optimizer that diverges on every
    problem.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    names = well_known_names(names)
    found: dict[str, GalleryEntry] = {}
    for name in names:
        measure = functools.partial(
            measure_entry,
            name, task, key=key, tuning_key=tuning_key, problems=problems, steps=steps,
        )  # fmt: skip
        found[name] = storage.part(name, GalleryEntry, measure)
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


def measure_entry(
    name: str,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    tuning_key: Key[Array, ""],
    problems: int,
    steps: int,
) -> GalleryEntry:
    """Tune, run and analyse one optimizer of `WELL_KNOWN`."""
    make = WELL_KNOWN[name]
    tuned = tune_rate(make, task, key=tuning_key, problems=problems, steps=steps)
    transformation = make(tuned.best)
    runs = from_optax(transformation)
    tested = evaluate({name: runs}, task, key=key, problems=problems, steps=steps)
    objectives = tested.meta_objectives()[0]
    sampled = sample_states(runs, task, key=key, problems=problems, steps=steps)

    shown = shown_steps(steps)
    stopped = [from_optax(transformation, at_step=step) for step in shown.tolist()]
    # Step counters are not part of the states of these optimizers.
    kept = [runs.coordinates.index(coordinate) for coordinate in stopped[-1].coordinates]
    states = sampled.states[..., kept]
    axis, path = gradient_axis(sampled.pooled_gradients), typical_path(states, sampled)
    updates = [
        update_table(opt, states[path, step][None], axis)[0]
        for opt, step in zip(stopped, shown, strict=True)
    ]
    pool = evenly_spaced(states, POOL)
    # The initial state is the same for all and is left out, unless there is no other.
    several = [
        update_table(opt, pool[:, step], axis)
        for opt, step in zip(stopped, shown, strict=True)
        if step or steps == 1
    ]
    shift, tilt, loss = measure_shapes(axis, np.concatenate(several))

    last = steps - 1
    state, gradient = states[path, last], float(sampled.gradients[path, last])
    eigenvalues, rates, inseparable = _modes(local_model(stopped[-1], state, gradient))
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
    """The first update, the last, and some between, at growing distances; fewer in short runs."""
    last = steps - 1
    later = np.geomspace(max(1, last / 40), max(1, last), SHOWN - 1).round().astype(int)
    return np.unique(np.append(0, np.minimum(later, last)))


def typical_path(states: Float[np.ndarray, "path visited state"], sampled: SampledStates) -> int:
    """Index of the path whose magnitudes before the last update have the most central ranks."""
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
    """Eigenvalues, slowest first, their learning rates, and the reason if there are no rates.

    Rates at round-off relative to the largest are set to 0.
    """
    try:
        modes = eigenmodes(model)
    except ValueError as error:
        if not model.differentiable:
            unknown = np.full(len(model.state), complex(np.nan, np.nan))
            return unknown, unknown, str(error)
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
