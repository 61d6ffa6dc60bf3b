"""The numbers of a serving package, each derived from what was measured, with the words that say from what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.comparison import Candidate, Row
from workbench.dataset import Dataset
from workbench.input_ranges import InputRange, input_ranges
from workbench.measure.load import LoadStats, knee
from workbench.measure.sweep import Sweep

_SHARE_OF_KNEE = 0.7  # of the throughput at the knee that one replica is planned for: bursts need room
_OVER_P99 = 3.0  # times the measured 99th percentile under load before somebody is called
_LEAST_ALERT_MS = 10.0  # what a service of a tiny model is allowed: the measurement is of the inference alone
_ERRORS = 0.01  # share of failed requests before somebody is called
_LEAST_GAIN = 1.2  # × the throughput of batch 1: putting requests together costs the service copies that no sweep sees
_WAIT_SHARE = 0.5  # of one inference: longest time that a request waits for others to make a batch
_QUEUED_SECONDS = 1.0  # of work that may wait before requests are turned away
_PATIENCE = 20.0  # times the measured 99th percentile before a request is given up
_MEMORY_ROOM = 1.5  # times the measured peak
_BUCKETS_PER_DOUBLING = 2
_COUNTED = ("threads", "instances", "samples", "requests", "cores")  # units that one of has no s
_MOST_BUCKETS = 24
_USUAL_BUCKETS_MS = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)


@dataclass(frozen=True)
class Derived:
    """A number, and what it comes from.

    Attributes:
        value: The number.
        unit: Its unit; empty for counts and shares.
        source: What it was derived from, in a clause, e.g. `0.7 × the knee of 812 queries/s`.
        measured: Whether it rests on a measurement; if not, it is a usual value.
    """

    value: float
    unit: str
    source: str
    measured: bool = True

    def __str__(self) -> str:
        return f"{_counted(self)} ({self.source})"


@dataclass(frozen=True)
class Measurements:
    """What was measured of a candidate.

    Attributes:
        row: Its accuracy and latency beside the original's.
        curve: Latency at rising rates of arrivals.
        sweep: Throughput over batch, threads and instances.
    """

    row: Row | None = None
    curve: tuple[LoadStats, ...] = ()
    sweep: Sweep | None = None


@dataclass(frozen=True)
class ServingPlan:
    """Every number of a package.

    Attributes:
        threads: Threads inside one inference.
        instances: Live runners in one process.
        max_batch: Most samples that are put together into one inference; 1 for none.
        batch_wait_ms: Longest time that a request waits for others.
        queue: Requests under way before others are turned away.
        request_seconds: Longest time for one request.
        capacity: Queries per second that one replica gets through at the knee.
        rate_per_replica: Queries per second that one replica is planned for.
        p50_ms: Median latency under that load.
        p99_ms: 99th percentile of the latency under that load.
        alert_p99_ms: 99th percentile above which somebody is called.
        alert_error_ratio: Share of failed requests above which somebody is called.
        cpu_cores: Cores that a replica keeps busy.
        memory_mb: Memory that a replica may take.
        buckets_ms: Upper bounds of the latency histogram.
        buckets_source: What they come from.
        inputs: How the inputs were distributed.
    """

    threads: Derived
    instances: Derived
    max_batch: Derived
    batch_wait_ms: Derived
    queue: Derived
    request_seconds: Derived
    capacity: Derived
    rate_per_replica: Derived
    p50_ms: Derived
    p99_ms: Derived
    alert_p99_ms: Derived
    alert_error_ratio: Derived
    cpu_cores: Derived
    memory_mb: Derived
    buckets_ms: tuple[float, ...] = _USUAL_BUCKETS_MS
    buckets_source: str = "not measured; usual ones"
    inputs: tuple[InputRange, ...] = field(default_factory=tuple)

    @property
    def numbers(self) -> Mapping[str, Derived]:
        """Every derived number by its name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Derived)}


def plan_serving(
    candidate: Candidate, measurements: Measurements | None = None, sample: Dataset | None = None
) -> ServingPlan:
    """Derives the numbers of a package.

    Args:
        candidate: What is served.
        measurements: What was measured of it; where something was not, a usual value is taken, and said to be one.
        sample: Samples whose distribution tells drift later.
    """
    found = measurements or Measurements()
    at_knee = knee(found.curve)
    threads, instances = _concurrency(candidate, found)
    p50, p99 = _latencies(found, at_knee)
    capacity = (
        Derived(
            round(at_knee.queries_per_second, 1),
            "queries/s",
            f"the knee of {len(found.curve)} measured rates, of the inference alone",
        )
        if at_knee
        else _capacity_of_row(found.row, instances)
    )
    batch, wait = _batching(found, p50)
    buckets, buckets_source = _buckets(p50, p99)
    waiting = max(16, 2 * int(instances.value), math.ceil(capacity.value * _QUEUED_SECONDS))
    return ServingPlan(
        threads=threads,
        instances=instances,
        max_batch=batch,
        batch_wait_ms=wait,
        queue=Derived(waiting, "requests", f"{_QUEUED_SECONDS:g} s of {capacity.value:g} queries/s", capacity.measured),
        request_seconds=Derived(
            max(1.0, round(_PATIENCE * p99.value / 1000, 1)),
            "s",
            f"{_PATIENCE:g} × the 99th percentile of {p99.value:g} ms, at least 1 s",
            p99.measured,
        ),
        capacity=capacity,
        rate_per_replica=Derived(
            max(0.1, round(_SHARE_OF_KNEE * capacity.value, 1)),
            "queries/s",
            f"{_SHARE_OF_KNEE:g} × {capacity.value:g} queries/s, which leaves room for bursts",
            capacity.measured,
        ),
        p50_ms=p50,
        p99_ms=p99,
        alert_p99_ms=Derived(
            max(_LEAST_ALERT_MS, _neat(_OVER_P99 * p99.value)),
            "ms",
            f"{_OVER_P99:g} × the 99th percentile of {p99.value:g} ms, at least {_LEAST_ALERT_MS:g} ms, since HTTP and "
            "the system take their time too",
            p99.measured,
        ),
        alert_error_ratio=Derived(_ERRORS, "", "a usual budget: one request in a hundred", measured=False),
        cpu_cores=_cores(threads, instances),
        memory_mb=_memory(candidate, found, at_knee),
        buckets_ms=buckets,
        buckets_source=buckets_source,
        inputs=input_ranges(sample) if sample is not None else (),
    )


def _concurrency(candidate: Candidate, found: Measurements) -> tuple[Derived, Derived]:
    """Threads and instances: the best of the sweep at batch 1, else those that were measured under load."""
    alone = [point for point in found.sweep.points if point.stats and point.batch == 1] if found.sweep else []
    if alone:
        best = max(alone, key=lambda point: point.samples_per_second)
        source = f"the most throughput of {len(alone)} measured settings at batch 1"
        return Derived(best.threads or 1, "threads", source), Derived(best.instances, "instances", source)
    threads = int(candidate.engine.options.get("threads", 1) or 1)
    if found.curve:
        source = "what the load was measured with"
        return Derived(found.curve[0].threads or threads, "threads", source), Derived(
            found.curve[0].instances, "instances", source
        )
    source = "what the candidate was measured with" if found.row else "what the candidate was built with"
    measured = found.row is not None
    return Derived(threads, "threads", source, measured), Derived(1, "instances", "one, as nothing was measured", False)


def _latencies(found: Measurements, at_knee: LoadStats | None) -> tuple[Derived, Derived]:
    """Median and 99th percentile under load, else of one caller alone, else usual ones."""
    if at_knee:
        source = f"measured at the knee, {at_knee.queries_per_second:.3g} queries/s"
        p50 = at_knee.p50.value if at_knee.p50 else at_knee.mean_ms
        return Derived(_neat(p50), "ms", source), Derived(_neat(at_knee.tail_ms), "ms", source)
    if found.row:
        latency = found.row.latency
        p50 = latency.p50.value if latency.p50 else latency.mean_ms
        p99 = latency.p99.value if latency.p99 else max(latency.quantiles_ms, default=2 * p50)
        source = f"measured with one caller at batch {latency.batch}"
        return Derived(_neat(p50), "ms", source), Derived(_neat(p99), "ms", source)
    return Derived(50, "ms", "not measured; a usual value", False), Derived(
        250, "ms", "not measured; a usual value", False
    )


def _capacity_of_row(row: Row | None, instances: Derived) -> Derived:
    if row is None:
        return Derived(20, "queries/s", "not measured; a usual value", measured=False)
    rate = 1000 / row.latency.mean_ms * instances.value
    return Derived(round(rate, 1), "queries/s", f"{row.latency.mean_ms:.3g} ms a query, one after the other")


def _batching(found: Measurements, p50: Derived) -> tuple[Derived, Derived]:
    """Batches as large as the sweep's best, where those clearly beat batch 1 on the best division of cores."""
    off = Derived(0, "ms", "requests are not put together")
    points = [point for point in found.sweep.points if point.stats] if found.sweep else []
    alone = max((point.samples_per_second for point in points if point.batch == 1), default=0.0)
    if not alone:
        return Derived(1, "samples", "off, as larger batches were not measured", measured=False), off
    best = max(points, key=lambda point: point.samples_per_second)
    gain = best.samples_per_second / alone
    if best.batch == 1 or gain < _LEAST_GAIN:
        return Derived(1, "samples", f"off: batches gain {100 * max(0.0, gain - 1):.0f} % at most"), off
    assert best.stats is not None
    wait = _neat(max(0.2, _WAIT_SHARE * best.stats.service_ms))
    return (
        Derived(best.batch, "samples", f"{gain:.2f} × the throughput of batch 1 in the sweep"),
        Derived(wait, "ms", f"{_WAIT_SHARE:g} × the {best.stats.service_ms:.3g} ms of such a batch"),
    )


def _cores(threads: Derived, instances: Derived) -> Derived:
    count = threads.value * instances.value
    return Derived(count, "cores", f"{instances.value:g} × {threads.value:g} threads", threads.measured)


def _memory(candidate: Candidate, found: Measurements, at_knee: LoadStats | None) -> Derived:
    peak = at_knee.peak_memory_mb if at_knee else found.row.latency.peak_memory_mb if found.row else 0.0
    if peak:
        return Derived(math.ceil(_MEMORY_ROOM * peak / 64) * 64, "MB", f"{_MEMORY_ROOM:g} × the peak of {peak:.0f} MB")
    size = candidate.engine.model.size_bytes / 1e6
    return Derived(math.ceil((256 + 4 * size) / 64) * 64, "MB", f"256 MB and 4 × the model's {size:.1f} MB", False)


def _buckets(p50: Derived, p99: Derived) -> tuple[tuple[float, ...], str]:
    """Bounds from half the median to eight times the 99th percentile, so that both and the alert's are told well.

    They rise by √2, or by more where that would take too many series.
    """
    if not p50.measured:
        return _USUAL_BUCKETS_MS, "not measured; usual ones"
    low, high = p50.value / 2, max(8 * max(p99.value, p50.value), 2 * _LEAST_ALERT_MS)
    steps = min(math.ceil(_BUCKETS_PER_DOUBLING * math.log2(high / low)), _MOST_BUCKETS)
    rise = max(2 ** (1 / _BUCKETS_PER_DOUBLING), (high / low) ** (1 / steps))
    bounds = [_neat(low * rise**step) for step in range(steps + 1)]
    words = (
        f"from half the median of {p50.value:g} ms to 8 × the 99th percentile of {p99.value:g} ms, at least to "
        f"{2 * _LEAST_ALERT_MS:g} ms"
    )
    return tuple(dict.fromkeys(bounds)), words


def _neat(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")


def describe_plan(plan: ServingPlan) -> Sequence[tuple[str, str, str]]:
    """Rows of a table: name, value with unit, and what it was derived from."""
    rows = [(name.replace("_", " "), _counted(number), number.source) for name, number in plan.numbers.items()]
    return [*rows, ("latency buckets", f"{len(plan.buckets_ms)} bounds", plan.buckets_source)]


def _counted(number: Derived) -> str:
    """A value with its unit: one thread, two threads."""
    unit = number.unit[:-1] if number.value == 1 and number.unit in _COUNTED else number.unit
    return f"{number.value:g} {unit}".strip()
