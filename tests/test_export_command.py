"""What `workbench export` takes by itself, and what it says afterwards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workbench.__main__ import main


def export(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """In this process: what it prints."""
    main(["export", *words, "--directory", "new"])
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, default_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bundled_model_has_its_samples(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert "Start it there: python serve.py" in export(capsys, "server", "sample:digits")
    request = json.loads((folder / "new" / "sample_request.json").read_text())
    assert request["inputs"][0]["shape"] == [1, 1, 32, 32]


@pytest.mark.parametrize("name", ["monitoring", "triton"])
def test_what_is_not_started_here_says_where_it_goes_on(capsys: pytest.CaptureFixture[str], name: str) -> None:
    said = export(capsys, name, "sample:digits").splitlines()
    assert said[1] == "README.md there says how to go on."
    assert Path("new", "README.md").is_file()


def test_a_fixed_batch_is_measured_as_it_is(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 3]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "fixed", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "fixed.onnx")
    np.savez(folder / "fixed.npz", x=np.eye(8, 3, dtype=np.float32))
    quick = ["--latency.seconds", "0.2", "--latency.launches", "1", "--measurement.seconds", "0.2"]
    quick += ["--threads", "1", "--measurement.batches", "4", "--measurement.steps", "2", "--measurement.rounds", "0"]
    words = ["triton", "fixed.onnx", "--sample", "fixed.npz", "--measure", *quick]

    with pytest.raises(SystemExit, match="2"):
        export(capsys, *words, "--latency.batch", "1")
    assert "fixed batch of 4" in capsys.readouterr().err
    assert re.search(r"fixed\.npz .*batch 4", export(capsys, *words))


@pytest.mark.parametrize("word", ["tf-serving", "tf_serving"])
def test_names_of_plugins_are_taken_with_either_line(capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["export", word, "--help"])
    said = capsys.readouterr().out
    assert "tf-serving options" in said
    assert "options options" not in said


@pytest.mark.parametrize(("command", "heading"), [("load-service", "load options"), ("watch", "watch options")])
def test_options_are_headed_by_what_they_are_of(capsys: pytest.CaptureFixture[str], command: str, heading: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert heading in said
    assert "options options" not in said
