"""The analysis that interventions need: an optimizer's fixed point, its modes there, its schedule.

At its fixed point (h*, 0) an optimizer is decomposed as in `analysis.linearization`, into modes of
`J = dF/dh` with eigenvalues lambda_m and learning rates alpha_m. The *dominant mode* has the
largest part of the steady-state gain, together with its conjugate if it is complex. `P` is the
spectral projector on it.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt.analysis.convergence import linearize_at_fixed_point
from lrevopt.analysis.fixed_points import FixedPoints
from lrevopt.analysis.linearization import Linearization, Modes, conjugate_mode, dominant_mode
from lrevopt.analysis.momentum import separated_modes
from lrevopt.analysis.schedules import measure_schedule
from lrevopt.analysis.update_functions import effective_learning_rate
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.wrappers import at_parameter
from lrevopt.tasks.interface import AbstractTask


class RestAnalysis(eqx.Module):
    """An optimizer's fixed point, modes and schedule. Host arrays in float64.

    - `found`: the search for fixed points at zero gradient; `fixed_point`: h*.
    - `model`, `modes`: the linearization at h*; `slow`: indices of the dominant mode.
    - `rates`: effective learning rate along the path without gradient; `rate`: at h*.
    """

    found: FixedPoints
    fixed_point: Float[np.ndarray, " state"]
    model: Linearization
    modes: Modes
    slow: Int[np.ndarray, " slow"]
    rates: Float[np.ndarray, " visited"]
    rate: float

    @property
    def projector(self) -> Float[np.ndarray, "state state"]:
        """P, the spectral projector on the dominant mode."""
        return (self.modes.right[:, self.slow] @ self.modes.left[self.slow]).real


def analyze_rest(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    parameter: float = 0.0,
) -> RestAnalysis:
    """Find an optimizer's fixed point, modes and schedule on fresh problems.

    `parameter` is the value of x at which an `AbstractParameterOptimizer` is analysed. Its runs use
    the parameters that they meet.

    Raises `ValueError` for counts below 1, or an optimizer that diverges on every problem.
    """
    sampled = sample_states(optimizer, task, key=key, problems=problems, steps=steps)
    optimizer = at_parameter(optimizer, parameter)
    found, model = linearize_at_fixed_point(optimizer, sampled)
    fixed_point, modes = model.state, separated_modes(model)
    slow = dominant_mode(modes)
    return RestAnalysis(
        found=found,
        fixed_point=fixed_point,
        model=model,
        modes=modes,
        slow=np.unique([slow, conjugate_mode(modes, slow)]),
        rates=measure_schedule(optimizer, steps).rates,
        rate=float(effective_learning_rate(optimizer, fixed_point)),
    )
