"""How a connection speaks: what it sends for a request, and what it makes of what comes back. HTTP/1.1 is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import httptools


class WireError(Exception):
    """What came back is not of the protocol; says so in words."""


class Wire(Protocol):
    """One side of a conversation, with at most one request under way.

    Attributes:
        done: Whether the answer is whole; nothing is under way before the first request.
        status: Its HTTP status, or what stands for it.
        stays: Whether a further request can go the same way.
        untaken: Whether the other side said that it has not looked at the request, so that it can be sent elsewhere.
        text: The answer in words, where they are kept.
        ALPN: The protocol's name within TLS.
    """

    ALPN: str
    done: bool
    status: int
    stays: bool
    untaken: bool

    @property
    def text(self) -> str: ...

    def begin(self) -> bytes:
        """What is to be sent before the first request."""

    def request(self, request: bytes) -> bytes:
        """What is to be sent for a request."""

    def feed(self, data: bytes) -> bytes:
        """Takes what came in; returns what is to be sent because of it.

        Raises:
            WireError: It is not of the protocol.
        """


MakeWire = Callable[[], Wire]


class HttpWire:
    """HTTP/1.1; a request is sent as it is.

    Args:
        keep: Whether to keep the answer's body.
    """

    ALPN = "http/1.1"

    def __init__(self, keep: bool = False) -> None:
        self.done = self.stays = True
        self.untaken = False
        self.status = 0
        self._parts: list[bytes] = []
        if keep:
            self.on_body = self._parts.append  # called by the parser
        self._parser = httptools.HttpResponseParser(self)

    @property
    def text(self) -> str:
        """The answer's body."""
        return b"".join(self._parts).decode(errors="replace")

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def request(self, request: bytes) -> bytes:
        """The request."""
        self.done = False
        return request

    def feed(self, data: bytes) -> bytes:
        """Takes a part of an answer; one to nothing is the end."""
        if self.done:
            self.stays = False
            return b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise WireError("no HTTP") from None
        return b""

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer."""
        self.done, self.stays = True, self._parser.should_keep_alive()
        self.status = self._parser.get_status_code()
