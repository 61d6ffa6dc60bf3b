"""Callers over gRPC that do not keep to HTTP/2, or use all of it: each meets its limit, the others their answer."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.exporters.serving import Server, X, serving, with_model, write_model, write_package
from workbench.exporters.server.grpc_messages import SERVICE, message_classes

pytest.importorskip("h2")
MESSAGES = message_classes()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame().serialize()
SECONDS = 1.0  # a head, or a message, may take
BODY = 200_000  # bytes of a message at most


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = {**with_model(queue=64, request_seconds=20), "grpc": True}
    config["limits"] = {"body_bytes": BODY, "header_seconds": SECONDS, "body_seconds": SECONDS, "connections": 8}
    folder = write_package(tmp_path_factory.mktemp("http2"), config)
    write_model(folder / "model.onnx")
    with serving(folder, "--grpc-port", "0") as running:
        yield running


def message(rows: int = 2) -> bytes:
    """A call's message, with the prefix that gRPC gives it."""
    request = MESSAGES["ModelInferRequest"](model_name="looper")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
    request.inputs.add(name="steps", datatype="INT64", shape=[1])
    request.raw_input_contents.extend([np.full((rows, 4), 0.25, np.float32).tobytes(), np.array([2]).tobytes()])
    return prefixed(request.SerializeToString())


def prefixed(text: bytes, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(text).to_bytes(4, "big") + text


MESSAGE = message()


class Caller:
    """A connection whose caller writes frames itself, and reads them."""

    def __init__(self, server: Server, hello: bytes = PREFACE) -> None:
        port = server.log[-1]["labels.grpc_port"]
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.encoder, self._decoder, self._came = Encoder(), Decoder(), b""
        self.socket.sendall(hello)

    def head(self, stream: int, changes: Mapping[str, str] = MappingProxyType({})) -> bytes:
        headers = {
            ":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/ModelInfer", ":authority": "a",
            "content-type": "application/grpc", "te": "trailers",
            **changes,
        }  # fmt: skip
        block = self.encoder.encode(list(headers.items()))
        return HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()

    def call(self, stream: int = 1, body: bytes = MESSAGE, changes: Mapping[str, str] = MappingProxyType({})) -> None:
        """Sends a whole call, in frames as large as they may be."""
        parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
        frames = [DataFrame(stream, part).serialize() for part in parts]
        self.socket.sendall(self.head(stream, changes) + b"".join(frames))
        self.socket.sendall(DataFrame(stream, b"", flags=["END_STREAM"]).serialize())

    def frames(self) -> Iterator[Frame]:
        """What the service says until it closes the connection."""
        while True:
            while len(self._came) >= 9 and len(self._came) >= (end := 9 + int.from_bytes(self._came[:3], "big")):
                frame, _ = Frame.parse_frame_header(memoryview(self._came[:9]))
                frame.parse_body(memoryview(self._came[9:end]))
                self._came = self._came[end:]
                yield frame
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return
            self._came += data

    def answer(self, stream: int = 1) -> tuple[dict[str, str], bytes]:
        """The headers of a call's answer, those at its end included, and its message."""
        headers: dict[str, str] = {}
        body = b""
        for frame in self.frames():
            if isinstance(frame, HeadersFrame):
                found = {str(name): str(value) for name, value in self._decoder.decode(frame.data)}
                headers |= found if frame.stream_id == stream else {}
            if frame.stream_id == stream and isinstance(frame, DataFrame):
                body += frame.data
            if frame.stream_id == stream and "END_STREAM" in frame.flags:
                return headers, body
        return headers, body


@contextlib.contextmanager
def calling(server: Server, hello: bytes = PREFACE) -> Iterator[Caller]:
    caller = Caller(server, hello)
    with caller.socket:
        yield caller


def check_well(server: Server) -> None:
    """Somebody else is answered."""
    with calling(server) as caller:
        caller.call()
        headers, body = caller.answer()
    assert headers["grpc-status"] == "0", headers
    answer = MESSAGES["ModelInferResponse"].FromString(body[5:])
    assert len(answer.raw_output_contents[0]) == X.nbytes


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "no HTTP/2"),
        (PREFACE + b"\x00\x00\x07\x06\x00\x00\x00\x00\x001234567", "a ping of seven bytes"),
        (PREFACE + DataFrame(1, b"x").serialize(), "data before a head"),
        (PREFACE + HeadersFrame(2, Encoder().encode([(":method", "POST")]), flags=["END_HEADERS"]).serialize(), "even"),
        (PREFACE + HeadersFrame(1, b"\xff" * 20, flags=["END_HEADERS"]).serialize(), "a head that cannot be read"),
        (PREFACE + SettingsFrame(settings={4: 2**31}).serialize(), "a window that cannot be"),
        (PREFACE + WindowUpdateFrame(0, window_increment=2**31 - 1).serialize(), "a window beyond all"),
        (PREFACE + HeadersFrame(1, b"a" * 10).serialize() + PingFrame(0, b"12345678").serialize(), "in between"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_does_not_keep_to_the_protocol_is_cut_off(server: Server, hello: bytes, words: str) -> None:
    with calling(server, hello) as caller:
        *_, last = caller.frames()
    assert isinstance(last, GoAwayFrame), words
    assert last.error_code
    check_well(server)


@pytest.mark.parametrize("kind", [0, 1, 8], ids=["data", "head", "window"])
def test_a_frame_larger_than_was_agreed_on_is_cut_off(server: Server, kind: int) -> None:
    with calling(server) as caller, contextlib.suppress(OSError):
        caller.socket.sendall(bytes([255, 255, 255, kind, 0, 0, 0, 0, 1]))
        for _ in range(1000):  # as many bytes as it says
            caller.socket.sendall(b"\0" * 16_384)
        pytest.fail("it took everything")
    check_well(server)


def test_heads_without_end_are_cut_off(server: Server) -> None:
    with calling(server) as caller, contextlib.suppress(OSError):
        caller.socket.sendall(HeadersFrame(1, b"\x00").serialize())
        for _ in range(100_000):  # 1.6 GB, if anybody kept them
            caller.socket.sendall(ContinuationFrame(1, b"\x00\x7f" * 8000).serialize())
        pytest.fail("it took everything")
    check_well(server)


def test_calls_that_are_taken_back_at_once_end_the_connection(server: Server) -> None:
    with calling(server) as caller, contextlib.suppress(OSError):
        for number in range(20_000):
            stream = 2 * number + 1
            caller.socket.sendall(caller.head(stream) + RstStreamFrame(stream, error_code=8).serialize())
        pytest.fail("it took everything")
    check_well(server)


def test_who_does_not_read_is_not_read_and_ends(server: Server) -> None:
    pings = PingFrame(0, b"12345678").serialize() * 4000
    with calling(server) as caller, contextlib.suppress(OSError):
        caller.socket.settimeout(30)
        for _ in range(100_000):  # 6.8 GB, whose answers nobody takes
            caller.socket.sendall(pings)
        pytest.fail("it took everything")
    check_well(server)


@pytest.mark.parametrize(
    "hello",
    [b"", PREFACE[:10], PREFACE + b"\0\0\5\1\4\0\0\0\1", PREFACE + HeadersFrame(1, b"\0").serialize()],
    ids=["nothing", "half a hello", "half a frame", "half a head"],
)
def test_who_does_not_come_to_the_end_of_a_head_ends(server: Server, hello: bytes) -> None:
    with calling(server, hello) as caller:
        begun = time.monotonic()
        list(caller.frames())
    assert time.monotonic() - begun >= SECONDS / 2


def test_a_message_that_does_not_come_is_refused_and_the_connection_stays(server: Server) -> None:
    with calling(server) as caller:
        caller.socket.sendall(caller.head(1) + DataFrame(1, message()[:9]).serialize())
        headers, _ = caller.answer()
        assert (headers["grpc-status"], headers["grpc-message"]) == ("4", "The message did not arrive within 1.0 s.")
        caller.call(3)
        assert caller.answer(3)[0]["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", "3", "A call takes one message"),
        (message()[:-1], "3", "A call takes one message"),
        (message() + message(), "3", "A call takes one message"),
        (prefixed(b"\xff\xff"), "3", "cannot be read"),
        (b"\0" * (BODY + 70_000), "8", "larger than the limit of 200000 bytes"),
        (prefixed(gzip.compress(b"\0" * 50_000_000), True), "8", "larger than the limit"),
        (prefixed(b"no gzip", True), "3", "cannot be decompressed"),
        (prefixed(gzip.compress(message()[5:])[:-20], True), "3", "cannot be decompressed"),
    ],
    ids=["empty", "short", "two", "no message", "large", "bomb", "not compressed", "cut off"],
)
def test_messages_that_are_none_are_refused(server: Server, body: bytes, status: str, words: str) -> None:
    with calling(server) as caller:
        caller.call(1, body, {"grpc-encoding": "gzip"})
        headers, _ = caller.answer()
        assert headers["grpc-status"] == status
        assert words in headers["grpc-message"].replace("%20", " ")
        caller.call(3)
        assert caller.answer(3)[0]["grpc-status"] == "0"


def test_messages_may_be_compressed(server: Server) -> None:
    with calling(server) as caller:
        caller.call(1, prefixed(gzip.compress(message()[5:]), True), {"grpc-encoding": "gzip"})
        assert caller.answer()[0]["grpc-status"] == "0"
        caller.call(3, prefixed(gzip.compress(message()[5:]), True), {"grpc-encoding": "br"})
        assert caller.answer(3)[0]["grpc-status"] == "12"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({":path": "/inference.GRPCInferenceService/ModelStreamInfer"}, {":status": "200", "grpc-status": "12"}),
        ({":path": "/"}, {":status": "200", "grpc-status": "12"}),
        ({":method": "GET"}, {":status": "415"}),
        ({"content-type": "application/json"}, {":status": "415"}),
    ],
)
def test_what_is_no_call_of_the_protocol_is_refused(
    server: Server, changes: dict[str, str], found: dict[str, str]
) -> None:
    with calling(server) as caller:
        caller.call(changes=changes)
        headers, _ = caller.answer()
    assert headers.items() >= found.items()


def test_an_answer_waits_for_the_caller_s_window(server: Server) -> None:
    hello = PREFACE + SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1000}).serialize()
    with calling(server, hello) as caller:
        caller.call(1, message(2000))
        body = b""
        for frame in caller.frames():
            if isinstance(frame, DataFrame):
                body += frame.data
                assert len(frame.data) <= 1000
                both = [WindowUpdateFrame(number, window_increment=len(frame.data)) for number in (0, 1)]
                caller.socket.sendall(b"".join(each.serialize() for each in both))
            if "END_STREAM" in frame.flags:
                break
    answer = MESSAGES["ModelInferResponse"].FromString(body[5:])
    assert len(answer.raw_output_contents[0]) == 2000 * 16


def test_an_answer_that_nobody_takes_is_given_up(server: Server) -> None:
    hello = PREFACE + SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}).serialize()
    with calling(server, hello) as caller:
        caller.call()
        for frame in caller.frames():
            assert not isinstance(frame, DataFrame)
            if isinstance(frame, RstStreamFrame):
                break
        assert isinstance(frame, RstStreamFrame)


def test_who_says_that_it_goes_and_takes_nothing_keeps_no_limit_from_the_others(server: Server) -> None:
    hello = PREFACE + SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}).serialize()
    with calling(server, hello) as caller, calling(server) as other:
        caller.call()
        caller.socket.sendall(GoAwayFrame(0, last_stream_id=0).serialize())
        list(caller.frames())  # comes to an end
        other.socket.sendall(other.head(1) + DataFrame(1, MESSAGE[:9]).serialize())
        assert other.answer()[0]["grpc-status"] == "4"


def test_settings_that_nobody_knows_are_not_kept(server: Server) -> None:
    with calling(server) as caller, contextlib.suppress(OSError):
        for first in range(100, 60_000, 100):
            names = range(first, first + 100)
            caller.socket.sendall(SettingsFrame(settings=dict.fromkeys(names, 1)).serialize())
            time.sleep(0.001)
        pytest.fail("it took everything")
    check_well(server)


def test_among_too_many_connections_those_go_that_ask_nothing(server: Server) -> None:
    with contextlib.ExitStack() as ends:
        asking = ends.enter_context(calling(server))
        asking.call()
        assert asking.answer()[0]["grpc-status"] == "0"
        silent = [ends.enter_context(calling(server)) for _ in range(30)]
        check_well(server)
        asking.call(3)
        assert asking.answer(3)[0]["grpc-status"] == "0"
        for caller in silent[:20]:
            list(caller.frames())  # comes to an end


def test_calls_on_one_connection_are_answered_side_by_side(server: Server) -> None:
    with calling(server) as caller:
        streams = range(1, 61, 2)
        for stream in streams:
            caller.call(stream)
        ended: dict[int, Any] = {}
        for frame in caller.frames():
            if "END_STREAM" in frame.flags:
                ended[frame.stream_id] = frame
            if len(ended) == len(streams):
                break
    assert set(ended) == set(streams)
