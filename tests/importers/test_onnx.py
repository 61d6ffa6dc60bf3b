"""ONNX files of every age, size and layout that ONNX Runtime takes; what makes one unusable is in test_model.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from workbench.backends import build_engine, open_runner
from workbench.errors import ModelError, OptionsError
from workbench.graph import summarize_graph
from workbench.importers import importer_for, load_model, model_suffixes
from workbench.model import Model, TensorSpec
from workbench.model_file import read_whole
from workbench.skeleton import without_weights

RELU = "g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }"


def save(path: Path, text: str, *, opset: int = 17, ir: int = 8, domains: str = "") -> Path:
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{domains}]> {text}')
    path.write_bytes(proto.SerializeToString())
    return path


def run(model: Model, **feed: np.ndarray) -> dict[str, np.ndarray]:
    """What a model that is loaded must also do: show its graph, and run."""
    summarize_graph(model)
    without_weights(model.path)
    with open_runner(build_engine(model, options={"threads": 1})) as runner:
        return runner.infer(feed)


def test_the_suffix_says_which_importer_reads_a_file(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    assert model_suffixes()[".onnx"] == "onnx"
    assert importer_for(model_file(tmp_path / "MODEL.ONNX")) == "onnx"


def test_a_model_is_named_like_its_file_or_as_told(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    path = model_file(tmp_path / "v3_final.onnx")

    assert load_model(path).name == "v3_final"
    assert load_model(str(path), {"name": "classifier"}).name == "classifier"


def test_a_path_may_be_relative_or_start_at_home(
    tmp_path: Path, model_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_file(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert load_model("m.onnx").path == load_model("~/m.onnx").path == path


def test_an_unknown_option_is_refused_by_name(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    with pytest.raises(OptionsError, match=r"importer onnx has no option 'nmae'. Did you mean 'name'\?"):
        load_model(model_file(tmp_path / "m.onnx"), {"nmae": "x"})


# --- versions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ir", "opset"), [(2, 6), (3, 7), (4, 9), (6, 11), (7, 13), (8, 17), (9, 21), (10, 23), (13, 26)]
)
def test_models_of_every_age_run(tmp_path: Path, ir: int, opset: int) -> None:
    model = load_model(save(tmp_path / "m.onnx", RELU, ir=ir, opset=opset))

    assert model.opset == opset
    assert run(model, x=np.full((2, 4), -1, np.float32))["y"].tolist() == [[0] * 4] * 2


def test_initializers_that_are_also_listed_as_inputs_are_not_fed(tmp_path: Path) -> None:
    text = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }"
    model = load_model(save(tmp_path / "m.onnx", text, ir=3, opset=7))

    assert [spec.name for spec in model.inputs] == ["x"]
    assert run(model, x=np.zeros(2, np.float32))["y"].tolist() == [1, 2]


@pytest.mark.parametrize(("ir", "opset", "words"), [(99, 17, "IR version 99"), (8, 999, "opset 999")])
def test_a_model_newer_than_this_program_is_refused_by_its_version(
    tmp_path: Path, ir: int, opset: int, words: str
) -> None:
    with pytest.raises(ModelError, match=f"{words}; onnx .* knows them up to .* or update onnx"):
        load_model(save(tmp_path / "m.onnx", RELU, ir=ir, opset=opset))


# --- what exporters leave out, and ONNX Runtime forgives -----------------------------------------------------------


@pytest.mark.parametrize("part", ["shape", "type"])
def test_outputs_without_shape_or_type_get_what_can_be_inferred(tmp_path: Path, part: str) -> None:
    path = save(tmp_path / "m.onnx", RELU)
    proto = onnx.load(path)
    output = proto.graph.output[0]
    output.ClearField("type") if part == "type" else output.type.tensor_type.ClearField("shape")
    path.write_bytes(proto.SerializeToString())
    model = load_model(path)

    assert model.outputs == (TensorSpec("y", "float32", ("n", 4)),)
    assert run(model, x=np.ones((1, 4), np.float32))["y"].shape == (1, 4)


def test_an_input_of_any_shape_shows_as_such(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", RELU)
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    path.write_bytes(proto.SerializeToString())

    assert str(load_model(path).inputs[0]) == "x float32[...]"


def test_a_negative_size_is_an_unknown_one(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", RELU)
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    path.write_bytes(proto.SerializeToString())

    assert load_model(path).inputs[0].shape == ("?", 4)


def test_operators_that_only_onnx_runtime_has_are_its_to_judge(tmp_path: Path) -> None:
    norm = "g (float[n, 2] x) => (float[n, 2] y) <float[2] s = {1, 1}> { y = SimplifiedLayerNormalization (x, s) }"
    gelu = "g (float[n, 2] x) => (float[n, 2] y) { y = com.microsoft.Gelu (x) }"
    for text in (norm, gelu):
        model = load_model(save(tmp_path / "m.onnx", text))
        assert run(model, x=np.ones((3, 2), np.float32))["y"].shape == (3, 2)


def test_an_operator_that_no_backend_has_is_refused_by_name_when_it_is_opened(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { y = mine.Foo (x) }"
    model = load_model(save(tmp_path / "m.onnx", text, domains=', "mine" : 1'))

    assert dict(summarize_graph(model).operators) == {"mine:Foo": 1}
    with pytest.raises(ModelError, match=r"mine.*Foo|Foo.*mine"), open_runner(build_engine(model)):
        pass


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1])), "sequence of float32"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.INT64, [1])), "optional int64"),
        (
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
            ),
            "sequence of map of int64 to float32",
        ),
    ],
)
def test_what_is_no_tensor_is_called_what_it_is(tmp_path: Path, kind: onnx.TypeProto, words: str) -> None:
    value = helper.make_value_info("x", kind)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    graph.output[0].name = "y"
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    model = load_model(path)

    assert model.inputs == (TensorSpec("x", words, ()),)
    assert summarize_graph(model).parameters == 0


def test_a_classifier_with_a_map_of_probabilities_runs(tmp_path: Path) -> None:
    """As skl2onnx exports them."""
    text = """g (float[n, 2] x) => (seq(map(int64, float)) y)
              { y = ai.onnx.ml.ZipMap <classlabels_int64s = [7, 9]> (x) }"""
    model = load_model(save(tmp_path / "m.onnx", text, domains=', "ai.onnx.ml" : 1'))

    assert str(model.outputs[0].dtype) == "sequence of map of int64 to float32"
    assert run(model, x=np.array([[0.25, 0.75]], np.float32))["y"] == [{7: 0.25, 9: 0.75}]


# --- external data -------------------------------------------------------------------------------------------------


def save_external(path: Path, location: str, values: int) -> Path:
    """Writes a model that adds up `values` float32 from `location`; the caller writes that file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[values], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [weight],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """The file is sparse: it takes no room, and the last value alone is not zero."""
    values = 600_000_000
    path = save_external(tmp_path / "m.onnx", "m.data", values)
    with (tmp_path / "m.data").open("wb") as stream:
        stream.seek(4 * values - 4)
        stream.write(np.float32(7).tobytes())
    model = load_model(path)

    assert model.size_bytes > 2.4e9
    assert sum(summarize_graph(model).weight_bytes.values()) == 4 * values
    assert len(without_weights(path)) < 1000
    with open_runner(build_engine(model)) as runner:
        assert runner.infer({"i": np.array([values - 1, 0])})["y"].tolist() == [7, 0]


def test_a_file_of_more_than_two_gigabytes_is_no_onnx(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as stream:
        stream.truncate(2**31)
    with pytest.raises(ModelError, match=r"ends at 2 GB\. .*save_as_external_data=True"):
        load_model(tmp_path / "m.onnx")


def test_the_cache_of_a_model_hub(tmp_path: Path) -> None:
    """Links with speaking names in one folder, to files named by their hashes in another."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1a2b" / "onnx"
    save_external(blobs / "f00d", "model.onnx_data", 4)
    (blobs / "beef").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../../blobs/f00d")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/beef")
    model = load_model(snapshot / "model.onnx")

    assert (model.name, model.external_files) == ("model", ("model.onnx_data",))
    assert len(model.sha256) == 64
    assert run(model, i=np.array([3]))["y"].tolist() == [3]
    assert onnx.numpy_helper.to_array(read_whole(model.path).graph.initializer[0]).tolist() == [0, 1, 2, 3]


def test_weights_behind_a_link_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "real.data").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "m.data").symlink_to("real.data")

    assert run(load_model(save_external(tmp_path / "m.onnx", "m.data", 4)), i=np.array([2]))["y"].tolist() == [2]


def test_a_model_that_is_no_link_may_not_use_the_hubs_folder(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "beef").write_bytes(bytes(16))
    path = save_external(tmp_path / "snapshots" / "m.onnx", "m.data", 4)
    (path.parent / "m.data").symlink_to("../blobs/beef")
    with pytest.raises(ModelError, match="outside its own folder"):
        load_model(path)
