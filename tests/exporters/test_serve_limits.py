"""The serving package in its own process: its limits, how it starts and stops, and what is shipped."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from string import Template
from typing import Any

import pytest

from tests.exporters.serving import (
    CODE,
    CONFIG,
    INFER,
    TEMPLATES,
    Server,
    read_all,
    serving,
    tensors,
    wait_until_busy,
)


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


@pytest.mark.parametrize("name", CODE)
def test_the_code_stands_alone(name: str) -> None:
    assert "workbench" not in (TEMPLATES / name).read_text()


def test_readme_has_exactly_its_placeholders() -> None:
    template = Template((TEMPLATES / "README.md").read_text())
    names = {"name", "inputs", "outputs", "candidate", "measured", "created", "python"}
    assert set(template.get_identifiers()) == names
    assert template.is_valid()
    assert "$" not in template.substitute(dict.fromkeys(names, "value"))
