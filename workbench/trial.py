"""Starts an exported package on this machine and sends it its own sample request."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from workbench.errors import ExportError
from workbench.exporters import Package
from workbench.jobs import Progress, silent

_START_SECONDS = 30.0


@dataclass(frozen=True)
class Trial:
    """What a started package answered.

    Attributes:
        url: Where it was asked.
        status: HTTP status of the answer.
        milliseconds: Round trip of one JSON request on a connection already open, ms.
        max_abs_error: Largest difference from the answer that the package expects; infinite if it is for other outputs.
        matches: Whether that difference is within rounding.
    """

    url: str
    status: int
    milliseconds: float
    max_abs_error: float
    matches: bool

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.status != 200:
            return "the request was refused"
        return f"{'as expected' if self.matches else 'NOT as expected'} (largest difference {self.max_abs_error:.2g})"


@contextlib.contextmanager
def serve_package(package: Package, *, port: int = 0, progress: Progress = silent) -> Iterator[tuple[str, int]]:
    """Runs a package's server on 127.0.0.1 for as long as the block lasts, with this Python.

    Args:
        package: A package with a `command`.
        port: Port to use; a free one if 0.
        progress: Called while it starts; may raise to cancel.

    Yields:
        Host and port.

    Raises:
        ExportError: It is for another program, or does not become ready; the message holds the last lines it wrote.
    """
    _check_startable(package)
    port = port or _free_port()
    command = [sys.executable if word == "python" else word for word in package.command]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=package.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _wait_until_ready(package, process, port, progress, output)
            yield "127.0.0.1", port
        finally:
            _end(process)


def try_package(package: Package, *, progress: Progress = silent) -> Trial:
    """Starts a package, sends its sample request, compares the answer with the expected one, stops it.

    Raises:
        ExportError: It is for another program, or does not start.
    """
    _check_startable(package)
    request, expected = _sample(package)
    with serve_package(package, progress=progress) as (host, port):
        path = f"/v2/models/{package.name}/infer"
        connection = http.client.HTTPConnection(host, port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/v2")
            connection.getresponse().read()
            start = time.perf_counter()
            connection.request("POST", path, request, {"Content-Type": "application/json"})
            response = connection.getresponse()
            body = response.read()
            milliseconds = (time.perf_counter() - start) * 1000
        error = _largest_error(json.loads(body), expected) if response.status == 200 else float("inf")
    scale = max(float(np.abs(np.asarray(t["data"], dtype=np.float64)).max()) for t in expected["outputs"])
    return Trial(f"http://{host}:{port}{path}", response.status, milliseconds, error, error <= 1e-3 * max(scale, 1.0))


def _check_startable(package: Package) -> None:
    if not package.command:
        raise ExportError(
            f"{package.directory} holds nothing to start: its {package.exporter} files are for another program.",
            "Its README.md says how that program is given them.",
        )


def _sample(package: Package) -> tuple[bytes, dict[str, Any]]:
    try:
        request = (package.directory / "sample_request.json").read_bytes()
        return request, json.loads((package.directory / "sample_response.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{package.directory} lacks its sample request or the expected answer ({error}).",
            "Export the candidate again.",
        ) from None


def _largest_error(answer: dict[str, Any], expected: dict[str, Any]) -> float:
    outputs = {tensor["name"]: np.asarray(tensor["data"], np.float64) for tensor in answer["outputs"]}
    wanted = {tensor["name"]: np.asarray(tensor["data"], np.float64) for tensor in expected["outputs"]}
    if {name: data.shape for name, data in outputs.items()} != {name: data.shape for name, data in wanted.items()}:
        return float("inf")
    return max(float(np.abs(outputs[name] - data).max()) for name, data in wanted.items())


def _wait_until_ready(
    package: Package, process: subprocess.Popen[bytes], port: int, progress: Progress, output: IO[bytes]
) -> None:
    start = time.monotonic()
    while (waited := time.monotonic() - start) < _START_SECONDS:
        progress(min(0.9, waited / _START_SECONDS), "starting the server")
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            with contextlib.closing(connection):
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    return
        time.sleep(0.05)
    output.seek(0)
    last = " ".join(output.read()[-600:].decode(errors="replace").split())
    raise ExportError(
        f"{package.directory} did not become ready within {_START_SECONDS:.0f} s. It wrote: {last or 'nothing'}.",
        "Run its start command by hand in that folder to see more.",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
