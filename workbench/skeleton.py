"""The graph of an ONNX file without its weights: small enough to send to a browser, and to infer shapes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ModelError
from workbench.model import all_tensors

if TYPE_CHECKING:
    import onnx

_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_REMOVED = "removed"


def without_weights(path: Path, keep_bytes: int = 1024) -> bytes:
    """Serializes the graph of an ONNX model, leaving out every big tensor.

    Tensors keep their name, type and shape. External data files are never opened, so a model of many
    gigabytes costs no more than its graph. Nodes have the names of `workbench.graph.NodeSummary`.

    Args:
        path: The ``.onnx`` file.
        keep_bytes: Tensors up to this size keep their values, as shapes and axes are worth seeing.

    Returns:
        The serialized ``ModelProto``.

    Raises:
        ModelError: The file does not hold an ONNX model.
    """
    return bytes(read_skeleton(path, keep_bytes).SerializeToString())


def read_skeleton(path: Path, keep_bytes: int = 1024) -> onnx.ModelProto:
    """Reads the graph of an ONNX model as `without_weights` does, and returns it unserialized.

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
    for tensor in all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() > keep_bytes:
            _empty(tensor)
    _name_nodes(model.graph)
    return model


def _empty(tensor: onnx.TensorProto) -> None:
    """Turns the tensor into one whose data lies elsewhere: a reader must not take it for a broken one."""
    import onnx

    for field in _DATA_FIELDS:
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=_REMOVED)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Gives every node of the graph a name of its own, so that viewers, tables and comparisons speak of the same.

    A node keeps its name; one without takes its first output's, and whatever occurs again gets a number.
    """
    wanted = [node.name or next(filter(None, node.output), node.op_type) for node in graph.node]
    taken, last = set(wanted), dict.fromkeys(wanted, 0)
    for node, name in zip(graph.node, wanted, strict=True):
        last[name] += 1
        unique = name
        while last[name] > 1 and unique in taken:
            unique = f"{name}_{last[name]}"
            last[name] += unique in taken
        taken.add(unique)
        node.name = unique
