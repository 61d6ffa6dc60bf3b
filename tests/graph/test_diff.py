"""What real transforms did to a model, node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.dataset import Dataset
from workbench.graph import GraphDiff, diff_graphs
from workbench.importers import load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace

Optimized = Callable[..., Model]


def said(diff: GraphDiff, kind: str) -> dict[str, str]:
    """The changes of a kind in words, by the first node that they are about."""
    return {(*change.before, *change.after)[0]: change.what for change in diff.changes if change.kind == kind}


def names_in(diff: GraphDiff) -> tuple[set[str], set[str]]:
    """Every node that the changes mention, of the first graph and of the second."""
    before = {name for change in diff.changes for name in change.before}
    return before, {name for change in diff.changes for name in change.after}


def names_of(model: Model) -> set[str]:
    return {node.name for node in onnx.load(model.path).graph.node}


def test_a_model_does_not_differ_from_itself(digits: Model) -> None:
    diff = diff_graphs(digits, digits)

    assert (diff.changes, diff.same) == ((), len(onnx.load(digits.path).graph.node))


def test_quantization_reads_as_precision_with_the_qdq_nodes_counted_once(
    digits: Model, calibration: Dataset, shared_workspace: Workspace
) -> None:
    small = transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)
    diff = diff_graphs(digits, small)
    convolutions = [node.name for node in onnx.load(digits.path).graph.node if node.op_type == "Conv"]

    assert {said(diff, "precision")[name] for name in (*convolutions, "head")} == {"float32 → int8"}
    assert said(diff, "precision")["residual/add"] == "float32 → uint8"
    assert said(diff, "fused")["stem/conv"] == "BatchNormalization, Relu folded into Conv"
    [added] = [change for change in diff.changes if change.kind == "added"]
    assert added.what == "31 DequantizeLinear, 13 QuantizeLinear added"
    assert set(diff.counts) == {"precision", "fused", "added"}
    assert names_in(diff) == (names_of(digits), names_of(small))
    assert diff.operators["QuantizeLinear"] == (0, 13)


def test_half_precision_is_a_change_of_every_node_and_two_casts(digits: Model, shared_workspace: Workspace) -> None:
    diff = diff_graphs(digits, transform(digits, "float16", workspace=shared_workspace))

    assert set(said(diff, "precision")) == names_of(digits)
    assert set(said(diff, "precision").values()) == {"float32 → float16"}
    assert list(said(diff, "added").values()) == ["2 Cast added"]


def test_simplification_folds_normalization_into_convolution(digits: Model, shared_workspace: Workspace) -> None:
    diff = diff_graphs(digits, transform(digits, "simplify", workspace=shared_workspace))

    assert diff.counts == {"fused": 8}
    assert set(said(diff, "fused").values()) == {"BatchNormalization folded into Conv"}
    assert diff.same == len(names_of(digits)) - 2 * 8


def test_another_opset_alone_changes_nothing(digits: Model, shared_workspace: Workspace) -> None:
    assert not diff_graphs(digits, transform(digits, "upgrade_opset", workspace=shared_workspace)).changes


@pytest.mark.parametrize(
    ("level", "stem", "second"),
    [
        ("BASIC", "BatchNormalization folded into Conv", "BatchNormalization folded into Conv"),
        (
            "EXTENDED",
            "BatchNormalization, Relu folded into Conv → com.microsoft:FusedConv",
            "BatchNormalization folded into Conv",
        ),
        (
            "ALL",
            "BatchNormalization, Relu folded into Conv → com.microsoft.nchwc:Conv",
            "BatchNormalization, Add, Relu folded into Conv → com.microsoft.nchwc:Conv",
        ),
    ],
)
def test_what_onnxruntime_fuses_at_load(
    digits: Model, optimized: Optimized, level: str, stem: str, second: str
) -> None:
    fused = said(diff_graphs(digits, optimized(digits, level)), "fused")

    assert (fused["stem/conv"], fused["residual/second/conv"]) == (stem, second)


def test_what_onnxruntime_makes_of_a_quantized_model(
    digits: Model, calibration: Dataset, shared_workspace: Workspace, optimized: Optimized
) -> None:
    small = transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)
    diff = diff_graphs(digits, optimized(small, "EXTENDED"))

    assert said(diff, "fused")["top/conv"] == "BatchNormalization, Relu folded into Conv → QLinearConv"
    assert said(diff, "precision")["top/conv"] == "float32 → int8"


def save(path: Path, nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> Model:
    """A model `x` float32[batch, 8] → nodes → `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


def two_layers(path: Path, width: int, *, prefix: str = "", extra: bool = False) -> Model:
    """Two matrix products with a residual connection around the second; `prefix` renames everything inside."""
    first = [helper.make_node("Identity", ["x"], ["copy"], "copy")] if extra else []
    nodes = [
        *first,
        helper.make_node("MatMul", ["copy" if extra else "x", f"{prefix}w"], [f"{prefix}a"], f"{prefix}first"),
        helper.make_node("Relu", [f"{prefix}a"], [f"{prefix}b"], f"{prefix}rectify"),
        helper.make_node("MatMul", [f"{prefix}b", f"{prefix}v"], [f"{prefix}c"], f"{prefix}second"),
        helper.make_node("Add", ["x", f"{prefix}c"], ["y"], f"{prefix}join"),
    ]
    weights = {f"{prefix}w": np.ones((8, width), np.float32), f"{prefix}v": np.ones((width, 8), np.float32)}
    return save(path, nodes, weights)


def test_pruned_weights_show_as_smaller_shapes(tmp_path: Path) -> None:
    diff = diff_graphs(two_layers(tmp_path / "wide.onnx", 16), two_layers(tmp_path / "narrow.onnx", 12))

    assert said(diff, "changed") == {
        "first": "128 → 96 parameters; output 1×16 → 1×12",
        "rectify": "output 1×16 → 1×12",
        "second": "128 → 96 parameters",
    }
    assert diff.same == 1


def test_renamed_nodes_are_found_by_what_they_read(tmp_path: Path) -> None:
    diff = diff_graphs(two_layers(tmp_path / "a.onnx", 16), two_layers(tmp_path / "b.onnx", 16, prefix="model/"))

    assert (diff.changes, diff.same) == ((), 4)


def test_what_was_left_out_and_what_came_in_is_named(tmp_path: Path) -> None:
    plain, extra = two_layers(tmp_path / "a.onnx", 16), two_layers(tmp_path / "b.onnx", 16, extra=True)

    assert said(diff_graphs(extra, plain), "removed") == {"copy": "Identity left out"}
    assert said(diff_graphs(plain, extra), "added") == {"copy": "Identity added"}


def test_a_pattern_that_became_one_operator_is_fused(tmp_path: Path, optimized: Optimized) -> None:
    """The long form of GELU, which ONNX Runtime knows."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Div", ["a", "root"], ["b"], "divide"),
        helper.make_node("Erf", ["b"], ["c"], "erf"),
        helper.make_node("Add", ["c", "one"], ["d"], "shift"),
        helper.make_node("Mul", ["a", "d"], ["e"], "scale"),
        helper.make_node("Mul", ["e", "half"], ["f"], "halve"),
        helper.make_node("MatMul", ["f", "w"], ["y"], "last"),
    ]
    numbers = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    weight = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    model = save(tmp_path / "gelu.onnx", nodes, {"w": weight, **numbers})  # type: ignore[dict-item]
    diff = diff_graphs(model, optimized(model, "EXTENDED"))
    [fused] = [change for change in diff.changes if change.kind == "fused"]

    assert fused.before == ("divide", "erf", "shift", "scale", "halve")
    assert fused.what == "Div, Erf, Add, 2 Mul → Gelu"
    assert diff.same == 2
