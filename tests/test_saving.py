"""Models copied out of the workspace, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.errors import ModelError
from workbench.importers import load_model
from workbench.saving import save_model


def test_a_saved_model_is_the_same_and_leaves_the_original_alone(
    tmp_path: Path, model_file: Callable[..., Path]
) -> None:
    model = load_model(model_file(tmp_path / "here" / "net.onnx"))
    saved = save_model(model, tmp_path / "there" / "copy.onnx")

    assert saved.path == tmp_path / "there" / "copy.onnx"
    assert load_model(saved.path).sha256 == model.sha256
    assert model.path.is_file()


def test_weights_in_other_files_go_along(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    model = load_model(model_file(tmp_path / "here" / "net.onnx", external="net.data"))
    saved = save_model(model, tmp_path / "there" / "copy.onnx")

    assert sorted(part.name for part in saved.path.parent.iterdir()) == ["copy.onnx", "net.data"]
    assert load_model(saved.path).size_bytes == model.size_bytes


@pytest.mark.parametrize("taken", ["copy.onnx", "net.data"])
def test_nothing_is_overwritten_and_nothing_half_written_stays(
    tmp_path: Path, model_file: Callable[..., Path], taken: str
) -> None:
    model = load_model(model_file(tmp_path / "here" / "net.onnx", external="net.data"))
    (tmp_path / taken).write_text("mine")

    with pytest.raises(ModelError, match=f"{taken} exists already"):
        save_model(model, tmp_path / "copy.onnx")
    assert sorted(part.name for part in tmp_path.iterdir() if part.is_file()) == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    model = load_model(model_file(tmp_path / "here" / "net.onnx", external="net.data"))
    model.path.unlink()

    with pytest.raises(OSError, match="No such file"):
        save_model(model, tmp_path / "there" / "copy.onnx")
    assert list((tmp_path / "there").iterdir()) == []
