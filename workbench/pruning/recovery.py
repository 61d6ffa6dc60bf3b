"""Repairs a pruned model on samples without labels: layer by layer, weights fitted to what the original gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.calibration.observe import observe
from workbench.dataset import Dataset
from workbench.jobs import Progress, part_of
from workbench.pruning.channels import Dependencies, Layer
from workbench.pruning.cutting import replace
from workbench.pruning.fitting import Fit, patches
from workbench.pruning.twin import PREFIX, twin

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

_ROUNDS = 16  # runs over the samples at most: a deeper net is repaired several layers at a time
_ROWS = 8  # for each number that a layer reads, over all samples
_FEWEST_ROWS = 8  # of one sample
_HELD = 4  # every so many samples, one is held back to choose how far to go


def recover(
    original: onnx.ModelProto,
    pruned: onnx.ModelProto,
    found: Dependencies,
    stays: NDArray[np.bool_],
    dataset: Dataset,
    progress: Progress,
) -> None:
    """Fits the weights and biases of the layers behind the first cut, in the order of the graph, in place.

    Each layer is fitted to what it gave in the original, from what it now reads in the pruned model, so that it makes
    good the errors before it, too. Where a BatchNormalization follows, its mean takes the place of the bias.

    Args:
        original: The model before, `ready`.
        pruned: The same without the channels that go.
        found: Their layers.
        stays: Whether each label stays.
        dataset: Samples; labels are not used.
        progress: Called with the share done and a short text; may raise to cancel.
    """
    layers = _changed(pruned, found.layers, stays)
    size = -(-len(layers) // _ROUNDS) or 1
    rounds = [layers[start : start + size] for start in range(0, len(layers), size)]
    for number, some in enumerate(rounds):
        report = part_of(progress, number / len(rounds), (number + 1) / len(rounds), f"repairing {some[0].name}: ")
        repairs = [_Repair(pruned, layer, stays, len(dataset)) for layer in some]
        names = {name for repair in repairs for name in (repair.reads, repair.wants)}

        def see(values: Mapping[str, Array], repairs: Sequence[_Repair] = repairs) -> None:
            for repair in repairs:
                repair.see(values)

        observe(twin(original, pruned, sorted(names)), sorted(names), dataset, see, progress=report)
        for repair in repairs:
            repair.finish()


def _changed(pruned: onnx.ModelProto, layers: Sequence[Layer], stays: NDArray[np.bool_]) -> list[Layer]:
    """The layers that read something else than in the original, beyond fewer channels of the same."""
    lost = {layer.node: layer for layer in layers if layer.taken is not None and not stays[layer.taken].all()}
    at = {layer.node: layer for layer in layers}
    changed, found = set[str](), []
    for place, node in enumerate(pruned.graph.node):
        mixes = place in lost and lost[place].kind != "depthwise"
        if mixes or changed.intersection(node.input):
            changed.update(node.output)
            if place in at:
                found.append(at[place])
    return found


class _Repair:
    """One layer that is being fitted."""

    def __init__(self, pruned: onnx.ModelProto, layer: Layer, stays: NDArray[np.bool_], samples: int) -> None:
        self._pruned, self._layer = pruned, layer
        self._node = pruned.graph.node[layer.node]
        self._tensors = {tensor.name: tensor for tensor in pruned.graph.initializer}
        self._kept = stays[layer.labels]
        self._fit, self._seen = Fit(), 0
        self._random = np.random.default_rng(0)
        self._weights: Array = self._array(layer.weight)
        numbers = self._weights.size // self._weights.shape[layer.outputs]
        self._rows = max(_FEWEST_ROWS, -(-_ROWS * numbers // samples))
        self._scales = layer.kind in ("grouped", "transposed")  # each output channel by itself
        self.wants = layer.target
        fed = {value.name for value in pruned.graph.input}
        source = layer.target if self._scales else layer.source
        self.reads = source if source in fed else f"{PREFIX}{source}"

    def see(self, values: Mapping[str, Array]) -> None:
        """Takes in a batch; every fourth sample is held back."""
        read, wanted = values[self.reads], values[self.wants]
        held = (self._seen + np.arange(len(wanted))) % _HELD == _HELD - 1
        self._seen += len(wanted)
        for chosen in (held, ~held):
            if chosen.any():
                self._fit.add(*self._rows_of(read[chosen], wanted[chosen]), held=bool(chosen is held))

    def _rows_of(self, read: Array, wanted: Array) -> tuple[Array, Array]:
        """What is read and what is to be made of it, as `Fit` takes them."""
        if self._node.op_type in ("Gemm", "MatMul"):
            flat = read.reshape(-1, read.shape[-1])
            rows = self._choose(len(flat), self._rows * len(read))
            return flat[None, rows], wanted.reshape(-1, wanted.shape[-1])[None, rows][:, :, self._kept]
        made = wanted.shape[2:]
        at = self._choose(int(np.prod(made)), self._rows)
        wanted = wanted.reshape(*wanted.shape[:2], -1)[:, self._kept][:, :, at]  # (samples, outputs, places)
        if self._scales:
            return _each(read.reshape(*read.shape[:2], -1)[:, :, at] - self._own_bias()[:, None]), _each(wanted)
        window = patches(read, self._node, self._weights.shape[2:], at, made)  # (samples, places, inputs, kernel)
        if self._layer.kind == "depthwise":
            window = np.repeat(window, wanted.shape[1] // window.shape[2], axis=2).transpose(2, 0, 1, 3)
            return window.reshape(len(window), -1, window.shape[3]), _each(wanted)
        targets = wanted.swapaxes(1, 2)
        return window.reshape(1, -1, window.shape[2] * window.shape[3]), targets.reshape(1, -1, targets.shape[2])

    def finish(self) -> None:
        """Writes the fitted weights, and the bias where there is room for one."""
        shape, layer = self._weights.shape, self._layer
        front = np.moveaxis(self._weights, layer.outputs, 0).astype(np.float64)
        if self._scales:
            factors, shift = self._fit.solve(np.ones((len(front), 1, 1)))
            front, shift = front * factors.reshape(-1, *[1] * (front.ndim - 1)), shift.reshape(-1)
        elif layer.kind == "depthwise":
            fitted, shift = self._fit.solve(front.reshape(len(front), -1, 1))
            front, shift = fitted.reshape(front.shape), shift.reshape(-1)
        else:
            fitted, shift = self._fit.solve(front.reshape(1, len(front), -1).swapaxes(1, 2))
            front, shift = fitted[0].T.reshape(front.shape), shift.reshape(-1)
        replace(self._tensors[layer.weight], np.moveaxis(front, 0, layer.outputs).reshape(shape))
        self._shift(shift)

    def _shift(self, mean: Array) -> None:
        """Sets the mean that the layer adds: in its own bias, the norm behind it, or the sum behind it."""
        import onnx

        layer, node = self._layer, self._node
        if layer.bias and node.op_type != "MatMul":
            replace(self._tensors[layer.bias], mean.reshape(self._array(layer.bias).shape))
        elif layer.bias:
            replace(self._tensors[layer.bias], self._array(layer.bias) + mean)
        elif layer.norm is not None:
            tensor = self._tensors[self._pruned.graph.node[layer.norm].input[3]]
            replace(tensor, onnx.numpy_helper.to_array(tensor) - (mean - self._own_bias()))
        elif node.op_type != "MatMul" and len(node.input) == 2:
            tensor = onnx.numpy_helper.from_array(mean.astype(self._weights.dtype), f"{node.name}/bias/fitted")
            self._pruned.graph.initializer.append(tensor)
            node.input.append(tensor.name)

    def _own_bias(self) -> Array:
        if self._node.op_type == "MatMul" or len(self._node.input) < 3 or not self._node.input[2]:
            return np.zeros(int(self._kept.sum()))
        return self._array(self._node.input[2]).reshape(-1)

    def _choose(self, count: int, wanted: int) -> NDArray[np.intp]:
        return np.sort(self._random.choice(count, min(count, wanted), replace=False))

    def _array(self, name: str) -> Array:
        import onnx

        return onnx.numpy_helper.to_array(self._tensors[name])


def _each(values: Array) -> Array:
    """(samples, channels, places) as a problem for each channel: (channels, rows, 1)."""
    turned = values.swapaxes(0, 1)
    return turned.reshape(len(turned), -1, 1)
