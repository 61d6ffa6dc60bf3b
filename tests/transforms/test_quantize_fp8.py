"""Weights and activations in FP8: what is rounded, with which scale, and what runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.transforms.conftest import Apply, Save
from workbench.backends import build_engine, tensorrt
from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.model import Model


def test_a_small_file_answers_alike(
    digits: Model, calibration: Dataset, evaluation: Dataset, apply: Apply, sqnr: Callable[..., float]
) -> None:
    small = apply(digits, "quantize_fp8", dataset=calibration)
    check = evaluation.take(32)

    assert small.size_bytes < 0.3 * digits.size_bytes
    assert sqnr(digits, small, check, graph_level="basic") > 20
    assert sqnr(digits, small, check, "openvino") > 20
    assert "graph_level basic" in small.history[0].notes[0]


def test_tensorrt_computes_in_fp8(
    digits: Model, transformer: Model, calibration: Dataset, noise: Dataset, apply: Apply
) -> None:
    pytest.importorskip("tensorrt_rtx")
    for model, samples, products in ((digits, calibration, 8), (transformer, noise, 4)):
        engine = build_engine(apply(model, "quantize_fp8", dataset=samples), "tensorrt", {"targets": ["SM89"]})
        assert Counter(layer.precision for layer in tensorrt.optimized(engine).layers)["float8"] >= products


def test_the_largest_value_falls_on_the_largest_number(save: Save, apply: Apply) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((16, 8), np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product")
    model = save([node], {"x": ["batch", 16]}, {"y": ["batch", 8]}, {"w": weight, "b": np.ones(8, np.float32)})
    values = random.standard_normal((4, 16), np.float32)
    proto = onnx.load(apply(model, "quantize_fp8", dataset=Dataset({"x": values})).path)
    made = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}

    assert made["x/fp8_scale"] == pytest.approx(np.abs(values).max() / 448)
    np.testing.assert_allclose(made["w/fp8_scale"], np.abs(weight).max(axis=0) / 448, rtol=1e-6)
    rounded = made["w/fp8_steps"].astype(np.float32) * made["w/fp8_scale"]
    np.testing.assert_allclose(rounded, weight, rtol=1 / 16, atol=1e-3)  # three bits of fraction
    assert np.abs(made["w/fp8_steps"].astype(np.float32)).max(axis=0).tolist() == [448] * 8
    np.testing.assert_array_equal(made["b"], 1)


def test_what_stays_in_float(digits: Model, calibration: Dataset, apply: Apply) -> None:
    few = calibration.take(4)
    kept = onnx.load(apply(digits, "quantize_fp8", {"keep_float": ["top/conv"], "per_channel": False}, few).path)
    kinds = {tensor.name: tensor.data_type for tensor in kept.graph.initializer}
    nodes = {node.name: node for node in kept.graph.node}

    assert kinds[nodes["top/conv"].input[1]] == TensorProto.FLOAT
    assert kinds[nodes["separable/depthwise/conv"].input[1]] == TensorProto.FLOAT
    assert Counter(kinds.values())[TensorProto.FLOAT8E4M3FN] == 7 + 1  # the weights of the others, and one zero point
    without = onnx.load(apply(digits, "quantize_fp8", {"convolutions": False}, few).path)
    assert [node.op_type for node in without.graph.node if "Quantize" in node.op_type] == ["QuantizeLinear"]


def test_refusals(tiny: Model, tiny_data: Dataset, save: Save, apply: Apply) -> None:
    with pytest.raises(TransformError, match=r"tiny has no node named 'produkt'.*Did you mean 'product'"):
        apply(tiny, "quantize_fp8", {"keep_float": ["produkt"]}, tiny_data)
    with pytest.raises(TransformError, match=r"tiny has nothing to compute in FP8"):
        apply(tiny, "quantize_fp8", {"keep_float": ["product"]}, tiny_data)
    with pytest.raises(TransformError, match=r"tiny has nothing to compute in FP8: .*in float32"):
        apply(apply(tiny, "float16"), "quantize_fp8", dataset=tiny_data)
    with pytest.raises(TransformError, match=r"tiny is quantized already"):
        apply(apply(tiny, "quantize_fp8", dataset=tiny_data), "quantize_fp8", dataset=tiny_data)
    with pytest.raises(DatasetError, match=r"NaN or infinite values"):
        apply(tiny, "quantize_fp8", dataset=Dataset({"x": np.full((2, 4), np.nan, np.float32)}))
