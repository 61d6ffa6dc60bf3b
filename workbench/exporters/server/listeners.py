"""The sockets of a serving package: who may reach them, how workers share one, and how one closes in order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import logging
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .board import LOAD, Board
    from .config import KEY_VARIABLE, CannotStart
else:
    from board import LOAD, Board
    from config import KEY_VARIABLE, CannotStart

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # which Python's socket module does not name
# A socket filter: load the byte with the flags of TCP, and keep nothing of a packet that has SYN.
DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))

HANDSHAKE_SECONDS = 0.2  # in which connections that have begun are accepted, before a listener is closed
BACKLOG = 2048  # connections that wait to be accepted
DEFER_SECONDS, DEFERRALS = 0.002, 3  # how long, and how often, a connection is left to a worker that has fewer

log = logging.getLogger("serve")


class FairListener:
    """Accepts connections from a socket that several workers share, so that all of them have about as many.

    By itself, whichever worker wakes up first takes all that wait. Here one that has more than another lets that one go
    first, for a moment: it may be busy.

    Args:
        listener: The socket.
        board: Where workers tell how many connections they have.
        count: How many this one has.
        make: Makes the protocol of a connection.
    """

    def __init__(
        self, listener: socket.socket, board: Board, count: Callable[[], int], make: Callable[[], asyncio.Protocol]
    ) -> None:
        self._listener, self._board, self._count, self._make = listener, board, count, make
        self._loop = asyncio.get_running_loop()
        self._deferred = 0
        self._closed = False
        self._tasks: set[asyncio.Task[object]] = set()  # the event loop itself keeps only weak references
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self.tell()
        self._watch()

    def tell(self) -> None:
        """Tells the other workers how many connections there are."""
        self._board.own(self._board.row)[LOAD] = self._load()

    def close(self) -> None:
        """Accepts no more."""
        self._loop.remove_reader(self._listener)
        self._closed = True

    async def wait_closed(self) -> None:
        """Nothing: it closes at once."""

    def _load(self) -> int:
        return 1 + self._count() + len(self._tasks)

    def _watch(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        rows = (self._board.own(row)[LOAD] for row in range(self._board.workers))
        if self._load() > min(load for load in rows if load) and self._deferred < DEFERRALS:
            self._deferred += 1
            self._loop.remove_reader(self._listener)
            self._loop.call_later(DEFER_SECONDS, self._watch)
            return
        self._deferred = 0
        try:
            connection, _ = self._listener.accept()
        except OSError:  # another worker was faster, the caller is gone, or there is no file descriptor left
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self.tell())


def turn_away(listener: socket.socket) -> None:
    """Has the kernel drop the first packet of new connections: who connects while a listener is closed is cut off.

    They try again after a second and are refused, so that their proxy turns to another instance. Linux only; elsewhere
    that moment stays.
    """
    if sys.platform == "linux":
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_SYN))
        with contextlib.suppress(OSError):
            filter_ = struct.pack("HP", len(DROP_SYN), ctypes.addressof(code))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


def let_in(listener: socket.socket) -> None:
    """Takes that back: one of several workers that share the listener has ended, and another takes its place."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # there was nothing to take back
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that has its port and does not listen yet: who connects before the models are loaded is refused.

    Raises:
        CannotStart: If the address or the port cannot be used.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OverflowError):
            raise CannotStart(f"{port} is no port: they go from 0 to 65535. Choose another with {option}.") from None
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"{host} port {port} is in use by another program. Choose another with {option}."
            ) from None
        raise CannotStart(
            f"{host} port {port} cannot be used: {error.strerror}. Choose others with --host and {option}."
        ) from None
    return listener


def check_open(listener: socket.socket, key: bytes | None, said_open: bool) -> None:
    """An address that others can reach needs a key, or a word that it is meant to have none."""
    address = str(listener.getsockname()[0])
    if key is None and not ipaddress.ip_address(address).is_loopback:
        if not said_open:
            listener.close()
            raise CannotStart(
                f"On {address} whoever reaches the port could use the model: this package has no key. Export it with "
                f"api_key=environment and set {KEY_VARIABLE}, or say --open if something else keeps strangers out."
            )
        log.warning("Listening on %s with no authentication set: whoever reaches this port can use the model", address)
