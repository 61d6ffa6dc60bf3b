"""The graph of an ONNX file without its weights: small enough to send to a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ModelError

if TYPE_CHECKING:
    import onnx

_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_REMOVED = "removed"


def without_weights(path: Path, keep_bytes: int = 1024) -> bytes:
    """Serializes the graph of an ONNX model, leaving out every big tensor.

    Tensors keep their name, type and shape. External data files are never opened, so a model of many
    gigabytes costs no more than its graph.

    Args:
        path: The ``.onnx`` file.
        keep_bytes: Tensors up to this size keep their values, as shapes and axes are worth seeing.

    Returns:
        The serialized ``ModelProto``.

    Raises:
        ModelError: The file does not hold an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError:
        raise ModelError(f"{path.name} is not an ONNX model.", "Check that the file is complete.") from None
    if not model.HasField("graph"):
        raise ModelError(f"{path.name} holds no graph.", "Check that it is an ONNX model and complete.")
    for tensor in _tensors_of_model(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() > keep_bytes:
            _empty(tensor)
    return bytes(model.SerializeToString())


def _empty(tensor: onnx.TensorProto) -> None:
    """Turns the tensor into one whose data lies elsewhere: a reader must not take it for a broken one."""
    import onnx

    for field in _DATA_FIELDS:
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=_REMOVED)


def _tensors_of_model(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)
        for attribute in function.attribute_proto:
            yield from _tensors_of_attribute(attribute)
    for training in model.training_info:
        yield from _tensors_of_graph(training.initialization)
        yield from _tensors_of_graph(training.algorithm)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from _tensors_of_attribute(attribute)


def _tensors_of_attribute(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for sparse in [*sparse_tensors, *attribute.sparse_tensors]:
        yield from (sparse.values, sparse.indices)
    if attribute.HasField("g"):
        yield from _tensors_of_graph(attribute.g)
    for graph in attribute.graphs:
        yield from _tensors_of_graph(graph)
