"""Many optimizers of several architectures and seeds side by side: the record of a study.

A *statement* is a sentence about optimizers with a verdict on each; which ones are asked is the
client's choice (`paper.universality` asks the paper's). An *entrant* is a trained member of a
population, or a hand-written optimizer that stands beside them.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from lrevopt.studies.universality.cells import title_of_cell
from lrevopt.studies.universality.scaling import PlaneMap, plane_map
from lrevopt.text import Printed, Table

TEXTBOOK = "textbook"
"""Kind of the entrants that were not trained."""

AS_SAID, UNDECIDED, OTHERWISE, NOT_ASKED = 1, 0, -1, -2
"""Codes of verdicts: as the statement says, cannot tell, not so, and not asked of this entrant."""

MOST = 0.8
"""Share of seeds that decides for a cell, as it does for the paper's sentences in this package."""


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, from `count` of `total` (Wilson 1927); (0, 1) of none.

    Unlike a normal interval it stays within 0 and 1, and has a width where all or none agree.
    """
    from scipy.stats import binomtest  # slow to import

    if not total:
        return 0.0, 1.0
    found = binomtest(count, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


@dataclasses.dataclass(frozen=True)
class Share:
    """In how many seeds of one cell a statement holds on one task.

    `holds`, `not_so` and `undecided` add up to `seeds`. `share` is `holds / seeds`, so that a seed
    that cannot tell counts against the statement; `low` and `high` bound its 95 % interval.
    `median`, `least` and `largest` are of the statistic, over seeds that have one.
    """

    task: str
    statement: str
    expected: bool
    cell: str
    seeds: int
    holds: int
    not_so: int
    undecided: int
    share: float
    low: float
    high: float
    median: float
    least: float
    largest: float


class Universality(Printed, eqx.Module):
    """Members of populations, hand-written optimizers, and what was found of each on its task.

    One row for each entrant: `tasks` it was trained or tuned on, `kinds` (the cell, or "textbook"),
    `names` ("003" for the member of seed 3, or "adam") and `seeds` (-1: not trained).

    - `objectives`: meta-objective on test problems, `mean(losses) / losses[0]`, of the same
      problems for all entrants of a task; +inf where a run diverged.
    - `distances`: as maps from gradients to updates (see `response_distances`); NaN between
      entrants of different tasks. `lrevopt universality` keeps six digits of both.
    - `statements`, `says`: names and sentences. `task_names` and `expected`: whether a statement
      is that something is there (1) or absent (0) on a task, or nothing (-1).
    - `statistics`: the number that a verdict rests on, NaN if there is none; `verdicts`: 1 as the
      statement says, 0 cannot tell, -1 not so, -2 not asked.
    """

    tasks: tuple[str, ...]
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    seeds: Int[np.ndarray, " entrant"]
    objectives: Float[np.ndarray, "entrant problem"]
    distances: Float[np.ndarray, "entrant entrant"]
    statements: tuple[str, ...]
    says: tuple[str, ...]
    task_names: tuple[str, ...]
    expected: Int[np.ndarray, "task statement"]
    statistics: Float[np.ndarray, "entrant statement"]
    verdicts: Int[np.ndarray, "entrant statement"]

    def rows_of(self, task: str, kind: str | None = None) -> Int[np.ndarray, " own"]:
        """Rows of the entrants of a task, of one kind if it is given."""
        mine = np.array(self.tasks) == task
        return np.flatnonzero(mine if kind is None else mine & (np.array(self.kinds) == kind))

    def cells_of(self, task: str) -> tuple[str, ...]:
        """Cells of the members of a task, in order."""
        kinds = [self.kinds[row] for row in self.rows_of(task)]
        return tuple(dict.fromkeys(kind for kind in kinds if kind != TEXTBOOK))

    def asked_of(self, task: str) -> Int[np.ndarray, " asked"]:
        """Places of the statements that say something of a task."""
        return np.flatnonzero(self.expected[self.task_names.index(task)] >= 0)

    def distances_of(self, task: str) -> Float[np.ndarray, "own own"]:
        """Distances among the entrants of a task."""
        rows = self.rows_of(task)
        return self.distances[np.ix_(rows, rows)]

    def map_of(self, task: str) -> tuple[Int[np.ndarray, " shown"], PlaneMap]:
        """Rows of the entrants that have distances, and their map in a plane.

        Where none has any, the map has no points, and what it shows is NaN.
        """
        own = self.distances_of(task)
        finite: Bool[np.ndarray, " own"] = np.isfinite(np.diagonal(own))
        if not finite.any():
            return self.rows_of(task)[finite], PlaneMap(np.zeros((0, 2)), np.nan, np.nan)
        return self.rows_of(task)[finite], plane_map(own[np.ix_(finite, finite)])

    def shares(self) -> Iterator[Share]:
        """In how many seeds each statement holds, by task, statement and cell."""
        for task in self.task_names:
            for place in self.asked_of(task).tolist():
                for cell in self.cells_of(task):
                    yield self._share(task, place, cell)

    def _share(self, task: str, place: int, cell: str) -> Share:
        rows = self.rows_of(task, cell)
        count = Counter(self.verdicts[rows, place].tolist())
        values = self.statistics[rows, place]
        known = values[~np.isnan(values)]
        holds = count[AS_SAID]
        low, high = wilson_interval(holds, len(rows))
        median, least, largest = (
            (float(np.median(known)), float(known.min()), float(known.max()))
            if len(known)
            else (np.nan,) * 3
        )
        return Share(
            task=task, statement=self.statements[place], cell=cell, seeds=len(rows), holds=holds,
            expected=bool(self.expected[self.task_names.index(task), place]),
            not_so=count[OTHERWISE], undecided=count[UNDECIDED],
            share=holds / len(rows), low=low, high=high,
            median=median, least=least, largest=largest,
        )  # fmt: skip

    def conclusions(self) -> dict[tuple[str, str], str]:
        """What the shares of all cells say together, by task and statement."""
        found: dict[tuple[str, str], list[Share]] = {}
        for one in self.shares():
            found.setdefault((one.task, one.statement), []).append(one)
        return {key: conclusion(shares) for key, shares in found.items()}

    def table(self) -> Table:
        """In how many seeds statements hold, with a column for each cell."""
        cells = tuple(dict.fromkeys(kind for kind in self.kinds if kind != TEXTBOOK))
        each = {(one.task, one.statement, one.cell): one for one in self.shares()}
        rows = []
        for (task, statement), said in self.conclusions().items():
            own = [each.get((task, statement, cell)) for cell in cells]
            found = [one for one in own if one is not None]
            counts = ["" if one is None else f"{one.holds} of {one.seeds}" for one in own]
            undecided = str(sum(one.undecided for one in found))
            says = "there" if found[0].expected else "absent"
            rows.append((task, statement, says, *counts, undecided, said))
        heads = ("task", "statement", "says", *map(title_of_cell, cells), "cannot tell", "together")
        notes = ["Seeds in which it is as the statement says, there or absent; a seed that cannot "
                 f"tell does not count for it. {RULE}"]  # fmt: skip
        count = sum(kind != TEXTBOOK for kind in self.kinds)
        return Table(f"Statements on {count} trained optimizers", heads, rows, notes)


RULE = (
    f"Universal: it holds in at least {100 * MOST:.0f} % of the seeds of every cell. Nowhere: it "
    "does not hold in as many of every cell. Of one cell alone, which shows nothing of others: in "
    "most seeds, and not so in most seeds. Depends on the cell: the one in some cells and the "
    "other in others. Not shown: in no cell it holds in half of the seeds, and mostly they cannot "
    "tell. Mixed: all else."
)
"""What the words for all cells together mean."""


def conclusion(shares: list[Share]) -> str:
    """What the shares of all cells say together; see `RULE`."""
    for_it = [one.share >= MOST for one in shares]
    against = [one.not_so >= MOST * one.seeds for one in shares]
    several = len(shares) > 1
    if all(for_it):
        return "universal" if several else "in most seeds"
    if all(against):
        return "nowhere" if several else "not so in most seeds"
    if any(for_it) and any(against):
        return "depends on the cell"
    few = all(2 * one.holds < one.seeds for one in shares)
    silent = sum(one.undecided for one in shares) > sum(one.not_so for one in shares)
    return "not shown" if few and silent else "mixed"
