"""What each transform does to a model; what all of them must keep is in tests/conformance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.errors import DatasetError, OptionsError, TransformError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.measure.accuracy import measure_accuracy
from workbench.model import Model, Step
from workbench.transforms import transform
from workbench.workspace import Workspace


def weight_types(model: Model) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(model.path).graph.initializer if len(tensor.dims) > 1}


def test_static_quantization_is_small_and_still_right(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    small = transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)

    assert small.size_bytes < digits.size_bytes / 3
    assert weight_types(small) == {TensorProto.INT8}
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(summarize_graph(small).operators)
    before, after = (
        measure_accuracy(build_engine(model), evaluation, workspace=shared_workspace) for model in (digits, small)
    )
    assert after.value.value > before.value.value - 0.01


@pytest.mark.parametrize(("activations", "kind"), [("unsigned", np.uint8), ("signed", np.int8)])
def test_static_quantization_has_the_activations_asked_for(
    digits: Model, calibration: Dataset, shared_workspace: Workspace, activations: str, kind: type
) -> None:
    model = transform(
        digits, "quantize_static", {"activations": activations}, dataset=calibration, workspace=shared_workspace
    )
    proto = onnx.load(model.path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    zero_points = [constants[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]

    assert {point.dtype.type for point in zero_points} == {kind}


def test_static_quantization_leaves_the_nodes_in_float_that_it_should(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    options = {"keep_float": ["residual/first/conv"], "samples": 16}
    kept = transform(digits, "quantize_static", options, dataset=calibration, workspace=shared_workspace)

    assert TensorProto.FLOAT in weight_types(kept)
    with pytest.raises(TransformError, match=r"no node named 'conv_99' to keep in float"):
        transform(
            digits, "quantize_static", {"keep_float": ["conv_99"]}, dataset=calibration, workspace=shared_workspace
        )


def test_percentile_calibration_cuts_outliers_off(tiny: Model, workspace: Workspace) -> None:
    """One sample in 1,000 is a hundred times larger; cutting it off leaves finer steps for all the others."""
    values = np.random.default_rng(0).random((1000, 4), dtype=np.float32)
    dataset = Dataset({"x": values * np.where(np.arange(1000) == 999, 100, 1)[:, None].astype(np.float32)})
    check = Dataset({"x": values[:200]})
    exact = predict(build_engine(tiny), check, workspace=workspace)["scores"]
    error = {}
    for method in ("minmax", "percentile"):
        options = {"calibration": method, "percentile": 99.0, "samples": 1000}
        model = transform(tiny, "quantize_static", options, dataset=dataset, workspace=workspace)
        error[method] = np.abs(predict(build_engine(model), check, workspace=workspace)["scores"] - exact).mean()

    assert error["percentile"] < error["minmax"] / 5


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_any_number_of_samples_calibrates(
    tmp_path: Path, model_file: Callable[..., Path], tiny: Model, workspace: Workspace, method: str
) -> None:
    dataset = Dataset({"x": np.random.default_rng(0).random((7, 4), dtype=np.float32)})
    fixed = load_model(model_file(tmp_path / "fixed.onnx", batch=5))
    for model in (tiny, fixed):
        made = transform(model, "quantize_static", {"calibration": method}, dataset=dataset, workspace=workspace)
        assert "QuantizeLinear" in summarize_graph(made).operators
    with pytest.raises(DatasetError, match="4 samples, and the model takes 5 at a time"):
        transform(fixed, "quantize_static", {"samples": 4}, dataset=dataset, workspace=workspace)


def test_float16_halves_the_weights_and_keeps_the_answers(
    digits: Model, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    half = transform(digits, "float16", workspace=shared_workspace)
    exact, near = (
        predict(build_engine(model), evaluation, workspace=shared_workspace)["logits"] for model in (digits, half)
    )

    assert half.size_bytes < 0.6 * digits.size_bytes
    assert weight_types(half) == {TensorProto.FLOAT16}
    np.testing.assert_allclose(near, exact, atol=0.05)


def test_float16_leaves_the_nodes_in_float_that_it_should(tiny: Model, workspace: Workspace) -> None:
    kept = transform(tiny, "float16", {"keep_float": ["product"]}, workspace=workspace)
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(kept.path).graph.initializer}

    assert weights["weight"] == TensorProto.FLOAT


def test_a_node_that_float16_does_not_have_is_refused(tiny: Model, workspace: Workspace) -> None:
    with pytest.raises(TransformError, match=r"tiny has no node named 'softmax'"):
        transform(tiny, "float16", {"keep_float": ["softmax"]}, workspace=workspace)


def test_the_history_tells_every_option_it_ran_with(tiny: Model, workspace: Workspace) -> None:
    half = transform(tiny, "float16", workspace=workspace)
    both = transform(half, "simplify", {"fuse": False}, workspace=workspace)

    assert half.history == (Step("float16", {"keep_float": []}),)
    assert [step.transform for step in both.history] == ["float16", "simplify"]
    assert both.history[1].options["fuse"] is False
    assert len(both.history[1].options) == 4
    assert (both.name, both.source) == (tiny.name, tiny.source)


def test_static_quantization_needs_samples_that_fit(tiny: Model, evaluation: Dataset, workspace: Workspace) -> None:
    with pytest.raises(DatasetError, match=r"quantize_static needs calibration samples.*Pass dataset="):
        transform(tiny, "quantize_static", workspace=workspace)
    with pytest.raises(DatasetError, match="Name each array like the model's input"):
        transform(tiny, "quantize_static", dataset=evaluation, workspace=workspace)


def test_a_value_out_of_range_is_refused_before_any_work(tiny: Model, workspace: Workspace) -> None:
    with pytest.raises(OptionsError, match=r"samples = 0.*from 1 to 65536 samples"):
        transform(tiny, "quantize_static", {"samples": 0}, workspace=workspace)


def test_weights_in_other_files_are_quantized_too(
    tmp_path: Path, model_file: Callable[..., Path], tiny_data: Dataset, workspace: Workspace
) -> None:
    model = load_model(model_file(tmp_path / "m.onnx", external="m.data"))
    for name in ("quantize_static", "quantize_dynamic", "float16"):
        made = transform(model, name, dataset=tiny_data, workspace=workspace)
        scores = predict(build_engine(made), tiny_data, workspace=workspace)["scores"]
        np.testing.assert_allclose(scores, 2 * tiny_data.inputs["x"][:, :3], atol=0.05)
