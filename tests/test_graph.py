"""The graph as data: counts that can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.dataset import Dataset
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace


def one_node(path: Path, node: onnx.NodeProto, shape: list[int | str | None], weight: tuple[int, ...]) -> Model:
    """A model `x` → node → `y` with a weight `w` of ones."""
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(np.ones(weight, np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape", "weight", "macs"),
    [
        ("Conv", {}, [1, 3, 8, 8], (16, 3, 3, 3), 16 * 6 * 6 * 3 * 9),
        ("Conv", {"group": 3}, [1, 3, 8, 8], (6, 1, 3, 3), 6 * 6 * 6 * 9),
        ("Conv", {"strides": [2, 2], "pads": [1, 1, 1, 1]}, [2, 3, 8, 8], (4, 3, 3, 3), 2 * 4 * 4 * 4 * 3 * 9),
        ("ConvTranspose", {}, [1, 3, 4, 4], (3, 5, 2, 2), 3 * 4 * 4 * 5 * 4),
        ("MatMul", {}, [2, 7, 5], (5, 4), 2 * 7 * 4 * 5),
        ("Gemm", {}, [6, 5], (5, 4), 6 * 4 * 5),
        ("Gemm", {"transB": 1}, [6, 5], (4, 5), 6 * 4 * 5),
        ("Gemm", {"transA": 1}, [5, 6], (5, 4), 6 * 4 * 5),
        ("Add", {}, [2, 4], (4,), 0),
    ],
)
def test_multiply_accumulates(
    tmp_path: Path,
    operator: str,
    attributes: dict[str, int],
    shape: list[int | str | None],
    weight: tuple[int, ...],
    macs: int,
) -> None:
    model = one_node(tmp_path / "m.onnx", helper.make_node(operator, ["x", "w"], ["y"], **attributes), shape, weight)
    summary = summarize_graph(model)

    assert summary.macs == macs
    assert summary.parameters == np.prod(weight)
    assert summary.weight_bytes == {"float32": 4 * np.prod(weight)}


@pytest.mark.parametrize("axis", ["batch", None])
def test_the_batch_fills_the_first_axis_only(tmp_path: Path, axis: str | None) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    known = one_node(tmp_path / "known.onnx", node, [axis, 3, 8, 8], (2, 3, 3, 3))
    unknown = one_node(tmp_path / "unknown.onnx", node, [axis, 3, None, None], (2, 3, 3, 3))

    assert summarize_graph(known, batch=5).nodes[0].outputs[0].shape == (5, 2, 6, 6)
    assert summarize_graph(known, batch=5).macs == 5 * summarize_graph(known).macs
    assert summarize_graph(unknown, batch=5).nodes[0].macs is None


def test_the_sample_in_numbers(digits: Model) -> None:
    summary = summarize_graph(digits)

    assert summary.operators["Conv"] > summary.operators["Gemm"] == 1
    assert sum(summary.operators.values()) == len(summary.nodes)
    assert summary.parameters == pytest.approx(digits.size_bytes / 4, rel=0.05)
    assert summary.macs > summary.parameters
    assert all(node.activation_bytes for node in summary.nodes)
    assert summary.nodes[-1].outputs[0].name == "logits"


@pytest.mark.parametrize("name", ["quantize_static", "float16"])
def test_a_smaller_precision_does_the_same_work(
    digits: Model, calibration: Dataset, shared_workspace: Workspace, name: str
) -> None:
    smaller = transform(digits, name, dataset=calibration, workspace=shared_workspace)

    assert summarize_graph(smaller, batch=3).macs == summarize_graph(digits, batch=3).macs


def test_weights_in_other_files_are_counted_without_being_read(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    model = load_model(model_file(tmp_path / "m.onnx", external="m.data"))
    (tmp_path / "m.data").unlink()

    assert summarize_graph(model).weight_bytes == {"float32": 4 * 15}
