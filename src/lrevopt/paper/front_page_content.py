"""The front page of all runs: how well each does, the paper's sentences, every figure.

Like a report it is a single file with its figures inside. Links lead to what lies beside it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lrevopt.analysis.dynamics import order_in_words
from lrevopt.analysis.momentum import modes_in_words
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.paper.appendices.meta_dynamics import dynamics_facts
from lrevopt.paper.appendices.momentum_mimic import mimic_facts
from lrevopt.paper.claims import ALL_TASKS, Row
from lrevopt.paper.claims.momentum import CARRIED
from lrevopt.paper.contents import META_DYNAMICS, MOMENTUM_MIMIC
from lrevopt.paper.tasks import in_order, title_of
from lrevopt.plots.style import looks
from lrevopt.runs.contents import Part, Run
from lrevopt.runs.experiment import LEARNED
from lrevopt.runs.pages import Picture, embedded_figure
from lrevopt.runs.summary import summary
from lrevopt.studies.gallery import Gallery, gallery_caption, gallery_rows
from lrevopt.studies.scorecard import scorecard_facts
from lrevopt.templates import render_page
from lrevopt.text import Facts, counted, number

TITLE = "Learned optimizers, taken apart"

OUTCOMES = {"reproduced": "✓", "differs": "≠", "cannot tell": "?"}
"""Sign of each outcome, so that none is told by its colour alone."""


def render_front_page(
    runs: Mapping[str, Run],
    *,
    title: str = TITLE,
    documents: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    claims: Sequence[Row] = (),
    figures: Sequence[Picture] = (),
    gallery: Gallery | None = None,
    microscope: Sequence[Picture] = (),
    root: Path | None = None,
) -> str:
    """The front page of runs, by task, as one self-contained HTML page.

    What a run lacks is left out. Besides what the runs hold it shows:

    - `documents`: further links, what they lead to in words and where.
    - `notes`: sentences on what is not there.
    - `claims`: the paper's sentences as measured, in order.
    - `figures`: in reading order.
    - `gallery`: well-known optimizers beside each other, a table below the figure of that name.
    - `microscope`: figures of optimizers beyond the paper's, and on tasks they were not trained on.
    - `root`: folder of the page, which the links to reports start from.

    Raises `ValueError` if an evaluation lacks the learned optimizer, or a figure is not a PNG.
    """
    runs = in_order(runs)
    evaluations = {task: run.evaluation for task, run in runs.items() if run.evaluation is not None}
    for task, evaluation in evaluations.items():
        if LEARNED not in evaluation.names:
            raise ValueError(
                f"`evaluation` of {task} must be of {LEARNED!r} too, got "
                f"{', '.join(evaluation.names)}."
            )
    names = list(dict.fromkeys(name for found in evaluations.values() for name in found.names))
    baselines = [name for name in names if name != LEARNED]
    reports = _reports(runs, root)
    columns = _columns(claims)
    return render_page(
        "index.html",
        title=title,
        verdict=_verdict(evaluations),
        baselines=[looks(baselines)[name].label for name in baselines],
        headline=[
            _headline(runs[task], evaluation, baselines, reports.get(task, ""))
            for task, evaluation in evaluations.items()
        ],
        summary=summary(
            (runs[task].title, reports.get(task, ""), found) for task, found in evaluations.items()
        ),
        reports=[(runs[task].title, link) for task, link in reports.items()],
        documents=documents,
        notes=notes,
        counts=_counts(claims),
        columns=[title_of(task) for task in columns],
        claims=_claims(claims, columns),
        remarks=_remarks(claims),
        figures=[_figure(picture) for picture in figures],
        cards=_cards(runs),
        gallery=_gallery(gallery),
        microscope=[_figure(picture) for picture in microscope],
        appendix_b=[
            *_facts_of_first(runs, MOMENTUM_MIMIC, mimic_facts),
            *_facts_of_first(runs, META_DYNAMICS, dynamics_facts),
        ],
        appendix_c=_appendix_c(runs),
        versions=_versions(runs),
    )


def _reports(runs: Mapping[str, Run], root: Path | None) -> dict[str, str]:
    """Links to reports, by task."""
    found = {task: run.report for task, run in runs.items()}
    return {
        task: (path if root is None else path.relative_to(root)).as_posix()
        for task, path in found.items()
        if path is not None
    }


Found = TypeVar("Found")


def _facts_of_first(
    runs: Mapping[str, Run], part: Part[Found | None], words: Callable[[Found], Facts]
) -> Facts:
    """A part in words, of the first run that has it."""
    found = [record for _, record in _with(runs, part)]
    return words(found[0]) if found else []


def _verdict(evaluations: Mapping[str, Evaluation]) -> str:
    """One sentence on all tasks: where the learned optimizer wins beyond doubt."""
    wins = compared = 0
    for evaluation in evaluations.values():
        if (baseline := evaluation.best_beside(LEARNED)) is not None:
            compared += 1
            wins += evaluation.compare(LEARNED, baseline).high < 0
    if not compared:
        return ""
    return (
        f"On {wins} of {counted(compared, 'task')} the learned optimizer has a lower "
        "mean meta-objective on new problems than the best tuned baseline, with all of the 95 % "
        "interval of the paired difference below 0."
    )


def _headline(
    run: Run, evaluation: Evaluation, baselines: list[str], report: str
) -> dict[str, Any]:
    """A row of the first table."""
    means, best = evaluation.mean_scores(), evaluation.best_beside(LEARNED)
    compared = None if best is None else evaluation.compare(LEARNED, best)
    diverged = dict(zip(evaluation.names, evaluation.diverged().tolist(), strict=True))
    problems = evaluation.losses.shape[1]

    def cell(name: str) -> dict[str, Any]:
        lost = diverged.get(name, 0)
        return {
            "mean": number(means[name]) if name in means else "not run",
            "note": f"{lost} of {problems} diverged" if lost else "",
            "best": name == best,
        }

    return {
        "task": run.title,
        "report": report,
        "problems": problems,
        "learned": cell(LEARNED),
        "baselines": [cell(name) for name in baselines],
        "ratio": "" if compared is None else number(compared.ratio_of_means),
        "difference": "" if compared is None else number(compared.difference),
        "interval": ""
        if compared is None
        else f"{number(compared.low)} to {number(compared.high)}",
    }


def _columns(claims: Sequence[Row]) -> list[str]:
    """Tasks that claims are about, in the paper's order."""
    return list(in_order({row.task: row for row in claims if row.task != ALL_TASKS}))


def _counts(claims: Sequence[Row]) -> str:
    """How many measurements came out how, in one sentence."""
    came_out: list[str] = [row.outcome for row in claims]
    words = {"reproduced": "reproduced", "differs": "different", "cannot tell": "undecided"}
    counts = ", ".join(f"{came_out.count(name)} {said}" for name, said in words.items())
    return f"{len(claims)} measurements of {len({row.claim for row in claims})} claims: {counts}."


def _claims(claims: Sequence[Row], columns: list[str]) -> list[dict[str, Any]]:
    """A row of the table for each claim, with a cell per task or one across all of them."""
    table = []
    for claim, group in itertools.groupby(claims, key=lambda row: row.claim):
        rows = {row.task: row for row in group}
        first = next(iter(rows.values()))
        says = min((row.says for row in rows.values()), key=len)
        cells = [_cell(rows[task], says) if task in rows else None for task in columns]
        table.append(
            {
                "name": claim,
                "says": says,
                "where": first.where,
                "statistic": first.statistic,
                "threshold": first.threshold,
                "cells": cells if any(cells) else [],
                "joint": _cell(rows[ALL_TASKS], says) if ALL_TASKS in rows else None,
            }
        )
    return table


def _cell(row: Row, says: str) -> dict[str, str]:
    """A verdict, with what the paper says on this task alone."""
    return {
        "outcome": row.outcome,
        "kind": row.outcome.replace(" ", "-"),
        "sign": OUTCOMES[row.outcome],
        "value": row.value,
        "seeds": row.seeds,
        "here": row.says.removeprefix(says).strip(),
        "remark": _anchor(row) if row.remark else "",
    }


def _anchor(row: Row) -> str:
    return f"about-{row.claim}-{row.task}".replace(" ", "-")


def _remarks(claims: Sequence[Row]) -> list[dict[str, Any]]:
    """Paragraphs on measurements, by outcome; those that differ come first."""
    headings = {
        "differs": "Where it differs",
        "cannot tell": "Where we cannot tell",
        "reproduced": "What else was measured",
    }
    groups = []
    for outcome, heading in headings.items():
        rows = [row for row in claims if row.outcome == outcome and row.remark]
        paragraphs = [
            {
                "anchor": _anchor(row),
                "name": row.claim,
                "task": "all tasks" if row.task == ALL_TASKS else title_of(row.task),
                "says": row.says,
                "remark": row.remark,
            }
            for row in rows
        ]
        if rows:
            groups.append(
                {
                    "heading": f"{heading} ({len(rows)})",
                    "open": outcome == "differs",
                    "paragraphs": paragraphs,
                }
            )
    return groups


def _figure(picture: Picture) -> dict[str, Any]:
    return embedded_figure(picture) | {"files": _files(picture)}


def _files(picture: Picture) -> list[tuple[str, str]]:
    """Links to a figure's files, by what they hold."""
    kinds = {".svg": "vector graphics", ".npz": "numbers", ".txt": "caption", ".csv": "table"}
    return [(kinds.get(Path(link).suffix, Path(link).name), link) for link in picture.files]


def _with(runs: Mapping[str, Run], part: Part[Found | None]) -> list[tuple[Run, Found]]:
    """Runs that have a part, and the part."""
    pairs = [(run, run.get(part)) for run in runs.values()]
    return [(run, found) for run, found in pairs if found is not None]


def _appendix_c(runs: Mapping[str, Run]) -> Facts:
    """How many momentum-like modes each optimizer has, where it is linear."""
    return [
        (
            run.title,
            modes_in_words(record.momentum, CARRIED)
            if run.dynamics is None or not len(run.dynamics.shares)
            else order_in_words(run.dynamics, 0),
        )
        for run, record in _with(runs, Run.mechanisms)
    ]


def _cards(runs: Mapping[str, Run]) -> dict[str, Any] | None:
    """A row for each number of the scorecards, with a cell per task."""
    pairs = _with(runs, Run.scorecard)
    if not pairs:
        return None
    by_task = [scorecard_facts(card) for _, card in pairs]
    rows = [
        {"label": own[0][0], "cells": [(said, reason) for _, said, reason in own]}
        for own in zip(*by_task, strict=True)
    ]
    return {"tasks": [run.title for run, _ in pairs], "rows": rows}


def _gallery(gallery: Gallery | None) -> dict[str, Any] | None:
    """The table of the gallery, and what its numbers are."""
    if gallery is None:
        return None
    heads, rows = gallery_rows(gallery)
    return {"heads": heads, "rows": rows, "caption": gallery_caption(gallery)}


def _versions(runs: Mapping[str, Run]) -> Facts:
    """Each package with its version; where tasks differ, with the tasks of each version."""
    facts: Facts = []
    versions = {run.title: run.settings.get("versions", {}) for run in runs.values()}
    for name in sorted({name for own in versions.values() for name in own}):
        tasks_by_version: dict[str, list[str]] = {}
        for task, own in versions.items():
            if name in own:
                tasks_by_version.setdefault(own[name], []).append(task)
        said = [
            version if len(tasks_by_version) == 1 else f"{version} ({', '.join(tasks)})"
            for version, tasks in tasks_by_version.items()
        ]
        facts.append((name, "; ".join(said)))
    return facts
