"""The monitoring package with real programs: promtool tests it, Prometheus and Alertmanager call a webhook."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.exporters.monitored import INPUT, PLAN, export_for
from tests.serving import made_up_service
from tests.serving.prometheus import (
    UNPACKED,
    Prometheus,
    Webhook,
    find_program,
    free_address,
    get_programs,
    running,
    watching,
    webhook,
)
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import export_package
from workbench.exporters.monitoring.rules import BATCH, DRIFT, FAILED, P99, QUEUE, RATE
from workbench.model import Model
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan

pytestmark = pytest.mark.serving

WITHIN = 60.0  # seconds in which an alert must be at the webhook
HEALTHY = {"rate": 100.0, "failed": 0.0, "late": 0.0, "queue": 0.05, "shift": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    get_programs()


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [find_program("promtool") or "promtool", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (PLAN, {}),
        (PLAN, {"interval_seconds": 1, "window_seconds": 5}),
        (replace(PLAN, rate_per_replica=Derived(0.5, "queries/s", "0.7 × 0.71 queries/s")), {}),
        (replace(PLAN, inputs=(), alert_p99_ms=Derived(900, "ms", "3 × slow")), {"webhook": "http://host/a?b=c&d=é"}),
        (replace(PLAN, alert_error_ratio=Derived(0.0005, "", "a small budget")), {"window_seconds": 60}),
        (replace(PLAN, inputs=(INPUT, replace(INPUT, name='a/b:0 "é\\\\"'))), {"target": "[::1]:8000"}),
        (replace(PLAN, workers=Derived(2, "workers", "x"), buckets_ms=(0.471, 0.667, 0.943, 5, 15.1, 30.2, 1000)), {}),
    ],
    ids=["usual", "close", "rare", "no inputs", "small budget", "two inputs", "two workers"],
)
def test_promtool_takes_the_files_and_its_tests_pass(
    tmp_path: Path, plan: ServingPlan, options: dict[str, Any]
) -> None:
    package = export_for(tmp_path / "package", plan, **options)
    folder = package / "prometheus"
    for words in (
        ("check", "config", folder / "prometheus.yml"),
        ("check", "rules", *sorted(folder.glob("rules/*.yml"))),
        ("test", "rules", folder / "tests.yml"),
    ):
        ended = promtool(*words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "SUCCESS" in ended.stdout
    checked = subprocess.run(
        [find_program("amtool") or "amtool", "check-config", package / "alertmanager" / "alertmanager.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_the_readmes_checks_work(tmp_path: Path, tiny: Model, tiny_data: Dataset) -> None:
    package = export_package(
        Candidate("as it is", build_engine(tiny)), "monitoring", sample=tiny_data, directory=tmp_path / "package"
    )
    path = f"{UNPACKED / 'usr' / 'bin'}:{os.environ['PATH']}"
    commands = re.findall(
        r"^    ((?:sha256sum|promtool|amtool) .*)$", (package.directory / "README.md").read_text(), re.M
    )
    assert len(commands) == 4
    for command in commands:
        words, environment = command.split(), {**os.environ, "PATH": path}
        ended = subprocess.run(words, cwd=package.directory, env=environment, capture_output=True, check=False)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)


BREAK: dict[str, Callable[[str], str]] = {
    "never": lambda expr: "vector(0) > 1",
    "always": lambda expr: "vector(1)",
    "without its guard": lambda expr: expr.partition(" and ")[0],
    "too high": lambda expr: limit_times(4, expr),
    "too low": lambda expr: limit_times(0.4, expr),
}


def limit_times(factor: float, expr: str) -> str:
    return re.sub(r"([<>]=? )([\d.]+)", lambda found: f"{found[1]}{float(found[2]) * factor:g}", expr, count=1)


@pytest.mark.parametrize("change", BREAK)
def test_the_packages_tests_notice_every_alert_that_is_broken(tmp_path: Path, change: str) -> None:
    package = export_for(tmp_path / "package", interval_seconds=1, window_seconds=5)
    file, tests = package / "prometheus" / "rules" / "alerts.yml", package / "prometheus" / "tests.yml"
    whole, tried = yaml.safe_load(file.read_text()), []
    for number, rule in enumerate(whole["groups"][0]["rules"]):
        broken = BREAK[change](rule["expr"])
        if broken != rule["expr"] and (rule["alert"], change) != ("WorkbenchDown", "too low"):  # 0 is below 0.4 too
            rules = copy.deepcopy(whole)
            rules["groups"][0]["rules"][number]["expr"] = broken
            file.write_text(yaml.safe_dump(rules))
            ended = promtool("test", "rules", tests)
            assert ended.returncode == 1, (rule["alert"], broken)
            assert rule["alert"] in ended.stdout + ended.stderr
            tried.append(rule["alert"])
    assert len(tried) >= (3 if change == "without its guard" else 6)


@dataclass
class Live:
    """A service that a test tells how to behave, and what watches it."""

    package: Path
    prometheus: Prometheus
    webhook: Webhook
    target: str

    def behave(self, **values: float) -> None:
        body = json.dumps({**HEALTHY, **values}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.target}/", body), timeout=60):
            pass


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    target, prometheus, alertmanager = free_address(), free_address(), free_address()
    folder = tmp_path_factory.mktemp("live")
    facts = {
        "model": "digits",
        "buckets": [bound / 1000 for bound in PLAN.buckets_ms],
        "queue": PLAN.queue.value,
        "inputs": {INPUT.name: (INPUT.mean, INPUT.sample_deviation)},
    }
    service = [sys.executable, Path(made_up_service.__file__), target.rpartition(":")[2], json.dumps(facts)]
    with ExitStack() as stack:
        receiver = stack.enter_context(webhook())
        package = export_for(
            folder / "package",
            target=target,
            webhook=receiver.url,
            prometheus=prometheus,
            alertmanager=alertmanager,
            interval_seconds=1,
            window_seconds=5,
        )
        stack.enter_context(running(service, f"http://{target}/metrics", folder / "service.log"))
        found = Live(
            package, stack.enter_context(watching(package, folder, prometheus, alertmanager)), receiver, target
        )
        found.behave()
        until(lambda: bool(found.prometheus.query("model_version:workbench_batch_size:mean > 0")))
        yield found


def until(holds: Callable[[], bool], seconds: float = WITHIN) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_every_expression_of_the_dashboard_returns_data(live: Live) -> None:
    board = json.loads((live.package / "grafana" / "dashboards" / "digits.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(asked) >= 15
    answers = {expression: live.prometheus.query(expression) for expression in asked}
    assert not [expression for expression, found in answers.items() if not found]
    assert not [
        expression for expression, found in answers.items() if "NaN" in {series["value"][1] for series in found}
    ]


def test_the_numbers_are_those_that_the_service_shows(live: Live) -> None:
    def value(expression: str) -> float:
        [series] = live.prometheus.query(expression)
        return float(series["value"][1])

    until(lambda: value(RATE) == pytest.approx(HEALTHY["rate"], rel=0.1))
    assert value(QUEUE) == pytest.approx(HEALTHY["queue"])
    assert value(FAILED) == 0
    assert value(P99) == pytest.approx(0.001 * 0.99)  # all in the first bucket
    assert value(BATCH) == pytest.approx(1)
    assert value(DRIFT) == pytest.approx(0, abs=1e-9)


def test_errors_and_slowness_call_the_webhook_and_are_over_again(live: Live) -> None:
    until(lambda: not live.prometheus.alerts())
    begun = time.monotonic()
    live.behave(failed=0.2, late=0.3)
    wanted = {("WorkbenchFailing", "firing"), ("WorkbenchSlow", "firing")}
    messages = live.webhook.wait(wanted, WITHIN)
    took = max(message.arrived for message in messages.values()) - begun
    assert took < WITHIN
    # On a machine that is too busy for a scrape in its second, that one rightly calls too.
    assert {name for name, _ in messages} - {"WorkbenchDown"} == {"WorkbenchFailing", "WorkbenchSlow"}
    assert "% of the requests failed; the limit is 0.01 (a usual" in messages["WorkbenchFailing", "firing"].description
    assert "is 0.0453 s; the limit is 0.015 s (3 × the" in messages["WorkbenchSlow", "firing"].description

    live.behave()
    over = {("WorkbenchFailing", "resolved"), ("WorkbenchSlow", "resolved")}
    messages = live.webhook.wait(over, WITHIN)
    print(
        f"at the webhook after {took:.1f} s, over {max(messages[o].arrived for o in over) - begun - took:.1f} s later"
    )
    assert live.prometheus.alerts() == {}


def test_the_other_alerts_call_the_webhook_too(live: Live) -> None:
    live.behave(rate=400, queue=0.9, shift=3)
    live.webhook.wait(
        {("WorkbenchOverPlan", "firing"), ("WorkbenchSaturated", "firing"), ("WorkbenchInputDrift", "firing")}, WITHIN
    )
