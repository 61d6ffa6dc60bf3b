"""Sends requests to a running service over many connections and notes when each was due, sent and answered.

One thread and one loop over sockets that do not block: it runs in a process of its own, and what it takes itself
should be small beside what the service takes. `select` waits to the microsecond, which `epoll` alone does not.
"""

from __future__ import annotations

import contextlib
import gc
import select
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from workbench.jobs import Progress
from workbench.measure._limited import peak_memory_mb
from workbench.measure._load_stats import LoadPoint
from workbench.measure._traffic import Log, Traffic, arrivals
from workbench.service._connection import Connection, Owner
from workbench.service._target import Target
from workbench.service._wires import MakeWire

_LEAD_NS = 20_000_000  # between opening the connections and the first arrival
_TICK_NS = 250_000_000
_clock = time.perf_counter_ns


@dataclass
class Sent:
    """What came of traffic.

    Attributes:
        log: Times of the requests that were answered with 200, by connection.
        statuses: Answers by HTTP status.
        lost: Requests without an answer: refused or broken connections, and answers that took too long.
        unsent: Requests that were due but not sent, because the run was stopped as overloaded.
        peak_memory_mb: Most memory that the sending process held, MB.
        seconds: How long it took, until the last answer of any kind, s.
        answer_bytes: Bytes of the answers, heads included.
        reasons: Why requests were lost, with the number of each.
    """

    log: Log
    statuses: Counter[int]
    lost: int
    unsent: int
    peak_memory_mb: float
    seconds: float
    answer_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def send_requests(
    target: Target,
    make_wire: MakeWire,
    requests: Sequence[bytes],
    traffic: Traffic,
    warm_up: float,
    timeout_s: float,
    *,
    progress: Progress,
    tell: Callable[[LoadPoint], None],
) -> tuple[Sent, Sent]:
    """Sends traffic twice, first a little of it untimed; runs in a process of its own.

    Args:
        target: Where to.
        make_wire: Makes what a connection speaks.
        requests: What wires take, sent in turns.
        traffic: How they come; its `concurrency` is the number of connections, whatever the pattern.
        warm_up: How long the untimed part takes, s.
        timeout_s: An answer that takes longer is given up.
        progress: Called with the share done and a short text.
        tell: Given a moment about four times a second.

    Returns:
        What came of the untimed part, and of the traffic.
    """
    gc.collect()
    gc.disable()
    run = _Run(target, make_wire, requests, timeout_s)
    with contextlib.closing(run):
        warm = run.send(replace(traffic, seconds=warm_up, seed=traffic.seed + 1), lambda *_: None)

        def tick(elapsed: float, point: LoadPoint | None) -> None:
            progress(min(1.0, elapsed / traffic.seconds), "sending")
            if point is not None:
                tell(point)

        return warm, run.send(traffic, tick)


class _Run(Owner):
    """Connections that stay open from one load to the next."""

    def __init__(self, target: Target, make_wire: MakeWire, requests: Sequence[bytes], timeout_s: float) -> None:
        super().__init__(target, make_wire)
        self._timeout = int(timeout_s * 1e9)
        self._requests, self._next = requests, 0
        self._connections: list[Connection] = []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self.poller.close()

    def send(self, traffic: Traffic, tick: Callable[[float, LoadPoint | None], None]) -> Sent:
        while len(self._connections) < traffic.concurrency:
            self._connections.append(Connection(self))
            self.broken.append(self._connections[-1])
        self._begin(traffic)
        cpu, begun, ticked, seen = time.process_time(), _clock(), self.start, 0
        while not self._finished():
            now = _clock()
            self._send_due(now)
            self._wait(now)
            if (now := _clock()) - ticked >= _TICK_NS:
                self._give_up(now)
                recent, seen = np.array(self.latencies[seen:]), len(self.latencies)
                seconds = (now - max(ticked, self.start)) / 1e9
                tick((now - self.start) / 1e9, self._point(now, recent, seconds) if seconds > 0 else None)
                ticked = now
        for connection in self._connections:
            connection.give_up()
        return self._sum_up(time.process_time() - cpu, (_clock() - begun) / 1e9)

    def _begin(self, traffic: Traffic) -> None:
        self.traffic, self.closed = traffic, traffic.pattern == "closed"
        self.start = _clock() + _LEAD_NS
        self.end = self.start + int(traffic.seconds * 1e9)
        due = np.empty(0, np.int64) if self.closed or not traffic.seconds else arrivals(traffic)
        due = due[due < traffic.seconds * 1e9]  # the first of a slow Poisson process may come later
        self.due, self.position = array("q", (due + self.start).tobytes()), 0
        self.stopped = False
        self.reset()
        for connection in self._connections:
            connection.notes, connection.free = array("q"), self.start
            if connection.socket is not None and not connection.connecting:
                self.idle.append(connection)

    def _finished(self) -> bool:
        if self.busy:
            return False
        if self.closed:
            return not self.waiting and _clock() >= self.end
        return self.stopped or (self.position >= len(self.due) and not self.waiting)

    def _send_due(self, now: int) -> None:
        """Sends what is due on connections that are free; the oldest first."""
        if self.closed:
            while self.idle and (self.waiting or self.start <= now < self.end):  # those wait that were not taken
                self._hand_over(self.idle.pop(), self.waiting.popleft() if self.waiting else _clock())
            return
        if self.stopped:
            return
        while self.position < len(self.due) and self.due[self.position] <= now:
            self.waiting.append(self.due[self.position])
            self.position += 1
        while self.waiting and self.idle:
            self._hand_over(self.idle.pop(), self.waiting.popleft())
        if self.waiting and now - self.waiting[0] > self.traffic.max_wait_s * 1e9:
            self.stopped = True

    def _hand_over(self, connection: Connection, due: int) -> None:
        self._next = (self._next + 1) % len(self._requests)
        connection.send(self._requests[self._next], due)

    def _wait(self, now: int) -> None:
        """Waits for whatever comes first: an answer, an arrival, the time to connect again, the next look around."""
        if self.closed:
            until = self.start if now < self.start else self.end if now < self.end else now + _TICK_NS
        else:
            until = self.due[self.position] if self.position < len(self.due) else now + _TICK_NS
        if self.broken and (self.waiting or now < self.end if self.closed else not self.stopped):
            again, self.broken = self.broken, []
            for connection in again:
                if connection.again <= now:
                    connection.open()
                else:
                    self.broken.append(connection)
                    until = min(until, connection.again)
        seconds = max(0.0, min(until - _clock(), _TICK_NS) / 1e9)
        if select.select([self.poller], [], [], seconds)[0]:
            for descriptor, events in self.poller.poll(0):
                if descriptor in self.open_ones:
                    self.open_ones[descriptor].ready(events)

    def _give_up(self, now: int) -> None:
        for connection in self._connections:
            if (connection.busy or connection.connecting) and now - connection.begun > self._timeout:
                connection.fail("no answer in time")

    def _point(self, now: int, recent: NDArray[np.float64], seconds: float) -> LoadPoint | None:
        if not len(recent):
            return None
        offered = None if self.closed else self.traffic.rate
        elapsed = (now - self.start) / 1e9
        return LoadPoint(elapsed, float(np.median(recent)), float(recent.max()), offered, len(recent) / seconds)

    def _sum_up(self, cpu: float, seconds: float) -> Sent:
        arrived = np.array(self.due, np.int64) - self.start
        arrived = arrived[arrived <= _clock() - self.start]
        notes = (np.frombuffer(each.notes, np.int64).reshape(-1, 4) for each in self._connections if each.notes)
        log = Log(tuple(each - self.start for each in notes), arrived, cpu, self.stopped)
        memory = peak_memory_mb()
        unsent = len(self.waiting)
        return Sent(log, self.statuses, self.lost, unsent, memory, seconds, self.answer_bytes, self.reasons)
