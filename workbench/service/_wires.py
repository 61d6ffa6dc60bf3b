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
        untaken: Whether it is done because the other side said that it has not looked at the request, which can be sent
            elsewhere; the status is 503 then.
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
LARGEST_HEAD = 1 << 16  # bytes of what comes beside the content of an answer
_MOST_TEXT = 100_000  # bytes of an answer that are kept


class HttpWire:
    """HTTP/1.1; a request is sent as it is.

    Args:
        keep: Whether to keep the beginning of the answer's body.
    """

    ALPN = "http/1.1"

    def __init__(self, keep: bool = False) -> None:
        self.done = self.stays = True
        self.untaken = False
        self.status = 0
        self._text, self._most = bytearray(), _MOST_TEXT if keep else 0
        self._beside = 0  # bytes since the last of a body
        self._parser = httptools.HttpResponseParser(self)

    @property
    def text(self) -> str:
        """The answer's body, as far as it is kept."""
        return self._text.decode(errors="replace")

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def request(self, request: bytes) -> bytes:
        """The request."""
        self.done, self._beside = False, 0
        return request

    def feed(self, data: bytes) -> bytes:
        """Takes a part of an answer; one to nothing is the end."""
        if self.done:
            self.stays = False
            return b""
        self._beside += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise WireError("no HTTP") from None
        if self._beside > LARGEST_HEAD and not self.done:
            raise WireError(f"a head of more than {LARGEST_HEAD // 1024} kB")
        return b""

    def on_body(self, part: bytes) -> None:
        """Called by the parser with each part of a body."""
        self._beside = 0
        self._text += part[: self._most - len(self._text)]

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer, and at that of each head which only announces one."""
        if self.done:  # a second one, which nobody asked for
            self.stays = False
        elif (status := self._parser.get_status_code()) >= 200:
            self.done, self.stays, self.status = True, self._parser.should_keep_alive(), status
