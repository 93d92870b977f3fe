"""What interventions know of an optimizer: where it converges, its modes there, its schedule.

Near its convergence point (h*, 0) an optimizer is split as in `analysis.linearization`: modes of
`J = dF/dh` with eigenvalues lambda_m and learning rates alpha_m. The *slow mode* is the one that
gives most of the steady-state gain, with its conjugate if it is complex; `P` is the spectral
projector on it.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt.analysis.fixed_points import FixedPoints
from lrevopt.analysis.linearization import Linearization, Modes, conjugate_mode, slow_mode
from lrevopt.analysis.mechanisms import linearize_at_rest, separated_modes
from lrevopt.analysis.schedules import measure_schedule
from lrevopt.analysis.update_functions import effective_learning_rate
from lrevopt.inner_loop.sampled_states import visit
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask


class Context(eqx.Module):
    """What interventions know of an optimizer. Host arrays in float64.

    - `found`: the search for fixed points at zero gradient; `center` the convergence point h*.
    - `model`, `modes`: its linearisation there; `slow`: indices of the slow mode.
    - `rates`: effective learning rate along the autonomous path, and `rate` at its end, h*.
    """

    found: FixedPoints
    center: Float[np.ndarray, " state"]
    model: Linearization
    modes: Modes
    slow: Int[np.ndarray, " slow"]
    rates: Float[np.ndarray, " visited"]
    rate: float

    @property
    def projector(self) -> Float[np.ndarray, "state state"]:
        """P, the spectral projector on the slow mode."""
        return (self.modes.right[:, self.slow] @ self.modes.left[self.slow]).real


def measure_context(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
) -> Context:
    """Find an optimizer's convergence point, modes and schedule on fresh problems.

    Raises `ValueError` for counts below 1, or an optimizer that diverges on every problem.
    """
    visits = visit(optimizer, task, key=key, problems=problems, steps=steps)
    found, model = linearize_at_rest(optimizer, visits)
    center, modes = model.state, separated_modes(model)
    slow = slow_mode(modes)
    return Context(
        found=found,
        center=center,
        model=model,
        modes=modes,
        slow=np.unique([slow, conjugate_mode(modes, slow)]),
        rates=measure_schedule(optimizer, steps).rates,
        rate=float(effective_learning_rate(optimizer, center)),
    )
