"""The graph of an ONNX file without its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.errors import ModelError
from workbench.skeleton import without_weights

BIG, SMALL = 10_000, 4


def tensor(name: str, count: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(count, np.float32), name)


def constant(name: str, count: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=tensor(f"{name}_value", count))


def value(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def model(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "graph", [value("x", BIG)], [value("y", BIG)], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_big_tensors_lose_their_values_and_keep_their_shapes(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "big"], ["s"], name="add")
    scale = helper.make_node("Mul", ["s", "small"], ["y"], name="scale")
    path = tmp_path / "model.onnx"
    onnx.save(model(add, scale, initializers=(tensor("big", BIG), tensor("small", 1))), path)

    data = without_weights(path)

    assert len(data) < 1000 < 4 * BIG < path.stat().st_size
    big, small = onnx.load_from_string(data).graph.initializer
    assert list(big.dims) == [BIG]
    assert big.data_location == TensorProto.EXTERNAL
    assert numpy_helper.to_array(small) == 1
    assert [node.name for node in onnx.load_from_string(data).graph.node] == ["add", "scale"]


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(tensor("w", BIG),)), path)
    assert len(without_weights(path, keep_bytes=100_000)) > 4 * BIG


def test_values_stored_as_numbers_go_as_well(tmp_path: Path) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [BIG], [1.0] * BIG)
    path = tmp_path / "model.onnx"
    onnx.save(model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(weights,)), path)
    assert len(without_weights(path)) < 1000


def test_attributes_and_subgraphs_are_searched(tmp_path: Path) -> None:
    then, otherwise = (
        helper.make_graph([constant(name, BIG)], name, [], [value(name, BIG)], [tensor(f"{name}_w", BIG)])
        for name in ("then", "otherwise")
    )
    branch = helper.make_node("If", ["c"], ["y"], name="branch", then_branch=then, else_branch=otherwise)
    path = tmp_path / "model.onnx"
    onnx.save(model(constant("c", SMALL), constant("unused", BIG), branch), path)

    data = without_weights(path)

    assert len(data) < 2000
    inner = onnx.load_from_string(data).graph.node[2].attribute[0].g
    assert inner.initializer[0].data_location == TensorProto.EXTERNAL


def test_functions_and_sparse_tensors_are_searched(tmp_path: Path) -> None:
    whole = model(helper.make_node("Twice", ["x"], ["y"], domain="own"))
    whole.opset_import.append(helper.make_opsetid("own", 1))
    nodes = [constant("two", BIG), helper.make_node("Mul", ["a", "two"], ["b"])]
    whole.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]))
    indices = numpy_helper.from_array(np.arange(BIG, dtype=np.int64), "")
    whole.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor("sparse", BIG), indices, [2 * BIG]))
    path = tmp_path / "model.onnx"
    onnx.save(whole, path)
    assert len(without_weights(path)) < 1000


def test_external_data_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = tensor("w", BIG)
    onnx.save(
        model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(weights,)),
        path,
        save_as_external_data=True,
        location="weights.bin",
    )
    (tmp_path / "weights.bin").unlink()

    kept = onnx.load_from_string(without_weights(path)).graph.initializer[0]

    assert kept.external_data[0].value == "weights.bin"


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx .*Check that"):
        without_weights(path)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    onnx.save(model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(tensor("w", BIG),)), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="not an ONNX model"):
        without_weights(path)
