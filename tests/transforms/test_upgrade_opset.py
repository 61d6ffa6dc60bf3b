"""The same model in another opset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.importers import load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace


def old_model(
    path: Path, *nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = (), opset: int = 11
) -> Model:
    """`x` float32[batch, 4, 8] → nodes → `y`, in an old opset, with a weight above what the converter looks at."""
    weight = np.random.default_rng(0).random((8, 64), dtype=np.float32)
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    onnx.save(proto, path)
    return load_model(path)


MEAN = helper.make_node("ReduceMean", ["x"], ["m"], "mean", axes=[1], keepdims=0)  # since opset 18, axes are an input
LAST = helper.make_node("MatMul", ["n", "w"], ["y"], "product")
PRODUCT = helper.make_node("MatMul", ["m", "w"], ["y"], "product")


def test_the_newest_opset_gives_the_same_answers(tmp_path: Path, workspace: Workspace) -> None:
    old = old_model(tmp_path / "old.onnx", MEAN, PRODUCT)
    new = transform(old, "upgrade_opset", workspace=workspace)
    data = Dataset({"x": np.random.default_rng(1).random((6, 4, 8), dtype=np.float32)})
    before, after = (predict(build_engine(model), data, workspace=workspace)["y"] for model in (old, new))

    assert old.opset == 11
    assert new.opset > 20
    assert (new.inputs, new.outputs) == (old.inputs, old.outputs)
    np.testing.assert_array_equal(after, before)


def test_an_opset_can_be_asked_for(tmp_path: Path, workspace: Workspace) -> None:
    old = old_model(tmp_path / "old.onnx", MEAN, PRODUCT)
    new = transform(old, "upgrade_opset", {"target": 15}, workspace=workspace)

    assert new.opset == 15
    assert new.size_bytes < old.size_bytes + 1000  # what was done is written into it
    assert transform(new, "upgrade_opset", {"target": 15}, workspace=workspace).opset == 15


@pytest.mark.parametrize(
    ("target", "message"),
    [(9, "has opset 11 already, and 9 is older"), (99, "ONNX Runtime runs opsets up to .*was to get 99")],
)
def test_an_opset_out_of_reach_is_refused(tmp_path: Path, workspace: Workspace, target: int, message: str) -> None:
    old = old_model(tmp_path / "old.onnx", MEAN, PRODUCT)
    with pytest.raises(TransformError, match=message):
        transform(old, "upgrade_opset", {"target": target}, workspace=workspace)


def test_functions_of_the_model_are_converted_too(tmp_path: Path, workspace: Workspace) -> None:
    body = helper.make_node("ReduceMean", ["a"], ["b"], axes=[1], keepdims=0)
    function = helper.make_function("own", "Mean", ["a"], ["b"], [body], [helper.make_opsetid("", 11)])
    call = helper.make_node("Mean", ["x"], ["m"], domain="own")
    new = transform(
        old_model(tmp_path / "old.onnx", call, PRODUCT, functions=(function,)), "upgrade_opset", workspace=workspace
    )
    data = Dataset({"x": np.ones((2, 4, 8), np.float32)})

    assert predict(build_engine(new), data, workspace=workspace)["y"].shape == (2, 64)
    assert "ReduceMean" in {node.op_type for node in onnx.load(new.path).graph.node}


def test_what_the_converter_lacks_is_named(tmp_path: Path, workspace: Workspace) -> None:
    """The oldest Cast gave its type as text."""
    old = old_model(tmp_path / "old.onnx", MEAN, helper.make_node("Cast", ["m"], ["n"], to="FLOAT"), LAST, opset=5)
    with pytest.raises(
        TransformError, match=r"cannot bring old from opset 5 to \d+: No Adapter .*for Cast\. Choose an"
    ):
        transform(old, "upgrade_opset", workspace=workspace)


def test_weights_in_other_files_are_taken_along(
    tmp_path: Path, model_file: Callable[..., Path], workspace: Workspace, tiny_data: Dataset
) -> None:
    model = load_model(model_file(tmp_path / "there" / "net.onnx", external="net.data", wide=200))
    new = transform(model, "upgrade_opset", workspace=workspace)
    scores = predict(build_engine(new), tiny_data, workspace=workspace)["scores"]

    np.testing.assert_array_equal(scores.argmax(axis=1), tiny_data.labels)  # type: ignore[arg-type]
