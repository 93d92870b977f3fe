"""The cost of interventions on test problems."""

from collections.abc import Mapping
from functools import partial

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt.checks import instance, mapping, positive_integer, random_key
from lrevopt.inner_loop.evaluation import evaluate, paired_interval
from lrevopt.inner_loop.objectives import log_objectives
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.wrappers import wrapped
from lrevopt.studies.interventions.registry import INTERVENTIONS, Intervention
from lrevopt.studies.interventions.rest_analysis import RestAnalysis, analyze_rest
from lrevopt.tasks.interface import AbstractTask
from lrevopt.text import Facts, Printed, Table, csv_text, number

ORIGINAL = "original"
"""Name of the optimizer without intervention."""

NO_RATIO = "There is no ratio where a meta-objective is not above 0, as of a negative mean loss."
"""Said below a table in which a ratio is missing."""


class Interventions(Printed, eqx.Module):
    """The cost of each intervention on test problems. Host arrays in float64.

    - `names`, `removed`, `mechanisms`: the interventions, as in `INTERVENTIONS`.
    - `original`, `objectives`: meta-objective of every run, mean(losses) / losses[0]; +inf where it
      diverged. `diverged`, `original_diverged` count these.
    - `differences`: mean of intervention minus original, with the ends of its 95 % interval;
      infinite where runs diverged (see `evaluation.paired_interval`).
    - `log_ratios`: mean log of intervention over original, with its interval, on the problems on
      which neither diverged; NaN if there are none, or one has a meta-objective that is not above
      0 (see `without_ratio`). 0 is no change.
    - `omitted`: a sentence for each intervention that cannot be applied to this optimizer.
    """

    names: tuple[str, ...]
    removed: tuple[str, ...]
    mechanisms: tuple[str, ...]
    original: Float[np.ndarray, " problem"]
    objectives: Float[np.ndarray, "intervention problem"]
    original_diverged: int
    diverged: Int[np.ndarray, " intervention"]
    differences: Float[np.ndarray, " intervention"]
    difference_lows: Float[np.ndarray, " intervention"]
    difference_highs: Float[np.ndarray, " intervention"]
    log_ratios: Float[np.ndarray, " intervention"]
    log_ratio_lows: Float[np.ndarray, " intervention"]
    log_ratio_highs: Float[np.ndarray, " intervention"]
    omitted: tuple[str, ...]

    def __check_init__(self) -> None:
        counts = [len(named) for named in (self.names, self.removed, self.mechanisms)]
        if counts != [len(self.objectives)] * 3:
            raise ValueError(
                f"`names`, `removed` and `mechanisms` must be of {len(self.objectives)} "
                f"interventions each, got {counts}."
            )

    @property
    def problems(self) -> int:
        """Number of test problems."""
        return self.original.size

    def without_ratio(self, index: int) -> bool:
        """Whether an intervention has no ratio because a meta-objective is not above 0."""
        pairs = np.stack([self.objectives[index], self.original])
        return bool((pairs[:, np.isfinite(pairs).all(axis=0)] <= 0).any())

    def table(self) -> Table:
        """A row for each intervention, the original first."""
        mean = number(float(self.original.mean()), 4)
        rows = [(ORIGINAL, "", mean, "", "", "", "", str(self.original_diverged))]
        for index, name in enumerate(self.names):
            differences, ratios = (
                [number(float(value)) for value in (ends[index] for ends in each)]
                for each in (
                    (self.differences, self.difference_lows, self.difference_highs),
                    [np.exp(logs) for logs in
                     (self.log_ratios, self.log_ratio_lows, self.log_ratio_highs)],
                )
            )  # fmt: skip
            rows.append((
                name, self.mechanisms[index], number(float(self.objectives[index].mean()), 4),
                differences[0], f"[{differences[1]}, {differences[2]}]",
                ratios[0], f"[{ratios[1]}, {ratios[2]}]", str(self.diverged[index]),
            ))  # fmt: skip
        notes = [
            "Means of the meta-objective, mean(losses) / losses[0]: lower is better. Difference: "
            "mean of changed minus original. Ratio: geometric mean of changed over original on the "
            "problems where neither diverged. Intervals: 95 %, bootstrap over problems.",
            *(f"Left out, {sentence}" for sentence in self.omitted),
        ]
        if any(map(self.without_ratio, range(len(self.names)))):
            notes[0] += f" {NO_RATIO}"
        heads = ("intervention", "mechanism", "mean", "difference", "interval", "ratio", "interval",
                 "diverged")  # fmt: skip
        return Table(f"Interventions on {self.problems} test problems", heads, rows, notes)


def intervene(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    rest_analysis: RestAnalysis | None = None,
    interventions: Mapping[str, Intervention] = INTERVENTIONS,
) -> Interventions:
    """Run an optimizer, and its variant by each intervention, on the same `problems` problems.

    The problems are those of `evaluate` with the same `key`; without `rest_analysis` the key is
    split first, and the analysis is measured on other problems. `interventions` are by name.

    An intervention that cannot be applied, or that is about a fixed point where none was found, is
    left out and listed in `omitted`. An optimizer that takes x is analysed at x = 0, and its
    variants take x as it does.

    Raises `ValueError` for counts below 1, an intervention named `original`, or an optimizer that
    always diverges in the analysis.
    """
    _check_interventions(interventions)
    problems = positive_integer("problems", problems)
    key = random_key("key", key)
    check_run(optimizer, task, key)
    if rest_analysis is not None:
        instance("rest_analysis", rest_analysis, RestAnalysis, "a RestAnalysis or None")
    else:
        analysis_key, key = jr.split(key)
        rest_analysis = analyze_rest(optimizer, task, key=analysis_key, steps=steps)
    optimizers: dict[str, AbstractOptimizer] = {ORIGINAL: optimizer}
    omitted = []
    for name, intervention in interventions.items():
        try:
            optimizers[name] = wrapped(optimizer, partial(_changed, intervention, rest_analysis))
        except ValueError as error:
            omitted.append(f"{name}: {error}")
    evaluation = evaluate(optimizers, task, problems=problems, steps=steps, key=key)
    objectives = np.asarray(evaluation.meta_objectives(), float)
    original, changed = objectives[0], objectives[1:]
    names = evaluation.names[1:]
    differences = [paired_interval(own, original) for own in changed]
    ratios = [_log_ratio(own, original) for own in changed]
    return Interventions(
        names=names,
        removed=tuple(interventions[name].removes for name in names),
        mechanisms=tuple(interventions[name].mechanism for name in names),
        original=original,
        objectives=changed,
        original_diverged=int(np.isinf(original).sum()),
        diverged=np.isinf(changed).sum(axis=1),
        differences=np.array([mean for mean, _, _ in differences]),
        difference_lows=np.array([low for _, low, _ in differences]),
        difference_highs=np.array([high for _, _, high in differences]),
        log_ratios=np.array([mean for mean, _, _ in ratios]),
        log_ratio_lows=np.array([low for _, low, _ in ratios]),
        log_ratio_highs=np.array([high for _, _, high in ratios]),
        omitted=tuple(omitted),
    )


def _check_interventions(interventions: Mapping[str, Intervention]) -> None:
    mapping("interventions", interventions, "interventions")
    for name, each in interventions.items():
        instance(f"interventions[{name!r}]", each, Intervention, "an Intervention")
    if ORIGINAL in interventions:
        raise ValueError(f"`interventions` must not contain {ORIGINAL!r}, the optimizer itself.")


def _changed(
    intervention: Intervention, rest_analysis: RestAnalysis, optimizer: AbstractOptimizer
) -> AbstractOptimizer:
    if intervention.at_rest and not rest_analysis.found.converged.any():
        raise ValueError(
            "`optimizer` must have a fixed point at zero gradient, but no search for one ended (a "
            "live step counter has none: hold it, as `from_optax` does with `at_step`)."
        )
    return intervention.apply(optimizer, rest_analysis)


def _log_ratio(
    values: Float[np.ndarray, " problem"], baseline: Float[np.ndarray, " problem"]
) -> tuple[float, float, float]:
    both = np.isfinite(values) & np.isfinite(baseline)
    own, other = (log_objectives(row[both]) for row in (values, baseline))
    if not both.any() or np.isnan(own - other).any():
        return np.nan, np.nan, np.nan
    return paired_interval(own, other)


def intervention_table(record: Interventions) -> str:
    """The record as CSV: one row per intervention, the original first."""
    heads = [
        "name", "mechanism", "removes", "meta_objective", "difference", "difference_low",
        "difference_high", "ratio", "ratio_low", "ratio_high", "diverged", "problems",
    ]  # fmt: skip
    mean = record.original.mean()
    nothing = [mean, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, record.original_diverged, record.problems]
    rows = [[ORIGINAL, "", "", *nothing]]
    for index, name in enumerate(record.names):
        ends = (record.log_ratios, record.log_ratio_lows, record.log_ratio_highs)
        rows.append([
            name, record.mechanisms[index], record.removed[index], record.objectives[index].mean(),
            record.differences[index], record.difference_lows[index],
            record.difference_highs[index], *(np.exp(end[index]) for end in ends),
            record.diverged[index], record.problems,
        ])  # fmt: skip
    return csv_text(heads, rows)


def intervention_facts(record: Interventions) -> Facts:
    """What each removal costs: ratios of meta-objectives to the optimizer's own."""
    facts, whole, most = [], record.original_diverged, record.problems
    beside = f" (the whole optimizer on {whole})" * bool(whole)
    for index, removed in enumerate(record.removed):
        lost, ends = int(record.diverged[index]), (record.log_ratio_lows, record.log_ratio_highs)
        ratio, low, high = (float(np.exp(at[index])) for at in (record.log_ratios, *ends))
        said = f"meta-objective times {number(ratio)} [{number(low)}, {number(high)}]"
        if lost == most:
            said = f"diverges on every problem{beside}"
        elif record.without_ratio(index):
            each = (record.differences, record.difference_lows, record.difference_highs)
            more, *around = (number(float(at[index])) for at in each)
            said = (
                f"meta-objective plus {more} [{', '.join(around)}]; no ratio, as one is not above 0"
            )
        elif np.isnan(ratio):
            said = f"diverges on {lost} of {most}{beside}, and on no problem neither does"
        elif lost or whole:
            where, link = ("neither diverges", ";") if whole else ("it does not diverge", ", as")
            said += f" where {where}{link} it does on {lost} of {most}{beside}"
        facts.append((f"Without {removed}", said))
    return facts
