"""Reads the nodes and constants of an ONNX graph that PyTorch is to compute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.graph_module._layers import LAYERS
from workbench.graph_module._node import Node, Operator, Purpose
from workbench.graph_module._operators import ELEMENTWISE

if TYPE_CHECKING:
    import onnx

OPERATORS: Mapping[str, Operator] = {**ELEMENTWISE, **LAYERS}


def read_nodes(proto: onnx.ModelProto, title: str, purpose: Purpose, known: Collection[str] = ()) -> list[Node]:
    """The nodes of the main graph without constants.

    Args:
        proto: The model.
        title: The model, for messages.
        purpose: What the nodes are read for.
        known: Operators that the caller runs himself.

    Raises:
        WorkbenchError: One has an operator that is not known; its class is the purpose's.
    """
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    nodes = []
    for number, node in enumerate(proto.graph.node):
        if node.op_type == "Constant":
            continue  # among the tensors
        name = node.name or (node.output[0] if node.output else f"node {number}")
        own = node.domain in ("", "ai.onnx")
        if not own or (node.op_type not in OPERATORS and node.op_type not in known):
            kind = node.op_type if own else f"{node.domain}.{node.op_type}"
            raise purpose.error(
                f"{title} cannot be {purpose.done} as an ONNX graph: the operator {kind} of the node '{name}' is not "
                f"known to {purpose.known_to}.",
                f"{purpose.remedy}.",
            )
        attributes = {entry.name: _attribute(entry) for entry in node.attribute}
        nodes.append(Node(node.op_type, name, attributes, tuple(node.input), tuple(node.output), opset, purpose))
    return nodes


def _attribute(entry: onnx.AttributeProto) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(entry)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value).copy()
    return value.decode() if isinstance(value, bytes) else value


def constants(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto | onnx.AttributeProto]:
    """Every constant of the main graph by name: initializers, and what Constant nodes give."""
    found: dict[str, Any] = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute:
            entry = node.attribute[0]
            found[node.output[0]] = entry.t if entry.HasField("t") else entry
    return found


def as_array(tensor: onnx.TensorProto | onnx.AttributeProto) -> np.ndarray[Any, Any]:
    """A constant's value."""
    import onnx

    if isinstance(tensor, onnx.TensorProto):
        return onnx.numpy_helper.to_array(tensor)
    value = onnx.helper.get_attribute_value(tensor)
    return np.array(value, np.float32 if tensor.name.startswith("value_float") else np.int64)
