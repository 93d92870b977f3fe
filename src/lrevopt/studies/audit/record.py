"""The record of an audit: what was asked, what two optimizers answered, what explains it."""

import html
from typing import NamedTuple

import numpy as np

from lrevopt.studies.audit.experiments import Answers, Difference
from lrevopt.studies.audit.explanation import Explanation
from lrevopt.text import Printed, Table, number


class Answer(NamedTuple):
    """One experiment: its name, a sentence, and where the two differ first, if they do.

    `finite` is the share of its updates, from 0 to 1, of which both optimizers' are finite.
    """

    name: str
    says: str
    difference: Difference | None
    finite: float = 1.0


class Audit(Printed):
    """Comparison of two optimizers by their updates, as `audit` returns it. Prints as a table.

    - `equal`: whether all updates agree to the tolerance, relative to the largest of their trace,
      and some are finite. Updates that are the same infinity, or NaN in both, agree.
    - `experiment`: the first experiment in which they differ, the simplest and earliest, or None.
    - `difference`: where they differ in it: the gradients given, the update (from 1), both updates.
    - `departure`: a sentence from the catalogue that explains all differences, or None.
    - `departures`: its names in `lo.DEPARTURES`.
    - `names`, `tolerance`, `answers`: what was compared, and every experiment.
    - `properties`: a table of what both optimizers are: degree, oddness, slope, knee, memory, ...
    """

    def __init__(
        self,
        names: tuple[str, str],
        tolerance: float,
        answers: tuple[Answer, ...],
        explanations: list[Explanation],
        properties: Table,
    ):
        self.names = names
        self.tolerance = tolerance
        self.answers = answers
        self.departures = tuple(name for each in explanations for name in each.names)
        self.departure = "; ".join(each.sentence for each in explanations) or None
        self.properties = properties

    @property
    def equal(self) -> bool:
        return self.difference is None and any(answer.finite > 0 for answer in self.answers)

    @property
    def experiment(self) -> str | None:
        return next((a.name for a in self.answers if a.difference is not None), None)

    @property
    def difference(self) -> Difference | None:
        return next((a.difference for a in self.answers if a.difference is not None), None)

    @property
    def verdict(self) -> str:
        """What came out, in one or two sentences."""
        first, second = self.names
        if self.difference is None:
            return self._agreement()
        told = self.difference
        one, other = _apart(told.first, told.second)
        where = (
            f"They differ first in update {told.step} of: {told.trace}. {first} moves by {one}, "
            f"{second} by {other}."
        )
        if self.departure is None:
            return f"{where} No departure in the catalogue explains it."
        return f"{where} What explains it: {self.departure}."

    def _agreement(self) -> str:
        """What there is to say where no updates differ."""
        if not self.equal:
            return "Nothing to compare: no update of both is finite."
        agree = f"agree to {number(self.tolerance, 2)}"
        partly = [answer.says for answer in self.answers if answer.finite < 1]
        if not partly:
            return f"Equal: all updates {agree}."
        return (
            f"Equal where finite: these updates {agree}. Updates that are NaN or infinite in both "
            f"are in {len(partly)} of {len(self.answers)} experiments, the first: {partly[0]}."
        )

    def table(self) -> Table:
        rows = [self._row(answer) for answer in self.answers]
        heads = ("experiment", self.names[0], self.names[1], "largest difference", "where first")
        notes = (
            self.verdict,
            "Differences are relative to the largest update of their history. Updates shown are "
            "the first that differ.",
        )
        return Table(f"Audit: {self.names[0]} and {self.names[1]}", heads, rows, notes)

    def _row(self, answer: Answer) -> tuple[str, ...]:
        told = answer.difference
        if told is None:
            agree = "equal where finite" if answer.finite else "nothing finite"
            return (answer.says, "", "", "equal" if answer.finite == 1 else agree, "")
        where = f"{told.trace}: update {told.step}"
        return (answer.says, *_apart(told.first, told.second), number(told.largest, 2), where)

    def _repr_html_(self) -> str:
        """The verdict, the table of experiments, and the table of properties."""
        return f"<p>{html.escape(self.verdict)}</p>\n{self.table().html()}{self.properties.html()}"


def _apart(first: float, second: float) -> tuple[str, str]:
    """Two numbers in as many digits as it takes to tell them apart, six at least."""
    shown = ("", "")
    for digits in (6, 9, 12, 15, 17):
        shown = number(first + 0.0, digits), number(second + 0.0, digits)  # 0, not -0
        if shown[0] != shown[1]:
            break
    return shown


def properties(names: tuple[str, str], known: tuple[Answers, Answers]) -> Table:
    """What both optimizers are, in numbers read from the same experiments."""
    columns = [_properties(each) for each in known]
    rows = [(name, columns[0][name], columns[1][name]) for name in columns[0]]
    return Table("What both are", ("property", *names), rows)


def _properties(known: Answers) -> dict[str, str]:
    sizes = known["sizes"][0, :, 0]  # 1e-3, -1e-3, 1e-2, ..., -1e3, -1
    positive = np.insert(sizes[0:12:2], 3, known["first update"][0, 0, 0])
    negative = np.insert(sizes[1:12:2], 3, sizes[-1])
    gradients = 10.0 ** np.arange(-3, 4)
    impulse = known["impulse"][:, 0, 0]
    tiny = known["tiny gradients"][0, :, 0]
    with np.errstate(all="ignore"):
        slopes = np.diff(np.log10(np.abs(positive)))
        odd = np.abs(positive + negative).max() <= 1e-9 * np.abs(positive).max()
        known_odd = bool(np.isfinite(positive).all() and np.isfinite(negative).all())
        knee = float(np.abs(positive).max() / np.abs(positive[0] / gradients[0]))
        ratio = impulse[9] / impulse[8]
        start = tiny[0] / 1e-12
        delayed = known["delayed impulse"][10, 2, 0] / impulse[0]
    decay = known["parameter"][0, 0, 0]
    return {
        "first update at gradient 1": number(float(positive[3]), 6),
        "degree: exponent of the gradient at 1 to 10": number(float(slopes[3]), 4),
        "odd in the gradient": ("yes" if odd else "no") if known_odd else number(np.nan),
        "slope at gradient 1e-12": number(float(start), 4),
        "knee (gradient)": number(knee, 3) if slopes[-1] < 0.5 and knee > 2e-3 else "none",
        "memory: update 10 over update 9 of an impulse": number(float(ratio), 6),
        "impulse after 10 updates over impulse at once": number(float(delayed), 6),
        "update without gradient": number(float(known["no gradient"][0, 0, 0]), 4),
        "update without gradient at x = 1": number(float(decay), 4),
    }
