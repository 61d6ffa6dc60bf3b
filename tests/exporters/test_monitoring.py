"""The monitoring package without Prometheus: all files can be read, every limit is the plan's, every metric ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.exporters.monitored import INPUT, PLAN, export_for
from workbench.errors import OptionsError
from workbench.exporters.monitoring.alerts import alerts
from workbench.exporters.monitoring.dashboard import GRAFANA, plots
from workbench.exporters.monitoring.rule_tests import promtool_tests, scenarios
from workbench.exporters.monitoring.rules import Watch, described, recordings
from workbench.serving_measurements import Derived

SERVER = Path(__file__).resolve().parents[2] / "workbench" / "exporters" / "server"
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "model", "severity"}}
OF_SCRAPING = {"job", "instance"}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SHOWN_BY_SERVER = """
import sys; sys.path.insert(0, sys.argv[1])
import msgspec
from board import Board
from config import ModelConfig
from metrics import ModelMetrics, render
model = {"name": "digits", "version": "1", "path": "m", "outputs": [], "provider": "p", "threads": 1,
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [1]}],
    "references": [{"name": "image", "mean": 0, "deviation": 1}]}
board = Board(1)
sys.stdout.buffer.write(render([ModelMetrics(msgspec.convert(model, ModelConfig), "0", ["http"], board)], board))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_for(tmp_path_factory.mktemp("monitoring") / "package", webhook="http://127.0.0.1:9099/alerts")


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """Metric → labels, as the server that we export shows them."""
    command = [sys.executable, "-c", SHOWN_BY_SERVER, str(SERVER)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(rf"^({NAME})(?:{{(.*)}})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(rf'({NAME})="', labels))
    return found


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules_of(package: Path) -> list[dict[str, Any]]:
    files = (package / "prometheus" / "rules").glob("*.yml")
    return [rule for file in files for group in read(file)["groups"] for rule in group["rules"]]


def panels_of(package: Path) -> list[dict[str, Any]]:
    board = json.loads((package / "grafana" / "dashboards" / "digits.json").read_text())
    found: list[dict[str, Any]] = board["panels"]
    return found


def expressions(package: Path) -> Iterator[str]:
    yield from (rule["expr"] for rule in rules_of(package))
    yield from (target["expr"] for panel in panels_of(package) for target in panel.get("targets", []))


def alert_of(package: Path, name: str) -> dict[str, Any]:
    return next(rule for rule in rules_of(package) if rule.get("alert") == name)


def watch(**changes: Any) -> Watch:
    window, hold = Derived(300, "s", "as chosen"), Derived(60, "s", "as chosen")
    return Watch("digits", replace(PLAN, **changes), 15, window, hold)


def test_every_file_can_be_read_and_says_what_it_is_for(package: Path) -> None:
    files = [path for path in package.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".yml":
            assert path.read_text().startswith("# "), path
            assert isinstance(read(path), dict), path
    assert {path.suffix for path in files} == {".yml", ".json", ".md"}
    assert len(rules_of(package)) == len(recordings(watch())) + len(alerts(watch()))
    assert "$" not in (package / "README.md").read_text()


def test_every_metric_is_one_of_the_servers_or_recorded(package: Path, served: dict[str, set[str]]) -> None:
    recorded = {rule["record"]: None for rule in rules_of(package) if "record" in rule}
    used = set()
    for expression in expressions(package):
        selectors = re.findall(rf"({NAME})\{{([^}}]*)\}}", expression)
        assert selectors, expression
        for name, labels in selectors:
            used.add(name)
            known = {**served, **OF_PROMETHEUS}.get(name)
            assert known is not None or name in recorded, f"{name} in {expression}"
            if known is not None:
                assert set(re.findall(rf'({NAME})="', labels)) <= known | OF_SCRAPING, expression
    unused = set(recorded) - used
    assert not unused
    asked = {"workbench_requests_total", "workbench_request_seconds_bucket", "workbench_input_mean", "up"}
    assert asked <= used


def test_every_label_that_is_summed_by_exists(package: Path, served: dict[str, set[str]]) -> None:
    for expression in expressions(package):
        labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        assert labels <= set.union(*served.values()) | OF_SCRAPING, expression


def test_every_alert_says_what_its_limit_was_derived_from(package: Path) -> None:
    text = (package / "prometheus" / "rules" / "alerts.yml").read_text()
    for alert in alerts(watch()):
        comment = re.search(rf"# limit: (.*)\n\s*- alert: {alert.name}\n", text)
        assert comment is not None
        assert comment[1] == described(alert.threshold)
        assert (
            f"the limit is {described(alert.threshold)}." in alert_of(package, alert.name)["annotations"]["description"]
        )
        assert f"{alert.threshold.source} |" in (package / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"alert_p99_ms": Derived(30, "ms", "x")}, "WorkbenchSlow", ">= 0.03 "),
        ({"alert_error_ratio": Derived(0.05, "", "x")}, "WorkbenchFailing", "> 0.05 "),
        ({"rate_per_replica": Derived(77, "queries/s", "x")}, "WorkbenchOverPlan", "> 77"),
        ({"memory_mb": Derived(1000, "MB", "x")}, "WorkbenchMemory", "> 900"),
        ({"inputs": (replace(INPUT, samples=100),)}, "WorkbenchInputDrift", "> 1.42 "),
        ({"inputs": (replace(INPUT, samples=4),)}, "WorkbenchInputDrift", "> 2.53 "),
    ],
)
def test_limits_follow_the_plan(tmp_path: Path, changes: dict[str, Any], name: str, words: str) -> None:
    package = export_for(tmp_path / "package", replace(PLAN, **changes))
    assert words in f"{alert_of(package, name)['expr']} "


def test_the_queue_is_that_of_all_workers() -> None:
    changes = {"workers": Derived(2, "workers", "x"), "queue": Derived(30, "requests", "1 s of 30 queries/s")}
    [alert] = [found for found in alerts(watch(**changes)) if found.name == "WorkbenchSaturated"]
    gauges = re.findall(r"'workbench_queue_limit{[^}]*}', 'values': '(\d+)\+", str(promtool_tests(watch(**changes))))

    assert alert.threshold.source.startswith("half of the 60 requests that are taken in: 1 s of 30 queries/s; 30 in")
    assert set(gauges) == {"60"}


def test_a_limit_beyond_the_histogram_is_its_last_bound() -> None:
    [alert] = [found for found in alerts(watch(alert_p99_ms=Derived(900, "ms", "3 × slow"))) if "Slow" in found.name]
    assert ">= 0.0453 " in alert.expr
    assert alert.threshold.source == "the last bound of the histogram; 3 × slow is beyond"


@pytest.mark.parametrize(
    ("rate", "options", "window", "hold"),
    [
        (280, {}, 300, 60),
        (0.5, {}, 2000, 400),
        (0.01, {}, 3600, 720),
        (280, {"interval_seconds": 1}, 20, 4),
        (280, {"interval_seconds": 1, "window_seconds": 5}, 5, 2),
    ],
)
def test_the_window_holds_enough_requests(
    tmp_path: Path, rate: float, options: dict[str, int], window: int, hold: int
) -> None:
    plan = replace(PLAN, rate_per_replica=Derived(rate, "queries/s", "0.7 × the knee"))
    package = export_for(tmp_path / "package", plan, **options)
    assert f"[{window}s]" in alert_of(package, "WorkbenchFailing")["expr"]
    assert {rule["for"] for rule in rules_of(package) if "alert" in rule} == {f"{hold}s"}
    scrape = read(package / "prometheus" / "prometheus.yml")["global"]
    interval = options.get("interval_seconds", 15)
    assert scrape["scrape_interval"] == scrape["evaluation_interval"] == f"{interval}s"
    assert int(scrape["scrape_timeout"].removesuffix("s")) <= interval


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "localhost"}, "target = 'localhost'.*host:port"),
        ({"target": "a:8000, b:8000"}, r"target = .*host:port"),
        ({"prometheus": "127.0.0.1:99999"}, "prometheus = .*host:port"),
        ({"webhook": "ftp://somewhere"}, "webhook = .*starts with http"),
        ({"webhook": "http://[::"}, "webhook = .*starts with http"),
        ({"webhook": "http://host/\n  evil: true"}, "webhook = .*starts with http"),
        ({"interval_seconds": 10, "window_seconds": 30}, "fewer than 4 looks.*at least 40 s"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        export_for(tmp_path / "package", **options)
    assert not list((tmp_path / "package").rglob("*.yml"))


def test_alerts_go_to_the_webhook(package: Path, tmp_path: Path) -> None:
    [receiver] = read(package / "alertmanager" / "alertmanager.yml")["receivers"]
    assert receiver["webhook_configs"] == [{"url": "http://127.0.0.1:9099/alerts", "send_resolved": True}]

    assert "alerts go to | 127.0.0.1 |" in (package / "README.md").read_text()

    silent = export_for(tmp_path / "silent")
    assert read(silent / "alertmanager" / "alertmanager.yml")["receivers"] == [{"name": "webhook"}]
    assert "alerts go to | nobody yet" in (silent / "README.md").read_text()


def test_a_key_is_read_from_a_file(package: Path, tmp_path: Path) -> None:
    def scraping(folder: Path) -> dict[str, Any]:
        [config] = read(folder / "prometheus" / "prometheus.yml")["scrape_configs"]
        return dict(config)

    assert "authorization" not in scraping(package)
    locked = scraping(export_for(tmp_path / "package", key_file="key"))
    assert locked["authorization"] == {"credentials_file": "key"}


@pytest.mark.parametrize("inputs", [(), (replace(INPUT, sample_deviation=0.0),)])
def test_inputs_whose_samples_are_alike_are_not_watched(tmp_path: Path, inputs: Any) -> None:
    package = export_for(tmp_path / "package", replace(PLAN, inputs=inputs))
    assert not [expression for expression in expressions(package) if "drift" in expression]
    assert len(rules_of(package)) == len(recordings(watch())) + len(alerts(watch())) - 2


def test_every_alert_is_tested_from_both_sides() -> None:
    cases = scenarios(watch())
    for alert in alerts(watch()):
        assert [case for case in cases if case.fires == {alert.name}], alert.name
    quiet = [case for case in cases if not case.fires]
    assert len(quiet) >= len(alerts(watch()))
    assert len({case.name for case in cases}) == len(cases)


def test_the_dashboard_shows_each_limit_where_the_alert_is(package: Path) -> None:
    limits = {alert.name: alert.threshold.value for alert in alerts(watch()) if alert.name != "WorkbenchDown"}
    drawn = {
        step["value"]
        for panel in panels_of(package)
        if panel["type"] == "timeseries"
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    }
    assert set(limits.values()) <= drawn
    for panel, plot in zip(panels_of(package), plots(watch()), strict=False):
        if plot.limit:
            assert plot.limit.source in panel["description"]
    assert "the knee of 7 measured rates" in panels_of(package)[-1]["options"]["content"]


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    guessed = Derived(750, "ms", "3 × the 99th percentile of 250 ms", measured=False)
    package = export_for(tmp_path / "package", replace(PLAN, alert_p99_ms=guessed, buckets_ms=(10, 100, 1000)))
    words = "0.75 s (3 × the 99th percentile of 250 ms), not measured"
    assert f"the limit is {words}." in alert_of(package, "WorkbenchSlow")["annotations"]["description"]
    assert f"# limit: {words}\n" in (package / "prometheus" / "rules" / "alerts.yml").read_text()
    assert "3 × the 99th percentile of 250 ms, not measured |" in (package / "README.md").read_text()
    assert [panel for panel in panels_of(package) if f"Limit: {words}." in panel.get("description", "")]


def test_the_dashboard_fits_its_grid(package: Path) -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    panels = panels_of(package)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert not [1 for one, other in combinations(panels, 2) if cells(one) & cells(other)]
    numbers = [panel["id"] for panel in panels if panel.get("targets")]
    assert len(set(numbers)) == len(numbers)
    assert all(target["refId"] for panel in panels for target in panel.get("targets", []))


def test_the_dashboard_asks_the_source_that_is_provisioned(package: Path) -> None:
    [source] = read(package / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    for panel in panels_of(package):
        for target in panel.get("targets", []):
            assert target["datasource"] == panel["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_what_compose_starts_fits_together(tmp_path: Path) -> None:
    addresses = {"prometheus": "127.0.0.1:9190", "alertmanager": "127.0.0.1:9193", "grafana": "127.0.0.1:3100"}
    package = export_for(tmp_path / "package", **addresses)
    compose = read(package / "compose.yml")
    for name in ("prometheus", "alertmanager"):
        service = compose["services"][name]
        assert f"--web.listen-address={addresses[name]}" in service["command"]
    grafana = compose["services"]["grafana"]
    assert grafana["image"] == f"grafana/grafana:{GRAFANA}"
    assert (grafana["environment"]["GF_SERVER_HTTP_ADDR"], grafana["environment"]["GF_SERVER_HTTP_PORT"]) == (
        "127.0.0.1",
        "3100",
    )
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
    for service in compose["services"].values():
        assert not service["image"].endswith("latest")
        assert service["read_only"]
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (package / source).is_dir() if source.startswith(".") else source in compose["volumes"]

    config = read(package / "prometheus" / "prometheus.yml")
    assert config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == [addresses["alertmanager"]]
    [source] = read(package / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == f"http://{addresses['prometheus']}"
    assert config["scrape_configs"][0]["job_name"] == "digits"
