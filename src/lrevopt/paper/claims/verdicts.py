"""What a claim is: a sentence of the paper, and the function that measures it.

    @claim(
        "States converge: their total variance over test problems goes to zero.",
        where="Figures 3a, 8", on=(L, R, M), not_on=(N,),
        there=0.05, absent=0.25, causes="Noise in the gradients keeps states apart.",
    )
    def converge(mechanisms: Mechanisms) -> Statistic:
        \"\"\"Variance of states at the last step over its maximum.\"\"\"

The function's name is the claim's, its docstring says what the number is, and its parameters are
the parts of a run (see `runs.contents`) without which there is nothing to measure. Parameters with
the default `None` are parts that add to the detail where a run has them.

How statistics were chosen, before any run was measured with them (but for three limits that were
set when the shipped runs were known: the rule for seeds, the factors of rate-floor, and the limits
on Hankel values):

- Thresholds stand beside the sentence, and a new statistic of the same quantity keeps them.
- No statistic depends on the coordinates of the state: orders are Hankel values and fits of the
  impulse response (`analysis.responses`), not shares of eigenmodes.
- What did not converge is left out, and where too little is left the verdict is "cannot tell".
- A correlation of few ranks decides only where chance would give it in at most 5 % of orders.
- With three training seeds or more, the verdict is that of 80 % of them, or "cannot tell".
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lrevopt.runs.contents import Run

Outcome = Literal["reproduced", "differs", "cannot tell"]

L, R, M, N = "linear_regression", "rosenbrock", "two_moons", "mnist"
"""The paper's tasks."""

UNTUNED = "Momentum was not tuned."

NOT_THE_TRAINING = (
    "On linear regression and Rosenbrock neither initialisation nor width, meta-steps or estimator "
    "decides it (`results/factorial`); the paper's input scales and values are not printed."
)
LENGTH = (
    "Ours was meta-trained for far fewer steps than the paper's 5,000, and optimizers of other "
    "seeds differ."
)
TRAINED = (
    "Ours was trained on runs of other length or with another estimator of the meta-gradient than "
    "the paper's (see the report), which rewards other behaviour."
)


@dataclasses.dataclass(frozen=True)
class Statistic:
    """The number that a claim is about, on one run.

    - `low`, `high`: a 95 % interval, NaN where one run gives none.
    - `detail`: one sentence with what else was measured.
    - `also`: whether the conditions of the claim hold that are not thresholds on the value;
      `None` where they decide nothing.
    - `decides`: `False` if the claim cannot be decided, whatever the value.
    """

    value: float
    detail: str = ""
    low: float = math.nan
    high: float = math.nan
    also: bool | None = True
    decides: bool = True


@dataclasses.dataclass(frozen=True)
class Measured:
    """A statistic, and whether what the claim speaks of is there (`None`: cannot tell)."""

    value: float
    holds: bool | None
    detail: str = ""
    low: float = math.nan
    high: float = math.nan


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of the paper as a measurement.

    - `name`; `says`: the sentence; `where` it stands in the paper.
    - `expected`: by task, whether the paper finds it there (`True`) or says that it is absent.
    - `statistic`: what the number is, in words; `function` measures it.
    - `there`, `absent`: numbers at or beyond which the value decides, or words where the function
      decides by itself. `also`: further conditions for "there" and for "absent", in words.
    - `causes`: what may lie behind a difference. `shown_by`: the experiment that shows why it
      differs, or where to look at what cannot be told; "" if there is none.
    - `seeds`: number of training seeds without which there is no verdict; by default one run is
      enough.
    - `joint`: measured on one run of every task together, for each choice of training seeds.
    """

    name: str
    says: str
    where: str
    expected: Mapping[str, bool]
    statistic: str
    there: float | str
    absent: float | str
    also: tuple[str, str]
    causes: str
    function: Callable[..., Statistic]
    joint: bool = False
    shown_by: str = ""
    seeds: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Parts of a run that the claim is measured from: the parameters of its function."""
        return tuple(self._parameters(optional=False))

    def _parameters(self, *, optional: bool) -> list[str]:
        own = inspect.signature(self.function).parameters.values()
        return [one.name for one in own if (one.default is not one.empty) == optional]

    @property
    def threshold(self) -> str:
        """What decides, in words."""
        if isinstance(self.there, str) or isinstance(self.absent, str):
            there, absent = str(self.there), str(self.absent)
        else:
            above = self.there > self.absent
            there = f"at {'least' if above else 'most'} {self.there:g}"
            absent = f"at {'most' if above else 'least'} {self.absent:g}"
        conditions = zip(("there", "absent"), (there, absent), self.also, strict=True)
        return "; ".join(
            f"{name}: {', '.join(filter(None, (value, more)))}" for name, value, more in conditions
        )

    def measurable(self, run: Run) -> bool:
        """Whether a run has the parts that this claim needs."""
        return run.has(*self.needs)

    def measure(self, runs: Run | Mapping[str, Run]) -> Measured:
        """The statistic and the verdict on one run or, of a joint claim, on runs by task."""
        if isinstance(runs, Run):
            more = {name: runs.record(name) for name in self._parameters(optional=True)}
            found = self.function(*(runs.record(need) for need in self.needs), **more)
        else:
            parts = [{task: run.record(need) for task, run in runs.items()} for need in self.needs]
            found = self.function(*parts)
        holds = self._holds(found)
        return Measured(found.value, holds, found.detail, found.low, found.high)

    def _holds(self, found: Statistic) -> bool | None:
        if not found.decides:
            return None
        if isinstance(self.there, str) or isinstance(self.absent, str):
            return found.also
        return both(between(found.value, self.there, self.absent), found.also)

    def outcome(self, measured: Measured, task: str) -> Outcome:
        """Whether what was measured is what the paper says of that task."""
        if measured.holds is None:
            return "cannot tell"
        expected = all(self.expected.values()) if self.joint else self.expected[task]
        return "reproduced" if measured.holds == expected else "differs"


def claim(
    says: str,
    *,
    where: str,
    on: Sequence[str],
    not_on: Sequence[str] = (),
    there: float | str,
    absent: float | str,
    also: tuple[str, str] = ("", ""),
    causes: str,
    shown_by: str = "",
    seeds: int = 0,
    joint: bool = False,
) -> Callable[[Callable[..., Statistic]], Claim]:
    """Make a claim of the function that measures it; arguments as in `Claim`.

    The paper finds it on the tasks `on`, and says that it is absent on `not_on`.
    """

    def decorate(function: Callable[..., Statistic]) -> Claim:
        sentence = " ".join((function.__doc__ or "").split()).removesuffix(".")
        if sentence[1:2].islower():  # not of R^2
            sentence = sentence[:1].lower() + sentence[1:]
        return Claim(
            name=function.__name__.replace("_", "-"),
            says=says,
            where=where,
            expected=dict.fromkeys(on, True) | dict.fromkeys(not_on, False),
            statistic=sentence,
            there=there,
            absent=absent,
            also=also,
            causes=causes,
            function=function,
            joint=joint,
            shown_by=shown_by,
            seeds=seeds,
        )

    return decorate


def between(value: float, there: float, absent: float) -> bool | None:
    """True at or beyond `there`, False at or beyond `absent`, on its side; None between, or NaN.

    `there` may lie above or below `absent`.
    """
    if there > absent:
        value, there, absent = -value, -there, -absent
    if value <= there:
        return True
    return False if value >= absent else None


def both(*parts: bool | None) -> bool | None:
    """True if all are, False if any is, else None."""
    if any(part is False for part in parts):
        return False
    return True if all(parts) else None
