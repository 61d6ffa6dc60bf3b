"""TensorRT-RTX: real plans for GPUs that are not here, their layers, and how it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine, open_runner
from workbench.errors import ModelError, OptionsError, ProviderError, WorkspaceError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.measure.profile import profile_layers
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.workspace import Workspace

SIDE = 8


def write(path: Path, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], width: int | str = SIDE) -> Model:
    """A model `x` float32[batch, 16, 8, 8] → nodes → `y`."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16, SIDE, width]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


@pytest.fixture
def quantized(tmp_path: Path) -> Model:
    """A convolution between Q/DQ nodes as TensorRT wants them: signed and symmetric."""
    weight = np.random.default_rng(0).integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)
    tensors = [
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(np.float32(0.01), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"], "quantize"),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], "dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["wd"], "weight_dequantize"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    return write(tmp_path / "quantized.onnx", nodes, tensors)


def test_a_plan_is_built_once_for_a_gpu_that_is_not_here(digits: Model) -> None:
    engine = build_engine(digits, "tensorrt")

    assert (engine.backend, engine.device) == ("tensorrt", "SM89")
    assert engine.options == {"target": "SM89", "batch": 1, "max_batch": 32}
    assert set(engine.versions) == {"tensorrt_rtx"}
    assert engine.path.stat().st_size > digits.size_bytes / 2
    written = engine.path.stat().st_mtime_ns
    assert build_engine(digits, "tensorrt") == engine
    assert engine.path.stat().st_mtime_ns == written
    assert build_engine(digits, "tensorrt", {"target": "SM120"}).path != engine.path


def test_its_layers_tell_what_was_fused(digits: Model, workspace: Workspace) -> None:
    profile = profile_layers(build_engine(digits, "tensorrt"), workspace=workspace)

    groups = [entry.nodes for entry in profile.layers]
    assert ("stem/conv", "stem/norm", "stem/relu") in groups
    assert ("residual/second/conv", "residual/second/norm", "residual/add", "residual/relu") in groups
    assert {name for nodes in groups for name in nodes} == {node.name for node in summarize_graph(digits).nodes}
    assert {entry.layer.precision for entry in profile.layers} == {"float32"}
    assert profile.layers[0].layer.kind == "reformat"
    assert profile.layers[0].nodes == ()
    # Nothing was run.
    assert (profile.sum_ms, profile.whole_ms, profile.plain_ms, profile.iterations) == (None, None, None, 0)
    assert profile.node_ms == {}


def test_precision_is_the_models(quantized: Model) -> None:
    engine = build_engine(quantized, "tensorrt")
    layers = find_plugin("backends", "tensorrt").optimized(engine).layers
    [conv] = [layer for layer in layers if "conv" in layer.sources and layer.kind == "compute"]

    assert conv.precision == "int8"
    assert "quantize" in {layer.kind for layer in layers}


def test_no_runner_without_a_gpu(digits: Model) -> None:
    assert find_plugin("backends", "tensorrt").devices() == ()
    with pytest.raises(ProviderError, match=r"digits_cnn cannot run on TensorRT-RTX here: .+NVIDIA GPU"):
        open_runner(build_engine(digits, "tensorrt")).__enter__()


def test_a_plan_that_is_gone_is_missed_in_words(quantized: Model) -> None:
    engine = build_engine(quantized, "tensorrt")
    engine.path.unlink()
    with pytest.raises(WorkspaceError, match=r"The plan of quantized is gone"):
        find_plugin("backends", "tensorrt").optimized(engine)


def test_what_a_target_lacks_is_refused_in_words(digits: Model) -> None:
    with pytest.raises(ModelError, match=r"cannot build digits_cnn for SM75: .*'head'.* FP32 GEMM is not supported\. "):
        build_engine(digits, "tensorrt", {"target": "SM75"})
    with pytest.raises(OptionsError, match="target = 'SM90'"):
        build_engine(digits, "tensorrt", {"target": "SM90"})


def test_what_it_cannot_parse_is_named(tmp_path: Path) -> None:
    """Quantized biases, which onnxruntime's quantizer writes unless told otherwise."""
    tensors = [
        numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "weight"),
        numpy_helper.from_array(np.ones(16, np.int32), "bias"),
        numpy_helper.from_array(np.float32(0.01), "scale"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["b"], "bias_dequantize"),
        helper.make_node("Conv", ["x", "weight", "b"], ["y"], "conv"),
    ]
    with pytest.raises(ModelError, match=r"DequantizeLinear 'bias_dequantize' \(.*Int32") as caught:
        build_engine(write(tmp_path / "m.onnx", nodes, tensors), "tensorrt")
    assert "biases in float" in caught.value.remedy
    assert "cudaError" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model any more"])
def test_what_is_no_model_any_more_is_refused(tiny: Model, content: bytes) -> None:
    """TensorRT's parser takes both for a model without layers."""
    tiny.path.write_bytes(content)
    with pytest.raises(ModelError, match="tiny"):
        build_engine(dataclasses.replace(tiny), "tensorrt")


def test_other_dynamic_axes_are_refused(tmp_path: Path) -> None:
    model = write(tmp_path / "wide.onnx", [helper.make_node("Relu", ["x"], ["y"])], [], width="width")
    with pytest.raises(ModelError, match=r"wide has an input 'x' with other dynamic axes than the batch"):
        build_engine(model, "tensorrt")
