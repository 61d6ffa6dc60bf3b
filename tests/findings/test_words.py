"""Figures with sensible digits."""

from __future__ import annotations

import pytest

from workbench.findings.words import count_of, in_ms, in_percent, in_times, name_some
from workbench.measure.statistics import Estimate


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0042, "4.2 µs"),
        (0.0312, "0.031 ms"),
        (0.7634, "0.763 ms"),
        (1.234, "1.23 ms"),
        (45.67, "45.7 ms"),
        (294.4, "294 ms"),
    ],
)
def test_times_have_three_digits_at_most(value: float, words: str) -> None:
    assert in_ms(value) == words


def test_shares_counts_and_names() -> None:
    assert (in_percent(0.384), in_percent(0.004), in_percent(0.0)) == ("38 %", "0.4 %", "0 %")
    assert (count_of(1, "layer"), count_of(1200, "layer")) == ("1 layer", "1,200 layers")
    assert name_some(["a"]) == "'a'"
    assert name_some(["a", "b", "c"]) == "'a', 'b' and 'c'"
    assert name_some(["a", "b", "c", "d"]) == "'a', 'b', 'c' and 1 more"


def test_ratios_have_the_digits_that_their_interval_allows() -> None:
    assert in_times(Estimate(2.09, 2.06, 2.12)) == "2.09 × (2.06–2.12)"
    assert in_times(Estimate(3.41, 3.3, 3.52)) == "3.4 × (3.3–3.5)"
