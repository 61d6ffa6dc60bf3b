"""The versions of a running service change while it answers: nothing is lost, and what is wrong changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.exporters.callers import Callers
from tests.exporters.serving import (
    INFER,
    MODEL,
    Server,
    X,
    read_all,
    serving,
    tensors,
    with_model,
    write_graph,
    write_model,
    write_package,
)

ALONE = {"inputs": MODEL["inputs"][:1], "outputs": MODEL["outputs"][:1], "queue": 64, "request_seconds": 20}
REQUEST = {"inputs": tensors()[:1]}
COUNTED = "workbench_requests_total,code=2xx,model=looper,protocol=http"


def entry(version: str, **changes: Any) -> dict[str, Any]:
    return {**MODEL, **ALONE, "version": version, "path": f"models/looper/{version}/model.onnx", **changes}


def configure(folder: Path, *entries: dict[str, Any], **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**with_model(), "models": entries, **changes}))


def add(folder: Path, version: str, steps: int) -> list[float]:
    """Puts a model there; returns what it answers to the request."""
    path = folder / f"models/looper/{version}/model.onnx"
    path.parent.mkdir(parents=True)
    write_model(path, steps)
    [answer] = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["y"], {"x": X})
    return [float(value) for value in answer.ravel()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_package(tmp_path / "package")
    configure(folder, entry("1"))
    return folder


def told(server: Server, action: str = "reload") -> dict[str, Any]:
    """What its log says of a change, once it does."""
    assert server.process.stderr is not None
    while (line := json.loads(server.process.stderr.readline())).get("event.action") != action:
        pass
    return dict(line)


def hang_up(server: Server) -> None:
    server.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_version_takes_the_place_of_another_under_load_and_no_request_is_lost(folder: Path, workers: int) -> None:
    old, new = add(folder, "1", 1), add(folder, "2", 4)
    with serving(folder, "--workers", str(workers)) as server:
        with Callers(server, REQUEST, count=6) as callers:
            callers.wait_for(200)
            configure(folder, entry("2"))
            hang_up(server)
            for _ in range(workers):
                assert told(server)["message"] == "Serving looper 2; new: looper 2; gone: looper 1"
            changed = time.monotonic()
            callers.wait_for(400)
        assert (callers.lost, set(callers.statuses)) == ([], {"200"})
        versions = {"1": old, "2": new}
        assert {answer["model_version"] for _, answer in callers.answers} == {"1", "2"}
        for begun, answer in callers.answers:
            assert begun < changed or answer["model_version"] == "2"
            given = np.array(answer["outputs"][0]["data"], np.float32)
            np.testing.assert_array_equal(given, np.array(versions[answer["model_version"]], np.float32))
        assert server.call("GET", "/v2/models/looper/versions/1")[0] == 404
        counts = {name: value for name, value in server.metrics().items() if name.startswith(COUNTED)}
        assert list(counts) == [f"{COUNTED},version=2"]


def test_versions_that_stay_are_not_loaded_again_and_count_on(folder: Path) -> None:
    add(folder, "1", 1)
    with serving(folder) as server:
        for _ in range(3):
            assert server.infer(REQUEST)[0] == 200
        add(folder, "2", 2)
        configure(folder, entry("1"), entry("2"))
        hang_up(server)
        assert told(server)["message"] == "Serving looper 1, looper 2; new: looper 2; gone: nothing"
        assert server.infer(REQUEST)[1]["model_version"] == "2"
        assert server.infer(REQUEST, "/v2/models/looper/versions/1/infer")[1]["model_version"] == "1"
        assert json.loads(server.call("GET", "/v2/models/looper")[2])["versions"] == ["1", "2"]
        metrics = server.metrics()
        assert (metrics[f"{COUNTED},version=1"], metrics[f"{COUNTED},version=2"]) == (4, 1)


def test_a_file_that_changed_is_loaded_again_under_the_same_name(folder: Path) -> None:
    add(folder, "1", 1)
    with serving(folder) as server:
        before = server.infer(REQUEST)[1]["outputs"]
        write_model(folder / "models/looper/1/model.onnx", 4)
        hang_up(server)
        assert told(server)["message"] == "Serving looper 1; new: looper 1; gone: looper 1"
        assert server.infer(REQUEST)[1]["outputs"] != before
        assert server.metrics()[f"{COUNTED},version=1"] == 2


def test_who_began_on_the_old_version_is_answered_by_it(folder: Path, steps_per_second: float) -> None:
    add(folder, "1", int(steps_per_second))
    add(folder, "2", 1)
    configure(folder, entry("1", instances=1))
    answers: list[dict[str, Any]] = []
    with serving(folder) as server, server.open() as halfway:
        body = json.dumps(REQUEST).encode()
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        halfway.sendall(head % (INFER.encode(), len(body)) + body[:10])
        caller = threading.Thread(target=lambda: answers.append(server.infer(REQUEST)[1]))
        caller.start()
        while server.metrics()["workbench_in_flight,model=looper,version=1"] < 1:
            pass
        configure(folder, entry("2"))
        hang_up(server)
        assert "gone: looper 1" in told(server)["message"]
        assert server.infer(REQUEST)[1]["model_version"] == "2"  # while the old one is still at work
        assert not answers
        halfway.sendall(body[10:])
        assert b'"model_version":"1"' in read_all(halfway)
        caller.join()
        assert answers[0]["model_version"] == "1"


BAD: list[tuple[str, Any, str]] = [
    ("half a file", '{"models": [', "config.json cannot be used"),
    ("no such model", [entry("1"), entry("3")], "models/looper/3/model.onnx cannot be loaded"),
    ("another model", [entry("2", outputs=MODEL["inputs"][:1])], "The outputs in config.json"),
    ("no model", [entry("4")], "models/looper/4/model.onnx cannot be loaded"),
    ("no library", [entry("2", backend="openvino", provider="CPU")], "openvino is not installed. Run: pip install"),
]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_wrong_leaves_everything_as_it_was(folder: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    add(folder, "1", 1)
    add(folder, "2", 2)
    (folder / "models/looper/4").mkdir()
    (folder / "models/looper/4/model.onnx").write_bytes(b"nothing that could be read")
    with (
        serving(folder, "--workers", str(workers), PYTHONPATH=str(tmp_path)) as server,
        Callers(server, REQUEST, 2, pause=0.005) as callers,
    ):
        for _, wrong, words in BAD:
            if isinstance(wrong, str):
                (folder / "config.json").write_text(wrong)
            else:
                configure(folder, *wrong)
            hang_up(server)
            line = told(server)
            assert (line["log.level"], line["message"].startswith("The models stay as they were. ")) == ("error", True)
            assert words in line["message"]
            assert server.call("GET", "/v2/health/ready")[0] == 200
            if workers > 1 and not isinstance(wrong, str):
                told(server)  # what the other one says
        configure(folder, entry("2"))
        hang_up(server)
        assert "new: looper 2" in told(server)["message"]
    assert (callers.lost, set(callers.statuses)) == ([], {"200"})


def test_a_worker_that_is_started_again_serves_what_the_others_do(folder: Path) -> None:
    add(folder, "1", 1)
    with serving(folder, "--workers", "2") as server:
        configure(folder, entry("9"))
        hang_up(server)
        assert "stay as they were" in told(server)["message"]
        pid = server.process.pid
        for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(worker), signal.SIGKILL)
        assert server.infer(REQUEST)[1]["model_version"] == "1"


def test_the_rest_of_the_configuration_is_for_the_next_start(folder: Path) -> None:
    add(folder, "1", 1)
    with serving(folder) as server:
        configure(folder, entry("1"), limits={"body_bytes": 10, "header_seconds": 1, "body_seconds": 1})
        hang_up(server)
        assert server.process.stderr is not None
        line = json.loads(server.process.stderr.readline())
        assert line["message"] == "Changes of limits are for the next start; only models change meanwhile"
        assert server.infer(REQUEST)[0] == 200


def test_the_memory_and_the_threads_of_old_versions_are_given_back(tmp_path: Path) -> None:
    """Eight versions of 16 MB, one after the other: two at a time are there at most."""
    folder = write_package(tmp_path / "package")
    random = np.random.default_rng(0)
    for version in range(9):
        path = folder / f"models/looper/{version}/model.onnx"
        path.parent.mkdir(parents=True)
        write_graph(
            path,
            [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
            [
                numpy_helper.from_array(random.random((4, 500_000), np.float32), "a"),
                numpy_helper.from_array(random.random((500_000, 4), np.float32), "b"),
            ],
        )
    configure(folder, entry("0", max_batch=4))
    with serving(folder) as server:
        status = Path(f"/proc/{server.process.pid}/status")

        def held() -> tuple[int, int]:
            """Bytes and threads."""
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            return int(fields["VmRSS"].split()[0]) * 1024, int(fields["Threads"])

        for version in range(1, 9):
            assert server.infer(REQUEST)[0] == 200
            configure(folder, entry(str(version), max_batch=4))
            hang_up(server)
            assert f"new: looper {version};" in told(server)["message"]
            if version == 3:
                before = held()
        after = held()
    assert after[0] - before[0] < 40e6, (before, after)  # five versions are 80 MB
    assert after[1] <= before[1] + 4
