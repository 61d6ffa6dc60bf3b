"""What the load generator makes of frames of HTTP/2 that a service may send."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.service.peers import head, well
from workbench.service._grpc_wire import GrpcWire
from workbench.service._wires import WireError


def asked() -> GrpcWire:
    """With one call under way."""
    wire = GrpcWire("127.0.0.1:1", False, 1)
    wire.begin()
    wire.request(b"hello")
    return wire


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *((code, 500) for code in (0, 1, 2, 3, 6, 9, 10)),
        (7, 503),
        (8, 499),
        (11, 429),
        (12, 403),
    ],
)
def test_the_end_of_a_call_is_told_as_grpc_maps_its_code(code: int, status: int) -> None:
    wire = asked()
    wire.feed(RstStreamFrame(1, code).serialize())
    assert (wire.done, wire.status, wire.untaken) == (True, status, code == 7)
    wire.request(b"another")
    assert (wire.done, wire.untaken) == (False, False)


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        (well(1), 200),
        (head(1, status="103") + well(1), 200),
        (head(1, end=True, status="502"), 502),
        (head(1, end=True, status="200"), 500),
        (head(1, status="200", grpc_status="0") + DataFrame(1, b"", flags=["END_STREAM"]).serialize(), 500),
        (head(1, status="200") + head(1, end=True, grpc_message="hm"), 500),
    ],
    ids=["well", "announced", "by a proxy", "no status", "too early", "no status at the end"],
)
def test_an_answer_has_the_status_that_is_at_its_end(frames: bytes, status: int) -> None:
    wire = asked()
    wire.feed(frames)
    assert (wire.done, wire.status) == (True, status)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it speaks HTTP/1, no gRPC"),
        (bytes.fromhex("15030300020246"), "it speaks TLS, no gRPC"),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", "no gRPC"),  # a frame larger than was agreed on
        (b"\x00\x00\x02\x06\x00\x00\x00\x00\x00ab", "no gRPC"),  # a ping of two bytes
        (b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff", "no gRPC"),  # a head that ends in the middle
        (SettingsFrame(settings={SettingsFrame.MAX_CONCURRENT_STREAMS: 0}).serialize(), "it takes no calls"),
        (SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**31}).serialize(), "a window beyond"),
        (WindowUpdateFrame(0, window_increment=2**31 - 1).serialize(), "a window beyond"),
        (WindowUpdateFrame(1, window_increment=2**31 - 1).serialize(), "a window beyond"),
        (
            HeadersFrame(1, b"").serialize() + 5 * ContinuationFrame(1, bytes(16_000)).serialize(),
            "a head of more than 64 kB",
        ),
    ],
)
def test_what_no_service_may_send_ends_the_conversation(frames: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        asked().feed(frames)
