"""Percentiles, ratios and shares, held against closed forms and scipy."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import binomtest

from workbench.measure.statistics import Estimate, paired_p_value, paired_ratio, percentiles, share_interval


def test_percentiles_are_those_of_all_rounds_together() -> None:
    rounds = list(np.random.default_rng(1).permutation(np.arange(1001.0)).reshape(-1, 91))
    p10, p50, p99 = percentiles(rounds, [0.1, 0.5, 0.99])

    assert p10 is not None
    assert p50 is not None
    assert p99 is not None
    assert (p10.value, p50.value, p99.value) == (100, 500, pytest.approx(990))
    assert p50.low < 500 < p50.high


@pytest.mark.parametrize(("count", "known"), [(499, False), (500, True)])
def test_the_99th_percentile_needs_five_samples_beyond_it(count: int, known: bool) -> None:
    rounds = np.array_split(np.random.default_rng(2).random(count), 10)
    p50, p99 = percentiles(rounds, [0.5, 0.99])

    assert p50 is not None
    assert (p99 is not None) is known


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    held = 0
    for _ in range(60):
        [median] = percentiles(list(random.exponential(size=(20, 5))), [0.5])
        assert median is not None
        held += median.low <= np.log(2) <= median.high
    assert 0.86 <= held / 60 <= 1


def test_rounds_that_differ_widen_the_interval() -> None:
    """Forty rounds on a machine that changes pace say less than 400 independent timings."""
    random = np.random.default_rng(4)
    steady = random.normal(10, 1, (40, 10))
    [alone], [moving] = (percentiles(list(steady + shift), [0.5]) for shift in (0, random.normal(0, 2, (40, 1))))

    assert alone is not None
    assert moving is not None
    assert moving.spread > 2 * alone.spread


def test_a_ratio_cancels_what_slows_both_down() -> None:
    random = np.random.default_rng(5)
    pace = np.repeat([1.0, 3.0], 20)
    ratio = paired_ratio(4 * pace * random.normal(1, 0.01, 40), 2 * pace * random.normal(1, 0.01, 40))

    assert ratio.value == pytest.approx(2, rel=0.01)
    assert 1.97 < ratio.low < 2 < ratio.high < 2.03


def test_a_ratio_to_itself_is_one() -> None:
    assert paired_ratio([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == Estimate(1, 1, 1)


@pytest.mark.parametrize(("hits", "total"), [(0, 20), (7, 20), (20, 20), (687, 697)])
def test_a_share_has_its_wilson_interval(hits: int, total: int) -> None:
    share, z = hits / total, 1.959963984540054
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    estimate = share_interval(hits, total)

    assert estimate.value == share
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (10, 1), (0, 6), (25, 12)])
def test_mcnemar_is_exact(lost: int, gained: int) -> None:
    count, least = lost + gained, min(lost, gained)
    closed = min(1.0, 2 * sum(comb(count, k) for k in range(least + 1)) / 2**count)

    assert paired_p_value(lost, gained) == pytest.approx(closed)
    if count:
        assert paired_p_value(lost, gained) == pytest.approx(binomtest(lost, count, 0.5).pvalue)


def test_spread_is_half_the_interval_as_a_share() -> None:
    assert Estimate(10, 9, 12).spread == pytest.approx(0.15)
    assert Estimate(0, 0, 0).spread == 0
