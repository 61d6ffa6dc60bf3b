"""Bias correction: takes the mean error that rounded weights cause out of the biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.calibration import Statistics
from workbench.transforms._qdq import Weight

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def input_axes(proto: onnx.ModelProto, weights: Sequence[Weight]) -> dict[str, int]:
    """The channel axis of every tensor whose channel means the correction needs."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    return {
        weight.activation: 1 if weight.node.op_type == "Conv" else -1
        for weight in weights
        if weight.bias in stored and weight.node.op_type in ("Conv", "Gemm")
    }


def correct_biases(
    proto: onnx.ModelProto,
    weights: Sequence[Weight],
    changes: Mapping[str, NDArray[np.float32]],
    found: Mapping[str, Statistics],
) -> None:
    """Subtracts from each bias what rounding adds to the mean of the output (Nagel et al., "Data-free quantization
    through weight equalization and bias correction", ICCV 2019, section 4.2).

    Borders that are padded count like any other place, which is exact for 1 × 1 kernels and near for larger ones.

    Args:
        proto: The model, its float biases included; they are changed.
        weights: What was quantized.
        changes: Quantized minus original weights, by name.
        found: Statistics with the channel means of the inputs; layers without any keep their bias.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for weight in weights:
        change, seen = changes.get(weight.name), found.get(weight.activation)
        means = seen.channel_means if seen is not None else None
        if change is None or means is None or weight.bias not in tensors:
            continue
        bias = tensors[weight.bias]
        values = numpy_helper.to_array(bias)
        error = _mean_error(weight.node, change, means)
        if error is not None and error.shape == values.shape:
            bias.CopyFrom(numpy_helper.from_array((values - error).astype(values.dtype), bias.name))


def _mean_error(node: onnx.NodeProto, change: NDArray[Any], means: NDArray[Any]) -> NDArray[Any] | None:
    """Mean of each output channel that the change of the weights causes, `(outputs,)`."""
    settings = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv":
        groups = settings["group"].i if "group" in settings else 1
        summed = change.reshape(*change.shape[:2], -1).sum(axis=2)  # outputs, inputs of a group
        if len(means) != summed.shape[1] * groups:
            return None
        of_group = means.reshape(groups, -1)[np.arange(len(summed)) * groups // len(summed)]
        error: NDArray[Any] = (summed * of_group).sum(axis=1)
        return error
    if node.op_type == "Gemm" and not ("transA" in settings and settings["transA"].i):
        matrix = change if "transB" in settings and settings["transB"].i else change.T
        alpha = settings["alpha"].f if "alpha" in settings else 1.0
        return np.asarray(alpha * (matrix @ means))
    return None
