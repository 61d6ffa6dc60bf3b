"""What came of traffic, summed up: rates, percentiles with intervals, and the checks that one log allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from workbench.measure._traffic import Log, Pattern, Traffic
from workbench.measure.statistics import Estimate, percentiles
from workbench.measure.trust import Check, Trust

_SHARES = (0.50, 0.90, 0.95, 0.99)
_BLOCKS = 20
_MOST_SAMPLES = 20_000  # for the percentiles: more would change nothing but the time that their intervals take
_DRIFT = 0.15  # first half against second half
_VAGUE = 0.5  # half the 99th percentile's interval, as a share of it: above, its size is hardly known
_LATE = 0.10  # the generator's own delay, as a share of the median latency
_DRAIN_SHARE, _DRAIN_QUERIES = 0.03, 10


@dataclass(frozen=True)
class LoadPoint:
    """A moment of a running measurement, for a plot that moves.

    Attributes:
        seconds: Time since the start.
        p50_ms: Median latency of the queries that ended since the moment before.
        worst_ms: The longest.
        offered: Arrivals per second in that time; None in a closed loop, where queries wait for queries.
        achieved: Queries per second that ended in that time.
    """

    seconds: float
    p50_ms: float
    worst_ms: float
    offered: float | None
    achieved: float


@dataclass(frozen=True)
class LoadStats:
    """Throughput and latency under one load, and what they were measured under.

    Latency runs from the moment at which a query was due, so a query that waits because those before it were slow
    counts its waiting: no "coordinated omission" (Tene, How NOT to Measure Latency, 2013).

    Attributes:
        pattern: How queries came.
        batch: Samples per query.
        instances: Callers, each in a thread of its own.
        threads: Threads inside one operator of each, where the backend has such an option.
        concurrency: Queries under way at once in a closed loop; None elsewhere.
        offered_per_second: Arrivals per second; None where queries came as fast as others ended.
        queries_per_second: Queries that ended per second.
        p50: Median latency, ms; p90, p95, p99 likewise. None where there were too few queries, and for `offline`.
        worst_ms: The longest latency, ms.
        queueing_ms: Mean time from due to begun.
        service_ms: Mean time from begun to ended: the inference itself.
        lateness_ms: Mean delay of the generator itself, ms: begun, less due or the runner free, whichever was later.
        completed: Queries that ended.
        unfinished: Queries that were due but not served, because the run was stopped as overloaded.
        seconds: How long it took.
        warmup: Untimed queries before.
        cores_busy: Processor time as a share of all cores' time.
        peak_memory_mb: Most memory that the process held, MB (10⁶ bytes).
        kept_up: Whether no backlog built up.
        placement: Nodes that each provider really ran.
        callers: Whether each had a runner of its own (`runners`), or all shared one: by calls (`shared`) or by requests
            that ran on its threads (`asynchronous`).
        trust: What was checked, and what speaks against the numbers.
    """

    pattern: Pattern
    batch: int
    instances: int
    threads: int | None
    concurrency: int | None
    offered_per_second: float | None
    queries_per_second: float
    p50: Estimate | None
    p90: Estimate | None
    p95: Estimate | None
    p99: Estimate | None
    worst_ms: float
    queueing_ms: float
    service_ms: float
    lateness_ms: float
    completed: int
    unfinished: int
    seconds: float
    warmup: int
    cores_busy: float
    peak_memory_mb: float
    kept_up: bool
    placement: Mapping[str, int]
    callers: str = "runners"
    trust: Trust = field(default_factory=Trust)

    @property
    def samples_per_second(self) -> float:
        """Queries per second × samples per query."""
        return self.queries_per_second * self.batch

    @property
    def mean_ms(self) -> float:
        """Mean latency, ms."""
        return self.queueing_ms + self.service_ms

    @property
    def tail_ms(self) -> float:
        """The 99th percentile; the longest latency, which is no shorter, where there were too few queries for it."""
        return self.p99.value if self.p99 else self.worst_ms


@dataclass(frozen=True)
class Setting:
    """What does not change from one load of a process to the next.

    Attributes:
        batch: Samples per query.
        threads: Threads inside one operator, where the backend has such an option.
        cores: Cores that the process may use.
        warmup: Untimed queries.
        steady: Whether the warm-up ended because the throughput had settled.
        placement: Nodes that each provider really ran.
        callers: As in `LoadStats`.
    """

    batch: int
    threads: int | None
    cores: int
    warmup: int
    steady: bool
    placement: Mapping[str, int]
    callers: str = "runners"


def summarize(log: Log, traffic: Traffic, setting: Setting, peak_memory_mb: float) -> LoadStats:
    """Sums a log up.

    Args:
        log: Times of every query; each caller served one at least.
        traffic: What was sent.
        setting: What it was sent to.
        peak_memory_mb: Most memory that the process held, MB.
    """
    notes = np.concatenate(log.callers)
    notes = notes[np.argsort(notes[:, 0], kind="stable")]
    due, free, begun, ended = notes.T
    latency, service = (ended - due) / 1e6, (ended - begun) / 1e6
    last = int(max(ended.max(), log.due[-1] if len(log.due) else 0))
    offline = traffic.pattern == "offline"
    p50, p90, p95, p99 = (None,) * 4 if offline else percentiles(_blocks(latency), _SHARES)
    open_loop = traffic.pattern in ("constant", "poisson")
    late = (begun - np.maximum(due, free)) / 1e6
    # The queue that is left when the last query arrives takes long to serve only where it grew all the time.
    drain = (last - int(log.due[-1])) / 1e6 if open_loop else 0.0
    allowed = max(1000 * _DRAIN_SHARE * traffic.seconds, _DRAIN_QUERIES * float(service.mean()) / len(log.callers))
    kept_up = not log.stopped and drain <= allowed
    return LoadStats(
        pattern=traffic.pattern,
        batch=setting.batch,
        instances=len(log.callers),
        threads=setting.threads,
        concurrency=traffic.concurrency if traffic.pattern == "closed" else None,
        offered_per_second=len(log.due) / (last / 1e9 if log.stopped else traffic.seconds) if open_loop else None,
        queries_per_second=_rate(log, traffic, last),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        worst_ms=float(latency.max()),
        queueing_ms=float((begun - due).mean()) / 1e6,
        service_ms=float(service.mean()),
        lateness_ms=float(late.mean()),
        completed=len(notes),
        unfinished=max(0, len(log.due) - len(notes)),
        seconds=last / 1e9,
        warmup=setting.warmup,
        cores_busy=log.cpu_seconds / (last / 1e9) / setting.cores,
        peak_memory_mb=peak_memory_mb,
        kept_up=kept_up,
        placement=setting.placement,
        callers=setting.callers,
        trust=Trust(
            (
                _samples(len(notes), p50, p99, offline),
                _stable(notes, log, setting, open_loop, kept_up),
                *_schedule(float(late.mean()), p50, open_loop),
            )
        ),
    )


def _rate(log: Log, traffic: Traffic, last: int) -> float:
    """Queries per second; a closed loop's callers each count up to their own last query, so that none is cut."""
    if traffic.pattern == "closed":
        return float(sum(len(notes) / notes[-1, 3] for notes in log.callers)) * 1e9
    whole = 0.0 if log.stopped or traffic.pattern == "offline" else traffic.seconds
    return sum(map(len, log.callers)) / max(last / 1e9, whole)


def _blocks(latency: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Latencies in the order of arrival, cut into blocks of time; thinned by chance where there are very many."""
    blocks = np.array_split(latency, min(_BLOCKS, len(latency)))
    most = _MOST_SAMPLES // _BLOCKS
    draw = np.random.default_rng(0)
    return [block if len(block) <= most else draw.choice(block, most, replace=False) for block in blocks]


def _samples(count: int, p50: Estimate | None, p99: Estimate | None, offline: bool) -> Check:
    if offline:
        return Check("samples", "ok", f"{count:,} queries; throughput only, since all came at once")
    if p50 is None:
        return Check("samples", "doubt", f"only {count} queries")
    if p99 is None:
        return Check("samples", "ok", f"{count:,} queries, too few for the 99th percentile, which is not shown")
    known = f"{count:,} queries; the 99th percentile is known to ±{100 * p99.spread:.0f} %"
    return Check("samples", "doubt", f"{known} only") if p99.spread > _VAGUE else Check("samples", "ok", known)


def _stable(notes: NDArray[np.int64], log: Log, setting: Setting, open_loop: bool, kept_up: bool) -> Check:
    """The two halves of a run against each other: throughput of a closed loop, service time of an open one."""
    if not kept_up:
        done = "it was stopped" if log.stopped else "the queue grew to the end"
        return Check("stable", "doubt", f"more queries came than could be served ({done}): latency depends on the time")
    service = notes[:, 3] - notes[:, 2]
    first, second = np.array_split(service[np.argsort(notes[:, 3])], 2)
    if len(first) < 3 or not len(second):
        return Check("stable", "unknown", "too few queries to compare the halves")
    drift = abs(float(np.log(second.mean() / first.mean())))
    what = f"the mean time of an inference differs by {100 * drift:.0f} % between the halves"
    if drift > _DRIFT:
        return Check("stable", "doubt", what)
    if not setting.steady:
        return Check("stable", "doubt", "the throughput had not settled when the warm-up had to end")
    return Check("stable", "ok", f"settled in the warm-up; {what}")


def _schedule(late_ms: float, p50: Estimate | None, open_loop: bool) -> Iterator[Check]:
    """Whether queries were sent when they were due."""
    if not open_loop or p50 is None:
        return
    late = f"{late_ms:.1f} ms" if late_ms >= 1 else f"{1000 * late_ms:.0f} µs"
    text = f"queries began {late} after they could have, on average"
    yield Check("schedule", "doubt" if late_ms > _LATE * p50.value else "ok", text)
