"""ONNX's quantized models in PyTorch: the values that the integers stand for, computed with in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.graph_module._node import Node, Operator, Values, given

_EDGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}


def _spread(node: Node, value: Any, along: Any) -> Any:
    """Scales or zero points, one per channel perhaps, in a shape that fits the value."""
    if along.ndim == 0 or along.numel() == 1:
        return along.reshape([])
    if along.ndim != 1 or node.get("block_size", 0):
        raise node.refuse("it has a scale for each block")
    shape = [1] * value.ndim
    shape[node.get("axis", 1)] = -1
    return along.reshape(shape)


def _quantize(node: Node, inputs: Values, training: bool) -> Any:
    import torch

    value: Any = inputs[0]
    scale: Any = inputs[1]
    zero = given(inputs, 2)
    dtype = zero.dtype if zero is not None else torch.uint8
    edges = _EDGES.get(str(dtype).removeprefix("torch."))
    if edges is None:
        raise node.refuse(f"it makes {dtype}")
    rounded = torch.round(value / _spread(node, value, scale))
    if zero is not None:
        rounded = rounded + _spread(node, value, zero)
    return rounded.clamp(*edges).to(dtype)


def _dequantize(node: Node, inputs: Values, training: bool) -> Any:
    value: Any = inputs[0]
    scale: Any = inputs[1]
    zero = given(inputs, 2)
    if not str(value.dtype).startswith(("torch.int", "torch.uint")):
        raise node.refuse(f"it reads {value.dtype}")
    exact = value.to(scale.dtype)
    if zero is not None:
        exact = exact - _spread(node, value, zero).to(scale.dtype)
    return exact * _spread(node, value, scale)


QUANTIZED: Mapping[str, Operator] = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}
