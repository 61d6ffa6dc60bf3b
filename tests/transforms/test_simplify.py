"""A simpler graph that answers the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace


@pytest.fixture
def reshaping(tmp_path: Path) -> Model:
    """Flattens `x` [batch, 2, 3] with a shape that it computes, as exporters write it, and adds a constant 1 + 1."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Add", ["one", "one"], ["two"]),
        helper.make_node("Dropout", ["flat"], ["kept"]),
        helper.make_node("Add", ["kept", "two"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([6]), "one": np.float32([1])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path / "reshaping.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


def test_what_does_not_depend_on_the_input_is_computed_ahead(reshaping: Model, workspace: Workspace) -> None:
    simple = transform(reshaping, "simplify", workspace=workspace)
    data = Dataset({"x": np.random.default_rng(0).random((5, 2, 3), dtype=np.float32)})
    before, after = (predict(build_engine(model), data, workspace=workspace)["y"] for model in (reshaping, simple))

    assert set(summarize_graph(simple).operators) == {"Reshape", "Add"}
    assert (simple.inputs, simple.outputs) == (reshaping.inputs, reshaping.outputs)
    np.testing.assert_array_equal(after, before)


def test_what_should_stay_stays(digits: Model, shared_workspace: Workspace) -> None:
    kept = transform(digits, "simplify", {"fuse": False}, workspace=shared_workspace)

    assert summarize_graph(kept).operators == summarize_graph(digits).operators


def test_the_answers_stay_within_rounding(digits: Model, evaluation: Dataset, shared_workspace: Workspace) -> None:
    simple = transform(digits, "simplify", workspace=shared_workspace)
    before, after = (
        predict(
            build_engine(model, options={"graph_level": "disabled"}), evaluation.take(32), workspace=shared_workspace
        )
        for model in (digits, simple)
    )
    np.testing.assert_allclose(after["logits"], before["logits"], atol=1e-4)


def test_weights_in_other_files_are_taken_along(
    tmp_path: Path, model_file: Callable[..., Path], workspace: Workspace, tiny_data: Dataset
) -> None:
    model = load_model(model_file(tmp_path / "there" / "net.onnx", external="net.data"))
    simple = transform(model, "simplify", workspace=workspace)
    scores = predict(build_engine(simple), tiny_data, workspace=workspace)["scores"]

    assert simple.external_files == ()
    np.testing.assert_array_equal(scores.argmax(axis=1), tiny_data.labels)  # type: ignore[arg-type]
