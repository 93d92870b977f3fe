"""A learned optimizer that is momentum: how near it is, and by which mode (paper, B.1).

Early in training on linear regression a GRU may act as tuned momentum does, before it gets
better. A snapshot is judged by its losses, not by its weights. The paper's words are that it
"performs as well as momentum", and what it calls performance is the meta-objective: the *mimic* is
the snapshot whose mean meta-objective on selection problems is nearest to tuned momentum's. How
near loss curves are is measured on it,

    gap(a, b) = sqrt(mean over k of (log10 a_k - log10 b_k)^2)

in decades, with a_k the *median* loss over problems after k = 1, ..., 100 updates: a mean follows
the heavy tail of first losses and any run that diverges, and the last updates compare losses of
1e-5 that no meta-objective sees. Modes are measured afterwards: if the paper is right, one of them
is momentum, and its learning rate and eigenvalue are the analytic optimum of this task.

Two modes that are nearly parallel have large learning rates of opposite signs, and only their sum
acts as momentum. The sum over all modes does not depend on how they share it. One unit of gradient
moves the parameter by sum(alpha) in the first update and by sum(alpha / (1 - lambda)) in total, as
momentum would with

    learning_rate = sum(alpha)        momentum = 1 - sum(alpha) / sum(alpha / (1 - lambda))

The one momentum that is nearest to what all modes do is the best fit of their impulse response
(`analysis.responses`), where a single mode of a nearly parallel pair is none.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Complex, Float, Key

from lrevopt.analysis.convergence import linearize_at_fixed_point
from lrevopt.analysis.linearization import Linearization, dominant_mode, eigenmodes, mode_optimizer
from lrevopt.analysis.projections import Projection, fit_projection
from lrevopt.analysis.responses import MomentumFit, fit_response, momentum_fit
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import gradient_axis, update_table
from lrevopt.checks import one_of
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers import Momentum
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Facts, number, percent

COMPONENTS = 8
"""Principal components whose share of the variance is kept."""

SCORES, CURVES = "meta-objectives", "loss curves"
"""By what a snapshot may be chosen: equal performance, or the nearest loss curve."""

UPDATES = 100
"""Updates over which loss curves are compared: half of a run, in which losses matter."""

PATHS = 20
"""Parameters of each problem whose states are kept, at most."""


class MomentumMimic(eqx.Module):
    """One optimizer beside momentum (Figure 14). Host arrays in float64, losses as they were run.

    *Projected* means: minus the mean of the sampled states, times their principal components
    (zeros beyond the size of the state). The first is signed so that a positive gradient adds to
    it. Losses are counted from the start.

    - `step`: meta-step of the snapshot.
    - `explained_variance`: share of the variance of sampled states in each component.
    - `paths`: projected states of up to 20 parameters (here all five) of one example problem, the
      first that stayed finite; `fixed_point`: the fixed point at zero gradient, projected.
    - `shifts`: displacements from the fixed point along the first component, in units of the
      state, symmetric around 0, as far as test runs go; `gradients`: a symmetric axis over the
      central 98 % of pooled gradients; `shift_updates`: update functions of the displaced states.
    - `eigenvalues`, `learning_rates`: of the modes at the fixed point, slowest first;
      `dominant_mode`: index of the mode that gives most of the steady-state gain.
    - `optimum`, `tuned`: `learning_rate` and `momentum` of analytically best and of tuned
      momentum.
    - `names`, `losses`: on the same test problems, `learned` (the whole optimizer), `one_mode`
      (its dominant mode alone, with its conjugate if it has one, from its fixed point), `momentum`
      (tuned), `analytic` and, in records of today, `one_momentum` (the best fit of its impulse
      response by one momentum). Infinite where a run diverged.
    - `chosen_by`: what made this snapshot the mimic, `SCORES` or `CURVES` (records of version 0.1).
    """

    step: int
    explained_variance: Float[np.ndarray, " component"]
    paths: Float[np.ndarray, "path visited component"]
    fixed_point: Float[np.ndarray, " component"]
    gradients: Float[np.ndarray, " grid"]
    shifts: Float[np.ndarray, " shift"]
    shift_updates: Float[np.ndarray, "shift grid"]
    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    dominant_mode: int
    optimum: dict[str, float]
    tuned: dict[str, float]
    names: tuple[str, ...]
    losses: Float[np.ndarray, "optimizer problem visited"]
    chosen_by: str = "loss curves"

    @property
    def dominant_learning_rate(self) -> float:
        """Size |alpha| of the dominant mode's learning rate."""
        return float(np.abs(self.learning_rates[self.dominant_mode]))

    @property
    def dominant_momentum(self) -> float:
        """Size |lambda| of the dominant mode's eigenvalue: its timescale."""
        return float(np.abs(self.eigenvalues[self.dominant_mode]))

    @property
    def together(self) -> dict[str, float]:
        """`learning_rate` and `momentum` of the momentum that all modes are together."""
        (rate,), (momentum,) = all_together(self.eigenvalues[None], self.learning_rates[None])
        return {"learning_rate": float(rate), "momentum": float(momentum)}

    def distances(self, reference: dict[str, float]) -> dict[str, float]:
        """Relative differences of the dominant mode from `optimum` or `tuned`, signed.

        Of the learning rate, of the momentum, and of the forgetting 1 - momentum, which says how
        different two long memories are.
        """
        best, rate = reference["momentum"], reference["learning_rate"]
        return {
            "learning_rate": self.dominant_learning_rate / rate - 1,
            "momentum": self.dominant_momentum / best - 1,
            "forgetting": (1 - self.dominant_momentum) / (1 - best) - 1,
        }

    def curve(self, name: str) -> Float[np.ndarray, " visited"]:
        """Mean loss over test problems of one of `names`; `ValueError` for another name."""
        runs = self.losses[self.names.index(one_of("name", name, self.names))]
        return runs.mean(axis=0, dtype=float)  # single precision overflows near divergence

    @property
    def fit(self) -> MomentumFit:
        """The best fit of the impulse response of all modes together by one momentum."""
        steps = np.arange(self.losses.shape[-1] - 1)[:, None]
        response = np.sum(self.learning_rates * self.eigenvalues**steps, axis=1).real
        return fit_response(response, 1)

    def median_curve(self, name: str) -> Float[np.ndarray, " visited"]:
        """Median loss over test problems of one of `names`; infinite where half have diverged."""
        runs = self.losses[self.names.index(one_of("name", name, self.names))].astype(float)
        return np.median(runs, axis=0)

    def gap(self, first: str, second: str, updates: int = UPDATES) -> float:
        """Distance of two median loss curves over the first updates, in decades.

        Infinite if more than half of the problems diverged by then.
        """
        ours, theirs = (self.median_curve(name)[1 : updates + 1] for name in (first, second))
        return float(curve_gaps(ours[None], theirs)[0])

    def score(self, name: str) -> float:
        """Mean of mean(losses) / losses[0] over test problems; infinite if any run diverged."""
        runs = self.losses[self.names.index(one_of("name", name, self.names))].astype(float)
        finite = np.isfinite(runs).all()
        return float(np.mean(runs.mean(axis=1) / runs[:, 0])) if finite else np.inf


def all_together(
    eigenvalues: Complex[np.ndarray, "point mode"],
    learning_rates: Complex[np.ndarray, "point mode"],
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Learning rate and momentum with the first and the total response of all modes (see above).

    Momentum is NaN where the total response is 0, as before training.
    """
    rates = learning_rates.sum(axis=1).real
    gains = (learning_rates / (1 - eigenvalues)).sum(axis=1).real
    with np.errstate(divide="ignore", invalid="ignore"):
        return rates, np.where(gains == 0, np.nan, 1 - rates / gains)


def curve_gaps(
    curves: Float[np.ndarray, "curve visited"], reference: Float[np.ndarray, " visited"]
) -> Float[np.ndarray, " curve"]:
    """Root mean square over steps of the difference of log10, in decades.

    Infinite where the curve or the reference is not finite and positive throughout.
    """
    proper = np.all(np.isfinite(curves) & (curves > 0), axis=1)
    if not np.all(np.isfinite(reference) & (reference > 0)):
        return np.full(len(curves), np.inf)
    kept = np.where(proper[:, None], curves, 1.0)
    gaps = np.sqrt(np.mean((np.log10(kept) - np.log10(reference)) ** 2, axis=1))
    return np.where(proper, gaps, np.inf)


def measure_mimic(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    tuned: Momentum,
    optimum: Momentum,
    *,
    key: Key[Array, ""],
    test_key: Key[Array, ""],
    step: int = 0,
    chosen_by: str = SCORES,
    problems: int = 64,
    test_problems: int = 256,
    steps: int = 200,
) -> MomentumMimic:
    """Compare an optimizer, and its dominant mode alone, with momentum.

    States are sampled on `problems` problems from `key`; losses are those of `test_problems`
    problems from `test_key`. `tuned` and `optimum` are tuned and analytically best momentum.
    `step` is the meta-step of the snapshot and `chosen_by` what made it the mimic, for the record.

    Raises `ValueError` for counts below 1, an optimizer that diverges on every problem, or one
    whose modes are near-defective (see `eigenmodes`).
    """
    sampled = sample_states(
        optimizer, task, key=key, problems=problems, steps=steps, parameters=PATHS
    )
    cloud = sampled.states.reshape(-1, sampled.states.shape[-1])
    _, model = linearize_at_fixed_point(optimizer, sampled)
    fixed_point, modes = model.state, eigenmodes(model)
    dominant = dominant_mode(modes)
    projection = _upright(fit_projection(evenly_spaced(cloud, 100_000), COMPONENTS), model)
    direction = projection.components[0]
    reach = float(np.quantile(np.abs((cloud - fixed_point) @ direction), 0.95))
    shifts = np.linspace(-reach, reach, 5)
    gradients = gradient_axis(sampled.pooled_gradients)
    contestants = {
        "learned": optimizer,
        "one_mode": mode_optimizer(modes, dominant),
        "momentum": tuned,
        "analytic": optimum,
        "one_momentum": _best_momentum(model, steps),
    }
    evaluation = evaluate(contestants, task, problems=test_problems, steps=steps, key=test_key)
    return MomentumMimic(
        step=step,
        explained_variance=projection.explained_variance,
        paths=projection(sampled.states[: paths_of_one(task, key)]),
        fixed_point=projection(fixed_point),
        gradients=gradients,
        shifts=shifts,
        shift_updates=update_table(optimizer, fixed_point + shifts[:, None] * direction, gradients),
        eigenvalues=modes.eigenvalues,
        learning_rates=modes.learning_rates,
        dominant_mode=dominant,
        optimum=hyperparameters(optimum),
        tuned=hyperparameters(tuned),
        names=evaluation.names,
        losses=np.where(evaluation.finite()[..., None], evaluation.losses, np.inf),
        chosen_by=one_of("chosen_by", chosen_by, (SCORES, CURVES)),
    )


def _best_momentum(model: Linearization, steps: int) -> Momentum:
    """The best fit of the impulse response by one momentum, as an optimizer."""
    fit = momentum_fit(model, steps=max(2, steps))
    rate, momentum = fit.learning_rates.real[0], fit.eigenvalues.real[0]
    return Momentum(as_float(rate), as_float(momentum))


def paths_of_one(task: AbstractTask, key: Key[Array, ""]) -> int:
    """How many paths `sample_states` keeps of each problem of a task without groups."""
    return min(PATHS, eqx.filter_eval_shape(task.sample, key).initial_parameters.size)


def _upright(projection: Projection, model: Linearization) -> Projection:
    """The projection with its first component signed so that a positive gradient adds to it."""
    if projection.components[0] @ model.input >= 0:
        return projection
    signs = np.ones(len(projection.components))
    signs[0] = -1.0
    turned = projection.components * signs[:, None]
    return eqx.tree_at(lambda p: p.components, projection, turned)


def hyperparameters(optimizer: Momentum) -> dict[str, float]:
    """Learning rate and momentum as numbers."""
    return {
        "learning_rate": float(optimizer.learning_rate),
        "momentum": float(optimizer.momentum),
    }


def mimic_facts(record: MomentumMimic) -> Facts:
    """The optimizer that is momentum, as pairs of a name and a sentence."""
    off, best = record.distances(record.optimum), record.optimum
    fit, alone = record.fit, "one_momentum" if "one_momentum" in record.names else "one_mode"
    nearest = {SCORES: "whose mean meta-objective is", CURVES: "whose loss curve is"}
    return [
        ("Snapshot", f"after {record.step} meta-steps, of all of one run the one "
         f"{nearest[record.chosen_by]} nearest to tuned momentum's on selection problems"),
        ("Meta-objective", f"{number(record.score('learned'))} on test problems, of tuned momentum "
         f"{number(record.score('momentum'))}"),
        ("First principal component", f"{100 * record.explained_variance[0]:.1f} % of the "
         "variance of sampled states"),
        ("Loss curves", f"{number(record.gap('learned', 'momentum'))} decades from tuned "
         f"momentum's, {number(record.gap('learned', 'analytic'))} from analytically best "
         f"momentum's (medians over problems, first {UPDATES} updates)"),
        ("Its dominant mode", f"learning rate {number(record.dominant_learning_rate)}, "
         f"eigenvalue {number(record.dominant_momentum)}; the optimum is "
         f"{number(best['learning_rate'])} and {number(best['momentum'])}, "
         f"{difference(off['learning_rate'])} and {difference(off['momentum'])} away"),
        ("Its best fit by one momentum", f"({number(float(fit.learning_rates[0].real))}, "
         f"{number(float(fit.eigenvalues[0].real))}), which misses {number(100 * fit.residual)} % "
         "of the impulse response"),
        ("That momentum alone" if alone == "one_momentum" else "That mode alone",
         f"{number(record.gap(alone, 'learned'))} decades from the whole optimizer, "
         f"meta-objective {number(record.score(alone))}"),
    ]  # fmt: skip


def difference(relative: float) -> str:
    """Size of a relative difference in percent, to two digits."""
    return percent(abs(relative), 2)
