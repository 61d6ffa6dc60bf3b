"""Models of many kinds as SavedModels: what comes through as it is in ONNX, and what onnx2tf cannot do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.exporters_tf_serving.serving import (
    BATCHED,
    FOUR,
    ONES,
    contents_of,
    run_client,
    serving,
    write_model,
)
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError
from workbench.exporters import export_package
from workbench.exporters.tf_serving import Options, export
from workbench.model import Model

pytestmark = pytest.mark.heavy  # each is converted with onnx2tf


def test_weights_that_are_no_constants_are_kept(tmp_path: Path) -> None:
    """onnx2tf makes variables of the weights of a LayerNormalization."""
    weights = [
        numpy_helper.from_array(np.arange(4, dtype=np.float32), "scale"),
        numpy_helper.from_array(np.ones(4, np.float32), "shift"),
    ]
    node = helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["y"], axis=-1)
    candidate = write_model(tmp_path / "norm.onnx", [node], {"x": FOUR}, {"y": FOUR}, weights)
    (package := tmp_path / "package").mkdir()
    export(contents_of(candidate, {"x": np.float32([[1, 2, 4, 8]])}), Options(), package)
    (sample,) = json.loads((package / "parity.json").read_text())["sample"]

    assert sample["max_abs_error"] < 1e-5
    assert sample["largest_value"] > 3


def test_images_that_come_out_have_their_channels_where_onnx_has_them(tmp_path: Path) -> None:
    """onnx2tf leaves them last; here one has a single channel, so that only the size of the sample tells."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.random((4, 3, 3, 3), np.float32), "wide"),
        numpy_helper.from_array(random.random((1, 4, 1, 1), np.float32), "narrow"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "wide"], ["sum"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["sum"], ["features"]),
        helper.make_node("Conv", ["features", "narrow"], ["mask"], kernel_shape=[1, 1]),
    ]
    kinds = {
        name: (TensorProto.FLOAT, ["n", size, "h", "w"]) for name, size in (("x", 3), ("features", 4), ("mask", 1))
    }
    x = kinds.pop("x")
    candidate = write_model(tmp_path / "image.onnx", nodes, {"x": x}, kinds, weights)
    (package := tmp_path / "package").mkdir()
    contents = contents_of(candidate, {"x": random.random((1, 3, 6, 8), np.float32)})
    export(contents, Options(), package)

    with serving(package) as server:
        ended = run_client(package, "client_rest.py", "--url", server["rest"])
        assert [line[: line.index("expected")] for line in ended.stdout.splitlines()] == ["features: as ", "mask: as "]
    assert {name: array.shape for name, array in contents.answer.items()} == {
        "features": (1, 4, 6, 8),
        "mask": (1, 1, 6, 8),
    }


def test_what_onnx2tf_cannot_convert_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["twice"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", *FOUR)],
        [value("on", TensorProto.BOOL, []), value("twice", *FOUR)],
    )
    loop = helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)
    weights = [numpy_helper.from_array(np.array(3), "count"), numpy_helper.from_array(np.array(True), "yes")]
    candidate = write_model(tmp_path / "loop.onnx", [loop], {"x": FOUR}, {"y": FOUR}, weights)
    with pytest.raises(ExportError, match=r"onnx2tf .* cannot convert loop: Loop OP is not.*exporter server or triton"):
        export_package(candidate, "tf_serving", sample=ONES, directory=tmp_path / "out" / "package")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_answer_than_the_candidate_s_is_refused_with_the_figure(
    tiny: Model, tiny_data: Dataset, tmp_path: Path
) -> None:
    contents = contents_of(Candidate("as it is", build_engine(tiny)), tiny_data.take(1))
    answer = {"scores": contents.answer["scores"] + np.float32([[0, 0.5, 0]])}
    with pytest.raises(ExportError, match=r"'scores' differs by 0.5, which is 25 % .*allowed 0.1 %.*`tolerance`"):
        export(replace(contents, answer=answer), Options(), tmp_path)


def test_odd_names_and_tensors_come_through(tmp_path: Path) -> None:
    """Names that a function's parameters cannot have, an input that nothing reads, one without axes, two outputs."""
    nodes = [
        helper.make_node("Mul", ['a/"é', "factor"], ["scaled"]),
        helper.make_node("ReduceMax", ["scaled"], ["top:0"], axes=[1], keepdims=0),
    ]
    table = (TensorProto.FLOAT, ["batch", "length"])
    inputs = {'a/"é': table, "factor": (TensorProto.FLOAT, []), "unread": (TensorProto.INT64, ["batch", 3])}
    outputs = {"scaled": table, "top:0": (TensorProto.FLOAT, ["batch"])}
    feed = {
        'a/"é': np.arange(6, dtype=np.float32)[None],
        "factor": np.array(2, np.float32),
        "unread": np.zeros((1, 3), np.int64),
    }
    (package := tmp_path / "package").mkdir()
    contents = contents_of(write_model(tmp_path / "odd.onnx", nodes, inputs, outputs), feed, **BATCHED)
    export(contents, Options(), package)

    assert not (package / "models" / "batching.config").exists()
    assert "but not every tensor has a batch axis" in (package / "README.md").read_text()
    with serving(package) as server:
        loaded = server["models"]["served"]["1"]
        assert loaded["inputs"] == {
            'a/"é': ["float32", [-1, -1]],
            "factor": ["float32", []],
            "unread": ["int64", [-1, 3]],
        }
        assert set(loaded["outputs"]) == {"scaled", "top:0"}
        assert loaded["warmed"] == 1
        for client, where in (
            ("client_rest.py", ("--url", server["rest"])),
            ("client_grpc.py", ("--target", server["grpc"])),
        ):
            ended = run_client(package, client, *where)
            assert ended.stdout.splitlines() == [
                "scaled: as expected, bit by bit",
                "top:0: as expected, bit by bit",
            ]


def test_what_json_does_not_carry_is_asked_by_grpc_alone(tmp_path: Path) -> None:
    half = (TensorProto.FLOAT16, ["batch", 4])
    candidate = write_model(tmp_path / "half.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": half}, {"y": half})
    (package := tmp_path / "package").mkdir()
    export(contents_of(candidate, {"x": np.float16([[-1, 0.1, 2, 3]])}), Options(), package)

    assert not (package / "client_rest.py").exists()
    assert "not by REST: 'x' is float16" in (package / "README.md").read_text()
    with serving(package) as server:
        assert server["models"]["served"]["1"]["outputs"] == {"y": ["float16", [-1, 4]]}
        assert (
            run_client(package, "client_grpc.py", "--target", server["grpc"]).stdout == "y: as expected, bit by bit\n"
        )
