"""Which departures of the catalogue turn one optimizer's updates into the other's.

A departure explains only if it repeats all experiments at parameter 0 to the tolerance, or, where
what differs is the dependence on the parameter, those in which the parameter is not 0.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lrevopt.studies.audit.departures import (
    AROUND,
    FORMULAS,
    OTHERS,
    FormulaDeparture,
    changed,
)
from lrevopt.studies.audit.experiments import (
    ABOUT_X,
    SHORT,
    Answers,
    answers,
    difference,
    experiments,
    gaps,
    inputs,
)
from lrevopt.studies.audit.fits import Change, Decay, decay_of, fit, short
from lrevopt.studies.audit.formulas import Numbers
from lrevopt.studies.audit.identification import Identified, fits, identify, repeats
from lrevopt.studies.audit.subjects import Subject, Traces
from lrevopt.text import number

SINGLE = 1e-4
"""Largest relative difference that computing in single precision is taken to explain."""

ROUNDED = 4 * float(np.finfo(np.float32).eps)
"""Relative difference up to which two hyperparameters are one number in single precision."""


class Explanation(NamedTuple):
    """Departures of the catalogue by `names`, and what they say of both optimizers."""

    names: tuple[str, ...]
    sentence: str


@dataclasses.dataclass(frozen=True)
class Side:
    """An optimizer with its updates in all experiments."""

    subject: Subject
    known: Answers
    tolerance: float

    @functools.cached_property
    def identified(self) -> Identified | None:
        """The textbook formula that it is."""
        return identify(self.subject, self.known, self.tolerance)


def explain(first: Side, second: Side, differing: list[str], tolerance: float) -> list[Explanation]:
    """Departures that explain the experiments in which two optimizers differ; none if none does."""
    plain = [name for name in differing if name not in (*ABOUT_X, "three parameters")]
    parts = _at_zero(first, second, tolerance) if plain else []
    if any(name in ABOUT_X for name in differing):
        decays = [decay_of(side.subject, side.known, tolerance) for side in (first, second)]
        if plain and parts == [_factor(first, second, 1 - decays[1].strength)]:
            parts = [_after(first, second, decays[1])]  # (1 - s) (x + u) - x
        elif decays[0] != decays[1] or not plain:
            parts.append(_decays(first, second, decays))
    if not plain and "three parameters" in differing:
        parts.append(_coupled(first, second))
    if any(part is None for part in parts):
        return []
    return [part for part in parts if part is not None]


def _alone(side: Side) -> bool:
    """Whether an array of three is treated as each of its parameters alone."""
    (experiment,) = (each for each in experiments() if each.name == "three parameters")
    gradients, parameters = inputs(list(experiment.traces))
    alone = side.subject.run(*(a.reshape(SHORT, -1, 1) for a in (gradients, parameters)))
    together = side.known[experiment.name]
    return bool((gaps(alone.reshape(together.shape), together, parameters) < 1e-9).all())


def _coupled(first: Side, second: Side) -> Explanation:
    """Which of both treats an array of three as it treats each parameter alone."""
    hows = {True: "on its own", False: "together with the others"}
    said = [
        f"{side.subject.name} updates each parameter {hows[_alone(side)]}"
        for side in (first, second)
    ]
    return Explanation(("coupled_parameters",), ", ".join(said))


def _couplings(first: Side, second: Side) -> list[Explanation | None]:
    """What is to be said of an array of three beside formulas, which are of one parameter: nothing
    where both treat each alone, `None` where both couple them, each perhaps in its own way.
    """
    alone = [_alone(side) for side in (first, second)]
    if all(alone):
        return []
    return [_coupled(first, second) if any(alone) else None]


def _factor(first: Side, second: Side, value: float) -> Explanation:
    return _say("factor", OTHERS["factor"], first, second, value=number(value, 4))


def _after(first: Side, second: Side, decay: Decay) -> Explanation:
    value = number(decay.strength, 4)
    return _say("decay_after_update", OTHERS["decay_after_update"], first, second, value=value)


def _decays(first: Side, second: Side, decays: list[Decay]) -> Explanation | None:
    kinds = [decay.kind for decay in decays]
    if "other" in kinds:
        return None
    said = [d.in_words(s.subject.name) for d, s in zip(decays, (first, second), strict=True)]
    name = {
        "none": "no_decay", "coupled": "coupled_decay", "decoupled": "decoupled_decay",
        "multiplied": "decay_multiplies_gradient",
    }[kinds[1]] if kinds[0] != kinds[1] else "decay_strength"  # fmt: skip
    return Explanation((name,), ", ".join(reversed(said)))


def _at_zero(first: Side, second: Side, tolerance: float) -> list[Explanation | None]:
    """What explains the difference with parameters at 0: the simplest first; `None` if unknown."""
    formulas = (_one_departure, _other_numbers, _two_departures, _departure_and_numbers)
    for search in (_factors, _around, _one_departure, _other_numbers, _single_precision, _schedules,
                   _two_departures, _inputs, _departure_and_numbers):  # fmt: skip
        if (found := search(first, second, tolerance)) is not None:
            return [found, *(_couplings(first, second) if search in formulas else [])]
    return [None]


def _say(name: str, sentence: str, first: Side, second: Side, **values: str) -> Explanation:
    """An explanation, in which the second departs from the first."""
    names = {"a": first.subject.name, "b": second.subject.name}
    return Explanation((name,), sentence.format(**names, **values))


def same_as(candidate: Subject, side: Side, tolerance: float) -> bool:
    """Whether an optimizer repeats a side's updates in all experiments at parameter 0."""
    probes = [each for each in experiments() if each.name in ("sizes", "random")]
    for each in probes:  # most candidates fail here
        given = inputs(list(each.traces))
        found = candidate.run(*given)[: each.compared]
        if difference(each, found, side.known, tolerance):
            return False
    found_all = answers(candidate)
    return not any(
        difference(each, found_all[each.name], side.known, tolerance)
        for each in experiments()
        if each.name not in ABOUT_X
    )


def _factors(first: Side, second: Side, tolerance: float) -> Explanation | None:
    """A factor on all updates."""
    pairs = (first.known["first update"], second.known["first update"])
    one, other = (float(each[0, 0, 0]) for each in pairs)
    if one != 0 and other != 0 and np.isfinite(other / one):
        value = short(other / one)
        scaled = changed(first.subject, after=lambda updates: value * updates)
        if value != -1 and same_as(scaled, second, tolerance):
            return _factor(first, second, value)
    return None


def _around(first: Side, second: Side, tolerance: float) -> Explanation | None:
    """Sign, delays, counters: of the second, or of the first."""
    for name, (says, make) in AROUND.items():
        for a, b in ((first, second), (second, first)):
            if same_as(make(a.subject), b, tolerance):
                return _say(name, says, a, b)
    return None


def _one_departure(first: Side, second: Side, tolerance: float) -> Explanation | None:
    return _departures(first, second, tolerance, 1)


def _two_departures(first: Side, second: Side, tolerance: float) -> Explanation | None:
    return _departures(first, second, tolerance, 2)


def _departures(first: Side, second: Side, tolerance: float, count: int) -> Explanation | None:
    """Departures from the formula that one of both was identified as, with the same numbers."""
    for a, b in ((first, second), (second, first)):
        base = a.identified
        if base is None:
            continue
        for departures in itertools.combinations(FORMULAS, count):
            form, numbers = base.form, base.numbers
            for each in departures:
                form, numbers = each.apply(form, numbers)
            if repeats(form, numbers, b.known, tolerance):
                return _named(departures, a, b)
    return None


def _named(
    departures: tuple[FormulaDeparture, ...], a: Side, b: Side, beside: str = ""
) -> Explanation:
    names = {"a": a.subject.name, "b": b.subject.name}
    said = [each.says.format(**names) for each in departures] + [beside] * bool(beside)
    return Explanation(tuple(each.name for each in departures), "; ".join(said))


def _other_numbers(first: Side, second: Side, tolerance: float) -> Explanation | None:
    """Two known formulas, or one with two sets of numbers that differ by more than their rounding
    to single precision.
    """
    one, other = first.identified, second.identified
    if one is None or other is None:
        return None
    if one.form == other.form:
        if np.allclose(one.numbers, other.numbers, rtol=ROUNDED, atol=0.0):
            return None
        value = _numbers(one, other.numbers)
        return _say("numbers", OTHERS["numbers"], first, second, value=value)
    values = {"one": one.name, "other": other.name}
    return _say("formula", OTHERS["formula"], first, second, **values)


def _departure_and_numbers(first: Side, second: Side, tolerance: float) -> Explanation | None:
    """One departure from a known formula, and other numbers."""
    for a, b in ((first, second), (second, first)):
        base = a.identified
        if base is None:
            continue
        for each in FORMULAS:
            form, _ = each.apply(base.form, base.numbers)
            if form == base.form:
                continue
            for numbers in fits(form, b.subject, b.known):
                if repeats(form, numbers, b.known, tolerance):
                    return _named((each,), a, b, f"other numbers: {_numbers(base, numbers)}")
    return None


def _numbers(base: Identified, other: Numbers) -> str:
    """Numbers that differ, in the order first and second."""
    said = [
        f"{name} {number(one, 6)} and {number(two, 6)}"
        for name, one, two in zip(Numbers._fields, base.numbers, other, strict=True)
        if one != two
    ]
    return ", ".join(said)


def _largest_gap(first: Side, second: Side) -> float:
    return max(
        float(gaps(first.known[each.name], second.known[each.name],
                   inputs(list(each.traces))[1][: each.compared]).max())
        for each in experiments()
    )  # fmt: skip


def _single_precision(first: Side, second: Side, tolerance: float) -> Explanation | None:
    """Differences that are small everywhere. The one whose updates are numbers of single precision
    is said to depart; where that does not tell, the second.
    """
    gap = _largest_gap(first, second)
    if gap > SINGLE:
        return None

    def single(side: Side) -> bool:
        updates = side.known["constant"][:, 0]
        return bool((updates == updates.astype(np.float32)).all())

    a, b = (second, first) if single(first) and not single(second) else (first, second)
    says = OTHERS["single_precision"]
    return _say("single_precision", says, a, b, value=number(gap, 2))


def _responses(side: Side) -> Iterator[np.ndarray]:
    """The schedule of a learning rate as far as it shows: in updates of a constant gradient, and
    in the first response after updates without gradient.
    """
    yield side.known["constant"][:, 0, 0]
    zeros = np.zeros((SHORT, SHORT, 1))
    fresh = side.subject.run(np.eye(SHORT)[:, :, None].copy(), zeros)
    yield np.diagonal(fresh[:, :, 0])


def _step_factor(first: Side, second: Side, tolerance: float) -> np.ndarray | None:
    """Updates of the second over those of the first, if that is one number at each step."""
    with np.errstate(all="ignore"):
        ratio = second.known["random"] / first.known["random"]
        late = second.known["long"] / first.known["long"]
    if not np.isfinite(ratio).all():
        return None
    factor = np.ones(len(late))
    for step, row in enumerate(late[:, :, 0]):
        if (seen := row[np.isfinite(row)]).size:
            factor[step] = np.median(seen)
    factor[: len(ratio)] = np.median(ratio[:, :, 0], axis=1)
    for each in experiments():
        if each.name in ABOUT_X:
            continue
        model = first.known[each.name] * factor[: each.compared, None, None]
        if difference(each, model, second.known, 10 * tolerance) is not None:
            return None
    return factor


def _schedules(first: Side, second: Side, tolerance: float) -> Explanation | None:
    """A factor that depends on the step alone."""
    factor = _step_factor(first, second, tolerance)
    if factor is None:
        return None

    def near(a: np.ndarray, b: np.ndarray | np.floating) -> bool:
        return bool(np.allclose(a, b, rtol=1e3 * tolerance, atol=0.0))

    for one, other in zip(_responses(first), _responses(second), strict=True):
        if near(one, one[0]):
            continue  # no schedule shows
        if near(other, other[0]):
            return _say("no_schedule", OTHERS["no_schedule"], first, second)
        if near(other[:-1], one[1:]):
            return _say("schedule_ahead", OTHERS["schedule_ahead"], first, second)
        if near(other[1:], one[:-1]):
            return _say("schedule_behind", OTHERS["schedule_behind"], first, second)
    return _say("schedule", OTHERS["schedule"], first, second, value=_in_steps(factor))


def _in_steps(factor: np.ndarray) -> str:
    """The first factors, from the first that is not 1 on."""
    begin = int(np.argmax(np.abs(factor - 1) > 1e-6))
    value = ", ".join(number(float(each), 4) for each in factor[begin : begin + 5]) + ", ..."
    return f"1 up to update {begin}, then {value}" if begin > 4 else value


def _inputs(first: Side, second: Side, tolerance: float) -> Explanation | None:
    """Gradients or updates that are clipped in one of both, gradients with a factor."""
    for a, b in ((first, second), (second, first)):
        bound = short(max(float(np.abs(updates).max()) for updates in b.known.values()))
        limited = changed(a.subject, after=functools.partial(_limited, bound=bound))
        if np.isfinite(bound) and same_as(limited, b, tolerance):
            return _say("update_clipping", OTHERS["update_clipping"], a, b, value=number(bound, 4))
        if not np.isfinite(b.known["random"]).all():
            continue
        for name, (change, grid) in INPUTS.items():
            value = _fit_input(a, b, change, grid)
            fitted = changed(a.subject, _with(change, value))
            if same_as(fitted, b, tolerance):
                return _say(name, OTHERS[name], a, b, value=number(value, 4))
    return None


def _limited(updates: Traces, bound: float) -> Traces:
    return np.clip(updates, -bound, bound)


def _fit_input(a: Side, b: Side, change: Change, grid: np.ndarray) -> float:
    """The number with which changed gradients bring `a` nearest to `b`."""
    (experiment,) = (each for each in experiments() if each.name == "random")
    gradients, parameters = inputs([experiment.traces[k] for k in (0, 2, 3)])
    return fit(a.subject, change, (gradients, parameters, b.known["random"][:, (0, 2, 3)]), grid)


def _with(change: Change, value: float) -> Callable[[Traces, Traces], tuple[Traces, Traces]]:
    return lambda gradients, parameters: (
        change(gradients, parameters, np.array(value)), parameters
    )  # fmt: skip


def _clipped_norm(gradients: Traces, parameters: Traces, bound: np.ndarray) -> Traces:
    norm = np.linalg.norm(gradients, axis=2, keepdims=True)
    return gradients * (bound / np.maximum(norm, bound))


INPUTS: dict[str, tuple[Change, np.ndarray]] = {
    "gradient_clipping": (lambda g, x, bound: np.clip(g, -bound, bound),
                          np.geomspace(1e-3, 1e2, 40)),
    "norm_clipping": (_clipped_norm, np.geomspace(1e-3, 1e2, 40)),
    "gradient_factor": (lambda g, x, value: value * g, np.geomspace(1e-4, 1e4, 41)),
}  # fmt: skip
