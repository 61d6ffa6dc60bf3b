"""ONNX files; what makes one unusable is in test_model.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.errors import OptionsError
from workbench.importers import importer_for, load_model, model_suffixes


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
