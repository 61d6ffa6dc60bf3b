"""Multiply-accumulates of one node, from the shapes of its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from workbench.graph.shapes import STANDARD, Shape, count, seen_inside, sizes
from workbench.model import TensorSpec

if TYPE_CHECKING:
    import onnx

_CONVOLUTIONS = {
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose", "DeformConv"), 1),
    **dict.fromkeys(("FusedConv", "NhwcConv", "NhwcFusedConv"), 1),
    **dict.fromkeys(("QLinearConv", "QLinearConvTranspose"), 3),
}
_MATRICES = {
    **dict.fromkeys(("DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gemm"), 1),
    **dict.fromkeys(("GemmFastGelu", "GemmFloat8", "MatMul", "MatMulBnb4", "MatMulInteger"), 1),
    **dict.fromkeys(("MatMulIntegerToFloat", "MatMulNBits", "SparseToDenseMatMul", "TransposeMatMul"), 1),
    **dict.fromkeys(("QGemm", "QLinearMatMul"), 3),
}
_RECURRENT = {"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"}
# The place of the keys of earlier calls among their inputs.
_ATTENTIONS = {"Attention": 4, "GroupQueryAttention": 3, "MultiHeadAttention": 6}
_WITH_PROJECTION = {"Attention": 4, "QAttention": 8}  # com.microsoft's

PRODUCTS: Mapping[str, int] = {
    **_CONVOLUTIONS,
    **_MATRICES,
    **dict.fromkeys((*_RECURRENT, *_ATTENTIONS, *_WITH_PROJECTION), 1),
}
"""Operators that multiply matrices or convolve, and the place of the weight among their inputs."""


def count_macs(node: onnx.NodeProto, known: Mapping[str, TensorSpec]) -> int | None:
    """Counts the multiply-accumulates of convolutions, matrix products, attention and recurrent layers.

    Every other operator counts 0. An `If` counts its dearest branch.

    Returns:
        The number, or None where a shape or the operator itself is not known.
    """

    def shape(place: int) -> Shape | None:
        name = node.input[place] if place < len(node.input) else ""
        return known[name].shape if name in known else None

    result = known[node.output[0]].shape if node.output and node.output[0] in known else None
    attributes = {attribute.name: attribute for attribute in node.attribute}
    operator = node.op_type
    if node.domain not in STANDARD and not node.domain.startswith(("com.microsoft", "ai.onnx", "com.ms.")):
        return None
    if any(attribute.HasField("g") for attribute in node.attribute):
        return _dearest_branch(node, known)
    if operator in _CONVOLUTIONS:
        # Each value of the output (of the input, if transposed) meets one kernel: (out, in / group, kernel…).
        kernel = shape(_CONVOLUTIONS[operator])
        return _product(shape(0) if "Transpose" in operator else result, kernel and kernel[1:])
    if operator in _MATRICES:
        return _product(result, _inner(operator, shape(0), attributes))
    if operator in _WITH_PROJECTION and node.domain not in STANDARD:
        return _attention_with_projection(shape, result, _WITH_PROJECTION[operator])
    if operator in _ATTENTIONS:
        return _attention(shape, result, _ATTENTIONS[operator])
    if operator in _RECURRENT:
        data, weight, recurrence = shape(0), count(shape(1)), count(shape(2))
        if data is None or weight is None or recurrence is None:
            return None
        return _product(data[:2], (weight + recurrence,))  # steps × batch, each through both matrices
    if operator == "Einsum" and "equation" in attributes:
        return _einsum(attributes["equation"].s.decode(errors="replace"), [shape(i) for i in range(len(node.input))])
    return 0


def _product(shape: Shape | None, factor: Shape | None) -> int | None:
    values, per_value = count(shape), count(factor)
    return None if values is None or per_value is None else values * per_value


def _inner(operator: str, data: Shape | None, attributes: Mapping[str, onnx.AttributeProto]) -> Shape | None:
    """The axis that a matrix product sums over."""
    if "K" in attributes:  # the packed weights of MatMulNBits and the like say it themselves
        return (attributes["K"].i,)
    transposed = "transA" in attributes and attributes["transA"].i
    return data and (data[-2:-1] if transposed and len(data) > 1 else data[-1:])


def _attention(shape: Callable[[int], Shape | None], result: Shape | None, past: int) -> int | None:
    """Query × key sums over the query's features for each key; scores × value gives each result from all values."""
    query, key, out = count(shape(0)), sizes(shape(1)), count(result)
    earlier = _axis(shape(past), -2)  # keys: (batch, length, features) or (batch, heads, length, features)
    if query is None or key is None or out is None or earlier is None or len(key) < 3:
        return None
    return (query + out) * (key[-2] + earlier)


def _attention_with_projection(shape: Callable[[int], Shape | None], result: Shape | None, past: int) -> int | None:
    """Data (batch, length, features) first meets the weight (features, query + key + value)."""
    data, weight, out, earlier = sizes(shape(0)), sizes(shape(1)), sizes(result), _axis(shape(past), -2)
    if data is None or weight is None or not out or earlier is None or (len(data), len(weight)) != (3, 2):
        return None
    batch, length, _ = data
    features = (weight[1] - out[-1]) // 2 + out[-1]  # of the query, which the key shares, and of the value
    return batch * length * (math.prod(weight) + (length + earlier) * features)


def _axis(shape: Shape | None, place: int) -> int | None:
    """One axis of an optional input; 0 where it is not given."""
    if not shape:
        return 0
    size = shape[place] if len(shape) >= -place else 0
    return size if isinstance(size, int) else None


def _einsum(equation: str, shapes: list[Shape | None]) -> int | None:
    """Every combination of labels is one multiplication; one operand alone is only moved or added up."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) == 1:
        return 0
    lengths: dict[str, int | str] = {}
    for term, shape in zip(terms, shapes, strict=False):
        if shape is None or len(term) != len(shape) or "." in term:
            return None
        lengths.update(zip(term, shape, strict=True))
    return count(tuple(lengths.values()))


def _dearest_branch(node: onnx.NodeProto, known: Mapping[str, TensorSpec]) -> int | None:
    """An `If` runs one branch; how often a loop's body runs, only the run knows."""
    branches = []
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inside = seen_inside(graph, known)
            macs = [count_macs(inner, inside) for inner in graph.node]
            branches.append(None if None in macs else sum(size or 0 for size in macs))
    if None in branches or (node.op_type != "If" and any(branches)):
        return None
    return max((size or 0 for size in branches), default=0)
