"""How a search decides among its finalists.

The best of many scores is optimistic, most of all on few problems. So the winner is run on further
problems, which were not used to choose it. If its score there differs by more than 10 %, all
finalists run on these problems, too, and are compared on all problems together, until the score of
the winner holds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

HOLDS = 0.1
"""Share by which the winner's score on further problems may differ from that it won with."""

DECISIONS = 4
"""Most times that finalists are decided, each time on as many further problems."""


class Decided(NamedTuple):
    """The winner among finalists, its score where it was decided, and on further problems."""

    winner: int
    score: float
    checked: float
    problems: int
    sentences: tuple[str, ...]


def decide(
    score: Callable[[np.ndarray, int], np.ndarray],
    finalists: Int[np.ndarray, " finalist"],
    problems: int,
) -> Decided:
    """The finalist with the least mean, compared on more problems until its score holds.

    `score(places, decision)` is the mean of each over the problems of that decision, `problems`
    each time.
    """
    sums, sentences = np.zeros(len(finalists)), []
    for decision in range(DECISIONS):
        sums = sums + score(finalists, decision)
        best = int(np.argmin(sums))
        won, drawn = float(sums[best]) / (decision + 1), problems * (decision + 1)
        checked = float(score(finalists[best : best + 1], decision + 1)[0])
        if abs(checked - won) <= HOLDS * abs(won) or not np.isfinite(sums).any():
            break
        what = ", at the last decision"
        if decision + 1 < DECISIONS:
            what = ", so finalists were decided on all of them"
        sentences.append(
            f"The winner on {drawn} fresh problems had {won:.4g} there and {checked:.4g} on "
            f"{problems} further ones{what}."
        )
    return Decided(int(finalists[best]), won, checked, drawn, tuple(sentences))
