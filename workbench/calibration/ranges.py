"""From the values of a tensor to the range that its quantized form covers: four ways to weigh clipping and rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from workbench.calibration.histogram import Histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]

_LEVELS = 256
_FINE = 2048  # linear bins that entropy works on, as in Migacz's description
_SHARES = np.concatenate([np.geomspace(0.02, 0.5, 24, endpoint=False), np.linspace(0.5, 1, 51)])  # of the full range


class Range(NamedTuple):
    """The smallest and the largest value that a quantized tensor can hold."""

    low: float
    high: float


def find_range(histogram: Histogram, method: Method, *, percentile: float = 99.99, symmetric: bool = False) -> Range:
    """Chooses the range of a tensor.

    Args:
        histogram: What the tensor held.
        method: `minmax` keeps every value; `percentile` cuts the outermost off; `entropy` loses the least information
            (Kullback-Leibler divergence, Migacz, "8-bit inference with TensorRT", GTC 2017); `mse` has the least mean
            squared error of clipping and rounding together (Banner et al., "Post training 4-bit quantization", 2019,
            found by search instead of from an assumed distribution).
        percentile: Share of the values that `percentile` keeps, in per cent; half of the rest is cut at each end, or
            all of it by magnitude if `symmetric`.
        symmetric: Whether the range must reach as far below zero as above.

    Returns:
        The range, within what was seen; both ends are zero for a tensor without values.
    """
    if not histogram.count:
        return Range(0.0, 0.0)
    full = Range(histogram.low, histogram.high)
    if symmetric:
        full = _mirrored(full)
    if full.low == full.high:
        return full
    if method == "percentile":
        return _percentile(histogram, full, percentile, symmetric)
    if method == "entropy":
        return _clipped(full, _entropy_threshold(histogram))
    if method == "mse":
        return _least_error(histogram, full)
    return full


def _mirrored(full: Range) -> Range:
    reach = max(abs(full.low), abs(full.high))
    return Range(-reach, reach)


def _clipped(full: Range, reach: float) -> Range:
    return Range(max(full.low, -reach), min(full.high, reach))


def _percentile(histogram: Histogram, full: Range, percentile: float, symmetric: bool) -> Range:
    if symmetric:
        edges, counts = _magnitudes(histogram)
        below = np.concatenate([[0], np.cumsum(counts)])
        return _clipped(full, float(np.interp(percentile / 100 * below[-1], below, edges)))
    cut = (100 - percentile) / 200
    return Range(histogram.quantile(cut), histogram.quantile(1 - cut))


def _magnitudes(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The histogram of absolute values, in linear bins that are fine enough for both sides."""
    edges, counts = histogram.bins()
    reach = max(abs(edges[0]), abs(edges[-1]))
    grid = np.linspace(0, reach, 8 * _FINE + 1)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    inside = np.interp(grid, edges, below) - np.interp(-grid, edges, below)
    inside[0] = 0.0
    return grid, np.diff(inside)


def _entropy_threshold(histogram: Histogram) -> float:
    """The threshold whose quantized distribution is nearest to that of all magnitudes.

    For every threshold from 128 bins upwards, the bins inside, with everything beyond added to the last, are compared
    with what is left of them when they are merged into as many levels as the quantized side has.
    """
    levels = _LEVELS if histogram.low >= 0 else _LEVELS // 2
    fine, weights = _magnitudes(histogram)
    weights = weights.reshape(_FINE, -1).sum(axis=1)
    weights[0] = weights[1]  # zeros say nothing about the scale: rectified tensors have half of their values there
    width = fine[-1] / _FINE
    best, threshold = float("inf"), float(fine[-1])
    for stop in range(levels, _FINE + 1, 8):
        divergence = _divergence(weights, stop, levels)
        if divergence < best:
            best, threshold = divergence, stop * width
    return threshold


def _divergence(weights: NDArray[np.float64], stop: int, levels: int) -> float:
    """Kullback-Leibler divergence, nats, of the first `stop` bins from what `levels` merged levels leave of them."""
    reference = weights[:stop].copy()
    reference[-1] += weights[stop:].sum()
    level = np.arange(stop) * levels // stop
    filled = weights[:stop] > 0
    mass = np.bincount(level, weights[:stop], levels)
    spread = mass / np.maximum(np.bincount(level, filled, levels), 1)
    candidate = np.where(filled, spread[level], 0.0)
    seen = reference > 0
    p = reference[seen] / reference.sum()
    q = np.maximum(candidate[seen] / max(candidate.sum(), 1e-300), 1e-12)
    return float((p * np.log(p / q)).sum())


def _least_error(histogram: Histogram, full: Range) -> Range:
    """The range among shrunken copies of the full one with the least mean squared error."""
    edges, counts = histogram.bins()
    centers, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    candidates = [Range(full.low * share, full.high * share) for share in _SHARES]
    errors = [_squared_error(centers, widths, counts, candidate) for candidate in candidates]
    return candidates[int(np.argmin(errors))]


def _squared_error(
    centers: NDArray[np.float64], widths: NDArray[np.float64], counts: NDArray[np.int64], candidate: Range
) -> float:
    low, high = min(candidate.low, 0.0), max(candidate.high, 0.0)
    step = (high - low) / (_LEVELS - 1)
    rounded = low + np.round((centers.clip(low, high) - low) / step) * step
    error = np.square(centers - rounded)
    # Within a bin wider than a step, values round to several levels: their mean error is that of even spread.
    wide = (widths > step) & (centers > low) & (centers < high)
    error[wide] = step**2 / 12
    return float((error * counts).sum())


def as_float32(chosen: Range) -> tuple[Any, Any]:
    """Both ends as NumPy's float32, always with zero inside: a quantized tensor must hold zero exactly."""
    return np.float32(min(chosen.low, 0.0)), np.float32(max(chosen.high, 0.0))
