"""Outliers moved into weights: the same answers in float, far better ones in INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.transforms.conftest import Apply, Run, Save
from tests.transforms.transformer import make_samples, write_transformer
from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.model import Model


@pytest.mark.parametrize("decomposed", [False, True])
def test_int8_loses_far_less(
    tmp_path: Path, noise: Dataset, apply: Apply, run: Run, sqnr: Callable[..., float], decomposed: bool
) -> None:
    model = load_model(write_transformer(tmp_path / "block.onnx", outliers=True, decomposed=decomposed))
    check = make_samples(16, seed=7)
    smooth = apply(model, "smooth_quant", {"insert": False}, noise)
    rough, fine = (apply(made, "quantize_static", dataset=noise) for made in (model, smooth))

    np.testing.assert_allclose(run(smooth, check), run(model, check), rtol=1e-4, atol=1e-4)
    assert summarize_graph(smooth).operators == summarize_graph(model).operators
    assert sqnr(model, fine, check) > sqnr(model, rough, check) + 10


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_shares_the_range_between_activations_and_weights(save: Save, apply: Apply, alpha: float) -> None:
    """At 0.5 both have the same largest value in each channel; at the ends one of them has 1 everywhere."""
    random = np.random.default_rng(0)
    values = random.standard_normal((16, 8), np.float32) * np.logspace(-1, 2, 8, dtype=np.float32)
    constants = {"w": random.standard_normal((8, 5), np.float32)}
    model = save([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["batch", 8]}, {"y": ["batch", 5]}, constants)
    smooth = apply(model, "smooth_quant", {"alpha": alpha}, Dataset({"x": values}))
    made = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(smooth.path).graph.initializer}
    activations = np.abs(values * made["x/factors"]).max(axis=0)
    weights = np.abs(made["w/smooth"]).max(axis=1)

    if alpha == 0.5:
        np.testing.assert_allclose(activations, weights, rtol=1e-4)
    else:
        np.testing.assert_allclose(activations if alpha else weights, 1, rtol=1e-4)


def test_what_others_read_as_well_is_multiplied_apart(save: Save, apply: Apply, run: Run) -> None:
    """A normalization whose result is also a shortcut cannot take the factors."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w"], ["p"], name="product"),
        helper.make_node("Add", ["p", "n"], ["y"], name="shortcut"),
    ]
    constants = {"scale": np.ones(8, np.float32), "shift": np.zeros(8, np.float32)}
    model = save(
        nodes,
        {"x": ["batch", 8]},
        {"y": ["batch", 8]},
        {**constants, "w": random.standard_normal((8, 8), np.float32)},
    )
    dataset = Dataset({"x": random.standard_normal((16, 8), np.float32)})
    smooth = apply(model, "smooth_quant", dataset=dataset)

    assert summarize_graph(smooth).operators["Mul"] == 1
    np.testing.assert_allclose(run(smooth, dataset), run(model, dataset), rtol=1e-4, atol=1e-5)
    with pytest.raises(TransformError, match=r"made has nothing to smooth.*behind a layer.*with insert"):
        apply(model, "smooth_quant", {"insert": False}, dataset)


def test_linear_layers_take_the_factors_through_a_relu(save: Save, apply: Apply, run: Run) -> None:
    random = np.random.default_rng(0)
    constants = {
        "w1": random.standard_normal((12, 8), np.float32),
        "b1": random.standard_normal(12, np.float32),
        "w2": random.standard_normal((12, 5), np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1, alpha=2.0, beta=0.5),
        helper.make_node("Relu", ["h"], ["r"], name="rectify"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    model = save(nodes, {"x": ["batch", 8]}, {"y": ["batch", 5]}, constants)
    dataset = Dataset({"x": random.standard_normal((16, 8), np.float32)})
    smooth = apply(model, "smooth_quant", {"insert": False}, dataset)

    assert [node.op_type for node in onnx.load(smooth.path).graph.node] == ["Gemm", "Relu", "MatMul"]
    changed = {tensor.name.partition("/")[0] for tensor in onnx.load(smooth.path).graph.initializer}
    assert changed == {"w1", "b1", "w2"}
    np.testing.assert_allclose(run(smooth, dataset), run(model, dataset), rtol=1e-4, atol=1e-4)


def test_nodes_that_should_be_left_alone(transformer: Model, noise: Dataset, apply: Apply) -> None:
    kept = apply(transformer, "smooth_quant", {"keep_float": ["wide", "narrow", "o"]}, noise)
    weights = {tensor.name for tensor in onnx.load(kept.path).graph.initializer if "/weight" in tensor.name}

    assert weights == {*(f"{name}/weight" for name in ("wide", "narrow", "o")), *(f"{n}/weight/smooth" for n in "qkv")}
    with pytest.raises(TransformError, match=r"no node named 'attention'"):
        apply(transformer, "smooth_quant", {"keep_float": ["attention"]}, noise)


def test_refusals(tiny: Model, digits: Model, calibration: Dataset, save: Save, apply: Apply) -> None:
    relu = save([helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch", 4]}, {"y": ["batch", 4]})
    ones = Dataset({"x": np.ones((4, 4), np.float32)})
    with pytest.raises(TransformError, match=r"made has nothing to smooth.*meant for transformers"):
        apply(relu, "smooth_quant", dataset=ones)
    with pytest.raises(DatasetError, match=r"infinite values in 'x'"):
        apply(tiny, "smooth_quant", dataset=Dataset({"x": np.full((4, 4), np.inf, np.float32)}))
    small = apply(digits, "quantize_static", {"samples": 16}, calibration)
    with pytest.raises(TransformError, match=r"digits_cnn is quantized already"):
        apply(small, "smooth_quant", dataset=calibration)
