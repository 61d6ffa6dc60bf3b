"""What one caller may cost a serving package: size and time of the head, of the body, and of reading the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .protocol import Refusal
else:
    from protocol import Refusal

MAX_HEAD_BYTES = 64 * 1024
LINGER_SECONDS, LINGER_BYTES = 0.5, 4 * 1024 * 1024

Positive = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one caller can ask of the service at most."""

    body_bytes: Positive
    queue: Positive
    header_seconds: Seconds
    body_seconds: Seconds
    request_seconds: Seconds


class ClientGone(Exception):
    """The caller closed the connection before its request was complete."""


class Body:
    """The body of one request, read within the limits.

    Args:
        scope: The ASGI scope of the request.
        receive: Gives the next part of the body.
        limits: How large and how slow it may be.
    """

    def __init__(self, scope: dict[str, Any], receive: Receive, limits: Limits) -> None:
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._limits = limits
        self._length = int(self._headers.get(b"content-length", b"0"))
        self.complete = self._length == 0 and b"transfer-encoding" not in self._headers

    def json_length(self) -> int | None:
        """The length of the JSON part, or None if the whole body is JSON."""
        value = self._headers.get(b"inference-header-content-length")
        if value is None:
            return None
        if not value.isdigit() or len(value) > 18:
            raise Refusal(400, "Inference-Header-Content-Length is not a number.")
        return int(value)

    async def read(self) -> bytes:
        """Reads the whole body; one that announces too much is refused before any of it is read."""
        limits = self._limits
        if self._headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "The body must not be compressed.")
        too_large = Refusal(413, f"The body is larger than the limit of {limits.body_bytes} bytes.")
        if self._length > limits.body_bytes:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                while not self.complete:
                    part = await self._next()
                    parts.append(part)
                    size += len(part)
                    if size > limits.body_bytes:
                        raise too_large
        except TimeoutError:
            raise Refusal(408, f"The body did not arrive within {limits.body_seconds} s.") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def linger(self) -> None:
        """Throws away some of what the caller still sends: closing at once could destroy the answer on its way."""
        size = 0
        with contextlib.suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.complete and size < LINGER_BYTES:
                    size += len(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.complete = not message["more_body"]
        return cast(bytes, message["body"])


class BoundedConnection(HttpToolsProtocol):
    """Closes a connection whose head takes too long or grows too large, or whose caller does not read the answer.

    uvicorn has a limit only for connections on which nothing arrives after an answer.
    """

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._arm()
        super().data_received(data)
        if self._deadline is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def on_message_begin(self) -> None:
        self._arm()  # a pipelined head begins while the answer to an earlier request is still being made
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._arm()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._disarm()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._deadline is None:
            seconds = cast(Any, self.config.app).limits.header_seconds
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline, self._head_bytes = None, 0
