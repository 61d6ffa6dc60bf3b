"""What the tests share: the bundled sample, small ONNX models made on the spot, and a place to write to."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from xdist.scheduler import LoadScopeScheduling

from tests.faults import faulty as faulty
from workbench.dataset import Dataset
from workbench.importers import load_dataset, load_model
from workbench.model import Model
from workbench.workspace import ROOT_VARIABLE, Workspace

SHARED = {
    "browser": r"/browser/",
    "tensorflow": r"/importers/.*(tensorflow|keras|tflite)",
    "findings": r"/findings/test_(findings|quantized)",
}

ModelFile = Callable[..., Path]
CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def default_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes into the folder that it is started in."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Keeps what is slow to make for the whole run."""
    return Workspace(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def digits() -> Model:
    return load_model("sample:digits")


@pytest.fixture(scope="session")
def calibration() -> Dataset:
    return load_dataset("sample:digits", "calibration").take(48)


@pytest.fixture(scope="session")
def evaluation() -> Dataset:
    return load_dataset("sample:digits", "evaluation")


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory: pytest.TempPathFactory, evaluation: Dataset) -> Path:
    """A hundred samples of the digits with their labels, as a user's own .npz file."""
    path, part = tmp_path_factory.mktemp("data") / "digits.npz", evaluation.take(100)
    np.savez(path, image=part.inputs["image"], labels=part.labels)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def model_file() -> ModelFile:
    """Writes a small classifier, `x` float32[batch, 4] → `scores` [batch, 3]; its scores are x[0:3] doubled."""

    def write(path: Path, *, batch: int | str | None = "batch", wide: int = 0, external: str = "") -> Path:
        weight = np.zeros((4, 3 + wide), np.float32)
        weight[[0, 1, 2], [0, 1, 2]] = 2
        tensors = [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.zeros(3 + wide, np.float32), "bias"),
        ]
        nodes = [
            helper.make_node("Gemm", ["x", "weight", "bias"], ["sum"], name="product"),
            helper.make_node("Relu", ["sum"], ["scores"], name="rectify"),
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])]
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3 + wide])]
        graph = helper.make_graph(nodes, "classifier", inputs, outputs, tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(proto, path, save_as_external_data=bool(external), location=external or None, size_threshold=0)
        return path

    return write


@pytest.fixture
def tiny(tmp_path: Path, model_file: ModelFile) -> Model:
    return load_model(model_file(tmp_path / "tiny.onnx"))


@pytest.fixture
def tiny_data() -> Dataset:
    """Twelve samples that `tiny` gets right."""
    labels = np.arange(12) % 3
    return Dataset({"x": np.eye(4, dtype=np.float32)[labels]}, labels, "corners")


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes an .npz file."""

    def write(name: str = "data.npz", **arrays: Any) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    """Runs `workbench …` as a user would, in an empty folder of its own."""

    def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "workbench", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd or tmp_path,
            env={**os.environ, "COLUMNS": "120"},
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def without_rights() -> Callable[[], AbstractContextManager[None]]:
    """Gives root's rights away for a while; without them, every refusal holds anyway."""

    @contextlib.contextmanager
    def drop() -> Iterator[None]:
        if os.getuid():
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return drop


@pytest.fixture
def processes_in() -> Callable[[Path], list[str]]:
    """Lists the commands of live processes that mention a folder or have it as theirs."""

    def find(folder: Path) -> list[str]:
        found: list[str] = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                found += _mentions(process, str(folder))
        return found

    return find


def _mentions(process: Path, folder: str) -> Sequence[str]:
    try:
        command = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        environment = (process / "environ").read_bytes().decode(errors="replace")
    except OSError:  # it has just ended, or is someone else's
        return []
    return [command] if folder in command or folder in environment else []


class ByFixture(LoadScopeScheduling):  # type: ignore[misc]
    """Deals the tests out by file; files that share a fixture which is slow to make go to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((name for name, mark in SHARED.items() if re.search(mark, file)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFixture:
    """How `make test` uses more than one core."""
    return ByFixture(config, log)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """CI has everything that the tests need, so a skipped test there is a missing installation."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def small(tmp_path: Path, model_file: Callable[..., Path], npz: Callable[..., Path]) -> Path:
    """A small model with labelled samples, in the folder that commands run in."""
    npz(x=np.eye(4, dtype=np.float32)[[0, 1, 2]], labels=np.arange(3))
    return model_file(tmp_path / "tiny.onnx")
