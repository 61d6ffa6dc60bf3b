"""Small models for the tests of TensorRT, and what a test runs in another process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine
from workbench.backends._tensorrt_build import Made, build_plan
from workbench.backends._tensorrt_options import Options, resolve
from workbench.backends._tensorrt_package import find_package
from workbench.backends._tensorrt_profiles import resolve_profiles
from workbench.engine import Layer, unheard
from workbench.importers import load_model
from workbench.jobs import Progress, silent
from workbench.model import Model

Shape = Sequence[int | str]


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Shape],
    tensors: dict[str, Any] | None = None,
    *,
    dtype: int = TensorProto.FLOAT,
    opset: int = 21,
    **dtypes: int,
) -> Model:
    """A model of these nodes with the output `y`; inputs are of `dtype` unless `dtypes` names another."""
    ends = [helper.make_tensor_value_info(name, dtypes.get(name, dtype), shape) for name, shape in inputs.items()]
    output = helper.make_tensor_value_info("y", dtypes.get("y", dtype), None)
    made = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (tensors or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "g", ends, [output], made)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return load_model(path)


def node(operator: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are parted by spaces."""
    return helper.make_node(operator, inputs.split(), outputs.split(), name or operator.lower(), **attributes)


def quantized(path: Path, zero: Any, weight: type[np.signedinteger[Any]] = np.int8, dtype: int = 1) -> Model:
    """A convolution between Q/DQ nodes whose activations have this zero point."""
    values = np.random.default_rng(0).integers(1, 127, (16, 16, 3, 3)).astype(weight)
    scale = np.asarray(0.01, helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [
        node("QuantizeLinear", "x scale zero", "xq", "quantize"),
        node("DequantizeLinear", "xq scale zero", "xd", "dequantize"),
        node("DequantizeLinear", "weight scale weight_zero", "wd", "weight_dequantize"),
        node("Conv", "xd wd", "c", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "c", "y", "relu"),
    ]
    tensors = {"weight": values, "scale": scale, "zero": zero, "weight_zero": weight(0)}
    return write(path, nodes, {"x": ["batch", 16, 8, 8]}, tensors, dtype=dtype)


def attention(path: Path, heads: int = 4, width: int = 16) -> Model:
    """The scores of attention: `x` [batch, 16, 64] → softmax(x Wa · x Wb) [batch, heads, 16, 16]."""
    random = np.random.default_rng(0)
    nodes = []
    for name, order in (("a", [0, 2, 1, 3]), ("b", [0, 2, 3, 1])):
        nodes += [
            node("MatMul", f"x {name}", f"{name}_all", f"{name}_product"),
            node("Reshape", f"{name}_all split", f"{name}_split", f"{name}_reshape"),
            node("Transpose", f"{name}_split", f"{name}_heads", f"{name}_transpose", perm=order),
        ]
    nodes += [node("MatMul", "a_heads b_heads", "s", "scores"), node("Softmax", "s", "y", "softmax")]
    wide = heads * width
    tensors = {name: random.standard_normal((wide, wide)).astype(np.float32) for name in "ab"}
    return write(path, nodes, {"x": ["batch", 16, wide]}, {**tensors, "split": np.array([0, 0, heads, width])})


def build_here(model: Model, folder: Path, **options: Any) -> Made:
    """Builds a plan in this process, into a folder, as `build` does in another one: starting that takes longer.

    For builds that succeed only: one that fails can spoil the next one in its process.
    """
    chosen = Options(**options)
    plan, resolved = folder / "model.plan", resolve(chosen, find_package())
    profiles = resolve_profiles(model, chosen)
    return build_plan(model, resolved, profiles, plan, folder / "timings", tell=unheard, progress=silent)


def is_product(layer: Layer) -> bool:
    """Whether it is a convolution or matrix product, perhaps with what follows it."""
    return layer.operator in ("correlation", "gemm") or layer.operator.startswith(("Corr", "Fc"))


def count_lines(model: Model, progress: Progress) -> int:
    """Builds a plan and tells how many lines of its log came by: none where somebody else's was taken."""
    heard: list[str] = []
    build_engine(model, "tensorrt", {"targets": ["SM89"]}, progress=progress, log=heard.append)
    return len(heard)
