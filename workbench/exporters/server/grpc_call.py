"""One call over gRPC: its message, which comes in parts and may be compressed."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .grpc_connection import GrpcConnection
    from .grpc_service import Method
    from .protocol import Refusal
else:
    from protocol import Refusal

PREFIX = 5  # bytes before a message: whether it is compressed, and its size
WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # what zlib calls them


class Call:
    """One call.

    Attributes:
        stream: Its number on the connection.
        method: What was called.
        since: When it began, on the event loop's clock.
        whole: Whether its message is there.
        rest: What is still to be sent of the answer.
    """

    def __init__(self, connection: GrpcConnection, stream: int, method: Method, encoding: bytes, since: float) -> None:
        self.stream, self.method, self.since = stream, method, since
        self.whole = False
        self.rest = memoryview(b"")
        self.task: asyncio.Task[None] | None = None
        self._connection, self._encoding = connection, encoding
        self._parts: list[bytes] = []
        self.size = 0  # bytes, of the budget

    def add(self, data: bytes) -> None:
        """Takes a part of the message."""
        self._parts.append(data)

    def message(self, most: int) -> bytes | memoryview:
        """The message, once it is there.

        Raises:
            Refusal: If it is none, or more than one, or too large.
        """
        body = b"".join(self._parts)
        self._parts.clear()
        size = int.from_bytes(body[1:PREFIX], "big")
        if len(body) < PREFIX or len(body) - PREFIX != size:
            raise Refusal(400, "A call takes one message, and all of it.")
        if not body[0]:
            return memoryview(body)[PREFIX:]
        if self._encoding not in WINDOW_BITS:
            raise Refusal(501, "Messages may be compressed by gzip or deflate, or not at all.")
        unpack = zlib.decompressobj(WINDOW_BITS[self._encoding])
        try:
            found = unpack.decompress(body[PREFIX:], most + 1)
        except zlib.error:
            raise Refusal(400, "The message cannot be decompressed.") from None
        if len(found) <= most and not unpack.eof:
            raise Refusal(400, "The message cannot be decompressed: it ends too early.")
        if len(found) > most:
            raise Refusal(413, f"The message is larger than the limit of {most} bytes.")
        return found

    def give_up(self) -> None:
        """Ends the wait for the message: others need the memory."""
        self._connection.refuse(self, Refusal(408, "The message was slow, and others needed the memory for it."))
