"""Sends queries to live runners in this process, in a closed or an open loop, and notes when each came and went.

There is no thread that sends: each runner has a caller of its own that takes the next arrival of a schedule, waits for
its time and calls. While every caller is busy arrivals pass unserved, which is the queue; the first to get free takes
the oldest. So a hand-over between threads, which would take longer than many a model, costs nothing.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pattern: TypeAlias = Literal["closed", "constant", "poisson", "offline"]
Call: TypeAlias = Callable[[], object]

_LEAD_NS = 10_000_000  # between making the callers and the first arrival
_SPIN_NS = 200_000  # the system wakes a sleeper up to this much too late
_SWITCH_SECONDS = 5e-4  # how long a caller that comes back may wait for another thread's Python
_TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Traffic:
    """What is sent.

    Attributes:
        pattern: Closed loop, arrivals at a constant rate or as a Poisson process, or all at once.
        seconds: How long queries arrive; not for `offline`.
        concurrency: Queries under way at once, waiting ones included; for `closed`.
        rate: Arrivals per second; for `constant` and `poisson`.
        count: Queries that lie ready at the start; for `offline`.
        max_wait_s: A query of an open loop that waits longer ends the run as overloaded.
        seed: Of the arrivals' times.
        fewest: Queries of each caller of a closed loop, however slow they are.
        spin: Whether a waiting caller may keep a core busy for the last moment.
    """

    pattern: Pattern
    seconds: float = 1.0
    concurrency: int = 1
    rate: float = 1.0
    count: int = 1
    max_wait_s: float = 2.0
    seed: int = 0
    fewest: int = 3
    spin: bool = True


class Caller:
    """The notes of one thread that calls one runner.

    Attributes:
        notes: Four times for each query, ns: due, caller free, begun, ended. It could have begun at the later of the
            first two.
        idle: Whether it waits for an arrival, or has served its last.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.notes = array("q")
        self.idle = False

    def read(self, position: int = 0) -> NDArray[np.int64]:
        """The notes from one query on, shape `(queries, 4)`; may be called while it runs."""
        part = self.notes[4 * position :]  # a copy: the array cannot grow while someone looks into it
        return np.frombuffer(part, np.int64).reshape(-1, 4) if part else np.empty((0, 4), np.int64)


@dataclass(frozen=True)
class Log:
    """What came of traffic.

    Attributes:
        callers: Their notes, shape `(queries, 4)` each: due, caller free, begun, ended, in ns since the start.
        due: Arrivals of the schedule up to the end of the run, in ns since the start; empty for `closed`.
        cpu_seconds: Processor time of this process meanwhile.
        stopped: Whether it ended early because a query had waited too long.
    """

    callers: tuple[NDArray[np.int64], ...]
    due: NDArray[np.int64]
    cpu_seconds: float
    stopped: bool


def arrivals(traffic: Traffic) -> NDArray[np.int64]:
    """Times of the arrivals of an open loop, ns since the start."""
    if traffic.pattern == "offline":
        return np.zeros(traffic.count, np.int64)
    expected = traffic.rate * traffic.seconds
    if traffic.pattern == "constant":
        times = np.arange(max(1, round(expected))) / traffic.rate
    else:
        generator = np.random.default_rng(traffic.seed)
        gaps = generator.exponential(1 / traffic.rate, int(expected + 6 * expected**0.5) + 10)
        times = np.cumsum(gaps)
        times = times[times < traffic.seconds] if times[0] < traffic.seconds else times[:1]
    return (times * 1e9).astype(np.int64)


def send(calls: Sequence[Call], traffic: Traffic, tick: Callable[[int, Sequence[Caller]], None] | None = None) -> Log:
    """Sends traffic to runners, one thread for each.

    Args:
        calls: One bare call per live runner.
        traffic: What to send.
        tick: Called about four times a second with the start (ns of `perf_counter_ns`) and the callers.

    Raises:
        Exception: The one that a call raised.
    """
    callers = [Caller(call) for call in calls]
    run = _Run(callers, traffic)
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        cpu = time.process_time()
        threads = [threading.Thread(target=run.serve, args=(caller,), daemon=True) for caller in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_TICK_SECONDS)
                if tick is not None:
                    tick(run.start, callers)
        cpu = time.process_time() - cpu
    finally:
        sys.setswitchinterval(before)
    if run.error is not None:
        raise run.error
    return Log(tuple(caller.read() - run.start for caller in callers), run.arrived(), cpu, run.stopped)


class _Run:
    """What the callers of one run share."""

    def __init__(self, callers: Sequence[Caller], traffic: Traffic) -> None:
        self.stopped = False
        self.error: BaseException | None = None
        self.start = time.perf_counter_ns() + _LEAD_NS
        self._traffic = traffic
        self._closed = traffic.pattern == "closed"
        due = np.empty(0, np.int64) if self._closed else arrivals(traffic)
        self._due = array("q", (due + self.start).tobytes())
        self._numbers = itertools.count()
        self._tokens = deque([self.start] * traffic.concurrency)

    def serve(self, caller: Caller) -> None:
        """What the thread of a caller does."""
        try:
            (self._serve_closed if self._closed else self._serve_arrivals)(caller)
        except BaseException as error:  # raised again in the thread that waits
            self.error = error
            self.stopped = True
        finally:
            caller.idle = True

    def arrived(self) -> NDArray[np.int64]:
        """Arrivals up to now, ns since the start."""
        due = np.array(self._due, np.int64) - self.start
        return due[due <= time.perf_counter_ns() - self.start]

    def _serve_closed(self, caller: Caller) -> None:
        """Takes a query that waits, and puts the next in its place when it is done."""
        clock, call, note, tokens = time.perf_counter_ns, caller.call, caller.notes.extend, self._tokens
        end = self.start + int(self._traffic.seconds * 1e9)
        self._wait_until(self.start, caller)
        free, served, fewest = self.start, 0, self._traffic.fewest
        while (free < end or served < fewest) and not self.stopped:
            due = tokens.popleft()  # never empty: there are at least as many queries as callers
            begun = clock()
            call()
            ended = clock()
            tokens.append(ended)
            note((due, free, begun, ended))
            free = ended
            served += 1

    def _serve_arrivals(self, caller: Caller) -> None:
        """Takes the next arrival and waits for its time if that has not come."""
        clock, call, note, schedule = time.perf_counter_ns, caller.call, caller.notes.extend, self._due
        patience = int(self._traffic.max_wait_s * 1e9) if self._traffic.pattern != "offline" else 1 << 62
        free = self.start
        while (number := next(self._numbers)) < len(schedule) and not self.stopped:
            due = schedule[number]
            if due >= free:
                self._wait_until(due, caller)
            begun = clock()
            if begun - due > patience and caller.notes:
                self.stopped = True
                return
            call()
            ended = clock()
            note((due, free, begun, ended))
            free = ended

    def _wait_until(self, due: int, caller: Caller) -> None:
        clock = time.perf_counter_ns
        caller.idle = True
        left = due - clock() - (_SPIN_NS if self._traffic.spin else 0)
        if left > 0:
            time.sleep(left / 1e9)
        while clock() < due:
            time.sleep(0)  # lets go of the interpreter
        caller.idle = False
