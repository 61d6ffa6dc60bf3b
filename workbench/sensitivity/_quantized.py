"""What a Q/DQ model quantizes, told in the names of the float graph that it was made of.

A tensor is quantized for everything that reads it as soon as one node asks for it, as in onnxruntime's quantizer: a
layer asks for its inputs, weights and outputs; what only moves or clips values (`Relu`, `MaxPool`, `Reshape` …) asks
for its output if its input is quantized already. So a layer that stays in float has float weights and a float bias,
while its input and output stay quantized where a neighbour asks for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.transforms._qdq import operators_with_int8

if TYPE_CHECKING:
    import onnx

# Operators that pass on what they get: the quantizer never begins with them.
_MOVERS = (
    "Flatten",
    "Gather",
    "GatherElements",
    "Pad",
    "Reshape",
    "Slice",
    "Squeeze",
    "TopK",
    "Transpose",
    "Unsqueeze",
)
_FOLLOWERS = frozenset((*_MOVERS, "AveragePool", "Clip", "MaxPool", "Relu", "Resize", "Where"))


@dataclass(frozen=True, eq=False)
class Rounding:
    """The nodes that round a tensor to what its integers can say, and their constants.

    Attributes:
        nodes: QuantizeLinear and DequantizeLinear, or DequantizeLinear alone where the integers are stored; none where
            the constant itself is another one.
        constants: Scales, zero points and stored integers.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]


@dataclass(frozen=True, eq=False)
class Quantized:
    """A float graph and how each of its tensors is quantized.

    Attributes:
        proto: The float model as the quantizer took it.
        layers: Operator by name of the nodes that ask for quantization, in the graph's order.
        roundings: By the float graph's name, of weights, biases and activations.
        attributes: Those of the nodes of which the quantizer changed some, by the node's name.
        left: Nodes that never ask: told to stay in float, or of an operator that is not to be quantized.
        imports: Operator sets of both models.
    """

    proto: onnx.ModelProto
    layers: Mapping[str, str]
    roundings: Mapping[str, Rounding]
    attributes: Mapping[str, tuple[onnx.AttributeProto, ...]]
    left: frozenset[str]
    imports: Mapping[str, int]

    def rounded(self, layers: Collection[str]) -> frozenset[str]:
        """Names of the tensors that are quantized when these layers are, and no others."""
        asked: set[str] = set()
        for node in self.proto.graph.node:
            if node.name in layers:
                asked.update(node.input, node.output)
            elif node.op_type in _FOLLOWERS and node.name not in self.left and _source(node) <= asked:
                asked.update(node.output)
        return frozenset(asked & self.roundings.keys())


def read_quantized(
    prepared: onnx.ModelProto, quantized: onnx.ModelProto, kept: Collection[str] = (), operators: Collection[str] = ()
) -> Quantized:
    """Finds in a Q/DQ model what became of each tensor of the float model.

    Args:
        prepared: The float model as the quantizer took it.
        quantized: What it made of it: nodes keep their names and the order of their inputs.
        kept: Names of nodes that it was told to keep in float.
        operators: Operators that it was told to quantize; all that it knows if empty.
    """
    operators = operators or operators_with_int8()
    reader = _Reader(prepared, quantized)
    same = {(node.name, node.op_type): node for node in quantized.graph.node if node.name}
    fixed = {tensor.name for tensor in prepared.graph.initializer}
    layers: dict[str, str] = {}
    roundings: dict[str, Rounding] = {}
    attributes: dict[str, tuple[onnx.AttributeProto, ...]] = {}
    left: set[str] = set()
    for node in prepared.graph.node:
        if node.op_type not in operators or node.name in kept:
            left.add(node.name)
        other = same.get((node.name, node.op_type))
        if other is None:
            continue
        found = {
            name: rounding
            for name, now in zip(node.input, other.input, strict=False)
            if (rounding := reader.rounding(name, now)) is not None
        }
        roundings.update(found)
        if found and node.name not in left and (node.op_type not in _FOLLOWERS or _source(node) <= fixed):
            layers[node.name] = node.op_type
            if list(node.attribute) != list(other.attribute):
                attributes[node.name] = tuple(other.attribute)
    for value in prepared.graph.output:
        if (rounding := reader.rounding(value.name, value.name)) is not None:
            roundings[value.name] = rounding
    imports: dict[str, int] = {}
    for entry in (*prepared.opset_import, *quantized.opset_import):
        imports[entry.domain] = max(entry.version, imports.get(entry.domain, 0))
    return Quantized(prepared, layers, roundings, attributes, frozenset(left), imports)


class _Reader:
    """Looks behind the names of a Q/DQ model."""

    def __init__(self, prepared: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
        self._makers = {name: node for node in quantized.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
        self._before = {tensor.name: tensor for tensor in prepared.graph.initializer}

    def rounding(self, name: str, now: str) -> Rounding | None:
        """How what was `name` came about if it is quantized, or changed otherwise."""
        back = self._makers.get(now)
        if back is None:  # a corrected bias that stays in float
            changed = name in self._before and now in self._constants and self._before[name] != self._constants[now]
            return Rounding((), (self._constants[now],)) if changed else None
        if back.op_type != "DequantizeLinear":
            return None
        there = self._makers.get(back.input[0])
        nodes = (back,) if there is None else (there, back)
        used = {name: self._constants[name] for node in nodes for name in node.input if name in self._constants}
        return Rounding(nodes, tuple(used.values()))


def _source(node: onnx.NodeProto) -> set[str]:
    """The inputs whose values a follower passes on."""
    return set(node.input[1:3] if node.op_type == "Where" else node.input[:1])
