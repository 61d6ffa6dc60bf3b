"""Load for servers on this machine: a closed loop in one thread, and the processor time of process trees."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from workbench.measure._traffic import Traffic
from workbench.service._grpc_wire import GrpcWire
from workbench.service._target import Target
from workbench.service._traffic import send_requests

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_PATIENCE = 30.0  # s without any answer before a server counts as hung
_TICK = os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """What a closed loop saw.

    Attributes:
        count: Requests answered.
        seconds: From the first request to the last answer.
        own_seconds: Processor time that the loop itself took.
    """

    count: int
    seconds: float
    own_seconds: float


def http_request(path: str, head: object, tail: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """One complete request, ready to be sent again and again.

    Args:
        path: Of the URL.
        head: What goes as JSON; nothing if None.
        tail: Bytes after it.
        headers: Further ones.
    """
    body = b"" if head is None else json.dumps(head).encode()
    kind = "application/octet-stream" if tail else "application/json"
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}"]
    lines.append(f"Content-Length: {len(body) + len(tail)}")
    if head is not None and tail:
        lines.append(f"Inference-Header-Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body + tail


@dataclass(slots=True)
class _Caller:
    """A connection that sends a request, and the next as soon as that is answered."""

    connection: socket.socket
    unsent: memoryview
    answer: bytes = b""
    size: int = 0  # of the whole answer; 0 while that is not known
    full: bool = False  # whether the kernel takes no more for now


def closed_loop(port: int, request: bytes, seconds: float, connections: int = 1) -> Load:
    """Sends a request over and over for so long; every connection waits for its answer before it sends again.

    One thread and one `epoll`, since what sends shares the machine's cores with what answers.

    Args:
        port: Of a server on this machine.
        request: A whole request.
        seconds: After which nothing further is sent; what is under way is waited for.
        connections: Requests side by side.

    Raises:
        RuntimeError: An answer is not 200, a connection ends, or the server hangs.
    """
    callers: dict[int, _Caller] = {}
    view = memoryview(request)
    with select.epoll() as poll:
        try:
            for _ in range(connections):
                connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setblocking(False)
                callers[connection.fileno()] = _Caller(connection, view)
                poll.register(connection, select.EPOLLIN)
            own, begun = time.thread_time(), time.perf_counter()
            deadline, count, under_way = begun + seconds, 0, connections
            for caller in callers.values():
                _send(caller, poll)
            while under_way:
                ready = poll.poll(_PATIENCE)
                if not ready:
                    raise RuntimeError(f"The server on port {port} has not answered for {_PATIENCE:g} s.")
                for number, event in ready:
                    caller = callers[number]
                    if event & select.EPOLLOUT:
                        _send(caller, poll)
                    if event & ~select.EPOLLOUT and _receive(caller):
                        count += 1
                        if time.perf_counter() < deadline:
                            caller.unsent = view
                            _send(caller, poll)
                        else:
                            under_way -= 1
            return Load(count, time.perf_counter() - begun, time.thread_time() - own)
        finally:
            for caller in callers.values():
                caller.connection.close()


def grpc_loop(port: int, message: bytes, seconds: float, connections: int = 1) -> Load:
    """The same over gRPC, by the sender of `load_service`; a message is of `ModelInfer`.

    Raises:
        RuntimeError: An answer is not OK, or missing.
    """
    target = Target(socket.AF_INET, ("127.0.0.1", port))
    wire = partial(GrpcWire, f"127.0.0.1:{port}", False, _PATIENCE)
    traffic = Traffic("closed", seconds, concurrency=connections)
    silent = {"progress": lambda *_: None, "tell": lambda _: None}
    _, sent = send_requests(target, wire, [message], traffic, 0.0, _PATIENCE, **silent)
    if set(sent.statuses) != {200} or sent.lost:
        raise RuntimeError(f"The server answered {dict(sent.statuses)}, and not {sent.lost} calls.")
    ended = max(int(notes[-1, 3]) for notes in sent.log.callers) / 1e9
    return Load(sent.statuses[200], ended, sent.log.cpu_seconds)


def _send(caller: _Caller, poll: select.epoll) -> None:
    """Sends what fits, and asks to be told when more does."""
    with contextlib.suppress(BlockingIOError):
        caller.unsent = caller.unsent[caller.connection.send(caller.unsent) :]
    if bool(caller.unsent) != caller.full:
        caller.full = not caller.full
        poll.modify(caller.connection, select.EPOLLIN | (select.EPOLLOUT if caller.full else 0))


def _receive(caller: _Caller) -> bool:
    """Reads what is there; whether the answer is whole."""
    data = caller.connection.recv(1 << 18)
    if not data:
        raise RuntimeError(f"The server closed a connection after {caller.answer[:300]!r}.")
    caller.answer = answer = caller.answer + data if caller.answer else data
    if not caller.size:
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        if (found := _LENGTH.search(answer, 0, end)) is None or not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"The server answered {answer[:500]!r}.")
        caller.size = end + 4 + int(found[1])
    if len(answer) < caller.size:
        return False
    caller.answer, caller.size = b"", 0
    return True


def tree_seconds(root: int) -> float:
    """Processor time of a process and all that it started, s; of those that have ended, in hundredths."""
    return sum(_own_seconds(pid) + _ended_seconds(pid) for pid in tree(root))


def tree(root: int) -> list[int]:
    """A process and its descendants (Linux)."""
    found = [root]
    for pid in found:  # which grows on the way
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
    return found


def _own_seconds(pid: int) -> float:
    """All threads' time with nanoseconds, from the process's clock in the kernel: ~pid << 3 | CPUCLOCK_SCHED."""
    return time.clock_gettime((~pid << 3) | 2)


def _ended_seconds(pid: int) -> float:
    """Time of children that were waited for: fields 16 and 17 of the process's line."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[13]) + int(words[14])) / _TICK
