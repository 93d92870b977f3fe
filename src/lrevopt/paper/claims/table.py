"""The table of all claims over tasks and training seeds."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from lrevopt.paper.claims.registry import CLAIMS
from lrevopt.paper.claims.verdicts import Claim, Measured, Outcome
from lrevopt.runs.contents import Run
from lrevopt.text import number

SEVERAL, AGREE = 3, 0.8
"""From this number of training seeds on, the verdict is that of at least this share of them: of
five seeds four, of three all. One run out of several that disagree is no finding."""

NOT_MEASURED = "not measured"

Seeds = Sequence[Measured | None]
"""What was measured in each training seed; None where a seed lacks what the claim needs."""

ALL_TASKS = "all"
"""Task of a claim that is about all of them together."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One claim on one task (or "all" of them), as it is printed.

    `value` is the number of the run with its interval; `seeds` says for how many training seeds
    the outcome is the paper's, with the least and the largest number.
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
            found = _measure_together(claim, known, seeds)
            rows.append(_row(claim, ALL_TASKS, claim.measure(known), found, []))
            continue
        for task in claim.expected:
            if task in runs:
                trained = claim.needs != ("tuning",)  # else all seeds share what is measured
                others = seeds.get(task, {}).values() if trained else ()
                found = [_measure(claim, run) for run in others]
                found = found if any(found) else []
                lacks = [need for need in claim.needs if not runs[task].has(need)]
                rows.append(_row(claim, task, _measure(claim, runs[task]), found, lacks))
    return rows


def _measure_together(
    claim: Claim, runs: Mapping[str, Run], seeds: Mapping[str, Mapping[int, Run]]
) -> Seeds:
    """A joint claim on every choice of one training seed of each task.

    A few tasks have few ranks, so that what is true of one run of each may be chance. A choice with
    a seed that lacks records is not measured; where all seeds of a task do, its run stands for it.
    """
    each = [list(seeds.get(task, {}).values()) for task in runs]
    each = [
        some if any(map(claim.measurable, some)) else [run]
        for run, some in zip(runs.values(), each, strict=True)
    ]
    if all(len(some) == 1 for some in each):
        return []
    return [
        claim.measure(dict(zip(runs, chosen, strict=True)))
        if all(map(claim.measurable, chosen))
        else None
        for chosen in itertools.product(*each)
    ]


def _measure(claim: Claim, run: Run) -> Measured | None:
    return claim.measure(run) if claim.measurable(run) else None


def _row(
    claim: Claim,
    task: str,
    measured: Measured | None,
    seeds: Seeds,
    lacks: Sequence[str],
) -> Row:
    outcome = _verdict(claim, task, measured, seeds)
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
        remark=f"Not measured: this run lacks {', '.join(lacks)}."
        if measured is None
        else _remark(claim, task, measured, seeds, outcome=outcome),
    )


def _verdict(claim: Claim, task: str, measured: Measured | None, seeds: Seeds) -> Outcome:
    """The outcome of the run or, of several training seeds, the one on which they agree."""
    if measured is None or _measured(seeds) < claim.seeds:
        return "cannot tell"
    if len(seeds) < SEVERAL:
        return claim.outcome(measured, task)
    outcome, count = _outcomes(claim, task, seeds).most_common(1)[0]
    agreed = outcome != NOT_MEASURED and count >= AGREE * len(seeds)
    return cast(Outcome, outcome) if agreed else "cannot tell"


def _measured(seeds: Seeds) -> int:
    """Number of training seeds that have what the claim needs."""
    return sum(one is not None for one in seeds)


def _outcomes(claim: Claim, task: str, seeds: Seeds) -> Counter[str]:
    """How many training seeds have each outcome.

    One that could not be measured counts, too: a seed whose evaluation or analysis failed must not
    leave the others a clear verdict.
    """
    return Counter(NOT_MEASURED if one is None else claim.outcome(one, task) for one in seeds)


def _expectation(claim: Claim, task: str) -> str:
    """Where the paper says that it is not so on this task."""
    return "" if claim.joint or claim.expected[task] else " (Not here, says the paper.)"


def _value(measured: Measured) -> str:
    if math.isnan(measured.low):
        return number(measured.value)
    return f"{number(measured.value)} [{number(measured.low)}, {number(measured.high)}]"


def _remark(
    claim: Claim,
    task: str,
    measured: Measured,
    seeds: Seeds,
    *,
    outcome: Outcome,
) -> str:
    """What else was measured and, where it is not as the paper says, why or what may cause it."""
    if outcome == "reproduced":
        return measured.detail
    parts = [measured.detail, _few_or_divided(claim, task, seeds, outcome), claim.causes]
    shown = {"differs": "Shown by", "cannot tell": "Where to look"}[outcome]
    if claim.shown_by:
        parts.append(f"{shown}: {claim.shown_by}")
    elif outcome == "differs":
        parts.append("No experiment of ours has shown why.")
    return " ".join(filter(None, parts))


def _few_or_divided(claim: Claim, task: str, seeds: Seeds, outcome: Outcome) -> str:
    """Why training seeds decide nothing, if that is why."""
    if _measured(seeds) < claim.seeds:
        return f"Fewer than {claim.seeds} training seeds say nothing about the next one."
    if outcome != "cannot tell" or len(seeds) < SEVERAL:
        return ""
    found = _outcomes(claim, task, seeds)
    if len(found) == 1:
        return ""
    said = ", ".join(f"{count} {name}" for name, count in found.most_common())
    who = "Choices of training seeds" if claim.joint else "Training seeds"
    return f"{who} do not agree: {said}."


def _seeds(claim: Claim, task: str, seeds: Seeds) -> str:
    """In how many seeds the outcome is the paper's, and the range of the statistic over seeds.

    Least and largest: a few values of a bounded, skewed statistic have no normal interval, which
    would reach below 0 or beyond 1.
    """
    if not seeds:
        if claim.joint:
            return "one run of each task"
        return "shared by all seeds" if claim.needs == ("tuning",) else ""
    outcomes = _outcomes(claim, task, seeds)
    choices = " choices of seeds" if claim.joint else ""
    said = f"{outcomes['reproduced']} of {len(seeds)}{choices}"
    if outcomes[NOT_MEASURED]:
        said += f" ({outcomes[NOT_MEASURED]} {NOT_MEASURED})"
    values = [one.value for one in seeds if one is not None and not math.isnan(one.value)]
    if len(seeds) < 2 or not values:
        return said
    return f"{said}; {number(min(values))} to {number(max(values))}"


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
        + ". Seeds: for how many training seeds the outcome is the paper's, with the least and the "
        f"largest statistic. With {SEVERAL} seeds or more, the outcome is that of at least "
        f"{100 * AGREE:.0f} % of them, or cannot be told; the value is that of one run. Thresholds "
        "were fixed before the runs were measured, but for three that were set when the shipped "
        "runs were known: the rule for seeds, the factors of rate-floor, and the limits on Hankel "
        "values.",
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
