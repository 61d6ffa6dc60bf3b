"""Models that INT8 hurts in a place that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from workbench.dataset import Dataset
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.transforms import quantize_static
from workbench.transforms._onnxruntime import read_prepared

SPOILED = ("stem/conv", "widen/conv")


def spoil(model: Model, path: Path, factor: float = 200.0) -> Model:
    """The digits net that computes the same, but one channel between two layers has values far beyond the others'.

    With one scale for all channels, those others are rounded away: in the first layer's weights most of all.
    """
    proto = read_prepared(model, path.parent)
    nodes = {node.name: node for node in proto.graph.node}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    first, second = (nodes[name] for name in SPOILED)

    def scale(name: str, place: Any, by: float) -> None:
        values = numpy_helper.to_array(tensors[name]).copy()
        values[place] *= by
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    for name in first.input[1:]:
        scale(name, 1, factor)
    scale(second.input[1], (slice(None), 1), 1 / factor)
    onnx.save(proto, path)
    return load_model(path)


def quantized(model: Model, data: Dataset, path: Path, **options: Any) -> Model:
    """What quantize_static makes of a model, in this process."""
    quantize_static.apply(model, quantize_static.Options(**options), data, path, silent)
    return load_model(path)


def chain(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, Any], outputs: int, batch: int | str = "n"
) -> Model:
    """A model `x` float32[batch, 4] → `y` [batch, outputs] of some nodes."""
    made = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)
