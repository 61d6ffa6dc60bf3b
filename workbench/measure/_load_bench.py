"""Live runners in a fresh process that load after load is sent to; ended if it hangs or takes too much memory."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from workbench.backends import open_runner
from workbench.engine import AsyncRunner, Engine, Runner, Tensors
from workbench.errors import OptionsError
from workbench.jobs import Progress
from workbench.measure._checks import check_outputs, check_provider, check_surroundings
from workbench.measure._limited import LimitedWorker, Limits, Opened, Sign, not_finite, peak_memory_mb
from workbench.measure._load_stats import LoadPoint, LoadStats, Setting, summarize
from workbench.measure._traffic import Call, Caller, Traffic, send
from workbench.measure.machine import SurroundingsWatch
from workbench.measure.trust import Trust

Watch: TypeAlias = Callable[[LoadPoint], None]
Callers: TypeAlias = Literal["runners", "shared", "asynchronous"]

_STEADY = 0.05  # warm-up ends when two blocks in a row agree this well
_FIRST_BLOCK, _BLOCK = 0.05, 0.25  # s


class _News(NamedTuple):
    """What a running process says: how it is, and what happened since it last said so."""

    sign: Sign
    point: LoadPoint | None


class LoadBench:
    """A process with open runners. Use as a context manager.

    Args:
        engine: What each runner runs.
        feeds: One feed for each caller.
        limits: What the process may take before it is ended.
        name: What messages call it.
        callers: Whether each has a runner of its own, or all share one, by calls or by asynchronous requests.
    """

    def __init__(
        self,
        engine: Engine,
        feeds: Sequence[Tensors],
        limits: Limits,
        name: str = "",
        callers: Callers = "runners",
    ) -> None:
        self._engine = engine
        self._opened: Opened | None = None
        name = name or f"{engine.model.name} on {engine.backend}"
        self._worker = LimitedWorker(name, limits, _serve, engine, list(feeds), callers)

    def __enter__(self) -> LoadBench:
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.close()

    def open(self, seconds: float, progress: Progress) -> float:
        """Opens every runner and sends to all of them until the throughput is stable.

        Args:
            seconds: Longest warm-up.
            progress: Called with the share done and a short text; may raise to cancel.

        Returns:
            Queries per second of all runners together at the end.

        Raises:
            WorkerError: It crashed, hung or took too much memory.
        """
        self._opened = self._receive("opening", progress)
        self._worker.send(seconds)
        capacity: float = self._receive("warming up", progress)
        return capacity

    def run(self, traffic: Traffic, progress: Progress, watch: Watch | None = None) -> LoadStats:
        """Sends one load.

        Raises:
            WorkerError: It crashed, hung or took too much memory.
        """
        assert self._opened is not None
        surroundings = SurroundingsWatch()
        self._worker.send(traffic)
        stats: LoadStats
        stats, own_seconds = self._receive("under load", progress, watch)
        checks = (
            check_provider(self._opened, self._engine.device),
            check_outputs(self._opened),
            *stats.trust.checks,
            *check_surroundings(surroundings.finish(own_seconds)),
        )
        return replace(stats, trust=Trust(checks))

    def _receive(self, doing: str, progress: Progress, watch: Watch | None = None) -> Any:
        def listen(news: _News) -> Sign:
            if watch is not None and news.point is not None:
                watch(news.point)
            return news.sign

        return self._worker.receive(doing, progress, listen)


def _serve(channel: Connection, engine: Engine, feeds: Sequence[Tensors], callers: Callers) -> None:
    """Runs in the worker: opens the runners, warms them up, then sends one load after the other."""
    with contextlib.ExitStack() as stack:
        begun = time.perf_counter()
        opened = [stack.enter_context(open_runner(engine)) for _ in (feeds if callers == "runners" else feeds[:1])]
        runners = opened * (len(feeds) // len(opened))
        load_ms = (time.perf_counter() - begun) * 1000
        outputs = [runner.infer(feed) for runner, feed in zip(runners, feeds, strict=True)]
        first_ms = (time.perf_counter() - begun) * 1000 - load_ms
        bad = tuple(dict.fromkeys(name for each in outputs for name in not_finite(each)))
        channel.send(("result", Opened(load_ms, first_ms, dict(runners[0].placement), bad)))
        del outputs
        calls = [_make_call(runner, feed, callers, engine) for runner, feed in zip(runners, feeds, strict=True)]
        gc.collect()
        gc.disable()
        capacity, warmup, steady = _warm_up(channel, calls, channel.recv())
        channel.send(("result", capacity))
        cores, threads = len(os.sched_getaffinity(0)), engine.options.get("threads")
        batch = len(next(iter(feeds[0].values())))
        setting = Setting(batch, threads, cores, warmup, steady, dict(runners[0].placement), callers)
        inside = threads or cores
        busy = len(calls) * inside if callers == "runners" else len(calls) + inside - 1
        while True:
            traffic: Traffic = channel.recv()
            # A caller that waits leaves its own threads' cores idle; where there are more threads, others need them.
            traffic = replace(traffic, spin=busy <= cores)
            before = time.process_time()
            log = send(calls, traffic, _Reporter(channel, traffic).tick)
            stats = summarize(log, traffic, setting, peak_memory_mb())
            channel.send(("result", (stats, time.process_time() - before)))


def _make_call(runner: Runner, feed: Tensors, callers: Callers, engine: Engine) -> Call:
    """What a caller calls: bound calls of one runner may not run side by side, whole inferences may."""
    if callers == "runners":
        return runner.bind(feed)
    if callers == "shared":
        return functools.partial(runner.infer, feed)
    if not isinstance(runner, AsyncRunner):
        raise OptionsError(
            f"{engine.backend} takes no asynchronous requests: its runner has no `submit`.",
            "Let callers share a runner (callers=shared), or give each its own (callers=runners).",
        )
    submit = runner.submit
    return lambda: submit(feed).result()


def _warm_up(channel: Connection, calls: Sequence[Call], seconds: float) -> tuple[float, int, bool]:
    """Sends to all runners until two blocks in a row agree or the time is up.

    Returns:
        Queries per second of the last block, all untimed queries, whether it ended because blocks agreed.
    """
    end, length, last, count = time.monotonic() + seconds, _FIRST_BLOCK, 0.0, len(calls)
    while True:
        traffic = Traffic("closed", length, len(calls), fewest=1)
        log = send(calls, traffic, _Reporter(channel, traffic).tick)
        count += sum(map(len, log.callers))
        rate = float(sum(len(notes) / notes[-1, 3] for notes in log.callers)) * 1e9
        steady = length >= _BLOCK and abs(rate - last) <= _STEADY * rate
        last = rate
        if steady or time.monotonic() > end:
            return rate, count, steady
        length = min(_BLOCK, 2 * length)


class _Reporter:
    """Says what happens while callers run, without keeping them from it."""

    def __init__(self, channel: Connection, traffic: Traffic) -> None:
        self._channel, self._traffic = channel, traffic
        self._read: dict[int, int] = {}
        self._moved: dict[int, int] = {}
        self._last = 0

    def tick(self, start: int, callers: Sequence[Caller]) -> None:
        """Sends one piece of news."""
        now = time.perf_counter_ns()
        parts = []
        for number, caller in enumerate(callers):
            part = caller.read(self._read.get(number, 0))
            self._read[number] = self._read.get(number, 0) + len(part)
            if len(part) or caller.idle or number not in self._moved:
                self._moved[number] = now
            parts.append(part)
        notes = np.concatenate(parts)
        elapsed, since = (now - start) / 1e9, (now - max(start, self._last)) / 1e9
        point = None
        if len(notes) and since > 0.02:
            latency = (notes[:, 3] - notes[:, 0]) / 1e6
            offered = self._traffic.rate if self._traffic.pattern in ("constant", "poisson") else None
            point = LoadPoint(elapsed, float(np.median(latency)), float(latency.max()), offered, len(notes) / since)
            self._last = now
        stuck = max((now - moved) / 1e9 for moved in self._moved.values())
        self._channel.send(("event", _News(Sign(min(1.0, elapsed / self._traffic.seconds), stuck), point)))
