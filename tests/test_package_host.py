"""A package that is started beside this process ends with it, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled, ExportError
from workbench.exporters import Package, export_package, read_package
from workbench.model import Model
from workbench.package_host import host_package
from workbench.service.metrics import read_service
from workbench.workspace import Workspace

SCRIPT = """
import sys, time
from pathlib import Path
from workbench.exporters import read_package
from workbench.package_host import host_package
with host_package(read_package(Path(sys.argv[1]))) as serving:
    print(serving.port, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def package(tmp_path: Path, tiny: Model, tiny_data: Dataset, shared_workspace: Workspace) -> Package:
    made = export_package(Candidate("tiny", build_engine(tiny)), sample=tiny_data, workspace=shared_workspace)
    shutil.copytree(made.directory, tmp_path / "package")
    return read_package(tmp_path / "package")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_lives_as_long_as_the_block(package: Package, processes_in: Callable[[Path], list[str]]) -> None:
    with host_package(package) as serving:
        assert read_service(f"http://{serving.host}:{serving.port}").models() == ((package.name, "1"),)
    assert not answers(serving.port)
    assert not [command for command in processes_in(package.directory.parent) if "serve.py" in command]


def test_it_ends_when_this_process_is_killed(package: Package) -> None:
    command = [sys.executable, "-c", SCRIPT, str(package.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert answers(port)
        os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while answers(port):
        assert time.monotonic() < end, "the server outlived the process that had started it"
        time.sleep(0.1)


def test_what_does_not_start_is_said(package: Package) -> None:
    (package.directory / "sample_request.json").write_text('{"inputs": []}')
    with pytest.raises(ExportError, match=r"It wrote: .*sample_request\.json"), host_package(package):
        pass


def test_a_cancel_while_it_starts_ends_it(package: Package, processes_in: Callable[[Path], list[str]]) -> None:
    def cancel(fraction: float, message: str) -> None:
        if [command for command in processes_in(package.directory.parent) if "serve.py" in command]:
            raise Cancelled

    with pytest.raises(Cancelled), host_package(package, progress=cancel):
        pass
    assert not [command for command in processes_in(package.directory.parent) if "serve.py" in command]
