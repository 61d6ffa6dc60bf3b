"""Puts ONNX's own operators in the place of ONNX Runtime's, so that shape inference sees through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import onnx


class _StandIn(NamedTuple):
    """An operator whose result has the same shape.

    Attributes:
        operator: ONNX's operator.
        inputs: Places of the inputs that it takes.
        to_float: The result is of type float32, whatever the inputs are.
    """

    operator: str
    inputs: tuple[int, ...]
    to_float: bool = False


_DOMAIN = "com.microsoft"
_SAME = _StandIn("Identity", (0,))
_CONV = _StandIn("Conv", (0, 1, 2))
_STAND_INS = {
    **dict.fromkeys(("BiasAdd", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding"), _SAME),
    **dict.fromkeys(("SimplifiedLayerNormalization", "SkipLayerNormalization"), _SAME),
    **dict.fromkeys(("SkipSimplifiedLayerNormalization", "ReorderInput", "ReorderOutput"), _SAME),
    **dict.fromkeys(("Attention", "GroupQueryAttention", "MultiHeadAttention"), _SAME),
    **dict.fromkeys(("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax"), _SAME),
    **{name: _StandIn(name, (0,)) for name in ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")},
    **{f"QLinear{name}": _StandIn(name, (0,)) for name in ("AveragePool", "GlobalAveragePool")},
    **{f"QLinear{name}": _StandIn(name, (0, 3)) for name in ("Add", "Mul")},
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv"), _CONV),
    "NhwcMaxPool": _StandIn("MaxPool", (0,)),
    "QLinearConv": _StandIn("Conv", (0, 3)),
    "FusedGemm": _StandIn("Gemm", (0, 1, 2)),
    "QGemm": _StandIn("Gemm", (0, 3)),
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul"), _StandIn("Einsum", (0, 1))),
    "DynamicQuantizeMatMul": _StandIn("MatMul", (0, 1)),
    "MatMulIntegerToFloat": _StandIn("MatMul", (0, 1), to_float=True),
    "MatMulNBits": _StandIn("MatMul", (0,)),
    "QAttention": _StandIn("Identity", (0,), to_float=True),
    "EmbedLayerNormalization": _StandIn("Gather", (2, 0)),
    "DequantizeLinear": _StandIn("DequantizeLinear", (0, 1, 2)),
    "QuantizeLinear": _StandIn("QuantizeLinear", (0, 1, 2)),
}


def put_stand_ins(graph: onnx.GraphProto) -> None:
    """Changes the nodes of ONNX Runtime's own domains in place; what has no stand-in stays."""
    if not any(node.domain.startswith(_DOMAIN) for node in graph.node):
        return
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        stand_in = _STAND_INS.get(node.op_type) if node.domain.startswith(_DOMAIN) and node.output else None
        nodes += [node] if stand_in is None else _replaced(node, stand_in, graph, ranks)
    del graph.node[:]
    graph.node.extend(nodes)


def _replaced(
    node: onnx.NodeProto, stand_in: _StandIn, graph: onnx.GraphProto, ranks: dict[str, int]
) -> list[onnx.NodeProto]:
    """The node as ONNX's own operator, with a cast or transpositions around it where that takes some."""
    import onnx

    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    to_float = stand_in.to_float or (node.op_type == "QGemm" and len(node.input) < 8)  # no scale for its result
    channels_last = attributes.get("channels_last", 0) or node.op_type.startswith("Nhwc")
    inputs = [node.input[place] for place in stand_in.inputs if place < len(node.input)]
    if node.op_type == "MatMulNBits":  # its weight is packed into bytes, and only the attributes tell its shape
        inputs.append(f"{node.output[0]} weight")
        shape = [attributes.get("K"), attributes.get("N")]
        graph.input.append(onnx.helper.make_tensor_value_info(inputs[1], onnx.TensorProto.FLOAT, shape))
    if stand_in.operator == "Einsum":  # MatMul itself knows no transposed inputs
        first, second = "ji" if attributes.get("transA") else "ij", "kj" if attributes.get("transB") else "jk"
        more = "" if len(inputs) > 1 and ranks.get(inputs[1]) == 2 else "..."
        node.attribute.append(onnx.helper.make_attribute("equation", f"...{first},{more}{second}->...ik"))
    node.op_type, node.domain = stand_in.operator, ""
    node.input[:] = inputs
    if to_float:
        return [node, _behind(node, "Cast", to=onnx.TensorProto.FLOAT)]
    if channels_last:
        axes = [*range(1, ranks.get(inputs[1], 4) - 1 if len(inputs) > 1 else 3)]
        return [
            _before(node, "Transpose", perm=[0, len(axes) + 1, *axes]),
            node,
            _behind(node, "Transpose", perm=[0, *(axis + 1 for axis in axes), 1]),
        ]
    return [node]


def _before(node: onnx.NodeProto, operator: str, **attributes: Any) -> onnx.NodeProto:
    """A node that hands its result to this one instead."""
    import onnx

    given, node.input[0] = node.input[0], f"{node.output[0]} before"
    return onnx.helper.make_node(operator, [given], [node.input[0]], **attributes)


def _behind(node: onnx.NodeProto, operator: str, **attributes: Any) -> onnx.NodeProto:
    """A node that gives this one's result instead of it."""
    import onnx

    wanted, node.output[0] = node.output[0], f"{node.output[0]} inside"
    return onnx.helper.make_node(operator, [node.output[0]], [wanted], **attributes)
