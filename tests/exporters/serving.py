"""What the tests of the server share: a small model, the server in a process of its own, and requests."""

from __future__ import annotations

import contextlib
import http.client
import json
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

TEMPLATES = Path(__file__).resolve().parents[2] / "workbench" / "exporters" / "server"
CODE = ("serve.py", "runner.py", "limits.py", "protocol.py")
INFER = "/v2/models/looper/infer"
X: NDArray[np.float32] = np.array([[0.1, -0.2, 0.3, 0.4], [0.5, 0.6, -0.7, 0.8]], np.float32)
CONFIG: dict[str, Any] = {
    "name": "looper",
    "version": "3",
    "model": "model.onnx",
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
    "limits": {"body_bytes": 200_000, "queue": 2, "header_seconds": 0.6, "body_seconds": 0.6, "request_seconds": 1.0},
}


@dataclass
class Server:
    """A running serve.py."""

    process: subprocess.Popen[str]
    port: int
    log: list[dict[str, Any]]

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    def infer(self, request: dict[str, Any], path: str = INFER) -> tuple[int, dict[str, Any]]:
        status, _, body = self.call("POST", path, json.dumps(request).encode())
        return status, json.loads(body)

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


def write_model(path: Path) -> None:
    """y = tanh(x·w), repeated `steps` times: the request says how long it takes."""
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
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["steps"], ["count"]),
            helper.make_node("Loop", ["count", "", "x"], ["y"], body=body),
            helper.make_node("Identity", ["steps"], ["taken"]),
        ],
        "looper",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("steps", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("taken", TensorProto.INT64, [1]),
        ],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32), "w")],
    )
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
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if server.infer({"inputs": []})[0] == 503:
            return
    raise AssertionError("the server never was full")


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    command = [sys.executable, str(folder / "serve.py"), "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            log: list[dict[str, Any]] = []
            while not log or log[-1]["event"] != "start":
                log.append(json.loads(process.stderr.readline()))
            yield Server(process, log[-1]["port"], log)
        finally:
            process.kill()
