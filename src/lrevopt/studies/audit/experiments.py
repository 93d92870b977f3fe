"""The experiments of an audit, from the simplest and earliest to the longest.

Every experiment is a few traces, gradients and parameters given step by step, and the number of
updates that are compared. Where nothing else is said, parameters are held at 0, so that weight
decay does not act.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lrevopt.studies.audit.subjects import Subject, Traces

SHORT, LONG = 32, 1000
"""Updates of most traces, and of those of the last experiments."""

ROUND_OFF = 16 * np.finfo(float).eps
"""Of an update that somebody computes as the difference of two parameters, in units of those."""

SHAKE, NOISE = 4 * np.finfo(float).eps, 16.0
"""Relative changes of gradients, and how many times their effect counts as round-off."""

SMALLEST = 1e-290
"""Updates below this are 0."""


class Trace(NamedTuple):
    """What an optimizer is given: `label` says it in words."""

    label: str
    gradients: np.ndarray
    parameters: np.ndarray


class Experiment(NamedTuple):
    """Traces of one kind. `says` is a sentence for a table; `compared` counts updates."""

    name: str
    says: str
    traces: tuple[Trace, ...]
    compared: int


class Difference(NamedTuple):
    """Where two optimizers differ first in an experiment.

    `trace` says what both were given, `step` counts updates from 1, `first` and `second` are the
    updates, `largest` is the largest relative difference in the whole experiment: relative to the
    largest update of its trace so far.
    """

    trace: str
    step: int
    first: float
    second: float
    largest: float


def _trace(label: str, gradients: object, parameters: object = 0.0, steps: int = SHORT) -> Trace:
    """Gradients go on with 0, parameters with their last value."""
    met = np.atleast_2d(np.asarray(gradients, float).T).T
    met = np.concatenate([met[:steps], np.zeros((max(steps - len(met), 0), met.shape[1]))])
    at = np.atleast_2d(np.asarray(parameters, float).T).T
    at = np.concatenate([at[:steps], np.repeat(at[-1:], max(steps - len(at), 0), axis=0)])
    return Trace(label, met, np.broadcast_to(at, met.shape).copy())


def _pairs() -> Iterator[Trace]:
    for lag in (1, 2, 5):
        for size in (1.0, -1.0, 0.1, 10.0):
            later = np.zeros(lag + 1)
            later[0], later[lag] = 1.0, size
            yield _trace(f"gradient 1, and {size:g} after {lag} updates", later)


def _after_history() -> Iterator[Trace]:
    random = np.random.default_rng(1)
    for steps in (1, 2, 5, 12):
        before = random.normal(size=steps)
        for size in (-10.0, -1.0, -0.1, -1e-3, 0.0, 1e-3, 0.1, 1.0, 10.0):
            met = np.append(before, size)
            yield _trace(f"gradient {size:g} after {steps} random ones", met)


def _random(x: bool) -> Iterator[Trace]:
    random = np.random.default_rng(2)
    for size in (1.0, 1e-3, 1e-7, 30.0):
        met = size * random.normal(size=SHORT)
        path = np.cumsum(random.normal(size=SHORT)) if x else 0.0
        yield _trace(f"random gradients of size {size:g}", met, path)
    sizes = 10.0 ** random.integers(-4, 2, size=SHORT)
    path = random.normal(size=SHORT) if x else 0.0
    yield _trace("random gradients of many sizes", sizes * random.normal(size=SHORT), path)


def _long() -> Iterator[Trace]:
    random = np.random.default_rng(3)
    late = np.zeros(LONG)
    late[LONG - 20] = 1.0
    signs = np.where(np.arange(LONG) % 7 < 4, 1.0, -1.0)
    for label, met in (
        ("constant gradient 1", np.ones(LONG)),
        ("random gradients of size 1", random.normal(size=LONG)),
        (f"gradient 1 after {LONG - 20} updates without gradient", late),
        ("four gradients of 1 and three of -1 in turn", signs),
    ):
        yield _trace(label, met, steps=LONG)


def _dimensions() -> Iterator[Trace]:
    random = np.random.default_rng(4)
    met = random.normal(size=(SHORT, 3)) * np.array([1.0, 0.1, 10.0])
    yield _trace("random gradients of three parameters", met)


@functools.cache
def experiments() -> tuple[Experiment, ...]:
    """All experiments in their order."""
    sizes = [10.0**k for k in (-3, -2, -1, 1, 2, 3)]
    small = [10.0**k for k in (-12, -10, -8, -7, -6, -5, -4)]
    ones = np.ones(SHORT)
    lines = np.geomspace(1.0, 1e-6, SHORT)
    spike = np.concatenate([np.full(8, 0.1), [10.0], np.full(SHORT - 9, 0.1)])

    def of(name: str, says: str, traces: object, compared: int = SHORT) -> Experiment:
        return Experiment(name, says, tuple(traces), compared)  # type: ignore[arg-type]

    return (
        of("first update", "first update at gradient 1", [_trace("gradient 1", [1.0])], 1),
        of("sizes", "first update at other gradients, and of the other sign",
           [_trace(f"gradient {g:g}", [g]) for size in (*sizes, 1.0) for g in (size, -size)
            if g != 1.0], 1),
        of("tiny gradients", "first update at gradients where epsilon matters",
           [_trace(f"gradient {size:g}", [size]) for size in small], 1),
        of("no gradient", "updates without any gradient", [_trace("gradient 0", [0.0])]),
        of("second update", "second update of equal and of opposite gradients",
           [_trace("gradients 1, 1", [1.0, 1.0]), _trace("gradients 1, -1", [1.0, -1.0]),
            _trace("gradients 1, 0.01", [1.0, 0.01]), _trace("gradients 0.01, 1", [0.01, 1.0])], 2),
        of("impulse", "one gradient and then none",
           [_trace(f"gradient {size:g} and then 0", [size]) for size in (1.0, 1e-3, 1e-8, -100.0)]),
        of("delayed impulse", "one gradient after updates without any: the step counter",
           [_trace(f"gradient 1 after {lag} updates without gradient", np.eye(SHORT)[lag])
            for lag in (1, 3, 10)]),
        of("constant", "a constant gradient",
           [_trace(f"constant gradient {size:g}", size * ones)
            for size in (1.0, -0.01, 100.0, 1e-8)]),
        of("alternating", "gradients of alternating sign",
           [_trace("gradients 1, -1, 1, ...", (-1.0) ** np.arange(SHORT)),
            _trace("gradients 1, 1, -1, -1, 1, ...", (-1.0) ** (np.arange(SHORT) // 2))]),
        of("pairs", "two gradients, apart", _pairs()),
        of("shrinking and growing", "gradients over six decades, and one large gradient",
           [_trace("gradients that shrink from 1 to 1e-6", lines),
            _trace("gradients that grow from 1e-6 to 1", lines[::-1]),
            _trace("gradients of 0.1, once 10", spike)]),
        of("update functions", "update against gradient after random histories", _after_history()),
        of("random", "random gradients", _random(x=False)),
        of("parameter", "first update at parameters other than 0",
           [_trace(f"gradient {g:g} at x = {x:g}", [g], x)
            for x in (1.0, -2.0) for g in (0.0, 1.0)], 1),
        of("moving parameter", "random gradients while the parameter moves",
           [_trace("gradient 0 at x = 1", [0.0], 1.0), *_random(x=True)]),
        of("long", f"{LONG} updates: counters and schedules", _long(), LONG),
        of("three parameters", "one array of three parameters: couplings", _dimensions()),
    )  # fmt: skip


ABOUT_X = ("parameter", "moving parameter")
"""Experiments in which parameters are not 0."""


class Answers(dict[str, np.ndarray]):
    """Updates of each experiment, by its name; `noise` is what round-off may do to them."""

    noise: dict[str, np.ndarray]


def measured(subject: Subject) -> Answers:
    """As `answers`, with `noise`: how updates change when gradients do by their round-off.

    Where an optimizer subtracts nearly equal numbers, two sound programs differ by that much. Noise
    counts as the largest of a trace so far, since at one update it may be small by chance.
    """
    known = answers(subject)
    random = np.random.default_rng(5)

    def shaken(gradients: Traces, parameters: Traces) -> Traces:
        signs = random.choice([-1.0, 1.0], size=gradients.shape)
        return subject.run(gradients * (1 + SHAKE * signs), parameters)

    other = answers(Subject(subject.name, shaken))
    with np.errstate(invalid="ignore"):
        known.noise = {
            name: np.fmax.accumulate(np.abs(known[name] - other[name]), axis=0) for name in known
        }
    return known


def answers(subject: Subject) -> Answers:
    """Updates of an optimizer in all experiments. Raises `ValueError` where it fails."""
    found = Answers()
    groups: dict[tuple[int, ...], list[Experiment]] = {}
    for experiment in experiments():
        groups.setdefault(experiment.traces[0].gradients.shape, []).append(experiment)
    for group in groups.values():
        updates = subject.run(*inputs([trace for each in group for trace in each.traces]))
        ends = np.cumsum([len(each.traces) for each in group])[:-1]
        for each, part in zip(group, np.split(updates, ends, axis=1), strict=True):
            found[each.name] = part[: each.compared]
    return found


def inputs(traces: list[Trace]) -> tuple[Traces, Traces]:
    """Gradients and parameters of several traces, side by side."""
    return (
        np.stack([trace.gradients for trace in traces], axis=1),
        np.stack([trace.parameters for trace in traces], axis=1),
    )


def gaps(
    one: Traces, other: Traces, parameters: Traces | None = None, noise: Traces | None = None
) -> Traces:
    """Differences relative to the largest update of the trace so far; 0 where both are NaN.

    What is below the round-off of the parameters, by default 0, or below 16 times the `noise`
    counts as 0.
    """
    above = 0.0 if parameters is None else ROUND_OFF * np.abs(parameters)
    if noise is not None:
        above = np.fmax(above, NOISE * np.where(np.isfinite(noise), noise, 0.0))
    with np.errstate(all="ignore"):
        sizes = np.fmax(np.abs(one), np.abs(other))
        scale = np.maximum.accumulate(np.nan_to_num(sizes, nan=0.0, posinf=0.0), axis=0)
        scale = scale.max(axis=2, keepdims=True)
        apart = np.abs(one - other)
        apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, apart)
        found = np.where(np.isfinite(apart), apart / np.fmax(scale, SMALLEST), np.inf)
        return np.where(apart <= above + SMALLEST, 0.0, found)


def difference(
    experiment: Experiment, one: Traces, known: Answers, tolerance: float
) -> Difference | None:
    """Where updates differ first from those known of an experiment, earliest update first."""
    parameters = inputs(list(experiment.traces))[1][: experiment.compared]
    other = known[experiment.name]
    found = gaps(one, other, parameters, known.noise[experiment.name])
    if not (found > tolerance).any():
        return None
    step, trace, place = np.unravel_index(int(np.argmax(found > tolerance)), found.shape)
    return Difference(
        experiment.traces[trace].label, int(step) + 1, float(one[step, trace, place]),
        float(other[step, trace, place]), float(found.max()),
    )  # fmt: skip
