"""Claims about autonomous schedules: Figures 5 and 11, section 5.3, A.3 and footnote 5."""

import math

import numpy as np

from lrevopt.analysis import Mechanisms
from lrevopt.paper.claims.verdicts import L, M, N, R, Statistic, claim
from lrevopt.text import number

WARM_UP, DECAY = 1.1, 0.9
"""The rate rises by this factor from the start, and falls to this share of its maximum."""


@claim(
    "Autonomous dynamics change the learning rate: warm-up, then decay.",
    where="Figures 5, 11",
    on=(L, N),
    not_on=(R, M),
    there=f"at least {WARM_UP}, and the last at most {DECAY} of the largest",
    absent="neither",
    causes="A trained initial state is free to lie away from the fixed point on any task, and a "
    "start at the largest rate needs no warm-up: on linear regression neither initialisation nor "
    "width, meta-steps or estimator brought it about (0 of 72, `results/factorial`), and with 64 "
    "units and larger batches it came in one of five seeds. Networks' optimizers were trained on "
    "runs of other length and with another estimator of the meta-gradient than the paper's.",
    shown_by="the optimizer started at its fixed point (`started_at_rest` in `interventions.csv`).",
)
def schedule(mechanisms: Mechanisms) -> Statistic:
    """Largest learning rate along h' = F(h, 0) over that at the start."""
    rates = mechanisms.schedule.rates
    top = float(rates.max())
    if rates[0] <= 0 or not math.isfinite(top):
        return Statistic(math.nan, "The learning rate is not positive at the start.", decides=False)
    rise, left = top / float(rates[0]), float(rates[-1]) / top
    warms, decays = rise >= WARM_UP, left <= DECAY
    shapes = {
        (True, True): "It warms up, then decays",
        (True, False): "It warms up without decay",
        (False, True): "It decays without warm-up",
        (False, False): "It stays",
    }
    return Statistic(
        value=rise,
        also=warms if warms == decays else None,
        detail=f"{shapes[warms, decays]}: it ends at {number(left)} of the maximum, which is "
        f"reached at step {int(np.argmax(rates))}.",
    )


@claim(
    "The autonomous path does not move parameters.",
    where="footnote 5",
    on=(L, N),
    there=0.1,
    absent=0.5,
    causes="Nothing but the meta-objective keeps updates without gradient at zero.",
    shown_by="updates along the path itself (Figures 5 and 13b): the optimizer drifts at rest.",
)
def schedule_orthogonal(mechanisms: Mechanisms) -> Statistic:
    """Mean |w . h'| along the autonomous path over the typical update of test runs."""
    record, typical = mechanisms.schedule, mechanisms.states.typical_update
    total = abs(float(np.sum(record.updates)))
    return Statistic(
        value=float(np.mean(np.abs(record.updates))) / typical if typical > 0 else math.nan,
        detail=f"All {len(record.updates)} together move a parameter by "
        f"{number(total / typical if typical > 0 else math.nan)} typical updates; the path is at "
        f"{number(record.readout_angle)} degrees to the readout.",
    )
