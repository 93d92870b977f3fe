"""The record of a factorial experiment as tables: CSV for programs, Markdown to read."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from lrevopt.studies.factorial.effects import (
    Effect,
    Interaction,
    Share,
    largest_interaction,
    main_effect,
    share_of,
    what_must_hold,
)
from lrevopt.studies.factorial.record import Cell, Factorial
from lrevopt.studies.universality.record import OTHERWISE, UNDECIDED
from lrevopt.studies.universality.tables import WORDS
from lrevopt.text import csv_text, number

NOTE = (
    "Shares are of all members: one that cannot tell does not count for the statement. Levels of "
    "a factor are compared on cells that differ in nothing else. Brackets: Wilson's 95 % interval, "
    "for the number of runs and not of members, since snapshots of one run are alike. A star marks "
    "a level that is missing in some cells; beside it stands the share of the other levels in the "
    "cells that it has. A factor decides, in bold, if the intervals of two levels are apart."
)
"""How to read the tables."""


def cells_table(record: Factorial) -> str:
    """CSV with a row for each cell and statement; `median` to `largest` are of its statistic."""
    heads = ["task", *record.factors, "statement", "expected", "seeds", "reproduced", "not_so",
             "cannot_tell", "share", "low", "high", "median", "least", "largest"]  # fmt: skip
    rows = []
    for task, place in record.asked():
        expected = int(record.expected[record.task_names.index(task), place])
        for cell in record.cells_of(task):
            own, members = share_of(record, task, place, [cell]), record.rows_of(task, cell)
            count = Counter(record.verdicts[members, place].tolist())
            values = record.statistics[members, place]
            known = values[~np.isnan(values)]
            range_of = [np.median(known), known.min(), known.max()] if len(known) else [np.nan] * 3
            rows.append([task, *_plain(record, cell), record.statements[place], expected,
                         own.members, own.holds, count[OTHERWISE], count[UNDECIDED],
                         *map(_short, (own.share, own.low, own.high, *range_of))])  # fmt: skip
    return csv_text(heads, rows)


def members_table(record: Factorial) -> str:
    """CSV with a row for each member: its objective, then verdict and statistic of each claim."""
    names = [name.replace("-", "_") for name in record.statements]
    heads = ["task", *record.factors, "seed", "objective", "diverged", *names,
             *(f"{name}_statistic" for name in names)]  # fmt: skip
    rows = [
        [task, *_plain(record, tuple(record.design[row].tolist())), int(record.seeds[row]),
         _short(float(record.objectives[row])), int(record.diverged[row]),
         *(WORDS[int(code)] for code in record.verdicts[row]),
         *(_short(float(value)) for value in record.statistics[row])]
        for row, task in enumerate(record.tasks)
    ]  # fmt: skip
    return csv_text(heads, rows)


def _plain(record: Factorial, cell: Cell) -> list[str]:
    """Names of the levels of a cell, numbers as programs read them."""
    return [level.replace(",", "") for level in record.level_names(cell)]


def _short(value: float) -> str:
    return f"{value:.5g}"


def factorial_markdown(record: Factorial, titles: Mapping[str, str]) -> str:
    """What must hold: a table of all statements for each task, objectives, and missing cells."""
    lines = ["# What makes a mechanism appear", "", _sizes(record), "", NOTE, ""]
    for task in record.task_names:
        if not len(record.rows_of(task)):
            continue
        lines += [f"## {titles.get(task, task)}", "", *_sentences(record, task), "",
                  *_effects(record, task), "", *_objectives(record, task), ""]  # fmt: skip
    pairs = zip(record.statements, record.says, strict=True)
    lines += [*_missing(record), "Statements:", "", *(f"- {name}: {says}" for name, says in pairs)]
    lines.append("")
    return "\n".join(lines)


def _sizes(record: Factorial) -> str:
    levels = "; ".join(f"{factor}: {', '.join(record.levels_of(factor))}"
                       for factor in record.factors)  # fmt: skip
    rows = np.arange(len(record.tasks))
    return (f"{len(rows)} optimizers, snapshots of {record.runs_of(rows)} runs. "
            f"Levels of {levels}.")  # fmt: skip


def _sentences(record: Factorial, task: str) -> list[str]:
    """A row for each statement: what must hold, and the largest interaction."""
    lines = ["| statement | what must hold | largest interaction |", "|---|---|---|"]
    for place in record.asked_of(task):
        found = interaction_in_words(largest_interaction(record, task, place))
        said = what_must_hold(record, task, place)
        lines.append(f"| {record.label(task, place)} | {said} | {found} |")
    return lines


def interaction_in_words(found: Interaction | None) -> str:
    """An interaction as a sentence."""
    if found is None or not found.difference:
        return "none"
    factor, before, after = found.changed
    other, first, second = found.at
    gains = [f"{100 * gain:.0f}".replace("-", "\N{MINUS SIGN}") for gain in found.gains]
    return (
        f"{factor} {after} instead of {before} adds {gains[0]} points with {other} {first}, "
        f"{gains[1]} with {second}{'' if found.clear else ' (may be chance)'}"
    )


def _effects(record: Factorial, task: str) -> list[str]:
    """A row for each statement, a column for each level of each factor."""
    pairs = zip(record.level_factors, record.levels, strict=True)
    heads = ["share in %", *(f"{factor} {level}" for factor, level in pairs)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for place in record.asked_of(task):
        row = [record.label(task, place)]
        for factor in record.factors:
            row += _effect_cells(main_effect(record, task, place, factor))
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _effect_cells(effect: Effect) -> list[str]:
    cells = []
    for own, beside in zip(effect.shares, effect.beside, strict=True):
        said = "" if own is None else _percent(own)
        cells.append(said if beside is None else f"{said}*, the others {_percent(beside)}")
    if effect.decides:
        cells = [f"**{cell}**" if cell else "" for cell in cells]
    return cells


def _percent(own: Share) -> str:
    return f"{100 * own.share:.0f} [{100 * own.low:.0f}, {100 * own.high:.0f}]"


def _objectives(record: Factorial, task: str) -> list[str]:
    """Meta-objectives of all cells."""
    place = record.task_names.index(task)
    heads = [*record.factors, "meta-objective, median", "least", "largest",
             "seeds below the best textbook optimizer"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    best = float(record.rival_scores[place])
    for cell in record.cells_of(task):
        own = record.objectives[record.rows_of(task, cell)]
        ends = [number(float(value), 4) for value in (np.median(own), own.min(), own.max())]
        lines.append(f"| {' | '.join((*record.level_names(cell), *ends))} | "
                     f"{int((own < best).sum())} of {len(own)} |")  # fmt: skip
    return [*lines, "", f"Tuned {record.rivals[place]}: {number(best, 4)}."]


def _missing(record: Factorial) -> list[str]:
    if not record.missing:
        return []
    return ["Asked for and missing:", "", *(f"- {cell}" for cell in record.missing), ""]
