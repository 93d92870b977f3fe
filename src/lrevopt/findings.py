"""What the analysis found, in words and numbers: pairs of a name and a sentence."""

import math

import numpy as np

from lrevopt.analysis.manifolds import Manifold
from lrevopt.analysis.mechanisms import Mechanisms
from lrevopt.analysis.mode_shifts import ModeShifts
from lrevopt.analysis.parameter_types import ParameterTypes
from lrevopt.interventions import Interventions, Streams

Facts = list[tuple[str, str]]


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, with words for what is not a number."""
    if math.isnan(value):
        return "not available"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def mechanism_facts(record: Mechanisms) -> Facts:
    """What the analysis found, as pairs of a name and a sentence."""
    slow = int(record.slow_mode)
    eigenvalue, rate = record.eigenvalues[slow], record.learning_rates[slow]
    own = "none of its own (the Jacobian is near-defective)" if np.isnan(rate) else _complex(rate)
    centre = record.held_rates[np.argmin(np.abs(record.held_gradients))]
    ends = record.held_rates[[0, -1]]
    stable = "stable" if record.fixed_point_stable else "not stable"
    share = 100 * record.converged_share
    return [
        ("Fixed points without gradient", f"{record.distinct_fixed_points:.0f} distinct"),
        ("Searches that reached one", f"{share:.1f} %"),
        ("Convergence point", f"speed {number(record.fixed_point_speed)}, spectral radius "
         f"{number(record.fixed_point_radius)} ({stable})"),
        ("Slow mode", f"eigenvalue {_complex(eigenvalue)}, learning rate {own}"),
        ("Error of the linearised optimizer", f"{number(record.linear_error)} (relative, last "
         "quarter of test runs)"),
        ("Saturation", f"at the 99.9 % gradient, updates are {number(record.saturation)} of what "
         "they would be without clipping"),
        ("Gradients beyond the knee", f"{100 * record.beyond_knee:.2g} %"),
        ("Effective learning rate without gradient", f"{number(record.schedule_rates[0])} at the "
         f"start, {number(record.schedule_rates.max())} at most, "
         f"{number(record.schedule_rates[-1])} at the end"),
        ("Effective learning rate under held gradients", f"{number(centre)} in the centre, "
         f"{number(ends[0])} and {number(ends[1])} at the ends of the arms"),
    ]  # fmt: skip


def type_facts(record: ParameterTypes) -> Facts:
    """How groups of parameters are treated, as pairs of a name and a sentence."""
    depth = ", ".join(f"{kind} {number(r)}" for kind, r in record.depth_correlation.items())
    first = ", ".join(f"{layer} {number(r)}" for layer, r in record.bias_gradients.items())
    return [
        ("States of parameter types", f"means of groups are {number(record.separation.max())} "
         "times as far apart, at most, as parameters of one group, "
         f"{number(record.separation[-1])} times at the end"),
        ("Learning rate of biases over that of weights",
         f"{number(float(np.median(record.bias_slowness)))} (median over steps)"),
        ("Learning rate and depth, rank correlation", depth or "not available"),
        ("First gradients of biases over those of weights, medians", first or "not available"),
    ]  # fmt: skip


def manifold_facts(record: Manifold) -> Facts:
    """Where the state may rest without gradient, as pairs of a name and a sentence."""
    facts = [
        ("Approximate fixed points", f"{_percent(record.share)} of searches end in one; they "
         f"extend over {_percent(record.extent)} of what visited states do, with participation "
         f"ratio {number(record.participation_ratio)}, and {_percent(record.persistence)} of "
         "that is left after another run without gradient"),
    ]  # fmt: skip
    if record.rates.size:
        low, high = float(record.rates.min()), float(record.rates.max())
        facts.append(("Effective learning rate along them", f"{number(low)} to {number(high)}"))
    return facts


def mode_facts(record: ModeShifts, mechanisms: Mechanisms) -> Facts:
    """What moving along the slowest modes does, as pairs of a name and a sentence."""
    eigenvalues = mechanisms.eigenvalues[record.modes]
    rows = zip(eigenvalues, record.tilt, record.lift, strict=True)
    return [
        (f"Moving along mode {mode}", f"eigenvalue {_complex(eigenvalue)}; changes the learning "
         f"rate by {_percent(tilt)} of itself, and shifts updates by {_percent(lift)} of their "
         "range")
        for mode, (eigenvalue, tilt, lift) in enumerate(rows, 1)
    ]  # fmt: skip


def _percent(share: float) -> str:
    return "not available" if math.isnan(share) else f"{number(100 * float(share))} %"


def _complex(value: complex) -> str:
    if abs(value.imag) <= 1e-6 * abs(value):
        return number(float(value.real))
    return f"{number(float(value.real))} ± {number(abs(float(value.imag)))} i"


def intervention_facts(record: Interventions) -> Facts:
    """What each removal costs: ratios of meta-objectives to the optimizer's own."""
    facts = []
    for index, removed in enumerate(record.removed):
        lost, ends = int(record.diverged[index]), (record.log_ratio_lows, record.log_ratio_highs)
        ratio, low, high = (float(np.exp(at[index])) for at in (record.log_ratios, *ends))
        said = f"meta-objective times {number(ratio)} [{number(low)}, {number(high)}]"
        if lost == record.problems:
            said = "diverges on every problem"
        elif lost:
            said += f" where it does not diverge, as it does on {lost} of {record.problems}"
        facts.append((f"Without {removed}", said))
    return facts


def stream_facts(record: Streams) -> Facts:
    """What tells groups of parameters apart: how much is left when it is taken from gradients."""
    whole = 100 * float(record.separations[0].mean())
    facts = [("Learning rates of groups", f"differ by {number(whole)} % of their mean")]
    for index, name in enumerate(record.names[1:], start=1):
        left, low, high = (
            float(ends[index])
            for ends in (record.remaining, record.remaining_lows, record.remaining_highs)
        )
        facts.append((
            f"Gradients {name.replace('_', ' ')}",
            f"{number(left)} [{number(low)}, {number(high)}] of that is left",
        ))  # fmt: skip
    return facts
