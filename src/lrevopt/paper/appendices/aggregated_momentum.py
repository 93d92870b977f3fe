"""Appendix C, checked numerically: each equation as printed and as it follows from the one before.

An optimizer is linearized at a fixed point h* without gradient, J = dF/dh and B = dF/dg, and fed
random gradients from there. With the left eigenvectors of J as columns of U, scaled so that the
right ones r_j have unit length, the chain is

    (4)  h' = h* + J (h - h*) + B g
    (5)  v' = v* + Lambda (v - v*) + a g                v = U'h,  v* = U'h*,  a = U'B
    (6)  v_j' = lambda_j v_j + a_j g + (1 - lambda_j) v*_j
    (2)  x' = x + w.h' = x + w.h* - sum_j m_j'          m_j' = lambda_j m_j + alpha_j g
         alpha_j = -(w . r_j) a_j

Where the printed form differs, both are measured: (5) has v + v* in place of v - v*, which carries
over to the constant of (6); alpha_j is printed as a_j, without the readout, so that its size would
depend on how long an eigenvector is made; and `v' = beta v + alpha g`, with steps that are added
(equation 2), climbs for the positive alpha that section 4.1 writes as `beta v - alpha g`.

The last line is aggregated momentum (Lucas et al. 2018) with complex timescales, plus the constant
drift w . h*.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Complex, Float, Key

from lrevopt.analysis.linearization import (
    Linearization,
    Modes,
    eigenmodes,
    linear_optimizer,
    linearize,
    mode_optimizer,
)
from lrevopt.analysis.precision import AnyArray, double_precision
from lrevopt.analysis.update_functions import transition_table
from lrevopt.checks import finite, positive_integer
from lrevopt.inner_loop.steps import updates_on_gradients
from lrevopt.optimizers.interface import AbstractOptimizer

PRINTED, CORRECTED = "as printed", "corrected"


class Equation(eqx.Module):
    """One equation of appendix C and how well a run obeys it.

    `residual` is ||left - right|| / ||left|| over all steps of the run (0 where both sides are
    0): round-off where the equation follows. `form` is "as printed" or "corrected".
    """

    name: str
    form: str
    formula: str
    residual: float
    remark: str


class Derivation(eqx.Module):
    """All equations in order, and the aggregated momentum that they end in.

    `eigenvalues` and `learning_rates` (lambda_j and alpha_j) are those of `eigenmodes`, and
    `drift` is w . h*, by which every step moves the parameter whatever the gradient.
    """

    equations: tuple[Equation, ...]
    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    drift: float

    def residual(self, name: str, form: str = CORRECTED) -> float:
        """Residual of one equation; `ValueError` for one that is not there."""
        for equation in self.equations:
            if (equation.name, equation.form) == (name, form):
                return equation.residual
        known = sorted({equation.name for equation in self.equations})
        raise ValueError(f"`name` must be one of {known} and have the form {form!r}, got {name!r}.")


def derive_aggregated_momentum(
    optimizer: AbstractOptimizer,
    state: Float[AnyArray, " state"],
    *,
    key: Key[Array, ""],
    steps: int = 200,
    scale: float = 1.0,
) -> Derivation:
    """Check appendix C on normal gradients of standard deviation `scale`, in float64.

    Only the residual of (4), which is an approximation, depends on `scale`.

    Raises `ValueError` for a state that is no fixed point without gradient, one where the Jacobian
    is near-defective (see `eigenmodes`), or a number of steps or scale that is not positive.
    """
    steps, scale = positive_integer("steps", steps), finite("scale", scale, above=0.0)
    model = _exact_model(optimizer, state)
    modes = eigenmodes(model)
    with double_precision():
        gradients = scale * np.asarray(jr.normal(key, (steps,), jnp.float64))
    return Derivation(
        equations=(
            _linearization(optimizer, model, gradients),
            *_mode_equations(model, modes, gradients),
            *_rate_equations(model, modes, gradients),
            _whole(model, modes, gradients),
        ),
        eigenvalues=modes.eigenvalues,
        learning_rates=modes.learning_rates,
        drift=_drift(model),
    )


def _exact_model(optimizer: AbstractOptimizer, state: Float[AnyArray, " state"]) -> Linearization:
    """The linearized optimizer at a fixed point, taken as exact: F(h*, 0) = h*."""
    model = linearize(optimizer, state)
    if model.moving:
        raise ValueError(
            f"`state` must be a fixed point without gradient, but has speed {model.speed:.1e}."
        )
    # A fixed point is found to some digits; the derivation is about one that is exact.
    return eqx.tree_at(lambda m: m.next_state, model, model.state)


def _linearization(
    optimizer: AbstractOptimizer, model: Linearization, gradients: Float[np.ndarray, " step"]
) -> Equation:
    """Equation 4, an approximation, at the gradients and at a tenth of them."""
    errors = []
    for g in (gradients, gradients / 10):
        states = _linear_run(model, g)
        true = transition_table(optimizer, states[:-1], g)
        errors.append(_relative(true - model.state, states[1:] - model.state))
    return Equation(
        "4", PRINTED, "F(h, g) ~ h* + J (h - h*) + B g", errors[0],
        "An approximation: relative to the distance from h*, it should vanish with the "
        f"gradients; at a tenth of them it is {errors[1]:.1e}.",
    )  # fmt: skip


def _mode_equations(
    model: Linearization, modes: Modes, gradients: Float[np.ndarray, " step"]
) -> list[Equation]:
    """Equations 5 and 6, on the states of equation 4 in the coordinates v = U'h."""
    v = _linear_run(model, gradients) @ modes.left.T
    fixed, a = modes.left @ model.state, modes.left @ model.input
    before, after, driven = v[:-1], v[1:], gradients[:, None] * a
    lam = modes.eigenvalues
    return [
        Equation(
            "5", PRINTED, "v' = v* + Lambda (v + v*) + a g",
            _relative(after, fixed + lam * (before + fixed) + driven),
            "The sign of v* is a slip: no fixed point, unless v* is 0.",
        ),
        Equation(
            "5", CORRECTED, "v' = v* + Lambda (v - v*) + a g",
            _relative(after, fixed + lam * (before - fixed) + driven),
            "Equation 4 times U'.",
        ),
        Equation(
            "6", PRINTED, "v' = lambda v + a g + (1 + lambda) v*",
            _relative(after, lam * before + driven + (1 + lam) * fixed),
            "The constant is not printed; this is the one that the printed equation 5 gives.",
        ),
        Equation(
            "6", CORRECTED, "v' = lambda v + a g + (1 - lambda) v*",
            _relative(after, lam * before + driven + (1 - lam) * fixed),
            "Momentum in every mode, up to a constant that keeps it at v*.",
        ),
    ]  # fmt: skip


def _rate_equations(
    model: Linearization, modes: Modes, gradients: Float[np.ndarray, " step"]
) -> list[Equation]:
    """Learning rates and their sign, on the updates of equation 4."""
    moved = (_linear_run(model, gradients)[1:] - model.state) @ model.readout
    a, weights = modes.left @ model.input, model.readout @ modes.right

    def residual(rates: Complex[np.ndarray, " mode"]) -> float:
        return _relative(moved, _momenta(modes.eigenvalues, rates, gradients))

    return [
        Equation(
            "learning rate", PRINTED, "w.(h' - h*) = sum m', m' = lambda m + a g", residual(a),
            "The readout is left out, so that a depends on the length of eigenvectors.",
        ),
        Equation(
            "learning rate", CORRECTED, "w.(h' - h*) = sum m', m' = lambda m + (w.r) a g",
            residual(weights * a), "What a mode adds to the parameter is its coordinate times w.r.",
        ),
        Equation(
            "sign", PRINTED, "w.(h' - h*) = sum m', m' = lambda m + alpha g",
            residual(modes.learning_rates),
            "Steps are added, so the positive rate of a descending optimizer would climb: "
            "2 is the opposite of every step.",
        ),
        Equation(
            "sign", CORRECTED, "w.(h' - h*) = sum m', m' = lambda m - alpha g",
            residual(-modes.learning_rates), "alpha = -(w.r) a, as in section 4.1.",
        ),
    ]  # fmt: skip


def _whole(model: Linearization, modes: Modes, gradients: Float[np.ndarray, " step"]) -> Equation:
    """Equation 2: the linearized optimizer, run, against aggregated momentum, run."""
    drift = _drift(model)
    with double_precision():
        whole = _updates(linear_optimizer(model), gradients)
        parts = _updates(mode_optimizer(modes, range(len(model.state))), gradients)
    return Equation(
        "whole", CORRECTED, "w.h' = w.h* - sum m', m' = lambda m + alpha g",
        _relative(whole, parts + drift),
        "The linearized optimizer, run, against aggregated momentum with all modes, run, "
        f"plus the drift w.h* = {drift:.1e}.",
    )  # fmt: skip


def _drift(model: Linearization) -> float:
    return float(model.readout @ model.state)


def _momenta(
    eigenvalues: Complex[np.ndarray, " mode"],
    rates: Complex[np.ndarray, " mode"],
    gradients: Float[np.ndarray, " step"],
) -> Float[np.ndarray, " step"]:
    """Sum over modes of `m_j' = lambda_j m_j + rates_j g`, from 0."""
    m, total = np.zeros_like(rates), np.zeros(len(gradients))
    for step, gradient in enumerate(gradients):
        m = eigenvalues * m + rates * gradient
        total[step] = m.sum().real
    return total


def _linear_run(
    model: Linearization, gradients: Float[np.ndarray, " step"]
) -> Float[np.ndarray, "visited state"]:
    """States of equation 4 from h*, `visited = step + 1`."""
    states = np.empty((len(gradients) + 1, len(model.state)))
    states[0] = model.state
    for step, gradient in enumerate(gradients):
        away = model.recurrent @ (states[step] - model.state)
        states[step + 1] = model.state + away + model.input * gradient
    return states


def _relative(left: np.ndarray, right: np.ndarray) -> float:
    difference, size = np.linalg.norm(left - right), np.linalg.norm(left)
    if difference == 0:
        return 0.0
    return float(difference / size) if size > 0 else np.inf


def _updates(
    opt: AbstractOptimizer, gradients: Float[np.ndarray, " step"]
) -> Float[np.ndarray, " step"]:
    """Updates `w . h'` for given gradients."""
    return np.asarray(eqx.filter_jit(updates_on_gradients)(opt, jnp.asarray(gradients)))
