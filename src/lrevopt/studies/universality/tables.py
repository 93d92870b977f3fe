"""The record of a study of universality as tables: CSV for programs, Markdown to read."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from lrevopt.studies.universality.cells import title_of_cell
from lrevopt.studies.universality.record import (
    AS_SAID,
    NOT_ASKED,
    OTHERWISE,
    RULE,
    TEXTBOOK,
    UNDECIDED,
    Share,
    Universality,
)
from lrevopt.studies.universality.scaling import PlaneMap
from lrevopt.text import csv_text, number

WORDS = {
    AS_SAID: "as said",
    UNDECIDED: "cannot tell",
    OTHERWISE: "not so",
    NOT_ASKED: "not asked",
}
"""Verdicts in words."""


def shares_table(record: Universality) -> str:
    """CSV with a row for each statement, task and cell."""
    heads = [*(field.name for field in dataclasses.fields(Share)), "together"]
    said = record.conclusions()
    return csv_text(
        heads,
        (
            (*map(_short, dataclasses.astuple(one)), said[one.task, one.statement])
            for one in record.shares()
        ),
    )


def members_table(record: Universality) -> str:
    """CSV with a row for each entrant: its objective, and its distances to the textbook ones."""
    others = dict.fromkeys(
        record.names[row] for task in record.task_names for row in record.rows_of(task, TEXTBOOK)
    )
    heads = ["task", "kind", "name", "seed", "objective", "diverged",
             *(f"distance_to_{name}" for name in others)]  # fmt: skip
    rows = []
    for task in record.task_names:
        beside = {record.names[row]: row for row in record.rows_of(task, TEXTBOOK)}
        for row in record.rows_of(task).tolist():
            objectives = record.objectives[row]
            away = [record.distances[row, beside[name]] if name in beside else np.nan
                    for name in others]  # fmt: skip
            rows.append([task, record.kinds[row], record.names[row], int(record.seeds[row]),
                         _short(float(objectives.mean())), int(np.isinf(objectives).sum()),
                         *map(_short, away)])  # fmt: skip
    return csv_text(heads, rows)


def verdicts_table(record: Universality) -> str:
    """CSV with a row for each statement on each member."""
    rows = [
        (record.tasks[row], record.kinds[row], int(record.seeds[row]), record.statements[place],
         WORDS[int(record.verdicts[row, place])], _short(float(record.statistics[row, place])))
        for row in range(len(record.tasks)) if record.kinds[row] != TEXTBOOK
        for place in record.asked_of(record.tasks[row]).tolist()
    ]  # fmt: skip
    return csv_text(("task", "cell", "seed", "statement", "verdict", "statistic"), rows)


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def kind_distances(
    record: Universality, task: str
) -> tuple[tuple[str, ...], Float[np.ndarray, "kind kind"]]:
    """Kinds of the entrants of a task, and mean distances between entrants of two kinds.

    Of an entrant to itself none is counted; NaN where no pair is left.
    """
    rows, own = record.rows_of(task), record.distances_of(task)
    kinds = np.array([record.kinds[row] for row in rows])
    names = tuple(dict.fromkeys(kinds.tolist()))
    others = np.where(np.eye(len(rows), dtype=bool), np.nan, own)
    means = np.full((len(names), len(names)), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            block = others[np.ix_(kinds == first, kinds == second)]
            known = block[~np.isnan(block)]
            if known.size:
                means[i, j] = known.mean()
    return names, means


def universality_markdown(record: Universality, titles: Mapping[str, str]) -> str:
    """The study in Markdown: performance, distances and statements of each task."""
    lines = ["# Which mechanisms always appear", ""]
    for task in record.task_names:
        _, plane = record.map_of(task)
        lines += [
            f"## {titles.get(task, task)}", "",
            *_performance(record, task), "",
            f"Mean distances as maps from gradients to updates (0 equal, 1 unrelated, "
            f"{number(2**0.5)} opposite). {_map_in_words(plane)}", "",
            *_distances(record, task), "",
            *_statements(record, task), "",
        ]  # fmt: skip
    lines += [
        "Shares are of all seeds of a cell: a seed that cannot tell does not count for the "
        f"statement. Brackets: Wilson's 95 % interval. {RULE}",
        "",
        "Statements:",
        "",
        *(f"- {name}: {says}" for name, says in zip(record.statements, record.says, strict=True)),
        "",
    ]
    return "\n".join(lines)


def _map_in_words(plane: PlaneMap) -> str:
    if not len(plane.points):
        return "No updates are finite, so that there are no distances to map."
    return (
        f"The plane of the map shows {number(100 * plane.shown)} % of the squared distances "
        f"(stress {number(plane.stress, 2)})."
    )


def _performance(record: Universality, task: str) -> list[str]:
    """Meta-objectives of the textbook optimizers, and those of each cell over seeds."""
    means = {row: float(record.objectives[row].mean()) for row in record.rows_of(task).tolist()}
    books = {record.names[row]: means[row] for row in record.rows_of(task, TEXTBOOK).tolist()}
    lines = ["| optimizer | meta-objective, median | least | largest | seeds below the best "
             "textbook one |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {number(mean, 4)} | | | |" for name, mean in books.items()]
    best = min(books.values(), default=np.nan)
    for cell in record.cells_of(task):
        own = np.array([means[row] for row in record.rows_of(task, cell).tolist()])
        lines.append(
            f"| {title_of_cell(cell)} | {number(float(np.median(own)), 4)} | "
            f"{number(float(own.min()), 4)} | {number(float(own.max()), 4)} | "
            f"{int((own < best).sum())} of {len(own)} |"
        )
    return lines


def _distances(record: Universality, task: str) -> list[str]:
    names, means = kind_distances(record, task)
    titles = [title_of_cell(name) for name in names]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(names) + 1) + "|"]
    for title, row in zip(titles, means, strict=True):
        lines.append(f"| {title} | {' | '.join(number(float(value)) for value in row)} |")
    return lines


def _statements(record: Universality, task: str) -> list[str]:
    """A row for each statement, a column for each cell."""
    cells = record.cells_of(task)
    heads = ["statement", *(title_of_cell(cell) for cell in cells), "together"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    said = record.conclusions()
    by_statement: dict[str, list[Share]] = {}
    for one in record.shares():
        if one.task == task:
            by_statement.setdefault(one.statement, []).append(one)
    for name, shares in by_statement.items():
        absent = "" if shares[0].expected else " (absent)"
        cells_in_words = (
            f"{one.holds} of {one.seeds} [{number(one.low, 2)}, {number(one.high, 2)}]"
            for one in shares
        )
        lines.append(f"| {name}{absent} | {' | '.join(cells_in_words)} | {said[task, name]} |")
    return lines
