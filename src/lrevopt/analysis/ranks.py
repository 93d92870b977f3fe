"""Rank correlation, exactly."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Real


def rank_correlation(
    first: Sequence[float] | Real[np.ndarray, " value"],
    second: Sequence[float] | Real[np.ndarray, " value"],
) -> float:
    """Spearman's, with mean ranks for ties; NaN if either is constant.

    Ranks are whole or half numbers, so that sums of their products are exact and 4/5 is 0.8: a
    threshold of 0.8 is met. Deviations from rounded means would miss it by round-off.
    """
    from scipy.stats import rankdata  # slow to import

    one, other = (2 * rankdata(values) - (len(values) + 1) for values in (first, second))
    squares = (one @ one) * (other @ other)
    return float(one @ other) / math.sqrt(squares) if squares else math.nan
