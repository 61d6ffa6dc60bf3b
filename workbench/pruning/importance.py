"""How much each channel matters: by its weights, or by what it adds to the layers that read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.calibration.observe import observe
from workbench.dataset import Dataset
from workbench.jobs import Progress
from workbench.pruning.channels import Dependencies, Labels, Layer

if TYPE_CHECKING:
    import onnx


def by_magnitude(proto: onnx.ModelProto, found: Dependencies) -> dict[int, float]:
    """Norm of all weights that make a channel, with BatchNorm folded in, over the mean norm of its layer.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, with L2 in place of L1; the mean over the layers of a
    group, as Fang et al., DepGraph, CVPR 2023, normalize it.

    Returns:
        By root of the labels.
    """
    weights = _Weights(proto)
    return _mean(found, [(layer.labels, weights.made(layer)) for layer in found.layers])


def by_activation(
    proto: onnx.ModelProto, found: Dependencies, dataset: Dataset, progress: Progress
) -> dict[int, float]:
    """Spread of a channel's activation times the norm of the weights that read it, over the mean of their layer.

    That is what the reading layer's output loses with the channel, up to its mean, which biases make good: the
    criterion of Sun et al., Wanda, ICLR 2024, for whole channels.

    Returns:
        By root of the labels.
    """
    weights, readers = _Weights(proto), [layer for layer in found.layers if layer.taken is not None]
    moments: dict[str, _Moments] = {}
    axes = {layer.source: layer.axis for layer in readers}

    def see(values: Mapping[str, NDArray[Any]]) -> None:
        for name, axis in axes.items():
            moments.setdefault(name, _Moments()).add(values[name], axis)

    observe(proto, list(axes), dataset, see, progress=progress)
    scores = [
        (layer.taken, moments[layer.source].spread() * weights.read(layer))
        for layer in readers
        if layer.taken is not None
    ]
    return _mean(found, scores)


def _mean(found: Dependencies, scores: list[tuple[Labels, NDArray[Any]]]) -> dict[int, float]:
    gathered: defaultdict[int, list[float]] = defaultdict(list)
    for labels, values in scores:
        relative = values / max(float(values.mean()), 1e-30)
        for root, value in zip(found.roots(labels).tolist(), relative.tolist(), strict=True):
            gathered[root].append(value)
    return {root: float(np.mean(values)) for root, values in gathered.items()}


class _Moments:
    """Mean and variance of each channel over all that is seen."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, array: NDArray[Any], axis: int) -> None:
        rest = tuple(place for place in range(array.ndim) if place != axis)
        self._count += array.size // array.shape[axis]
        self._sum = self._sum + array.sum(rest, dtype=np.float64)
        self._squares = self._squares + np.square(array, dtype=np.float64).sum(rest)

    def spread(self) -> NDArray[Any]:
        mean = self._sum / self._count
        spread: NDArray[Any] = np.sqrt(np.maximum(self._squares / self._count - np.square(mean), 0))
        return spread


class _Weights:
    """Norms of a layer's weights."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._nodes = list(proto.graph.node)
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer}

    def made(self, layer: Layer) -> NDArray[Any]:
        """Of all that make each output channel."""
        norms = self._norms(layer, layer.outputs)
        if layer.kind == "grouped" or len(norms) == len(layer.labels):
            return norms * self._scale(layer)
        return np.repeat(norms, len(layer.labels) // len(norms))

    def read(self, layer: Layer) -> NDArray[Any]:
        """Of all that read each input channel."""
        assert layer.taken is not None
        norms = self._norms(layer, layer.outputs if layer.inputs is None else layer.inputs)
        if len(norms) > len(layer.taken):  # a depthwise convolution with several outputs for each input
            norms = np.sqrt(np.square(norms).reshape(len(layer.taken), -1).sum(1))
        return np.resize(norms, len(layer.taken))  # the groups of a grouped one go together

    def _norms(self, layer: Layer, axis: int) -> NDArray[Any]:
        array = self._array(layer.weight)
        rest = tuple(place for place in range(array.ndim) if place != axis)
        norms: NDArray[Any] = np.sqrt(np.square(array).sum(rest))
        return norms

    def _scale(self, layer: Layer) -> NDArray[Any] | float:
        if layer.norm is None:
            return 1.0
        node = self._nodes[layer.norm]
        epsilon = next((entry.f for entry in node.attribute if entry.name == "epsilon"), 1e-5)
        scale: NDArray[Any] = np.abs(self._array(node.input[1])) / np.sqrt(self._array(node.input[4]) + epsilon)
        return scale

    def _array(self, name: str) -> NDArray[Any]:
        import onnx

        return onnx.numpy_helper.to_array(self._tensors[name]).astype(np.float64)
