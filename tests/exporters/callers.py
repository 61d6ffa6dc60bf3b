"""Callers that ask a server without a pause, each on a connection that it keeps, and remember what they were told."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.exporters.serving import INFER, Server


@dataclass
class Callers:
    """So many callers of one server, for as long as the block lasts.

    Attributes:
        server: Whom they ask.
        request: What.
        count: How many they are.
        retries: Whether they ask again when the connection broke off, as a proxy does.
        pause: Between two requests, s.
        path: Where they ask.
    """

    server: Server
    request: dict[str, Any]
    count: int = 4
    retries: bool = False
    pause: float = 0.0
    path: str = INFER
    statuses: Counter[str] = field(default_factory=Counter)
    answers: list[tuple[float, dict[str, Any]]] = field(default_factory=list)  # when they had asked, what they got
    lost: list[str] = field(default_factory=list)
    retried: int = 0

    def __enter__(self) -> Callers:
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, more: int) -> None:
        """Returns when so many more answers came."""
        wanted, end = len(self.answers) + more, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < end, (len(self.answers), wanted, self.statuses, self.lost)
            time.sleep(0.005)

    def _call(self) -> None:
        body = json.dumps(self.request).encode()
        with contextlib.ExitStack() as ends:
            connection = ends.enter_context(self._connected())
            while not self._ending.is_set():
                begun = time.monotonic()
                for last in (not self.retries, False, False, True):
                    try:
                        connection.request("POST", self.path, body)
                        response = connection.getresponse()
                        answer = json.loads(response.read())
                    except (OSError, http.client.HTTPException) as error:
                        connection.close()
                        self.retried += 1
                        if last:
                            self.lost.append(repr(error))
                            break
                        continue
                    self.statuses[str(response.status)] += 1
                    self.answers.append((begun, answer))
                    break
                self._ending.wait(self.pause) if self.pause else None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        with contextlib.closing(connection):
            yield connection
