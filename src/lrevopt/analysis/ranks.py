"""Spearman's rank correlation, without round-off, and its probability by chance."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Real


def rank_correlation(
    first: Sequence[float] | Real[np.ndarray, " value"],
    second: Sequence[float] | Real[np.ndarray, " value"],
) -> float:
    """Spearman's rank correlation, with mean ranks for ties; NaN if either is constant.

    Ranks are whole or half numbers, so that sums of their products are exact: a correlation of 4/5
    meets a threshold of 0.8, which rounded means and deviations would miss.
    """
    from scipy.stats import rankdata  # slow to import

    one, other = (2 * rankdata(values) - (len(values) + 1) for values in (first, second))
    squares = (one @ one) * (other @ other)
    return float(one @ other) / math.sqrt(squares) if squares else math.nan


LISTED = 7
"""Values of which all orders are listed, at most."""


def chance_of_ranks(
    correlation: float,
    first: Sequence[float] | Real[np.ndarray, " value"],
    second: Sequence[float] | Real[np.ndarray, " value"],
) -> float:
    """Share of all orders of `second` that correlate with `first` at least as much (one-sided).

    Exact for up to 7 values, ties included: of four different ones, 1 in 24 for a correlation of 1
    and 4 in 24 for 0.8. Beyond, by Student's t with two degrees of freedom less than values. NaN of
    NaN.
    """
    count = len(first)
    if math.isnan(correlation):
        return math.nan
    if count > LISTED:
        from scipy.stats import t  # slow to import

        share = max(1 - correlation**2, 1e-300)
        return float(t.sf(correlation * math.sqrt((count - 2) / share), count - 2))
    found = [rank_correlation(first, order) for order in itertools.permutations(second)]
    return sum(value >= correlation for value in found) / len(found)
