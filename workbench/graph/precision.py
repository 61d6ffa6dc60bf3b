"""The element type that each node computes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from workbench.graph.cost import PRODUCTS
from workbench.graph.shapes import STANDARD
from workbench.model import TensorSpec

if TYPE_CHECKING:
    import onnx

_SOURCES = ("Constant", "ConstantOfShape", "DequantizeLinear")


def find_precisions(graph: onnx.GraphProto, known: Mapping[str, TensorSpec]) -> list[str]:
    """Tells for each node, in order, in which type it computes; empty where that is not known.

    A node between DequantizeLinear and QuantizeLinear nodes counts as integer, as runtimes fuse the three: a
    convolution or matrix product if all it reads is dequantized, any other if what it writes is quantized again too.
    The type is the weight's, or that of the first input where there is none. A node with mixed inputs computes in the
    type of its first input that is not an index.
    """
    quantized = {
        node.output[0]: known[node.input[0]].dtype
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.output and node.input and node.input[0] in known
    }
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)

    def precision(node: onnx.NodeProto) -> str:
        inputs = [name for name in node.input if name]
        if node.op_type in PRODUCTS:
            weight = PRODUCTS[node.op_type]
            pair = [node.input[place] for place in (0, weight) if place < len(node.input)]
            if all(name in quantized for name in pair) and pair:
                return quantized[pair[-1]]
            if node.op_type.startswith(("Q", "DynamicQuantize")) or "Integer" in node.op_type:
                return _type(known, pair[-1:])
            return _type(known, node.input[:1]) or _type(known, node.output)
        if inputs and inputs[0] in quantized and all(name in quantized or _is_setting(known, name) for name in inputs):
            after = set().union(*(readers.get(name, set()) for name in node.output))
            if after == {"QuantizeLinear"}:
                return quantized[inputs[0]]
        if node.op_type in ("QuantizeLinear", "Cast", *_SOURCES[:2]) and node.domain in (*STANDARD, "com.microsoft"):
            return _type(known, node.output)
        if node.op_type == "DequantizeLinear":
            return _type(known, inputs[:1])
        floats = [name for name in inputs if not _is_setting(known, name)]
        return _type(known, floats) or _type(known, node.output)

    return [precision(node) for node in graph.node]


def _is_setting(known: Mapping[str, TensorSpec], name: str) -> bool:
    return name in known and known[name].dtype in ("int64", "bool")


def _type(known: Mapping[str, TensorSpec], names: Iterable[str]) -> str:
    return next((known[name].dtype for name in names if name in known and known[name].dtype), "")
