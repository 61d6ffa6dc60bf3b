"""Measures what the exported service costs over a bare session.run: python benchmarks/server.py.

One run, in interleaved rounds: the same model and input through `session.run` in this process, and through serve.py in
another one with binary tensors, with JSON and over gRPC. Processor time is the server process's own, from its clock in
the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from workbench.exporters.server.grpc_messages import SERVICE, message_classes

TEMPLATES = Path(__file__).resolve().parent.parent / "workbench" / "exporters" / "server"
SHAPE = [1, 3, 224, 224]
CHANNELS = [3, 64, 128, 160, 256]


@dataclass
class Rounds:
    """What one way of asking took: per round, processor µs per request and requests per second."""

    cpu_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)


def build_model(path: Path) -> None:
    """Writes a small convolution net with random weights, 2 to 3 ms on one thread."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "image"
    for i, (before, after) in enumerate(itertools.pairwise(CHANNELS)):
        kernel = random.normal(0, 0.1, (after, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        stride = 4 if i == 0 else 2
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], strides=[stride] * 2, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CHANNELS[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def build_package(folder: Path) -> None:
    """Puts a package together as an export would."""
    for path in TEMPLATES.glob("*.py"):
        if path.name != "__init__.py":
            shutil.copy(path, folder)
    build_model(folder / "model.onnx")
    model = {
        "name": "net",
        "version": "1",
        "path": "model.onnx",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": SHAPE}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, CHANNELS[-1]]}],
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "references": [{"name": "image", "mean": 0.5, "deviation": 0.01}],  # as in every export: drift is watched too
    }
    limits = {"body_bytes": 1 << 24, "header_seconds": 10, "body_seconds": 10}
    config = {"models": [model], "limits": limits, "grpc": importlib.util.find_spec("grpc") is not None}
    (folder / "config.json").write_text(json.dumps(config))


def http_request(head: dict[str, object], tail: bytes = b"") -> bytes:
    """One complete request, ready to be sent again and again."""
    body = json.dumps(head).encode()
    lines = [f"POST /v2/models/net/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + len(tail)}\r\n"]
    if tail:
        lines.append(f"Inference-Header-Content-Length: {len(body)}\r\n")
    return "".join(lines).encode() + b"\r\n" + body + tail


def ask(connection: socket.socket, request: bytes) -> None:
    """Sends one request and reads its whole answer."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"The server answered {answer[:300]!r}")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)


def load(port: int, request: bytes, count: int, connections: int) -> float:
    """Sends `count` requests over so many connections, each waiting for its answer; returns the seconds it took."""

    def work(share: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(share):
                ask(connection, request)

    with ThreadPoolExecutor(connections) as pool:
        start = time.perf_counter()
        list(pool.map(work, [count // connections] * connections))  # which raises what a caller did
        return time.perf_counter() - start


def processor_seconds(pid: int) -> float:
    """Processor time of another process with nanoseconds, from its clock (Linux: ~pid << 3 | CPUCLOCK_SCHED)."""
    return time.clock_gettime((~pid << 3) | 2)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Starts a package; yields its process and what it says of its start."""
    command = [sys.executable, str(folder / "serve.py"), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        yield server.pid, json.loads(server.stderr.readline())
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def grpc_load(port: int, image: NDArray[np.float32]) -> Callable[[int], float]:
    """Sends so many requests over gRPC, one after the other; returns the seconds it took."""
    import grpc

    messages = message_classes()
    request = messages["ModelInferRequest"](model_name="net", raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=SHAPE)
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer", request_serializer=messages["ModelInferRequest"].SerializeToString
    )

    def send(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            call(request, timeout=30)
        return time.perf_counter() - start

    return send


def measure(folder: Path, rounds: int, count: int, connections: int) -> dict[str, Rounds]:
    """Runs all ways of asking in turn, round after round, so that the machine's moods fall on all alike."""
    image: NDArray[np.float32] = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    tensor = {"name": "image", "datatype": "FP32", "shape": SHAPE}
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": image.nbytes}}]}
    binary = http_request({**head, "parameters": {"binary_data_output": True}}, image.tobytes())
    text = http_request({"inputs": [{**tensor, "data": image.ravel().tolist()}]})
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def direct(many: int) -> float:
        start = time.perf_counter()
        for _ in range(many):
            session.run(None, {"image": image})
        return time.perf_counter() - start

    with running(folder) as (pid, said):
        port = said["server.port"]
        ways: dict[str, tuple[int, int, Callable[[int], float]]] = {  # whose processor time, requests, what sends them
            "session.run": (os.getpid(), count, direct),
            "serve.py, binary": (pid, count, lambda many: load(port, binary, many, connections)),
            "serve.py, JSON": (pid, max(connections, count // 5), lambda many: load(port, text, many, connections)),
        }
        if "labels.grpc_port" in said:
            ways["serve.py, gRPC"] = (pid, count, grpc_load(said["labels.grpc_port"], image))
        results = {name: Rounds() for name in ways}
        for round_ in range(-1, rounds):  # round -1 warms up
            for name, (whose, many, send) in ways.items():
                before = processor_seconds(whose)
                seconds = send(many)
                used = processor_seconds(whose) - before
                if round_ >= 0:
                    results[name].cpu_us.append(used / many * 1e6)
                    results[name].per_second.append(many / seconds)
    return results


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=100, help="requests per round (a fifth of it for JSON)")
    parser.add_argument("--connections", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        build_package(Path(name))
        results = measure(Path(name), arguments.rounds, arguments.count, arguments.connections)
    print(
        f"1x3x224x224 float32 (602 kB), 1 thread per run, {os.cpu_count()} cores, {arguments.connections} connection, "
        f"onnxruntime {ort.__version__}; median of {arguments.rounds} rounds (lowest to highest)"
    )
    direct = results["session.run"].cpu_us
    print(f"{'':18}{'CPU µs/request':>26}{'efficiency':>20}{'requests/s':>12}")
    for way, result in results.items():
        shares = [100 * own / used for own, used in zip(direct, result.cpu_us, strict=True)]
        cpu = f"{statistics.median(result.cpu_us):.0f} ({min(result.cpu_us):.0f} to {max(result.cpu_us):.0f})"
        share = f"{statistics.median(shares):.0f} % ({min(shares):.0f} to {max(shares):.0f})"
        print(f"{way:18}{cpu:>26}{share:>20}{statistics.median(result.per_second):>12.0f}")


if __name__ == "__main__":
    main()
