"""Dynamic quantization: matrix products, and convolutions only where they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.transforms.conftest import Apply, Save
from tests.transforms.transformer import write_transformer
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.model import Model


def mixed(save: Save, outputs: int) -> Model:
    """A convolution, and a matrix product of some size."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], name="convolve", kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["c"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "matrix"], ["y"], name="product"),
    ]
    constants = {
        "kernel": random.standard_normal((16, 32, 3, 3), np.float32),
        "matrix": random.standard_normal((16, outputs), np.float32),
    }
    return save(nodes, {"x": ["batch", 32, 3, 3]}, {"y": ["batch", outputs]}, constants)


def test_matrix_products_become_integer_and_convolutions_stay(save: Save, apply: Apply) -> None:
    operators = summarize_graph(apply(mixed(save, 64), "quantize_dynamic")).operators

    assert (operators["Conv"], operators["MatMulInteger"]) == (1, 1)


def test_a_transformer_answers_alike(tmp_path: Path, noise: Dataset, apply: Apply, sqnr: Callable[..., float]) -> None:
    transformer = load_model(write_transformer(tmp_path / "block.onnx"))
    small = apply(transformer, "quantize_dynamic")

    assert small.size_bytes < 0.35 * transformer.size_bytes
    assert sqnr(transformer, small, noise) > 30


def test_a_model_of_convolutions_is_refused_with_the_reason(digits: Model, save: Save, apply: Apply) -> None:
    for model, share in ((digits, 99), (mixed(save, 4), 99)):
        with pytest.raises(TransformError) as error:
            apply(model, "quantize_dynamic")
        assert f"{share} % of the weights of {model.name} belong to convolutions" in error.value.message
        assert "several times slower than float" in error.value.message
        assert "quantize_static" in error.value.remedy


def test_convolutions_can_be_forced(digits: Model, apply: Apply) -> None:
    small = apply(digits, "quantize_dynamic", {"convolutions": True})

    assert "ConvInteger" in summarize_graph(small).operators
    assert small.size_bytes < digits.size_bytes / 3


def test_nothing_to_quantize(save: Save, apply: Apply) -> None:
    model = save([helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch"]}, {"y": ["batch"]})
    with pytest.raises(
        TransformError, match=r"made has nothing that dynamic quantization could touch.*in float32.*quantize_static"
    ):
        apply(model, "quantize_dynamic")


def test_nodes_that_should_stay_in_float(tmp_path: Path, apply: Apply) -> None:
    transformer = load_model(write_transformer(tmp_path / "block.onnx"))
    kept = apply(transformer, "quantize_dynamic", {"keep_float": ["wide", "narrow"]})

    assert summarize_graph(kept).operators["MatMulInteger"] == 4
    with pytest.raises(TransformError, match=r"block has no node named 'wid' to keep in float.*Did you mean 'wide'"):
        apply(transformer, "quantize_dynamic", {"keep_float": ["wid"]})
    with pytest.raises(TransformError, match=r"block is quantized already"):
        apply(kept, "quantize_dynamic")


def test_a_model_in_half_precision_is_refused(transformer: Model, apply: Apply) -> None:
    """The quantizer would leave all of it as it is, and say nothing."""
    with pytest.raises(TransformError, match=r"no constant weights in float32.*Start from the float32 model"):
        apply(apply(transformer, "float16"), "quantize_dynamic")
