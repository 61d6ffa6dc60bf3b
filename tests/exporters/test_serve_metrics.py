"""The serving package in its own process: what it tells Prometheus and its log, read by their own readers."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.exporters.serving import (
    INFER,
    MODEL,
    Server,
    X,
    binary_inputs,
    in_binary,
    serving,
    tensors,
    write_package,
)

LABELS = "model=looper"
CODES = ("2xx", "4xx", "5xx")


@pytest.fixture
def fresh(package: Path) -> Iterator[Server]:
    """A server that nobody asked anything."""
    with serving(package) as running:
        yield running


def requests(metrics: dict[str, float]) -> list[float]:
    return [metrics[f"workbench_requests_total,code={code},{LABELS},protocol=http,version=3"] for code in CODES]


def test_every_series_is_there_before_the_first_request(fresh: Server, package: Path) -> None:
    metrics = fresh.metrics()
    assert requests(metrics) == [0, 0, 0]
    for name in ("request_seconds", "inference_seconds", "batch_size"):
        assert metrics[f"workbench_{name}_count,{LABELS},version=3"] == 0
        assert metrics[f"workbench_{name}_sum,{LABELS},version=3"] == 0
        assert metrics[f"workbench_{name}_bucket,le=+Inf,{LABELS},version=3"] == 0
    assert metrics[f"workbench_in_flight,{LABELS},version=3"] == 0
    assert metrics[f"workbench_queue_limit,{LABELS},version=3"] == MODEL["queue"]
    assert np.isnan(metrics[f"workbench_input_mean,input=x,{LABELS},version=3"])
    assert metrics[f"workbench_input_reference_mean,input=x,{LABELS},version=3"] == 0.25
    assert metrics[f"workbench_input_reference_deviation,input=x,{LABELS},version=3"] == 0.5
    digest = hashlib.sha256((package / "model.onnx").read_bytes()).hexdigest()
    assert metrics[f"workbench_model_info,backend=onnxruntime,{LABELS},sha256={digest},version=3"] == 1


def test_answers_refusals_and_failures_are_counted(hasty: Server, steps_per_second: float) -> None:
    quick = tensors()
    asked = [(quick, 200), (quick, 200), (quick, 200), ([], 400), (tensors(int(2.5 * steps_per_second)), 504)]
    seconds = []
    for inputs, status in asked:
        began = time.monotonic()
        assert hasty.infer({"inputs": inputs})[0] == status
        seconds.append(time.monotonic() - began)
    metrics = hasty.metrics()
    assert requests(metrics) == [3, 1, 1]
    buckets = {
        float(name.split(",")[1].removeprefix("le=")): value
        for name, value in metrics.items()
        if name.startswith("workbench_request_seconds_bucket")
    }
    assert list(buckets) == sorted(buckets)
    assert list(buckets.values()) == sorted(buckets.values())
    # All but the one that took a second; what a busy machine made longer for the caller may be longer for it too.
    assert sum(each <= 0.5 for each in seconds) <= buckets[0.5] <= 4
    assert buckets[float("inf")] == metrics[f"workbench_request_seconds_count,{LABELS},version=3"] == 5
    assert 1 < metrics[f"workbench_request_seconds_sum,{LABELS},version=3"] < sum(seconds)
    assert metrics[f"workbench_inference_seconds_count,{LABELS},version=3"] == 3


def test_requests_elsewhere_are_not_a_models_own(fresh: Server) -> None:
    for path in ("/", "/v2/models/other/infer", "/v2/models/looper/versions/9/infer"):
        assert fresh.call("POST", path, b"{}")[0] == 404
    assert requests(fresh.metrics()) == [0, 0, 0]


def test_what_is_turned_away_is_counted_and_what_is_under_way_is_told(fresh: Server, steps_per_second: float) -> None:
    slow = json.dumps({"inputs": tensors(int(1.0 * steps_per_second))}).encode()
    with fresh.open() as one, fresh.open() as two:
        for connection in (one, two):
            connection.sendall(
                b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(slow))
            )
            connection.sendall(slow)
        while (metrics := fresh.metrics())[f"workbench_in_flight,{LABELS},version=3"] < 2:
            assert requests(metrics)[0] == 0
        assert fresh.infer({"inputs": tensors()})[0] == 503
        assert [connection.recv(100)[:12] for connection in (one, two)] == [b"HTTP/1.1 200"] * 2
    metrics = fresh.metrics()
    assert requests(metrics) == [2, 0, 1]
    assert metrics[f"workbench_request_seconds_count,{LABELS},version=3"] == 2  # nobody waited for the third
    assert metrics[f"workbench_in_flight,{LABELS},version=3"] == 0


def test_the_mean_of_an_input_follows_the_requests(fresh: Server) -> None:
    def mean() -> float:
        return fresh.metrics()[f"workbench_input_mean,input=x,{LABELS},version=3"]

    for value in (1.0, 2.0, 6.0):
        assert fresh.infer({"inputs": tensors(data=[value] * 8)})[0] == 200
    assert mean() == pytest.approx(3)
    body = json.dumps({"inputs": tensors(data=[-5.0] * 8)})
    connection = http.client.HTTPConnection("127.0.0.1", fresh.port, timeout=60)
    with contextlib.closing(connection):
        for _ in range(600):  # what was long ago is forgotten
            connection.request("POST", INFER, body)
            assert connection.getresponse().read()
    assert mean() == pytest.approx(-5, abs=0.5)


def test_the_mean_of_a_large_input_is_of_all_its_columns(fresh: Server) -> None:
    x = np.tile(np.array([0, 10, 20, 30], np.float32), (4096, 1))
    head = {"inputs": [{**binary_inputs(x.nbytes)[0], "shape": [4096, 4]}, binary_inputs()[1]]}
    assert fresh.call("POST", INFER, *in_binary(head, x, np.array([1])))[0] == 200
    assert fresh.metrics()[f"workbench_input_mean,input=x,{LABELS},version=3"] == pytest.approx(15, rel=0.01)


def test_the_process_is_told_as_prometheus_clients_do(server: Server) -> None:
    metrics = server.metrics()
    memory = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
    assert metrics["process_resident_memory_bytes"] == pytest.approx(memory, rel=0.2)
    assert 0.05 < metrics["process_cpu_seconds_total"] < 60
    assert metrics["process_open_fds"] > 5


def test_the_log_speaks_ecs(package: Path, tmp_path: Path) -> None:
    config = json.loads((package / "config.json").read_text())
    folder = write_package(tmp_path / "package", {**config, "log_requests": True})
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    with serving(folder) as server:
        start = server.log[-1]
        assert server.process.stderr is not None
        server.infer({"inputs": tensors()})
        answered = json.loads(server.process.stderr.readline())
        server.call("GET", "/nothing")
        refused = json.loads(server.process.stderr.readline())
        assert not list(folder.glob("**/*.pyc"))
    assert (start["log.level"], start["event.action"], start["server.port"]) == ("info", "start", server.port)
    assert start["@timestamp"].endswith("Z")
    assert start["ecs.version"].startswith("8.")
    assert "looper 3 on onnxruntime" in start["message"]
    assert start["service.name"] == "looper"
    assert (answered["http.request.method"], answered["url.path"], answered["client.ip"]) == (
        "POST",
        INFER,
        "127.0.0.1",
    )
    assert (answered["http.response.status_code"], answered["event.outcome"]) == (200, "success")
    assert 10_000 < answered["event.duration"] < 5e9
    assert (refused["http.response.status_code"], refused["event.outcome"]) == (404, "failure")


def test_a_drift_of_one_request_is_no_nan(package: Path, tmp_path: Path) -> None:
    config = json.loads((package / "config.json").read_text())
    folder = write_package(tmp_path / "package", {**config, "allow_nan": True})
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    x = X.copy()
    x[0, 0] = np.nan
    with serving(folder) as server:
        status, _, body = server.call("POST", INFER, *in_binary({"inputs": binary_inputs()}, x, np.array([1])))
        assert (status, b"NaN or Infinity, which JSON lacks" in body) == (500, True)
        head = {"inputs": binary_inputs(), "parameters": {"binary_data_output": True}}
        assert server.call("POST", INFER, *in_binary(head, x, np.array([1])))[0] == 200
        assert server.infer({"inputs": tensors(data=[1e39] * 8)})[0] == 400
        assert server.infer({"inputs": tensors(data=[4.0] * 8)})[0] == 200
        assert server.metrics()[f"workbench_input_mean,input=x,{LABELS},version=3"] == 4
