"""A real tritonserver on the CPU: out of NVIDIA's wheel `nvidia-pytriton`, with ONNX Runtime as a backend in Python."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

WHEEL = "nvidia-pytriton==0.7.0"  # which holds Triton 2.51
BACKEND = Path(__file__).with_name("onnxruntime_backend.py")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# What Triton's stub is compiled for; the runtime is the tested one, so that answers can be the same bit by bit.
STUB_NEEDS = ("numpy==1.26.4", f"onnxruntime=={version('onnxruntime')}")
CLIENT_NEEDS = ("tritonclient[grpc,http]==2.73.0",)
PERF_WHEEL, PERF_LIBRARY = "tritonclient==2.51.0", "libb64-0d"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Triton:
    """A running server."""

    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    log: Path

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer of an HTTP request; a body that is no bytes goes as JSON."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.http, timeout=30)) as connection:
            connection.request(method, path, content)
            response = connection.getresponse()
            answer = response.read()
            return response.status, json.loads(answer) if answer else None

    def infer(self, model: str, request: Any) -> tuple[int, Any]:
        """Status and answer of an inference."""
        return self.call("POST", f"/v2/models/{model}/infer", request)

    @property
    def ready(self) -> bool:
        """What it says of itself."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/v2/health/ready")[0] == 200
        return False


@contextlib.contextmanager
def serving(repository: Path, *flags: str) -> Iterator[Triton]:
    """Runs tritonserver on 127.0.0.1 as the package's README says, for as long as the block lasts."""
    home = installed()
    ports = free_ports(3)
    command = [home / "bin" / "tritonserver", f"--model-repository={repository}"]
    command += ["--disable-auto-complete-config", "--exit-on-error=true", *flags]
    for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}"]
    # Its stub runs on the system's libpython, and takes the packages of an environment on the path before those beside
    # the backend: both must be the system's.
    environment = {"PATH": "/usr/bin:/bin"}
    log = Path(tempfile.mkdtemp(prefix="triton-log-")) / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--backend-directory={home / 'backends'}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        triton = Triton(process, ports[0], ports[1], log)
        deadline = time.monotonic() + START_SECONDS
        while not triton.ready:
            assert process.poll() is None, f"ended with {process.returncode}: {faults(log)}"
            assert time.monotonic() < deadline, f"not ready: {faults(log)}"
            time.sleep(0.1)
        yield triton
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(log.parent)


def faults(log: Path) -> str:
    """The lines of a log that say what went wrong."""
    return "\n".join(line for line in log.read_text(errors="replace").splitlines() if re.match(r"E\d|error", line))


def installed() -> Path:
    """The folder with tritonserver's `bin` and `backends`; fetched and unpacked once, then found again."""
    name = f"{WHEEL}-py{PYTHON}-{STUB_NEEDS[-1]}".replace("==", "-")
    with cached(name) as (folder, new):
        home = folder / "pytriton" / "tritonserver"
        if new:
            pip("download", "--no-deps", "--dest", folder, WHEEL)
            (wheel,) = folder.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            wheel.unlink()
            # The stub finds its libraries by where it lies, and packages only beside a backend's model.py.
            stub = home / "backends" / "python" / "triton_python_backend_stub"
            shutil.copyfile(home / "python_backend_stubs" / PYTHON / stub.name, stub)
            pip("install", "--target", home / "backends" / "onnxruntime", *STUB_NEEDS)
            for program in (stub, home / "bin" / "tritonserver"):
                program.chmod(0o755)
    shutil.copyfile(BACKEND, home / "backends" / "onnxruntime" / "model.py")
    return home


def client_environment() -> Path:
    """`bin` of an environment with what the package's requirements.txt asks for, and perf_analyzer."""
    with cached("-".join(CLIENT_NEEDS).translate({ord(c): "-" for c in "[],="}) + f"-py{PYTHON}") as (folder, new):
        if new:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip("install", *CLIENT_NEEDS, python=folder / "bin" / "python")
    return folder / "bin"


def perf_analyzer(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Triton's load generator in a folder; its last wheel is that of an older client."""
    with cached(f"{PERF_WHEEL}-perf".replace("==", "-")) as (home, new):
        if new:
            pip("download", "--no-deps", "--dest", home, PERF_WHEEL)
            with zipfile.ZipFile(next(home.glob("*.whl"))) as archive:
                (program,) = (name for name in archive.namelist() if name.endswith("/perf_analyzer"))
                (home / "perf_analyzer").write_bytes(archive.read(program))
            (home / "perf_analyzer").chmod(0o755)
            subprocess.run(["apt-get", "download", "-q", PERF_LIBRARY], cwd=home, capture_output=True, check=True)
            subprocess.run(["dpkg", "-x", next(home.glob("*.deb")), home], check=True)
            (cuda,) = installed().parents[1].glob("nvidia_pytriton.libs/libcudart-*")  # loaded even where no GPU is
            (next(home.rglob("libb64.so*")).parent / "libcudart.so.12").symlink_to(cuda)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(next(home.rglob("libb64.so*")).parent)}
    return subprocess.run(
        [home / "perf_analyzer", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@contextlib.contextmanager
def cached(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that outlives the run, and whether it must be filled; one process at a time."""
    folder = Path(tempfile.gettempdir()) / "workbench-serving" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = folder / "whole"
        if not (done := whole.exists()):
            shutil.rmtree(folder)
            folder.mkdir()
        yield folder, not done
        whole.touch()


def pip(*words: str | Path, python: str | Path = sys.executable) -> None:
    """Runs pip; what it says is shown where it fails."""
    command: Sequence[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "-q", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
