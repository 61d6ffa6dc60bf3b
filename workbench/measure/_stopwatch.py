"""Times one engine in one fresh process: opening, warm-up, rounds."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Set
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from workbench.backends import open_runner
from workbench.engine import Engine, Runner, Tensors
from workbench.jobs import Progress, part_of
from workbench.measure._limited import LimitedWorker, Limits, Opened, not_finite, peak_memory_mb
from workbench.measure.statistics import Timings

_Way: TypeAlias = Callable[[Callable[[], object], int], tuple[Timings, float]]

_ROUND_SECONDS = 0.04  # long enough to drown the switch between candidates, short enough for many rounds
_STEADY = 0.05  # warm-up ends when two blocks in a row agree this well
_WARMUP_BLOCKS = 40
_SYNC_CALLS = 5


class Stopwatch:
    """A worker with one open engine, and what it has measured.

    Args:
        engine: What is timed.
        feed: What it is fed.
        limits: What its process may take.
        cores: The processors that its process is kept on; any if empty.

    Attributes:
        rounds: Timings of each round, ms.
        cpu_ms: Processor time of one inference, all threads, in each round.
        warmup: Untimed inferences.
        steady: Whether the warm-up ended because two blocks agreed.
        peak_memory_mb: Most memory that the process held, MB.
    """

    def __init__(self, engine: Engine, feed: Tensors, limits: Limits, cores: Set[int] = frozenset()) -> None:
        self.rounds: list[Timings] = []
        self.cpu_ms: list[float] = []
        self.warmup = 1
        self.steady = False
        self.peak_memory_mb = 0.0
        self._count = 1
        name = f"{engine.model.name} on {engine.backend}"
        self._worker = LimitedWorker(name, limits, _serve, engine, feed, cores)

    def open(self, progress: Progress) -> Opened:
        """Waits until the engine is open and has run once.

        Raises:
            WorkerError: It crashed, hung or took too much memory.
            WorkbenchError: The one that opening it raised.
        """
        opened: Opened = self._worker.receive(f"opening {self._worker.name}", progress)
        return opened

    def warm_up(self, seconds: float, progress: Progress) -> float:
        """Runs until two blocks in a row agree or the time is up; returns the median of the last, s."""
        last, end = 0.0, time.monotonic() + seconds
        for _ in range(_WARMUP_BLOCKS):
            times, _ = self._ask("time", self._count, progress)
            self.warmup += self._count
            median = float(np.median(times))
            self.steady = abs(median - last) <= _STEADY * median and self._count * median >= _ROUND_SECONDS * 500
            last = median
            if self.steady or time.monotonic() > end:
                break
            self._count = int(np.clip(_ROUND_SECONDS * 1000 / max(median, 1e-3), 1, 4 * self._count))
        return last / 1000

    def run_round(self, progress: Progress) -> None:
        """Times one round."""
        times, cpu_ms = self._ask("time", self._count, progress)
        self.rounds.append(times)
        self.cpu_ms.append(cpu_ms)

    def check_synchronised(self, progress: Progress) -> float:
        """How many times longer an inference takes until all outputs are arrays: 1 if what is timed waits for them."""
        timed, with_outputs = self._ask("compare", _SYNC_CALLS, progress)
        return float(with_outputs / timed.min())

    def device_ms(self, progress: Progress) -> float | None:
        """Median time of one inference on the device, ms, by its own events; None where there is no device apart."""
        times, median = self._ask("device", self._count, progress)
        return median if len(times) else None

    def cpu_seconds(self) -> float:
        """Processor time of the process so far."""
        return self._worker.cpu_seconds()

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()

    def _ask(self, what: str, count: int, progress: Progress) -> tuple[Timings, float]:
        self._worker.send((what, count))
        times, second, self.peak_memory_mb = self._worker.receive("measuring latency", progress)
        return times, second


def report_in(progress: Progress, fraction: float) -> Progress:
    """Progress that stands at one place while texts change."""
    return part_of(progress, fraction, fraction)


def _serve(channel: Connection, engine: Engine, feed: Tensors, cores: Set[int]) -> None:
    """Runs in the worker: opens the engine, then times as many inferences as it is asked for, again and again."""
    if cores:
        os.sched_setaffinity(0, cores)  # before the backend starts threads, which inherit it
    start = time.perf_counter()
    with open_runner(engine) as runner:
        opened = time.perf_counter()
        outputs = runner.infer(feed)
        first_ms = (time.perf_counter() - opened) * 1000
        found = Opened((opened - start) * 1000, first_ms, dict(runner.placement), not_finite(outputs))
        channel.send(("result", found))
        del outputs
        run = runner.bind(feed)
        ways: dict[str, _Way] = {
            "time": _time,
            "compare": partial(_compare, runner, feed),
            "device": partial(_time_device, runner),
        }
        gc.collect()
        gc.disable()
        while True:
            what, count = channel.recv()
            channel.send(("result", (*ways[what](run, count), peak_memory_mb())))


def time_calls(run: Callable[[], object], count: int) -> NDArray[np.float64]:
    """Times calls one by one, ms; around each there is nothing but the clock."""
    stamps, clock = [0] * count, time.perf_counter_ns
    for index in range(count):
        begin = clock()
        run()
        stamps[index] = clock() - begin
    return np.array(stamps, np.float64) / 1e6


def _time(run: Callable[[], object], count: int) -> tuple[Timings, float]:
    """Times calls; gives the processor time of one as well, ms."""
    cpu = time.process_time()
    times = time_calls(run, count)
    return times, (time.process_time() - cpu) * 1000 / count


def _compare(runner: Runner, feed: Tensors, run: Callable[[], object], count: int) -> tuple[Timings, float]:
    """Times of the bare call, and the shortest of the one that hands all outputs over, ms; they take turns."""
    pairs = [(time_calls(run, 1)[0], time_calls(lambda: runner.infer(feed), 1)[0]) for _ in range(count)]
    bare, whole = np.array(pairs).T
    return bare, float(whole.min())


def _time_device(runner: Runner, run: Callable[[], object], count: int) -> tuple[Timings, float]:
    """Times of calls by the device's own events, ms, and their median; none and NaN where there is no such device."""
    timer = getattr(runner, "device_timer", None)
    times = np.array([timer(run) for _ in range(count)] if timer else [])
    return times, float(np.median(times)) if timer else float("nan")
