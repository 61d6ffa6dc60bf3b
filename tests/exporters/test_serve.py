"""The serving package's own process: its answers, what it refuses, its limits, and how it starts and stops."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
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


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    for name in CODE:
        shutil.copy(TEMPLATES / name, folder)
    write_model(folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


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


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[Server]:
    with serving(package) as running:
        yield running


@pytest.fixture(scope="module")
def session(package: Path) -> ort.InferenceSession:
    return ort.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def steps_per_second(session: ort.InferenceSession) -> float:
    start = time.perf_counter()
    session.run(None, {"x": X, "steps": np.array([20_000])})
    return 20_000 / (time.perf_counter() - start)


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


# What it answers


def test_describes_itself_and_the_model(server: Server) -> None:
    assert json.loads(server.call("GET", "/v2")[2])["extensions"] == ["binary_tensor_data"]
    assert json.loads(server.call("GET", "/v2/health/live")[2]) == {"live": True}
    assert json.loads(server.call("GET", "/v2/health/ready")[2]) == {"ready": True}
    assert json.loads(server.call("GET", "/v2/models/looper/ready")[2]) == {"name": "looper", "ready": True}
    for path in ("/v2/models/looper", "/v2/models/looper/versions/3"):
        about = json.loads(server.call("GET", path)[2])
        assert about["versions"] == ["3"]
        assert about["inputs"] == CONFIG["inputs"]
        assert about["outputs"] == CONFIG["outputs"]


@pytest.mark.parametrize("path", [INFER, "/v2/models/looper/versions/3/infer"])
def test_json_gives_what_onnxruntime_gives(server: Server, session: ort.InferenceSession, path: str) -> None:
    expected = session.run(None, {"x": X, "steps": np.array([2])})
    status, answer = server.infer({"id": "seven", "inputs": tensors()}, path)
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("looper", "3", "seven")
    y, taken = answer["outputs"]
    assert (y["name"], y["datatype"], y["shape"]) == ("y", "FP32", [2, 4])
    np.testing.assert_array_equal(np.array(y["data"], np.float32).reshape(2, 4), expected[0])
    assert taken == {"name": "taken", "datatype": "INT64", "shape": [1], "data": [2]}


def test_nested_data_and_chosen_outputs(server: Server) -> None:
    status, answer = server.infer({"inputs": tensors(data=X.tolist()), "outputs": [{"name": "taken"}]})
    assert status == 200
    assert [output["name"] for output in answer["outputs"]] == ["taken"]


def test_binary_gives_what_onnxruntime_gives(server: Server, session: ort.InferenceSession) -> None:
    expected = session.run(None, {"x": X, "steps": np.array([2])})
    head = {"inputs": binary_inputs(), "parameters": {"binary_data_output": True}}
    status, headers, body = server.call("POST", INFER, *in_binary(head, X, np.array([2])))
    assert status == 200
    length = int(headers["inference-header-content-length"])
    y, taken = json.loads(body[:length])["outputs"]
    assert (y["parameters"], taken["parameters"]) == ({"binary_data_size": 32}, {"binary_data_size": 8})
    np.testing.assert_array_equal(np.frombuffer(body[length : length + 32], np.float32).reshape(2, 4), expected[0])
    assert np.frombuffer(body[length + 32 :], np.int64).tolist() == [2]


def test_a_large_body_in_pieces_and_one_connection_for_several(server: Server, session: ort.InferenceSession) -> None:
    x = np.random.default_rng(1).normal(size=(10_000, 4)).astype(np.float32)
    head = {"inputs": [{**binary_inputs(x.nbytes)[0], "shape": [10_000, 4]}, binary_inputs()[1]]}
    head["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
    body, headers = in_binary(head, x, np.array([1]))
    expected = session.run(["y"], {"x": x, "steps": np.array([1])})[0]
    lines = [f"POST {INFER} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in headers.items())]
    with server.open() as connection, connection.makefile("rb") as answers:
        for chunked in (False, True, False):
            if chunked:
                pieces = [body[i : i + 30_000] for i in range(0, len(body), 30_000)]
                content = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
                start = "\r\n".join([*lines, "Transfer-Encoding: chunked"])
            else:
                content, start = body, "\r\n".join([*lines, f"Content-Length: {len(body)}"])
            connection.sendall(start.encode() + b"\r\n\r\n" + content[:70_001])
            time.sleep(0.05)
            connection.sendall(content[70_001:])
            assert answers.readline().startswith(b"HTTP/1.1 200")
            fields = dict(line.split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            answer = answers.read(int(fields[b"content-length"]))
            y = np.frombuffer(answer[int(fields[b"inference-header-content-length"]) :], np.float32)
            np.testing.assert_array_equal(y.reshape(10_000, 4), expected)


# What it refuses


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (tensors(name="z"), "no input 'z'"),
        (tensors()[:1], "Input 'steps' is missing"),
        ([*tensors(), tensors()[0]], "given twice"),
        (tensors(datatype="FP64"), "must be FP32, not FP64"),
        (tensors(shape=[2, 5]), "must have shape"),
        (tensors(shape=[2, 4, 1]), "must have shape"),
        (tensors(shape=[0, 4]), "must have shape"),
        (tensors(shape=[-2, 4]), "Expected `int` >= 0"),
        (tensors(shape=[3, 4]), "data has shape [8]"),
        (tensors(shape=[10**15, 4]), "data has shape [8]"),
        (tensors(data=X.reshape(4, 2).tolist()), "data has shape [4, 2]"),
        (tensors(data=[[1, 2], [3]]), "not of equal length"),
        (tensors(data=["1"] * 8), "not FP32"),
        (tensors(data=[None] * 8), "not FP32"),
        (tensors(data=[True] * 8), "not FP32"),
        (tensors(data=[1e39] * 8), "too large for FP32"),
        (tensors(data=None), "has no data"),
        ([tensors()[0], {**tensors()[1], "data": [1.5]}], "not INT64"),
        ([tensors()[0], {**tensors()[1], "data": [2**64]}], "not INT64"),
        (tensors(parameters={"binary_data_size": 32}), "both data and"),
        (tensors(data=None, parameters={"binary_data_size": 32}), "0 bytes left"),
        (5, "not an inference request"),
    ],
)
def test_refuses_wrong_inputs(server: Server, inputs: Any, sentence: str) -> None:
    status, answer = server.infer({"inputs": inputs})
    assert (status, sentence in answer["error"]) == (400, True), answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'{"inputs": [{"name": "\xff"}]}',
        b'{"inputs": ' + b"[" * 90_000,
        b'{"a": ' * 20_000,
        json.dumps({"inputs": tensors(data=[float("nan")] * 8)}).encode(),
        json.dumps({"inputs": tensors(data=[float("inf")] * 8)}).encode(),
        json.dumps({"inputs": tensors(shape=[10**400, 4])}).encode(),
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [' + b"1" * 5000 + b"]}]}",
    ],
    ids=["empty", "cut", "null", "not-utf-8", "deep-lists", "deep-objects", "NaN", "Infinity", "large", "larger"],
)
def test_refuses_bad_json(server: Server, body: bytes) -> None:
    status, _, answer = server.call("POST", INFER, body)
    assert (status, "not an inference request" in json.loads(answer)["error"]) == (400, True), answer


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_binary_nan_and_infinity(server: Server, bad: float) -> None:
    x = X.copy()
    x[1, 2] = bad
    status, _, answer = server.call("POST", INFER, *in_binary({"inputs": binary_inputs()}, x, np.array([1])))
    assert (status, b"NaN" in answer) == (400, True)


@pytest.mark.parametrize(
    ("size", "extra", "announced", "sentence"),
    [
        (28, np.zeros(0), None, b"its shape and datatype make 32"),
        (10**9, np.zeros(0), None, b"bytes left"),
        (-1, np.zeros(0), None, b"Expected `int` >= 0"),
        (32, np.zeros(1), None, b"belong to no input"),
        (32, np.zeros(0), "100000", b"but the body has"),
        (32, np.zeros(0), "0", b"but the body has"),
        (32, np.zeros(0), "-5", b"not a number"),
        (32, np.zeros(0), "9" * 30, b"not a number"),
    ],
)
def test_refuses_binary_sizes_that_do_not_fit(
    server: Server, size: int, extra: NDArray[Any], announced: str | None, sentence: bytes
) -> None:
    request = in_binary({"inputs": binary_inputs(size)}, X, np.array([1]), extra, announced=announced)
    status, _, answer = server.call("POST", INFER, *request)
    assert (status, sentence in answer) == (400, True), answer


@pytest.mark.parametrize("outputs", [[{"name": "z"}], [{"name": "y"}, {"name": "y"}]])
def test_refuses_unknown_and_repeated_outputs(server: Server, outputs: list[dict[str, str]]) -> None:
    assert server.infer({"inputs": tensors(), "outputs": outputs})[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/looper/versions/4", 404),
        ("POST", "/v2/models/looper/versions/4/infer", 404),
        ("GET", "/v2/models/looper/stats", 404),
        ("GET", INFER, 405),
    ],
)
def test_refuses_unknown_paths(server: Server, method: str, path: str, status: int) -> None:
    answer = server.call(method, path, b"{}" if method == "POST" else None)
    assert answer[0] == status
    assert "error" in json.loads(answer[2])


def test_refuses_compressed_bodies(server: Server) -> None:
    assert server.call("POST", INFER, b"x" * 20, {"Content-Encoding": "gzip"})[0] == 415


# Its limits


def test_refuses_a_large_body_before_it_is_sent(server: Server) -> None:
    with server.open() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 200001\r\n\r\n".encode())
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer
        read_all(connection)


def test_refuses_a_large_body_of_unknown_length(server: Server) -> None:
    with server.open() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall((b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 4)
        assert read_all(connection).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "start",
    [b"", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nX: ", b"GET /v2 HTTP/1.1\r\n\r\nGET /v2 HTTP/1.1\r\nX: "],
    ids=["nothing", "line", "header", "second"],
)
def test_closes_connections_with_slow_heads(server: Server, start: bytes) -> None:
    with server.open() as connection:
        began = time.monotonic()
        connection.settimeout(0.1)
        connection.sendall(start)
        closed = False
        while not closed and time.monotonic() - began < 5:
            try:
                closed = connection.recv(65536) == b""
                if start:
                    connection.sendall(b"a")
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed
        assert 0.3 < time.monotonic() - began < 3


def test_closes_a_connection_with_an_endless_head(server: Server) -> None:
    with server.open() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 1_000_000)
        assert read_all(connection) == b""


@pytest.mark.parametrize("length", [100, 100_000])
def test_gives_up_on_slow_bodies(server: Server, length: int) -> None:
    with server.open() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{{".encode())
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_refuses_what_exceeds_the_queue_and_ends_what_takes_too_long(server: Server, steps_per_second: float) -> None:
    statuses: list[int] = []
    slow = {"inputs": tensors(int(1.5 * steps_per_second))}
    threads = [threading.Thread(target=lambda: statuses.append(server.infer(slow)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until_busy(server)
    status, headers, body = server.call("POST", INFER, json.dumps({"inputs": tensors()}).encode())
    assert (status, headers["retry-after"]) == (503, "1"), body
    for thread in threads:
        thread.join()
    assert statuses == [504, 504]
    assert server.process.stderr is not None
    assert json.loads(server.process.stderr.readline())["event"] == "error"


# How it starts and stops


def test_drains_on_sigterm(package: Path, steps_per_second: float, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    limits = {**CONFIG["limits"], "queue": 1, "request_seconds": 20}
    (folder / "config.json").write_text(json.dumps({**CONFIG, "limits": limits}))
    with serving(folder) as server:
        answers: list[int] = []
        slow = {"inputs": tensors(int(1.4 * steps_per_second))}
        thread = threading.Thread(target=lambda: answers.append(server.infer(slow)[0]))
        thread.start()
        wait_until_busy(server)
        server.process.send_signal(signal.SIGTERM)
        while (status := server.call("GET", "/v2/health/ready")[0]) == 200:
            pass
        assert status == 503
        assert server.call("GET", "/v2/health/live")[0] == 200
        assert server.process.wait(20) == 0
        thread.join()
        assert answers == [200]
        assert server.process.stderr is not None
        assert json.loads(server.process.stderr.read().splitlines()[-1])["event"] == "stop"


def test_readiness_runs_the_sample_request(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "sample_request.json").write_text(json.dumps({"inputs": tensors()}))
    with serving(folder) as server:
        assert server.call("GET", "/v2/health/ready")[0] == 200


def test_says_that_it_has_no_authentication(package: Path) -> None:
    with serving(package, "--host", "0.0.0.0") as server:
        assert [line["event"] for line in server.log] == ["warning", "start"]
        assert "no authentication" in server.log[0]["message"]


def test_says_nothing_else_at_start(server: Server) -> None:
    assert [line["event"] for line in server.log] == ["start"]
    assert server.log[0]["host"] == "127.0.0.1"


def refusal(folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(folder / "serve.py"), "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("serve.py cannot start. ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "unknown field `colour`"),
        ({"threads": ...}, "missing required field `threads`"),
        ({"threads": "one"}, "Expected `int`"),
        ({"limits": {"queue": 2}}, "missing required field `body_bytes`"),
        ({"name": "a/b"}, "config.json cannot be used"),
        ({"provider": "CUDAExecutionProvider"}, "runs it on CPUExecutionProvider"),
        ({"model": "none.onnx"}, "none.onnx cannot be loaded"),
        ({"inputs": CONFIG["inputs"][:1]}, "The inputs in config.json are not those of model.onnx"),
        ({"inputs": [{**CONFIG["inputs"][0], "datatype": "FP16"}, CONFIG["inputs"][1]]}, "The inputs in config.json"),
        ({"outputs": [{**CONFIG["outputs"][0], "shape": [-1, 5]}, CONFIG["outputs"][1]]}, "The outputs in config.json"),
    ],
)
def test_refuses_to_start(package: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    config = {key: value for key, value in {**CONFIG, **change}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    assert words in refusal(folder)


def test_refuses_to_start_with_a_bad_sample(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "sample_request.json").write_text('{"inputs": []}')
    assert "with sample_request.json as input: Input 'steps' is missing." in refusal(folder)


def test_refuses_to_start_without_config(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / "config.json").unlink()
    assert "config.json cannot be used" in refusal(folder)


def test_refuses_a_port_in_use(package: Path, server: Server) -> None:
    assert f"port {server.port} cannot be used" in refusal(package, "--port", str(server.port))


# What is shipped


@pytest.mark.parametrize("name", CODE)
def test_the_code_stands_alone(name: str) -> None:
    assert "workbench" not in (TEMPLATES / name).read_text()


def test_readme_has_exactly_its_placeholders() -> None:
    template = Template((TEMPLATES / "README.md").read_text())
    names = {"name", "inputs", "outputs", "candidate", "measured", "created", "python"}
    assert set(template.get_identifiers()) == names
    assert template.is_valid()
    assert "$" not in template.substitute(dict.fromkeys(names, "value"))
