"""Models from disk: what they say of themselves, and every way in which a file can be unusable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workbench.errors import ModelError
from workbench.importers import load_model
from workbench.model import Model, TensorSpec, read_model
from workbench.samples.digits import MODEL_PATH


def test_a_model_says_what_it_takes_and_gives(digits: Model) -> None:
    assert digits.inputs == (TensorSpec("image", "float32", ("batch", 1, 32, 32)),)
    assert digits.outputs == (TensorSpec("logits", "float32", ("batch", 10)),)
    assert str(digits.inputs[0]) == "image float32[batch, 1, 32, 32]"
    assert digits.inputs[0].dynamic_batch
    assert (digits.name, digits.history, digits.source) == ("digits_cnn", (), "onnx")
    assert digits.size_bytes == MODEL_PATH.stat().st_size


def test_a_fixed_and_a_nameless_axis_show_as_such(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    fixed = load_model(model_file(tmp_path / "fixed.onnx", batch=4))
    nameless = load_model(model_file(tmp_path / "nameless.onnx", batch=None))

    assert (fixed.inputs[0].shape, fixed.inputs[0].dynamic_batch) == ((4, 4), False)
    assert (nameless.inputs[0].shape, nameless.inputs[0].dynamic_batch) == (("?", 4), True)


def test_weights_beside_the_file_belong_to_the_model(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    model = load_model(model_file(tmp_path / "m.onnx", external="m.data"))
    before = model.sha256
    data = tmp_path / "m.data"

    assert model.external_files == ("m.data",)
    assert model.size_bytes == model.path.stat().st_size + data.stat().st_size
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    assert load_model(model.path).sha256 != before


def test_the_hash_does_not_depend_on_the_place(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    here, there = model_file(tmp_path / "a" / "m.onnx"), model_file(tmp_path / "b" / "other.onnx")

    assert load_model(here).sha256 == load_model(there).sha256


# --- files that cannot be used -------------------------------------------------------------------------------------


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert caught.value.remedy
    for word in (path.name, *words):
        assert word in message


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "There is no file")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "is a folder")


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to("nowhere")
    refused(tmp_path / "link.onnx", "There is no file")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "not a regular file")


def test_a_name_that_no_disk_takes(tmp_path: Path) -> None:
    refused(tmp_path / f"{'x' * 300}.onnx", "cannot be read: File name too long")


def test_a_file_without_permission(
    tmp_path: Path, model_file: Callable[..., Path], without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    path = model_file(tmp_path / "secret.onnx")
    path.chmod(0)
    with without_rights():
        refused(path, "cannot be read: Permission denied", "Change its permissions")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\x80\x00\x00\x00 pickled weights", "not an ONNX model"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "not an ONNX model"),
        (b"hello\n", "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not an ONNX model"),
        (b"\x08\x08", "holds no graph"),
        (bytes(1000), "not an ONNX model"),
    ],
)
def test_a_file_that_holds_something_else(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, words)


def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    refused(tmp_path / "weights.bin", "'.bin'", "Formats: ", ".onnx")


def test_an_unknown_sample_names_the_known_one() -> None:
    with pytest.raises(ModelError, match="sample:digits"):
        load_model("sample:cats")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    whole = model_file(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        refused(path)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.5, 0.9, 0.9999])
def test_a_large_file_cut_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    whole = MODEL_PATH.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / "cut.onnx")


def test_an_element_type_that_does_not_exist(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    path = model_file(tmp_path / "m.onnx")
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.elem_type = 77
    path.write_bytes(proto.SerializeToString())
    refused(path, "'x'", "element type 77")


def test_a_graph_against_the_rules(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["nobody made this"], ["y"])
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    refused(tmp_path / "m.onnx", "breaks the rules of ONNX", "nobody made this")


# --- weights in other files ----------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path, model_file: Callable[..., Path]) -> Callable[[str], Path]:
    """A model in a folder of its own whose weights are said to lie at `location`."""

    def write(location: str, **places: str) -> Path:
        path = model_file(tmp_path / "inside" / "m.onnx", external="m.data")
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                entry.value = {"location": location, **places}.get(entry.key, entry.value)
        path.write_bytes(proto.SerializeToString())
        (tmp_path / "secret.data").write_bytes(bytes(4096))
        return path

    return write


@pytest.mark.parametrize("location", ["../secret.data", "a/../../secret.data", "/etc/passwd", "", "\0"])
def test_weights_outside_the_folder(outside: Callable[[str], Path], location: str) -> None:
    refused(outside(location), "outside its own folder", "'weight'")


def test_weights_behind_a_link_out_of_the_folder(outside: Callable[[str], Path]) -> None:
    path = outside("link.data")
    (path.parent / "link.data").symlink_to("../secret.data")
    refused(path, "'link.data'", "outside its own folder")


def test_weights_behind_a_loop_of_links(outside: Callable[[str], Path]) -> None:
    path = outside("loop.data")
    (path.parent / "loop.data").symlink_to("loop.data")
    refused(path, "'loop.data'")


def test_weights_in_a_sparse_tensor_outside_the_folder(tmp_path: Path) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0])
    values.ClearField("float_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="../../etc/passwd")
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [4])],
    )
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    refused(tmp_path / "m.onnx", "'values'", "outside its own folder")


def test_weights_that_are_missing(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    path = model_file(tmp_path / "m.onnx", external="m.data")
    (tmp_path / "m.data").unlink()
    refused(path, "'m.data'", "not beside it", "Copy 'm.data'")


@pytest.mark.parametrize("kept", [0, 10])
def test_weights_that_are_cut_short(tmp_path: Path, model_file: Callable[..., Path], kept: int) -> None:
    path = model_file(tmp_path / "m.onnx", external="m.data")
    data = tmp_path / "m.data"
    data.write_bytes(data.read_bytes()[:kept])
    refused(path, "'m.data'", f"{kept} bytes", "cut short")


def test_weights_that_are_cut_short_where_the_model_gives_no_length(tmp_path: Path) -> None:
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [100], np.ones(100))
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="m.data")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weight"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [100])],
        [weight],
    )
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (tmp_path / "m.data").write_bytes(bytes(399))
    refused(tmp_path / "m.onnx", "399 bytes where 400 are needed")


@pytest.mark.parametrize("offset", ["-8", "many"])
def test_weights_at_a_place_that_cannot_be(outside: Callable[..., Path], offset: str) -> None:
    refused(outside("m.data", offset=offset), "no sensible place", "'m.data'")


def test_a_refused_model_is_not_opened_elsewhere(tmp_path: Path, outside: Callable[[str], Path]) -> None:
    """The refusal comes before anything reads the file that the model points to."""
    os.mkfifo(tmp_path / "blocks")  # whoever opens it waits for ever
    with pytest.raises(ModelError):
        read_model(outside("../blocks"))


def test_the_command_line_says_it_in_a_paragraph(
    tmp_path: Path, command_line: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "empty.onnx").touch()
    ended = command_line("inspect", "empty.onnx")

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "empty.onnx is empty (0 bytes). Export or copy the model again." in ended.stderr
