"""What of this machine a backend may use, and how a call is timed on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_FEWEST = 5  # calls, however slow


def physical_cores() -> int:
    """Physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def time_calls_for(call: Callable[[], object], seconds: float, most: int = 1_000_000) -> NDArray[np.float64]:
    """Times one call after another for some seconds, the first ones included.

    Args:
        call: What to run.
        seconds: How long; a few calls are made even if they take longer.
        most: End after so many calls.

    Returns:
        The time of each call, ms.
    """
    times: list[int] = []
    start = time.perf_counter_ns()
    end = start + int(seconds * 1e9)
    while (start < end or len(times) < _FEWEST) and len(times) < most:
        call()
        now = time.perf_counter_ns()
        times.append(now - start)
        start = now
    return np.array(times) / 1e6
