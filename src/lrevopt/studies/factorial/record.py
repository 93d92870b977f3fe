"""Trained optimizers of a factorial experiment: levels of the factors, and verdicts on each.

A *statement* is a sentence about optimizers with a verdict on each, as in a study of universality.
A *member* is one trained optimizer, a *run* the training that it comes from: members that differ
only in a factor *within* runs, such as the number of meta-steps, are snapshots of one run.
"""

import itertools
from collections.abc import Iterator

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from lrevopt.text import Printed, Table

Cell = tuple[int, ...]
"""Index of the level of each factor."""


class Factorial(Printed, eqx.Module):
    """Members of a factorial experiment, one row for each.

    - `tasks`: what each was trained on. `design`: index of its level of each factor. `seeds`.
    - `factors`: names; `within`: those whose levels are snapshots of one run. `level_factors` and
      `levels`: the levels of all factors one after another, and the factor of each.
    - `objectives`: mean meta-objective of each on the test problems of its task, +inf if one
      diverged; `diverged`: on how many it did.
    - `statements`, `says`: names and sentences. `task_names` and `expected`: whether a statement
      is that something is there (1) or absent (0) on a task, or nothing (-1).
    - `statistics`: the number that a verdict rests on, NaN if there is none; `verdicts`: 1 as the
      statement says, 0 cannot tell, -1 not so, -2 not asked.
    - `rivals`: name of the best textbook optimizer of each task; `rival_scores`: its
      meta-objective on the same problems.
    - `missing`: cells that were asked for and are not there, in words.
    """

    tasks: tuple[str, ...]
    design: Int[np.ndarray, "member factor"]
    seeds: Int[np.ndarray, " member"]
    factors: tuple[str, ...]
    within: tuple[str, ...]
    level_factors: tuple[str, ...]
    levels: tuple[str, ...]
    objectives: Float[np.ndarray, " member"]
    diverged: Int[np.ndarray, " member"]
    statements: tuple[str, ...]
    says: tuple[str, ...]
    task_names: tuple[str, ...]
    expected: Int[np.ndarray, "task statement"]
    statistics: Float[np.ndarray, "member statement"]
    verdicts: Int[np.ndarray, "member statement"]
    rivals: tuple[str, ...]
    rival_scores: Float[np.ndarray, " task"]
    missing: tuple[str, ...]

    def levels_of(self, factor: str) -> tuple[str, ...]:
        """Names of the levels of a factor, in order."""
        pairs = zip(self.level_factors, self.levels, strict=True)
        return tuple(level for own, level in pairs if own == factor)

    def level_names(self, cell: Cell) -> tuple[str, ...]:
        """Names of the levels of a cell."""
        pairs = zip(self.factors, cell, strict=True)
        return tuple(self.levels_of(factor)[place] for factor, place in pairs)

    def rows_of(self, task: str, cell: Cell | None = None) -> Int[np.ndarray, " own"]:
        """Rows of the members of a task, of one cell if it is given."""
        mine: Bool[np.ndarray, " member"] = np.array(self.tasks) == task
        return np.flatnonzero(mine if cell is None else mine & (self.design == cell).all(axis=1))

    def cells_of(self, task: str) -> list[Cell]:
        """Cells of a task that have members, in the order of their levels."""
        found = {tuple(map(int, self.design[row])) for row in self.rows_of(task)}
        return sorted(found)

    def asked_of(self, task: str) -> list[int]:
        """Places of the statements that say something of a task."""
        return np.flatnonzero(self.expected[self.task_names.index(task)] >= 0).tolist()

    def asked(self) -> Iterator[tuple[str, int]]:
        """Every task that has members, and every statement that says something of it."""
        for task in self.task_names:
            if len(self.rows_of(task)):
                yield from itertools.product([task], self.asked_of(task))

    def runs_of(self, rows: Int[np.ndarray, " own"]) -> int:
        """Number of trainings that members come from."""
        across = [place for place, name in enumerate(self.factors) if name not in self.within]
        return len({(self.tasks[row], int(self.seeds[row]), *map(int, self.design[row, across]))
                    for row in rows.tolist()})  # fmt: skip

    def label(self, task: str, place: int) -> str:
        """A statement in words, with "no" where it is that something is absent."""
        plain = self.statements[place].replace("-", " ")
        return plain if self.expected[self.task_names.index(task), place] else f"no {plain}"

    def table(self) -> Table:
        """What must hold for each statement on each task."""
        from lrevopt.studies.factorial.effects import what_must_hold

        rows = [(task.replace("_", " "), self.label(task, place), what_must_hold(self, task, place))
                for task, place in self.asked()]  # fmt: skip
        title = f"What must hold, from {len(self.tasks)} members of {self._runs()} runs"
        return Table(title, ("task", "statement", "what must hold"), rows)

    def _runs(self) -> int:
        return self.runs_of(np.arange(len(self.tasks)))
