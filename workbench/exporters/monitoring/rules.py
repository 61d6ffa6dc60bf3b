"""The rules of Prometheus as data, what of a service they watch, and the series that alerts and dashboard share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workbench.input_ranges import InputRange
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan

RATE = "model_version:workbench_requests:rate"
CODES = "model_version_code:workbench_requests:rate"
FAILED = "model_version:workbench_failed:ratio"
P50 = "model_version:workbench_request_seconds:p50"
P99 = "model_version:workbench_request_seconds:p99"
INFERENCE_P99 = "model_version:workbench_inference_seconds:p99"
BATCH = "model_version:workbench_batch_size:mean"
REPLICA_RATE = "instance:workbench_requests:rate"
QUEUE = "instance:workbench_queue:ratio"
DRIFT = "model_version_input:workbench_input_drift:deviations"


@dataclass(frozen=True)
class Watch:
    """What the rules watch, and how closely.

    Attributes:
        model: Name of the served model; the scrape job has the same.
        plan: Every number of the service.
        interval: Seconds between two scrapes, and between two evaluations.
        window: Seconds over which rates and percentiles are taken.
        hold: Seconds for which a breach must stand.
    """

    model: str
    plan: ServingPlan
    interval: int
    window: Derived
    hold: Derived

    @property
    def inputs(self) -> tuple[InputRange, ...]:
        """Inputs whose drift can be told: the means of their samples differ."""
        return tuple(found for found in self.plan.inputs if found.sample_deviation > 0)

    def series(self, metric: str, *more: str) -> str:
        """The selector of one of the server's metrics for this model."""
        labels = ", ".join((f'model="{self.model}"', *more))
        return f"{metric}{{{labels}}}"

    def rate(self, metric: str, by: str, *more: str) -> str:
        """A counter's rate over the window, summed by some labels."""
        return f"sum by ({by}) (rate({self.series(metric, *more)}[{seconds(self.window.value)}]))"


@dataclass(frozen=True)
class Recording:
    """A series that Prometheus computes at every evaluation."""

    name: str
    expr: str
    meaning: str


@dataclass(frozen=True)
class Alert:
    """A condition under which somebody is called.

    Attributes:
        name: Its name.
        expr: When it holds.
        severity: `critical`: requests fail or are late now; `warning`: they will.
        threshold: The number in `expr`, and what it was derived from.
        summary: What happened, for the message.
        value: How the message shows the measured value; a template of Prometheus.
        remedy: What to do.
    """

    name: str
    expr: str
    severity: str
    threshold: Derived
    summary: str
    value: str
    remedy: str


def seconds(value: float) -> str:
    """A duration as Prometheus reads it."""
    return f"{math.ceil(value)}s"


def described(number: Derived) -> str:
    """A number, what it was derived from, and whether that was measured."""
    return f"{number}{'' if number.measured else ', not measured'}"


def recordings(watch: Watch) -> tuple[Recording, ...]:
    """The series that alerts and dashboard share."""
    by = "model, version"
    requests, failures = "workbench_requests_total", 'code="5xx"'
    window = seconds(watch.window.value)

    def quantile(share: float, metric: str) -> str:
        return f"histogram_quantile({share}, {watch.rate(f'{metric}_bucket', f'{by}, le')})"

    sizes = watch.rate("workbench_batch_size_sum", by)
    queued = f"avg_over_time({watch.series('workbench_in_flight')}[{window}])"
    rules = [
        Recording(RATE, watch.rate(requests, by), "queries per second"),
        Recording(CODES, watch.rate(requests, f"{by}, code"), "the same by the kind of answer"),
        Recording(
            FAILED,
            f"{watch.rate(requests, by, failures)} / ({watch.rate(requests, by)} > 0)",
            "share of requests that the server failed; what callers did wrong (4xx) is not its failure",
        ),
        Recording(P50, quantile(0.5, "workbench_request_seconds"), "median latency, s"),
        Recording(P99, quantile(0.99, "workbench_request_seconds"), "99th percentile of the latency, s"),
        Recording(INFERENCE_P99, quantile(0.99, "workbench_inference_seconds"), "the same of the model alone, s"),
        Recording(BATCH, f"{sizes} / ({watch.rate('workbench_batch_size_count', by)} > 0)", "samples per inference"),
        Recording(REPLICA_RATE, watch.rate(requests, "instance, model"), "queries per second of one replica"),
        Recording(
            QUEUE,
            f"sum by (instance, {by}) ({queued}) / sum by (instance, {by}) ({watch.series('workbench_queue_limit')})",
            "requests under way, as a share of the most that are taken in",
        ),
    ]
    if watch.inputs:
        by = f"{by}, input"
        means = watch.series("workbench_input_mean")
        # NaN until there was a request, and NaN does not equal itself; the server smooths it over 200 requests already.
        mean = f"avg by ({by}) ({means} == {means})"
        expected = f"avg by ({by}) ({watch.series('workbench_input_reference_mean')})"
        spread = f"(avg by ({by}) ({watch.series('workbench_input_reference_deviation')}) > 0)"
        rules.append(
            Recording(
                DRIFT,
                f"abs({mean} - {expected}) / {spread}",
                "how far the mean of an input has moved, in standard deviations of the reference samples' means",
            )
        )
    return tuple(rules)


def rule_file(watch: Watch, kind: str, rules: Iterable[Recording | Alert]) -> str:
    """The text of a rule file; what a threshold was derived from stands in a comment and in the message."""
    import yaml

    lines = [
        f"# Rates and percentiles are taken over {watch.window}.",
        *([f"# An alert stands when it has held for {watch.hold}."] if kind == "alerts" else []),
        "groups:",
        f"  - name: {watch.model}-{kind}",
        f"    interval: {seconds(watch.interval)}",
        "    rules:",
    ]
    for rule in rules:
        comment, entry = _entry(watch, rule)
        text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=10_000)
        lines += [textwrap.indent(f"# {comment}\n{text}", " " * 6)]
    return "\n".join(lines)


def _entry(watch: Watch, rule: Recording | Alert) -> tuple[str, dict[str, Any]]:
    if isinstance(rule, Recording):
        return rule.meaning, {"record": rule.name, "expr": rule.expr}
    derived = described(rule.threshold)
    return f"limit: {derived}", {
        "alert": rule.name,
        "expr": rule.expr,
        "for": seconds(watch.hold.value),
        "labels": {"severity": rule.severity, "model": watch.model},
        "annotations": {
            "summary": rule.summary,
            "description": f"{rule.value[:1].upper()}{rule.value[1:]}; the limit is {derived}. {rule.remedy}",
        },
    }
