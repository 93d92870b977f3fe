"""The front page of all runs: how well each does, the paper's sentences, every figure.

Like a report it is a single file with its figures inside. Links lead to what lies beside it.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt.analysis import Mechanisms
from lrevopt.analysis.linearization import modes_needed
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.paper.claims import ALL_TASKS, Row
from lrevopt.paper.claims.momentum import CARRIED
from lrevopt.paper.figures.registry import FigureText
from lrevopt.plots.style import looks, readable, tasks_of
from lrevopt.runs.pages import embedded_figure, render_page
from lrevopt.storage import write_atomically
from lrevopt.studies.gallery import Gallery, gallery_caption, gallery_rows
from lrevopt.studies.scorecard import Scorecard, scorecard_facts
from lrevopt.text import Facts, number

TITLE = "Learned optimizers, taken apart"

OUTCOMES = {"reproduced": "✓", "differs": "≠", "cannot tell": "?"}
"""Sign of each outcome, so that none is told by its colour alone."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its PNG, or the path of it, and links to files that belong to it."""

    spec: FigureText
    png: bytes | Path
    files: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class FrontPageInputs:
    """Everything the front page shows. What there is not may be left out."""

    title: str = TITLE
    """Heading of the page."""
    evaluations: Mapping[str, Evaluation] = dataclasses.field(default_factory=dict)
    """Runs of the learned optimizer and the baselines on test problems, by task."""
    reports: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Link to the report of each task, relative to the page."""
    documents: Sequence[tuple[str, str]] = ()
    """Further links: what they lead to in words, and where."""
    notes: Sequence[str] = ()
    """Sentences on what is not there."""
    claims: Sequence[Row] = ()
    """The paper's sentences as measured, in order."""
    figures: Sequence[Picture] = ()
    """Figures in reading order."""
    momentum_mimic: MomentumMimic | None = None
    meta_dynamics: MetaDynamics | None = None
    """The optimizer that is momentum, and its history (paper, appendix B)."""
    mechanisms: Mapping[str, Mechanisms] = dataclasses.field(default_factory=dict)
    """Analyses by task, of which the page shows how many modes carry them (appendix C)."""
    scorecards: Mapping[str, Scorecard] = dataclasses.field(default_factory=dict)
    """Of each task's learned optimizer, on that task."""
    gallery: Gallery | None = None
    """Well-known optimizers beside each other: a table below the figure called `gallery`."""
    microscope: Sequence[Picture] = ()
    """Figures of optimizers beyond the paper's, and of what they do away from home."""
    versions: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """Software that trained each task's optimizer, by task and then by name."""
    learned: str = "learned"
    """Name of the learned optimizers in `evaluations`."""


def write_front_page(inputs: FrontPageInputs, path: Path | str) -> Path:
    """Write the page at once or not at all; its path.

    Raises `ValueError` for a folder that cannot be written, and as `render_front_page` does.
    """
    write_atomically(path, render_front_page(inputs))
    return Path(path)


def render_front_page(inputs: FrontPageInputs) -> str:
    """The front page as one self-contained HTML page.

    Raises `ValueError` if an evaluation lacks the learned optimizer, or a figure is not a PNG.
    """
    for task, evaluation in inputs.evaluations.items():
        if inputs.learned not in evaluation.names:
            raise ValueError(
                f"`learned` must be one of {', '.join(evaluation.names)} of {task}, got "
                f"{inputs.learned!r}."
            )
    tasks = tasks_of(inputs.evaluations, "evaluations") if inputs.evaluations else []
    names = list(dict.fromkeys(n for task in tasks for n in inputs.evaluations[task].names))
    baselines = [name for name in names if name != inputs.learned]
    columns = _columns(inputs.claims)
    return render_page(
        "index.html",
        title=inputs.title,
        verdict=_verdict(inputs, tasks),
        baselines=[looks(baselines)[name].label for name in baselines],
        headline=[_headline(inputs, task, baselines) for task in tasks],
        reports=[(readable(task), link) for task, link in inputs.reports.items()],
        documents=inputs.documents,
        notes=inputs.notes,
        counts=_counts(inputs.claims),
        columns=[readable(task) for task in columns],
        claims=_claims(inputs.claims, columns),
        remarks=_remarks(inputs.claims),
        figures=[_figure(picture) for picture in inputs.figures],
        cards=_cards(inputs.scorecards),
        gallery=_gallery(inputs.gallery),
        microscope=[_figure(picture) for picture in inputs.microscope],
        appendix_b=_appendix_b(inputs.momentum_mimic, inputs.meta_dynamics),
        appendix_c=_appendix_c(inputs.mechanisms),
        versions=_versions(inputs.versions),
    )


def _verdict(inputs: FrontPageInputs, tasks: list[str]) -> str:
    """One sentence on all tasks: where the learned optimizer wins beyond doubt."""
    wins = compared = 0
    for task in tasks:
        evaluation = inputs.evaluations[task]
        if (baseline := evaluation.best_beside(inputs.learned)) is not None:
            compared += 1
            wins += evaluation.compare(inputs.learned, baseline).high < 0
    if not compared:
        return ""
    return (
        f"On {wins} of {compared} task{'s' * (compared > 1)} the learned optimizer has a lower "
        "mean meta-objective on new problems than the best tuned baseline, with all of the 95 % "
        "interval of the paired difference below 0."
    )


def _headline(inputs: FrontPageInputs, task: str, baselines: list[str]) -> dict[str, Any]:
    """A row of the first table."""
    evaluation, learned = inputs.evaluations[task], inputs.learned
    means, best = evaluation.mean_scores(), evaluation.best_beside(learned)
    compared = None if best is None else evaluation.compare(learned, best)
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
        "task": readable(task),
        "report": inputs.reports.get(task, ""),
        "problems": problems,
        "learned": cell(learned),
        "baselines": [cell(name) for name in baselines],
        "ratio": "" if compared is None else number(compared.ratio_of_means),
        "difference": "" if compared is None else number(compared.difference),
        "interval": ""
        if compared is None
        else f"{number(compared.low)} to {number(compared.high)}",
    }


def _columns(claims: Sequence[Row]) -> list[str]:
    """Tasks that claims are about, in the paper's order."""
    tasks = {row.task: None for row in claims if row.task != ALL_TASKS}
    return tasks_of(tasks, "claims") if tasks else []


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
                "task": "all tasks" if row.task == ALL_TASKS else readable(row.task),
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
    return embedded_figure(picture.spec, picture.png) | {"files": _files(picture)}


def _files(picture: Picture) -> list[tuple[str, str]]:
    """Links to a figure's files, by what they hold."""
    kinds = {".svg": "vector graphics", ".npz": "numbers", ".txt": "caption", ".csv": "table"}
    return [(kinds.get(Path(link).suffix, Path(link).name), link) for link in picture.files]


def _appendix_b(mimic: MomentumMimic | None, dynamics: MetaDynamics | None) -> Facts:
    """The optimizer that is momentum, and how training came to it and went on."""
    facts: Facts = []
    if mimic is not None:
        away = mimic.distances(mimic.optimum)
        facts += [
            ("Snapshot", f"after {mimic.step} meta-steps, of all of one run the nearest to tuned "
             "momentum on selection problems"),
            ("First principal component", f"{100 * mimic.explained_variance[0]:.1f} % of the "
             "variance of visited states"),
            ("Loss curves", f"{number(mimic.gap('learned', 'momentum'))} decades from tuned "
             f"momentum's, {number(mimic.gap('learned', 'analytic'))} from analytically best "
             "momentum's (root mean square over steps)"),
            ("Its dominant mode", f"learning rate {number(mimic.dominant_learning_rate)}, "
             f"eigenvalue "
             f"{number(mimic.dominant_momentum)}; the optimum is "
             f"{number(mimic.optimum['learning_rate'])} and {number(mimic.optimum['momentum'])}, "
             f"{_percent(away['learning_rate'])} and {_percent(away['momentum'])} away"),
            ("That mode alone", f"{number(mimic.gap('one_mode', 'learned'))} decades from the "
             "whole optimizer"),
        ]  # fmt: skip
    if dynamics is not None:
        away_by_step = dynamics.distances()
        nearest = int(np.nanargmin(np.abs(away_by_step["momentum"])))
        facts += [
            ("Over meta-training", f"{len(dynamics.steps)} snapshots up to meta-step "
             f"{int(dynamics.steps[-1])}; the eigenvalue of the dominant mode is nearest to the "
             f"optimum after {int(dynamics.steps[nearest])}, "
             f"{_percent(away_by_step['momentum'][nearest])} away, and "
             f"{_percent(away_by_step['momentum'][-1])} at the end"),
        ]  # fmt: skip
    return facts


def _percent(share: float) -> str:
    return f"{number(100 * abs(share), 2)} %"


def _appendix_c(mechanisms: Mapping[str, Mechanisms]) -> Facts:
    """How many momentum-like modes each optimizer is, where it is linear."""
    facts: Facts = []
    for task in tasks_of(mechanisms, "mechanisms") if mechanisms else []:
        energy = mechanisms[task].momentum.energy
        if np.isfinite(energy).all():
            enough = modes_needed(energy, CARRIED)
            two = energy[min(1, len(energy) - 1)]
            said = (
                f"the best mode explains {100 * energy[0]:.0f} % of the impulse response, the best "
                f"two {100 * two:.0f} %; {100 * CARRIED:.0f} % takes {enough} of {len(energy)}"
            )
        else:
            said = "the Jacobian is near-defective: modes have no learning rates of their own"
        facts.append((readable(task), said))
    return facts


def _cards(scorecards: Mapping[str, Scorecard]) -> dict[str, Any] | None:
    """A row for each number of the scorecards, with a cell per task."""
    if not scorecards:
        return None
    tasks = tasks_of(scorecards, "scorecards")
    by_task = [scorecard_facts(scorecards[task]) for task in tasks]
    rows = [
        {"label": own[0][0], "cells": [(said, reason) for _, said, reason in own]}
        for own in zip(*by_task, strict=True)
    ]
    return {"tasks": [readable(task) for task in tasks], "rows": rows}


def _gallery(gallery: Gallery | None) -> dict[str, Any] | None:
    """The table of the gallery, and what its numbers are."""
    if gallery is None:
        return None
    heads, rows = gallery_rows(gallery)
    return {"heads": heads, "rows": rows, "caption": gallery_caption(gallery)}


def _versions(versions: Mapping[str, Mapping[str, str]]) -> Facts:
    """Each package with its version; where tasks differ, with the tasks of each version."""
    facts: Facts = []
    for name in sorted({name for own in versions.values() for name in own}):
        tasks_by_version: dict[str, list[str]] = {}
        for task, own in versions.items():
            if name in own:
                tasks_by_version.setdefault(own[name], []).append(readable(task))
        said = [
            version if len(tasks_by_version) == 1 else f"{version} ({', '.join(tasks)})"
            for version, tasks in tasks_by_version.items()
        ]
        facts.append((name, "; ".join(said)))
    return facts
