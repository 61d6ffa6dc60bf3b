from __future__ import annotations

import numpy as np
import pytest

from workbench.calibration import Histogram


def histogram_of(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def test_nothing_has_to_be_known_of_the_values_beforehand() -> None:
    histogram = histogram_of(np.array([1e-20, 3e30, -5.0, 0.0], np.float32))

    assert (histogram.low, histogram.high, histogram.count) == (-5.0, np.float32(3e30), 4)
    edges, counts = histogram.bins()
    assert (edges[0], edges[-1]) == (-5.0, np.float32(3e30))
    assert counts.sum() == 4
    assert (np.diff(edges) >= 0).all()


def test_quantiles_are_those_of_the_values_within_a_bin() -> None:
    values = np.random.default_rng(0).standard_normal(30_000).astype(np.float32)
    histogram = histogram_of(values)

    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        exact = float(np.quantile(values, share))
        assert histogram.quantile(share) == pytest.approx(exact, rel=1 / 128, abs=0.01)


def test_batches_add_up_and_parts_merge() -> None:
    values = np.random.default_rng(1).standard_normal(4_000).astype(np.float32)
    whole, first, second = histogram_of(values), histogram_of(values[:1500]), histogram_of(values[1500:])
    first.merge(second)

    assert (first.count, first.low, first.high) == (whole.count, whole.low, whole.high)
    assert (first.bins()[1] == whole.bins()[1]).all()


def test_of_big_arrays_a_part_is_counted_and_the_ends_are_exact() -> None:
    values = np.random.default_rng(2).standard_normal((64, 128, 128)).astype(np.float32)
    values[13, 77, 5] = 40.0
    histogram = Histogram()
    for _ in range(3):
        histogram.add(values, most=60_000)

    assert histogram.high == 40.0
    assert histogram.count == 3 * values.size
    assert histogram.bins()[1].sum() < values.size
    assert histogram.quantile(0.999) == pytest.approx(float(np.quantile(values, 0.999)), rel=0.02)


def test_the_range_alone_needs_no_bins() -> None:
    histogram = Histogram()
    histogram.add_range(np.array([[2.0, -3.0]]))

    assert (histogram.low, histogram.high, histogram.count) == (-3.0, 2.0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        histogram_of(np.array([1.0, bad], np.float32))
