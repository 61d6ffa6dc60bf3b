"""Work in a thread of which only the last request counts: for what follows the keys that a user presses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Computes one thing at a time; a request that another has overtaken is dropped.

    Args:
        show: Called, in the thread, with what came out of the last request.
    """

    def __init__(self, show: Callable[[T], None]) -> None:
        self._show = show
        self._turn = threading.Lock()
        self._asked = 0
        self._thread: threading.Thread | None = None

    def ask(self, compute: Callable[[], T]) -> None:
        """Begins to compute; returns at once."""
        self._asked += 1
        self._thread = threading.Thread(target=self._run, args=(self._asked, compute), daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the last request is answered."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, number: int, compute: Callable[[], T]) -> None:
        with self._turn:
            if number == self._asked:
                found = compute()
                if number == self._asked:
                    self._show(found)
