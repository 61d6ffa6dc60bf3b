"""What the tests of the server share: a small model, the server in a process of its own, and requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save
from prometheus_client.parser import text_string_to_metric_families

TEMPLATES = Path(__file__).resolve().parents[2] / "workbench" / "exporters" / "server"
CODE = tuple(sorted(path.name for path in TEMPLATES.glob("*.py") if path.name != "__init__.py"))
INFER = "/v2/models/looper/infer"
X: NDArray[np.float32] = np.array([[0.1, -0.2, 0.3, 0.4], [0.5, 0.6, -0.7, 0.8]], np.float32)
MODEL: dict[str, Any] = {
    "name": "looper",
    "version": "3",
    "path": "model.onnx",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "steps", "datatype": "INT64", "shape": [1]},
    ],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "taken", "datatype": "INT64", "shape": [1]},
    ],
    "provider": "CPUExecutionProvider",
    "threads": 1,
    "instances": 2,
    "queue": 2,
    "request_seconds": 20.0,
    "references": [{"name": "x", "mean": 0.25, "deviation": 0.5}],
}
CONFIG: dict[str, Any] = {
    "models": [MODEL],
    "limits": {"body_bytes": 200_000, "header_seconds": 20.0, "body_seconds": 20.0},
}
HASTY_LIMITS = {**CONFIG["limits"], "header_seconds": 0.6, "body_seconds": 0.6}


def with_model(**changes: Any) -> dict[str, Any]:
    """The configuration with changes of its model; ... leaves a key out."""
    return {**CONFIG, "models": [{k: v for k, v in {**MODEL, **changes}.items() if v is not ...}]}


def write_package(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    """The code and the configuration; the model is up to the test."""
    folder.mkdir(exist_ok=True)
    for name in CODE:
        shutil.copy(TEMPLATES / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@dataclass
class Server:
    """A running serve.py."""

    process: subprocess.Popen[str]
    port: int
    log: list[dict[str, Any]]

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    def infer(self, request: dict[str, Any], path: str = INFER) -> tuple[int, dict[str, Any]]:
        status, _, body = self.call("POST", path, json.dumps(request).encode())
        return status, json.loads(body)

    def metrics(self) -> dict[str, float]:
        """Every series by its name and labels, read by Prometheus' own client."""
        status, headers, page = self.call("GET", "/metrics")
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        return {
            ",".join([sample.name, *(f"{name}={sample.labels[name]}" for name in sorted(sample.labels))]): sample.value
            for family in text_string_to_metric_families(page.decode())
            for sample in family.samples
        }

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


def write_model(path: Path, steps: int = 0) -> None:
    """y = tanh(x·w), repeated `steps` times: the request says how long it takes, or the model itself does."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Squeeze", ["steps"], ["count"]),
        helper.make_node("Loop", ["count", "", "x"], ["y"], body=body),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    weights = [numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32), "w")]
    if steps:
        weights.append(numpy_helper.from_array(np.array([steps]), "steps"))
    else:
        nodes.append(helper.make_node("Identity", ["steps"], ["taken"]))
        inputs.append(helper.make_tensor_value_info("steps", TensorProto.INT64, [1]))
        outputs.append(helper.make_tensor_value_info("taken", TensorProto.INT64, [1]))
    write_graph(path, nodes, inputs, outputs, weights)


def write_graph(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> None:
    graph = helper.make_graph(nodes, "looper", inputs, outputs, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def tensors(steps: int = 2, **changes: Any) -> list[dict[str, Any]]:
    x = {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist(), **changes}
    return [x, {"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}]


def in_binary(
    head: dict[str, Any], *arrays: NDArray[Any], announced: str | None = None
) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    body = text + b"".join(array.tobytes() for array in arrays)
    return body, {"Inference-Header-Content-Length": announced or str(len(text))}


def binary_inputs(x_bytes: int = X.nbytes) -> list[dict[str, Any]]:
    return [
        {"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": x_bytes}},
        {"name": "steps", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
    ]


def read_all(connection: socket.socket) -> bytes:
    """What the server says until it closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            answer += part
    return answer


def wait_until_busy(server: Server) -> None:
    """Returns when a slow request holds a place: two more than the limit of 2 places are refused."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.infer({"inputs": []})[0] == 503:
            return
    raise AssertionError("the server never was full")


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    command = [sys.executable, str(folder / "serve.py"), "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stderr is not None
        try:
            log: list[dict[str, Any]] = []
            while not log or log[-1].get("event.action") != "start":
                log.append(json.loads(process.stderr.readline()))
            yield Server(process, log[-1]["server.port"], log)
        finally:
            process.kill()


def refusal(folder: Path, *arguments: str) -> str:
    """The one line that a package ends with which does not start."""
    command = [sys.executable, str(folder / "serve.py"), "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("serve.py cannot start. ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
