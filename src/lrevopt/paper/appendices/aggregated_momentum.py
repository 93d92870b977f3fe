"""Appendix C, run: each printed equation beside what follows from the one before it.

An optimizer is linearized at a fixed point h* without gradient, J = dF/dh and B = dF/dg, and fed
random gradients from there. With the left eigenvectors of J as columns of U, scaled so that the
right ones r_j have unit length, the chain is

    (4)  h' = h* + J (h - h*) + B g
    (5)  v' = v* + Lambda (v - v*) + a g                v = U'h,  v* = U'h*,  a = U'B
    (6)  v_j' = lambda_j v_j + a_j g + (1 - lambda_j) v*_j
    (2)  x' = x + w.h' = x + w.h* - sum_j m_j'          m_j' = lambda_j m_j + alpha_j g
         alpha_j = -(w . r_j) a_j

Where the printed form differs, both are measured: (5) has v + v* in place of v - v*, which goes on
into the constant of (6); alpha_j is printed as a_j, without the readout, so that its size would
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

from lrevopt.analysis.fixed_points import is_converged
from lrevopt.analysis.linearization import (
    Linearization,
    eigenmodes,
    linear_optimizer,
    linearize,
    mode_optimizer,
)
from lrevopt.analysis.precision import AnyArray, double_precision
from lrevopt.analysis.update_functions import transition_table
from lrevopt.checks import finite, positive_integer
from lrevopt.inner_loop.steps import visited_states
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
    """All equations in order, and what the optimizer is once they are applied.

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
    model = linearize(optimizer, state)
    rest = model.state
    speed = np.sum((model.next_state - rest) ** 2) / 2
    if not is_converged(rest[None], speed[None])[0]:
        raise ValueError(
            f"`state` must be a fixed point without gradient, but has speed {speed:.1e}."
        )
    # A fixed point is found to some digits; the derivation is about one that is exact.
    model = eqx.tree_at(lambda m: m.next_state, model, rest)
    modes = eigenmodes(model)
    with double_precision():
        gradients = scale * np.asarray(jr.normal(key, (steps,), jnp.float64))

    h, near = _linear_run(model, gradients), _linear_run(model, gradients / 10)
    error = _nonlinearity(optimizer, h, gradients, rest)
    smaller = _nonlinearity(optimizer, near, gradients / 10, rest)
    g = gradients[:, None]
    eigenvalues, left = modes.eigenvalues, modes.left
    v, v_rest, a = h @ left.T, left @ rest, left @ model.input
    before, after = v[:-1], v[1:]
    moved = (h[1:] - rest) @ model.readout
    weights = model.readout @ modes.right

    def momentum(rates: Complex[np.ndarray, " mode"]) -> Float[np.ndarray, " step"]:
        """Sum over modes of `m_j' = lambda_j m_j + rates_j g`, from rest."""
        m, total = np.zeros_like(rates), np.zeros(steps)
        for step, gradient in enumerate(gradients):
            m = eigenvalues * m + rates * gradient
            total[step] = m.sum().real
        return total

    with double_precision():
        whole = _updates(linear_optimizer(model), gradients)
        parts = _updates(mode_optimizer(modes, range(len(rest))), gradients)
    drift = float(model.readout @ rest)

    return Derivation(
        equations=(
            Equation(
                "4", PRINTED, "F(h, g) ~ h* + J (h - h*) + B g", error,
                "An approximation: relative to the distance from h*, it should vanish with the "
                f"gradients; at a tenth of them it is {smaller:.1e}.",
            ),
            Equation(
                "5", PRINTED, "v' = v* + Lambda (v + v*) + a g",
                _relative(after, v_rest + eigenvalues * (before + v_rest) + g * a),
                "The sign of v* is a slip: no fixed point, unless v* is 0.",
            ),
            Equation(
                "5", CORRECTED, "v' = v* + Lambda (v - v*) + a g",
                _relative(after, v_rest + eigenvalues * (before - v_rest) + g * a),
                "Equation 4 times U'.",
            ),
            Equation(
                "6", PRINTED, "v' = lambda v + a g + (1 + lambda) v*",
                _relative(after, eigenvalues * before + g * a + (1 + eigenvalues) * v_rest),
                "The constant is not printed; this is the one that the printed equation 5 gives.",
            ),
            Equation(
                "6", CORRECTED, "v' = lambda v + a g + (1 - lambda) v*",
                _relative(after, eigenvalues * before + g * a + (1 - eigenvalues) * v_rest),
                "Momentum in every mode, up to a constant that keeps it at v*.",
            ),
            Equation(
                "learning rate", PRINTED, "w.(h' - h*) = sum m', m' = lambda m + a g",
                _relative(moved, momentum(a)),
                "The readout is left out, so that a depends on the length of eigenvectors.",
            ),
            Equation(
                "learning rate", CORRECTED, "w.(h' - h*) = sum m', m' = lambda m + (w.r) a g",
                _relative(moved, momentum(weights * a)),
                "What a mode adds to the parameter is its coordinate times w.r.",
            ),
            Equation(
                "sign", PRINTED, "w.(h' - h*) = sum m', m' = lambda m + alpha g",
                _relative(moved, momentum(modes.learning_rates)),
                "Steps are added, so the positive rate of a descending optimizer would climb: "
                "2 is the opposite of every step.",
            ),
            Equation(
                "sign", CORRECTED, "w.(h' - h*) = sum m', m' = lambda m - alpha g",
                _relative(moved, momentum(-modes.learning_rates)),
                "alpha = -(w.r) a, as in section 4.1.",
            ),
            Equation(
                "whole", CORRECTED, "w.h' = w.h* - sum m', m' = lambda m + alpha g",
                _relative(whole, parts + drift),
                "The linearized optimizer, run, against aggregated momentum with all modes, run, "
                f"plus the drift w.h* = {drift:.1e}.",
            ),
        ),
        eigenvalues=eigenvalues,
        learning_rates=modes.learning_rates,
        drift=drift,
    )  # fmt: skip


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


def _nonlinearity(
    optimizer: AbstractOptimizer,
    states: Float[np.ndarray, "visited state"],
    gradients: Float[np.ndarray, " step"],
    rest: Float[np.ndarray, " state"],
) -> float:
    """Residual of equation 4 along a linear run, relative to the distance from h*."""
    true = transition_table(optimizer, states[:-1], gradients)
    return _relative(true - rest, states[1:] - rest)


def _relative(left: np.ndarray, right: np.ndarray) -> float:
    difference, size = np.linalg.norm(left - right), np.linalg.norm(left)
    if difference == 0:
        return 0.0
    return float(difference / size) if size > 0 else np.inf


def _updates(
    opt: AbstractOptimizer, gradients: Float[np.ndarray, " step"]
) -> Float[np.ndarray, " step"]:
    """Steps `w . h'` in answer to given gradients."""
    return np.asarray(_scan_updates(opt, jnp.asarray(gradients)))


@eqx.filter_jit
def _scan_updates(opt, gradients):
    return visited_states(opt, gradients)[1:] @ opt.readout
