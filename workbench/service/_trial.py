"""One request before all others: what would not change with the next is said at once."""

from __future__ import annotations

import json
import socket
import time

from workbench.errors import ServiceError
from workbench.service._target import Target, connect
from workbench.service._wires import Wire, WireError
from workbench.service._words import no_answer, printable

_PIECE = 1 << 16  # bytes that are received at a time


def try_request(target: Target, wire: Wire, request: bytes, timeout_s: float) -> int:
    """Sends one request; returns the answer's status.

    Args:
        target: Where to.
        wire: What the connection speaks.
        request: What the wire takes.
        timeout_s: How long all of it may take, whatever comes in meanwhile, s.

    Raises:
        ServiceError: It is refused, in a way that would not change with the next.
    """
    try:
        _ask(target, wire, request, time.monotonic() + timeout_s, timeout_s)
    except (OSError, WireError) as error:
        host, port = target.tls or target.address[0], target.address[1]
        raise no_answer(host, port, wire.ALPN == "h2", bool(target.tls), error) from None
    if wire.status not in (200, 429, 503):
        raise ServiceError(
            f"The service answers a request with status {wire.status}: {_said(wire.text)}",
            "Give the service's key." if wire.status == 401 else "Check the model, its version and what is sent.",
        )
    return wire.status


def _ask(target: Target, wire: Wire, request: bytes, end: float, timeout_s: float) -> None:
    with connect(target, wire.ALPN, timeout_s) as connection:
        _send(connection, wire.begin() + wire.request(request), end)
        while not wire.done:
            connection.settimeout(_left(end))
            if not (data := connection.recv(_PIECE)):
                raise WireError("it closed the connection")
            try:
                reply = wire.feed(data)
            except WireError:
                if wire.done:  # the answer was whole before
                    return
                raise
            if not wire.done:
                _send(connection, reply, end)


def _send(connection: socket.socket, data: bytes, end: float) -> None:
    """Sends all of it; `sendall` over TLS would wait anew for each piece."""
    rest = memoryview(data)
    while rest:
        connection.settimeout(_left(end))
        rest = rest[connection.send(rest) :]


def _left(end: float) -> float:
    if (left := end - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _said(text: str) -> str:
    try:
        text = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = text.strip() or "it does not say why."
    return printable(text)
