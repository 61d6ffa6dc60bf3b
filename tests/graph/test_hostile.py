"""Graphs that no exporter writes: whatever a file claims, looking at it neither fails nor takes long."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from workbench.graph import diff_graphs, summarize_graph
from workbench.model import Model, TensorSpec
from workbench.skeleton import without_weights
from workbench.support import make_probes


def model(path: Path, *nodes: onnx.NodeProto, weight: list[int] | None = None, **more: object) -> Model:
    """Written without the checks that `load_model` makes."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=weight or [1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/dev/zero")
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in "xy")
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, [tensor])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, **more), path)
    return Model(path, "hostile", (TensorSpec("x", "float32", ("?",)),), (TensorSpec("y", "float32", ("?",)),), 17, 1)


def nested(depth: int) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(f"o{depth}", TensorProto.FLOAT, None)
    inner = nested(depth - 1) if depth else None
    node = (
        helper.make_node("If", ["x"], [f"o{depth}"], then_branch=inner, else_branch=inner)
        if inner
        else helper.make_node("Identity", ["x"], ["o0"])
    )
    return helper.make_graph([node], "inner", [], [result])


def function(number: int, calls: list[int]) -> onnx.FunctionProto:
    """Calls other functions one after the other."""
    tensors = ["a", *(f"t{place}" for place in range(len(calls) - 1)), "b"]
    body = [
        helper.make_node(f"F{call}", [tensors[place]], [tensors[place + 1]], domain="f")
        for place, call in enumerate(calls)
    ]
    body = body or [helper.make_node("Relu", ["a"], ["b"])]
    return helper.make_function("f", f"F{number}", ["a"], ["b"], body, [helper.make_opsetid("", 17)])


CALL = helper.make_node("F0", ["x"], ["y"], domain="f")
BARE = ["Conv", "MatMul", "Gemm", "Einsum", "LSTM", "Constant", "DequantizeLinear", "If", "Cast"]
BARE_FUSED = ["Attention", "FusedMatMul", "QLinearConv", "MatMulNBits", "QGemm", "QLinearAdd"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("nodes", "more"),
    {
        "more numbers than atoms": ([helper.make_node("Conv", ["x", "w"], ["y"])], {"weight": [2**62] * 6}),
        "less than nothing": ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"weight": [-4, -(2**62)]}),
        "too many axes": ([helper.make_node("Identity", ["w"], ["y"])], {"weight": [2**62] * 20_000}),
        "a circle": ([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], {}),
        "a node that reads itself": ([helper.make_node("Relu", ["y"], ["y"])], {}),
        "no inputs or outputs": ([helper.make_node(name, [], []) for name in BARE], {}),
        "too few inputs": (
            [helper.make_node(name, ["x"], ["y"], domain="com.microsoft", K=-1, N=2**62) for name in BARE_FUSED],
            {},
        ),
        "one name for all": ([helper.make_node("Relu", ["x"], ["y"], "same")] * 3000, {}),
        "deep subgraphs": ([helper.make_node("If", ["x"], ["y"], then_branch=nested(8), else_branch=nested(8))], {}),
        "a billion calls": ([CALL], {"functions": [function(n, [n + 1] * 2 if n < 40 else []) for n in range(41)]}),
        "a function that calls itself": ([CALL], {"functions": [function(0, [0])]}),
        "a long chain of calls": ([CALL], {"functions": [function(n, [n + 1]) for n in range(2000)]}),
    }.values(),
)
def test_it_is_summarized_compared_and_drawn(
    tmp_path: Path, nodes: list[onnx.NodeProto], more: dict[str, object]
) -> None:
    hostile = model(tmp_path / "m.onnx", *nodes, **more)
    summary = summarize_graph(hostile)

    assert len(summary.nodes) == len({node.name for node in summary.nodes}) == len(nodes)
    assert type(summary.macs) is type(summary.parameters) is int
    assert min(summary.macs, summary.parameters) >= 0
    assert not diff_graphs(hostile, hostile).changes
    assert without_weights(hostile.path)
    assert make_probes(hostile) is not None
