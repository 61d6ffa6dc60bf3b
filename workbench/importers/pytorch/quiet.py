"""Keeps what PyTorch says to its own developers out of the user's notebook."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences this thread's prints, and PyTorch's warnings and loggers; all is as before afterwards."""
    loggers = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in ("torch", "onnxscript", "onnx_ir")
    ]
    before = [logger.disabled for logger in loggers]
    parent = logging.getLogger("torch")
    level = parent.level
    try:
        parent.setLevel(logging.CRITICAL + 1)  # for loggers that come to be meanwhile
        for logger in loggers:
            logger.disabled = True
        out: Any = _Muffled(sys.stdout)
        err: Any = _Muffled(sys.stderr)
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            warnings.simplefilter("ignore")
            yield
    finally:
        parent.setLevel(level)
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


class _Muffled:
    """A stream that lets through what other threads write."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        written: int = self._stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
