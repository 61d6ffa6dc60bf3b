"""The serving package in its own process: who may ask, which version answers, which runtime, and how it goes away."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exporters.serving import (
    CONFIG,
    INFER,
    MODEL,
    Server,
    refusal,
    serving,
    tensors,
    with_model,
    write_model,
    write_package,
)

KEY = "a-key-of-26-characters-long"


@pytest.fixture(scope="module")
def keyed_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_package(tmp_path_factory.mktemp("keyed"), {**CONFIG, "api_key": "environment"})
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    return folder


@pytest.fixture(scope="module")
def keyed(keyed_package: Path) -> Iterator[Server]:
    with serving(keyed_package, "--host", "0.0.0.0", WORKBENCH_API_KEY=KEY) as running:
        yield running


@pytest.mark.parametrize("header", ["", KEY, f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "Bearer", f"Basic {KEY}"])
@pytest.mark.parametrize(("method", "path"), [("POST", INFER), ("GET", "/v2"), ("GET", "/v2/models/looper")])
def test_who_has_no_key_is_refused(keyed: Server, method: str, path: str, header: str) -> None:
    body = json.dumps({"inputs": tensors()}).encode() if method == "POST" else None
    status, headers, answer = keyed.call(method, path, body, {"Authorization": header})
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert "needs the service's key" in json.loads(answer)["error"]
    assert KEY.encode() not in answer


def test_who_has_the_key_is_answered(keyed: Server) -> None:
    body = json.dumps({"inputs": tensors()}).encode()
    for scheme in ("Bearer", "bearer"):
        assert keyed.call("POST", INFER, body, {"Authorization": f"{scheme} {KEY}"})[0] == 200


def test_health_is_open_and_so_are_metrics_on_this_machine(keyed: Server) -> None:
    assert keyed.call("GET", "/v2/health/live")[0] == 200
    assert keyed.call("GET", "/v2/health/ready")[0] == 200
    assert "process_open_fds" in keyed.metrics()


def test_with_a_key_it_listens_to_others_without_more_words(keyed: Server) -> None:
    assert [line["log.level"] for line in keyed.log] == ["info"]
    assert KEY not in json.dumps(keyed.log)


@pytest.mark.parametrize("key", ["", "with spaces in between them"])
def test_refuses_to_start_with_a_bad_key(keyed_package: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("WORKBENCH_API_KEY", key)
    assert "WORKBENCH_API_KEY must hold the key" in refusal(keyed_package)


def test_without_a_key_it_does_not_listen_to_others_unless_told(package: Path) -> None:
    assert "say --open if something else keeps strangers out" in refusal(package, "--host", "0.0.0.0")
    with serving(package, "--host", "0.0.0.0", "--open") as server:
        assert [line["log.level"] for line in server.log] == ["warning", "info"]
        assert "no authentication" in server.log[0]["message"]
        assert server.call("GET", "/v2/health/ready")[0] == 200


def test_says_nothing_else_at_start(server: Server) -> None:
    assert [line["event.action"] for line in server.log] == ["start"]
    assert server.log[0]["server.address"] == "127.0.0.1"


def test_several_models_and_versions(tmp_path: Path) -> None:
    alone = {"inputs": MODEL["inputs"][:1], "outputs": MODEL["outputs"][:1], "version": "1"}
    entries = [
        {**MODEL, **alone, "path": "models/looper/1/model.onnx"},
        {**MODEL, **alone, "version": "2", "path": "models/looper/2/model.onnx"},
        {**MODEL, "name": "other", "path": "models/other/3/model.onnx"},
    ]
    folder = write_package(tmp_path / "package", {**CONFIG, "models": entries})
    for entry, steps in zip(entries, (1, 4, 0), strict=True):
        (folder / str(entry["path"])).parent.mkdir(parents=True)
        write_model(folder / str(entry["path"]), steps)

    def ask(path: str, inputs: list[dict[str, Any]]) -> tuple[str, list[float]]:
        status, answer = server.infer({"inputs": inputs}, path)
        assert status == 200, answer
        return answer["model_version"], answer["outputs"][0]["data"]

    with serving(folder) as server:
        old = ask("/v2/models/looper/versions/1/infer", tensors()[:1])
        new = ask("/v2/models/looper/versions/2/infer", tensors()[:1])
        assert (old[0], new[0]) == ("1", "2")
        assert not np.allclose(old[1], new[1])
        assert ask("/v2/models/looper/infer", tensors()[:1]) == new
        assert ask("/v2/models/other/infer", tensors(4))[1] == new[1]
        about = json.loads(server.call("GET", "/v2/models/looper")[2])
        assert (about["versions"], about["inputs"]) == (["1", "2"], MODEL["inputs"][:1])
        status, answer = server.infer({"inputs": []}, "/v2/models/looper/versions/9/infer")
        assert (status, "there is 1, 2" in answer["error"]) == (404, True)
        counts = {name: n for name, n in server.metrics().items() if name.startswith("workbench_requests_total,code=2")}
    assert list(counts.values()) == [1, 2, 1]


def test_openvino_answers_as_it_does_itself(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    folder = write_package(tmp_path / "package")
    write_model(folder / "model.onnx", 3)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    alone = {"inputs": MODEL["inputs"][:1], "outputs": MODEL["outputs"][:1]}
    config = with_model(**alone, backend="openvino", provider="CPU", provider_options=settings, max_batch=2)
    (folder / "config.json").write_text(json.dumps(config))
    compiled = openvino.Core().compile_model(str(folder / "model.onnx"), "CPU", settings)
    expected = compiled({"x": np.array(tensors()[0]["data"], np.float32).reshape(2, 4)})["y"]
    with serving(folder) as server:
        assert json.loads(server.call("GET", "/v2/models/looper")[2])["platform"] == "openvino"
        status, answer = server.infer({"inputs": tensors()[:1]})
        assert status == 200, answer
        np.testing.assert_array_equal(np.array(answer["outputs"][0]["data"], np.float32), expected.ravel())
    config = with_model(**alone, backend="openvino", provider="GPU.7", provider_options=settings)
    (folder / "config.json").write_text(json.dumps(config))
    assert "measured on GPU.7, but OpenVINO finds" in refusal(folder)


def test_sigterm_under_load_loses_no_request(package: Path, tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", with_model(queue=64))
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    body = json.dumps({"inputs": tensors(50)}).encode()
    ends: Counter[str] = Counter()

    def call() -> None:
        """Asks on a connection that it keeps, and turns away when nobody listens any more."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        with contextlib.closing(connection):
            while True:
                try:
                    connection.connect() if connection.sock is None else None
                except ConnectionRefusedError:
                    return
                try:
                    connection.request("POST", INFER, body)
                    response = connection.getresponse()
                    response.read()
                    ends[str(response.status)] += 1
                except (OSError, http.client.HTTPException) as error:
                    ends[type(error).__name__] += 1
                    connection.close()

    with serving(folder) as server:
        callers = [threading.Thread(target=call) for _ in range(6)]
        for caller in callers:
            caller.start()
        end = time.monotonic() + 60
        while ends["200"] <= 50:
            assert time.monotonic() < end, ends
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        for caller in callers:
            caller.join(60)
    assert set(ends) == {"200"}, ends


@pytest.mark.serving
def test_runs_as_nobody_on_a_read_only_root(package: Path, tmp_path: Path) -> None:
    """What its container does, without one: needs root, and a Python that everybody can read."""
    tmp_path.chmod(0o755)
    folder = write_package(tmp_path / "package")
    (folder / "model.onnx").write_bytes((package / "model.onnx").read_bytes())
    for parent in list(folder.parents)[:3]:
        parent.chmod(0o755)
    enter = f"""
    mount --make-rprivate / && mount --bind / / && mount -o remount,ro,bind /
    touch {folder}/written && exit 3
    cd {folder} && exec setpriv --reuid 65532 --regid 65532 --clear-groups --bounding-set -all \
        {sys.executable} serve.py --port 0
    """
    command = ["unshare", "--mount", "sh", "-c", enter]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"HOME": "/nonexistent"}) as process:
        assert process.stderr is not None
        try:
            assert "Read-only file system" in process.stderr.readline()
            start = json.loads(process.stderr.readline())
            assert "Uid:\t65532" in Path(f"/proc/{process.pid}/status").read_text()
            server = Server(process, start["server.port"], [start])
            assert server.infer({"inputs": tensors()})[0] == 200
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
