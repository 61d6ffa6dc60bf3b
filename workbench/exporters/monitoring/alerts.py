"""When somebody is called: each limit comes from the plan and carries the words that say from what."""

from __future__ import annotations

import math
from collections.abc import Callable

from workbench.exporters.monitoring.rules import DRIFT, FAILED, P99, QUEUE, RATE, REPLICA_RATE, Alert, Watch, seconds
from workbench.serving_measurements import Derived

_FEW_FAILURES = 3  # fewer in a window are strays, whatever their share
_FOR_A_P99 = 100  # fewer requests have no 99th percentile
_FOR_A_MEAN = 100  # fewer requests say little of their inputs' mean
_SHARE_OF_QUEUE = 0.5
_SHARE_OF_MEMORY = 0.9
_LARGE_SHIFT = 1.0  # deviations of the reference samples' means: a large effect, as statisticians call it
_CHANCE = 3.0  # standard errors: both means are estimates


def alerts(watch: Watch) -> tuple[Alert, ...]:
    """All alerts of a model."""
    kinds: tuple[Callable[[Watch], Alert], ...] = (_down, _failing, _slow, _over_plan, _queue, _memory)
    return tuple(kind(watch) for kind in (*kinds, *((_drift,) if watch.inputs else ())))


def p99_limit(watch: Watch) -> Derived:
    """The alert's latency in seconds; what a histogram shows ends at its last bound."""
    asked, last = watch.plan.alert_p99_ms, max(watch.plan.buckets_ms)
    if asked.value <= last:
        return Derived(_neat(asked.value / 1000), "s", asked.source, asked.measured)
    return Derived(
        _neat(last / 1000), "s", f"the last bound of the histogram; {asked.source} is beyond", asked.measured
    )


def queue_limit(watch: Watch) -> Derived:
    """The share of the queue above which requests wait long."""
    queue, workers = watch.plan.queue, watch.plan.processes
    source = f"half of the {queue_of_replica(watch):g} requests that are taken in: {queue.source}"
    if workers > 1:
        source += f"; {queue.value:g} in each of {workers} workers"
    return Derived(_SHARE_OF_QUEUE, "", source, queue.measured)


def queue_of_replica(watch: Watch) -> float:
    """Requests that all workers of a replica take in together, as its metrics count them."""
    return watch.plan.queue.value * watch.plan.processes


def memory_limit(watch: Watch) -> Derived:
    """Memory near which a container of the planned size is killed."""
    planned = watch.plan.memory_mb
    return Derived(
        _SHARE_OF_MEMORY * planned.value,
        "MB",
        f"{_SHARE_OF_MEMORY:g} × {planned.value:g} MB: {planned.source}",
        planned.measured,
    )


def drift_limit(watch: Watch) -> Derived:
    """Deviations of the reference samples' means, widened by the chance in a small reference."""
    samples = min(found.samples for found in watch.inputs)
    chance = _CHANCE * math.sqrt(1 / samples + 1 / _FOR_A_MEAN)
    source = (
        f"{_LARGE_SHIFT:g} for a large shift, and {_CHANCE:g} standard errors for the chance in {samples} samples and "
        f"{_FOR_A_MEAN} requests"
    )
    return Derived(_neat(_LARGE_SHIFT + chance), "deviations", source)


def _down(watch: Watch) -> Alert:
    return Alert(
        name="WorkbenchDown",
        expr=f'up{{job="{watch.model}"}} < 1',
        severity="critical",
        threshold=Derived(1, "", "a replica can be scraped or it cannot"),
        summary="{{ $labels.instance }} does not answer.",
        value="up is {{ $value }}",
        remedy="See whether the process runs, and what its log says last.",
    )


def _failing(watch: Watch) -> Alert:
    limit = watch.plan.alert_error_ratio
    failures = watch.series("workbench_requests_total", 'code="5xx"')
    count = f"sum by (model, version) (increase({failures}[{seconds(watch.window.value)}]))"
    return Alert(
        name="WorkbenchFailing",
        expr=f"{watch.series(FAILED)} > {limit.value:g} and {count} >= {_FEW_FAILURES}",
        severity="critical",
        threshold=limit,
        summary=f"{watch.model} version {{{{ $labels.version }}}} fails requests.",
        value="{{ $value | humanizePercentage }} of the requests failed",
        remedy="The server's log names the error; roll back if a version was just raised.",
    )


def _slow(watch: Watch) -> Alert:
    limit = p99_limit(watch)
    count = f"{watch.series(RATE)} * {watch.window.value:g}"
    return Alert(
        name="WorkbenchSlow",
        # Not only above: a histogram never shows more than its last bound.
        expr=f"{watch.series(P99)} >= {limit.value:g} and {count} >= {_FOR_A_P99}",
        severity="critical",
        threshold=limit,
        summary=f"{watch.model} version {{{{ $labels.version }}}} is slow.",
        value='the 99th percentile is {{ $value | printf "%.3g" }} s',
        remedy="Compare it with the time of the inference alone: if only requests are slow, they queue; add a replica.",
    )


def _over_plan(watch: Watch) -> Alert:
    limit = watch.plan.rate_per_replica
    return Alert(
        name="WorkbenchOverPlan",
        expr=f"{watch.series(REPLICA_RATE)} > {limit.value:g}",
        severity="warning",
        threshold=limit,
        summary=f"{{{{ $labels.instance }}}} gets more of {watch.model} than it is planned for.",
        value='{{ $value | printf "%.3g" }} queries/s',
        remedy="Add a replica.",
    )


def _queue(watch: Watch) -> Alert:
    limit = queue_limit(watch)
    return Alert(
        name="WorkbenchSaturated",
        expr=f"{watch.series(QUEUE)} > {limit.value:g}",
        severity="warning",
        threshold=limit,
        summary=f"Requests for {watch.model} pile up on {{{{ $labels.instance }}}}.",
        value="{{ $value | humanizePercentage }} of the queue is taken",
        remedy="Add a replica before requests are turned away with 503.",
    )


def _memory(watch: Watch) -> Alert:
    limit = memory_limit(watch)
    return Alert(
        name="WorkbenchMemory",
        expr=f'process_resident_memory_bytes{{job="{watch.model}"}} / 1e6 > {limit.value:g}',
        severity="warning",
        threshold=limit,
        summary="{{ $labels.instance }} takes more memory than it was measured to.",
        value='{{ $value | printf "%.0f" }} MB are in use',
        remedy="Look for larger requests than were measured; raise the limit or lower the queue.",
    )


def _drift(watch: Watch) -> Alert:
    limit = drift_limit(watch)
    count = f"{watch.series(RATE)} * {watch.window.value:g}"
    return Alert(
        name="WorkbenchInputDrift",
        expr=f"{watch.series(DRIFT)} > {limit.value:g} and on (model, version) {count} >= {_FOR_A_MEAN}",
        severity="warning",
        threshold=limit,
        summary=f"Input {{{{ $labels.input }}}} of {watch.model} is unlike the samples that the model was judged on.",
        value='its mean has moved by {{ $value | printf "%.3g" }} deviations',
        remedy="Label some of today's requests and measure the accuracy on them.",
    )


def _neat(value: float) -> float:
    return float(f"{value:.3g}")
