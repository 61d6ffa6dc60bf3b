"""The Grafana dashboard: what the alerts look at, with their limits drawn in and what these were derived from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.exporters.monitoring import alerts, rules
from workbench.exporters.monitoring.rules import Watch
from workbench.serving_measurements import Derived
from workbench.serving_plan import describe_plan

GRAFANA = "11.6.0"  # the version whose schema the pinned SDK writes
_SOURCE = "workbench-prometheus"  # as in the provisioned data source
_WIDTH = 24  # of Grafana's grid


@dataclass(frozen=True)
class Plot:
    """One panel.

    Attributes:
        title: Its title.
        queries: Legend → PromQL.
        meaning: What it shows.
        unit: Grafana's name of the unit.
        limit: Where the alert is, drawn as a line.
        single: Whether only the last value is shown, as a number.
        width: In columns of 24.
        height: In rows of 30 pixels.
    """

    title: str
    queries: Mapping[str, str]
    meaning: str
    unit: str = "short"
    limit: Derived | None = None
    single: bool = False
    width: int = 12
    height: int = 8


def plots(watch: Watch) -> tuple[Plot, ...]:
    """What the dashboard shows, in reading order."""
    plan, name, job = watch.plan, watch.model, f'job="{watch.model}"'
    rate, failed, p99 = watch.series(rules.RATE), watch.series(rules.FAILED), watch.series(rules.P99)
    slow, full, memory = alerts.p99_limit(watch), alerts.queue_limit(watch), alerts.memory_limit(watch)
    firing = f'count(ALERTS{{model="{name}", alertstate="firing"}}) or vector(0)'
    heads = [
        Plot("Replicas up", {"up": f"sum(up{{{job}}})"}, "How many answer."),
        Plot(
            "Alerts that fire", {"firing": firing}, "Alerts of this model.", limit=Derived(1, "", "any", measured=False)
        ),
        Plot("Queries per second", {"queries": f"sum({rate})"}, "All versions and replicas.", "reqps"),
        Plot("Failed", {"failed": f"max({failed})"}, "5xx, the worst version.", "percentunit", plan.alert_error_ratio),
        Plot("99th percentile", {"p99": f"max({p99})"}, "Latency of the worst version.", "s", slow),
        Plot("Queue", {"queue": f"max({watch.series(rules.QUEUE)})"}, "The fullest one.", "percentunit", full),
    ]
    found = [
        *(Plot(p.title, p.queries, p.meaning, p.unit, p.limit, True, _WIDTH // len(heads), 4) for p in heads),
        Plot(
            "Queries per second of a replica",
            {"{{instance}}": watch.series(rules.REPLICA_RATE)},
            f"Planned: {plan.rate_per_replica}; the knee: {plan.capacity}.",
            "reqps",
            plan.rate_per_replica,
        ),
        Plot("Answers by kind", {"{{version}}: {{code}}": watch.series(rules.CODES)}, "4xx are the caller's.", "reqps"),
        Plot(
            "Latency",
            {
                "p50, version {{version}}": watch.series(rules.P50),
                "p99, version {{version}}": p99,
                "p99 of the inference alone, version {{version}}": watch.series(rules.INFERENCE_P99),
            },
            f"Measured: p50 {plan.p50_ms}, p99 {plan.p99_ms}.",
            "s",
            slow,
        ),
        Plot("Failed requests", {"version {{version}}": failed}, "5xx.", "percentunit", plan.alert_error_ratio),
        Plot("Queue", {"{{instance}}": watch.series(rules.QUEUE)}, "Share that is taken.", "percentunit", full),
        Plot(
            "Samples per inference",
            {"version {{version}}": watch.series(rules.BATCH)},
            f"At most {plan.max_batch}; requests wait {plan.batch_wait_ms} for others.",
        ),
    ]
    if watch.inputs:
        drift = alerts.drift_limit(watch)
        found.append(
            Plot(
                "Drift of the inputs",
                {"{{input}}, version {{version}}": watch.series(rules.DRIFT)},
                "How far the means have moved from those of the samples that the model was judged on, in deviations.",
                limit=drift,
            )
        )
    window = rules.seconds(watch.window.value)
    busy = {"{{instance}}": f"rate(process_cpu_seconds_total{{{job}}}[{window}])"}
    resident = {"{{instance}}": f"process_resident_memory_bytes{{{job}}} / 1e6"}
    return (
        *found,
        Plot("Cores in use", busy, f"Planned: {plan.cpu_cores}."),
        Plot("Memory", resident, f"Planned: {plan.memory_mb}.", "decmbytes", memory),
    )


def dashboard(watch: Watch) -> str:
    """The dashboard as Grafana's provisioning reads it: JSON."""
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.builders import text
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    board = (
        build.Dashboard(f"Serving {watch.model}")
        .uid(f"workbench-{watch.model}"[:40])
        .tags(["workbench"])
        .refresh(rules.seconds(max(5, watch.interval)))
        .time(f"now-{rules.seconds(12 * watch.window.value)}", "now")
        .readonly()
    )
    for number, plot in enumerate(plots(watch), 1):
        board = board.with_panel(_panel(plot, number))
    rows = [" | ".join(row) for row in describe_plan(watch.plan)]
    table = "\n".join(("number | value | derived from", "--- | --- | ---", *rows))
    board = board.with_row(build.Row("What the limits rest on"))
    board = board.with_panel(text.Panel().content(table).span(_WIDTH).height(12))
    written: str = JSONEncoder(sort_keys=True, indent=2).encode(board.build())
    return f"{written}\n"


def _panel(plot: Plot, number: int) -> Any:
    from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
    from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
    from grafana_foundation_sdk.models.common import GraphThresholdsStyleMode
    from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold

    source = DataSourceRef(type_val="prometheus", uid=_SOURCE)
    panel = stat.Panel() if plot.single else timeseries.Panel()
    limits = [Threshold(None, "green"), *([Threshold(plot.limit.value, "red")] if plot.limit else [])]
    panel = (
        panel.id(number)
        .title(plot.title)
        .description(f"{plot.meaning} Limit: {rules.described(plot.limit)}." if plot.limit else plot.meaning)
        .unit(plot.unit)
        .min(0)
        .span(plot.width)
        .height(plot.height)
        .datasource(source)
        .thresholds(ThresholdsConfig().steps(limits))
    )
    if plot.limit and not plot.single:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    for letter, (legend, expression) in zip("ABCDEF", plot.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).datasource(source).expr(expression).legend_format(legend)
        panel = panel.with_target(query.instant() if plot.single else query.range())
    return panel
