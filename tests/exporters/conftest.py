"""One server for all tests of a file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.exporters.serving import (
    CODE,
    CONFIG,
    TEMPLATES,
    Server,
    X,
    serving,
    write_model,
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    for name in CODE:
        shutil.copy(TEMPLATES / name, folder)
    write_model(folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[Server]:
    with serving(package) as running:
        yield running


@pytest.fixture(scope="module")
def session(package: Path) -> ort.InferenceSession:
    return ort.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def steps_per_second(session: ort.InferenceSession) -> float:
    start = time.perf_counter()
    session.run(None, {"x": X, "steps": np.array([20_000])})
    return 20_000 / (time.perf_counter() - start)
