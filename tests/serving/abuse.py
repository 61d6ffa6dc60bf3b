"""What a service is abused with over HTTP and gRPC, and how much memory it takes meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.exporters.serving import INFER, Server, X, binary_inputs, in_binary, tensors

Request = tuple[bytes, dict[str, str]]  # body and headers
LARGE = 200_000_000  # bytes
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: a\r\n"


def as_json(inputs: Any) -> Request:
    return json.dumps({"inputs": inputs}).encode(), {}


def with_x(**changes: Any) -> Request:
    return as_json(tensors(**changes))


def binary(*arrays: Any, announced: str | None = None, x_bytes: int = X.nbytes, **changes: Any) -> Request:
    first, second = binary_inputs(x_bytes)
    return in_binary({"inputs": [{**first, **changes}, second]}, *arrays, announced=announced)


def wrong_requests() -> dict[str, Request]:
    """Whole requests that must be refused, by what is wrong with them."""
    steps, bad = np.array([2]), X.copy()
    bad[0, 0] = np.nan
    whole = json.dumps({"inputs": tensors()}).encode()
    return {
        "wrong name": with_x(name="z"),
        "a very long name": with_x(name="z" * 1_000_000),
        "a name twice": as_json([*tensors(), *tensors()]),
        "an input missing": as_json(tensors()[:1]),
        "wrong datatype": with_x(datatype="FP64"),
        "no datatype": with_x(datatype="COMPLEX"),
        "wrong shape": with_x(shape=[2, 5]),
        "too many axes": with_x(shape=[2, 4, 1]),
        "ten thousand axes": with_x(shape=[1] * 10_000),
        "negative sizes": with_x(shape=[-2, -4]),
        "no rows": with_x(shape=[0, 4]),
        "huge sizes": with_x(shape=[10**15, 4]),
        "larger sizes": with_x(shape=[2**62, 2**62]),
        "sizes beyond 64 bits": with_x(shape=[10**300, 4]),
        "huge sizes in binary": binary(X, steps, shape=[10**15, 4]),
        "NaN": as_json(tensors(data=[float("nan")] * 8)),
        "NaN in binary": binary(bad, steps),
        "too large for the type": with_x(data=[1e39] * 8),
        "text for numbers": with_x(data=["1"] * 8),
        "lists of unequal length": with_x(data=[[1, 2], [3]]),
        "a million numbers too many": with_x(data=[0] * 1_000_000),
        "half a request": (whole[: len(whole) // 2], {}),
        "nothing": (b"", {}),
        "null": (b"null", {}),
        "no UTF-8": (b'{"inputs": [{"name": "\xff"}]}', {}),
        "lists ten million deep": (b'{"inputs": ' + b"[" * 10_000_000, {}),
        "objects two million deep": (b'{"a": ' * 2_000_000, {}),
        "data a million deep": (whole.replace(b'"data": [', b'"data": [' + b"[" * 1_000_000), {}),
        "bytes after the JSON": (whole + b"more", {}),
        "bytes after the tensors": binary(X, steps, np.zeros(3)),
        "bytes missing": binary(X),
        "a part longer than the body": binary(X, steps, announced="100000000"),
        "a part of a negative length": binary(X, steps, announced="-1"),
        "binary of a negative size": binary(X, steps, x_bytes=-1),
        "binary of a huge size": binary(X, steps, x_bytes=2**62),
        "compressed": (whole, {"Content-Encoding": "gzip"}),
    }


def send_large(server: Server, *, chunked: bool) -> bytes:
    """Sends 200 MB for as long as the server lets it; returns how the answer begins, nothing if it just closed."""
    head = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {LARGE}"
    part = bytes(1 << 20)
    with server.open() as connection:
        connection.sendall(f"{HEAD}{head}\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(LARGE >> 20):
                connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        with contextlib.suppress(OSError):
            return connection.recv(4096)[:12]
    return b""


SLOW_STARTS = (
    b"",
    b"GET /v2 HTTP/1.1\r\nX: ",
    f"{HEAD}Content-Length: 100000\r\n\r\n{{".encode(),
    f"{HEAD}Content-Length: 10000000\r\n\r\n{{".encode(),
    f"{HEAD}Transfer-Encoding: chunked\r\n\r\n186A0\r\n{{".encode(),
)


def crawl(server: Server, count: int, longest: float) -> list[bytes]:
    """Opens so many connections, which send a byte now and then; how each is answered until it is closed.

    Args:
        server: To whom.
        count: How many.
        longest: When one that is not closed makes the test fail, s.
    """
    answers = [b""] * count
    open_, end = dict[int, socket.socket](), time.monotonic() + longest
    with contextlib.ExitStack() as ends:
        for place in range(count):
            open_[place] = ends.enter_context(server.open())
            with contextlib.suppress(OSError):
                open_[place].sendall(SLOW_STARTS[place % len(SLOW_STARTS)])
            open_[place].setblocking(False)
        while open_:
            assert time.monotonic() < end, f"{len(open_)} slow connections are still open"
            for place, connection in list(open_.items()):
                try:
                    part = connection.recv(65536)
                    answers[place] += part
                    if not part:
                        del open_[place]
                        continue
                except BlockingIOError:
                    pass
                except OSError:
                    del open_[place]
                    continue
                if place % len(SLOW_STARTS) and not answers[place]:
                    with contextlib.suppress(OSError):
                        connection.send(b"1")
            time.sleep(0.1)
    return answers


def break_off(server: Server, count: int) -> None:
    """Halves of requests, whose callers then hang up: half of them politely."""
    body = json.dumps({"inputs": tensors()}).encode()
    request = f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body
    for place in range(count):
        with server.open() as connection:
            connection.sendall(request[: (place * 7) % len(request)])
            if place % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Callable[[], int]]:
    """Measures a process' memory all the time; the call tells the most that it has grown by, bytes."""

    def resident() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

    ending, begun = threading.Event(), resident()
    most = [begun]

    def watch() -> None:
        while not ending.wait(0.005):
            most[0] = max(most[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most[0] - begun
    finally:
        ending.set()
        thread.join()
