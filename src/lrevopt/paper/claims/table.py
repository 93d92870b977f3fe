"""The table of all claims over tasks and training seeds."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lrevopt.paper.claims.registry import CLAIMS
from lrevopt.paper.claims.verdicts import Claim, Measured, Outcome
from lrevopt.runs.contents import Run
from lrevopt.text import number

ALL_TASKS = "all"
"""Task of a claim that is about all of them together."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One claim on one task (or "all" of them), as it is printed.

    `value` is the number of the run with its interval; `seeds` says for how many training seeds
    the outcome is the paper's, with the mean of the number and a 95 % interval.
    """

    claim: str
    says: str
    where: str
    task: str
    statistic: str
    threshold: str
    outcome: Outcome
    value: str
    seeds: str
    remark: str


def measure_claims(
    runs: Mapping[str, Run],
    seeds: Mapping[str, Mapping[int, Run]] | None = None,
    claims: Iterable[Claim] = CLAIMS,
) -> list[Row]:
    """Rows of every claim on every task of the paper that `runs` has, in order.

    `runs` holds the analysed run of each task, `seeds` for each task one run per training seed.
    A run without the records that a claim needs yields "cannot tell".
    """
    seeds = seeds or {}
    rows = []
    for claim in claims:
        if claim.joint:
            known = {t: runs[t] for t in claim.expected if t in runs and claim.measurable(runs[t])}
            rows.append(_row(claim, ALL_TASKS, claim.measure(known), []))
            continue
        for task in claim.expected:
            if task in runs:
                trained = claim.needs != ("tuning",)  # else all seeds share what is measured
                others = seeds.get(task, {}).values() if trained else ()
                each = [_measure(claim, run) for run in others]
                found = [measured for measured in each if measured is not None]
                rows.append(_row(claim, task, _measure(claim, runs[task]), found))
    return rows


def _measure(claim: Claim, run: Run) -> Measured | None:
    return claim.measure(run) if claim.measurable(run) else None


def _row(claim: Claim, task: str, measured: Measured | None, seeds: Sequence[Measured]) -> Row:
    missing = "This run has not been analysed so far."
    outcome = "cannot tell" if measured is None else claim.outcome(measured, task)
    return Row(
        claim=claim.name,
        says=claim.says + _expectation(claim, task),
        where=claim.where,
        task=task,
        statistic=claim.statistic,
        threshold=claim.threshold,
        outcome=outcome,
        value="" if measured is None else _value(measured),
        seeds=_seeds(claim, task, seeds),
        remark=missing if measured is None else _remark(claim, measured, outcome),
    )


def _expectation(claim: Claim, task: str) -> str:
    """Where the paper says that it is not so on this task."""
    return "" if claim.joint or claim.expected[task] else " (Not here, says the paper.)"


def _value(measured: Measured) -> str:
    if math.isnan(measured.low):
        return number(measured.value)
    return f"{number(measured.value)} [{number(measured.low)}, {number(measured.high)}]"


def _remark(claim: Claim, measured: Measured, outcome: Outcome) -> str:
    """What else was measured and, where it is not as the paper says, what may cause it."""
    if outcome == "reproduced":
        return measured.detail
    return f"{measured.detail} {claim.causes}".strip()


def _seeds(claim: Claim, task: str, seeds: Sequence[Measured]) -> str:
    """In how many seeds the outcome is the paper's, and the mean of the statistic over seeds."""
    if not seeds:
        return ""
    agree = sum(claim.outcome(measured, task) == "reproduced" for measured in seeds)
    said = f"{agree} of {len(seeds)}"
    values = np.array([measured.value for measured in seeds])
    if len(seeds) < 2 or not np.all(np.isfinite(values)):
        return said
    mean, half = float(values.mean()), _half_width(values)
    interval = f"[{number(mean - half)}, {number(mean + half)}]"
    return f"{said}; {number(mean)} {interval}, {len(seeds)} seeds"


def _half_width(values: np.ndarray) -> float:
    """Half of the 95 % Student interval of a mean."""
    from scipy.stats import t  # slow to import

    error = values.std(ddof=1) / math.sqrt(values.size)
    return float(t.ppf(0.975, values.size - 1) * error)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, then the remark on each row."""
    counts = {
        outcome: sum(row.outcome == outcome for row in rows)
        for outcome in ("reproduced", "differs", "cannot tell")
    }
    lines = [
        "# The paper's sentences, measured",
        "",
        f"{len(rows)} measurements of {len({row.claim for row in rows})} claims: "
        + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        + ". Seeds: for how many training seeds the outcome is the paper's, with the mean "
        "of the statistic [95 % interval]. Thresholds were fixed before the runs were measured.",
        "",
        "| claim | task | outcome | value | seeds | statistic | threshold |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.claim, _task(row), row.outcome, row.value, row.seeds, row.statistic,
                 row.threshold)  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## Remarks", ""]
    for row in rows:
        if row.remark:
            lines += [f"**{row.claim}, {_task(row)}: {row.outcome}.** {row.says} ({row.where}.) "
                      f"{row.remark}", ""]  # fmt: skip
    return "\n".join(lines)


def _task(row: Row) -> str:
    return "all tasks" if row.task == ALL_TASKS else row.task.replace("_", " ")
