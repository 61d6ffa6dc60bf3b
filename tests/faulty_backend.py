"""A backend with faults, as another package would bring it: what it does wrong is an option of the engine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

REQUIRES: dict[str, str] = {}


class Runner:
    """Takes a millisecond for an inference, and after the 20th does what it was told to."""

    def __init__(self, fault: str, model: Path) -> None:
        self.placement = {"here": 1}
        self._fault, self._model, self._calls = fault, model, 0
        self._held: list[Any] = []

    def infer(self, feed: dict[str, Any]) -> dict[str, Any]:
        self._calls += 1
        samples = len(next(iter(feed.values())))
        if self._fault == "late":
            time.sleep(0.04)  # the bare call returns before the outputs are there
        elif self._fault == "nan":
            return {"scores": np.full((samples, 3), np.nan, np.float32)}
        elif self._fault == "leaks":
            self._held.append(np.ones(2_000_000))
        elif self._calls > 20:
            self._go_wrong()
        time.sleep(0.001)
        return {"scores": np.zeros((samples, 3), np.float32)}

    def bind(self, feed: dict[str, Any]) -> Callable[[], object]:
        return (lambda: time.sleep(0.001)) if self._fault == "late" else (lambda: self.infer(feed))

    def _go_wrong(self) -> None:
        if self._fault == "crashes":
            os.abort()
        elif self._fault == "hangs":
            time.sleep(60)
        elif self._fault == "slows down":
            time.sleep(min(0.0001 * self._calls, 0.1))


@contextlib.contextmanager
def open_runner(engine: Any) -> Iterator[Runner]:
    """Opens it."""
    yield Runner(engine.options["fault"], engine.path)
