"""BF16: half the size, as much of the computation as ONNX allows, and words where a backend cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.transforms.conftest import Apply, Run, Save
from workbench.backends import build_engine, open_runner, tensorrt
from workbench.backends.onnxruntime import unsupported
from workbench.dataset import Dataset
from workbench.errors import ModelError, TransformError
from workbench.graph import summarize_graph
from workbench.model import Model


def test_half_the_size_answers_alike(
    digits: Model, evaluation: Dataset, transformer: Model, noise: Dataset, apply: Apply, sqnr: Callable[..., float]
) -> None:
    for model, samples in ((digits, evaluation.take(16)), (transformer, noise)):
        half = apply(model, "bfloat16")

        assert half.size_bytes < 0.55 * model.size_bytes
        assert (half.inputs, half.outputs) == (model.inputs, model.outputs)
        assert sqnr(model, half, samples, "openvino", precision="float32") > 30
        assert summarize_graph(half).operators["Cast"] == 2  # at both ends


def test_tensorrt_computes_in_it(digits: Model, apply: Apply) -> None:
    pytest.importorskip("tensorrt_rtx")
    half = apply(digits, "bfloat16")
    engine = build_engine(half, "tensorrt", {"targets": ["SM89"]})

    assert Counter(layer.precision for layer in tensorrt.optimized(engine).layers)["bfloat16"] >= 8
    with pytest.raises(ModelError, match=r"cannot build digits_cnn for SM75.*b16"):
        build_engine(half, "tensorrt", {"targets": ["SM75"]})


def test_onnxruntime_says_that_it_cannot(digits: Model, apply: Apply) -> None:
    half = apply(digits, "bfloat16")
    found = {problem.operator: problem.reason for problem in unsupported(half)}

    assert "does not compute Conv in bfloat16 on the CPU" in found["Conv"]
    assert "ONNX Runtime computes nothing in BF16" in half.history[0].notes[0]
    with pytest.raises(ModelError, match="not for its element types"), open_runner(build_engine(half)):
        pass


def test_nodes_that_should_stay_in_float(digits: Model, evaluation: Dataset, apply: Apply, run: Run) -> None:
    kept = apply(digits, "bfloat16", {"keep_float": ["top/conv", "head"]})
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(kept.path).graph.initializer}
    nodes = {node.name: node for node in onnx.load(kept.path).graph.node}

    assert {weights[nodes[name].input[1]] for name in ("top/conv", "head")} == {TensorProto.FLOAT}
    assert weights[nodes["stem/conv"].input[1]] == TensorProto.BFLOAT16
    assert run(kept, evaluation.take(2), "openvino").dtype == np.float32
    with pytest.raises(TransformError, match=r"no node named 'heads'.*Did you mean 'head'"):
        apply(digits, "bfloat16", {"keep_float": ["heads"]})


def test_what_onnx_does_not_compute_in_it_stays_in_float(save: Save, apply: Apply, run: Run) -> None:
    """TopK takes no bfloat16 in this opset, and a loop's body is left as it is."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["before", "bias"], ["after"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["batch", 8]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["batch", 8]),
        ],
    )
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["bias"], name="times"),
        helper.make_node("Loop", ["turns", "", "x"], ["sum"], name="loop", body=body),
        helper.make_node("Relu", ["sum"], ["r"], name="rectify"),
        helper.make_node("TopK", ["r", "count"], ["y", "places"], name="best"),
    ]
    constants = {"factor": np.float32([2] * 8), "turns": np.array(3), "count": np.array([2])}
    model = save(nodes, {"x": ["batch", 8]}, {"y": ["batch", 2]}, constants, opset=17)
    half = apply(model, "bfloat16")
    made = {node.name: node for node in onnx.load(half.path).graph.node}
    dataset = Dataset({"x": np.arange(16, dtype=np.float32).reshape(2, 8)})

    assert made["best"].input[0] == "r/float32"
    assert [made[name].op_type for name in ("bias/cast", "r/float32/cast")] == ["Cast", "Cast"]
    np.testing.assert_array_equal(run(half, dataset, "openvino"), [[49, 42], [105, 98]])


def test_nothing_to_compute_in_it(save: Save, apply: Apply) -> None:
    node = helper.make_node("TopK", ["x", "count"], ["y", "places"], name="best")
    model = save([node], {"x": ["batch", 8]}, {"y": ["batch", 2]}, {"count": np.array([2])})
    with pytest.raises(TransformError, match=r"made has no node that computes in float32 and could do so in bfloat16"):
        apply(model, "bfloat16")
