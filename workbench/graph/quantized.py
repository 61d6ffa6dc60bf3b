"""Which operators and nodes belong to quantization: those that quantize, and those that compute with what was."""

from __future__ import annotations

from workbench.graph.summary import GraphSummary, NodeSummary

PLUMBING = ("QuantizeLinear", "DequantizeLinear")
# Beginnings of names that say nothing of quantizing or integers; each stands in ONNX Runtime's list of operators.
_NAMED = ("MatMulBnb", "MatMulFpQ", "MatMulNBits", "QAttention", "QEmbed", "QGemm", "QLinear", "QMoE", "QOrdered")


def is_quantizing(operator: str) -> bool:
    """Whether an operator of ONNX or ONNX Runtime stands in quantized models only, weight-only ones included."""
    return operator.startswith(_NAMED) or "quantize" in operator.lower() or "Integer" in operator


def is_between(graph: GraphSummary, name: str) -> bool:
    """Whether something quantized lies on the float side of a Q or DQ node, too.

    At the model's inputs and outputs, and beside a layer that nobody meant to quantize, it does what it is for.
    """
    node = graph.by_name.get(name)
    if node is None or node.operator not in PLUMBING:
        return False
    backwards = node.operator == "QuantizeLinear"
    waiting, seen = [node], {node.name}
    while waiting:
        here = waiting.pop()
        for other in _before(graph, here) if backwards else _behind(graph, here):
            if other.operator in PLUMBING or (other.macs and other.precision.startswith(("int", "uint"))):
                return True
            if not other.macs and other.name not in seen:
                seen.add(other.name)
                waiting.append(other)
    return False


def _before(graph: GraphSummary, node: NodeSummary) -> list[NodeSummary]:
    names = node.inputs[:1] if node.operator in PLUMBING else node.inputs
    return [graph.producers[name] for name in names if name in graph.producers]


def _behind(graph: GraphSummary, node: NodeSummary) -> list[NodeSummary]:
    return [reader for spec in node.outputs for reader in graph.readers.get(spec.name, ())]
