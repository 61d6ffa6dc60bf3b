"""How each number of a serving package follows from the measurements; a usual value where there are none."""

from __future__ import annotations

import math

from workbench.comparison import Candidate, Row
from workbench.load_report import format_rate
from workbench.measure.load import knee
from workbench.serving_measurements import Derived, Measurements, ServiceCapacity

SHARE_OF_CAPACITY = 0.7  # of the throughput of one replica that it is planned for: bursts need room
LEAST_ALERT_MS = 10.0  # what a service of a tiny model is allowed
LEAST_GAIN = 1.2  # × the throughput without: batches cost the service copies that no sweep sees, workers cost memory
USUAL_BUCKETS_MS = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)

_TOO_LITTLE = f", and {100 * (LEAST_GAIN - 1):.0f} % are asked for"
_LEAST_WAIT_MS = 0.2
_OVER_P99 = 3.0  # times the measured 99th percentile under load before somebody is called
_WAIT_SHARE = 0.5  # of one inference: longest time that a request waits for others to make a batch
_QUEUED_SECONDS = 1.0  # of work that may wait before requests are turned away
_PATIENCE = 20.0  # times the measured 99th percentile before a request is given up
_MEMORY_ROOM = 1.5  # times the measured peak
_MEMORY_STEP_MB = 64
_BUCKETS_PER_DOUBLING = 2
_MOST_BUCKETS = 24


def concurrency(candidate: Candidate, found: Measurements) -> tuple[Derived, Derived]:
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


def workers(service: ServiceCapacity | None) -> Derived:
    """The fewest that get through nearly as much as any."""
    if service is None:
        return Derived(1, "workers", "one, as the service was not measured", measured=False)
    one, most = service.trials[0], max(service.trials, key=lambda trial: trial.queries_per_second)
    if service.workers > 1:
        gain = service.queries_per_second / one.queries_per_second
        return Derived(service.workers, "workers", f"{gain:.2f} × the throughput of one worker over HTTP")
    if len(service.trials) == 1:
        return Derived(1, "workers", "one gets through nearly all that the inference does")
    gain = max(0.0, most.queries_per_second / one.queries_per_second - 1)
    return Derived(1, "workers", f"more workers gain {100 * gain:.0f} % at most over HTTP{_TOO_LITTLE}")


def latencies(found: Measurements) -> tuple[Derived, Derived]:
    """Median and 99th percentile of the service, else of inferences under load, else of one caller, else usual ones."""
    if found.service:
        service = found.service
        source = f"measured over HTTP at {format_rate(service.rate)} queries/s"
        source += "" if service.kept_up else ", which it did not keep up with"
        source += "; with doubts, so measure again" if service.trust.caveats else ""
        tail = source if service.whole_tail else f"the slowest of {service.completed:,}, {source}"
        return Derived(neat(service.p50_ms), "ms", source), Derived(neat(service.p99_ms), "ms", tail)
    if at_knee := knee(found.curve):
        source = f"measured at the knee, {format_rate(at_knee.queries_per_second)} queries/s"
        p50 = at_knee.p50.value if at_knee.p50 else at_knee.mean_ms
        tail = source if at_knee.p99 else f"the slowest of {at_knee.completed:,}, {source}"
        return Derived(neat(p50), "ms", source), Derived(neat(at_knee.tail_ms), "ms", tail)
    if found.row:
        latency = found.row.latency
        p50 = latency.p50.value if latency.p50 else latency.mean_ms
        p99 = latency.p99.value if latency.p99 else max(latency.quantiles_ms, default=2 * p50)
        source = f"measured with one caller at batch {latency.batch}, of the inference alone"
        tail = source if latency.p99 else f"the slowest of {latency.iterations:,}, {source}"
        return Derived(neat(p50), "ms", source), Derived(neat(p99), "ms", tail)
    return Derived(50, "ms", "not measured; a usual value", False), Derived(
        250, "ms", "not measured; a usual value", False
    )


def capacity(found: Measurements, instances: Derived) -> Derived:
    """What one replica gets through: the service, else the inference at the knee, else one caller times instances."""
    if service := found.service:
        words = f"the most over HTTP with {service.connections} callers on the same {service.cores} cores"
        return Derived(_rate(service.queries_per_second), "queries/s", words)
    if at_knee := knee(found.curve):
        words = f"the knee of {len(found.curve)} measured rates, of the inference alone"
        return Derived(_rate(at_knee.queries_per_second), "queries/s", words)
    return _capacity_of_row(found.row, instances)


def _capacity_of_row(row: Row | None, instances: Derived) -> Derived:
    if row is None:
        return Derived(20, "queries/s", "not measured; a usual value", measured=False)
    rate = 1000 / row.latency.mean_ms * instances.value
    words = f"{row.latency.mean_ms:.3g} ms a query, one after the other, of the inference alone"
    return Derived(_rate(rate), "queries/s", words)


def batching(candidate: Candidate, found: Measurements) -> tuple[Derived, Derived]:
    """Batches as large as the sweep's best, where those clearly beat batch 1 on the best division of cores."""
    off = Derived(0, "ms", "requests are not put together")
    if fixed := candidate.engine.model.fixed_batch:
        return Derived(1, "samples", f"off, as the model's batch is fixed at {fixed}"), off
    points = [point for point in found.sweep.points if point.stats] if found.sweep else []
    alone = max((point.samples_per_second for point in points if point.batch == 1), default=0.0)
    if not alone:
        return Derived(1, "samples", "off, as larger batches were not measured", measured=False), off
    best = max(points, key=lambda point: point.samples_per_second)
    gain = best.samples_per_second / alone
    if best.batch == 1 or gain < LEAST_GAIN:
        return Derived(1, "samples", f"off: batches gain {100 * max(0.0, gain - 1):.0f} % at most{_TOO_LITTLE}"), off
    assert best.stats is not None
    wait = neat(max(_LEAST_WAIT_MS, _WAIT_SHARE * best.stats.service_ms))
    floor = f", at least {_LEAST_WAIT_MS:g} ms" if wait == _LEAST_WAIT_MS else ""
    return (
        Derived(best.batch, "samples", f"{gain:.2f} × the throughput of batch 1 in the sweep"),
        Derived(wait, "ms", f"{_WAIT_SHARE:g} × the {best.stats.service_ms:.3g} ms of such a batch{floor}"),
    )


def queue(capacity: Derived, instances: Derived, workers: Derived) -> Derived:
    """Requests under way in one worker, as many as it gets through in a second."""
    rate = _rate(capacity.value / workers.value)
    waiting = max(16, 2 * int(instances.value), math.ceil(rate * _QUEUED_SECONDS))
    words = f"{_QUEUED_SECONDS:g} s of {format_rate(rate)} queries/s"
    words += ", which is one worker's part" if workers.value > 1 else ""
    return Derived(waiting, "requests", words, capacity.measured)


def request_seconds(p99: Derived) -> Derived:
    """How long a request may take."""
    words = f"{_PATIENCE:g} × the p99 of {p99.value:g} ms, at least 1 s"
    return Derived(max(1.0, round(_PATIENCE * p99.value / 1000, 1)), "s", words, p99.measured)


def rate_per_replica(capacity: Derived, service: ServiceCapacity | None) -> Derived:
    """What one replica is planned for: a share of its capacity, or the lower rate that the service kept up with."""
    planned = max(0.1, _rate(SHARE_OF_CAPACITY * capacity.value))
    if service and _rate(service.rate) < 0.95 * planned:
        words = "the highest rate of arrivals at random, of those tried, that it kept up with"
        words = words if service.kept_up else "the lowest rate of arrivals tried; it kept up with none"
        return Derived(max(0.1, _rate(service.rate)), "queries/s", words)
    words = f"{SHARE_OF_CAPACITY:g} × {format_rate(capacity.value)} queries/s, which leaves room for bursts"
    return Derived(planned, "queries/s", words, capacity.measured)


def alert_p99(p99: Derived, service: ServiceCapacity | None) -> Derived:
    """The 99th percentile that somebody is called for."""
    others = "the system takes its" if service else "HTTP and the system take their"
    words = f"{_OVER_P99:g} × the p99 of {p99.value:g} ms, at least {LEAST_ALERT_MS:g} ms, since {others} time too"
    return Derived(max(LEAST_ALERT_MS, neat(_OVER_P99 * p99.value)), "ms", words, p99.measured)


def cores(threads: Derived, instances: Derived, workers: Derived, service: ServiceCapacity | None) -> Derived:
    """What a replica keeps busy."""
    one, most = instances.value * threads.value, service.cores if service else math.inf
    count, words = workers.value * one, f"{instances.value:g} × {threads.value:g} threads"
    if workers.value > 1:
        words = f"{workers.value:g} workers × {words}" + (f", at most the {most:g} measured on" if count > most else "")
    return Derived(min(count, max(most, one)), "cores", words, threads.measured)


def memory(candidate: Candidate, found: Measurements) -> Derived:
    """What a replica may take."""
    at_knee = knee(found.curve)
    peak = at_knee.peak_memory_mb if at_knee else found.row.latency.peak_memory_mb if found.row else 0.0
    peak = max(peak, found.service.memory_mb if found.service else 0.0)
    if peak:
        words = f"{_MEMORY_ROOM:g} × the peak of {peak:.0f} MB, in steps of {_MEMORY_STEP_MB} MB"
        return Derived(_up(_MEMORY_ROOM * peak), "MB", words)
    size = candidate.engine.model.size_bytes / 1e6
    words = f"256 MB and 4 × the model's {size:.1f} MB, in steps of {_MEMORY_STEP_MB} MB"
    return Derived(_up(256 + 4 * size), "MB", words, False)


def _up(megabytes: float) -> int:
    return math.ceil(megabytes / _MEMORY_STEP_MB) * _MEMORY_STEP_MB


def buckets(p50: Derived, p99: Derived) -> tuple[tuple[float, ...], str]:
    """Bounds from half the median to eight times the 99th percentile, so that both and the alert's are told well.

    They rise by √2, or by more where that would take too many series.
    """
    if not p50.measured:
        return USUAL_BUCKETS_MS, "not measured; usual ones"
    low, high = p50.value / 2, max(8 * max(p99.value, p50.value), 2 * LEAST_ALERT_MS)
    steps = min(math.ceil(_BUCKETS_PER_DOUBLING * math.log2(high / low)), _MOST_BUCKETS)
    rise = max(2 ** (1 / _BUCKETS_PER_DOUBLING), (high / low) ** (1 / steps))
    bounds = [neat(low * rise**step) for step in range(steps + 1)]
    words = (
        f"from half the median of {p50.value:g} ms to 8 × the p99 of {p99.value:g} ms, at least to "
        f"{2 * LEAST_ALERT_MS:g} ms"
    )
    return tuple(dict.fromkeys(bounds)), words


def _rate(value: float) -> float:
    """Queries per second: whole ones from a hundred on."""
    return float(round(value)) if value >= 100 else neat(value)


def neat(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")
