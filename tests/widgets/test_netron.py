"""NetronView, without a browser: what it tells a page and what it makes of bad input."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import pathlib
from typing import Any

import numpy as np
import onnx
import pytest
import traitlets
from onnx import TensorProto, helper, numpy_helper

from widgets._netron import NetronView, reads


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    weights = numpy_helper.from_array(np.ones((1000, 1000), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="multiply")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1000])],
        [weights],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    return path


def ask(view: NetronView, monkeypatch: pytest.MonkeyPatch, **request: Any) -> list[tuple[dict[str, Any], list[bytes]]]:
    """What a page gets back for a message."""
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    monkeypatch.setattr(view, "send", lambda content, buffers=None: sent.append((content, buffers)))
    view._handle_custom_msg({"id": "7", **request}, [])
    return sent


def test_it_starts_empty() -> None:
    view = NetronView()
    assert (view.status, view.name, view.message) == ("empty", "", "")


def test_a_loaded_model_waits_for_a_page(model: pathlib.Path) -> None:
    view = NetronView(model)
    assert (view.status, view.name) == ("ready", "model.onnx")


def test_a_page_gets_the_graph_without_weights(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [(reply, [data])] = ask(NetronView(model), monkeypatch, want="model")
    assert reply == {"id": "7", "revision": 1, "total": len(data)}
    assert len(data) < 1000 < model.stat().st_size
    assert onnx.load_from_string(data).graph.node[0].name == "multiply"


def test_a_page_gets_netron_from_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    [(_, [packed])] = ask(NetronView(), monkeypatch, want="netron")
    files = json.loads(gzip.decompress(packed))
    assert {"index.html", "grapher.css", "view.js", "browser.js", "onnx.js", "onnx-metadata.json"} <= files.keys()
    assert "class extends" in files["view.js"]


def test_a_page_gets_the_modules_of_a_format_and_no_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    [(_, [module])] = ask(NetronView(), monkeypatch, want="file", name="tflite.js")
    assert b"tflite" in module
    for name in ("../netron/__init__.py", "/etc/passwd", "__init__.py", "missing.js", None):
        [(_, [nothing])] = ask(NetronView(), monkeypatch, want="file", name=name)
        assert nothing == b""
    assert ask(NetronView(), monkeypatch, want="/etc/passwd") == []


def test_a_file_of_another_format_goes_whole_and_in_pieces(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(bytes(range(256)) * 20_000)
    view = NetronView(path)
    assert view.note == "5.12 MB, sent whole"
    received = b""
    while len(received) < path.stat().st_size:
        [(reply, [piece])] = ask(view, monkeypatch, want="model", offset=len(received))
        assert reply["total"] == path.stat().st_size
        assert 0 < len(piece) <= 4_000_000
        received += piece
    assert received == path.read_bytes()


def test_a_file_too_big_for_a_page_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "huge.pt"
    with path.open("wb") as file:
        file.truncate(300_000_000)  # takes no room on disk
    view = NetronView(path)
    assert view.status == "error"
    assert "300 MB" in view.message
    assert "Convert it to ONNX" in view.message


def test_a_saved_model_is_a_folder(tmp_path: pathlib.Path) -> None:
    assert "folder without saved_model.pb" in NetronView(tmp_path).message
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    assert NetronView(tmp_path).name == "saved_model.pb"


@pytest.mark.parametrize("name", ["a.tflite", "A.H5", "a.keras", "a.mlmodel", "a.xml", "a.gguf", "a.pt2", "a.onnx"])
def test_formats_come_from_netron_itself(name: str) -> None:
    assert reads(name)


def test_nothing_big_is_part_of_the_saved_state(model: pathlib.Path) -> None:
    state = NetronView(model).get_state()
    assert len(json.dumps({key: value for key, value in state.items() if key != "layout"})) < 40_000


def test_loading_another_model_forgets_the_first(model: pathlib.Path) -> None:
    view = NetronView(model)
    view.set_trait("selected", [{"name": "multiply", "type": "MatMul"}])
    view.colors, view.focus = {"multiply": "red"}, "multiply"
    view.load(model)
    assert (view.selected, view.colors, view.focus, view.status) == ([], {}, "", "ready")
    view.clear()
    assert (view.status, view.name) == ("empty", "")


def test_a_missing_file_is_reported(tmp_path: pathlib.Path) -> None:
    view = NetronView(tmp_path / "missing.onnx")
    assert view.status == "error"
    assert "There is no file" in view.message


def test_another_kind_of_file_is_reported(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.docx"
    path.write_bytes(b"")
    view = NetronView(path)
    assert view.status == "error"
    assert "Netron reads no .docx files" in view.message


def test_a_broken_file_is_reported_and_a_good_one_clears_it(tmp_path: pathlib.Path, model: pathlib.Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    view = NetronView(path)
    assert view.status == "error"
    assert "not an ONNX model" in view.message
    view.load(model)
    assert (view.status, view.message) == ("ready", "")


def test_another_version_of_netron_is_reported(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.4.0")
    view = NetronView(model)
    assert view.status == "error"
    assert view.message == "The graph viewer needs Netron 9.3, but 9.4.0 is installed. Run: pip install 'netron==9.3.*'"


def test_a_missing_netron_is_reported(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    view = NetronView(model)
    assert view.status == "error"
    assert "not installed" in view.message


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        NetronView(colour="red")  # type: ignore[call-arg]
    with pytest.raises(traitlets.TraitError):
        NetronView().status = "fine"
