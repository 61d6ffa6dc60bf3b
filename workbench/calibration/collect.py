"""Gathers what calibration needs of many tensors in one pass over the samples; memory does not grow with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.calibration.histogram import Histogram
from workbench.calibration.observe import observe
from workbench.dataset import Dataset
from workbench.errors import DatasetError
from workbench.jobs import Progress, silent

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

# Values of one tensor that are counted. Of the outermost 0.01 %, that leaves some hundreds to know their place by: it
# then varies by about half of a histogram's bin.
_ENOUGH = 2**22
_LEAST = 2**15  # of one sample
_THREADS = 2  # counting is bound by memory; more do not help


class Statistics:
    """What was seen of one tensor.

    Attributes:
        histogram: Of all its values; the smallest and largest alone where nothing else was asked for.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.histogram = Histogram()
        self._axis = axis
        self._sum: NDArray[np.float64] | None = None
        self._peak: NDArray[np.float64] | None = None
        self._per_channel = 0

    def add(self, values: NDArray[Any], bins: int, peaks: bool) -> None:
        """Takes in one batch; of each sample, `bins` values are counted."""
        if bins:
            self.histogram.add(values, bins * (len(values) if values.ndim else 1))
        else:
            self.histogram.add_range(values)
        if self._axis is not None:
            self._add_channels(values, self._axis % values.ndim, peaks)

    @property
    def channel_means(self) -> NDArray[np.float64] | None:
        """Mean of each channel, `(channels,)`; None unless it was asked for."""
        return None if self._sum is None else self._sum / max(self._per_channel, 1)

    @property
    def channel_peaks(self) -> NDArray[np.float64] | None:
        """Largest magnitude of each channel, `(channels,)`; None unless it was asked for."""
        return self._peak

    def _add_channels(self, values: NDArray[Any], axis: int, peaks: bool) -> None:
        # What lies together in memory is summed first: NumPy adds it pairwise, fast and exact enough in FP32.
        flat = values.reshape(*values.shape[: axis + 1], -1)
        before = tuple(range(axis))
        total = flat.sum(axis=-1).sum(axis=before, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._per_channel += values.size // values.shape[axis]
        if peaks:
            peak = np.abs(flat).max(axis=-1).max(axis=before).astype(np.float64)
            self._peak = peak if self._peak is None else np.maximum(self._peak, peak)


def collect(
    proto: onnx.ModelProto,
    tensors: Sequence[str],
    dataset: Dataset,
    *,
    bins: bool = True,
    channels: Mapping[str, int] | None = None,
    peaks: bool = True,
    progress: Progress = silent,
) -> dict[str, Statistics]:
    """Runs the model over the samples once and folds every batch into the statistics of its tensors.

    Args:
        proto: The float model with its weights.
        tensors: Names of tensors whose values are wanted.
        dataset: Samples that fit the model.
        bins: Whether histograms are wanted, or only the smallest and the largest value.
        channels: The channel axis of those tensors whose channels are wanted one by one.
        peaks: Whether that means their largest magnitudes too, or only their means.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        Statistics by tensor.

    Raises:
        DatasetError: There are too few samples, or they lead to NaN or infinite values.
        TransformError: ONNX Runtime cannot run the model.
    """
    channels = channels or {}
    counted = max(_LEAST, _ENOUGH // len(dataset)) if bins else 0
    found = {name: Statistics(channels.get(name)) for name in tensors}

    def fold(name: str, values: NDArray[Any]) -> None:
        try:
            found[name].add(values, counted, peaks)
        except ValueError:
            raise DatasetError(
                f"On these samples the model computes NaN or infinite values in '{name}', so {dataset.name} cannot "
                "calibrate it.",
                "Check that the samples are scaled as in training, and that the model itself is sound.",
            ) from None

    with ThreadPoolExecutor(_THREADS) as threads:

        def see(values: dict[str, NDArray[Any]]) -> None:
            # The largest first: two threads then end at about the same time.
            largest_first = sorted(values, key=lambda name: -values[name].size)
            for _ in threads.map(fold, largest_first, (values[name] for name in largest_first)):
                pass

        observe(proto, tensors, dataset, see, progress=progress)
    return found
