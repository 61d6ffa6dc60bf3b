"""What a running service says of itself: its metrics read twice, and what happened between the two in numbers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from workbench.errors import ServiceError as ServiceError
from workbench.service._pages import PREFIX as PREFIX
from workbench.service._pages import Labels
from workbench.service._pages import Read as Read
from workbench.service._pages import Reading as Reading
from workbench.service._pages import Source as Source
from workbench.service._pages import find_source as find_source
from workbench.service._pages import read_prometheus as read_prometheus
from workbench.service._pages import read_service as read_service
from workbench.service._pages import reader as reader

_CODES = {"errors": "5xx", "refused": "4xx"}
_STARTED = "process_start_time_seconds"
_SAME_START = 1.5  # s; the system counts from its own start, which moves by a second with its clock


@dataclass(frozen=True)
class ServiceStats:
    """What a service did between two readings.

    Attributes:
        model: Name of the model; empty for all.
        version: Its version; empty for all.
        seconds: Time between the readings, s.
        requests: Requests that were answered, refused and failed ones included.
        queries_per_second: Of these.
        errors: Those that failed (5xx).
        refused: Those that were refused (4xx).
        p50_ms: Median time of a request, ms, interpolated in the histogram; NaN if there was none.
        p99_ms: Its 99th percentile, ms.
        inference_p50_ms: Median time of an inference alone, ms.
        mean_batch: Samples in an inference; NaN if there was none.
        batches: Inferences by the upper bound of their samples.
        in_flight: Requests under way at the second reading.
        queue_limit: Requests under way above which further ones are refused.
        cpu_cores: Cores that the service kept busy.
        memory_mb: Memory it held at the second reading, MB.
        drift: By input, how many standard deviations of the known samples its mean is off; NaN without requests.
    """

    model: str
    version: str
    seconds: float
    requests: float
    queries_per_second: float
    errors: float
    refused: float
    p50_ms: float
    p99_ms: float
    inference_p50_ms: float
    mean_batch: float
    batches: Mapping[float, float]
    in_flight: float
    queue_limit: float
    cpu_cores: float
    memory_mb: float
    drift: Mapping[str, float] = field(default_factory=dict)

    @property
    def error_ratio(self) -> float:
        """Share of failed requests; 0 if there was none."""
        return self.errors / self.requests if self.requests else 0.0


def between(before: Reading, after: Reading, model: str = "", version: str = "") -> ServiceStats:
    """What happened between two readings; of several instances and protocols, all together.

    Args:
        before: The earlier one.
        after: The later one.
        model: One model only.
        version: One version of it only.
    """
    wanted = {key: value for key, value in (("model", model), ("version", version)) if value}
    grown = _Grown(before, after, wanted)
    seconds = max(after.at - before.at, 1e-9)
    requests = grown.total("workbench_requests_total")
    batches = grown.buckets("workbench_batch_size")
    inferences = grown.total("workbench_batch_size_count")
    return ServiceStats(
        model=model,
        version=version,
        seconds=seconds,
        requests=requests,
        queries_per_second=requests / seconds,
        errors=grown.total("workbench_requests_total", code=_CODES["errors"]),
        refused=grown.total("workbench_requests_total", code=_CODES["refused"]),
        p50_ms=1000 * quantile(0.5, grown.buckets("workbench_request_seconds")),
        p99_ms=1000 * quantile(0.99, grown.buckets("workbench_request_seconds")),
        inference_p50_ms=1000 * quantile(0.5, grown.buckets("workbench_inference_seconds")),
        mean_batch=grown.total("workbench_batch_size_sum") / inferences if inferences else math.nan,
        batches=_single(batches),
        in_flight=grown.now("workbench_in_flight"),
        queue_limit=grown.now("workbench_queue_limit"),
        cpu_cores=_Grown(before, after, {}).total("process_cpu_seconds_total") / seconds,
        memory_mb=_Grown(before, after, {}).now("process_resident_memory_bytes") / 1e6,
        drift=_drift(after, wanted),
    )


def quantile(share: float, buckets: Mapping[float, float]) -> float:
    """A quantile of a histogram, as PromQL's `histogram_quantile` computes it.

    Args:
        share: Between 0 and 1.
        buckets: Cumulative counts by upper bound, infinity among them.

    Returns:
        The value, linear within its bucket; the highest finite bound for what lies above it; NaN without counts.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return math.nan
    rank, low, below = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (rank - below) / max(buckets[bound] - below, 1e-12)
        low, below = bound, buckets[bound]
    return low


class _Grown:
    """How much the counters of matching series grew, and what matching gauges say now."""

    def __init__(self, before: Reading, after: Reading, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        self._after: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        self._growth: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        known, again, older = _instances(before), _restarted(before, after), _older_than(before.at, after)
        for (name, labels), value in after.series.items():
            instance = _instance(labels)
            earlier = 0.0 if instance in again else before.series.get((name, labels), 0.0)
            self._after[name].append((dict(labels), value))
            if instance not in known and instance in older:
                growth = 0.0  # it ran before, unseen: nobody knows how much of this is new
            else:
                # A counter that fell began again with a new process: all of it is new, as in PromQL's `increase`.
                growth = value - earlier if value >= earlier else value
            self._growth[name].append((dict(labels), growth))

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self._matching(self._growth[name], labels))

    def now(self, name: str) -> float:
        return sum(value for _, value in self._matching(self._after[name], {}))

    def buckets(self, name: str) -> dict[float, float]:
        each: dict[Labels, dict[float, float]] = defaultdict(dict)
        for labels, value in self._matching(self._growth[f"{name}_bucket"], {}):
            each[frozenset((k, v) for k, v in labels.items() if k != "le")][float(labels["le"])] = value
        bounds = sorted({bound for counts in each.values() for bound in counts})
        return {bound: sum(_count_below(bound, counts) for counts in each.values()) for bound in bounds}

    def _matching(
        self, series: Iterable[tuple[Mapping[str, str], float]], labels: Mapping[str, str]
    ) -> Iterable[tuple[Mapping[str, str], float]]:
        wanted = {**self._wanted, **labels}
        return [(own, value) for own, value in series if all(own.get(key) == want for key, want in wanted.items())]


def _count_below(bound: float, counts: Mapping[float, float]) -> float:
    """What a histogram counts up to a bound, also one that it does not have: versions may differ in their bounds."""
    if bound in counts:
        return counts[bound]
    ends = [(0.0, 0.0), *sorted((end, total) for end, total in counts.items() if not math.isinf(end))]
    for (low, below), (high, total) in pairwise(ends):
        if low < bound < high:
            return below + (total - below) * (bound - low) / (high - low)
    return ends[-1][1]


def _instance(labels: Labels) -> tuple[str, str]:
    """Which process a series is of: Prometheus says it, and a service's own page is of one only."""
    described = dict(labels)
    return described.get("job", ""), described.get("instance", "")


def _instances(reading: Reading) -> set[tuple[str, str]]:
    return {_instance(labels) for _, labels in reading.series}


def _starts(reading: Reading) -> dict[tuple[str, str], float]:
    return {_instance(labels): value for (name, labels), value in reading.series.items() if name == _STARTED}


def _restarted(before: Reading, after: Reading) -> set[tuple[str, str]]:
    earlier = _starts(before)
    return {
        instance for instance, start in _starts(after).items() if earlier.get(instance, start) < start - _SAME_START
    }


def _older_than(moment: float, reading: Reading) -> set[tuple[str, str]]:
    return {instance for instance, start in _starts(reading).items() if start < moment}


def _single(cumulative: Mapping[float, float]) -> dict[float, float]:
    counts, below = {}, 0.0
    for bound, total in cumulative.items():
        counts[bound] = total - below
        below = total
    return counts


def _drift(reading: Reading, wanted: Mapping[str, str]) -> dict[str, float]:
    def values(name: str) -> dict[Labels, float]:
        return {labels: value for (own, labels), value in reading.series.items() if own == name}

    references, deviations = values("workbench_input_reference_mean"), values("workbench_input_reference_deviation")
    found: dict[str, float] = {}
    for labels, mean in values("workbench_input_mean").items():
        described, deviation = dict(labels), deviations.get(labels, 0.0)
        if any(described.get(key) != want for key, want in wanted.items()):
            continue
        off = abs(mean - references.get(labels, math.nan)) / deviation if deviation else math.nan
        name = described["input"]
        # Of several instances the one that is furthest off counts.
        found[name] = max((found.get(name, math.nan), off), key=lambda each: -1.0 if math.isnan(each) else each)
    return found
