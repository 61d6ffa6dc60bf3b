"""A transformer block, with outliers in some channels as trained ones have them, small enough to make on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from workbench.dataset import Dataset

WIDTH, STEPS, HEADS = 64, 8, 4
OUTLIERS = [3, 17]  # channels


def write_transformer(path: Path, *, outliers: bool = False, decomposed: bool = False, external: str = "") -> Path:
    """Writes `x` float32[batch, 8, 64] → `y`, with normalization before attention and before a perceptron.

    Args:
        path: The file.
        outliers: Some channels of the normalizations are 40 times larger, and the weights behind them smaller.
        decomposed: Normalization as ReduceMean, Sub, Pow …, as exports before opset 17 have it.
        external: File beside it for the weights.
    """
    block = _Block(outliers, decomposed)
    normal = block.normalize("norm_1", "x")
    shape = block.constant("heads", np.array([0, 0, HEADS, WIDTH // HEADS]))
    turns = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
    q, k, v = (
        block.add("Transpose", f"{name}/turn", block.add("Reshape", f"{name}/split", part, shape), perm=turn)
        for name, turn in turns.items()
        for part in [block.linear(name, normal, WIDTH, small=True)]
    )
    scores = block.add("MatMul", "scores", q, k)
    scaled = block.add("Mul", "scaled", scores, block.constant("scale", np.float32(0.1)))
    mixed = block.add("MatMul", "mixed", block.add("Softmax", "shares", scaled, axis=-1), v)
    turned = block.add("Transpose", "mixed/turn", mixed, perm=[0, 2, 1, 3])
    joined = block.add("Reshape", "joined", turned, block.constant("whole", np.array([0, 0, WIDTH])))
    middle = block.add("Add", "middle", block.linear("o", joined, WIDTH), "x")
    wide = block.linear("wide", block.normalize("norm_2", middle), 4 * WIDTH, small=True)
    block.add("Add", "y", block.linear("narrow", block.add("Relu", "relu", wide), WIDTH), middle)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", STEPS, WIDTH]) for name in "xy"]
    graph = helper.make_graph(block.nodes, "block", ends[:1], ends[1:], block.tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path, save_as_external_data=bool(external), location=external or None, size_threshold=200)
    return path


def make_samples(count: int, seed: int = 0) -> Dataset:
    """Samples for it."""
    values = np.random.default_rng(seed).standard_normal((count, STEPS, WIDTH), np.float32)
    return Dataset({"x": values}, name="noise")


class _Block:
    """A graph that grows node by node."""

    def __init__(self, outliers: bool, decomposed: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._decomposed = decomposed
        self._gain = 40 if outliers else 1
        self._random = np.random.default_rng(1)

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any] | np.generic) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def linear(self, name: str, value: str, outputs: int, *, small: bool = False) -> str:
        inputs = 4 * WIDTH if name == "narrow" else WIDTH
        weight = self._random.standard_normal((inputs, outputs), np.float32) / np.float32(inputs**0.5)
        if small:
            weight[OUTLIERS] /= self._gain
        product = self.add("MatMul", name, value, self.constant(f"{name}/weight", weight))
        bias = self._random.standard_normal(outputs, np.float32) / 10
        return self.add("Add", f"{name}/add", product, self.constant(f"{name}/bias", bias))

    def normalize(self, name: str, value: str) -> str:
        scale = np.ones(WIDTH, np.float32)
        scale[OUTLIERS] = self._gain
        scaling = [self.constant(f"{name}/scale", scale), self.constant(f"{name}/shift", np.zeros(WIDTH, np.float32))]
        if not self._decomposed:
            return self.add("LayerNormalization", name, value, *scaling, axis=-1)
        centred = self.add("Sub", f"{name}/sub", value, self.add("ReduceMean", f"{name}/mean", value, axes=[-1]))
        square = self.add("Pow", f"{name}/pow", centred, self.constant(f"{name}/two", np.float32(2)))
        variance = self.add("ReduceMean", f"{name}/variance", square, axes=[-1])
        safe = self.add("Add", f"{name}/safe", variance, self.constant(f"{name}/epsilon", np.float32(1e-5)))
        normal = self.add("Div", f"{name}/div", centred, self.add("Sqrt", f"{name}/root", safe))
        return self.add("Add", name, self.add("Mul", f"{name}/mul", normal, scaling[0]), scaling[1])
