"""What a running service says of itself: its metrics read twice, and what happened between the two in numbers."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families

from workbench.errors import ServiceError

PREFIX = "workbench_"  # of the series that exported servers have
_LARGEST_PAGE = 16_000_000  # bytes of metrics that are read
_CODES = {"errors": "5xx", "refused": "4xx"}

Labels = frozenset[tuple[str, str]]
Source = Literal["service", "prometheus"]


@dataclass(frozen=True)
class Reading:
    """All series of a service at one moment.

    Attributes:
        at: When, in seconds since the epoch.
        series: Value by the series' name and labels.
    """

    at: float
    series: Mapping[tuple[str, Labels], float]

    def models(self) -> tuple[tuple[str, str], ...]:
        """Name and version of everything that is served, in order."""
        named = {(dict(labels).get("model", ""), dict(labels).get("version", "")) for _, labels in self.series}
        return tuple(sorted(pair for pair in named if pair[0]))


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


def find_source(url: str, *, key: str = "", timeout: float = 5.0) -> Source:
    """Tells whether an address is a service's own or that of a Prometheus which watches some.

    Raises:
        ServiceError: Nothing answers there, or neither of the two.
    """
    with contextlib.suppress(ServiceError):
        answer = json.loads(_get(f"{_base(url)}/api/v1/status/buildinfo", key, timeout))
        if isinstance(answer, dict) and answer.get("status") == "success":
            return "prometheus"
    if PREFIX.encode() in _get(f"{_base(url)}/metrics", key, timeout):
        return "service"
    raise ServiceError(
        f"{url} answers, but has none of the metrics that an exported server has ({PREFIX}…).",
        "Give the address of an exported server, or of a Prometheus.",
    )


def read_service(url: str, *, key: str = "", timeout: float = 5.0) -> Reading:
    """Reads `/metrics` of a service.

    Args:
        url: Its address, e.g. `http://127.0.0.1:8000`.
        key: Its API key, if it wants one.
        timeout: Longest wait, s.

    Raises:
        ServiceError: It does not answer, or answers something else.
    """
    page = _get(f"{_base(url)}/metrics", key, timeout)
    try:
        families = list(text_string_to_metric_families(page.decode()))
    except ValueError as error:
        raise ServiceError(f"{url}/metrics is no page of metrics ({error}).", "Check the address.") from None
    samples = (sample for family in families for sample in family.samples)
    return Reading(time.time(), {(s.name, frozenset(s.labels.items())): float(s.value) for s in samples})


def read_prometheus(url: str, *, selector: str = "", timeout: float = 5.0) -> Reading:
    """Reads the newest values of all series of exported servers from a Prometheus.

    Args:
        url: Its address, e.g. `http://127.0.0.1:9090`.
        selector: Further matchers, e.g. `job="digits"`.
        timeout: Longest wait, s.

    Raises:
        ServiceError: It does not answer, or knows no such series.
    """
    names = f'__name__=~"{PREFIX}.+|process_.+"'
    query = urllib.parse.urlencode({"query": f"{{{', '.join(filter(None, (names, selector)))}}}"})
    try:
        answer = json.loads(_get(f"{_base(url)}/api/v1/query?{query}", "", timeout))
        found = answer["data"]["result"]
        series = {
            (entry["metric"]["__name__"], frozenset((k, v) for k, v in entry["metric"].items() if k != "__name__")): (
                float(entry["value"][1])
            )
            for entry in found
        }
        at = max((float(entry["value"][0]) for entry in found), default=time.time())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise ServiceError(f"{url} does not answer as a Prometheus does.", "Check the address.") from None
    if not any(name.startswith(PREFIX) for name, _ in series):
        raise ServiceError(
            f"The Prometheus at {url} knows no exported server{f' with {selector}' if selector else ''}.",
            "Let it scrape one; the exporter `monitoring` writes its configuration.",
        )
    return Reading(at, series)


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
        for (name, labels), value in after.series.items():
            earlier = before.series.get((name, labels), 0.0)
            self._after[name].append((dict(labels), value))
            # A counter that fell began again with a new process: all of it is new, as in PromQL's `increase`.
            self._growth[name].append((dict(labels), value - earlier if value >= earlier else value))

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self._matching(self._growth[name], labels))

    def now(self, name: str) -> float:
        return sum(value for _, value in self._matching(self._after[name], {}))

    def buckets(self, name: str) -> dict[float, float]:
        counts: dict[float, float] = defaultdict(float)
        for labels, value in self._matching(self._growth[f"{name}_bucket"], {}):
            counts[float(labels["le"])] += value
        return dict(sorted(counts.items()))

    def _matching(
        self, series: Iterable[tuple[Mapping[str, str], float]], labels: Mapping[str, str]
    ) -> Iterable[tuple[Mapping[str, str], float]]:
        wanted = {**self._wanted, **labels}
        return [(own, value) for own, value in series if all(own.get(key) == want for key, want in wanted.items())]


def _single(cumulative: Mapping[float, float]) -> dict[float, float]:
    counts, below = {}, 0.0
    for bound, total in cumulative.items():
        counts[bound] = total - below
        below = total
    return counts


def _drift(reading: Reading, wanted: Mapping[str, str]) -> dict[str, float]:
    def values(name: str) -> dict[str, list[float]]:
        found = defaultdict(list)
        for (own, labels), value in reading.series.items():
            described = dict(labels)
            if own == name and all(described.get(key) == want for key, want in wanted.items()):
                found[described["input"]].append(value)
        return found

    means, references = values("workbench_input_mean"), values("workbench_input_reference_mean")
    deviations = values("workbench_input_reference_deviation")
    return {
        name: max(
            (
                abs(mean - reference) / deviation if deviation else math.nan
                for mean, reference, deviation in zip(means[name], references[name], deviations[name], strict=True)
            ),
            key=lambda off: -1.0 if math.isnan(off) else off,
        )
        for name in means
    }


def _base(url: str) -> str:
    trimmed = url.strip().rstrip("/")
    address = trimmed if "://" in trimmed else f"http://{trimmed}"
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceError(f"'{url}' is no address of a service.", "Write it like http://127.0.0.1:8000.")
    return address.removesuffix("/metrics")


def _get(url: str, key: str, timeout: float) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            page: bytes = answer.read(_LARGEST_PAGE + 1)
    except urllib.error.HTTPError as error:
        error.close()
        remedy = "Give the service's key." if error.code == 401 else "Check the address."
        raise ServiceError(f"{url} answers with status {error.code}.", remedy) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ServiceError(
            f"{url} does not answer ({reason}).", "Check that the service runs, and its address."
        ) from None
    if len(page) > _LARGEST_PAGE:
        raise ServiceError(f"{url} answers with more than {_LARGEST_PAGE // 10**6} MB.", "Check the address.")
    return page


Read = Callable[[], Reading]


def reader(url: str, *, key: str = "", selector: str = "", timeout: float = 5.0) -> Read:
    """What reads an address, whichever of the two it is.

    Raises:
        ServiceError: As `find_source`.
    """
    if find_source(url, key=key, timeout=timeout) == "prometheus":
        return lambda: read_prometheus(url, selector=selector, timeout=timeout)
    return lambda: read_service(url, key=key, timeout=timeout)
