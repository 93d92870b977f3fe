"""Spearman's rank correlation, without round-off."""

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
