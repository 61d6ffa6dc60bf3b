"""Which constants of a graph are trained weights, and which node they belong to."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.graph.shapes import STANDARD, count, size_bytes, spec_of, type_name
from workbench.model import all_tensors

if TYPE_CHECKING:
    import onnx

# What only moves or re-encodes a constant hands it on to the node that computes with it.
_CARRIERS = {"Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose"}
_CARRIERS |= {"Unsqueeze"}
# Places of the inputs that say how to compute and were not trained; operators that are not listed have none.
_SETTINGS: dict[str, Iterable[int]] = {
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear", "Pad", "Slice"), range(1, 5)),
    **dict.fromkeys(("Clip", "Dropout", "Expand", "OneHot", "Resize", "Tile", "Upsample"), range(1, 4)),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "Reshape", "ScatterND", "ScatterElements"), (1,)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), (2, 3)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), (1, 2, 4, 5, 6, 7)),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "MatMulNBits": (2, 3, 4),
    "QAttention": (3, 4, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "Range": range(3),
}
_TRAINABLE = ("float", "bfloat", "complex", "int2", "int4", "int8", "int32", "uint2", "uint4", "uint8")


_BIASED = {"QGemm", "QLinearConv"}  # take a bias in int32, which elsewhere is the type of indices and shapes


@dataclass
class Constants:
    """The constants of one node: how many trained numbers, and how many bytes in all."""

    parameters: int = 0
    bytes: int = 0


@dataclass
class _Constant:
    parameters: int
    bytes: int
    index: bool = False  # in int32: a quantized bias, or an index
    owned: bool = False


def find_weights(proto: onnx.ModelProto) -> dict[str, Constants]:
    """Attributes every constant of a graph to the first node that computes with it.

    Args:
        proto: A skeleton, whose nodes have names of their own.

    Returns:
        By name of a node of the main graph, what belongs to it, its subgraphs and the function that it calls.
    """
    owners = {node.name: Constants() for node in proto.graph.node}
    functions = {(function.domain, function.name): function.node for function in proto.functions}
    called: list[tuple[Iterable[onnx.NodeProto], str]] = []

    def visit(nodes: Iterable[onnx.NodeProto], at: MutableMapping[str, list[_Constant]], owner: str) -> None:
        for node in nodes:
            name = owner or node.name
            if node.op_type == "Constant" and node.domain in STANDARD:
                values = [_constant(attribute.t) for attribute in node.attribute if attribute.HasField("t")]
                at.update(dict.fromkeys(node.output, values))
                continue
            carried = []
            read = [(place, constant) for place, key in enumerate(node.input) for constant in at.get(key, ())]
            for place, constant in read:
                if place == 0 and node.op_type in _CARRIERS:
                    constant.index &= node.op_type != "DequantizeLinear"
                    carried.append(constant)
                elif not constant.owned:
                    constant.owned = True
                    owners[name].bytes += constant.bytes
                    index = constant.index and node.op_type not in _BIASED
                    if not index and place not in _SETTINGS.get(node.op_type, ()):
                        owners[name].parameters += _unpacked(node) or constant.parameters
            if carried and node.output:
                at[node.output[0]] = carried
            for attribute in node.attribute:
                for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    visit(graph.node, ChainMap(_initializers(graph), at), name)
            if body := functions.pop((node.domain, node.op_type), None):
                called.append((body, name))

    visit(proto.graph.node, _initializers(proto.graph), "")
    while called:  # a list, as functions of strangers may call each other very deeply
        body, name = called.pop()
        visit(body, {}, name)
    return owners


def bytes_by_type(proto: onnx.ModelProto) -> Mapping[str, int]:
    """Size of all constants, used or not, by element type; the biggest share first."""
    sizes: Counter[str] = Counter()
    for tensor in all_tensors(proto):
        sizes[type_name(tensor.data_type)] += _constant(tensor).bytes
    return dict(sizes.most_common())


def _initializers(graph: onnx.GraphProto) -> dict[str, list[_Constant]]:
    tensors = (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer))
    return {tensor.name: [_constant(tensor)] for tensor in tensors}


def _constant(tensor: onnx.TensorProto) -> _Constant:
    """A lone number without an axis, an index and text are never trained."""
    spec = spec_of(tensor)
    numbers = count(spec.shape) or 0
    trained = numbers if spec.shape and spec.dtype.startswith(_TRAINABLE) else 0
    return _Constant(trained, size_bytes(spec) or 0, index=spec.dtype == "int32")


def _unpacked(node: onnx.NodeProto) -> int:
    """Numbers of a weight that is packed into bytes below its own type."""
    if node.op_type != "MatMulNBits":
        return 0
    sizes = {attribute.name: attribute.i for attribute in node.attribute}
    return max(0, sizes.get("K", 0)) * max(0, sizes.get("N", 0))
