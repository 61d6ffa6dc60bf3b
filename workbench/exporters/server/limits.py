"""What callers may cost a serving package: the size and time of a body, and the memory of all bodies together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import numpy as np

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .protocol import Refusal
else:
    from protocol import Refusal

LINGER_SECONDS = 0.5
IDLE_SECONDS = 75  # longer than what proxies keep a connection for, so that they are the ones who close it
ALIGNMENT = 64
GRACE_SECONDS = 1.0  # in which a body that arrives is not given up for others
USUAL_BODIES = 4  # of the largest size at once, where the configuration does not say

Positive = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large a request may be, and how long it may take to arrive."""

    body_bytes: Positive
    header_seconds: Seconds
    body_seconds: Seconds
    total_body_bytes: Positive | None = None  # of all bodies that are received or worked on
    connections: Positive = 256  # open ones, over each protocol

    @property
    def total(self) -> int:
        """Bytes of all bodies together."""
        return max(self.body_bytes, self.total_body_bytes or USUAL_BODIES * self.body_bytes)


class Arrival(Protocol):
    """A body that is being received and holds some of the budget."""

    def give_up(self) -> None:
        """Gives its memory back at once: others need it."""


class Budget:
    """The memory that bodies may take together, over whichever protocol they come.

    Where it is short, those go that have been arriving for longest, if that is longer than usual: slow callers must
    not keep the others out.

    Args:
        limits: How much there is, and how long a body may take.

    Attributes:
        grace: How long a body may arrive before it is slow, s.
    """

    def __init__(self, limits: Limits) -> None:
        self._left = limits.total
        self.grace = min(GRACE_SECONDS, limits.body_seconds / 4)
        self._arriving: dict[Arrival, float] = {}

    def take(self, size: int) -> bool:
        """Takes so many bytes, if there are as many."""
        if size > self._left and not self._make_room(size):
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """Gives them back."""
        self._left += size

    def begin(self, arrival: Arrival) -> None:
        """Takes note of a body that is not whole yet."""
        self._arriving[arrival] = time.monotonic()

    def end(self, arrival: Arrival) -> None:
        """Takes note of its end, whatever that is."""
        self._arriving.pop(arrival, None)

    def _make_room(self, size: int) -> bool:
        now = time.monotonic()
        for arrival, since in list(self._arriving.items()):
            if size <= self._left or now - since < self.grace:
                break
            del self._arriving[arrival]
            arrival.give_up()
        return size <= self._left


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
        budget: What it and all others may take together.
    """

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], limits: Limits, budget: Budget) -> None:
        self._headers = dict(headers)
        self._limits = limits
        self._budget = budget
        self._held = 0  # bytes of the budget; -1 once they are given back
        self._length = int(self._headers.get(b"content-length", b"0"))
        self._parts: list[bytes] = []
        self._size = 0
        self.complete = self._length == 0 and b"transfer-encoding" not in self._headers
        self.wanted = False  # whether the service has decided to receive it
        self._deadline: asyncio.Timeout | None = None
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
        """Takes a part from the connection; returns whether no more of it is wanted."""
        self._size += len(part)
        if self.wanted and not self._length and not self._hold(len(part)):
            self._parts.clear()
            return True
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
            Refusal: If the body is too large, too slow or compressed, or others take all memory that there is for them.
            ClientGone: If the rest of it will not come.
        """
        limits, json_length = self._limits, self.json_length()
        if self._headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "The body must not be compressed.")
        if max(self._length, self._size) > limits.body_bytes:
            raise Refusal(413, f"The body is larger than the limit of {limits.body_bytes} bytes.")
        body: bytes | memoryview = b""
        self._hold(self._length or self._size)
        self._check_held()
        if 0 < self._length == self._size:  # it came whole with its head: there is nothing to wait for
            self.wanted = self.complete = True
            return b"".join(self._parts)
        if self._length > self._size:
            body = _aligned(self._length, json_length or 0)
            body[: self._size] = b"".join(self._parts)
            self.rest = body[self._size :]
        if not self.complete:
            self._budget.begin(self)
        try:
            async with asyncio.timeout(limits.body_seconds) as self._deadline:
                await self._wait(receive)
        except TimeoutError:
            if self._held < 0:
                raise Refusal(408, "The body was slow, and others needed the memory for it.") from None
            raise Refusal(408, f"The body did not arrive within {limits.body_seconds} s.") from None
        finally:
            self._budget.end(self)
        if self._size > limits.body_bytes:
            raise Refusal(413, f"The body is larger than the limit of {limits.body_bytes} bytes.")
        self._check_held()
        return body or b"".join(self._parts)

    def give_up(self) -> None:
        """Ends the wait for the rest: others need the memory."""
        self.release()
        assert self._deadline is not None  # it is there while the body arrives
        self._deadline.reschedule(asyncio.get_running_loop().time())

    def release(self) -> None:
        """Gives its memory back to the others; nobody needs it any more."""
        self._budget.give_back(max(0, self._held))
        self._held = -1  # what still arrives is not kept

    async def linger(self, receive: Receive) -> None:
        """Lets the caller send on for a moment: closing at once could destroy the answer on its way."""
        with contextlib.suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.complete:
                    await self._wait(receive)

    def _hold(self, size: int) -> bool:
        """Takes so much of the budget; if there is no room for it, none for the whole body from then on."""
        if self._held >= 0 and self._budget.take(size):
            self._held += size
            return True
        self.release()
        return False

    def _check_held(self) -> None:
        if self._held < 0:
            raise Refusal(
                503, f"Bodies of requests take all {self._limits.total} bytes that there are for them; try again."
            )

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
