"""What each of the slowest modes does to the update function (paper, A.1 and Figure 9).

Moving the state along a mode that is momentum shifts the update function up or down; moving it
along a line of fixed points may change the learning rate instead.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from lrevopt.analysis.convergence import linearize_at_fixed_point
from lrevopt.analysis.linearization import Modes, conjugate_mode
from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.analysis.momentum import separated_modes, shifted_states
from lrevopt.analysis.update_functions import gradient_axis, rate_table, update_table
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.sampled_states import SampledStates
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Facts, complex_number, percent


class ModeShifts(eqx.Module):
    """The fixed point, moved along its slowest modes one at a time. Host arrays in float64.

    - `modes`: indices of the modes by falling |eigenvalue|, of a conjugate pair the first. They
      count as in `Mechanisms.eigenvalues`, whose fixed point this is.
    - `shifts`: displacements along the mode's unit direction, as far as test runs go to both
      sides, the middle one 0.
    - `gradients`, `updates`: update functions of the moved states.
    - `rates`: their effective learning rates; `offsets`: their updates at zero gradient.
    - `tilt`: largest change of the learning rate along a mode over the rate in the middle.
    - `lift`: largest change of the offset over the range of updates in the middle. A mode that
      is momentum lifts without tilting.
    """

    modes: Int[np.ndarray, " shown"]
    shifts: Float[np.ndarray, "shown shift"]
    gradients: Float[np.ndarray, " grid"]
    updates: Float[np.ndarray, "shown shift grid"]
    rates: Float[np.ndarray, "shown shift"]
    offsets: Float[np.ndarray, "shown shift"]
    tilt: Float[np.ndarray, " shown"]
    lift: Float[np.ndarray, " shown"]


def measure_modes(
    optimizer: AbstractOptimizer, sampled: SampledStates, count: int = 4
) -> ModeShifts:
    """Move along the `count` slowest modes (all, if there are fewer) at the fixed point.

    Raises `ValueError` for a count below 1.
    """
    count = positive_integer("count", count)
    _, model = linearize_at_fixed_point(optimizer, sampled)
    modes = separated_modes(model)
    chosen = slowest_modes(modes)[:count]
    moved, shifts = zip(
        *(shifted_states(model, modes, sampled.states, index) for index in chosen), strict=True
    )
    states = np.array(moved)
    gradients = gradient_axis(sampled.pooled_gradients)
    flat = states.reshape(-1, len(model.state))
    updates = update_table(optimizer, flat, gradients).reshape(*states.shape[:2], -1)
    rates = rate_table(optimizer, flat).reshape(states.shape[:2])
    offsets = update_table(optimizer, flat, np.zeros(1)).reshape(states.shape[:2])
    middle = states.shape[1] // 2
    # In the middle, all are the same state.
    rate, ranging = abs(rates[0, middle]), np.ptp(updates[0, middle])
    return ModeShifts(
        modes=np.array(chosen),
        shifts=np.array(shifts),
        gradients=gradients,
        updates=updates,
        rates=rates,
        offsets=offsets,
        tilt=_change(rates, rate),
        lift=_change(offsets, ranging),
    )


def slowest_modes(modes: Modes) -> list[int]:
    """Indices by falling |eigenvalue|, one of each conjugate pair."""
    indices = range(len(modes.eigenvalues))
    return [index for index in indices if index <= conjugate_mode(modes, index)]


def _change(values: Float[np.ndarray, "shown shift"], unit: float) -> Float[np.ndarray, " shown"]:
    change = np.abs(values - values[:, values.shape[1] // 2, None]).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(change > 0, change / unit, 0.0)


def mode_facts(record: ModeShifts, mechanisms: Mechanisms) -> Facts:
    """What moving along the slowest modes does, as pairs of a name and a sentence."""
    eigenvalues = mechanisms.momentum.eigenvalues[record.modes]
    rows = zip(eigenvalues, record.tilt, record.lift, strict=True)
    return [
        (f"Moving along mode {mode}", f"eigenvalue {complex_number(eigenvalue)}; changes the "
         f"learning rate by {percent(tilt)} of itself, and shifts updates by {percent(lift)} of "
         "their range")
        for mode, (eigenvalue, tilt, lift) in enumerate(rows, 1)
    ]  # fmt: skip
