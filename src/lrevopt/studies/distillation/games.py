"""What each part contributes to what all of them reach together: Shapley values of a game."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


def all_subsets(count: int) -> Bool[np.ndarray, "subset part"]:
    """Every subset of parts, smaller ones first."""
    rows = itertools.product((False, True), repeat=count)
    return np.array(sorted(rows, key=lambda row: (sum(row), [not one for one in row])), bool)


def shapley_values(
    subsets: Bool[np.ndarray, "subset part"], values: Float[np.ndarray, " subset"]
) -> Float[np.ndarray, " part"]:
    """Shapley values of a game from its value on every subset."""
    of = {tuple(row): value for row, value in zip(subsets.tolist(), values, strict=True)}
    count = subsets.shape[1]
    found = np.zeros(count)
    for row, value in of.items():
        size = sum(row)
        for part in range(count):
            if not row[part]:
                weight = math.factorial(size) * math.factorial(count - size - 1)
                more = (*row[:part], True, *row[part + 1 :])
                found[part] += weight / math.factorial(count) * (of[more] - value)
    return found


def ranking(names: Sequence[str], values: Float[np.ndarray, " name"]) -> str:
    """Names in order, largest value first, such as `a > b = c`."""
    first, *others = np.argsort(-values, kind="stable").tolist()
    words, before = names[first], values[first]
    for place in others:
        words += f" {'=' if values[place] == before else '>'} {names[place]}"
        before = values[place]
    return words
