"""Rank correlations are exact."""

import itertools
import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from lrevopt.analysis.ranks import chance_of_ranks, rank_correlation


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_every_order_has_its_fraction(count):
    """Without ties, 1 - 6 sum d^2 / (n (n^2 - 1)), rounded once."""
    for order in itertools.permutations(range(count)):
        squares = sum((place - rank) ** 2 for place, rank in enumerate(order))
        expected = 1 - Fraction(6 * squares, count * (count**2 - 1))
        values = [10.0**-rank for rank in order]
        assert rank_correlation(np.arange(count), values) == -float(expected)


VALUES = st.lists(st.sampled_from([-3.0, 0.0, 0.5, 1e-9, 7.0]), min_size=12, max_size=12)


@hypothesis.given(first=VALUES, second=VALUES)
def test_ties_share_their_mean_rank(first, second):
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(first, second).statistic, abs=1e-14)
        assert found == rank_correlation(second, first)


def test_what_a_correlation_of_few_ranks_is_worth():
    """Of the 24 orders of four, one is in full agreement and three more are one exchange away."""
    expected = {1.0: 1, 0.8: 4, 0.0: 13, -1.0: 24}
    for correlation, orders in expected.items():
        assert chance_of_ranks(correlation, range(4), range(4)) == orders / 24
    assert chance_of_ranks(1.0, range(3), range(3)) == 1 / 6
    assert math.isnan(chance_of_ranks(math.nan, range(4), range(4)))
    assert chance_of_ranks(1.0, range(20), range(20)) < 1e-12
    # Two equal values can be exchanged: twice as many orders agree as much.
    tied, four = [0, 0, 0.05, 0.13], [0.1, 0.2, 0.5, 0.8]
    assert chance_of_ranks(rank_correlation(tied, four), tied, four) == 2 / 24
    # Beyond seven, the approximation is scipy's.
    one, other = np.arange(9), np.array([1, 0, 2, 3, 6, 5, 4, 8, 7])
    found = scipy.stats.spearmanr(one, other, alternative="greater")
    chance = chance_of_ranks(rank_correlation(one, other), one, other)
    assert chance == pytest.approx(found.pvalue, rel=1e-9)
