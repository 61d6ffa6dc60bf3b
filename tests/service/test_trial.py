"""The one request before all others, to peers that never end, take nothing or speak something else."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable

import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame

from tests.service.peers import SETTINGS, answering_calls, head, peer
from workbench.errors import ServiceError
from workbench.service._grpc_wire import GrpcWire
from workbench.service._target import Target
from workbench.service._trial import try_request
from workbench.service._wires import HttpWire, Wire

Meet = Callable[[socket.socket], None]
PING = PingFrame(0, b"12345678").serialize()
HTTP = b"HTTP/1.1 200 OK\r\n"


def endless(first: bytes, then: bytes, pause: float = 0.0) -> Meet:
    def meet(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(then)
            time.sleep(pause)

    return meet


def saying(words: bytes) -> Meet:
    """Says that to whatever comes, and then nothing more."""

    def meet(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(words)
        while connection.recv(1 << 16):
            pass

    return meet


def grpc() -> Wire:
    return GrpcWire("127.0.0.1", False, 1.0)


def http() -> Wire:
    return HttpWire(keep=True)


def tried(meet: Meet, wire: Wire, timeout_s: float = 20.0, tls: str = "") -> int:
    with peer(meet) as port:
        return try_request(Target(socket.AF_INET, ("127.0.0.1", port), tls), wire, b"hello", timeout_s)


@pytest.mark.parametrize(
    ("meet", "wire"),
    [
        (endless(SETTINGS, PING, 0.1), grpc()),
        (endless(SETTINGS + head(1, status="200"), DataFrame(1, bytes(16_384)).serialize()), grpc()),
        (endless(HTTP + b"Content-Length: 10000000000000\r\n\r\n", bytes(100_000)), http()),
        (endless(HTTP, b"x", 0.1), http()),
    ],
    ids=["pings", "data", "body", "head"],
)
def test_what_never_ends_is_given_up_in_time(meet: Meet, wire: Wire) -> None:
    with pytest.raises(ServiceError, match=r"Port \d+ of 127\.0\.0\.1 took a connection, .*\(no answer in time\)"):
        tried(meet, wire, timeout_s=0.5)
    assert len(wire.text) <= 100_000


def test_what_says_nothing_over_tls_is_given_up_in_time() -> None:
    with pytest.raises(ServiceError, match=r"over gRPC with TLS \(no answer in time\)"):
        tried(saying(b""), grpc(), timeout_s=0.5, tls="127.0.0.1")


@pytest.mark.parametrize(
    ("meet", "wire"),
    [
        (endless(SETTINGS + HeadersFrame(1, b"").serialize(), ContinuationFrame(1, bytes(16_384)).serialize()), grpc()),
        (endless(HTTP, b"x: " + b"y" * 50_000 + b"\r\n"), http()),
        (endless(HTTP + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x: " + b"y" * 50_000 + b"\r\n"), http()),
    ],
    ids=["continuations", "head", "trailers"],
)
def test_a_head_that_never_ends_is_not_kept(meet: Meet, wire: Wire) -> None:
    with pytest.raises(ServiceError, match="a head of more than 64 kB"):
        tried(meet, wire)


@pytest.mark.parametrize("untaken", [RstStreamFrame(1, 7), GoAwayFrame(0, last_stream_id=0)])
def test_a_call_that_is_not_taken_is_refused(untaken: RstStreamFrame | GoAwayFrame) -> None:
    assert tried(answering_calls(lambda _: untaken.serialize()), grpc()) == 503


def test_an_answer_counts_whatever_follows_it() -> None:
    words = head(1, end=True, status="200", grpc_status="0") + b"\xff" * 20
    assert tried(answering_calls(lambda _: words), grpc()) == 200


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"without TLS \(it speaks HTTP/1, no gRPC\)"),
        (bytes.fromhex("15030300020246"), r"without TLS \(it speaks TLS, no gRPC\)"),
        (b"220 mail ready\r\n", r"without TLS \(no gRPC\)"),
    ],
)
def test_what_speaks_no_grpc_is_said_with_the_port_and_the_option(words: bytes, reason: str) -> None:
    with pytest.raises(ServiceError, match=rf"Port \d+ of .* over gRPC {reason}\. .*option `grpc_port`"):
        tried(saying(words), grpc())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (SETTINGS, "it speaks no TLS"),
        (HTTP, "it speaks no TLS"),
        (bytes.fromhex("15030300020278"), "it does not speak that over TLS"),  # no_application_protocol
    ],
)
def test_what_speaks_no_tls_or_no_http2_within_is_said(words: bytes, reason: str) -> None:
    with pytest.raises(ServiceError, match=rf"over gRPC with TLS \({reason}\)\. .*option `grpc_port`"):
        tried(saying(words), grpc(), tls="127.0.0.1")


def test_a_refusal_in_a_services_own_words_does_not_control_the_terminal() -> None:
    words = head(1, end=True, status="200", grpc_status="3", grpc_message="%1b[2Jbad%0Ainput")
    with pytest.raises(ServiceError, match=r"status 400: ·\[2Jbad input Check"):
        tried(answering_calls(lambda _: words), grpc())


def test_what_only_announces_an_answer_is_none() -> None:
    numbers = itertools.count()
    words = [b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n", HTTP + b"Content-Length: 0\r\n\r\n"]

    def meet(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"".join(words[: next(numbers) + 2]))
        connection.recv(1 << 16)

    assert tried(meet, http()) == 200
