"""Starts our packages and their peers on this machine, each peer in an environment of its own, all on one thread."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _serving_load import closed_loop, http_request

from tests.serving.tritonserver import free_ports, installed, serving

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".venv-peers"
RUNTIME = f"onnxruntime=={version('onnxruntime')}"  # the same in all
START_SECONDS = 90.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
Tensor = np.ndarray


class Server(NamedTuple):
    """A running server.

    Attributes:
        name: What its rows are called.
        pid: Root of its process tree.
        port: For HTTP.
        versions: What runs there.
        requests: By protocol, what makes a request of a model's name and a tensor.
        grpc_port: For gRPC, where it answers that.
    """

    name: str
    pid: int
    port: int
    versions: str
    requests: Mapping[str, Callable[[str, Tensor], bytes]]
    grpc_port: int = 0


def v2_json(model: str, array: Tensor) -> bytes:
    """A request of the V2 protocol in JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": array.shape, "data": array.ravel().tolist()}
    return http_request(f"/v2/models/{model}/infer", {"inputs": [tensor]})


def v2_binary(model: str, array: Tensor) -> bytes:
    """A request of the V2 protocol with binary tensors both ways."""
    tensor = {"name": "x", "datatype": "FP32", "shape": array.shape, "parameters": {"binary_data_size": array.nbytes}}
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return http_request(f"/v2/models/{model}/infer", head, array.tobytes())


def plain_json(model: str, array: Tensor) -> bytes:
    """A request of the FastAPI application in JSON."""
    return http_request(f"/json/{model}", {"shape": array.shape, "data": array.ravel().tolist()})


def plain_bytes(model: str, array: Tensor) -> bytes:
    """A request of the FastAPI application with a tensor's bytes."""
    headers = {"shape": ",".join(map(str, array.shape))}
    return http_request(f"/raw/{model}", None, array.tobytes(), headers)


def bento_json(model: str, array: Tensor) -> bytes:
    """A request of the BentoML service, which takes nested lists."""
    return http_request(f"/{model}", {"x": array.tolist()})


V2 = {"binary": v2_binary, "JSON": v2_json}


@dataclass(frozen=True)
class Peer:
    """A peer that runs in an environment of its own.

    Attributes:
        name: What its rows are called.
        key: Of its environment and requirements file.
        packages: Whose versions are shown.
        command: What starts it on a port, after its environment's `bin`.
        requests: As in `Server`.
        settings: Further environment variables.
        grpc: Whether it is asked over gRPC too.
    """

    name: str
    key: str
    packages: Sequence[str]
    command: Callable[[int], Sequence[str]]
    requests: Mapping[str, Callable[[str, Tensor], bytes]]
    settings: Mapping[str, str] = field(default_factory=dict)
    grpc: bool = False

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return ENVIRONMENTS / self.key / "bin" / "python"


PEERS = (
    Peer(
        "KServe",
        "kserve",
        ("kserve",),
        lambda port: ["python", f"{SCRIPTS}/kserve_models.py", str(port)],
        V2,
    ),
    Peer(
        "MLServer",
        "mlserver",
        ("mlserver",),
        lambda port: ["mlserver", "start", "."],
        {"JSON": v2_json},
        {"MLSERVER_PARALLEL_WORKERS": "0"},
        grpc=True,
    ),
    Peer(
        "FastAPI",
        "fastapi",
        ("fastapi", "pydantic", "uvicorn"),
        lambda port: ["python", f"{SCRIPTS}/fastapi_app.py", str(port)],
        {"bytes": plain_bytes, "JSON": plain_json},
    ),
    Peer(
        "BentoML",
        "bentoml",
        ("bentoml",),
        lambda port: ["bentoml", "serve", "bentoml_service:Models", "--host", "127.0.0.1", "--port", str(port)],
        {"JSON": bento_json},
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
)


def set_up() -> None:
    """Makes the environments that are not there yet, and fetches Triton; the rest of the benchmark needs no network."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n")
    for peer in PEERS:
        done = ENVIRONMENTS / peer.key / RUNTIME
        if done.exists():
            continue
        print(f"installing {peer.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENTS / peer.key], check=True)
        wanted = ["-r", SCRIPTS / f"requirements-{peer.key}.txt", RUNTIME]
        pip = [peer.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted]
        ended = subprocess.run(pip, capture_output=True, text=True, check=False)
        if ended.returncode:  # one peer less, and said; the others are measured all the same
            print(f"{peer.name} cannot be installed: {ended.stderr.strip()[-500:]}", flush=True)
        else:
            done.touch()
    try:
        installed()
    except AssertionError as error:
        print(f"Triton cannot be fetched: {str(error)[-500:]}", flush=True)


@contextlib.contextmanager
def running_peer(peer: Peer, models: Path) -> Iterator[Server]:
    """Runs a peer for as long as the block lasts.

    Raises:
        RuntimeError: It ends or does not answer.
    """
    port, grpc_port = free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if peer.key == "mlserver":
            write_mlserver(folder, models, port, grpc_port)
        environment = {
            **os.environ,
            **ONE_THREAD,
            **peer.settings,
            "PATH": f"{peer.python.parent}:{os.environ['PATH']}",
            "BENCHMARK_MODELS": str(models),
            "PYTHONPATH": str(SCRIPTS),
            "HOME": name,
        }
        with started([str(part) for part in peer.command(port)], folder, environment) as pid:
            server = Server(peer.name, pid, port, _versions(peer), peer.requests, grpc_port if peer.grpc else 0)
            request = next(iter(peer.requests.values()))("mlp", np.zeros((1, 64), np.float32))
            wait_until_answers(port, request, pid, folder / "log")
            yield server


def write_mlserver(folder: Path, models: Path, port: int, grpc_port: int) -> None:
    """MLServer is set up by files: one for itself and one for each model."""
    settings = {
        "http_port": port,
        "grpc_port": grpc_port,
        "host": "127.0.0.1",
        "debug": False,
        "metrics_endpoint": None,
    }
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "access_log": False}))
    for path in models.glob("*.onnx"):
        (folder / path.stem).mkdir()
        about = {"name": path.stem, "implementation": "mlserver_runtime.OnnxRuntime"}
        (folder / path.stem / "model-settings.json").write_text(json.dumps(about))


@contextlib.contextmanager
def started(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Runs a program in a group of its own, which is ended with all its children."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


def wait_until_answers(port: int, request: bytes, pid: int, log: Path) -> None:
    """Asks until the answer is right.

    Raises:
        RuntimeError: With the end of its log.
    """
    deadline, last = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < deadline:
        try:
            closed_loop(port, request, 0)
        except (OSError, RuntimeError) as error:
            last = str(error)
        else:
            return
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.2)
    raise RuntimeError(f"It does not answer ({last}): {log.read_text(errors='replace')[-1500:]}")


@contextlib.contextmanager
def running_package(folder: Path, name: str = "ours") -> Iterator[Server]:
    """Runs a package of ours for as long as the block lasts.

    Raises:
        RuntimeError: It ends or does not answer.
    """
    port, grpc_port = free_ports(2)
    model = json.loads((folder / "config.json").read_text())["models"][0]
    with tempfile.TemporaryDirectory() as at:
        command = [sys.executable, str(folder / "serve.py"), "--port", str(port), "--grpc-port", str(grpc_port)]
        with started(command, Path(at), {**os.environ, **ONE_THREAD}) as pid:
            shape = [max(1, size) for size in model["inputs"][0]["shape"]]
            request = v2_binary(model["name"], np.zeros(shape, np.float32))
            wait_until_answers(port, request, pid, Path(at) / "log")
            yield Server(name, pid, port, f"uvicorn {version('uvicorn')}", V2, grpc_port)


@contextlib.contextmanager
def running_triton(repository: Path) -> Iterator[Server]:
    """Runs the real tritonserver on exported repositories, with ONNX Runtime as its backend in Python."""
    with serving(repository) as triton:
        about = "2.51, backend in Python"
        yield Server("Triton", triton.process.pid, triton.http, about, V2, triton.grpc)


def _versions(peer: Peer) -> str:
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([peer.python, "-c", code, *peer.packages], capture_output=True, text=True, check=True)
    return done.stdout.strip()
