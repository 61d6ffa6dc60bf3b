"""ONNX's shape inference, kept from the graphs that crash it or fill the memory: it runs in the caller's process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from workbench.model_rules import with_inner

if TYPE_CHECKING:
    import onnx

# onnx 1.23 ends the process (SIGSEGV) at these if an input has no type, as behind any operator it does not know.
_CRASHING = {("", "EyeLike"), ("", "RegexFullMatch"), ("ai.onnx.ml", "LabelEncoder"), ("ai.onnx.ml", "TreeEnsemble")}
_HIDDEN = "hidden "
# Propagating values, it makes an object for each number of a tensor with one axis: 70 bytes and more, at each node.
_LONGEST_ROW = 65_536


def infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Adds what can be inferred of types and shapes; `proto` itself stays as it is.

    Returns:
        A copy; without anything new where the graph contradicts itself.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node, imports in _crashing_nodes(copy):
        node.domain = f"{_HIDDEN}{node.domain}"
        if all(entry.domain != node.domain for entry in imports):
            imports.add(domain=node.domain, version=1)
    try:
        inferred = onnx.shape_inference.infer_shapes(copy)
        if not _complete(inferred.graph) and _longest_row(inferred.graph) <= _LONGEST_ROW:
            inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # its errors have no common class, and what the graph says of itself is still worth having
        inferred = copy
    parts: tuple[Any, ...] = (inferred.graph, *inferred.functions)
    for part in parts:
        for node in with_inner(part.node):
            node.domain = node.domain.removeprefix(_HIDDEN)
    return inferred


def _crashing_nodes(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Any]]:
    scopes = [(proto.graph.node, proto.opset_import), *((body.node, body.opset_import) for body in proto.functions)]
    for nodes, imports in scopes:
        for node in with_inner(nodes):
            if ("" if node.domain == "ai.onnx" else node.domain, node.op_type) in _CRASHING:
                yield node, imports


def _complete(graph: onnx.GraphProto) -> bool:
    """Whether every node's outputs have known shapes, so that propagating values can add nothing."""
    known = {
        value.name
        for value in (*graph.output, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
        and all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim)
    }
    return all(name in known for node in graph.node for name in node.output if name)


def _longest_row(graph: onnx.GraphProto) -> int:
    shapes = (value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output, *graph.value_info))
    return max((dims[0].dim_value for dims in shapes if len(dims) == 1), default=0)
