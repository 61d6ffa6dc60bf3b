"""The serving package in its own process: what it answers and what it refuses."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.exporters.serving import (
    INFER,
    MODEL,
    Server,
    X,
    binary_inputs,
    in_binary,
    tensors,
)


def test_describes_itself_and_the_model(server: Server) -> None:
    assert json.loads(server.call("GET", "/v2")[2])["extensions"] == ["binary_tensor_data"]
    assert json.loads(server.call("GET", "/v2/health/live")[2]) == {"live": True}
    assert json.loads(server.call("GET", "/v2/health/ready")[2]) == {"ready": True}
    assert json.loads(server.call("GET", "/v2/models/looper/ready")[2]) == {"name": "looper", "ready": True}
    for path in ("/v2/models/looper", "/v2/models/looper/versions/3"):
        about = json.loads(server.call("GET", path)[2])
        assert about["versions"] == ["3"]
        assert about["inputs"] == MODEL["inputs"]
        assert about["outputs"] == MODEL["outputs"]


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
        ("GET", "/v2/models/looper/versions", 404),
        ("GET", "/v2/models/looper/versions//ready", 404),
        ("POST", "/metrics", 404),
        ("GET", INFER, 405),
    ],
)
def test_refuses_unknown_paths(server: Server, method: str, path: str, status: int) -> None:
    answer = server.call(method, path, b"{}" if method == "POST" else None)
    assert answer[0] == status
    assert "error" in json.loads(answer[2])


def test_refuses_compressed_bodies(server: Server) -> None:
    assert server.call("POST", INFER, b"x" * 20, {"Content-Encoding": "gzip"})[0] == 415
