"""A cancelled export for TensorFlow Serving leaves nothing behind, wherever its subprocess was."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled
from workbench.exporters import export_package
from workbench.model import Model


@pytest.mark.skipif(find_spec("onnx2tf") is None, reason="the extra litert is not installed")
@pytest.mark.parametrize("file", ["known.npz", pytest.param("feeds.npz", marks=pytest.mark.heavy)])
def test_a_cancelled_export_leaves_nothing(
    file: str, tiny: Model, tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it converts, or while it compares: both have files of their own."""
    (temporary := tmp_path / "tmp").mkdir()
    (packages := tmp_path / "packages").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))  # the subprocess has no other place for what nobody said a place for

    def cancel(fraction: float, message: str) -> None:
        if next(tmp_path.rglob(file), None) is not None:
            raise Cancelled

    with pytest.raises(Cancelled):
        export_package(
            Candidate("it", build_engine(tiny)),
            "tf_serving",
            sample=tiny_data,
            directory=packages / "package",
            progress=cancel,
        )
    assert list(temporary.iterdir()) == []
    assert list(packages.iterdir()) == []
