"""One convolution of a graph, as a model of its own: with its channels, or with as many as fill the vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.graph.shapes import infer_tensors, sizes
from workbench.model import Model, read_model
from workbench.skeleton import read_skeleton
from workbench.workspace import Workspace

if TYPE_CHECKING:
    import onnx

BLOCK = 16  # float32 numbers in an AVX-512 register, and the block that kernels lay channels out in
_IMAGE = 8  # fewer channels than this are those of an image, and nobody's choice
_OPSET, _IR_VERSION = 17, 8


@dataclass(frozen=True)
class Convolution:
    """A convolution and the sizes it runs with.

    Attributes:
        name: Name of its node.
        data: Shape of its input: batch, channels, height, width.
        weight: Shape of its weight: outputs, inputs / group, kernel.
        group: Groups of channels.
        attributes: Everything else that the node says.
        integer: Whether it stands between Q/DQ nodes.
    """

    name: str
    data: tuple[int, ...]
    weight: tuple[int, ...]
    group: int
    attributes: tuple[onnx.AttributeProto, ...]
    integer: bool

    @property
    def channels(self) -> tuple[int, int]:
        """Of its input and its output."""
        return self.data[1], self.weight[0]

    @property
    def work(self) -> int:
        """Multiply-accumulates for each place of the output."""
        return math.prod(self.weight)

    def aligned(self) -> Convolution:
        """The same with the nearest numbers of channels that fill whole blocks; itself where they do already."""
        inputs, outputs = map(_nearest, self.channels)
        if self.group == 1:
            data, weight = (self.data[0], inputs, *self.data[2:]), (outputs, inputs, *self.weight[2:])
            return replace(self, data=data, weight=weight)
        if self.group == self.data[1] == self.weight[0]:  # one kernel for each channel
            data, weight = (self.data[0], inputs, *self.data[2:]), (inputs, *self.weight[1:])
            return replace(self, data=data, weight=weight, group=inputs)
        return self

    def as_model(self, workspace: Workspace) -> Model:
        """Writes it as a model with random weights and this one node."""
        key = {
            "data": self.data,
            "weight": self.weight,
            "group": self.group,
            "attributes": [attribute.SerializeToString(deterministic=True).hex() for attribute in self.attributes],
            "integer": self.integer,
        }

        def make(folder: Path) -> None:
            (folder / "convolution.onnx").write_bytes(_proto(self).SerializeToString())

        return read_model(workspace.artifact("probes", key, make) / "convolution.onnx")


def read_convolutions(model: Model, batch: int) -> dict[str, Convolution]:
    """The convolutions of a model whose sizes are known, by the name of their node."""
    proto = read_skeleton(model.path)
    known = infer_tensors(proto, model, batch)
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in proto.graph.node:
        if node.op_type != "Conv" or not {*node.input[:2]} <= set(known):
            continue
        data, weight = (sizes(known[name].shape) for name in node.input[:2])
        if data and weight and len(data) == len(weight) > 2:
            attributes = tuple(entry for entry in node.attribute if entry.name not in ("group", "kernel_shape"))
            group = next((int(entry.i) for entry in node.attribute if entry.name == "group"), 1)
            integer = set(node.input[:2]) <= dequantized
            found[node.name] = Convolution(node.name, data, weight, group, attributes, integer)
    return found


def _nearest(channels: int) -> int:
    return channels if channels < _IMAGE else max(BLOCK, round(channels / BLOCK) * BLOCK)


def _proto(conv: Convolution) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    fan_in = math.prod(conv.weight[1:])
    weight: Any = (random.standard_normal(conv.weight) / math.sqrt(fan_in)).astype(np.float32)
    if conv.integer:
        weight = np.clip(np.round(64 * weight * math.sqrt(fan_in)), -127, 127).astype(np.int8)
    constants = {"weight": weight, "scale": np.float32(1 / 64), "middle": np.uint8(128), "zero": np.int8(0)}
    nodes = list(_nodes(conv))
    nodes[-1].output[0] = "y"
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, conv.data)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _nodes(conv: Convolution) -> Iterator[onnx.NodeProto]:
    from onnx import helper

    def around(name: str) -> Iterator[onnx.NodeProto]:
        yield helper.make_node("QuantizeLinear", [name, "scale", "middle"], [f"{name} int8"])
        yield helper.make_node("DequantizeLinear", [f"{name} int8", "scale", "middle"], [f"{name} again"])

    inputs = ["x again", "weight again"] if conv.integer else ["x", "weight"]
    if conv.integer:
        yield from around("x")
        yield helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["weight again"])
    node = helper.make_node("Conv", inputs, ["sum"], conv.name, group=conv.group, kernel_shape=conv.weight[2:])
    node.attribute.extend(conv.attributes)
    yield node
    if conv.integer:
        yield from around("sum")
