"""Small nets in which every second channel is dead: without those channels they must answer the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


class Net:
    """A graph that grows node by node, from `image` float32[batch, 3, 8, 8] or `rows` [batch, 5, 6]."""

    def __init__(self, shape: Sequence[int | str] = ("batch", 3, 8, 8), opset: int = 17) -> None:
        self._random = np.random.default_rng(0)
        self._shape, self._opset = shape, opset
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, Array] = {}

    def add(self, operator: str, *inputs: str | Array, outputs: int = 1, **attributes: Any) -> str:
        """Adds a node named after its operator and its number; arrays become initializers."""
        name = f"{operator.lower()}{len(self.nodes)}"
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        made = [name, *(f"{name}_{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, names, made, name=name, **attributes))
        return name

    def constant(self, array: Array) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors[name] = array
        return name

    def weights(self, *shape: int, dead: int | None = None) -> Array:
        """Random ones; every second entry along the axis `dead` is zero."""
        array = 0.2 * self._random.standard_normal(shape, np.float32)
        if dead is not None:
            array[(slice(None),) * dead + (slice(1, None, 2),)] = 0
        return array

    def conv(self, value: str, inputs: int, outputs: int, kernel: int = 3, *, dead: bool = True, **more: Any) -> str:
        weight = self.weights(outputs, inputs // more.get("group", 1), kernel, kernel, dead=0 if dead else None)
        bias = self.weights(outputs, dead=0 if dead else None)
        return self.add("Conv", value, weight, bias, **{"pads": [kernel // 2] * 4, **more})

    def norm(self, value: str, channels: int) -> str:
        positive = np.abs(self.weights(channels)) + 1
        mean = self.weights(channels, dead=0)
        return self.add("BatchNormalization", value, self.weights(channels), mean, mean, positive)

    def model(self, *outputs: str) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info("image", TensorProto.FLOAT, self._shape)]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        tensors = [numpy_helper.from_array(array, name) for name, array in self.tensors.items()]
        graph = helper.make_graph(self.nodes, "net", ends, values, tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=8)
        proto = onnx.shape_inference.infer_shapes(proto)
        onnx.checker.check_model(proto)
        return proto


def run(proto: onnx.ModelProto, feed: Array | None = None) -> list[Array]:
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [3 if isinstance(size, str) else size for size in session.get_inputs()[0].shape]
    image = np.random.default_rng(1).standard_normal(shape, np.float32) if feed is None else feed
    return list(session.run(None, {session.get_inputs()[0].name: image}))


def chain() -> onnx.ModelProto:
    """Convolutions one after the other, with BatchNorm, a pad, a pooling and a PRelu with a slope for each channel."""
    net = Net()
    value = net.add("Relu", net.norm(net.conv("image", 3, 12), 12))
    value = net.add("Pad", value, np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    value = net.add("PRelu", net.conv(value, 12, 16), np.abs(net.weights(16, 1, 1)))
    value = net.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.conv(value, 16, 4, dead=False))


def depthwise() -> onnx.ModelProto:
    """An inverted bottleneck: two outputs for each channel of the depthwise convolution."""
    net = Net()
    value = net.add("Clip", net.conv("image", 3, 12), np.float32(0), np.float32(6))
    value = net.add("Relu", net.add("Conv", value, net.weights(24, 1, 3, 3), group=12))
    return net.model(net.conv(value, 24, 4, 1, dead=False))


def grouped() -> onnx.ModelProto:
    """Groups of four channels: each group loses the same ones."""
    net = Net()
    value = net.add("Relu", net.conv("image", 3, 16))
    value = net.add("Relu", net.conv(value, 16, 16, group=4))
    return net.model(net.conv(value, 16, 4, dead=False))


def residual() -> onnx.ModelProto:
    """A sum of two branches, twice."""
    net = Net()
    first = net.add("Relu", net.conv("image", 3, 16))
    inner = net.conv(net.add("Relu", net.conv(first, 16, 12)), 12, 16)
    second = net.add("Relu", net.add("Add", first, net.add("Mul", inner, np.abs(net.weights(1, 16, 1, 1)))))
    third = net.add("Add", second, net.conv(second, 16, 16))
    return net.model(net.conv(third, 16, 4, dead=False))


def joined() -> onnx.ModelProto:
    """Two branches side by side, of which a part is taken again, and one that is added to both."""
    net = Net()
    left, right = net.conv("image", 3, 8), net.conv("image", 3, 12)
    both = net.add("Relu", net.add("Concat", left, right, axis=1))
    summed = net.add("Add", both, net.conv("image", 3, 20))
    part = net.add("Split", summed, np.array([8, 12]), outputs=2, axis=1)
    return net.model(net.conv(part, 8, 4, dead=False), net.conv(f"{part}_1", 12, 4, dead=False))


def attention() -> onnx.ModelProto:
    """Squeeze and excite: channels weighed by what two small layers say of their means."""
    net = Net()
    value = net.add("Relu", net.conv("image", 3, 16))
    mean = net.add("ReduceMean", value, axes=[2, 3], keepdims=1)
    inner = net.add("Relu", net.conv(mean, 16, 8, 1))
    weighed = net.add("Mul", value, net.add("Sigmoid", net.conv(inner, 8, 16, 1)))
    return net.model(net.conv(weighed, 16, 4, dead=False))


def flattened() -> onnx.ModelProto:
    """A column of the matrix for each pixel of each channel; the shape names the number of channels."""
    net = Net()
    value = net.add("Relu", net.conv("image", 3, 6, strides=[4, 4]))
    value = net.add("Reshape", value, np.array([-1, 6 * 2 * 2]))
    value = net.add("Relu", net.add("Gemm", value, net.weights(8, 24, dead=0), net.weights(8, dead=0), transB=1))
    return net.model(net.add("Gemm", value, net.weights(8, 3), net.weights(3)))


def pooled() -> onnx.ModelProto:
    """The usual head, with a shape that is computed as exporters write it."""
    net = Net()
    value = net.add("GlobalAveragePool", net.add("Relu", net.conv("image", 3, 8)))
    count = net.add("Gather", net.add("Shape", value), np.array(0))
    shape = net.add("Concat", net.add("Unsqueeze", count, np.array([0])), np.array([8]), axis=0)
    return net.model(net.add("MatMul", net.add("Reshape", value, shape), net.weights(8, 3)))


def perceptron() -> onnx.ModelProto:
    """The inner layer of a transformer's block, between normalizations that stay."""
    net = Net(("batch", 5, 6))
    value = net.add("LayerNormalization", "image", net.weights(6), net.weights(6))
    inner = net.add("Add", net.add("MatMul", value, net.weights(6, 16, dead=1)), net.weights(16, dead=0))
    inner = net.add("Mul", inner, net.add("Erf", inner))
    outer = net.add("Add", net.weights(6), net.add("MatMul", inner, net.weights(16, 6)))
    summed = net.add("Add", outer, "image")
    return net.model(net.add("LayerNormalization", summed, net.weights(6), net.weights(6)))


def upsampled() -> onnx.ModelProto:
    """A decoder: a transposed convolution, a resize with a number of channels, and channels last for a while."""
    net = Net(("batch", 3, 8, 8))
    value = net.add("Relu", net.conv("image", 3, 8, strides=[2, 2]))
    value = net.add("ConvTranspose", value, net.weights(8, 12, 2, 2, dead=1), strides=[2, 2])
    value = net.add("Resize", value, "", np.float32([1, 1, 2, 2]), mode="nearest")
    value = net.add("Relu", net.add("Transpose", value, perm=[0, 2, 3, 1]))
    return net.model(net.conv(net.add("Transpose", value, perm=[0, 3, 1, 2]), 12, 4, dead=False))


def shared() -> onnx.ModelProto:
    """Two convolutions with the same weights, of the same channels."""
    net = Net()
    weight = net.constant(net.weights(8, 8, 3, 3, dead=0))
    value = net.add("Relu", net.conv("image", 3, 8))
    for _ in range(2):
        value = net.add("Relu", net.add("Conv", value, weight, pads=[1] * 4))
    return net.model(net.conv(value, 8, 4, dead=False))
