from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.calibration import collect, observe
from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError


@pytest.fixture
def doubling() -> onnx.ModelProto:
    """`x` [batch, 2, 3] → doubled → logarithm."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["twice"]), helper.make_node("Log", ["twice"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2, 3]) for name in "xy"]
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    graph = helper.make_graph(nodes, "doubling", ends[:1], ends[1:], [two])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def positive() -> Dataset:
    return Dataset({"x": np.random.default_rng(0).random((70, 2, 3), dtype=np.float32) + 0.5}, name="positive")


def test_every_sample_is_seen_once_and_the_model_stays_as_it_is(doubling: onnx.ModelProto, positive: Dataset) -> None:
    before, seen = doubling.SerializeToString(), []

    assert observe(doubling, ["twice", "x"], positive, lambda values: seen.append(values)) == 70
    assert doubling.SerializeToString() == before
    np.testing.assert_allclose(np.concatenate([values["twice"] for values in seen]), 2 * positive.inputs["x"])
    np.testing.assert_allclose(np.concatenate([values["x"] for values in seen]), positive.inputs["x"])


def test_a_fixed_batch_leaves_a_shorter_rest_out(doubling: onnx.ModelProto, positive: Dataset) -> None:
    doubling.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32

    assert observe(doubling, ["y"], positive, lambda values: None) == 64
    with pytest.raises(DatasetError, match="positive has 20 samples, and the model takes 32 at a time"):
        observe(doubling, ["y"], positive.take(20), lambda values: None)


def test_statistics_are_those_of_all_samples(doubling: onnx.ModelProto, positive: Dataset) -> None:
    found = collect(doubling, ["twice"], positive, channels={"twice": 1})
    exact = 2 * positive.inputs["x"]

    assert found["twice"].histogram.count == exact.size
    assert found["twice"].histogram.high == exact.max()
    np.testing.assert_allclose(found["twice"].channel_means, exact.mean(axis=(0, 2)), rtol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["twice"].channel_peaks, exact.max(axis=(0, 2)))  # type: ignore[arg-type]


def test_samples_that_lead_to_nan_are_refused_with_the_tensor(doubling: onnx.ModelProto) -> None:
    negative = Dataset({"x": np.full((3, 2, 3), -1, np.float32)}, name="negative")
    with pytest.raises(DatasetError, match=r"NaN or infinite values in 'y', so negative cannot calibrate it"):
        collect(doubling, ["y"], negative)


def test_a_model_that_cannot_run_is_refused(doubling: onnx.ModelProto, positive: Dataset) -> None:
    doubling.graph.node[0].domain = "no.such.domain"
    doubling.opset_import.add(domain="no.such.domain", version=1)
    with pytest.raises(TransformError, match="ONNX Runtime cannot run the model to observe its tensors"):
        collect(doubling, ["y"], positive)


def test_it_can_be_cancelled_between_batches(doubling: onnx.ModelProto, positive: Dataset) -> None:
    def cancel(share: float, text: str) -> None:
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(doubling, ["y"], positive, progress=cancel)
