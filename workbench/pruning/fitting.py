"""Least squares for a layer, on moments gathered batch by batch: weights that give again what the layer gave before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]


class Fit:
    """Moments of what a layer reads, x, and of what it should give, y.

    The fit minimizes |y − xW|² + λ|W − W₀|², centred, where W₀ are the weights as they are: ridge regression (Hoerl &
    Kennard, Technometrics 12, 1970) that stays near what was trained where samples say little. Reconstructing a layer
    from the channels that are left is the second step of He et al., Channel Pruning, ICCV 2017.

    Args:
        ridge: λ as a share of the mean square of x.
    """

    def __init__(self, ridge: float) -> None:
        self._ridge, self._count = ridge, 0
        self._x: Any = 0.0
        self._y: Any = 0.0
        self._xx: Any = 0.0
        self._xy: Any = 0.0

    def add(self, x: Array, y: Array) -> None:
        """Takes rows in.

        Args:
            x: (separate problems, rows, numbers read)
            y: (separate problems, rows, numbers made)
        """
        self._count += x.shape[1]
        self._x = self._x + x.sum(1, dtype=np.float64)
        self._y = self._y + y.sum(1, dtype=np.float64)
        turned = x.transpose(0, 2, 1)
        self._xx = self._xx + turned @ x
        self._xy = self._xy + turned @ y

    def solve(self, weights: Array) -> tuple[Array, Array]:
        """Fits.

        Args:
            weights: W₀, (separate problems, numbers read, numbers made).

        Returns:
            W, and the mean that is to be added for each number made, (separate problems, numbers made).
        """
        x, y = self._x / self._count, self._y / self._count
        xx = self._xx / self._count - x[:, :, None] * x[:, None, :]
        xy = self._xy / self._count - x[:, :, None] * y[:, None, :]
        size = xx.shape[1]
        weight = self._ridge * np.trace(xx, axis1=1, axis2=2) / size + 1e-12
        steep = xx + weight[:, None, None] * np.eye(size)
        fitted = weights + np.linalg.solve(steep, xy - xx @ weights)
        return fitted, y - np.einsum("pi,pio->po", x, fitted)


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
