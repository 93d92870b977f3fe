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
from lrevopt.text import Printed, Table, number

TEXTBOOK = "textbook"
"""Kind of the entrants that were not trained."""

AS_SAID, UNDECIDED, OTHERWISE, NOT_ASKED = 1, 0, -1, -2
"""Codes of verdicts: as the statement says, cannot tell, not so, and not asked of this entrant."""

MOST, FEW = 0.8, 0.2
"""A statement is universal if it holds in at least this share of the seeds of every cell, and holds
nowhere if in at most the second share of every cell. The first is the share of seeds that the
paper's sentences are judged by in this package."""

WIDTH = 1.959964
"""Half width of a 95 % interval, in deviations of a normal variable."""


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, from `count` of `total` (Wilson 1927); (0, 1) of none.

    Unlike a normal interval it stays within 0 and 1, and has a width where all or none agree.
    """
    if not total:
        return 0.0, 1.0
    share, squared = count / total, WIDTH**2
    centre = (share + squared / (2 * total)) / (1 + squared / total)
    spread = share * (1 - share) / total + squared / (4 * total**2)
    half = WIDTH * np.sqrt(spread) / (1 + squared / total)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


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
      entrants of different tasks.
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
        """Rows of the entrants that have distances, and their map in a plane."""
        own = self.distances_of(task)
        finite: Bool[np.ndarray, " own"] = np.isfinite(np.diagonal(own))
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
        """Shares of seeds by statement and cell."""
        said = self.conclusions()
        rows = [
            (one.task, one.statement, "there" if one.expected else "absent",
             title_of_cell(one.cell), f"{one.holds} of {one.seeds}", str(one.undecided),
             number(one.share), f"{number(one.low)} to {number(one.high)}", number(one.median),
             said[one.task, one.statement])
            for one in self.shares()
        ]  # fmt: skip
        notes = [
            "Holds: seeds with the verdict that the statement claims, there or absent; a seed that "
            "cannot tell counts against it. The interval is Wilson's, 95 %. Universal: it holds in "
            f"at least {100 * MOST:.0f} % of the seeds of every cell; nowhere: in at most "
            f"{100 * FEW:.0f} % of every cell."
        ]
        heads = ("task", "statement", "says", "cell", "holds", "cannot tell", "share",
                 "interval", "statistic, median", "together")  # fmt: skip
        count = sum(kind != TEXTBOOK for kind in self.kinds)
        return Table(f"Statements on {count} trained optimizers", heads, rows, notes)


def conclusion(shares: list[Share]) -> str:
    """What the shares of all cells say together."""
    each = [one.share for one in shares]
    if min(each) >= MOST:
        return "universal"
    if max(each) <= FEW:
        return "nowhere"
    if max(each) >= MOST and min(each) <= FEW:
        return "depends on the cell"
    return "depends on cell and seed"
