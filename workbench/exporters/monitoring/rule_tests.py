"""Unit tests of the rules, run by promtool: made-up services, and which alerts each of them must fire."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.exporters._server_parts import buckets_seconds
from workbench.exporters.monitoring.alerts import drift_limit, memory_limit, p99_limit, queue_limit, queue_of_replica
from workbench.exporters.monitoring.rules import Watch, seconds


@dataclass(frozen=True)
class Service:
    """What a made-up service shows.

    Attributes:
        rate: Queries per second.
        failed: Share of them that fail.
        late: Share of them that take longer than the first bound of the histogram.
        below_ms: Bound that the late ones stay below; that of nothing if infinite.
        queue: Share of the queue that is taken.
        memory: Memory in use, MB.
        shift: How far the mean of each input is from the reference, in its deviations.
        up: Whether it can be scraped.
        recovers: Whether failures and late answers end when the window is full.
    """

    rate: float
    failed: float = 0.0
    late: float = 0.0
    below_ms: float = math.inf
    queue: float = 0.0
    memory: float = 1.0
    shift: float = 0.0
    up: bool = True
    recovers: bool = False


@dataclass(frozen=True)
class Scenario:
    """A service, and the alerts that it must fire; no others may."""

    name: str
    service: Service
    fires: frozenset[str] = field(default_factory=frozenset)


def scenarios(watch: Watch) -> tuple[Scenario, ...]:
    """One that must stay quiet on each side of one that must not, for every alert."""
    plan, window = watch.plan, watch.window.value
    # Busy enough that a window holds what a percentile and a share take, even where that is above the plan.
    errors = plan.alert_error_ratio.value
    busy = max(0.8 * plan.rate_per_replica.value, 300 / window, 6 / (errors * window))
    crowded = frozenset({"WorkbenchOverPlan"})
    over = crowded if busy > plan.rate_per_replica.value else frozenset[str]()
    slow, memory, queue = p99_limit(watch).value, memory_limit(watch).value, queue_limit(watch).value
    within = max((bound for bound in plan.buckets_ms if bound < 1000 * slow), default=min(plan.buckets_ms))

    def case(name: str, *fires: str, **values: Any) -> Scenario:
        return Scenario(name, Service(**{"rate": busy, **values}), over | frozenset(fires))

    found = [
        case("as planned"),
        Scenario("no requests at all", Service(rate=0)),
        Scenario("more than planned", Service(rate=1.2 * max(busy, plan.rate_per_replica.value)), crowded),
        case("failing", "WorkbenchFailing", failed=min(1.0, 2 * errors)),
        case("failing within the budget", failed=0.5 * errors),
        Scenario("one stray failure in a quiet hour", Service(rate=10 / window, failed=0.1)),
        case("failing, then mended", failed=min(1.0, 2 * errors), recovers=True),
        case("slow", "WorkbenchSlow", late=0.05),
        case("slow for few", late=0.005),
        case("slower than measured, within the limit", late=1.0, below_ms=within),
        Scenario("slow, but too few requests to tell", Service(rate=20 / window, late=0.05)),
        case("slow, then mended", late=0.05, recovers=True),
        case("queueing", "WorkbenchSaturated", queue=1.5 * queue),
        case("queueing a little", queue=0.5 * queue),
        case("short of memory", "WorkbenchMemory", memory=1.05 * memory),
        case("within its memory", memory=0.95 * memory),
        Scenario("down", Service(rate=0, up=False), frozenset({"WorkbenchDown"})),
    ]  # fmt: skip
    if watch.inputs:
        limit = drift_limit(watch).value
        found += [
            case("unlike inputs", "WorkbenchInputDrift", shift=1.5 * limit),
            case("unlike inputs the other way", "WorkbenchInputDrift", shift=-1.5 * limit),
            case("usual inputs", shift=0.5 * limit),
            Scenario("unlike inputs, but too few requests to tell", Service(rate=20 / window, shift=1.5 * limit)),
        ]
    return tuple(found)


def promtool_tests(watch: Watch) -> Mapping[str, Any]:
    """What `promtool test rules` reads."""
    return {
        "rule_files": ["rules/*.yml"],
        "evaluation_interval": seconds(watch.interval),
        "tests": [_test(watch, scenario) for scenario in scenarios(watch)],
    }


def _test(watch: Watch, scenario: Scenario) -> Mapping[str, Any]:
    bad = math.ceil((watch.window.value + watch.hold.value) / watch.interval) + 3
    good = bad if scenario.service.recovers else 0
    return {
        "name": scenario.name,
        "interval": seconds(watch.interval),
        "input_series": _series(watch, scenario.service, bad, good),
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": seconds((bad + good) * watch.interval),
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": _count(watch, name)}
                    for name in sorted(scenario.fires)
                ],
            }
        ],
    }


def _count(watch: Watch, alert: str) -> int:
    """The drift of each input is an alert of its own."""
    return len(watch.inputs) if alert == "WorkbenchInputDrift" else 1


def _series(watch: Watch, service: Service, bad: int, good: int) -> list[Mapping[str, str]]:
    found: list[Mapping[str, str]] = []

    def add(metric: str, values: str, **labels: str) -> None:
        labels = {"job": watch.model, "instance": "a", **labels}
        words = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
        found.append({"series": f"{metric}{{{words}}}", "values": values})

    def counter(metric: str, rate: float, later: float, **labels: str) -> None:
        step, then = rate * watch.interval, later * watch.interval
        values = f"0+{step:.9g}x{bad}"
        if good:
            values += f" {step * bad + then:.9g}+{then:.9g}x{good}"
        add(metric, values, model=watch.model, version="1", **labels)

    def gauge(metric: str, value: float, **labels: str) -> None:
        add(metric, f"{value:.9g}+0x{bad + good}", **labels)

    gauge("up", float(service.up))
    if not service.up:
        return found
    served = {"model": watch.model, "version": "1"}
    rate, failed, late = service.rate, service.rate * service.failed, service.rate * service.late
    counter("workbench_requests_total", rate - failed, rate, protocol="http", code="2xx")
    counter("workbench_requests_total", 0, 0, protocol="http", code="4xx")
    counter("workbench_requests_total", failed, 0, protocol="http", code="5xx")
    bounds = buckets_seconds(watch.plan)
    above = {bound for bound, ms in zip(bounds, watch.plan.buckets_ms, strict=True) if ms >= service.below_ms}
    for bound in sorted({min(bounds), *above, max(bounds)}):
        done = rate if bound in above else rate - late
        counter("workbench_request_seconds_bucket", done, rate, le=str(bound))  # as the server writes it
    counter("workbench_request_seconds_bucket", rate, rate, le="+Inf")
    limit = queue_of_replica(watch)
    gauge("workbench_queue_limit", limit, **served)
    gauge("workbench_in_flight", service.queue * limit, **served)
    gauge("process_resident_memory_bytes", service.memory * 1e6)
    for known in watch.inputs:
        gauge("workbench_input_mean", known.mean + service.shift * known.sample_deviation, input=known.name, **served)
        gauge("workbench_input_reference_mean", known.mean, input=known.name, **served)
        gauge("workbench_input_reference_deviation", known.sample_deviation, input=known.name, **served)
    return found
