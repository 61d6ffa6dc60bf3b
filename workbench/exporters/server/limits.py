"""What one caller may cost a serving package: size and time of the head, of the body, and of reading the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, cast

import httptools
import msgspec
import numpy as np
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .protocol import Refusal
else:
    from protocol import Refusal

MAX_HEAD_BYTES = 64 * 1024
CHUNK_BYTES = 16 * 1024
LINGER_SECONDS, LINGER_BYTES = 0.5, 4 * 1024 * 1024
ALIGNMENT = 64

Positive = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large a request may be, and how long it may take to arrive."""

    body_bytes: Positive
    header_seconds: Seconds
    body_seconds: Seconds


class ClientGone(Exception):
    """The caller closed the connection before its request was complete."""

    status = 499  # what proxies log for this; nobody receives it


class Body:
    """The body of one request, filled by the connection and read by the service.

    A body of announced length is received into the memory that the model then reads: every further copy of a tensor of
    some 100 kB costs more than all of HTTP, mostly because it drives the model's weights out of the cache.

    Args:
        headers: The request's headers.
        limits: How large and how slow it may be.
    """

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], limits: Limits) -> None:
        self._headers = dict(headers)
        self._limits = limits
        self._length = int(self._headers.get(b"content-length", b"0"))
        self._parts: list[bytes] = []
        self._size = 0
        self.complete = self._length == 0 and b"transfer-encoding" not in self._headers
        self.wanted = False  # whether the service has decided to receive it
        self.rest: memoryview | None = None  # the memory that is still to be filled

    def json_length(self) -> int | None:
        """The length of the JSON part, or None if the whole body is JSON."""
        value = self._headers.get(b"inference-header-content-length")
        if value is None:
            return None
        if not value.isdigit() or len(value) > 18:
            raise Refusal(400, "Inference-Header-Content-Length is not a number.")
        return int(value)

    def add(self, part: bytes) -> bool:
        """Takes a part from the connection; returns whether that makes the body too large."""
        self._size += len(part)
        if self.rest:
            self.rest[: len(part)] = part
            self.rest = self.rest[len(part) :]
        elif self._size <= self._limits.body_bytes:
            self._parts.append(part)
        return self._size > self._limits.body_bytes

    async def read(self, receive: Receive) -> bytes | memoryview:
        """Waits for the whole body; one that announces too much is refused before it is received.

        Args:
            receive: ASGI's channel, which returns when the connection has all of the body or too much of it.

        Returns:
            The body; if it has a JSON part, what follows it is aligned in memory.

        Raises:
            Refusal: If the body is too large, too slow or compressed.
            ClientGone: If the rest of it will not come.
        """
        limits, json_length = self._limits, self.json_length()
        if self._headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "The body must not be compressed.")
        if max(self._length, self._size) > limits.body_bytes:
            raise Refusal(413, f"The body is larger than the limit of {limits.body_bytes} bytes.")
        body: bytes | memoryview = b""
        if self._length > self._size:
            body = _aligned(self._length, json_length or 0)
            body[: self._size] = b"".join(self._parts)
            self.rest = body[self._size :]
        try:
            async with asyncio.timeout(limits.body_seconds):
                await self._wait(receive)
        except TimeoutError:
            raise Refusal(408, f"The body did not arrive within {limits.body_seconds} s.") from None
        if self._size > limits.body_bytes:
            raise Refusal(413, f"The body is larger than the limit of {limits.body_bytes} bytes.")
        return body or b"".join(self._parts)

    async def linger(self, receive: Receive) -> None:
        """Lets the caller send on for a moment: closing at once could destroy the answer on its way."""
        with contextlib.suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.complete:
                    await self._wait(receive)

    async def _wait(self, receive: Receive) -> None:
        self.wanted = True
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.complete = not message["more_body"]


def _aligned(length: int, json_length: int) -> memoryview:
    memory = np.empty(length + ALIGNMENT, np.uint8)
    start = -(memory.ctypes.data + json_length) % ALIGNMENT
    return memory[start : start + length].data


class Connection(HttpToolsProtocol):
    """uvicorn's connection with bodies received in place and with limits that uvicorn lacks.

    It ends when a head takes too long or grows too large, and when the caller does not read its answer.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = cast(Limits, cast(Any, self.config.app).limits)
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._body: Body | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = self._lingered = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock of the first head."""
        super().connection_made(transport)
        transport.set_protocol(_Receiver(self))
        self._arm()

    def buffer(self) -> memoryview:
        """Where the next bytes go: to the parser until the service asks for the body, then to where it wants them."""
        return (self._body and self._body.rest) or self._chunk

    def received(self, count: int) -> None:
        """Takes note of so many bytes in that buffer."""
        if self._body is None or not self._body.rest:
            self.data_received(bytes(self._chunk[:count]))
            return
        self._body.rest = self._body.rest[count:]
        if not self._body.rest:
            self.parser = httptools.HttpRequestParser(self)  # the old one waits for bytes that it never saw
            self.on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Parses bytes; holds back the caller of a body that nobody asked for yet."""
        if self.cycle is None or self.cycle.response_complete:
            self._arm()
        super().data_received(data)
        if self._deadline is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()
        elif self._body is not None and not self._body.wanted and self.cycle.more_body:
            self.flow.pause_reading()  # until the service asks for the body, or refuses it

    def pause_writing(self) -> None:
        """Starts the clock of a caller that does not read."""
        super().pause_writing()
        self._arm()

    def resume_writing(self) -> None:
        """Stops that clock."""
        super().resume_writing()
        self._disarm()

    def shutdown(self) -> None:
        """Gives a caller that is connected and was not heard yet a moment: closing would lose what it is saying."""
        if self.cycle is None:
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops any clock."""
        super().connection_lost(exc)
        self._disarm()

    def on_message_begin(self) -> None:
        """Starts the clock of a head; a pipelined one begins while an earlier request is still being answered."""
        self._arm()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stops the clock and hands the service a body to fill."""
        self._disarm()
        self._lingered = 0
        self._body = self.scope["state"]["body"] = Body(self.headers, self._limits)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keeps a part of the body, or throws it away once the request is refused."""
        if self.cycle.response_started:
            self._lingered += len(body)
            if self._lingered > LINGER_BYTES:
                self.flow.pause_reading()
        elif cast(Body, self._body).add(body):
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Stops the clock that a body nobody wanted has started."""
        self._disarm()
        super().on_message_complete()

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._limits.header_seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline, self._head_bytes = None, 0


class _Receiver(asyncio.BufferedProtocol):
    """Lets the event loop write into a connection's buffer, which uvloop does not do for a class that is a Protocol."""

    def __init__(self, connection: Connection) -> None:
        methods = {
            "get_buffer": lambda sizehint: connection.buffer(),
            "buffer_updated": connection.received,
            "connection_lost": connection.connection_lost,
            "pause_writing": connection.pause_writing,
            "resume_writing": connection.resume_writing,
        }
        for name, method in methods.items():  # on the instance: a call less for every piece that arrives
            setattr(self, name, method)
