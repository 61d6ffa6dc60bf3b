"""Nets of well-known sizes with random weights, for benchmarks of speed: what they compute means nothing.

BatchNorm is folded into the convolutions, as exporters do for inference. Weights are scaled so that values neither grow
nor vanish, since infinite and denormal numbers would take other times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = 224
CLASSES = 1000
# Stage by stage: blocks, width of the middle convolution, stride of the first block (He et al., CVPR 2016, table 1).
_RESNET50 = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
# Expansion, channels, blocks, stride of the first block (Sandler et al., CVPR 2018, table 2).
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_RESIDUAL_SCALE = 0.3  # of what is added to a shortcut: sums of many blocks stay near their inputs
# BERT-base (Devlin et al., NAACL 2019): 12 layers of these sizes; its own largest sequence is 512.
TOKENS, SEQUENCE = 30522, 128
_HIDDEN, _HEADS, _INNER = 768, 12, 3072


def resnet50(path: str | Path, *, weights_seed: int = 0) -> Path:
    """Writes a ResNet-50: `image` float32[batch, 3, 224, 224] → `scores` [batch, 1000]; 25.5 million parameters.

    Args:
        path: The ONNX file.
        weights_seed: Of the random weights.
    """
    net = _Net(weights_seed)
    value = net.pool(net.convolve("image", 3, 64, 7, stride=2, activation="Relu"))
    channels = 64
    for blocks, width, first_stride in _RESNET50:
        for block in range(blocks):
            stride, outputs = first_stride if block == 0 else 1, 4 * width
            shortcut = value if block else net.convolve(value, channels, outputs, 1, stride=stride)
            inner = net.convolve(value, channels, width, 1, activation="Relu")
            inner = net.convolve(inner, width, width, 3, stride=stride, activation="Relu")
            inner = net.convolve(inner, width, outputs, 1, scale=_RESIDUAL_SCALE)
            value, channels = net.activate(net.add("Add", [inner, shortcut]), "Relu"), outputs
    return net.write(path, "resnet50", value, channels)


def mobilenet_v2(path: str | Path, *, weights_seed: int = 0) -> Path:
    """Writes a MobileNetV2: `image` float32[batch, 3, 224, 224] → `scores` [batch, 1000]; 3.5 million parameters.

    Args:
        path: The ONNX file.
        weights_seed: Of the random weights.
    """
    net = _Net(weights_seed)
    value, channels = net.convolve("image", 3, 32, 3, stride=2, activation="Clip"), 32
    for expansion, outputs, blocks, first_stride in _MOBILENET_V2:
        for block in range(blocks):
            stride, wide = first_stride if block == 0 else 1, expansion * channels
            inner = value if expansion == 1 else net.convolve(value, channels, wide, 1, activation="Clip")
            inner = net.convolve(inner, wide, wide, 3, stride=stride, groups=wide, activation="Clip")
            kept = stride == 1 and channels == outputs
            inner = net.convolve(inner, wide, outputs, 1, scale=_RESIDUAL_SCALE if kept else 1.0)
            value, channels = net.add("Add", [inner, value]) if kept else inner, outputs
    value = net.convolve(value, channels, 1280, 1, activation="Clip")
    return net.write(path, "mobilenet_v2", value, 1280)


def bert_base(path: str | Path, *, layers: int = 12, weights_seed: int = 0) -> Path:
    """Writes an encoder of BERT-base's size: `tokens` int64[batch, 128] → `hidden` [batch, 128, 768].

    109 million parameters (434 MB) with 12 layers; GELU by Erf, LayerNormalization as one node.

    Args:
        path: The ONNX file.
        layers: Layers of the encoder.
        weights_seed: Of the random weights.
    """
    net = _Net(weights_seed)
    places = net.weight((SEQUENCE, _HIDDEN), 0.5)
    value = net.add("Gather", [net.weight((TOKENS, _HIDDEN), 1.0), "tokens"])
    value = net.normalize(net.add("Add", [value, places]))
    for _ in range(layers):
        value = net.normalize(net.add("Add", [value, net.attend(value)]))
        inner = net.gelu(net.project(value, _HIDDEN, _INNER))
        value = net.normalize(net.add("Add", [value, net.project(inner, _INNER, _HIDDEN)]))
    net.rename_last("hidden")
    ends = (("tokens", TensorProto.INT64, [SEQUENCE]), ("hidden", TensorProto.FLOAT, [SEQUENCE, _HIDDEN]))
    return net.save(path, "bert_base", *ends)


class _Net:
    """A graph that grows node by node."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors = [
            numpy_helper.from_array(np.array(limit, np.float32), name) for name, limit in (("zero", 0), ("six", 6))
        ]

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        """Adds a node and returns the name of its output."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def convolve(
        self,
        value: str,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        scale: float = 1.0,
        activation: str = "",
    ) -> str:
        """Adds a convolution with weights as He et al. (ICCV 2015) draw them, and what follows it."""
        shape = (outputs, inputs // groups, kernel, kernel)
        deviation = scale * (2 / np.prod(shape[1:])) ** 0.5
        weight = self._random.standard_normal(shape, np.float32) * np.float32(deviation)
        bias = self._random.standard_normal(outputs, np.float32) * np.float32(0.01)
        names = [f"weight_{len(self._nodes)}", f"bias_{len(self._nodes)}"]
        self._tensors += [
            numpy_helper.from_array(array, name) for array, name in zip((weight, bias), names, strict=True)
        ]
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        made = self.add("Conv", [value, *names], group=groups, **sizes)
        return self.activate(made, activation) if activation else made

    def activate(self, value: str, activation: str) -> str:
        """Adds `Relu`, or `Clip` to 0 … 6."""
        return self.add(activation, [value, "zero", "six"] if activation == "Clip" else [value])

    def pool(self, value: str) -> str:
        """Adds a 3 × 3 maximum with stride 2."""
        return self.add("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def constant(self, values: object, dtype: type) -> str:
        """Adds a constant and returns its name."""
        self._tensors.append(numpy_helper.from_array(np.asarray(values, dtype), f"constant_{len(self._tensors)}"))
        return str(self._tensors[-1].name)

    def weight(self, shape: tuple[int, ...], deviation: float) -> str:
        """Adds a random weight and returns its name."""
        return self.constant(self._random.standard_normal(shape, np.float32) * np.float32(deviation), np.float32)

    def project(self, value: str, inputs: int, outputs: int) -> str:
        """Adds a matrix product that keeps the size of values, and its bias."""
        product = self.add("MatMul", [value, self.weight((inputs, outputs), inputs**-0.5)])
        return self.add("Add", [product, self.weight((outputs,), 0.01)])

    def normalize(self, value: str) -> str:
        """Adds LayerNormalization over the hidden axis."""
        scale, bias = self.constant(np.ones(_HIDDEN), np.float32), self.constant(np.zeros(_HIDDEN), np.float32)
        return self.add("LayerNormalization", [value, scale, bias], axis=-1, epsilon=1e-12)

    def gelu(self, value: str) -> str:
        """Adds x · (1 + erf(x / √2)) / 2 (Hendrycks and Gimpel, 2016)."""
        error = self.add("Erf", [self.add("Div", [value, self.constant(2**0.5, np.float32)])])
        grown = self.add("Mul", [value, self.add("Add", [error, self.constant(1, np.float32)])])
        return self.add("Mul", [grown, self.constant(0.5, np.float32)])

    def attend(self, value: str) -> str:
        """Adds self-attention of 12 heads (Vaswani et al., NeurIPS 2017)."""
        size = _HIDDEN // _HEADS
        apart = self.constant([0, 0, _HEADS, size], np.int64)
        query, key, content = (self.add("Reshape", [self.project(value, _HIDDEN, _HIDDEN), apart]) for _ in range(3))
        query, content = (self.add("Transpose", [each], perm=[0, 2, 1, 3]) for each in (query, content))
        scores = self.add("MatMul", [query, self.add("Transpose", [key], perm=[0, 2, 3, 1])])
        shares = self.add("Softmax", [self.add("Div", [scores, self.constant(size**0.5, np.float32)])], axis=-1)
        joined = self.add("Transpose", [self.add("MatMul", [shares, content])], perm=[0, 2, 1, 3])
        flat = self.add("Reshape", [joined, self.constant([0, 0, _HIDDEN], np.int64)])
        return self.project(flat, _HIDDEN, _HIDDEN)

    def rename_last(self, name: str) -> None:
        """Gives the output of the last node the name that the graph's output has."""
        self._nodes[-1].output[0] = name

    def write(self, path: str | Path, name: str, value: str, channels: int) -> Path:
        """Adds mean and classifier and writes the file."""
        weight = self._random.standard_normal((CLASSES, channels), np.float32) * np.float32(channels**-0.5)
        self._tensors += [
            numpy_helper.from_array(weight, "classifier"),
            numpy_helper.from_array(np.zeros(CLASSES, np.float32), "classifier_bias"),
        ]
        flat = self.add("Flatten", [self.add("GlobalAveragePool", [value])])
        self._nodes.append(
            helper.make_node("Gemm", [flat, "classifier", "classifier_bias"], ["scores"], name="classify", transB=1)
        )
        shapes = (("image", TensorProto.FLOAT, [3, IMAGE, IMAGE]), ("scores", TensorProto.FLOAT, [CLASSES]))
        return self.save(path, name, *shapes)

    def save(self, path: str | Path, name: str, *ends: tuple[str, int, list[int]]) -> Path:
        """Writes the graph with one input and one output, each with its type and its shape behind the batch."""
        used = {entry for node in self._nodes for entry in node.input}
        tensors = [tensor for tensor in self._tensors if tensor.name in used]
        read, given = (helper.make_tensor_value_info(end, kind, ["batch", *shape]) for end, kind, shape in ends)
        graph = helper.make_graph(self._nodes, name, [read], [given], tensors)
        path = Path(path)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return path
