"""Quantized by NNCF: the same answers in INT8, and nobody hears of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.transforms.conftest import Apply, Save
from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.importers import load_model
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace

pytest.importorskip("nncf")


def test_an_old_model_gets_scales_per_channel_and_nobody_hears_of_it(
    save: Save, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqnr: Callable[..., float]
) -> None:
    """NNCF would keep an identifier in the home folder and send it along with what was quantized."""
    random = np.random.default_rng(0)
    constants = {name: random.standard_normal((16, 16), np.float32) for name in ("first", "second")}
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], name="one"),
        helper.make_node("Relu", ["h"], ["r"], name="rectify"),
        helper.make_node("MatMul", ["r", "second"], ["y"], name="two"),
    ]
    model = save(nodes, {"x": [4, 16]}, {"y": [4, 16]}, constants, opset=11)
    dataset = Dataset({"x": random.uniform(-1, 1, (17, 16)).astype(np.float32)})  # the last is left out
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("CI", raising=False)  # where it is silent anyway
    heard: list[str] = []
    small = transform(
        model,
        "quantize_nncf",
        {"keep_float": ["two"], "preset": "mixed"},
        dataset=dataset,
        workspace=workspace,
        progress=lambda _, message: heard.append(message),
    )
    tensors = onnx.load(small.path).graph.initializer

    assert list(home.rglob("*")) == []
    assert "calibrating 4/16" in heard
    assert small.opset == 13
    assert [step.transform for step in small.history] == ["quantize_nncf"]
    kinds = [tensor.data_type for tensor in tensors if len(tensor.dims) == 2]
    assert sorted(kinds) == [TensorProto.FLOAT, TensorProto.INT8]
    assert any(tensor.dims == [16] and tensor.data_type == TensorProto.FLOAT for tensor in tensors)
    for backend in ("onnxruntime", "openvino"):
        assert sqnr(model, small, dataset.take(4), backend) > 25


def test_refusals(
    digits: Model, calibration: Dataset, model_file: Callable[..., Path], tmp_path: Path, apply: Apply
) -> None:
    with pytest.raises(TransformError, match=r"no node named 'topp/conv'.*'top/conv'.*after BatchNorm folding"):
        apply(digits, "quantize_nncf", {"keep_float": ["topp/conv"]}, calibration)
    small = apply(digits, "quantize_static", {"samples": 16}, calibration)
    with pytest.raises(TransformError, match="digits_cnn is quantized already"):
        apply(small, "quantize_nncf", dataset=calibration)
    fixed = load_model(model_file(tmp_path / "fixed.onnx", batch=5))
    with pytest.raises(DatasetError, match=r"3 samples to calibrate with, and fixed takes 5 at a time"):
        apply(fixed, "quantize_nncf", dataset=Dataset({"x": np.ones((3, 4), np.float32)}))
