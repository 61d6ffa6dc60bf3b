"""A network whose time grows in proportion to its layers: equal convolutions, one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_CHANNELS, _SIZE = 16, 24


def chain(path: Path, layers: int) -> Path:
    """Writes it: `layers` convolutions 3×3 of 16 channels on 24×24 pixels, random weights that keep values in range."""
    random = np.random.default_rng(0)
    scale = 1 / np.sqrt(9 * _CHANNELS)
    nodes, weights = [], []
    for number in range(layers):
        kernel = random.normal(0, scale, (_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{number}"))
        pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
        nodes.append(helper.make_node("Conv", [f"t{number}", f"w{number}"], [f"t{number + 1}"], f"c{number}", **pads))
    shape = ["batch", _CHANNELS, _SIZE, _SIZE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("t0", f"t{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
