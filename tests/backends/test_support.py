"""Which operators a backend does not run."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from workbench.backends import find_unsupported
from workbench.dataset import Dataset
from workbench.importers import load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace


def chain(path: Path, nodes: list[onnx.NodeProto], kind: int = TensorProto.FLOAT, opset: int = 17) -> Model:
    """A model `x` → nodes → `y`."""
    values = [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("my.company", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return load_model(path)


@pytest.mark.parametrize("name", ["", "float16", "quantize_static"])
def test_what_runs_is_not_complained_about(
    digits: Model, calibration: Dataset, shared_workspace: Workspace, name: str
) -> None:
    model = transform(digits, name, dataset=calibration, workspace=shared_workspace) if name else digits

    assert find_unsupported(model)["onnxruntime"] == ()


def test_a_custom_operator_is_named_with_its_nodes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Swirl", ["x"], ["a"], "first", domain="my.company"),
        helper.make_node("Relu", ["a"], ["b"], "plain"),
        helper.make_node("Swirl", ["b"], ["y"], "second", domain="my.company"),
    ]
    found = find_unsupported(chain(tmp_path / "m.onnx", nodes))["onnxruntime"]

    assert {problem.operator for problem in found} == {"my.company:Swirl"}
    assert sorted(name for problem in found for name in problem.nodes) == ["first", "second"]
    assert "it is a custom one" in found[0].reason
    assert found[0].remedy.startswith("Export the model with ONNX's own operators")


def test_a_type_without_a_kernel_is_named(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], "rectify")], TensorProto.BFLOAT16)
    [problem] = find_unsupported(model)["onnxruntime"]

    assert (problem.operator, problem.nodes) == ("Relu", ("rectify",))
    assert "does not compute Relu in bfloat16 on the CPU" in problem.reason


def test_subgraphs_are_searched(tmp_path: Path) -> None:
    result = helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["batch", 4])
    swirl = helper.make_node("Swirl", ["x"], ["inner"], "swirl", domain="my.company")
    branch = helper.make_graph([swirl], "branch", [], [result])
    nodes = [
        helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["flag"], ["y"], "choice", then_branch=branch, else_branch=branch),
    ]
    [problem] = find_unsupported(chain(tmp_path / "m.onnx", nodes))["onnxruntime"]

    assert set(problem.nodes) == {"choice/swirl"}


def test_an_opset_from_the_future_is_one_answer(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    model = chain(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], opset=newest)
    [problem] = find_unsupported(model)["onnxruntime"]

    assert problem.operator == f"opset {newest}"
    assert "is older than the model" in problem.reason
