"""One server for all tests of a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.exporters.serving import HASTY_LIMITS, Server, X, serving, with_model, write_model, write_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_package(tmp_path_factory.mktemp("package"))
    write_model(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[Server]:
    with serving(package) as running:
        yield running


@pytest.fixture
def hasty(package: Path, tmp_path: Path) -> Iterator[Server]:
    """One that waits for nothing longer than a second: what others time out by on a busy machine."""
    folder = write_package(tmp_path / "hasty", {**with_model(request_seconds=1.0), "limits": HASTY_LIMITS})
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def session(package: Path) -> ort.InferenceSession:
    return ort.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def steps_per_second(session: ort.InferenceSession) -> float:
    """Steps for a second of processor time, which is what it takes at least; the most of several tries."""
    seconds = []
    for _ in range(5):
        start = time.thread_time()
        session.run(None, {"x": X, "steps": np.array([20_000])})
        seconds.append(time.thread_time() - start)
    return 20_000 / min(seconds)
