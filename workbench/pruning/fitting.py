"""Least squares for a layer, on moments gathered batch by batch: weights that give again what the layer gave before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]


_RIDGES = (0.01, 0.3)  # λ as a share of the mean square of x


class _Moments:
    """Means of x and y, and of their products; (separate problems, …)."""

    def __init__(self) -> None:
        self.count = 0
        self._x: Any = 0.0
        self._y: Any = 0.0
        self._xx: Any = 0.0
        self._xy: Any = 0.0

    def add(self, x: Array, y: Array) -> None:
        self.count += x.shape[1]
        turned = x.swapaxes(1, 2)
        self._x = self._x + x.sum(1, dtype=np.float64)
        self._y = self._y + y.sum(1, dtype=np.float64)
        self._xx = self._xx + turned @ x
        self._xy = self._xy + turned @ y

    def merge(self, other: _Moments) -> None:
        self.count += other.count
        self._x, self._y = self._x + other._x, self._y + other._y
        self._xx, self._xy = self._xx + other._xx, self._xy + other._xy

    def means(self) -> tuple[Array, Array]:
        return self._x / self.count, self._y / self.count

    def about(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Mean products of what x and y differ by from given values."""
        mean_x, mean_y = self.means()
        xx = self._xx / self.count - mean_x[:, :, None] * x[:, None] - x[:, :, None] * (mean_x - x)[:, None]
        xy = self._xy / self.count - mean_x[:, :, None] * y[:, None] - x[:, :, None] * (mean_y - y)[:, None]
        return xx, xy


class Fit:
    """Fits a layer to what it reads, x, and what it should give, y.

    It minimizes |y − xW|² + λ|W − W₀|², centred, where W₀ are the weights as they are: ridge regression (Hoerl &
    Kennard, Technometrics 12, 1970) that stays near what was trained where samples say little. Reconstructing a layer
    from the channels that are left is the second step of He et al., Channel Pruning, ICCV 2017. λ is the one that does
    best on samples held back; where none does better than the old weights, only the mean is put right.
    """

    def __init__(self) -> None:
        self._learned, self._held = _Moments(), _Moments()

    def add(self, x: Array, y: Array, held: bool) -> None:
        """Takes rows in.

        Args:
            x: (separate problems, rows, numbers read)
            y: (separate problems, rows, numbers made)
            held: Whether they are held back to choose λ.
        """
        (self._held if held else self._learned).add(x, y)

    def solve(self, weights: Array) -> tuple[Array, Array]:
        """Fits.

        Args:
            weights: W₀, (separate problems, numbers read, numbers made).

        Returns:
            W, and the mean that is to be added for each number made, (separate problems, numbers made).
        """
        ridge = self._choose(weights) if self._held.count and self._learned.count else None
        self._learned.merge(self._held)
        fitted = weights if ridge is None else _fitted(self._learned, weights, ridge)
        x, y = self._learned.means()
        return fitted, y - np.einsum("pi,pio->po", x, fitted)

    def _choose(self, weights: Array) -> float | None:
        """The λ with the smallest error on what was held back; None if the old weights have it."""
        xx, xy = self._held.about(*self._learned.means())
        best, least = None, _error(xx, xy, weights)
        for ridge in _RIDGES:
            error = _error(xx, xy, _fitted(self._learned, weights, ridge))
            if error < least:
                best, least = ridge, error
        return best


def _fitted(moments: _Moments, weights: Array, ridge: float) -> Array:
    xx, xy = moments.about(*moments.means())
    size = xx.shape[1]
    wanted = xy - xx @ weights
    xx[:, np.arange(size), np.arange(size)] += (ridge * np.trace(xx, axis1=1, axis2=2) / size + 1e-12)[:, None]
    fitted: Array = weights + np.linalg.solve(xx, wanted)
    return fitted


def _error(xx: Array, xy: Array, weights: Array) -> float:
    """Mean square error, but for the part that no weights change."""
    return float(np.sum(weights * (xx @ weights - 2 * xy)))


def patches(image: Array, node: onnx.NodeProto, kernel: Sequence[int], at: Array, made: Sequence[int]) -> Array:
    """What a convolution reads for some of its outputs.

    Args:
        image: Its input, (samples, channels, …).
        node: The convolution.
        kernel: Sizes of its kernel.
        at: Which outputs, as places in the flattened image that it makes.
        made: Sizes of that image.

    Returns:
        (samples, places, channels, numbers of the kernel)
    """
    import onnx

    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    axes = len(kernel)
    strides, dilations = (list(given.get(name, [1] * axes)) for name in ("strides", "dilations"))
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    rims = _rims(given, image.shape[2:], strides, spans)
    padded = np.pad(image, [(0, 0), (0, 0), *rims])
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + axes)))
    corners = np.unravel_index(at, tuple(made))
    places = tuple(corner * stride for corner, stride in zip(corners, strides, strict=True))
    inside = tuple(slice(None, None, step) for step in dilations)
    chosen = windows[(slice(None), slice(None), *places, *inside)]  # (samples, channels, places, kernel…)
    turned: Array = chosen.reshape(*chosen.shape[:3], -1).swapaxes(1, 2)
    return turned


def _rims(
    given: Mapping[str, Any], sizes: Sequence[int], strides: Sequence[int], spans: Sequence[int]
) -> list[tuple[int, int]]:
    """Zeros before and behind each axis."""
    automatic = given.get("auto_pad", b"NOTSET").decode()
    if automatic.startswith("SAME"):
        totals = [
            max((-(-size // stride) - 1) * stride + span - size, 0)
            for size, stride, span in zip(sizes, strides, spans, strict=True)
        ]
        less = [(total // 2, total - total // 2) for total in totals]
        return less if automatic == "SAME_UPPER" else [(more, fewer) for fewer, more in less]
    pads = list(given.get("pads", [0] * 2 * len(spans)))
    return list(zip(pads[: len(spans)], pads[len(spans) :], strict=True))
