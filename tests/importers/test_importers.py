"""Which importer takes what, and what is said where none does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workbench.errors import ModelError, OptionsError
from workbench.importers import importer_for, load_dataset, load_model


@pytest.mark.parametrize(
    ("name", "importer"),
    [
        ("net.onnx", "onnx"),
        ("net.PT", "pytorch"),
        ("weights.safetensors", "pytorch"),
        ("program.pt2", "pytorch"),
        ("net.keras", "keras"),
        ("net.h5", "keras"),
        ("frozen.pb", "tensorflow"),
        ("net.tflite", "tflite"),
    ],
)
def test_the_suffix_says_who_reads_it(tmp_path: Path, name: str, importer: str) -> None:
    (tmp_path / name).write_bytes(b"anything")

    assert importer_for(tmp_path / name) == importer


def test_a_folder_with_a_saved_model_is_one(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"anything")

    assert importer_for(tmp_path / "net") == "tensorflow"


def test_any_other_folder_or_suffix_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "net.caffe").write_bytes(b"anything")

    with pytest.raises(ModelError, match=r"'\.caffe', which no importer reads.*\.keras.*\.onnx.*\.pt2"):
        importer_for(tmp_path / "net.caffe")
    with pytest.raises(ModelError, match="is a folder"):
        importer_for(tmp_path)


@pytest.mark.parametrize("value", [b"bytes", 3, np.zeros(3), None])
def test_an_object_that_is_no_model_is_refused_in_words(value: object) -> None:
    with pytest.raises(ModelError, match=f"A {type(value).__name__} is neither a path nor a model"):
        load_model(value)


def test_options_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes(b"anything")

    with pytest.raises(OptionsError, match="importer keras has no option 'factory'"):
        load_model(tmp_path / "net.keras", {"factory": "a:b"})


def test_the_samples_come_in_three_splits() -> None:
    sizes = [len(load_dataset("sample:digits", split)) for split in ("training", "calibration", "evaluation")]  # type: ignore[arg-type]

    assert sizes == [972, 128, 697]
