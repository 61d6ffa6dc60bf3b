"""The serving package in its own process: requests put together, and what that must not change."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.exporters.serving import (
    INFER,
    MODEL,
    Server,
    serving,
    with_model,
    write_graph,
    write_model,
    write_package,
)

ALONE = {"inputs": MODEL["inputs"][:1], "outputs": MODEL["outputs"][:1], "instances": 1, "queue": 64}
ROWS: NDArray[np.float32] = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)


def request(rows: NDArray[np.float32]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}


class Caller(threading.Thread):
    """One request under way."""

    def __init__(self, server: Server, body: dict[str, Any]) -> None:
        super().__init__()
        self._server, self._body = server, body
        self.status, self.answer = 0, dict[str, Any]()
        self.start()

    def run(self) -> None:
        self.status, self.answer = self._server.infer(self._body)

    def result(self) -> NDArray[np.float32]:
        self.join(60)
        assert self.status == 200, self.answer
        output = self.answer["outputs"][0]
        return np.array(output["data"], np.float32).reshape(output["shape"])


def batches(server: Server) -> tuple[float, float]:
    """How many inferences there were, and of how many samples."""
    metrics = server.metrics()
    labels = "model=looper,version=3"
    return metrics[f"workbench_batch_size_count,{labels}"], metrics[f"workbench_batch_size_sum,{labels}"]


@contextlib.contextmanager
def connections(server: Server, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Connections that the server has accepted."""
    with contextlib.ExitStack() as stack:
        made = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(count)]
        for connection in made:
            stack.callback(connection.close)
            connection.request("GET", "/v2")
            connection.getresponse().read()
        yield made


def ask_at_once(
    server: Server, callers: list[http.client.HTTPConnection], bodies: list[dict[str, Any]]
) -> list[tuple[int, dict[str, Any]]]:
    """Has all requests lie there, in this order, before the server reads the first."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        for caller, body in zip(callers, bodies, strict=True):
            caller.request("POST", INFER, json.dumps(body))
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    responses = [caller.getresponse() for caller in callers]
    return [(response.status, json.loads(response.read())) for response in responses]


@pytest.fixture
def slow(tmp_path: Path, steps_per_second: float) -> Path:
    """A model that takes some third of a second of processor time."""
    write_model(write_package(tmp_path / "package") / "model.onnx", int(0.3 * steps_per_second))
    return tmp_path / "package"


def configure(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(with_model(**ALONE, request_seconds=60, **changes)))
    return folder


def test_requests_gather_while_another_runs_and_are_answered_bit_by_bit_as_the_model_does(slow: Path) -> None:
    session = ort.InferenceSession(slow / "model.onnx", providers=["CPUExecutionProvider"])
    with serving(configure(slow, max_batch=4)) as server, connections(server, 4) as callers:
        before = batches(server)
        first = Caller(server, request(ROWS[:1]))
        while server.metrics()["workbench_in_flight,model=looper,version=3"] < 1:
            pass
        others = [request(rows) for rows in (ROWS[1:2], ROWS[2:4], ROWS[4:5], ROWS[5:6])]
        answers = [answer["outputs"][0] for _, answer in ask_at_once(server, callers, others)]
        results = [first.result(), *(np.float32(answer["data"]).reshape(answer["shape"]) for answer in answers)]
        after = batches(server)
    # The first began alone; three filled a batch; the last did not fit into it.
    assert (after[0] - before[0], after[1] - before[1]) == (3, 6)
    for rows in (ROWS[:1], ROWS[1:5], ROWS[5:6]):
        expected = session.run(["y"], {"x": rows})[0]
        here = int(np.flatnonzero((rows[0] == ROWS).all(axis=1))[0])
        np.testing.assert_array_equal(np.concatenate(results)[here : here + len(rows)], expected)


def test_without_batches_each_runs_alone_on_its_instance(slow: Path) -> None:
    with serving(configure(slow)) as server:
        before = batches(server)
        for caller in [Caller(server, request(ROWS[i : i + 2])) for i in range(3)]:
            assert caller.result().shape == (2, 4)
        after = batches(server)
    assert (after[0] - before[0], after[1] - before[1]) == (3, 6)


@pytest.fixture
def threaded(tmp_path: Path, steps_per_second: float) -> Path:
    """A model that takes some hundredth of a second: worth a thread."""
    write_model(write_package(tmp_path / "package") / "model.onnx", int(0.01 * steps_per_second))
    return configure(tmp_path / "package", max_batch=4, batch_wait_ms=5000)


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """A model that takes less time than a thread costs."""
    write_model(write_package(tmp_path / "package") / "model.onnx", 2)
    return configure(tmp_path / "package", max_batch=4, batch_wait_ms=5000)


def test_a_caller_alone_never_waits_and_callers_in_step_wait_for_each_other(threaded: Path) -> None:
    with serving(threaded) as server:
        for _ in range(5):
            began = time.monotonic()
            assert server.infer(request(ROWS[:1]))[0] == 200
            assert time.monotonic() - began < 5
        assert server.infer(request(ROWS[:3]))[0] == 200  # three came at once, so three are waited for
        began = time.monotonic()
        before = batches(server)
        for caller in [Caller(server, request(ROWS[i : i + 1])) for i in range(3)]:
            caller.result()
        after = batches(server)
        assert (after[0] - before[0], after[1] - before[1]) == (1, 3)
        assert time.monotonic() - began < 5  # as long as one would wait in vain


def test_who_is_waited_for_in_vain_costs_the_wait_once(threaded: Path) -> None:
    configure(threaded, max_batch=4, batch_wait_ms=2000)
    with serving(threaded) as server:
        server.infer(request(ROWS[:3]))
        seconds = []
        for _ in range(2):
            began = time.monotonic()
            assert server.infer(request(ROWS[:1]))[0] == 200
            seconds.append(time.monotonic() - began)
    assert 1.9 < seconds[0] < 2 * 2
    assert seconds[1] < 1.9


def test_a_quick_model_takes_together_what_arrives_together_and_waits_for_nobody(quick: Path) -> None:
    session = ort.InferenceSession(quick / "model.onnx", providers=["CPUExecutionProvider"])
    with serving(quick) as server, connections(server, 8) as callers:
        for _ in range(6):  # it looks out for others only now and then while callers are alone, so not at once
            before = batches(server)
            answers = ask_at_once(server, callers, [request(row[None]) for row in ROWS])
            after = batches(server)
        for _ in range(5):
            began = time.monotonic()
            assert server.infer(request(ROWS[:3]))[0] == 200
            assert time.monotonic() - began < 5
    assert (after[0] - before[0], after[1] - before[1]) == (2, 8)
    results = np.float32([answer["outputs"][0]["data"] for _, answer in answers])
    np.testing.assert_allclose(results, session.run(["y"], {"x": ROWS})[0], rtol=1e-6)


def test_a_caller_is_alone_when_nobody_else_has_asked_for_a_while(quick: Path) -> None:
    asked = "[(1, 0.0), (1, 0.05), (1, 0.2), (2, 0.3), (1, 0.31), (1, 0.35), (1, 0.5)]"
    code = f"from batching import Alone; alone = Alone(); print([alone.asks(*each) for each in {asked}])"
    ended = subprocess.run([sys.executable, "-B", "-c", code], cwd=quick, capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[False, False, True, False, False, False, True]"


def test_who_comes_while_another_was_alone_is_answered_beside_it(threaded: Path) -> None:
    write_model(threaded / "model.onnx", 2000)  # short enough for the event loop
    configure(threaded, max_batch=1)
    row, seen = request(ROWS[:1]), []
    with serving(threaded) as server, connections(server, 4) as callers:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            assert server.infer(row)[0] == 200
        for _ in range(5):
            seen += [status for status, _ in ask_at_once(server, callers, [row] * 4)]
        assert server.call("GET", "/v2/health/ready")[0] == 200
    assert seen == [200] * 20


@pytest.mark.parametrize("further", [(), ("length",)], ids=["where they stand", "in threads"])
def test_the_values_of_one_do_not_fail_the_others(tmp_path: Path, further: tuple[str, ...]) -> None:
    folder = write_package(tmp_path / "package")
    ids, chosen = (
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", *further]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *further, 4]),
    )
    table = numpy_helper.from_array(ROWS, "table")
    write_graph(folder / "model.onnx", [helper.make_node("Gather", ["table", "ids"], ["y"])], [ids], [chosen], [table])
    inputs = [{"name": "ids", "datatype": "INT64", "shape": [-1] * (1 + len(further))}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [*inputs[0]["shape"], 4]}]
    changes = {**ALONE, "inputs": inputs, "outputs": outputs}
    config = with_model(**changes, references=[], max_batch=8, batch_wait_ms=400)
    (folder / "config.json").write_text(json.dumps(config))

    def pick(*ids: int) -> dict[str, Any]:
        shape = [len(ids)] + [1] * len(further)
        return {"inputs": [{"name": "ids", "datatype": "INT64", "shape": shape, "data": ids}]}

    with serving(folder) as server:
        assert server.infer(pick(0, 1, 2))[0] == 200
        one, wrong, other = (Caller(server, pick(n)) for n in (3, 99, 5))
        np.testing.assert_array_equal(one.result().reshape(-1, 4), ROWS[3:4])
        np.testing.assert_array_equal(other.result().reshape(-1, 4), ROWS[5:6])
        wrong.join(60)
        assert (wrong.status, "does not take these values" in wrong.answer["error"]) == (400, True)
        with connections(server, 8) as callers:
            for _ in range(6):  # in the end they are taken together, as the model is quick
                *good, bad = ask_at_once(server, callers, [pick(n) for n in (0, 1, 2, 3, 4, 5, 6, 99)])
                assert [status for status, _ in good] == [200] * 7, good
                np.testing.assert_array_equal([answer["outputs"][0]["data"] for _, answer in good], ROWS[:7])
                assert (bad[0], "does not take these values" in bad[1]["error"]) == (400, True)


def test_samples_that_change_each_other_are_not_put_together(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y"))
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]), helper.make_node("Sub", ["x", "mean"], ["y"])]
    write_graph(folder / "model.onnx", nodes, [x], [y], [])
    rows = request(ROWS[:2])
    (folder / "sample.json").write_text(json.dumps(rows))
    configure(folder, max_batch=4, batch_wait_ms=1000, sample="sample.json")
    with serving(folder) as server:
        assert "samples of a batch change each other's 'y'" in server.log[0]["message"]
        for caller in [Caller(server, rows) for _ in range(3)]:
            np.testing.assert_allclose(caller.result(), ROWS[:2] - ROWS[:2].mean(axis=0), rtol=1e-5)


def test_a_model_without_a_batch_axis_is_not_put_together(package: Path, tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", with_model(max_batch=4))
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    with serving(folder) as server:
        assert "the first axis of 'steps' is no batch" in server.log[0]["message"]
