"""How a connection speaks gRPC: one call at a time over HTTP/2.

Sources: RFC 9113, and https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. The library h2 takes GOAWAY, by
which a service closes down, for the end of the connection, answers under way included; so only its parts are used.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from hpack import Decoder, Encoder, HPACKError
from hyperframe.exceptions import HyperframeError
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

from workbench.exporters.server.grpc_messages import SERVICE
from workbench.service._wires import LARGEST_HEAD, WireError
from workbench.service._words import spoken

_STATUSES = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
"""HTTP's statuses for gRPC's codes from 0 on: https://github.com/googleapis/googleapis, google/rpc/code.proto."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = 9  # bytes before each frame
_LARGEST_FRAME = 16_384  # bytes that either side may send at once, unless told otherwise
_WINDOW = 65_535  # bytes that either side may send before it has to wait, unless told otherwise
_OPEN_WINDOW = 2**31 - 1  # what we let the service send: answers never wait
_REFUSED_STREAM = 7
_RESETS = {_REFUSED_STREAM: 503, 8: 499, 11: 429, 12: 403}  # statuses for HTTP/2's codes; 500 for all others
_NO_GRPC = "no gRPC"


class GrpcWire:
    """gRPC; a request is a message of `ModelInfer`.

    Args:
        authority: Host and port, as a header says them.
        secure: Whether it goes over TLS.
        timeout_s: How long the service is told that the caller waits, s.
        metadata: Further headers.
    """

    ALPN = "h2"

    def __init__(
        self, authority: str, secure: bool, timeout_s: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.done = self.stays = True
        self.untaken, self.status = False, 0
        self._said, self._stream, self._rest = "", -1, memoryview(b"")
        self._head = [
            (":method", "POST"),
            (":scheme", "https" if secure else "http"),
            (":path", f"/{SERVICE}/ModelInfer"),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", f"{round(1000 * timeout_s)}m"),
            *metadata,
        ]
        self._encoder, self._decoder = Encoder(), Decoder()
        self._came, self._block, self._taken = bytearray(), bytearray(), 0
        self._met = self._ending = False
        self._window = self._stream_window = self._first_window = _WINDOW
        self._largest = _LARGEST_FRAME

    @property
    def text(self) -> str:
        """What the service said of a call that it refused."""
        return urllib.parse.unquote(self._said)

    def begin(self) -> bytes:
        """HTTP/2's first words."""
        settings = {SettingsFrame.ENABLE_PUSH: 0, SettingsFrame.INITIAL_WINDOW_SIZE: _OPEN_WINDOW}
        return _PREFACE + SettingsFrame(settings=settings).serialize() + _let_send(_OPEN_WINDOW - _WINDOW)

    def request(self, request: bytes) -> bytes:
        """The call, as far as the service lets it be sent; the rest follows from `feed`."""
        self.done = self.untaken = self._ending = False
        self._said, self.status = "", 0
        self._stream += 2
        self._stream_window = self._first_window
        self._rest = memoryview(b"\0" + len(request).to_bytes(4, "big") + request)
        block = self._encoder.encode(self._head)
        return HeadersFrame(self._stream, block, flags=["END_HEADERS"]).serialize() + self._go_on()

    def _go_on(self) -> bytes:
        """As much of the message as may be sent."""
        parts = []
        while size := max(0, min(len(self._rest), self._window, self._stream_window, self._largest)):
            part, self._rest = self._rest[:size], self._rest[size:]
            self._window -= size
            self._stream_window -= size
            parts.append(DataFrame(self._stream, bytes(part), flags=[] if self._rest else ["END_STREAM"]).serialize())
        return b"".join(parts)

    def feed(self, data: bytes) -> bytes:
        """Takes a part of an answer."""
        self._came += data
        if not self._met and (other := spoken(bytes(self._came[:5]))):
            raise WireError(f"{other}, {_NO_GRPC}")
        reply = b""
        try:
            while len(self._came) >= _HEAD:
                end = _HEAD + int.from_bytes(self._came[:3], "big")
                if end > _HEAD + _LARGEST_FRAME:
                    raise WireError(_NO_GRPC)
                if len(self._came) < end:
                    break
                raw = memoryview(bytes(self._came[:end]))
                del self._came[:end]
                frame, _ = Frame.parse_frame_header(raw[:_HEAD])
                frame.parse_body(raw[_HEAD:])
                self._met = True
                reply += self._take(frame)
        except (HyperframeError, HPACKError, ValueError):
            raise WireError(_NO_GRPC) from None
        return reply if self.done else reply + self._go_on()

    def _take(self, frame: Frame) -> bytes:
        """Follows one frame; returns what it wants for an answer."""
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            return self._agree(frame.settings)
        if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            return PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize()
        if isinstance(frame, WindowUpdateFrame):
            if frame.stream_id == 0:
                self._window = _widened(self._window, frame.window_increment)
            elif frame.stream_id == self._stream:
                self._stream_window = _widened(self._stream_window, frame.window_increment)
        elif isinstance(frame, GoAwayFrame):
            self.stays = False
            if not self.done and frame.last_stream_id < self._stream:
                self.untaken = True
                self._end(503)
        elif isinstance(frame, RstStreamFrame):
            if frame.stream_id == self._stream and not self.done:
                self.untaken = frame.error_code == _REFUSED_STREAM
                self._said = f"it ended the call with HTTP/2's error {frame.error_code}."
                self._end(_RESETS.get(frame.error_code, 500))
        elif isinstance(frame, DataFrame | HeadersFrame | ContinuationFrame):
            return self._take_answer(frame)
        return b""

    def _agree(self, settings: dict[int, int]) -> bytes:
        if settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS) == 0:
            raise WireError("it takes no calls")
        if (first := settings.get(SettingsFrame.INITIAL_WINDOW_SIZE)) is not None:
            self._stream_window = _widened(self._stream_window, first - self._first_window)
            self._first_window = _widened(0, first)
        self._largest = settings.get(SettingsFrame.MAX_FRAME_SIZE, self._largest)
        if (size := settings.get(SettingsFrame.HEADER_TABLE_SIZE)) is not None:
            self._encoder.header_table_size = min(size, 4096)
        return SettingsFrame(flags=["ACK"]).serialize()

    def _take_answer(self, frame: DataFrame | HeadersFrame | ContinuationFrame) -> bytes:
        ours, reply = frame.stream_id == self._stream and not self.done, b""
        self._ending |= ours and "END_STREAM" in frame.flags  # of a head, before what continues it
        if isinstance(frame, DataFrame):
            self._taken += frame.flow_controlled_length
            if self._taken > _OPEN_WINDOW // 2:
                reply, self._taken = _let_send(self._taken), 0
        else:
            self._block += frame.data
            if len(self._block) > LARGEST_HEAD:
                raise WireError(f"a head of more than {LARGEST_HEAD // 1024} kB")
            if "END_HEADERS" in frame.flags:  # decoded in any case: what follows refers to it
                headers = {str(name): str(value) for name, value in self._decoder.decode(bytes(self._block))}
                self._block.clear()
                if ours:
                    self._read(headers)
        if ours and self._ending and (isinstance(frame, DataFrame) or "END_HEADERS" in frame.flags):
            self._end(self.status or 500)  # there is no answer without a status
        return reply

    def _read(self, headers: dict[str, str]) -> None:
        """Of the head of an answer, or of its end; the head may be both, or only announce one (1xx)."""
        if (status := headers.get(":status", "200")).startswith("1"):
            return
        if status != "200":
            self.status = int(status)
        elif self._ending and "grpc-status" in headers:
            code = int(headers["grpc-status"])
            self.status = _STATUSES[code] if 0 <= code < len(_STATUSES) else 500
        self._said = headers.get("grpc-message", self._said)

    def _end(self, status: int) -> None:
        self.done, self.status = True, status
        if self._rest:  # answered before all was sent
            self.stays = False


def _widened(window: int, size: int) -> int:
    """A window of the service's that it makes larger, or smaller."""
    if window + size > _OPEN_WINDOW:  # the largest that there is
        raise WireError(f"{_NO_GRPC}: a window beyond 2³¹ − 1")
    return window + size


def _let_send(size: int) -> bytes:
    return WindowUpdateFrame(0, window_increment=size).serialize()
