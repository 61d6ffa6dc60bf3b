from __future__ import annotations

import numpy as np
import pytest

from workbench.calibration import Histogram, Method, Range, as_float32, find_range


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


@pytest.fixture(scope="module")
def outliers() -> Histogram:
    """Fifty thousand values near zero, and five a hundred times larger."""
    values = np.random.default_rng(0).standard_normal(50_000)
    return histogram_of(np.concatenate([values, [300, 310, 320, 330, 340]]))


def squared_error(values: np.ndarray, chosen: Range) -> float:
    low, high = (float(end) for end in as_float32(chosen))
    step = (high - low) / 255
    return float(np.square(values - (low + np.round((values.clip(low, high) - low) / step) * step)).mean())


def test_minmax_keeps_every_value(outliers: Histogram) -> None:
    assert find_range(outliers, "minmax") == Range(outliers.low, 340.0)


def test_percentile_cuts_the_outermost_off(outliers: Histogram) -> None:
    chosen = find_range(outliers, "percentile", percentile=99.9)

    assert 3 < chosen.high < 4
    assert -4 < chosen.low < -3


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_entropy_and_mse_weigh_clipping_against_rounding(method: Method) -> None:
    """Values with heavy tails: both cut some of them off, and not most of them."""
    values = np.random.default_rng(1).standard_t(3, 100_000)
    chosen = find_range(histogram_of(values), method)

    assert chosen.high < values.max()
    assert np.mean(np.abs(values) <= chosen.high) > 0.97


def test_mse_has_a_smaller_error_than_every_other_way() -> None:
    values = np.random.default_rng(2).standard_t(4, size=50_000)
    histogram = histogram_of(values)
    errors = {name: squared_error(values, find_range(histogram, name)) for name in ("minmax", "percentile", "mse")}  # type: ignore[arg-type]

    assert errors["mse"] == pytest.approx(min(errors.values()), rel=0.02)
    assert errors["mse"] < 0.95 * errors["minmax"]


def test_a_symmetric_range_reaches_as_far_below_zero_as_above(outliers: Histogram) -> None:
    for method in ("minmax", "percentile", "entropy", "mse"):
        chosen = find_range(outliers, method, symmetric=True)  # type: ignore[arg-type]
        assert chosen.low == pytest.approx(-chosen.high)


def test_a_rectified_tensor_starts_at_zero() -> None:
    values = np.maximum(np.random.default_rng(3).standard_normal(10_000), 0)
    for method in ("minmax", "percentile", "entropy", "mse"):
        assert find_range(histogram_of(values), method).low == pytest.approx(0, abs=1e-30)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("constant", [0.0, 2.5, -1.0])
def test_a_constant_tensor_has_a_range_with_zero_in_it(method: Method, constant: float) -> None:
    low, high = as_float32(find_range(histogram_of(np.full(100, constant)), method))

    assert low <= 0 <= high
    assert low <= constant <= high


def test_nothing_seen_has_no_range() -> None:
    assert find_range(Histogram(), "mse") == Range(0.0, 0.0)
