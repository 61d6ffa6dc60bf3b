"""haproxy and nginx before two versions for tests: the programs, exported versions that run, and callers that count."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.exporters.serving import write_graph, write_model
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import Package, export_package
from workbench.importers import load_model

PROGRAMS = ("haproxy", "nginx")
_HELPERS = ("socat",)  # for commands of exported READMEs
_PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_START_SECONDS = 30.0


def find_program(name: str) -> str:
    """The path of a program; its name if it is not here."""
    return shutil.which(name, path=_PLACES) or name


def get_programs() -> None:
    """Installs Debian's packages where they are missing; no service is started.

    Raises:
        OSError: They cannot be had here.
    """
    missing = [name for name in (*PROGRAMS, *_HELPERS) if not shutil.which(name, path=_PLACES)]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid():
        raise OSError(f"Install {' and '.join(missing)}: they are not here, and only root can get them.")
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # RUNLEVEL: do not start them
    for command in (["apt-get", "update", "-q"], install):
        ended = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"apt-get gives no {' and no '.join(missing)}: {ended.stderr[-500:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def free_ports(count: int) -> list[int]:
    """Different ones: all are held until the last is found."""
    with contextlib.ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def export_version(folder: Path, version: str, sample: Dataset, *, steps: int = 1, **options: Any) -> Package:
    """A version of the small model whose requests take as long as so many steps; exported as a user would."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "looper.onnx"
    write_model(path, steps=steps)
    return _export(path, folder / f"version-{version}", version, sample, options)


def export_failing_version(folder: Path, version: str, sample: Dataset, **options: Any) -> Package:
    """A version that fails every request of more than one sample; its own sample, and so its readiness, is fine."""
    path = _write(folder, "x", [helper.make_node("Reshape", ["x", "one"], ["row"]), _tanh("row")])
    return _export(path, folder / f"version-{version}", version, sample, options)


def export_renamed_version(folder: Path, version: str) -> Package:
    """A version that calls its input otherwise, and so refuses what the others take."""
    path = _write(folder, "z", [_tanh("z")])
    return _export(path, folder / f"version-{version}", version, Dataset({"z": np.ones((1, 4), np.float32)}), {})


def _write(folder: Path, name: str, nodes: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    weights = [numpy_helper.from_array(np.array([1, 4]), "one")]
    write_graph(folder / "looper.onnx", nodes, inputs, outputs, weights)
    return folder / "looper.onnx"


def _tanh(name: str) -> Any:
    return helper.make_node("Tanh", [name], ["y"])


def _export(path: Path, target: Path, version: str, sample: Dataset, options: dict[str, Any]) -> Package:
    candidate = Candidate(f"version {version}", build_engine(load_model(path)))
    return export_package(candidate, "server", {"version": version, **options}, sample=sample, directory=target)


@dataclass
class Service:
    """A running version."""

    process: subprocess.Popen[bytes]
    port: int
    grpc: int | None = None

    def workers(self) -> list[int]:
        """The processes that answer, where there are several."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """kill -9: it has no chance to end well."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def running_service(package: Package, port: int, workers: int = 1, *, grpc: int | None = None) -> Iterator[Service]:
    """Runs a package's server until the block ends; unlike `serve_package`, a test may kill it."""
    command = [sys.executable, "serve.py", "--port", str(port), "--workers", str(workers)]
    if grpc is not None:
        command += ["--grpc-port", str(grpc)]
    with (
        (package.directory.parent / f"{package.directory.name}.log").open("wb") as log,
        subprocess.Popen(command, cwd=package.directory, stderr=log, stdout=log, start_new_session=True) as process,
    ):
        service = Service(process, port, grpc)
        try:
            wait_until_ready(service.address)
            yield service
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(address: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(address, "GET", "/v2/health/ready")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"{address} is not ready")


def ask(
    address: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def request_of(samples: int) -> bytes:
    """A request that the small model answers."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [samples, 4], "data": [0.1, -0.2, 0.3, 0.4] * samples}
    return json.dumps({"inputs": [tensor]}).encode()


@dataclass
class Callers:
    """Callers who ask in a closed loop, each on a connection that stays open, and what became of their requests."""

    address: str
    path: str
    body: bytes
    count: int = 4
    pause: float = 0.004
    headers: dict[str, str] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        return sum(self.statuses.values())

    @property
    def lost(self) -> int:
        """Requests that were not answered with 200."""
        return self.total - self.statuses["200"]

    @contextlib.contextmanager
    def calling(self) -> Iterator[Callers]:
        threads = [threading.Thread(target=self._call) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for(self, requests: int, seconds: float = 60.0) -> None:
        """Returns when so many more requests have been answered."""
        wanted, end = self.total + requests, time.monotonic() + seconds
        while self.total < wanted:
            assert time.monotonic() < end, f"{wanted - self.total} requests are missing after {seconds:g} s"
            time.sleep(0.02)

    def _call(self) -> None:
        headers = {"Content-Type": "application/json", **self.headers}
        with contextlib.closing(http.client.HTTPConnection(self.address, timeout=30)) as connection:

            def ask() -> tuple[str, str]:
                try:
                    connection.request("POST", self.path, self.body, headers)
                    response = connection.getresponse()
                    body = response.read()
                except (OSError, http.client.HTTPException):
                    connection.close()
                    raise
                return str(response.status), json.loads(body)["model_version"] if response.status == 200 else ""

            self._repeat(ask, OSError, http.client.HTTPException)

    def _repeat(self, ask: Callable[[], tuple[str, str]], *lost: type[Exception]) -> None:
        """Asks until it is over, and counts what came: a status and a version, or one of these errors."""
        while not self._stop.is_set():
            begun, version = time.monotonic(), ""
            try:
                status, version = ask()
            except lost as error:
                status = self._describe(error)
            with self._lock:
                self.statuses[status] += 1
                self.versions[version] += 1
                self.slowest = max(self.slowest, time.monotonic() - begun)
            time.sleep(self.pause)

    def _describe(self, error: Exception) -> str:
        return f"{type(error).__name__}: {error}"
