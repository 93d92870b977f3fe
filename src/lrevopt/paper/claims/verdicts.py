"""What a claim is, and what measuring it on one run gives."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lrevopt.analysis import Manifold, Mechanisms, ModeShifts, ParameterTypes
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.tuning.random_search import TuningResult

Outcome = Literal["reproduced", "differs", "cannot tell"]


@dataclasses.dataclass(frozen=True)
class RunNumbers:
    """Saved numbers of one optimizer on one task. What a run does not have is `None` or empty.

    `evaluation` calls the optimizer `learned`; `tuning` has the searches of the baselines that it
    is compared with, which may be another run's.
    """

    evaluation: Evaluation | None = None
    tuning: Mapping[str, TuningResult] = dataclasses.field(default_factory=dict)
    mechanisms: Mechanisms | None = None
    parameter_types: ParameterTypes | None = None
    manifold: Manifold | None = None
    mode_shifts: ModeShifts | None = None
    momentum_mimic: MomentumMimic | None = None
    meta_dynamics: MetaDynamics | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """A statistic, and whether what the claim speaks of is there.

    `holds` is `None` where the number lies between the thresholds, or is none. `low` and `high`
    are a 95 % interval, NaN where one run gives none. `detail` is one sentence with what else was
    measured.
    """

    value: float
    holds: bool | None
    detail: str = ""
    low: float = math.nan
    high: float = math.nan


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of the paper as a measurement.

    `expected` says, by task, whether the paper finds it there (`True`) or says that it is absent.
    `measure` takes the numbers of one run or, where `joint`, those of one run per task. `needs`
    names the fields of `RunNumbers` without which there is nothing to measure. `threshold` is
    what decides, in words; the numbers stand beside `measure`. `causes` is what may lie behind a
    difference.
    """

    name: str
    says: str
    where: str
    expected: Mapping[str, bool]
    statistic: str
    threshold: str
    needs: tuple[str, ...]
    measure: Callable[[Any], Measured]
    causes: str
    joint: bool = False

    def measurable(self, numbers: RunNumbers) -> bool:
        """Whether a run has the numbers that this claim needs."""
        return all(bool(getattr(numbers, need)) for need in self.needs)

    def outcome(self, measured: Measured, task: str) -> Outcome:
        """Whether what was measured is what the paper says of that task."""
        if measured.holds is None:
            return "cannot tell"
        expected = all(self.expected.values()) if self.joint else self.expected[task]
        return "reproduced" if measured.holds == expected else "differs"


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
