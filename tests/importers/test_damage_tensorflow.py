"""Damaged TensorFlow, Keras and TFLite files: words come out of them, and never a full memory or a dead caller."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import ModelError
from workbench.importers import load_model

pytestmark = pytest.mark.heavy  # each file is read by TensorFlow


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("tensorflow_damage")


def test_random_damage(damage: Any, tensorflow_files: Path) -> None:
    """Some damaged files of each format; `python tests/importers/tensorflow_damage.py` tries thousands."""
    safe = [pair for pair in damage.FILES if pair[0] != "tflite"]  # each crash of TFLite costs a new process

    outcomes = damage.run(tensorflow_files, 24, 7, safe)

    assert [outcome for outcome in outcomes if outcome["verdict"].startswith("died")] == []
    assert {"converted", "refused"} <= {outcome["verdict"] for outcome in outcomes}
    assert max(outcome["mb"] for outcome in outcomes) < 2000
    assert all(outcome["words"].isprintable() for outcome in outcomes if outcome["verdict"] == "refused")


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "frozen.pb"])
def test_half_a_file_is_refused_before_anything_starts(tmp_path: Path, tensorflow_files: Path, name: str) -> None:
    content = (tensorflow_files / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])

    with pytest.raises(ModelError, match=name) as caught:
        load_model(tmp_path / name)
    assert caught.value.remedy


def test_a_crash_of_the_interpreter_ends_in_words(tmp_path: Path, tensorflow_files: Path) -> None:
    content = bytearray((tensorflow_files / "float.tflite").read_bytes())
    for at in range(0x40, len(content), 7):  # offsets that lead anywhere
        content[at] ^= 0x10
    (tmp_path / "net.tflite").write_bytes(content)

    with pytest.raises(ModelError, match=r"net\.tflite") as caught:
        load_model(tmp_path / "net.tflite")
    assert "opy" in caught.value.remedy
