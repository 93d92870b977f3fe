"""Momentum: modes of the linearized optimizer, and offsets of its update function (paper, 5.1)."""

import contextlib

import equinox as eqx
import numpy as np
from jaxtyping import Complex, Float

from lrevopt.analysis.linearization import (
    Linearization,
    Modes,
    conjugate_mode,
    dominant_mode,
    eigenmodes,
)
from lrevopt.analysis.mode_energies import explained_energy, modes_needed
from lrevopt.analysis.projections import Projection
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import gradient_axis, transition_table, update_table
from lrevopt.inner_loop.sampled_states import SampledStates
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.text import Facts, complex_number, number


class MomentumModes(eqx.Module):
    """Modes at the fixed point, and the fixed point moved along the dominant one (Figure 3b, c).

    Host arrays in float64. An *update* is `w . F(h, g)`.

    - `eigenvalues`, `learning_rates`: of the modes at the fixed point, slowest first;
      `dominant_mode`: index of the mode that gives most of the steady-state gain.
    - `energy`: share of the energy of the impulse response (the updates that one unit of
      gradient causes) explained by the best k + 1 modes together, for k = 0, 1, ...
    - Where the Jacobian is near-defective, modes have no learning rates of their own:
      `learning_rates` and `energy` are NaN, and the dominant mode is the slowest.
    - `linear_error`: relative error of the linearized transition over the last quarter of test
      runs, `||F - F_linear|| / ||F - h*||` (root mean squares).
    - `shifts`: displacements along the dominant mode, in units of the state, symmetric around 0;
      `shifted_points`: the displaced states in the projection of `ProjectedStates`.
    - `gradients`: a symmetric axis over the central 98 % of pooled gradients; `updates`: update
      functions of the displaced states on it.
    """

    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    dominant_mode: int
    energy: Float[np.ndarray, " mode"]
    linear_error: float
    shifts: Float[np.ndarray, " shift"]
    shifted_points: Float[np.ndarray, "shift component"]
    gradients: Float[np.ndarray, " grid"]
    updates: Float[np.ndarray, "shift grid"]


def measure_momentum(
    optimizer: AbstractOptimizer,
    sampled: SampledStates,
    model: Linearization,
    modes: Modes,
    projection: Projection,
) -> MomentumModes:
    """Modes of `model`, an optimizer linearized at its fixed point, compared with sampled states.

    `modes` are those that `separated_modes` gives of `model`.
    """
    shifted, shifts = shifted_states(model, modes, sampled.states)
    gradients = gradient_axis(sampled.pooled_gradients)
    return MomentumModes(
        eigenvalues=modes.eigenvalues,
        learning_rates=modes.learning_rates,
        dominant_mode=dominant_mode(modes),
        energy=_energy(modes),
        linear_error=linearization_error(optimizer, model, sampled),
        shifts=shifts,
        shifted_points=projection(shifted),
        gradients=gradients,
        updates=update_table(optimizer, shifted, gradients),
    )


def separated_modes(model: Linearization) -> Modes:
    """`eigenmodes` or, where J is near-defective, modes of a slightly perturbed J without rates.

    The perturbed J has modes to move along. Their learning rates would be huge numbers that cancel,
    so they are NaN. Raises `ValueError` where no perturbation of up to 1e-4 of J suffices, or J is
    not finite.
    """
    if not model.differentiable:
        raise ValueError(
            "`optimizer` must have finite derivatives where its searches for a fixed point end, "
            "but some are not finite there."
        )
    try:
        return eigenmodes(model)
    except ValueError:
        noise = np.random.default_rng(0).normal(size=model.recurrent.shape)
        noise *= np.linalg.norm(model.recurrent, 2) / np.linalg.norm(noise, 2)
    # A double eigenvalue splits by the square root of the noise, others by higher roots.
    for size in (1e-8, 1e-6, 1e-4):
        near = model.recurrent + size * noise
        with contextlib.suppress(ValueError):
            modes = eigenmodes(eqx.tree_at(lambda m: m.recurrent, model, near))
            break
    else:
        raise ValueError("`model.recurrent` must have independent eigenvectors, or nearly so.")
    none = np.full_like(modes.learning_rates, np.nan)
    return eqx.tree_at(lambda m: m.learning_rates, modes, none)


def _energy(modes: Modes) -> Float[np.ndarray, " mode"]:
    if np.isnan(modes.learning_rates).any():
        return np.full(len(modes.eigenvalues), np.nan)
    return explained_energy(modes)


def shifted_states(
    model: Linearization,
    modes: Modes,
    states: Float[np.ndarray, "path visited state"],
    index: int | None = None,
) -> tuple[Float[np.ndarray, "shift state"], Float[np.ndarray, " shift"]]:
    """The fixed point displaced along a mode, by default the dominant one, and the displacements.

    The mode's unit direction (of a complex one, its real part) is signed so that a positive
    gradient adds to it. Displacements reach the 95 % quantile of the states' coordinate along it:
    a state h has l.(h - h*) along the real direction r, 2 Re l.(h - h*) along Re r, since a complex
    mode and its conjugate move together.
    """
    index = dominant_mode(modes) if index is None else index
    direction = modes.right[:, index].real * np.sign((modes.left[index] @ model.input).real or 1.0)
    length = np.linalg.norm(direction)
    both = 2 if conjugate_mode(modes, index) != index else 1
    coordinate = both * (states - model.state) @ modes.left[index].real * length
    reach = float(np.quantile(np.abs(coordinate), 0.95))
    shifts = np.linspace(-reach, reach, 5)
    return model.state + shifts[:, None] * direction / length, shifts


def linearization_error(
    optimizer: AbstractOptimizer, model: Linearization, sampled: SampledStates
) -> float:
    """Relative error of the linearized transition over the last quarter of test runs."""
    first = sampled.gradients.shape[1] * 3 // 4
    states = evenly_spaced(sampled.states[:, first:-1].reshape(-1, len(model.state)), 20_000)
    gradients = evenly_spaced(sampled.gradients[:, first:].reshape(-1), 20_000)
    true = transition_table(optimizer, states, gradients)
    moved = (states - model.state) @ model.recurrent.T + gradients[:, None] * model.input
    distance = np.linalg.norm(true - model.state)
    error = np.linalg.norm(true - model.next_state - moved)
    return float(error / distance) if distance > 0 else 0.0


def momentum_facts(record: MomentumModes) -> Facts:
    """The dominant mode and the error of linearization, as pairs of a name and a sentence."""
    eigenvalue = record.eigenvalues[record.dominant_mode]
    rate = record.learning_rates[record.dominant_mode]
    own = (
        "none of its own (the Jacobian is near-defective)"
        if np.isnan(rate)
        else complex_number(rate)
    )
    return [
        ("Dominant mode", f"eigenvalue {complex_number(eigenvalue)}, learning rate {own}"),
        ("Error of the linearized optimizer", f"{number(record.linear_error)} (relative, last "
         "quarter of test runs)"),
    ]  # fmt: skip


def modes_in_words(record: MomentumModes, share: float) -> str:
    """How many modes explain this share of the energy of the impulse response."""
    energy = record.energy
    if not np.isfinite(energy).all():
        return "the Jacobian is near-defective: modes have no learning rates of their own"
    two = energy[min(1, len(energy) - 1)]
    return (
        f"the best mode explains {100 * energy[0]:.0f} % of the impulse response, the best "
        f"two {100 * two:.0f} %; {100 * share:.0f} % takes {modes_needed(energy, share)} of "
        f"{len(energy)}"
    )
