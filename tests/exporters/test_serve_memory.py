"""The serving package in its own process: what all callers together may cost, in connections and in bodies."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exporters.serving import (
    INFER,
    Server,
    binary_inputs,
    in_binary,
    read_all,
    serving,
    tensors,
    with_model,
)

HEAD = f"POST {INFER} HTTP/1.1\r\nHost: a\r\n"
LIMITS = {"body_bytes": 200_000, "header_seconds": 60, "body_seconds": 30, "total_body_bytes": 300_000}
GRACE = 1.0  # s; in which a body is not given up for others


@pytest.fixture
def tight(package: Path, tmp_path: Path) -> Iterator[Server]:
    folder = shutil.copytree(package, tmp_path / "package")
    limits = {**LIMITS, "connections": 20}
    (folder / "config.json").write_text(json.dumps({**with_model(queue=8), "limits": limits}))
    with serving(folder) as running:
        yield running


def large_request() -> tuple[bytes, dict[str, str]]:
    """A body of 160 kB that the model takes."""
    x = np.zeros((10_000, 4), np.float32)
    first, second = binary_inputs(x.nbytes)
    head: dict[str, Any] = {"inputs": [{**first, "shape": [10_000, 4]}, second], "outputs": [{"name": "taken"}]}
    return in_binary(head, x, np.array([1]))


def answered_meanwhile(server: Server) -> None:
    """Until another request is answered, what was sent before is taken note of."""
    assert server.call("GET", "/v2/health/live")[0] == 200


def answer_of(connection: socket.socket) -> bytes:
    """One answer to whether it lives."""
    answer = b""
    while not answer.endswith(b"true}"):
        part = connection.recv(4096)
        assert part, "it was closed"
        answer += part
    return answer


def test_silent_connections_make_room_for_those_that_ask(tight: Server) -> None:
    before = tight.metrics()["process_open_fds"]
    with contextlib.ExitStack() as ends:
        silent = [ends.enter_context(tight.open()) for _ in range(60)]
        for caller in silent:
            caller.sendall(b"GET /v2 HTTP/1.1\r\nX: ")
        for _ in range(5):
            assert tight.infer({"inputs": tensors()})[0] == 200
        assert tight.metrics()["process_open_fds"] - before <= 20
        assert read_all(silent[0]) == b""  # long before its time is over


def test_slow_bodies_make_room_for_connections_that_ask(tight: Server) -> None:
    with contextlib.ExitStack() as ends:
        slow = [ends.enter_context(tight.open()) for _ in range(20)]
        for caller in slow:
            caller.sendall(f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode())
        time.sleep(GRACE + 0.2)
        for _ in range(5):
            assert tight.infer({"inputs": tensors()})[0] == 200


def test_a_connection_that_was_used_outlasts_those_that_never_said_anything(tight: Server) -> None:
    asking = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    with contextlib.ExitStack() as ends:
        used = ends.enter_context(tight.open())
        used.sendall(asking)
        assert answer_of(used).startswith(b"HTTP/1.1 200")
        for _ in range(60):
            ends.enter_context(tight.open())
        used.sendall(asking)
        assert answer_of(used).startswith(b"HTTP/1.1 200")


def test_a_body_for_which_there_is_no_memory_is_refused_before_it_is_sent(tight: Server) -> None:
    with tight.open() as first, tight.open() as second, tight.open() as small:
        first.sendall(f"{HEAD}Content-Length: 199999\r\n\r\n{{".encode())
        answered_meanwhile(tight)
        second.sendall(f"{HEAD}Content-Length: 150000\r\n\r\n".encode())
        answer = read_all(second)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
        assert b"Bodies of requests take all 300000 bytes" in answer
        body = json.dumps({"inputs": tensors()}).encode()
        small.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert small.recv(4096).startswith(b"HTTP/1.1 200")  # for that there is some


def test_of_bodies_of_unknown_length_no_more_is_kept_than_there_is_memory(tight: Server) -> None:
    part = b"FDE8\r\n" + b" " * 65_000 + b"\r\n"
    with tight.open() as first, tight.open() as second:
        for caller in (first, second):
            caller.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + part * 2)
            answered_meanwhile(tight)
        second.sendall(part)
        assert second.recv(4096).startswith(b"HTTP/1.1 503")


def test_a_slow_body_makes_room_and_its_memory_comes_back(tight: Server) -> None:
    with tight.open() as slow:
        slow.sendall(f"{HEAD}Content-Length: 199999\r\n\r\n{{".encode())
        time.sleep(GRACE + 0.2)
        for _ in range(5):  # more than there is memory for at once
            assert tight.call("POST", INFER, *large_request())[0] == 200
        answer = read_all(slow)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"others needed the memory" in answer


def test_slow_bodies_hold_no_place_in_the_queue(tight: Server) -> None:
    with contextlib.ExitStack() as ends:
        for _ in range(10):  # the queue has 8
            ends.enter_context(tight.open()).sendall(f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode())
        assert tight.infer({"inputs": tensors()})[0] == 200
        assert tight.metrics()["workbench_in_flight,model=looper,version=3"] == 0
