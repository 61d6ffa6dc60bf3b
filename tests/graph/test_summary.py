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
from workbench.skeleton import without_weights
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
    costliest = summary.by_operator[0]

    assert (costliest.operator, costliest.count) == ("Conv", summary.operators["Conv"])
    assert sum(total.macs for total in summary.by_operator) == summary.macs
    assert sum(node.weight_bytes for node in summary.nodes) == sum(summary.weight_bytes.values())
    assert {node.precision for node in summary.nodes} == {"float32"}
    assert summary.opsets == {"ai.onnx": digits.opset}
    assert summary.unknown_shapes == 0
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
    summary = summarize_graph(smaller, batch=3)
    products = [node for node in summary.nodes if node.operator in ("Conv", "Gemm")]

    assert summary.macs == summarize_graph(digits, batch=3).macs
    assert {node.precision for node in products} == {"int8" if name == "quantize_static" else "float16"}
    assert all(node.parameters for node in products)


def test_weights_in_other_files_are_counted_without_being_read(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    model = load_model(model_file(tmp_path / "m.onnx", external="m.data"))
    (tmp_path / "m.data").unlink()

    assert summarize_graph(model).weight_bytes == {"float32": 4 * 15}


def test_what_onnxruntime_makes_of_a_model_is_understood(
    digits: Model, calibration: Dataset, shared_workspace: Workspace, optimized: Callable[..., Model]
) -> None:
    """Its own operators have no shapes of their own: the counts must come out all the same."""
    small = transform(digits, "quantize_static", dataset=calibration, workspace=shared_workspace)
    for model in (digits, small):
        for level in ("EXTENDED", "ALL"):
            summary = summarize_graph(optimized(model, level), batch=2)

            assert any(":" in operator for operator in summary.operators)
            assert (summary.unknown_shapes, summary.macs) == (0, summarize_graph(digits, batch=2).macs)
            assert all(node.precision for node in summary.nodes)


def graph_of(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: list[int | str | None],
    *,
    functions: list[onnx.FunctionProto] | None = None,
    domains: tuple[str, ...] = (),
) -> Model:
    """A model `x` → nodes → `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or []), path)
    return load_model(path)


@pytest.mark.parametrize(
    ("node", "constants", "macs"),
    [
        (helper.make_node("FusedMatMul", ["x", "w"], ["y"], transB=1), {"w": (7, 8)}, 2 * 5 * 7 * 8),
        (helper.make_node("FusedGemm", ["flat", "w"], ["y"]), {"w": (8, 7)}, 10 * 7 * 8),
        (helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], K=8, N=7), {"w": (7, 1, 4), "s": (7,)}, 2 * 5 * 7 * 8),
        # The projection to query, key and value, then two products with the 5 × 5 scores.
        (helper.make_node("Attention", ["x", "w", "b"], ["y"]), {"w": (8, 24), "b": (24,)}, 2 * 5 * 8 * (24 + 5 + 5)),
        (helper.make_node("MultiHeadAttention", ["x", "x", "x"], ["y"], num_heads=2), {}, 2 * 2 * 5 * 5 * 8),
    ],
)
def test_operators_of_onnxruntime_are_counted(
    tmp_path: Path, node: onnx.NodeProto, constants: dict[str, tuple[int, ...]], macs: int
) -> None:
    node.domain = "com.microsoft"
    flat = helper.make_node("Reshape", ["x", "shape"], ["flat"])
    weights = {
        name: np.ones(shape, np.uint8 if name == "w" and len(shape) == 3 else np.float32)
        for name, shape in constants.items()
    }
    model = graph_of(
        tmp_path / "m.onnx",
        [flat, node],
        {**weights, "shape": np.array([-1, 8])},
        ["batch", 5, 8],
        domains=("com.microsoft",),
    )
    assert summarize_graph(model, batch=2).macs == macs


def test_packed_weights_count_as_what_they_hold(tmp_path: Path) -> None:
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=8, N=7)
    weights = {"w": np.zeros((7, 1, 4), np.uint8), "s": np.ones(7, np.float32)}
    summary = summarize_graph(graph_of(tmp_path / "m.onnx", [node], weights, [2, 8], domains=("com.microsoft",)))

    assert (summary.parameters, summary.nodes[0].weight_bytes) == (8 * 7, 7 * 4 + 7 * 4)


def test_scales_shapes_and_lone_numbers_are_no_parameters(tmp_path: Path) -> None:
    """The quantized weight belongs to the product behind its DequantizeLinear and its Transpose.

    Integers of 32 bits are a bias behind a DequantizeLinear, and part of a shape elsewhere.
    """
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["float"], "dequantize"),
        helper.make_node("Transpose", ["float"], ["turned"], "turn"),
        helper.make_node("Concat", ["all", "four"], ["small"], "join", axis=0),
        helper.make_node("Cast", ["small"], ["shape"], "widen", to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "shape"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "turned"], ["product"], "product"),
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["offset"], "dequantize bias"),
        helper.make_node("Add", ["product", "offset"], ["sum"], "shift"),
        helper.make_node("Mul", ["sum", "half"], ["y"], "halve"),
    ]
    constants = {
        "w": np.ones((3, 4), np.int8),
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "all": np.array([-1], np.int32),
        "four": np.array([4], np.int32),
        "bias": np.ones(3, np.int32),
        "half": np.float32(0.5),
    }
    summary = summarize_graph(graph_of(tmp_path / "m.onnx", nodes, constants, ["batch", 2, 2]))  # type: ignore[arg-type]

    assert {node.name: node.parameters for node in summary.nodes if node.parameters} == {"product": 12, "shift": 3}
    assert summary.weight_bytes == {"int32": 20, "int8": 13, "float32": 8}


def test_every_node_has_a_name_of_its_own_and_the_viewer_sees_the_same(tmp_path: Path) -> None:
    names = ["same", "", "same", "same_2", ""]
    tensors = ["x", "a", "b", "c", "d", "y"]
    nodes = [helper.make_node("Relu", [i], [o], name) for name, i, o in zip(names, tensors, tensors[1:], strict=False)]
    model = graph_of(tmp_path / "m.onnx", nodes, {}, ["batch", 3])

    found = [node.name for node in summarize_graph(model).nodes]

    assert found == ["same", "b", "same_3", "same_2", "y"]
    assert [node.name for node in onnx.load_from_string(without_weights(model.path)).graph.node] == found


def test_the_peak_of_memory_follows_the_order_of_the_nodes(tmp_path: Path) -> None:
    """x (4) and a (8) live when the wide b (16) comes; a is read again at the end, b is not."""
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["a"], axis=1),
        helper.make_node("Concat", ["a", "a"], ["b"], axis=1),
        helper.make_node("ReduceSum", ["b"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    model = graph_of(tmp_path / "m.onnx", nodes, {}, ["batch", 4])

    assert summarize_graph(model).peak_activation_bytes == 4 * (4 + 8 + 16 + 1)
    assert summarize_graph(model, batch=3).peak_activation_bytes == 4 * (3 * (4 + 8 + 16) + 1)


def test_other_axes_keep_their_names_until_they_get_a_size(tmp_path: Path) -> None:
    model = graph_of(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": np.ones((8, 4), np.float32)},
        ["batch", "time", 8],
    )
    unknown, known = summarize_graph(model), summarize_graph(model, axes={"time": 5})

    assert unknown.nodes[0].outputs[0].shape == (1, "time", 4)
    assert (unknown.nodes[0].macs, unknown.peak_activation_bytes, unknown.unknown_shapes) == (None, None, 1)
    assert (known.macs, known.unknown_shapes, known.axes) == (5 * 8 * 4, 0, {"time": 5})


def test_subgraphs_and_functions_count_with_the_node_that_holds_them(tmp_path: Path) -> None:
    def branch(name: str, width: int) -> onnx.GraphProto:
        weight = numpy_helper.from_array(np.ones((4, width), np.float32), f"{name}_w")
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("MatMul", ["x", f"{name}_w"], [name])], name, [], [result], [weight])

    body = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(9, np.float32))),
        helper.make_node("Sum", ["a", "k"], ["b"]),
    ]
    function = helper.make_function("own", "Shift", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("If", ["flag"], ["z"], "choice", then_branch=branch("t", 9), else_branch=branch("e", 3)),
        helper.make_node("Shift", ["z"], ["s"], "shift", domain="own"),
        helper.make_node("Shift", ["s"], ["y"], "again", domain="own"),
    ]
    model = graph_of(
        tmp_path / "m.onnx", nodes, {"flag": np.array(True)}, [2, 4], functions=[function], domains=("own",)
    )
    summary = summarize_graph(model)

    assert [node.parameters for node in summary.nodes] == [4 * 9 + 4 * 3, 9, 0]
    assert [node.macs for node in summary.nodes] == [2 * 4 * 9, None, None]
