"""The record of a scorecard, in words, as a table, and the distance between two."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from lrevopt.analysis.linearization import PER_GRADIENT
from lrevopt.analysis.responses import MomentumFit, fit_response, followed
from lrevopt.checks import positive_integer
from lrevopt.text import Printed, Table, csv_text, number


class Scorecard(Printed, eqx.Module):
    """One optimizer on one task, as numbers. Host arrays in float64.

    A number that does not exist is NaN, and `reasons` has a sentence under its name. Numbers at
    fixed points are those of the optimizer `at_rest` (see `measure_scorecard`). A *mode* is a real
    mode or a pair of conjugates; the first is the one whose response to one gradient has the most
    energy. *Rates* are effective learning rates, minus the slope of the update at zero gradient.

    Momentum, at the fixed point h* = F(h*, 0):
    - `timescale`, `second_timescale`: `-1 / ln|lambda|` of the first two modes in updates, infinite
      for `|lambda| >= 1`; `mode_rate`, `second_mode_rate`: their learning rates. Where modes have
      no rates of their own, timescales are those of the slowest modes. Where eigenvectors are
      nearly parallel, a mode says little by itself; `momentum_fit` does not depend on the basis.
    - `energy_of_one`, `energy_of_two`: share of the energy of the response to one gradient that
      the first mode, and the first two together, explain: 1 minus what is missing without the
      others. Below 0 where modes cancel, so that these alone respond by more than all together.
    - `rate`: at h*; `gain`: the learning rate after many steps of a constant gradient.

    Clipping:
    - `knee`: gradient at which the tangent of the initial state's update function reaches the
      largest update; for a straight line, the largest sampled gradient. `beyond_knee`: share of
      sampled gradients that are larger.

    Schedule, along `h' = F(h, 0)` from the initial state, with live counters:
    - `schedule_largest`, `schedule_last`: largest and last rate over the first.

    Adaptation:
    - `adaptation`: rate at h* over the mean of those at the fixed points of a held gradient and of
      its negative; `adaptation_at`: that gradient's size, the 99 % quantile of sampled magnitudes
      or, where no fixed points were found, the next smaller one that has them.

    Approximate fixed points at zero gradient:
    - `manifold_dimension`: their participation ratio, 1 for a line, with each state coordinate in
      units of its root mean square; `manifold_extent`: their spread relative to that of sampled
      states.
    - `readout_angle`: degrees between the readout and the first principal component of the path
      without gradient or, where that does not move, of sampled states in the same units;
      `angle_of` says which.

    Curvature of a quadratic on which the linearized optimizer runs (see `scorecard.curvature`):
    - `stable_up_to`, `largest_stable`, `fastest`, `fastest_radius`.

    Evidence, and the numbers of the figure:
    - `fixed_points`: number of distinct ones; `converged_share`: share of sampled states from which
      the search converged.
    - `eigenvalues`, `learning_rates`: of all modes, conjugates separately; `leading`: indices of
      the first two.
    - `gradients`, `initial_update`, `later_updates`: update functions; `edges`, `density`:
      histogram of sampled gradients.
    - `schedule_rates`; `held_gradients`, `held_rates`, `held_converged`; `curvatures`, `radii`.
    """

    timescale: float
    mode_rate: float
    second_timescale: float
    second_mode_rate: float
    energy_of_one: float
    energy_of_two: float
    rate: float
    gain: float
    knee: float
    beyond_knee: float
    schedule_largest: float
    schedule_last: float
    adaptation: float
    manifold_dimension: float
    manifold_extent: float
    readout_angle: float
    stable_up_to: float
    largest_stable: float
    fastest: float
    fastest_radius: float
    reasons: dict[str, str]
    adaptation_at: float
    angle_of: str
    fixed_points: int
    converged_share: float
    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    leading: Int[np.ndarray, " first"]
    gradients: Float[np.ndarray, " wide"]
    initial_update: Float[np.ndarray, " wide"]
    later_updates: Float[np.ndarray, "later wide"]
    edges: Float[np.ndarray, " edge"]
    density: Float[np.ndarray, " bin"]
    schedule_rates: Float[np.ndarray, " visited"]
    held_gradients: Float[np.ndarray, " held"]
    held_rates: Float[np.ndarray, " held"]
    held_converged: Bool[np.ndarray, " held"]
    curvatures: Float[np.ndarray, " curvature"]
    radii: Float[np.ndarray, " curvature"]

    def momentum_fit(self, count: int = 1, *, steps: int = 200) -> MomentumFit:
        """The `count` momenta that fit the response of all modes to one gradient best.

        Over `steps` updates, as `lo.momentum_fit` does for a linearization.

        Raises `ValueError` for a count that is not from 1 to the number of modes, fewer steps than
        twice the count, so many that the response of an unstable optimizer grows by 1e90, and where
        modes have no learning rates, with the reason.
        """
        count, steps = positive_integer("count", count), positive_integer("steps", steps)
        if reason := self.reasons.get("mode_rate"):
            raise ValueError(f"No momentum fits this optimizer: {reason}.")
        if count > (size := self.eigenvalues.size):
            raise ValueError(f"`count` must be at most {size}, the number of modes, got {count}.")
        if steps < 2 * count:
            raise ValueError(f"`steps` must be at least {2 * count}, twice the count, got {steps}.")
        with np.errstate(over="ignore", invalid="ignore"):
            powers = self.eigenvalues ** np.arange(steps)[:, None]
            response = (powers @ self.learning_rates).real
        if not followed(response, size):
            raise ValueError(
                "`steps` must be so few that the response of an unstable optimizer can be "
                f"followed, but it has a mode of size {np.abs(self.eigenvalues).max():.4g}, got "
                f"{steps}."
            )
        return fit_response(response, count)

    def table(self) -> Table:
        """The numbers with their units and fields, and why some are missing."""
        fields = [*ENTRIES, "momentum_fit()", "fixed_points"]
        rows = [
            (label, said + _note(self, reason), f".{field}")
            for (label, said, reason), field in zip(scorecard_facts(self), fields, strict=True)
        ]
        reasons = [f"[{place}] {sentence}." for place, sentence in enumerate(sentences(self), 1)]
        notes = ["Learning rates are minus the slope of the update at zero gradient, positive for "
                 "an optimizer that descends. Modes are ordered by the energy of their response "
                 "to one gradient."]  # fmt: skip
        return Table("Scorecard", ("number", "value", "field"), rows, [*notes, *reasons])


def decades(value: float) -> float:
    """Decimal logarithm; NaN for values that are not positive."""
    return float(np.log10(value)) if value > 0 else np.nan


def decades_above_one(value: float) -> float:
    """Decimal logarithm of 1 + value, for quantities that may be 0."""
    return decades(1 + value)


def right_angles(value: float) -> float:
    """Degrees over 90."""
    return value / 90


def as_it_is(value: float) -> float:
    """The value itself, for shares."""
    return value


class Entry(NamedTuple):
    """A number of the scorecard: its label, its unit, and its scale in `distance`."""

    label: str
    unit: str
    scale: Callable[[float], float]


ENTRIES: dict[str, Entry] = {
    "timescale": Entry("momentum timescale", "updates", decades_above_one),
    "mode_rate": Entry("momentum learning rate", PER_GRADIENT, decades),
    "second_timescale": Entry("second timescale", "updates", decades_above_one),
    "second_mode_rate": Entry("second learning rate", PER_GRADIENT, decades),
    "energy_of_one": Entry("energy of the first mode", "share", as_it_is),
    "energy_of_two": Entry("energy of two modes", "share", as_it_is),
    "rate": Entry("learning rate at rest", PER_GRADIENT, decades),
    "gain": Entry("steady-state learning rate", PER_GRADIENT, decades),
    "knee": Entry("clipping knee", "gradient", decades),
    "beyond_knee": Entry("gradients beyond it", "share", as_it_is),
    "schedule_largest": Entry("schedule, largest / first", "times", decades),
    "schedule_last": Entry("schedule, last / first", "times", decades),
    "adaptation": Entry("adaptation, rest / held", "times", decades),
    "manifold_dimension": Entry("manifold dimension", "dimensions", decades_above_one),
    "manifold_extent": Entry("manifold extent", "share", as_it_is),
    "readout_angle": Entry("readout angle", "degrees", right_angles),
    "stable_up_to": Entry("stable up to curvature", "gradient / x", decades),
    "largest_stable": Entry("largest stable curvature", "gradient / x", decades),
    "fastest": Entry("fastest curvature", "gradient / x", decades),
    "fastest_radius": Entry("spectral radius there", "per update", as_it_is),
}
"""The numbers that are printed and compared, by field, in this order."""


def distance(first: Scorecard, second: Scorecard) -> float:
    """Root-mean-square difference of two scorecards over the numbers that are finite in both.

    Each number is put on a scale on which 1 is a large difference: a decade for a rate, gradient,
    curvature or ratio, because tasks differ in units and optimizers are tuned by factors; a decade
    of 1 + t for timescales and dimensions, which may be 0 (gradient descent has no memory); a
    right angle; the whole of a share; 1 for a spectral radius. Numbers that are missing or
    infinite in either, or not positive under a logarithm, are left out. The mean over the rest
    does not grow with their number.

    Symmetric, and 0 for equal optimizers. NaN if no number is finite in both. It is not a metric:
    pairs with different numbers in common need not satisfy the triangle inequality.
    """
    scaled = [
        [entry.scale(getattr(card, name)) for name, entry in ENTRIES.items()]
        for card in (first, second)
    ]
    both = np.isfinite(scaled).all(axis=0)
    gaps = np.subtract(*np.array(scaled)[:, both])
    return float(np.sqrt(np.mean(gaps**2))) if gaps.size else np.nan


def sentences(card: Scorecard) -> list[str]:
    """The reasons for missing numbers, each once."""
    return list(dict.fromkeys(card.reasons.values()))


def in_words(card: Scorecard, name: str) -> str:
    """A number with its unit, or the number of the sentence that says why it is missing."""
    return _plain(card, name) + _note(card, card.reasons.get(name, ""))


def _note(card: Scorecard, reason: str) -> str:
    return f" [{sentences(card).index(reason) + 1}]" if reason else ""


def _plain(card: Scorecard, name: str) -> str:
    value, unit = getattr(card, name), ENTRIES[name].unit
    if np.isnan(value):
        return number(value)
    return f"{number(100 * value)} %" if unit == "share" else f"{number(value)} {unit}"


def scorecard_facts(card: Scorecard) -> list[tuple[str, str, str]]:
    """Each number as label, value with unit, and the reason if it is missing."""
    words = {name: _plain(card, name) for name in ENTRIES}
    if np.isfinite(card.adaptation):
        words["adaptation"] += f", held at {number(card.adaptation_at)}"
    if np.isfinite(card.readout_angle):
        words["readout_angle"] += f", of the {card.angle_of}"
    facts = [
        (ENTRIES[name].label, said, card.reasons.get(name, "")) for name, said in words.items()
    ]
    found = f"{card.fixed_points}, from {number(100 * card.converged_share)} % of searches"
    return [*facts, _fitted(card), ("fixed points without gradient", found, "")]


def _fitted(card: Scorecard) -> tuple[str, str, str]:
    """The best fit by one momentum, as a fact."""
    label = "best fit by one momentum"
    try:
        fit = card.momentum_fit()
    except ValueError:
        return label, number(np.nan), card.reasons.get("mode_rate", "")
    said = f"{number(fit.timescales[0])} updates, {number(fit.learning_rates[0].real)} "
    missed = f"{PER_GRADIENT}, missing {number(100 * fit.residual)} % of the response"
    return label, said + missed, ""


def scorecard_table(card: Scorecard) -> str:
    """The numbers as CSV, one a row."""
    rows = [
        (name, getattr(card, name), entry.unit, entry.label, card.reasons.get(name, ""))
        for name, entry in ENTRIES.items()
    ]
    return csv_text(["name", "value", "unit", "label", "reason"], rows)
