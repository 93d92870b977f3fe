"""An optimizer near a point: its Jacobians, and its modes (paper, 5.1 and appendix C).

    F(h, g) ~ F(h*, g*) + J (h - h*) + B (g - g*)          (equation 3; there F(h*, g*) = h*)

With `J = R diag(lambda) R^-1` and l_m the rows of R^-1, coordinate m obeys

    v_m' = lambda_m v_m + g        x' = x - sum_m alpha_m v_m'        alpha_m = -(w . r_m)(l_m . B)

which is momentum with coefficient lambda_m and learning rate alpha_m. (The paper's appendix C
leaves out the readout, and writes v + v* where v - v* follows.) Modes are complex: a pair of
conjugates is one damped oscillation.
"""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Complex, Float

from lrevopt.analysis.impulse import response_of
from lrevopt.analysis.precision import AnyArray, as_double, double_precision, double_states
from lrevopt.analysis.resolution import expand
from lrevopt.checks import gradient_value, instance
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.linear import LinearOptimizer, ModeOptimizer
from lrevopt.text import Printed, Table, number, signed_complex

RESPONSE_ERROR = 1e-6
"""Relative error of the impulse response rebuilt from modes beyond which they are refused."""

DIGITS = 6
"""Significant digits in tables: eigenvalues close to 1 differ late."""

PER_GRADIENT = "x / gradient"
"""Unit of learning rates: a step of the parameter for each unit of gradient."""


class Linearization(Printed, eqx.Module):
    """First-order expansion of an optimizer at `(state, gradient)`. Host arrays in float64.

    `recurrent` is J = dF/dh, `input` is B = dF/dg, `readout` is w, `next_state` is F(h, g) there.
    `moving`: F changes the state by more than round-off, so it is no fixed point, and modes
    describe how two nearby states separate. `one_sided`: F has no derivative there because of a
    root of 0, and limits from above are taken. Prints as a table.
    """

    recurrent: Float[np.ndarray, "state state"]
    input: Float[np.ndarray, " state"]
    readout: Float[np.ndarray, " state"]
    state: Float[np.ndarray, " state"]
    gradient: float
    next_state: Float[np.ndarray, " state"]
    moving: bool = False
    one_sided: bool = False

    @property
    def speed(self) -> float:
        """`q = 1/2 ||F(h, g) - h||^2`, 0 at a fixed point."""
        moved = self.next_state - self.state
        return float(moved @ moved) / 2

    @property
    def differentiable(self) -> bool:
        """Whether J and B are finite."""
        return bool(np.isfinite(self.recurrent).all() and np.isfinite(self.input).all())

    def remarks(self) -> list[str]:
        """Sentences that warn: the point is no fixed point, or F has no derivative there."""
        remarks = []
        if self.moving:
            remarks.append(moving_remark(self.speed))
        if self.one_sided and self.differentiable:
            remarks.append("F has no derivative at this state; limits from above stand in.")
        if not self.differentiable:
            remarks.append("Derivatives of F are not finite at this state.")
        return remarks

    def table(self) -> Table:
        """Size, spectral radius, learning rates and speed, in words."""
        radius = np.nan
        if self.differentiable:
            radius = np.abs(np.linalg.eigvals(self.recurrent)).max()
        try:
            gain = steady_state_gain(self)
        except ValueError:
            gain = np.nan
        rows = [
            ("coordinates of the state", number(len(self.state)), "", ".state"),
            ("gradient", number(self.gradient, DIGITS), "gradient", ".gradient"),
            ("spectral radius of J", number(float(radius), DIGITS), "per update", ".recurrent"),
            ("effective learning rate, -w . B",
             number(float(-self.readout @ self.input), DIGITS), PER_GRADIENT, ".readout, .input"),
            ("steady-state gain, -w . (I - J)^-1 B", number(gain, DIGITS), PER_GRADIENT, ""),
            ("speed, 1/2 ||F(h, g) - h||^2", number(self.speed), "state^2",
             ".speed"),
        ]  # fmt: skip
        notes = [
            "F(h, g) ~ F(h*, g*) + J (h - h*) + B (g - g*), and the update is w . F(h, g). "
            "Learning rates are positive for an optimizer that descends.",
            *self.remarks(),
        ]
        heads = ("number", "value", "unit", "made from")
        return Table("Linearized optimizer", heads, rows, notes)


def moving_remark(speed: float) -> str:
    """What is said of a state that is no fixed point."""
    return (
        f"F moves this state, with speed {number(speed)}: it is no fixed point, and rates and "
        "eigenvalues are those of the moment."
    )


PRINTED_MODES = 16
"""Rows of a printed table of modes; the dominant mode is always among them."""


class Modes(Printed, eqx.Module):
    """Eigenmodes of a linearized optimizer, slowest (largest |eigenvalue|) first.

    `right` holds r_m as columns and `left` l_m as rows, scaled so that `left @ right` is the
    identity. `learning_rates` are the alpha_m, complex like the eigenvalues, positive for a
    descending mode. They sum to the effective learning rate, `learning_rates / (1 - eigenvalues)`
    to the steady-state gain. `speed` and `moving` are the linearization's. Prints as a table.
    """

    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    right: Complex[np.ndarray, "state mode"]
    left: Complex[np.ndarray, "mode state"]
    speed: float = 0.0
    moving: bool = False

    @property
    def dominant(self) -> int:
        """Index of the mode that gives most of the steady-state gain (see `dominant_mode`)."""
        return dominant_mode(self)

    @property
    def conditions(self) -> Float[np.ndarray, " mode"]:
        """`||r_m|| ||l_m||` of each: 1 for eigenvectors at right angles, large for nearly parallel.

        Learning rates of such modes cancel; see `hankel_values` and `momentum_fit`.
        """
        return np.linalg.norm(self.right, axis=0) * np.linalg.norm(self.left, axis=1)

    def table(self) -> Table:
        """A row for each mode: eigenvalue, timescale, learning rate; the dominant one is marked."""
        pair = {self.dominant, conjugate_mode(self, self.dominant)}
        conditions = self.conditions
        rows = [
            (
                str(index),
                signed_complex(value, DIGITS),
                number(abs(value), DIGITS),
                number(conditions[index]),
                number(timescale(value), 4),
                signed_complex(rate, DIGITS),
                "dominant" if index in pair else "",
            )
            for index, (value, rate) in enumerate(
                zip(self.eigenvalues, self.learning_rates, strict=True)
            )
            if index < PRINTED_MODES or index in pair
        ]
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.sum(self.learning_rates / (1 - self.eigenvalues)).real
        notes = [
            "Each mode is momentum, v' = eigenvalue v + g and x' = x - learning rate v'. "
            "Timescale: updates until v falls to 1/e. Condition: of the eigenvalue, 1 where "
            "eigenvectors are at right angles; modes of large conditions have learning rates that "
            "cancel, and `hankel_values` and `momentum_fit` say how many momenta there are.",
            f"Learning rates sum to {number(np.sum(self.learning_rates).real, DIGITS)}, the "
            f"effective learning rate; learning rate / (1 - eigenvalue) to {number(gain, DIGITS)}, "
            "the steady-state gain, of which the dominant mode gives most.",
        ]
        if np.isnan(self.learning_rates).any():
            notes[1:] = ["The Jacobian is near-defective: modes have no learning rates of their "
                         "own, and the dominant mode is the slowest."]  # fmt: skip
        if self.moving:
            notes.append(moving_remark(self.speed))
        if (hidden := len(self.eigenvalues) - len(rows)) > 0:
            notes.append(f"{hidden} faster modes are not printed: `.eigenvalues` has all of them.")
        heads = ("mode", "eigenvalue", "size", "condition", "timescale (updates)",
                 f"learning rate ({PER_GRADIENT})", "")  # fmt: skip
        return Table("Modes of a linearized optimizer, slowest first", heads, rows, notes)


def linearize(
    opt: AbstractOptimizer,
    state: Float[AnyArray, " state"],
    gradient: float | Float[AnyArray, ""] = 0.0,
) -> Linearization:
    """Jacobians of the transition at any point (paper, equation 3).

    The state need not be a fixed point: see `moving`. Computed by forward derivatives in float64.
    Where F has no derivative because of a root of 0, the limit from above is taken (`one_sided`).

    Raises `ValueError` for the state of another optimizer, entries that are not finite or whose
    squares overflow, and a point where F or a derivative is not finite.
    """
    model = local_model(opt, state, gradient)
    if not (model.differentiable and np.isfinite(model.next_state).all()):
        what = "derivatives" if np.isfinite(model.next_state).all() else "values"
        raise ValueError(
            f"`state` must be a point where F has finite derivatives, but those of "
            f"{type(opt).__name__} at gradient {model.gradient:g} have {what} that are not finite."
        )
    return model


def local_model(
    opt: AbstractOptimizer,
    state: Float[AnyArray, " state"],
    gradient: float | Float[AnyArray, ""] = 0.0,
) -> Linearization:
    """`linearize`, also where derivatives are not finite: see `Linearization.differentiable`."""
    point = double_states(opt, state)
    gradient = gradient_value("gradient", gradient)
    with double_precision():
        opt = as_double(opt)
        found = expand(opt, point[None], np.full(1, gradient))
        readout = np.asarray(opt.readout)
    return Linearization(
        recurrent=found.recurrent[0],
        input=found.input[0],
        readout=readout,
        state=point,
        gradient=gradient,
        next_state=found.following[0],
        moving=not found.at_rest(point[None])[0],
        one_sided=bool(found.one_sided[0]),
    )


def check_differentiable(linearization: Linearization) -> None:
    """Raise `ValueError` unless this is a linearization, with finite derivatives."""
    instance("linearization", linearization, Linearization, "a linearization of `linearize`")
    if not linearization.differentiable:
        raise ValueError("`linearization.recurrent` must be finite, got entries that are not.")


def eigenmodes(linearization: Linearization) -> Modes:
    """Split a linearized optimizer into modes that each act like momentum (paper, 5.1 and C).

    Mode m has the velocity `v_m' = eigenvalues_m v_m + g` and the update `-learning_rates_m v_m'`.

    Raises `ValueError` where J is not finite, or near-defective: where the impulse response rebuilt
    from the modes differs from that of J. (A bound on the condition of eigenvectors would also
    refuse Adam at its fixed point, where coordinates differ by 1e8.)
    """
    check_differentiable(linearization)
    J, B, w = linearization.recurrent, linearization.input, linearization.readout
    eigenvalues, right = np.linalg.eig(J)
    # A stable sort: conjugates, which `eig` returns next to each other, stay together.
    slowest = np.argsort(-np.abs(eigenvalues), kind="stable")
    eigenvalues, right = eigenvalues[slowest].astype(complex), right[:, slowest].astype(complex)
    try:
        left = np.linalg.inv(right)
    except np.linalg.LinAlgError:
        left = np.full_like(right, np.nan)
    rates = -(w @ right) * (left @ B)
    rates = np.where(eigenvalues.imag == 0, rates.real, rates)
    modes = Modes(eigenvalues=eigenvalues, learning_rates=rates, right=right, left=left,
                  speed=linearization.speed, moving=linearization.moving)  # fmt: skip
    # In units that grow as the fastest mode does, which would hide what the others miss.
    growth = max(1.0, float(np.abs(eigenvalues[0])))
    response = response_of(w, J / growth, B, 2 * len(J))
    slowed = eqx.tree_at(lambda m: m.eigenvalues, modes, eigenvalues / growth)
    rebuilt = mode_responses(slowed, 2 * len(J)).sum(axis=0).real
    error = np.abs(rebuilt - response).max()
    size = np.abs(response).max() or np.linalg.norm(w) * np.linalg.norm(B)
    if not error <= RESPONSE_ERROR * size:
        missed = f"miss the impulse response of size {np.abs(response).max():.3g} by {error:.1e}"
        raise ValueError(
            "`linearization.recurrent` must have independent eigenvectors, but is near-defective: "
            f"its modes {'are linearly dependent' if np.isnan(left).any() else missed}."
        )
    return modes


def impulse_response(linearization: Linearization, steps: int) -> Float[np.ndarray, " step"]:
    """Updates `w J^k B`, k = 0, 1, ..., that one unit of gradient causes."""
    model = linearization
    return response_of(model.readout, model.recurrent, model.input, steps)


def mode_responses(modes: Modes, steps: int) -> Complex[np.ndarray, "mode step"]:
    """Each mode's part `-alpha_m lambda_m^k` of the impulse response."""
    return -modes.learning_rates[:, None] * modes.eigenvalues[:, None] ** np.arange(steps)


def steady_state_gain(linearization: Linearization) -> float:
    """Learning rate after many steps of one gradient, `-w . (I - J)^-1 B`.

    Momentum has `learning_rate / (1 - momentum)`. Raises `ValueError` where J has the
    eigenvalue 1, up to its round-off: the response then grows without bound.
    """
    check_differentiable(linearization)
    from scipy.linalg import matrix_balance  # slow to import

    J = linearization.recurrent
    matrix = np.eye(len(J)) - J
    nearest = np.abs(np.linalg.eigvals(matrix)).min()
    # In other coordinates an eigenvalue 1 is lost to round-off, but I - J is as good as singular.
    singular = np.linalg.svd(matrix_balance(matrix, permute=False)[0], compute_uv=False)
    lost = singular[-1] <= np.finfo(float).eps * len(J) * singular[0]
    if lost or nearest <= np.finfo(float).eps * max(1.0, np.abs(np.diag(J)).max()):
        raise ValueError(
            "`linearization.recurrent` must not have the eigenvalue 1, or there is no steady "
            f"state: one lies within {nearest:.1e} of it."
        )
    return float(-linearization.readout @ np.linalg.solve(matrix, linearization.input))


def linear_optimizer(
    linearization: Linearization, start: Float[AnyArray, " state"] | None = None
) -> LinearOptimizer:
    """The linearized optimizer as one that runs (paper, equation 4).

    Its initial state is `start`, by default the point of expansion. Raises `ValueError` for a start
    of another length.
    """
    instance("linearization", linearization, Linearization, "a linearization of `linearize`")
    return LinearOptimizer(
        linearization.state,
        linearization.recurrent,
        linearization.input,
        linearization.readout,
        gradient=linearization.gradient,
        next_state=linearization.next_state,
        start=start,
    )


def mode_optimizer(modes: Modes, indices: int | Sequence[int]) -> ModeOptimizer:
    """Selected modes and their conjugates as an optimizer of their own (paper, equation 6).

    `indices` count from the slowest, 0. All modes start at 0, and the constant update `w . h*` is
    left out. Raises `ValueError` for no index or one out of range, and for rates that the default
    floating type does not hold.
    """
    instance("modes", modes, Modes, "the modes of `eigenmodes`")
    count = len(modes.eigenvalues)
    chosen = np.atleast_1d(np.asarray(indices))
    integers = chosen.size > 0 and np.issubdtype(chosen.dtype, np.integer)
    if not (integers and chosen.ndim == 1 and np.all((chosen >= 0) & (chosen < count))):
        raise ValueError(f"`indices` must be integers from 0 to {count - 1}, got {indices!r}.")
    kept = sorted({i for index in chosen.tolist() for i in (index, conjugate_mode(modes, index))})
    eigenvalues, rates = modes.eigenvalues[kept], modes.learning_rates[kept]
    return ModeOptimizer(eigenvalues, rates)


def timescale(eigenvalue: complex) -> float:
    """Updates in which a mode falls to 1/e, `-1 / ln|lambda|`; infinite where it does not fall."""
    size = abs(eigenvalue)
    if size >= 1:
        return np.inf
    return float(-1 / np.log(size)) if size > 0 else 0.0


def conjugate_mode(modes: Modes, index: int) -> int:
    """Index of a mode's conjugate, by value and by any rate, as values repeat; its own if real."""
    value, rate = modes.eigenvalues[index], modes.learning_rates[index]
    if value.imag == 0:
        return index
    gap = np.abs(modes.eigenvalues - np.conj(value))
    return int(np.argmin(gap + np.nan_to_num(np.abs(modes.learning_rates - np.conj(rate)))))


def dominant_mode(modes: Modes) -> int:
    """Index of the mode that gives most of the steady-state gain; of a conjugate pair, the first.

    The slowest mode may not move parameters at all: Adam's is `b2^k`.
    """
    gap = np.abs(1 - modes.eigenvalues)
    gains = np.abs(modes.learning_rates) / np.maximum(gap, np.finfo(float).tiny)
    index = int(np.argmax(gains))
    return min(index, conjugate_mode(modes, index))
