"""Claims about autonomous schedules: Figures 5 and 11, section 5.3, A.3 and footnote 5."""

import math

import numpy as np

from lrevopt.checks import required
from lrevopt.paper.claims.verdicts import Measured, RunNumbers, between
from lrevopt.text import number

WARM_UP, DECAY = 1.1, 0.9
STILL, MOVES = 0.1, 0.5


def schedule(numbers: RunNumbers) -> Measured:
    """Largest learning rate along `h' = F(h, 0)` over that at the start."""
    rates = required(numbers.mechanisms).schedule.rates
    top = float(rates.max())
    if rates[0] <= 0 or not math.isfinite(top):
        return Measured(math.nan, None, "The learning rate is not positive at the start.")
    rise, left = top / float(rates[0]), float(rates[-1]) / top
    warms, decays = rise >= WARM_UP, left <= DECAY
    shapes = {
        (True, True): "It warms up, then decays",
        (True, False): "It warms up without decay",
        (False, True): "It decays without warm-up",
        (False, False): "It stays",
    }
    return Measured(
        value=rise,
        holds=warms if warms == decays else None,
        detail=f"{shapes[warms, decays]}: it ends at {number(left)} of the maximum, which is met "
        f"at step {int(np.argmax(rates))}.",
    )


def schedule_orthogonal(numbers: RunNumbers) -> Measured:
    """Mean |w . h'| along the autonomous path over the typical update of test runs."""
    record = required(numbers.mechanisms)
    own, typical = float(np.mean(np.abs(record.schedule.updates))), record.states.typical_update
    ratio = own / typical if typical > 0 else math.nan
    total = abs(float(np.sum(record.schedule.updates)))
    return Measured(
        value=ratio,
        holds=between(ratio, STILL, MOVES),
        detail=f"All {len(record.schedule.updates)} together move a parameter by "
        f"{number(total / typical if typical > 0 else math.nan)} typical updates; the path is at "
        f"{number(record.schedule.readout_angle)} degrees to the readout.",
    )
