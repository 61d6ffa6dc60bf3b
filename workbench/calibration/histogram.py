"""A histogram of floats that needs no range beforehand, takes flat memory, and merges with others of its kind."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BINS = 2**16
_UPPER = int(sys.byteorder == "little")  # which half of a float, as two 16-bit numbers, has the sign
_CHUNK = 2**18  # values at a time: what NumPy makes of them on the way stays in the processor's cache
_STRIDES = (1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


class Histogram:
    """Counts float32 values by their upper 16 bits: sign, exponent and 7 bits of the fraction.

    A bin is at most 1/128 as wide as the values in it are large, from 1e-38 to 3e38, so nothing has to be known of the
    values before, and two histograms add bin by bin. Memory is 512 KB whatever is counted. Smallest and largest are
    exact. Where not all values are to be counted, one in a few is, at a stride (a prime, so that it falls in step with
    no axis) and an offset that moves from array to array.

    Attributes:
        count: Values seen.
        low: The smallest; infinite if there was none.
        high: The largest; minus infinity if there was none.
    """

    def __init__(self) -> None:
        self.count, self.low, self.high = 0, float("inf"), float("-inf")
        self._bins = np.zeros(_BINS, np.int64)
        self._arrays = 0
        self._waiting: list[NDArray[np.uint16]] = []  # many at once are counted faster than each by itself

    def add(self, values: NDArray[Any], most: int | None = None) -> None:
        """Counts values of any shape.

        Args:
            values: Floats; those wider or narrower than 32 bits are converted.
            most: About how many are counted, evenly spread ones where there are more; all if None.

        Raises:
            ValueError: There are NaN or infinite values among them.
        """
        if not values.size:
            return
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        self._extend(flat)
        most = most or flat.size
        stride = next((prime for prime in _STRIDES if flat.size // prime <= most), _STRIDES[-1])
        first = self._arrays % stride
        self._arrays += 1
        self._waiting.append(flat.view(np.uint16)[2 * first + _UPPER :: 2 * stride].copy())
        if sum(map(len, self._waiting)) >= _CHUNK:
            self._count_waiting()

    def add_range(self, values: NDArray[Any]) -> None:
        """Notes the smallest and the largest of some values and leaves the bins alone, which takes a tenth of the time.

        Raises:
            ValueError: There are NaN or infinite values among them.
        """
        if values.size:
            self._extend(values)

    def merge(self, other: Histogram) -> None:
        """Adds what another one has seen."""
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for one in (self, other):
            one._count_waiting()
        self._bins += other._bins

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What was counted, in ascending order.

        Returns:
            The edges, one more than there are bins, and the count of each bin. Bins reach from the smallest to the
            largest value seen; there are at least one and never empty ones at the ends.
        """
        self._count_waiting()
        half = _BINS // 2  # the upper half of the bins holds negative values, the smallest last
        edges, counts = _ascending_edges(), np.concatenate([self._bins[: half - 1 : -1], self._bins[:half]])
        filled = np.flatnonzero(counts)
        first, last = filled[0], filled[-1]
        edges = edges[first : last + 2].copy()
        edges[0], edges[-1] = max(edges[0], self.low), min(edges[-1], self.high)
        return edges, counts[first : last + 1]

    def quantile(self, share: float) -> float:
        """The value that `share` of all values (0 to 1) lie below; between edges as if they lay evenly."""
        edges, counts = self.bins()
        return float(np.interp(share * counts.sum(), np.concatenate([[0], np.cumsum(counts)]), edges))

    def _count_waiting(self) -> None:
        if self._waiting:
            upper = np.concatenate(self._waiting)
            for start in range(0, len(upper), _CHUNK):
                self._bins += np.bincount(upper[start : start + _CHUNK], minlength=_BINS)
            self._waiting = []

    def _extend(self, values: NDArray[Any]) -> None:
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("NaN or infinite values")
        self.count += values.size
        self.low, self.high = min(self.low, low), max(self.high, high)


def _ascending_edges() -> NDArray[np.float64]:
    """Edges of all bins, from the most negative to the largest: the bits of a float order as its magnitude does."""
    largest = np.finfo(np.float32).max
    starts = (np.arange(_BINS // 2 + 1, dtype=np.uint32) << 16).view(np.float32)
    starts = np.where(np.isfinite(starts), starts, largest).astype(np.float64)  # bins of infinities and NaN stay empty
    return np.concatenate([-starts[:0:-1], starts])
