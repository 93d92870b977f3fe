"""Which textbook formula an optimizer is, and with which numbers: from its updates alone.

Numbers of the families of moments are fitted by least squares to updates at a few histories: the
learning rate enters linearly and is eliminated, the others start from a grid. Those of Lion and
Rprop are read off: at which gradient the sign turns, by which factors a step grows. A formula
counts as found only if it repeats all experiments at parameter 0 within the tolerance.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lrevopt.analysis.levenberg_marquardt import Damping, Equations, Fit, marquardt_step
from lrevopt.studies.audit.experiments import (
    ABOUT_X,
    SHORT,
    Answers,
    experiments,
    gaps,
    inputs,
)
from lrevopt.studies.audit.formulas import Form, Numbers
from lrevopt.studies.audit.subjects import Subject

ADAM = Form(first="average", first_correction="right", second="average", second_correction="right")
KNOWN: dict[str, Form] = {
    "gradient descent": Form(),
    "momentum": Form(first="sum"),
    "momentum as an average": Form(first="average"),
    "bias-corrected momentum": Form(first="average", first_correction="right"),
    "Nesterov's momentum": Form(first="sum", numerator="nesterov"),
    "Adam": ADAM,
    "RMSProp": Form(second="average", epsilon="inside"),
    "RMSProp with epsilon outside the root": Form(second="average"),
    "bias-corrected RMSProp": Form(second="average", second_correction="right"),
    "Nadam": Form(**{**vars(ADAM), "numerator": "nesterov"}),
    "AMSGrad": Form(**{**vars(ADAM), "largest": "corrected"}),
    "Adam with epsilon inside the root": Form(**{**vars(ADAM), "epsilon": "inside"}),
    "Adam without bias correction": Form(first="average", second="average"),
    "AdaMax": Form(first="average", first_correction="right", second="largest"),
    "Adagrad": Form(second="sum", epsilon="inside"),
    "Adagrad with epsilon outside the root": Form(second="sum"),
    "centred RMSProp": Form(second="average", centre="mean", epsilon="inside"),
    "AdaBelief": Form(**{**vars(ADAM), "centre": "belief", "epsilon": "both"}),
    "Lion": Form(family="lion"),
    "Rprop": Form(family="rprop"),
}
"""Formulas that are tried, by name, common ones first."""

FITTED = ("random", "impulse", "constant")
"""Experiments that numbers are fitted to."""

STEPS = 40
"""Steps of a fit, at most."""

DAMPING = Damping(
    decrease=1, increase=1, least=1e-6, most=1e3, multiples=(1e-8, 1e-4, 1e-2, 1.0, 1e2, 1e4)
)

DECIMALS = 1e-6
"""Relative distance within which a fitted number is taken for one of few digits."""


class Identified(NamedTuple):
    """A formula with its numbers, which repeats an optimizer's updates."""

    name: str
    form: Form
    numbers: Numbers


@functools.cache
def given(name: str) -> tuple[np.ndarray, int]:
    """Gradients of an experiment, and how many updates of it are compared."""
    (experiment,) = (each for each in experiments() if each.name == name)
    return inputs(list(experiment.traces))[0][: experiment.compared], experiment.compared


def names_without_x() -> tuple[str, ...]:
    """Experiments that a formula of the gradients alone can be asked to repeat."""
    left_out = {*ABOUT_X, "three parameters"}
    return tuple(each.name for each in experiments() if each.name not in left_out)


def repeats(form: Form, numbers: Numbers, known: Answers, tolerance: float) -> bool:
    """Whether a formula has these updates in all experiments at parameter 0."""
    for name in names_without_x():
        gradients = given(name)[0]
        found = form.updates(numbers, gradients)
        if not (gaps(found, known[name], None, known.noise[name]) <= tolerance).all():
            return False
    return True


def identify(subject: Subject, known: Answers, tolerance: float) -> Identified | None:
    """The first of the known formulas that repeats an optimizer's updates."""
    for name, form in KNOWN.items():
        for numbers in fits(form, subject, known):
            if repeats(form, numbers, known, tolerance):
                return Identified(name, form, numbers)
    return None


def fits(form: Form, subject: Subject, known: Answers) -> Iterator[Numbers]:
    """Numbers with which a formula may repeat an optimizer, in few digits and as fitted."""
    read = {"moments": _fitted, "lion": _read_lion, "rprop": _read_rprop}[form.family]
    numbers = read(form, subject, known)
    if numbers is not None:
        yield Numbers(*(_short(value) for value in numbers))
        yield numbers


def _short(value: float) -> float:
    """The number of at most three digits nearby, of it or of its distance to 1, if there is one."""
    for digits in (1, 2, 3):
        for near in (float(f"{value:.{digits}g}"), 1 - float(f"{1 - value:.{digits}g}")):
            if abs(near - value) <= DECIMALS * min(abs(value), abs(1 - value) or np.inf):
                return near
    return value


def _active(form: Form) -> list[str]:
    """Numbers besides the rate on which a formula's updates depend."""
    names = ["b1"] * (form.first != "none") + ["b2"] * (form.second in ("average", "largest"))
    if form.second == "sum":  # inside the root, epsilon is part of where the sum starts
        return [*names, "start", *["epsilon"] * (form.epsilon != "inside")]
    return names + ["epsilon"] * (form.second != "none")


def _plausible(form: Form, known: Answers) -> bool:
    """Whether degree and memory are those of a form: most forms are ruled out at once."""
    sizes, impulse = known["sizes"][0, :, 0], known["impulse"][:, 0, 0]
    proportional = bool(np.isclose(sizes[10], 1e6 * sizes[0], rtol=1e-6))
    remembers = bool((impulse[1:] != 0).any())
    return (form.second == "none") == proportional and (form.first != "none") == remembers


def _fitted(form: Form, subject: Subject, known: Answers) -> Numbers | None:
    """Least squares over unbounded coordinates: ln(b / (1 - b)) and ln epsilon."""
    if not _plausible(form, known):
        return None
    gradients = np.concatenate([given(name)[0] for name in FITTED], axis=1)
    updates = np.concatenate([known[name] for name in FITTED], axis=1)
    if not np.isfinite(updates).all():
        return None
    active = _active(form)
    scale = np.maximum.accumulate(np.abs(updates), axis=0)
    weights = 1 / np.where(scale > 0, scale, np.inf)
    target = (weights * updates).ravel()

    def numbers(places: np.ndarray) -> Numbers:
        found = {name: _number(name, places[:, k, None, None]) for k, name in enumerate(active)}
        return Numbers(**{"epsilon": 0.0} | found)

    def rates_and_rests(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = form.updates(numbers(places), gradients).reshape(len(gradients), -1, target.size
                                                                 // len(gradients))  # fmt: skip
        model = weights.reshape(len(gradients), 1, -1) * model
        model = np.moveaxis(model, 1, 0).reshape(-1, target.size)
        model = np.nan_to_num(model, posinf=1e9, neginf=-1e9)
        norms = np.square(model).sum(axis=1)
        rates = (model @ target) / np.where(norms > 0, norms, np.inf)
        return rates, rates[:, None] * model - target

    starts = itertools.product(*(STARTS[name] for name in active))
    best = least_squares(rates_and_rests, np.array(list(starts)))
    rates, rests = rates_and_rests(best[None])
    if not np.square(rests).mean() < 1e-6:
        return None
    found = numbers(best[None])._replace(rate=rates)
    return Numbers(*(float(np.ravel(each)[0]) for each in found))


def least_squares(
    model: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], places: np.ndarray
) -> np.ndarray:
    """Where the second value of `model` is smallest, by the Levenberg-Marquardt method.

    `places` are where it may begin, one a row; the best of them does. Derivatives are central
    differences. `model` is NumPy's and takes many places at once, so each step tries several
    dampings, and the search ends when none of them helps.
    """

    def cost_of(points: np.ndarray) -> np.ndarray:
        return np.square(model(points)[1]).sum(axis=1)

    costs = cost_of(places)
    first = int(np.argmin(costs))
    fit = Fit(places[first], costs[first], np.asarray(1e-3))
    if not fit.point.size:
        return fit.point
    step = 1e-5 * np.eye(fit.point.size)
    for _ in range(STEPS):
        rests = model(np.concatenate([fit.point[None], fit.point + step, fit.point - step]))[1]
        slopes = (rests[1 : 1 + len(step)] - rests[1 + len(step) :]) / 2e-5
        square = slopes @ slopes.T
        equations = Equations(square, slopes @ rests[0], np.diag(square) + 1e-300)
        before = fit.cost
        fit = marquardt_step(
            fit, equations, cost_of, DAMPING, solve=_shortest, limit=lambda d: np.clip(d, -3.0, 3.0)
        )
        if not fit.cost < before:
            break
    return fit.point


def _shortest(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions of least norm, also where a number does not matter and a matrix is singular."""
    return np.stack([np.linalg.lstsq(matrix, right)[0] for matrix in matrices])


STARTS: dict[str, list[float]] = {
    "b1": [-2.0, 0.0, 2.2, 4.6], "b2": [0.0, 2.2, 4.6, 6.9], "epsilon": [-18.4, -11.5],
    "start": [-20.0, -2.0],
}  # fmt: skip
"""Where a fit may begin, in the coordinates of `_number`."""


def _number(name: str, place: Any) -> Any:
    if name in ("epsilon", "start"):
        return np.exp(np.clip(place, -60.0, 10.0))
    return 1 / (1 + np.exp(-np.clip(place, -40.0, 40.0)))


def _ask(subject: Subject, histories: np.ndarray) -> np.ndarray:
    """Last updates of histories of shape (step, trace), padded to the length of experiments."""
    steps = len(histories)
    gradients = np.zeros((SHORT, histories.shape[1], 1))
    gradients[:steps, :, 0] = histories
    return subject.run(gradients, np.zeros_like(gradients))[:steps, :, 0]


def _read_lion(form: Form, subject: Subject, known: Answers) -> Numbers | None:
    """From where the sign turns: after gradient 1 and n gradients of 0, at
    -c with (1 - b1) c = b1 (1 - b2) b2^n.
    """
    rate = -float(known["first update"][0, 0, 0])
    if rate <= 0 or not np.allclose(np.abs(known["random"]), rate, rtol=1e-9):
        return None
    ends = []
    for rests in (0, 4):
        low, high = -12.0, 6.0
        for _ in range(8):
            tried = np.linspace(low, high, 32)
            before = np.zeros((rests + 2, 32))
            before[0], before[-1] = 1.0, -np.exp(tried)
            turned = _ask(subject, before)[-1] > 0
            if not turned.any() or turned.all():
                return None
            at = int(np.argmax(turned))
            low, high = tried[at - 1], tried[at]
        ends.append(np.exp(0.5 * (low + high)))
    b2 = float((ends[1] / ends[0]) ** 0.25)
    ratio = ends[0] / (1 - b2)
    return Numbers(rate, float(ratio / (1 + ratio)), b2)


def _read_rprop(form: Form, subject: Subject, known: Answers) -> Numbers | None:
    """From the steps of constant gradients and of a gradient that turns once.

    Bounds are the smallest and the largest step of all.
    """
    late = form.turn == "late"
    grown = np.abs(known["constant"][:, 0, 0])[late:]
    if not (0 < grown[0] < grown[1]):
        return None
    plus = grown[1] / grown[0]
    turned = np.array([[1.0], [1.0], [1.0], [-1.0], [-1.0], [-1.0], [-1.0]])
    steps = np.abs(_ask(subject, turned)[:, 0])[late:]
    after = steps[3] if form.turn == "moves" else steps[4]
    if not steps[2] > 0 or not after > 0:
        return None
    minus = after / steps[2]
    sizes = np.concatenate([np.abs(known[name]).ravel() for name in names_without_x()])
    low, high = sizes[sizes > 0].min(), sizes.max()
    return Numbers(*(float(each) for each in (grown[0], minus, plus, low, high)))
