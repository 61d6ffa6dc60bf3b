"""The numbers of a serving package, each derived from what was measured, with the words that say from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench import _serving_numbers as derive
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.input_ranges import InputRange, input_ranges
from workbench.serving_measurements import Derived, Measurements

_ERRORS = 0.01  # share of failed requests before somebody is called


@dataclass(frozen=True)
class ServingPlan:
    """Every number of a package.

    Attributes:
        threads: Threads inside one inference.
        instances: Live runners in one process.
        workers: Processes that answer side by side, each with the instances and threads of its own; None for a server
            that is not ours, which has none.
        max_batch: Most samples that are put together into one inference; 1 for none.
        batch_wait_ms: Longest time that a request waits for others.
        queue: Requests under way in one worker before others are turned away.
        request_seconds: Longest time for one request.
        capacity: Queries per second that one replica gets through.
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
    workers: Derived | None
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
    buckets_ms: tuple[float, ...] = derive.USUAL_BUCKETS_MS
    buckets_source: str = "not measured; usual ones"
    inputs: tuple[InputRange, ...] = field(default_factory=tuple)

    @property
    def numbers(self) -> Mapping[str, Derived]:
        """Every derived number by its name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Derived)}

    @property
    def processes(self) -> int:
        """How many answer side by side."""
        return int(self.workers.value) if self.workers else 1


def plan_serving(
    candidate: Candidate,
    measurements: Measurements | None = None,
    sample: Dataset | None = None,
    *,
    own_server: bool = True,
) -> ServingPlan:
    """Derives the numbers of a package.

    Args:
        candidate: What is served.
        measurements: What was measured of it; where something was not, a usual value is taken, and said to be one.
        sample: Samples whose distribution tells drift later.
        own_server: Whether this workbench's server is to answer, which can do so with several workers.
    """
    found = measurements or Measurements()
    threads, instances = derive.concurrency(candidate, found)
    workers = derive.workers(found.service)
    p50, p99 = derive.latencies(found)
    capacity = derive.capacity(found, instances)
    batch, wait = derive.batching(candidate, found)
    buckets, buckets_source = derive.buckets(p50, p99)
    return ServingPlan(
        threads=threads,
        instances=instances,
        workers=workers if own_server else None,
        max_batch=batch,
        batch_wait_ms=wait,
        queue=derive.queue(capacity, instances, workers),
        request_seconds=derive.request_seconds(p99),
        capacity=capacity,
        rate_per_replica=derive.rate_per_replica(capacity, found.service),
        p50_ms=p50,
        p99_ms=p99,
        alert_p99_ms=derive.alert_p99(p99, found.service),
        alert_error_ratio=Derived(_ERRORS, "", "a usual budget: one request in a hundred", measured=False),
        cpu_cores=derive.cores(threads, instances, workers, found.service),
        memory_mb=derive.memory(candidate, found),
        buckets_ms=buckets,
        buckets_source=buckets_source,
        inputs=input_ranges(sample) if sample is not None else (),
    )


def describe_plan(plan: ServingPlan) -> Sequence[tuple[str, str, str]]:
    """Rows of a table: name, value with unit, and what it was derived from."""
    rows = [(name.replace("_", " "), number.counted, number.source) for name, number in plan.numbers.items()]
    return [*rows, ("latency buckets", f"{len(plan.buckets_ms)} bounds", plan.buckets_source)]
