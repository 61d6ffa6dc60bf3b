"""One connection of a load on a service: a socket that does not block, with at most one request under way."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from array import array
from collections import Counter, deque

from workbench.service._target import Target, check_alpn, trusted
from workbench.service._wires import MakeWire, Wire, WireError
from workbench.service._words import reason_of

_PAUSE_NS = 100_000_000  # before a connection that broke, or took nothing, is opened again
_PIECE = 1 << 18  # bytes that are received at a time
_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_clock = time.perf_counter_ns


class Owner:
    """What the connections of one load share.

    Attributes:
        target: Where they go.
        make_wire: Makes what one speaks.
        context: What certificates are trusted; None without TLS.
        poller: Says which is ready.
        closed: Whether each request follows the answer before, so that none waits for a connection.
        end: When the last request is due in a closed loop, ns.
        waiting: When requests were due that wait for a connection, ns.
        returned: When those were due that a service did not take, ns: each goes out again once.
        idle: Connections that are free.
        broken: Connections that are to be opened.
        open_ones: All others, by descriptor.
        busy: How many have a request under way.
        latencies: Of all requests that were answered with 200, ms.
        statuses: Answers by HTTP status.
        lost: Requests that got none; reasons says why.
        answer_bytes: What came back.
    """

    def __init__(self, target: Target, make_wire: MakeWire) -> None:
        self.target, self.make_wire = target, make_wire
        self.context = trusted(make_wire().ALPN) if target.tls else None
        self.poller = select.epoll()
        self.closed, self.end = True, 0
        self.open_ones: dict[int, Connection] = {}
        self.broken: list[Connection] = []
        self.busy = 0
        self.reset()

    def reset(self) -> None:
        """Forgets what was sent and answered."""
        self.waiting: deque[int] = deque()
        self.returned: set[int] = set()
        self.idle: list[Connection] = []
        self.latencies = array("d")
        self.statuses: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.lost, self.answer_bytes = 0, 0


class Connection:
    """One connection.

    Attributes:
        notes: Four times for each request that was answered with 200, ns: due, connection free, begun, ended.
        socket: None while it is not open.
        again: When it may be opened, ns.
    """

    def __init__(self, owner: Owner) -> None:
        self._run = owner
        self.socket: socket.socket | None = None
        self.busy = self.connecting = False  # connecting lasts until TLS, if any, is agreed on
        self.notes = array("q")
        self.begun = self.free = self.due = self.again = 0
        self._rest = memoryview(b"")
        self._writing = self._connected = self._took = False  # it took: a request since it was opened
        self._wire: Wire

    def open(self) -> None:
        """Begins to connect; `ready` is called when that is done."""
        target = self._run.target
        self.socket = socket.socket(target.family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wire = self._run.make_wire()
        self.connecting, self.begun = True, _clock()
        self._writing = self._connected = self._took = False
        self._run.open_ones[self.socket.fileno()] = self
        self._run.poller.register(self.socket, select.EPOLLIN | select.EPOLLOUT)
        error = self.socket.connect_ex(target.address)
        if error not in (0, errno.EINPROGRESS):
            self.fail(os.strerror(error))

    def close(self) -> None:
        """Closes the socket."""
        if self.socket is not None:
            self._run.open_ones.pop(self.socket.fileno(), None)
            self.socket.close()  # which also takes it from the poller
        self.socket, self.connecting = None, False

    def send(self, request: bytes, due: int) -> None:
        """Sends one request that was due at a time, ns."""
        self.busy, self.due, self.begun = True, due, _clock()
        self._run.busy += 1
        self._push(self._wire.request(request))

    def ready(self, events: int) -> None:
        """Does what the socket is ready for."""
        assert self.socket is not None
        if self.connecting:
            self._go_on_connecting(self.socket)
            return
        if events & ~select.EPOLLOUT:  # first: there may be an answer though no more can be sent
            self._pull()
        if self.socket is not None and self._rest and events & select.EPOLLOUT:
            self._push(b"")

    def _go_on_connecting(self, connection: socket.socket) -> None:
        if not self._connected and (failed := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self.fail(os.strerror(failed))
            return
        try:
            if not self._connected and self._run.context is not None:
                name = self._run.target.tls
                connection = self._run.context.wrap_socket(
                    connection, do_handshake_on_connect=False, server_hostname=name
                )
                self.socket = connection  # with the same descriptor, which the poller knows
            self._connected = True
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
                check_alpn(connection, self._wire.ALPN)
        except _BLOCKED as blocked:
            wanted = select.EPOLLOUT if isinstance(blocked, ssl.SSLWantWriteError) else select.EPOLLIN
            self._run.poller.modify(connection, wanted)
            return
        except OSError as error:
            self.fail(reason_of(error))
            return
        self._run.poller.modify(connection, select.EPOLLIN)
        self._push(self._wire.begin())
        if self.socket is not None:
            self.connecting, self.free = False, _clock()
            self._run.idle.append(self)

    def fail(self, reason: str) -> None:
        """The request under way, or the next that waits, has no answer; the connection is opened again later."""
        run = self._run
        lost = self.busy
        if self.connecting:
            lost = bool(run.waiting) or (run.closed and _clock() < run.end)
            if run.waiting:
                run.waiting.popleft()
        if lost:
            run.lost += 1
            run.reasons[reason] += 1
        self._retire(_PAUSE_NS)

    def give_up(self) -> None:
        """Ends what is still under way when the run is over."""
        if self.connecting:
            self._retire(0)

    def _retire(self, pause: int) -> None:
        if self in self._run.idle:
            self._run.idle.remove(self)
        self.close()
        self._run.busy -= self.busy
        self._run.broken.append(self)
        self.busy, self.again, self._rest = False, _clock() + pause, memoryview(b"")

    def _push(self, data: bytes) -> None:
        assert self.socket is not None
        self._rest = memoryview(bytes(self._rest) + data) if self._rest else memoryview(data)
        if not self._rest:
            return
        try:
            self._rest = self._rest[self.socket.send(self._rest) :]
        except _BLOCKED:
            pass
        except OSError as error:
            self.fail(reason_of(error))
            return
        if bool(self._rest) != self._writing:
            self._writing = bool(self._rest)
            self._run.poller.modify(self.socket, select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))

    def _pull(self) -> None:
        """Takes what came in; an answer that is there counts, whatever comes after it."""
        assert self.socket is not None
        wire, data, reply, wrong = self._wire, b"", b"", ""
        try:
            if data := self.socket.recv(_PIECE):
                self._run.answer_bytes += len(data)
                reply = wire.feed(data)
        except _BLOCKED:
            return
        except WireError as error:
            wrong = str(error)
        except OSError as error:
            wrong = reason_of(error)
        if self.busy and wire.done:
            self._settle(wire, stays=wire.stays and bool(data) and not wrong)
        elif wrong or (self.busy and not data):
            self.fail(wrong or "closed without an answer")
        elif not data or (not self.busy and not wire.stays):  # an answer to nothing, or a word of parting
            self._retire(self._pause())
        if reply and self.socket is not None:
            self._push(reply)

    def _settle(self, wire: Wire, stays: bool) -> None:
        """Counts an answer; what was not taken goes out again on another connection, as every caller does it."""
        run = self._run
        self._took |= not wire.untaken
        if wire.untaken and self.due not in run.returned:
            run.returned.add(self.due)
            run.waiting.appendleft(self.due)
            self._retire(self._pause())
            return
        self._note(wire.status)
        if self._rest or not stays:  # answered before all was sent, or told to go
            self._retire(self._pause())
        else:
            run.idle.append(self)

    def _note(self, status: int) -> None:
        ended, run = _clock(), self._run
        begun = self.begun
        run.statuses[status] += 1
        if status == 200:
            due = begun if run.closed else self.due
            self.notes.extend((due, min(self.free, begun), begun, ended))
            run.latencies.append((ended - due) / 1e6)
        run.busy -= 1
        self.busy, self.free = False, ended

    def _pause(self) -> int:
        return 0 if self._took else _PAUSE_NS
