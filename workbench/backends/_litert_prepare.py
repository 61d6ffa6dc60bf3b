"""Writes a copy of a model that onnx2tf gets along with: constants computed, plain names at the ends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.model import Model
from workbench.model_file import read_whole

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "litert_input_", "litert_output_"  # how names begin, before the number among the model's

_LARGEST_FILE = 2**31 - 2**20  # of protobuf


def prepare(model: Model, target: Path) -> list[str]:
    """Writes the copy; onnx2tf changes the file that it is given.

    Simplified with onnxslim, where onnx2tf would call onnxsim's command line three times: 0.1 s in the place of 8.
    onnx2tf loses outputs whose names hold a colon, which those made from TensorFlow have.

    Args:
        model: Any model; its file is only read.
        target: The ONNX file to write.

    Returns:
        Names of the copy's inputs; those that nothing reads are left out.
    """
    import onnx
    import onnxslim

    proto = read_whole(model.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # overflow in what it computes ahead happens in the model as well
            proto = onnxslim.slim(proto)
    except Exception:  # it raises whatever its graph library meets; onnx2tf then gets the model as it is
        proto = read_whole(model.path)
    names = {spec.name: f"{OUTPUT}{place}" for place, spec in enumerate(model.outputs)}
    names |= {spec.name: f"{INPUT}{place}" for place, spec in enumerate(model.inputs)}
    _rename(proto.graph, names)
    large = proto.ByteSize() > _LARGEST_FILE
    onnx.save(proto, str(target), save_as_external_data=large, location="model.data" if large else None)
    return [value.name for value in proto.graph.input if value.name.startswith(INPUT)]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Renames tensors, also where subgraphs read them."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _subgraphs(node):
            _rename(inner, names)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
