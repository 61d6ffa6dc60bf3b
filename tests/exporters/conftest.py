"""One server for all tests of a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.exporters.serving import Server, X, serving, write_model, write_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_package(tmp_path_factory.mktemp("package"))
    write_model(folder / "model.onnx")
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
    """The most of several tries: others may use the machine too."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        session.run(None, {"x": X, "steps": np.array([20_000])})
        seconds.append(time.perf_counter() - start)
    return 20_000 / min(seconds)
