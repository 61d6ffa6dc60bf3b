"""Starts an exported package on this machine and sends it its own sample request."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from workbench._ports import HOST, check_port, free_ports, why_not
from workbench.errors import ExportError, OptionsError
from workbench.exporters import Package, read_package
from workbench.jobs import Progress, silent

KEY_VARIABLE = "WORKBENCH_API_KEY"  # where a package exported with `api_key=environment` looks for its key
_START_SECONDS = 30.0
_MOST_WORKERS = 256  # which the service itself allows


class _Address(NamedTuple):
    host: str
    port: int


class Serving(_Address):
    """A running package; unpacks into host and port.

    Attributes:
        host: Where it listens.
        port: Its port for HTTP.
        key: What callers must send, as `headers` has it; empty if it takes requests without one.
        grpc_port: Its port for gRPC; 0 if it answers none.
        pid: Its process, which takes signals; 0 while there is none.
    """

    key: str
    grpc_port: int
    pid: int

    def __new__(cls, host: str, port: int, key: str = "", grpc_port: int = 0, pid: int = 0) -> Serving:
        """Makes the tuple of host and port; the rest is beside it."""
        made = super().__new__(cls, host, port)
        made.key, made.grpc_port, made.pid = key, grpc_port, pid
        return made

    @property
    def url(self) -> str:
        """Its address for HTTP."""
        return f"http://{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request must bring along."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True)
class Trial:
    """What a started package answered.

    Attributes:
        url: Where it was asked.
        status: HTTP status of the answer.
        milliseconds: Round trip of one JSON request on a connection already open, ms.
        max_abs_error: Largest difference from the answer that the package expects; infinite if it is for other outputs.
        matches: Whether that difference is within rounding.
        keyed: Whether it was asked with a key, made for this trial.
    """

    url: str
    status: int
    milliseconds: float
    max_abs_error: float
    matches: bool
    keyed: bool = False

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.status != 200:
            return "the request was refused"
        return f"{'as expected' if self.matches else 'NOT as expected'} (largest difference {self.max_abs_error:.2g})"


@contextlib.contextmanager
def serve_package(
    package: Package | str | Path, *, port: int = 0, key: str = "", workers: int = 0, progress: Progress = silent
) -> Iterator[Serving]:
    """Runs a package's server on 127.0.0.1 for as long as the block lasts, with this Python.

    Args:
        package: A package with a `command`, or its folder.
        port: Port to use; a free one if 0.
        key: What callers have to send, where the package was exported with `api_key=environment`; one is made up if
            empty.
        workers: Processes that answer side by side; as many as its config.json says if 0.
        progress: Called while it starts; may raise to cancel.

    Yields:
        Host and port, and beside them the key, the port for gRPC and the process.

    Raises:
        ExportError: There is no package, it is for another program, its port is in use, or it does not become ready:
            then the message holds the last lines it wrote.
        OptionsError: There is no such port, or there cannot be so many workers.
    """
    package = _read(package)
    start = _prepare(package, port, key, workers)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            start.command,
            cwd=package.directory,
            env=start.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        start.serving.pid = process.pid
        try:
            _wait_until_ready(package, process, start.serving.port, progress, output)
            yield start.serving
        finally:
            _end(process)


def become_service(package: Package | str | Path, *, port: int = 8000, workers: int = 0) -> NoReturn:
    """Turns this process into a package's server on 127.0.0.1: it gets the signals, the log and the exit code.

    Where the package wants a key, it is that of `$WORKBENCH_API_KEY`; without one, a key is made up and printed.

    Args:
        package: A package with a `command`, or its folder.
        port: Port to use; a free one if 0.
        workers: Processes that answer side by side; as many as its config.json says if 0.

    Raises:
        ExportError: There is no package, it is for another program, or its port is in use.
        OptionsError: There is no such port, or there cannot be so many workers.
    """
    package = _read(package)
    given = os.environ.get(KEY_VARIABLE, "")
    start = _prepare(package, port, given, workers)
    serving = start.serving
    print(f"{package.name}: {serving.url}/v2/models/{package.name} once it is loaded, until Ctrl+C")
    if serving.grpc_port:
        reason = f", as {port + 1} cannot be had" if port and serving.grpc_port != port + 1 else ""
        print(f"gRPC: {serving.host}:{serving.grpc_port}{reason}")
    if serving.key:
        header = "Authorization: Bearer"
        print(f"Key: that of ${KEY_VARIABLE}" if given else f"Key, made for this run: {header} {serving.key}")
    sys.stdout.flush()
    os.chdir(package.directory)
    os.execvpe(start.command[0], start.command, start.environment)


def try_package(package: Package | str | Path, *, progress: Progress = silent) -> Trial:
    """Starts a package, sends its sample request, compares the answer with the expected one, stops it.

    Args:
        package: A package with a `command`, or its folder.
        progress: Called while it starts; may raise to cancel.

    Raises:
        ExportError: There is no package, it is for another program, or it does not start.
    """
    package = _read(package)
    _check_startable(package)
    request, expected = _sample(package)
    with serve_package(package, progress=progress) as serving:
        path = f"/v2/models/{package.name}/infer"
        connection = http.client.HTTPConnection(serving.host, serving.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/v2", headers=serving.headers)
            connection.getresponse().read()
            start = time.perf_counter()
            connection.request("POST", path, request, {"Content-Type": "application/json", **serving.headers})
            response = connection.getresponse()
            body = response.read()
            milliseconds = (time.perf_counter() - start) * 1000
        error = _largest_error(json.loads(body), expected) if response.status == 200 else float("inf")
    scale = max(float(np.abs(np.asarray(t["data"], dtype=np.float64)).max()) for t in expected["outputs"])
    matches, keyed = error <= 1e-3 * max(scale, 1.0), bool(serving.key)
    return Trial(f"{serving.url}{path}", response.status, milliseconds, error, matches, keyed)


@dataclass(frozen=True)
class _Start:
    """How a package is started, and where it will be."""

    command: list[str]
    environment: dict[str, str]
    serving: Serving


def _read(package: Package | str | Path) -> Package:
    return package if isinstance(package, Package) else read_package(Path(package).expanduser())


def _prepare(package: Package, port: int, key: str, workers: int) -> _Start:
    """What the package's config.json asks for: a key, a port for gRPC."""
    _check_startable(package)
    if not 0 <= workers <= _MOST_WORKERS:
        raise OptionsError(
            f"{workers} workers cannot be started.", f"Say 1 to {_MOST_WORKERS}, or 0 for what its config.json says."
        )
    check_port(port)
    try:
        config = json.loads((package.directory / "config.json").read_bytes())
        keyed, grpc = config.get("api_key") == "environment", config.get("grpc") is True
    except (OSError, ValueError, AttributeError, RecursionError):
        keyed = grpc = False  # the server says what is wrong with it
    key = (key or secrets.token_urlsafe(24)) if keyed else ""
    if not port:
        port, *others = free_ports(1 + grpc)
    else:  # gRPC has the port after it, as the package's README says
        others = [free for free in (port + 1, *free_ports(2)) if free != port and not why_not(free)][:1] if grpc else []
    serving = Serving(HOST, port, key, *others)
    command = [sys.executable if word == "python" else word for word in package.command]
    command += ["--host", serving.host, "--port", str(port)]
    command += ["--grpc-port", str(serving.grpc_port)] if grpc else []
    command += ["--workers", str(workers)] if workers else []
    return _Start(command, {**os.environ, **({KEY_VARIABLE: key} if keyed else {})}, serving)


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
            connection = http.client.HTTPConnection(HOST, port, timeout=1)
            with contextlib.closing(connection):
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    return
        time.sleep(0.05)
    ended = process.poll()
    how = f"within {_START_SECONDS:.0f} s" if ended is None else f"but ended with code {ended}"
    output.seek(0)
    last = " ".join(output.read()[-600:].decode(errors="replace").split()).rstrip(".")
    raise ExportError(
        f"{package.directory} did not become ready {how}. It wrote: {last or 'nothing'}.",
        "Run its start command by hand in that folder to see more.",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Lets it finish; it ends its workers itself, to which a second signal would mean not to finish."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
