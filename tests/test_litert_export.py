"""PyTorch modules become .tflite files in an environment of their own; what is missing is said in words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from workbench.backends import build_engine, open_runner
from workbench.dataset import Dataset
from workbench.errors import BuildError, DatasetError, MissingDependencyError, ModelError, OptionsError
from workbench.importers import load_model
from workbench.litert_export import VARIABLE, export_litert

BARE = str(Path(sys.base_prefix) / "bin" / "python3")  # has no packages of its own
INPUT = "image float32[batch, 3, 16, 16]"
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                                  nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(16, classes)

    def forward(self, image):
        return self.head(torch.flatten(self.body(image), 1))

def build(classes=4):
    return Net(classes)
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NET)
    return f"{tmp_path / 'nets.py'}:build"


def refuse_without_environment(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(MissingDependencyError, match=r"needs an environment of its own.*none is named") as caught:
        export_litert(net, None, [INPUT], tmp_path / "net.tflite")
    assert "pip install litert-torch ai-edge-quantizer" in caught.value.remedy
    assert VARIABLE in caught.value.remedy


def test_no_environment_is_refused_in_words(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_without_environment(net, tmp_path, monkeypatch)


@pytest.mark.parametrize(("int8", "lacks"), [(None, "litert-torch, torch"), ("dynamic", "ai-edge-quantizer")])
def test_an_environment_that_lacks_it_is_refused_in_words(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8: Literal["dynamic"] | None, lacks: str
) -> None:
    monkeypatch.setenv(VARIABLE, BARE)
    with pytest.raises(MissingDependencyError, match=f"python3 lacks .*{lacks}") as caught:
        export_litert(net, None, [INPUT], tmp_path / "net.tflite", int8=int8)
    assert "python -m venv" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nets.py"]


def test_what_cannot_be_read_is_refused_before_anything_runs(net: str, tmp_path: Path) -> None:
    target = tmp_path / "net.tflite"
    with pytest.raises(OptionsError, match="names no function"):
        export_litert("nets", None, [INPUT], target)
    with pytest.raises(OptionsError, match="does not describe an input"):
        export_litert(net, None, ["image"], target)
    with pytest.raises(OptionsError, match="does not say what the module takes"):
        export_litert(net, None, [], target)
    with pytest.raises(OptionsError, match="no JSON object"):
        export_litert(net, None, [INPUT], target, arguments="[1]")
    with pytest.raises(DatasetError, match="Static INT8 needs samples"):
        export_litert(net, None, [INPUT], target, int8="static")
    with pytest.raises(DatasetError, match="lacks image"):
        export_litert(net, None, [INPUT], target, samples=Dataset({"x": np.zeros((1, 3, 16, 16), np.float32)}))


@pytest.mark.heavy
def test_a_module_becomes_a_file_that_litert_runs(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no environment is named, that is what must be said."""
    if not os.environ.get(VARIABLE):
        refuse_without_environment(net, tmp_path, monkeypatch)
        return
    samples = Dataset({"image": np.random.default_rng(0).random((16, 3, 16, 16), np.float32)})
    sizes, lines = [], list[str]()
    for kind in (None, "dynamic", "static"):
        target = tmp_path / f"{kind}.tflite"
        made = export_litert(
            net, None, [INPUT], target, arguments='{"classes": 6}', int8=kind, samples=samples, log=lines.append
        )
        sizes.append(made.size_bytes)
        share = made.max_abs_errors[0] / made.ranges[0]
        assert share < (1e-5 if kind is None else 0.05)
        assert {"start", "module", "litert_torch"} <= set(made.phases)
    assert sizes[1] < sizes[0]
    assert lines
    model = load_model(tmp_path / "None.tflite")
    feed = samples.take(1).inputs
    with open_runner(build_engine(model, "litert")) as runner, open_runner(build_engine(model)) as reference:
        for ours, theirs in zip(runner.infer(feed).values(), reference.infer(feed).values(), strict=True):
            assert ours.shape == (1, 6)
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ModelError, match="exists already"):
        export_litert(net, None, [INPUT], tmp_path / "None.tflite")
    with pytest.raises(BuildError, match=r"cannot convert .*nothing named picture"):
        export_litert(net, None, ["picture float32[1, 3, 16, 16]"], tmp_path / "other.tflite")
