"""What the tests of graphs share: a model as ONNX Runtime rewrites it at load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from workbench.importers import load_model
from workbench.model import Model


@pytest.fixture
def optimized(tmp_path: Path) -> Callable[..., Model]:
    """Saves the graph that ONNX Runtime really runs, at one of its optimization levels."""

    def save(model: Model, level: str) -> Model:
        path = tmp_path / f"{level}_{model.sha256[:8]}.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it warns that the file fits this machine only
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        return load_model(path)

    return save
