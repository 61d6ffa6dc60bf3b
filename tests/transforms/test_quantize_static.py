"""What static quantization writes for whom, and what it refuses. The rest is in test_transforms.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.errors import Cancelled, TransformError
from workbench.importers import load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace


def quantized(model: Model, data: Dataset, workspace: Workspace, **options: object) -> Model:
    return transform(model, "quantize_static", options, dataset=data, workspace=workspace)


def zero_points(model: Model) -> set[int]:
    """Types of the zero points of everything that QuantizeLinear writes."""
    graph = onnx.load(model.path).graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {stored[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}


def sqnr(model: Model, other: Model, data: Dataset, workspace: Workspace) -> float:
    exact, near = (predict(build_engine(one), data, workspace=workspace)["logits"] for one in (model, other))
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - near).sum()))


@pytest.mark.parametrize(
    ("target", "activations", "integer_biases"),
    [
        ("onnxruntime", TensorProto.UINT8, True),
        ("openvino", TensorProto.UINT8, True),
        ("tensorrt", TensorProto.INT8, False),
    ],
)
def test_each_target_gets_the_integers_that_it_runs(
    digits: Model,
    calibration: Dataset,
    shared_workspace: Workspace,
    target: str,
    activations: int,
    integer_biases: bool,
) -> None:
    made = quantized(digits, calibration, shared_workspace, target=target)
    shapes = {tuple(tensor.dims): tensor.data_type for tensor in onnx.load(made.path).graph.initializer}

    assert zero_points(made) == {activations}
    assert (TensorProto.INT32 in shapes.values()) == integer_biases
    assert shapes[(128, 96, 3, 3)] == TensorProto.INT8


def test_tensorrt_builds_what_is_written_for_it(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    pytest.importorskip("tensorrt_rtx")
    made = quantized(digits, calibration, shared_workspace, target="tensorrt")

    assert build_engine(made, "tensorrt", {"targets": ["SM89"]}).path.stat().st_size > 100_000


def test_tensorrt_takes_no_unsigned_activations(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    with pytest.raises(
        TransformError, match=r"TensorRT takes signed, symmetric activations only.*`activations` on auto"
    ):
        quantized(digits, calibration, shared_workspace, target="tensorrt", activations="unsigned")


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_every_way_to_find_ranges_keeps_the_answers(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace, method: str
) -> None:
    made = quantized(digits, calibration, shared_workspace, calibration=method)

    assert sqnr(digits, made, evaluation.take(200), shared_workspace) > 33


def test_bias_correction_takes_error_away(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    some = evaluation.take(200)
    without, corrected = (
        sqnr(digits, quantized(digits, calibration, shared_workspace, bias_correction=flag), some, shared_workspace)
        for flag in (False, True)
    )

    assert corrected > without + 0.5


def test_seven_bits_leave_room_in_16_bit_sums(digits: Model, calibration: Dataset, shared_workspace: Workspace) -> None:
    made = quantized(digits, calibration, shared_workspace, reduce_range=True)
    weights = [
        numpy_helper.to_array(tensor) for tensor in onnx.load(made.path).graph.initializer if len(tensor.dims) > 1
    ]

    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) == 63


def test_only_some_operators_are_quantized(digits: Model, calibration: Dataset, shared_workspace: Workspace) -> None:
    made = quantized(digits, calibration, shared_workspace, operators=["Gemm"])
    types = {tuple(tensor.dims): tensor.data_type for tensor in onnx.load(made.path).graph.initializer}

    assert types[(10, 128)] == TensorProto.INT8
    assert types[(128, 96, 3, 3)] == TensorProto.FLOAT
    with pytest.raises(TransformError, match=r"no INT8 form for Flaten.*It has one for: .*Gemm"):
        quantized(digits, calibration, shared_workspace, operators=["Flaten"])


def test_a_quantized_model_is_not_quantized_again(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    once = quantized(digits, calibration, shared_workspace)
    with pytest.raises(TransformError, match=r"is quantized already: it has .*Start from the float model"):
        quantized(once, calibration, shared_workspace)


def test_the_file_says_what_was_done_and_how_to_repeat_it(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    made = quantized(digits, calibration, shared_workspace, calibration="mse")
    [text] = [entry.value for entry in onnx.load(made.path).metadata_props if entry.key == "workbench.transforms"]
    [step] = json.loads(text)
    again = transform(digits, step["transform"], step["options"], dataset=calibration, workspace=shared_workspace)

    assert step["model"] == digits.sha256
    assert step["dataset"]["sha256"] == calibration.sha256
    assert again.sha256 == made.sha256


@pytest.fixture
def gated(tmp_path: Path) -> Model:
    """A product, then operators without an INT8 form, one of them on a tensor that never changes."""
    values = {"w": np.eye(4, dtype=np.float32), "zero": np.zeros(4, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "product"),
        helper.make_node("Erf", ["product"], ["bent"], "bend"),
        helper.make_node("Mul", ["bent", "zero"], ["nothing"], "silence"),
        helper.make_node("Add", ["product", "nothing"], ["y"], "join"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "gated", ends[:1], ends[1:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "gated.onnx"
    )
    return load_model(tmp_path / "gated.onnx")


def test_it_says_what_stays_in_float_and_what_is_odd_in_the_samples(gated: Model, workspace: Workspace) -> None:
    few = Dataset({"x": np.random.default_rng(0).random((5, 4), dtype=np.float32)})
    notes = quantized(gated, few, workspace).history[-1].notes
    again = quantized(gated, few, workspace).history[-1].notes

    assert notes == again
    assert notes[0].endswith(": Erf.")
    assert notes[1].startswith("Only 5 calibration samples")
    assert notes[2].startswith("The same value on every sample: nothing")


def test_a_model_without_layers_to_quantize_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "bend", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "bend.onnx"
    )
    with pytest.raises(TransformError, match="bend has no layer with weights that could run in INT8"):
        quantized(load_model(tmp_path / "bend.onnx"), Dataset({"x": np.ones((20, 4), np.float32)}), workspace)


@pytest.mark.parametrize("phase", ["preparing", "calibrating", "writing"])
def test_a_cancel_in_any_phase_leaves_nothing(
    digits: Model, calibration: Dataset, workspace: Workspace, processes_in: Callable[[Path], list[str]], phase: str
) -> None:
    def cancel(share: float, text: str) -> None:
        if text.startswith(phase):
            raise Cancelled

    with pytest.raises(Cancelled):
        transform(digits, "quantize_static", dataset=calibration, workspace=workspace, progress=cancel)
    assert not list(workspace.root.rglob("*.onnx"))
    assert processes_in(workspace.root) == []


def test_samples_too_many_to_hand_over_give_the_same_model(
    digits: Model, calibration: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = quantized(digits, calibration, workspace).sha256
    monkeypatch.setattr("workbench.transforms._BIG", 1000)
    filed = quantized(digits, calibration, Workspace(workspace.root / "other"))

    assert filed.sha256 == handed
    assert sorted(path.name for path in filed.path.parent.iterdir()) == ["digits_cnn.onnx", "key.json"]
