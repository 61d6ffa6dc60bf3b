"""A connection of a serving package: bodies received in place, and limits of time, head and number of connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .limits import LINGER_SECONDS, Body, Budget, Limits
else:
    from limits import LINGER_SECONDS, Body, Budget, Limits

MAX_HEAD_BYTES = 64 * 1024
LINGER_BYTES = 4 * 1024 * 1024


class Connection(HttpToolsProtocol):
    """uvicorn's connection with bodies received in place and with limits that uvicorn lacks.

    It ends when a head takes too long or grows too large, when the caller does not read its answer, and, while nothing
    is asked on it, when others need its place.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        service = cast(Any, self.config.app)
        self._limits, self._budget = cast(Limits, service.limits), cast(Budget, service.budget)
        self._chunk = cast(memoryview, service.chunk)
        self._body: Body | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = self._lingered = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock of the first head."""
        super().connection_made(transport)
        transport.set_protocol(_Receiver(self))
        self._since = self.loop.time()
        self._arm()
        if len(self.connections) > self._limits.connections:
            self._make_room()

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
        self._since = self.loop.time()
        self._body = self.scope["state"]["body"] = Body(self.headers, self._limits, self._budget)
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":
            self.cycle.transport = cast(asyncio.Transport, _Whole(self.transport))

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

    def _patience(self) -> tuple[int, float] | None:
        """How soon it may be closed for others, and since when; None for one that is being answered."""
        if self.cycle is None:
            return 0, self._since
        if self.cycle.response_complete:  # between two requests, or in the middle of the second one's head
            kept = self.timeout_keep_alive_task
            return (2, kept.when()) if kept is not None else (0, self._since)
        if not self.cycle.more_body:
            return None
        return (1 if self.loop.time() - self._since > self._budget.grace else 3), self._since

    def _make_room(self) -> None:
        """Closes the slowest: whose head is not there, then whose body, then who asks nothing; else this one.

        Not the newest of all: then slow callers, once they have every place, would keep everybody else out.
        """
        others = (cast(Connection, other) for other in self.connections if other is not self)
        slow = [(patience, other) for other in others if (patience := other._patience()) is not None]
        _, chosen = min(slow, key=lambda pair: pair[0], default=(None, self))
        self.connections.discard(chosen)
        chosen.transport.abort()

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


class _Whole:
    """A transport that sends the head of an answer together with its body.

    As two pieces, the first could be out when the process dies, and a proxy cannot ask another instance any more.
    """

    __slots__ = ("_begun", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._begun, self._head = False, b""

    def write(self, data: bytes) -> None:
        if self._begun:
            self._transport.writelines((self._head, data) if self._head else (data,))
            self._head = b""
        elif data.startswith(b"HTTP/1.1 100"):
            self._transport.write(data)
        else:
            self._begun, self._head = True, data

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
