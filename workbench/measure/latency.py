"""Latency: candidates timed in rounds that take turns, each in its own subprocess, so that noise hits all alike."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends import open_runner
from workbench.dataset import Dataset
from workbench.engine import Engine, Tensors, random_feed
from workbench.errors import OptionsError
from workbench.jobs import Progress, Worker, part_of, silent
from workbench.measure.statistics import Estimate, percentiles
from workbench.options import make_options, option

_SHARES = (0.10, 0.50, 0.90, 0.95, 0.99)
_ROUND_SECONDS = 0.04  # long enough to drown the switch between candidates, short enough for many rounds
_MIN_ROUNDS = 10
_FEWEST_ROUNDS = 3  # of a model so slow that no more fit: an interval over fewer rounds would mean nothing
_MIN_SAMPLES = 500  # what the 99th percentile needs
_STEADY = 0.05  # warm-up ends when two blocks in a row agree this well
_WARMUP_BLOCKS = 40


@dataclass(frozen=True)
class LatencyOptions:
    """How long and on what latency is measured."""

    batch: Annotated[int, option("Samples per inference.", minimum=1, maximum=4096, unit="samples")] = 1
    seconds: Annotated[
        float,
        option(
            "Time limit for each candidate; twice that where fewer than 10 rounds fit.",
            minimum=0.2,
            maximum=3600,
            unit="s",
        ),
    ] = 3.0
    precision: Annotated[
        float,
        option(
            "Stop early when the median's interval is this narrow.", minimum=0.1, maximum=50, unit="%", advanced=True
        ),
    ] = 1.0


@dataclass(frozen=True)
class LatencyStats:
    """Host time of one inference, ms, and what it was measured under.

    Attributes:
        batch: Samples per inference.
        p10: Tenth percentile: what the machine does when nothing disturbs it.
        p50: Median; p90, p95, p99 likewise. None where there were too few samples for the percentile.
        mean_ms: Mean.
        cpu_ms: Processor time of one inference, all threads.
        load_ms: Opening the engine.
        first_ms: First inference.
        peak_memory_mb: Most memory that the process held, MB (10⁶ bytes).
        iterations: Timed inferences.
        warmup: Untimed inferences before them.
        threads: Threads inside one operator, where the backend has such an option.
        round_medians: Median of each round, ms; round *n* of all candidates ran next to each other.
        placement: Nodes that each provider really ran.
        caveats: Reasons not to trust the numbers; none is best.
    """

    batch: int
    p10: Estimate | None
    p50: Estimate | None
    p90: Estimate | None
    p95: Estimate | None
    p99: Estimate | None
    mean_ms: float
    cpu_ms: float
    load_ms: float
    first_ms: float
    peak_memory_mb: float
    iterations: int
    warmup: int
    threads: int | None
    round_medians: tuple[float, ...]
    placement: Mapping[str, int]
    caveats: tuple[str, ...] = ()

    @property
    def samples_per_second(self) -> float:
        """Samples that one caller gets through in a second."""
        return 1000 * self.batch / self.mean_ms


def measure_latency(
    engines: Sequence[Engine],
    options: Mapping[str, Any] | LatencyOptions | None = None,
    *,
    dataset: Dataset | None = None,
    progress: Progress = silent,
) -> tuple[LatencyStats, ...]:
    """Measures engines against each other: A B C A B C …, until the medians are narrow or the time is up.

    Args:
        engines: What to measure; each runs in its own fresh subprocess.
        options: Fields of `LatencyOptions`.
        dataset: Its first samples are fed; random values if there is none.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        One result per engine, in order.

    Raises:
        ProviderError: The provider that would really run is not the one asked for.
        OptionsError: An option has a value it cannot have, or the batch does not fit a model.
    """
    checked = make_options(LatencyOptions, options, "measure_latency")
    if not engines:
        raise OptionsError("measure_latency got no engines.", "Give it at least one.")
    with contextlib.ExitStack() as stack:
        stopwatches: list[_Stopwatch] = []
        for number, engine in enumerate(engines):
            share = part_of(progress, 0.2 * number / len(engines), 0.2 * (number + 1) / len(engines))
            worker = stack.enter_context(Worker(_time_rounds, engine, _feed(engine, dataset, checked.batch)))
            stopwatches.append(_Stopwatch(engine, worker, checked.seconds, share))
        _take_turns(stopwatches, checked, progress)
        return tuple(stopwatch.stats(checked) for stopwatch in stopwatches)


def _take_turns(stopwatches: Sequence[_Stopwatch], options: LatencyOptions, progress: Progress) -> None:
    limit = options.seconds * len(stopwatches)
    start = time.monotonic()
    number = 0
    while True:
        first = number % len(stopwatches)  # nobody always runs right after the same neighbour
        for stopwatch in (*stopwatches[first:], *stopwatches[:first]):
            stopwatch.run_round(progress, 0.2 + 0.8 * min(1.0, (time.monotonic() - start) / limit))
        number += 1
        elapsed = time.monotonic() - start
        if elapsed > (limit if number >= _MIN_ROUNDS else 2 * limit) and number >= _FEWEST_ROUNDS:
            return
        if number % 5 == 0 and number >= _MIN_ROUNDS and all(s.is_narrow(options) for s in stopwatches):
            return


class _Stopwatch:
    """One engine's worker and what it has measured so far."""

    def __init__(self, engine: Engine, worker: Worker, seconds: float, progress: Progress) -> None:
        self._worker = worker
        self._threads = engine.options.get("threads")
        self._rounds: list[NDArray[np.float64]] = []
        self._cpu_ms: list[float] = []
        self._peak_mb = 0.0
        progress(0.0, f"opening {engine.model.name} on {engine.backend}")
        self._opened: _Opened = worker.receive(progress)
        self._warmup = 1
        self._count = self._warm_up(seconds / 2, progress)

    def run_round(self, progress: Progress, fraction: float) -> None:
        """Times one round."""
        times, cpu_ms, self._peak_mb = self._ask(self._count, part_of(progress, fraction, fraction))
        self._rounds.append(times)
        self._cpu_ms.append(cpu_ms)

    def is_narrow(self, options: LatencyOptions) -> bool:
        """Whether enough is known."""
        if sum(map(len, self._rounds)) < _MIN_SAMPLES:
            return False
        [median] = percentiles(self._rounds, [0.5])
        return median is not None and median.spread * 100 <= options.precision

    def stats(self, options: LatencyOptions) -> LatencyStats:
        """Sums the rounds up."""
        p10, p50, p90, p95, p99 = percentiles(self._rounds, _SHARES)
        samples = np.concatenate(self._rounds)
        stats = LatencyStats(
            batch=options.batch,
            p10=p10,
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            mean_ms=float(samples.mean()),
            cpu_ms=float(np.median(self._cpu_ms)),
            load_ms=self._opened.load_ms,
            first_ms=self._opened.first_ms,
            peak_memory_mb=self._peak_mb,
            iterations=len(samples),
            warmup=self._warmup,
            threads=self._threads,
            round_medians=tuple(float(np.median(times)) for times in self._rounds),
            placement=self._opened.placement,
            caveats=_caveats(p10, p50, len(samples), self._threads, float(np.median(self._cpu_ms))),
        )
        return stats

    def _warm_up(self, seconds: float, progress: Progress) -> int:
        """Runs until two blocks in a row agree or the time is up; returns how many inferences make a round."""
        count, last, end = 1, 0.0, time.monotonic() + seconds
        for _ in range(_WARMUP_BLOCKS):
            times, _, _ = self._ask(count, progress)
            self._warmup += count
            median = float(np.median(times))
            if abs(median - last) <= _STEADY * median and count * median >= _ROUND_SECONDS * 1000 / 2:
                break
            last = median
            count = int(np.clip(_ROUND_SECONDS * 1000 / max(median, 1e-3), 1, 4 * count))
            if time.monotonic() > end:
                break
        return count

    def _ask(self, count: int, progress: Progress) -> tuple[NDArray[np.float64], float, float]:
        self._worker.send(count)
        times, cpu_ms, peak_mb = self._worker.receive(lambda fraction, _: progress(fraction, "measuring latency"))
        return times, cpu_ms, peak_mb


def _caveats(
    p10: Estimate | None, p50: Estimate | None, samples: int, threads: int | None, cpu_ms: float
) -> tuple[str, ...]:
    if p10 is None or p50 is None:
        return (f"only {samples} timings",)
    found = []
    if p50.spread > 0.05:
        found.append(f"the median is known to ±{100 * p50.spread:.0f} % only")
    if p50.value > 1.25 * p10.value:
        found.append(f"noisy machine: the median is {p50.value / p10.value:.1f} × the fastest tenth")
    if threads == 1 and cpu_ms < 0.8 * p50.value:
        found.append(f"the thread ran for only {100 * cpu_ms / p50.value:.0f} % of the time: other work took the core")
    return tuple(found)


def _feed(engine: Engine, dataset: Dataset | None, batch: int) -> dict[str, NDArray[Any]]:
    fixed = engine.model.fixed_batch
    if fixed not in (None, batch):
        raise OptionsError(
            f"{engine.model.name} has a fixed batch of {fixed}; it cannot be measured at batch {batch}.",
            f"Set batch to {fixed}, or export the model with a dynamic batch.",
        )
    if dataset is None:
        return random_feed(engine.model, batch)
    dataset.check_fits(engine.model)
    return {
        name: np.ascontiguousarray(np.resize(array, (batch, *array.shape[1:])))
        for name, array in dataset.take(batch).inputs.items()
    }


@dataclass(frozen=True)
class _Opened:
    load_ms: float
    first_ms: float
    placement: Mapping[str, int]


def _time_rounds(channel: Connection, engine: Engine, feed: Tensors) -> None:
    """Runs in the worker: opens the engine, then times as many inferences as it is asked for, again and again."""
    start = time.perf_counter()
    with open_runner(engine) as runner:
        opened = time.perf_counter()
        runner.infer(feed)
        first_ms = (time.perf_counter() - opened) * 1000
        channel.send(("result", _Opened((opened - start) * 1000, first_ms, dict(runner.placement))))
        gc.collect()
        gc.disable()
        while True:
            count = channel.recv()
            times = np.empty(count)
            cpu = time.process_time()
            for index in range(count):
                begin = time.perf_counter_ns()
                runner.infer(feed)
                times[index] = (time.perf_counter_ns() - begin) / 1e6
            cpu_ms = (time.process_time() - cpu) * 1000 / count
            channel.send(("result", (times, cpu_ms, _peak_memory_mb())))


def _peak_memory_mb() -> float:
    """Peak of this process; `ru_maxrss` would start at the caller's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
