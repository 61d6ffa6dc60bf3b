"""A process that measures, ended if it hangs or takes too much memory, and what it says of the engine it opened."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workbench.engine import Tensors
from workbench.errors import WorkerError
from workbench.jobs import Progress, Worker


@dataclass(frozen=True)
class Opened:
    """What opening an engine showed.

    Attributes:
        load_ms: Opening it.
        first_ms: First inference.
        placement: Nodes that each provider really runs.
        bad_outputs: Outputs of the first inference that hold NaN or infinite values.
    """

    load_ms: float
    first_ms: float
    placement: Mapping[str, int]
    bad_outputs: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """What a process may take before it is ended.

    Attributes:
        seconds: Longest time without an answer.
        memory_bytes: Most memory that it may hold.
    """

    seconds: float
    memory_bytes: float


class Sign(NamedTuple):
    """What news from a running process means: its share done, and for how long, s, nothing in it has moved."""

    fraction: float
    stuck_s: float


class LimitedWorker:
    """A worker with limits. Close it in the end.

    Args:
        name: What messages call it.
        limits: What it may take.
        function: What runs in it, with the channel's other end as first argument.
        *args: Further arguments.
    """

    def __init__(self, name: str, limits: Limits, function: Callable[..., Any], *args: Any) -> None:
        self.name, self._limits = name, limits
        self._worker = Worker(function, *args)

    def send(self, message: Any) -> None:
        """Sends one message to the function."""
        self._worker.send(message)

    def receive(self, doing: str, progress: Progress, listen: Callable[[Any], Sign] | None = None) -> Any:
        """Waits for the answer, and meanwhile for what must not happen.

        Args:
            doing: What the process is doing, in words.
            progress: Called several times a second; may raise to cancel.
            listen: Called with each piece of news.

        Raises:
            WorkerError: The process crashed, hung or took too much memory.
            WorkbenchError: The one that the function raised.
        """
        heard, fraction = time.monotonic(), 0.0

        def hear(news: Any) -> None:
            nonlocal heard, fraction
            if listen is not None:
                sign = listen(news)
                heard, fraction = time.monotonic() - sign.stuck_s, sign.fraction

        def look(_fraction: float, _message: str) -> None:
            progress(fraction, doing)
            if time.monotonic() - heard > self._limits.seconds:
                raise WorkerError(
                    f"{self.name} hung: no answer for {self._limits.seconds:g} s while {doing}, so it was ended.",
                    "If it is just slow, allow more time with hang_s.",
                )
            if (held := self._resident()) > self._limits.memory_bytes:
                raise WorkerError(
                    f"{self.name} took {held / 1e9:.1f} GB of memory while {doing} and was ended.",
                    f"Its limit was {self._limits.memory_bytes / 1e9:.1f} GB; memory_gb sets another. A smaller batch, "
                    "model or number of instances needs less.",
                )

        try:
            return self._worker.receive(look, hear)
        except WorkerError as error:
            if self.name in error.message:
                raise
            raise WorkerError(f"{self.name}, {doing}: {error.message}", error.remedy, error.details) from None

    def cpu_seconds(self) -> float:
        """Processor time that the process took so far."""
        import psutil

        try:
            times = psutil.Process(self._worker.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()

    def _resident(self) -> int:
        import psutil

        try:
            return int(psutil.Process(self._worker.pid).memory_info().rss)
        except psutil.Error:
            return 0


def make_limits(hang_s: float, memory_gb: float) -> Limits:
    """The limits of a process; without one for memory, three quarters of what is free."""
    import psutil

    return Limits(hang_s, memory_gb * 1e9 or 0.75 * psutil.virtual_memory().available)


def not_finite(outputs: Tensors) -> tuple[str, ...]:
    """Names of the outputs that hold NaN or infinite values."""
    return tuple(
        name
        for name, array in outputs.items()
        if np.issubdtype(np.asarray(array).dtype, np.floating) and not np.isfinite(array).all()
    )


def peak_memory_mb() -> float:
    """Peak of this process; `ru_maxrss` would start at the caller's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
