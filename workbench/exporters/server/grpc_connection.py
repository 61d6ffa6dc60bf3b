"""A connection over which gRPC is spoken: HTTP/2 by h2, calls of one message each, and limits of what they cost.

Source of the protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, cast

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .grpc_call import Call
    from .grpc_link import HEAD_BYTES, keep_small, kept_bytes, open_link, takes_too_much
    from .grpc_service import GrpcService
    from .grpc_status import HEAD, WELL, Headers, error_of
    from .limits import IDLE_SECONDS, LINGER_SECONDS
    from .protocol import Refusal
else:
    from grpc_call import Call
    from grpc_link import HEAD_BYTES, keep_small, kept_bytes, open_link, takes_too_much
    from grpc_status import HEAD, WELL, Headers, error_of
    from limits import IDLE_SECONDS, LINGER_SECONDS
    from protocol import Refusal

MOST_RESETS = 1000  # calls that a caller may take back between two looks, before their messages are there
PING = b"farewell"
LAST_STREAM = 2**31 - 1


log = logging.getLogger("serve")


class GrpcConnection(asyncio.Protocol):
    """One connection.

    Args:
        service: What answers, and knows all connections.
    """

    def __init__(self, service: GrpcService) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self.since = self._heard = self._loop.time()
        self.calls: dict[int, Call] = {}
        self._link = open_link()
        self._transport: asyncio.Transport
        self._stuck: float | None = None  # since when the caller does not read
        self._partial: float | None = None  # since when a frame or a head is not whole
        self._reset = self._unsent = 0
        self._greeted = self._closing = self._widened = False

    # --- what the event loop calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says hello."""
        self._transport = cast(asyncio.Transport, transport)
        self._service.joined(self)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for its calls any more."""
        self._service.left(self)
        for call in list(self.calls.values()):
            self._drop(call)

    def data_received(self, data: bytes) -> None:
        """Takes what came."""
        self._heard = self._loop.time()
        try:
            events = self._link.receive_data(data)
            for event in events:
                self._take(event)
            if self._widened:  # once, however often that was said
                self._widened = False
                for call in [call for call in self.calls.values() if call.rest]:
                    self._send(call)
        except ProtocolError as error:
            self._closing = True
            with contextlib.suppress(ProtocolError):
                self._link.close_connection(error.error_code)
            self._flush()
            self._transport.close()
            return
        self._flush()
        kept = kept_bytes(self._link)
        if not kept:
            self._partial = None
        elif events or self._partial is None:
            self._partial = self._heard
        if self._reset > MOST_RESETS or takes_too_much(self._link):
            self.abort()

    def pause_writing(self) -> None:
        """Reads nothing more while the caller does not read."""
        self._stuck = self._loop.time()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Goes on reading."""
        self._stuck = None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # --- what the service calls --------------------------------------------------------------------------------------

    def patience(self) -> tuple[int, float] | None:
        """How soon it may be closed for others, and since when; None for one that is being answered."""
        late = self._loop.time() - self._service.budget.grace
        if not self._link.highest_inbound_stream_id:  # it has asked nothing yet
            return 0, self.since
        if not self.calls:
            return 2, self._heard
        if any(call.whole and not call.rest for call in self.calls.values()):
            return None
        since = min(call.since for call in self.calls.values())
        return (1 if since < late else 3), since

    def abort(self) -> None:
        """Ends it at once."""
        self._transport.abort()

    def look(self, now: float) -> None:
        """Ends what takes too long."""
        limits, silent, self._reset = self._service.limits, now - self._heard, 0
        before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if self._stuck is not None and self._unsent < before:
            self._stuck = now  # the caller is slow, but takes something
        clocks = [self._stuck, self._partial, None if self._greeted else self.since]
        clocks += [self._heard] if self._closing and not self.calls else []
        if any(since is not None and now - since > limits.header_seconds for since in clocks):
            self.abort()
        elif not self.calls and silent > IDLE_SECONDS:
            self.say_goodbye()
        for call in list(self.calls.values()):
            if not call.whole and now - call.since > limits.body_seconds:
                self.refuse(call, Refusal(408, f"The message did not arrive within {limits.body_seconds} s."))
            elif call.rest and now - call.since > limits.header_seconds:  # the caller takes nothing
                self._cut(call)

    def _cut(self, call: Call) -> None:
        """Ends a call whose answer has begun."""
        with contextlib.suppress(ProtocolError):  # the caller has said that it goes
            self._link.reset_stream(call.stream, ErrorCodes.CANCEL)
        self._drop(call)
        self._flush()

    def drain(self) -> None:
        """Tells the caller to go elsewhere; calls that are on their way are still answered."""
        with contextlib.suppress(ProtocolError):
            self._write(GoAwayFrame(0, last_stream_id=LAST_STREAM).serialize())  # h2 takes it for the end
            self._link.ping(PING)
            self._flush()
        self._loop.call_later(LINGER_SECONDS, self.say_goodbye)

    def say_goodbye(self) -> None:
        """Takes no further calls."""
        if not self._closing:
            self._closing = True
            last = self._link.highest_inbound_stream_id
            self._write(GoAwayFrame(0, last_stream_id=last).serialize())
            self._close_if_done()

    def refuse(self, call: Call, refusal: Refusal) -> None:
        """Answers a call that is not done, or does not even come, with an error."""
        self._end(call.stream, error_of(refusal))
        self._drop(call)
        self._flush()

    # --- what comes --------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, DataReceived):
            with contextlib.suppress(ProtocolError):  # the stream was closed by us
                self._link.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            if call := self.calls.get(event.stream_id or 0):
                self._add(call, event.data or b"")
        elif isinstance(event, StreamEnded):
            if call := self.calls.get(event.stream_id or 0):
                self._service.budget.end(call)
                call.whole = True
                call.task = self._loop.create_task(self._answer(call))
        elif isinstance(event, StreamReset):
            if call := self.calls.get(event.stream_id or 0):
                self._reset += not call.whole  # others are deadlines, and have cost their caller a message
                self._drop(call)
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            self._greeted = self._widened = True
            keep_small(self._link)
        elif isinstance(event, PingAckReceived):
            if event.ping_data == PING:
                self.say_goodbye()
        elif isinstance(event, ConnectionTerminated):
            self._closing = True
            self._close_if_done()

    def _begin(self, event: RequestReceived) -> None:
        stream, given = event.stream_id or 0, cast(dict[bytes, bytes], dict(event.headers or ()))
        if self._closing:
            with contextlib.suppress(ProtocolError):  # it was taken back
                self._link.reset_stream(stream, ErrorCodes.REFUSED_STREAM)  # its caller asks another instance
            return
        kind = given.get(b"content-type", b"")
        if given.get(b":method") != b"POST" or not re.match(rb"application/grpc([+;]|$)", kind):
            self._end(stream, ((b":status", b"415"),))
            return
        try:
            method = self._service.begin(given)
        except Refusal as refusal:
            self._end(stream, error_of(refusal))
            return
        encoding = given.get(b"grpc-encoding", b"")
        self.calls[stream] = call = Call(self, stream, method, encoding, self._loop.time())
        self._service.budget.begin(call)

    def _add(self, call: Call, data: bytes) -> None:
        limit = self._service.limits.body_bytes
        if call.size + len(data) > limit + HEAD_BYTES:
            self.refuse(call, Refusal(413, f"The message is larger than the limit of {limit} bytes."))
            return
        try:
            self._hold(call, len(data))
        except Refusal as refusal:
            self.refuse(call, refusal)
        else:
            call.add(data)

    def _hold(self, call: Call, size: int) -> None:
        """Takes so many bytes of the budget for a call.

        Raises:
            Refusal: If there are not as many, or the call itself had to go for them.
        """
        if size > 0 and not self._service.budget.take(size):
            total = self._service.limits.total
            raise Refusal(503, f"Messages take all {total} bytes that there are for them; try again.")
        if call.stream not in self.calls:
            self._service.budget.give_back(max(0, size))
            raise Refusal(408, "The message was slow, and others needed the memory for it.")
        call.size += max(0, size)

    # --- what goes ---------------------------------------------------------------------------------------------------

    async def _answer(self, call: Call) -> None:
        try:
            message = call.message(self._service.limits.body_bytes + HEAD_BYTES)
            self._hold(call, len(message) - call.size)  # of one that was compressed
            answer = await call.method(message)
        except Refusal as refusal:
            self.refuse(call, refusal)
            return
        except Exception:
            log.exception("A request failed", extra={"fields": {"event.action": "request"}})
            self.refuse(call, Refusal(500, "The inference failed; the service's log says why."))
            return
        self._release(call)
        call.rest, call.since = memoryview(b"\0" + len(answer).to_bytes(4, "big") + answer), self._loop.time()
        self._send(call, HEAD)
        self._flush()
        size = min(len(call.rest), self._service.limits.body_bytes)  # of what the caller does not take yet
        if call.stream in self.calls and size:
            if self._service.budget.take(size):
                call.size = size
            else:
                self._cut(call)

    def _send(self, call: Call, head: Headers = ()) -> None:
        """As much of an answer as the caller takes now."""
        link, stream = self._link, call.stream
        with contextlib.suppress(ProtocolError):  # the caller is gone
            if head:
                link.send_headers(stream, head)
            while call.rest:
                size = min(len(call.rest), link.local_flow_control_window(stream), link.max_outbound_frame_size)
                if size <= 0:
                    return
                link.send_data(stream, bytes(call.rest[:size]))
                call.rest, call.since = call.rest[size:], self._loop.time()
            link.send_headers(stream, WELL, end_stream=True)
        self._drop(call)

    def _end(self, stream: int, headers: Headers) -> None:
        """An answer without a message."""
        with contextlib.suppress(ProtocolError):  # the caller is gone
            self._link.send_headers(stream, headers, end_stream=True)
            if (state := self._link.streams.get(stream)) and not state.closed:  # nobody receives what still comes
                self._link.reset_stream(stream, ErrorCodes.NO_ERROR)

    def _drop(self, call: Call) -> None:
        """Forgets a call, whatever became of it."""
        if self.calls.pop(call.stream, None) is None:
            return
        self._release(call)
        self._service.ended()
        if call.task is not None and call.task is not asyncio.current_task():
            call.task.cancel()
        self._close_if_done()

    def _release(self, call: Call) -> None:
        self._service.budget.end(call)
        self._service.budget.give_back(call.size)
        call.size = 0

    def _close_if_done(self) -> None:
        if self._closing and not self.calls:  # the caller closes it, who has read everything then; else we do
            self._loop.call_later(LINGER_SECONDS, self._transport.close)

    def _flush(self) -> None:
        if data := self._link.data_to_send():
            self._write(data)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)
