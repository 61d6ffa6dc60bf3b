"""The serving package with several workers: they share a port and their counters, and outlive each other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.exporters.callers import Callers
from tests.exporters.serving import INFER, Server, serving, tensors, with_model, write_model, write_package

REQUEST = {"inputs": tensors()}
LABELS = "model=looper,version=3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_package(
        tmp_path_factory.mktemp("workers"), {**with_model(queue=64, request_seconds=20), "workers": 2}
    )
    write_model(folder / "model.onnx")
    return folder


@pytest.fixture
def two(folder: Path) -> Iterator[Server]:
    with serving(folder) as running:
        yield running


def workers(server: Server) -> list[int]:
    """The processes that answer."""
    pid = server.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def told(server: Server) -> dict[str, Any]:
    """The next line of its log."""
    assert server.process.stderr is not None
    line: dict[str, Any] = json.loads(server.process.stderr.readline())
    return line


def connections(pid: int) -> int:
    return sum(str(file.readlink()).startswith("socket:") for file in Path(f"/proc/{pid}/fd").iterdir())


def answered(server: Server) -> float:
    return server.metrics()["workbench_requests_total,code=2xx,model=looper,protocol=http,version=3"]


def test_whichever_worker_is_asked_tells_what_all_of_them_did(two: Server) -> None:
    pids = workers(two)
    assert len(pids) == two.log[-1]["labels.workers"] == 2
    before = [connections(pid) for pid in pids]
    with contextlib.ExitStack() as ends:
        body = json.dumps(REQUEST).encode()
        for _ in range(20):
            connection = ends.enter_context(two.open())
            connection.sendall(
                b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (INFER.encode(), len(body), body)
            )
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        more = [connections(pid) - was for pid, was in zip(pids, before, strict=True)]
        assert sum(more) == 20
        assert max(more) <= 13, more  # they take turns
        for _ in range(10):
            assert answered(two) == 20
    metrics = two.metrics()
    assert metrics[f"workbench_queue_limit,{LABELS}"] == 2 * 64
    assert metrics[f"workbench_in_flight,{LABELS}"] == 0
    assert metrics[f"workbench_inference_seconds_count,{LABELS}"] == 20
    assert metrics[f"workbench_input_mean,input=x,{LABELS}"] == pytest.approx(0.225)
    assert metrics["workbench_workers"] == 2
    memory = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in [two.process.pid, *pids])
    assert metrics["process_resident_memory_bytes"] == pytest.approx(memory, rel=0.1)


def test_killed_workers_are_started_again_and_no_request_is_lost_by_who_asks_again(two: Server) -> None:
    with Callers(two, REQUEST, retries=True) as callers:
        callers.wait_for(50)
        for _ in range(2):
            before, counted = workers(two), answered(two)
            os.kill(before[0], signal.SIGKILL)
            assert "ended by SIGKILL; it is started again" in told(two)["message"]
            wait_until(lambda: two.metrics()["workbench_workers"] == 2)
            assert set(workers(two)) - set(before)
            callers.wait_for(50)
            assert answered(two) > counted  # no counter fell
    assert (callers.lost, set(callers.statuses)) == ([], {"200"})
    metrics = two.metrics()
    assert metrics["workbench_worker_restarts_total"] == 2
    assert metrics[f"workbench_in_flight,{LABELS}"] == 0
    # A worker can die after it has counted a request and before its answer is out.
    assert len(callers.answers) <= answered(two) <= len(callers.answers) + callers.retried


def test_what_a_dead_worker_was_doing_is_under_way_no_more(folder: Path, two: Server, steps_per_second: float) -> None:
    body = json.dumps({"inputs": tensors(int(5 * steps_per_second))}).encode()
    with two.open() as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (INFER.encode(), len(body), body)
        )
        wait_until(lambda: two.metrics()[f"workbench_in_flight,{LABELS}"] == 1)
        for pid in workers(two):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    wait_until(lambda: len(workers(two)) == 2)
    assert two.call("GET", "/v2/health/ready")[0] == 200  # the port listens meanwhile: who comes waits for a new one
    assert two.metrics()[f"workbench_in_flight,{LABELS}"] == 0


def test_sigterm_drains_all_workers_and_loses_nothing(folder: Path) -> None:
    with serving(folder) as server, Callers(server, REQUEST, pause=0.002) as callers:
        callers.wait_for(100)
        pids = workers(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert gone(pids)
    assert set(callers.statuses) == {"200"}
    # Once nobody listens any more, callers are refused; none was cut off.
    assert {reason.split("(")[0] for reason in callers.lost} <= {"ConnectionRefusedError"}


def test_workers_do_not_outlive_what_supervises_them(folder: Path) -> None:
    with serving(folder) as server:
        pids = workers(server)
        server.process.kill()
        wait_until(lambda: gone(pids))


def test_a_worker_that_cannot_start_ends_the_service_with_its_words(folder: Path, tmp_path: Path) -> None:
    broken = write_package(tmp_path / "package", json.loads((folder / "config.json").read_text()))
    command = [sys.executable, str(broken / "serve.py"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("serve.py cannot start. model.onnx cannot be loaded")
    assert done.stderr.count("\n") == 1


@pytest.mark.heavy
def test_workers_that_die_again_and_again_at_their_start_end_the_service(folder: Path, tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", json.loads((folder / "config.json").read_text()))
    (package / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with serving(package) as server:
        (package / "model.onnx").write_bytes(b"no model any more")
        pids = workers(server)
        os.kill(pids[0], signal.SIGKILL)
        assert server.process.wait(60) == 2
        assert server.process.stderr is not None
        *restarts, last = server.process.stderr.read().splitlines()
    assert last.startswith("serve.py cannot start. model.onnx cannot be loaded")
    assert sum("it is started again" in line for line in restarts) == 5
    assert gone(pids)


COUNT = """
import sys
sys.path.insert(0, sys.argv[1])
from board import Board, BoardFull
board, versions = Board(2), 0
try:
    while True:
        board.row = versions % 2
        cells = board.take(f"model {versions} counts", 100)
        cells[0] += versions
        versions += 1
except BoardFull:
    print(versions, [list(part[:1]) for part in board.all("model 7 counts")])
"""


def test_there_is_room_for_the_counters_of_a_thousand_versions(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", COUNT, folder], capture_output=True, text=True, timeout=60, check=True)
    versions, found = done.stdout.split(" ", 1)
    assert int(versions) > 2 * 1000
    assert found == "[[7.0]]\n"


def test_a_port_in_use_is_refused(folder: Path, two: Server) -> None:
    command = [sys.executable, str(folder / "serve.py"), "--port", str(two.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "is in use by another program" in done.stderr) == (2, True)


def test_a_worker_that_is_told_to_end_is_followed_by_another(two: Server) -> None:
    before = workers(two)
    os.kill(before[0], signal.SIGTERM)
    wait_until(lambda: before[0] not in workers(two) and len(workers(two)) == 2)
    for _ in range(5):
        assert two.call("GET", "/v2/health/ready")[0] == 200


def test_grpc_is_shared_too(folder: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("tritonclient.grpc")
    config = json.loads((folder / "config.json").read_text())
    package = write_package(tmp_path / "package", {**config, "grpc": True})
    (package / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with serving(package, "--grpc-port", "0") as server:
        port = server.log[-1]["labels.grpc_port"]
        with contextlib.ExitStack() as ends:
            before = [connections(pid) for pid in workers(server)]
            for _ in range(4):
                own = [("grpc.use_local_subchannel_pool", 1)]  # else all clients of a process share a connection
                asking = client.InferenceServerClient(f"127.0.0.1:{port}", channel_args=own)
                ends.enter_context(asking)
                assert asking.is_server_ready()
            counts = [connections(pid) for pid in workers(server)]
            added = [after - old for after, old in zip(counts, before, strict=True)]
            assert (sum(added), min(added) > 0) == (4, True)
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        with client.InferenceServerClient(f"127.0.0.1:{port}") as asking:
            assert asking.is_server_ready()  # the port listens meanwhile: who comes waits for a new worker
        refused = subprocess.run(
            [sys.executable, str(package / "serve.py"), "--port", "0", "--grpc-port", str(port)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (refused.returncode, "--grpc-port" in refused.stderr) == (2, True)
        with socket.create_connection(("127.0.0.1", port)):
            server.process.terminate()
            assert server.process.wait(60) == 0
