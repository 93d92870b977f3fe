"""How an optimizer's modes change while it is meta-trained (paper, B.2).

Every snapshot of a run is linearized at its own fixed point. Each mode is momentum (see
`linearization`) with learning rate alpha and timescale lambda.
"""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, Key

from lrevopt.analysis.convergence import linearize_at_fixed_point
from lrevopt.analysis.linearization import dominant_mode
from lrevopt.analysis.momentum import separated_modes
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers import Momentum
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.paper.appendices.momentum_mimic import all_together, difference, hyperparameters
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Facts


class MetaDynamics(eqx.Module):
    """Modes of every snapshot of a run (Figure 15). Host arrays in float64.

    - `steps`: meta-step of each snapshot; `scores`: its meta-objective on selection problems.
    - `eigenvalues`, `learning_rates`: of its modes at its fixed point, slowest first, complex.
      Learning rates are NaN where the Jacobian is near-defective, and 0 before training, when the
      readout is 0.
    - `dominant_learning_rates`, `dominant_momenta`: sizes |alpha| and |lambda| of its dominant
      mode, the one that gives most of the steady-state gain (the slowest where the gain is 0).
    - `converged`: whether the search for its fixed point converged.
    - `optimum`: `learning_rate` and `momentum` of analytically best momentum.
    """

    steps: Int[np.ndarray, " snapshot"]
    scores: Float[np.ndarray, " snapshot"]
    eigenvalues: Complex[np.ndarray, "snapshot mode"]
    learning_rates: Complex[np.ndarray, "snapshot mode"]
    dominant_learning_rates: Float[np.ndarray, " snapshot"]
    dominant_momenta: Float[np.ndarray, " snapshot"]
    converged: Bool[np.ndarray, " snapshot"]
    optimum: dict[str, float]

    def together(self) -> tuple[Float[np.ndarray, " snapshot"], Float[np.ndarray, " snapshot"]]:
        """Learning rate and momentum of all modes together, for each snapshot.

        They do not depend on how nearly parallel modes share them (see `momentum_mimic`).
        """
        return all_together(self.eigenvalues, self.learning_rates)

    def distances(self) -> dict[str, Float[np.ndarray, " snapshot"]]:
        """Signed relative differences of the dominant modes from the optimum, along training."""
        return {
            "learning_rate": self.dominant_learning_rates / self.optimum["learning_rate"] - 1,
            "momentum": self.dominant_momenta / self.optimum["momentum"] - 1,
        }


def measure_meta_dynamics(
    snapshots: Sequence[AbstractOptimizer],
    steps: Sequence[int] | Int[np.ndarray, " snapshot"],
    scores: Sequence[float] | Float[np.ndarray, " snapshot"],
    task: AbstractTask,
    optimum: Momentum,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    inner_steps: int = 200,
) -> MetaDynamics:
    """Linearize optimizers of one structure, each at its own fixed point.

    States are sampled as in `measure_mimic`, so that the same key finds the same modes.

    Raises `ValueError` for no snapshots, lists of different lengths, counts below 1, or an
    optimizer that diverges on every problem.
    """
    if not snapshots or not len(snapshots) == len(steps) == len(scores):
        raise ValueError(
            "`snapshots`, `steps` and `scores` must be lists of one length of at least 1, got "
            f"{len(snapshots)}, {len(steps)} and {len(scores)}."
        )
    eigenvalues, rates, dominant, converged = [], [], [], []
    for optimizer in snapshots:
        sampled = sample_states(optimizer, task, key=key, problems=problems, steps=inner_steps)
        found, model = linearize_at_fixed_point(optimizer, sampled)
        modes = separated_modes(model)
        eigenvalues.append(modes.eigenvalues)
        rates.append(modes.learning_rates)
        dominant.append(dominant_mode(modes))
        converged.append(bool(found.converged.any()))
    every = np.arange(len(dominant))
    return MetaDynamics(
        steps=np.asarray(steps, int),
        scores=np.asarray(scores, float),
        eigenvalues=np.array(eigenvalues),
        learning_rates=np.array(rates),
        dominant_learning_rates=np.abs(rates)[every, dominant],
        dominant_momenta=np.abs(eigenvalues)[every, dominant],
        converged=np.array(converged),
        optimum=hyperparameters(optimum),
    )


def dynamics_facts(record: MetaDynamics) -> Facts:
    """How training came to the optimum and went on, as pairs of a name and a sentence."""
    off = record.distances()["momentum"]
    nearest = int(np.nanargmin(np.abs(off)))
    return [
        ("Over meta-training", f"{len(record.steps)} snapshots up to meta-step "
         f"{int(record.steps[-1])}; the eigenvalue of the dominant mode is nearest to the "
         f"optimum after {int(record.steps[nearest])}, {difference(off[nearest])} away, and "
         f"{difference(off[-1])} at the end"),
    ]  # fmt: skip
