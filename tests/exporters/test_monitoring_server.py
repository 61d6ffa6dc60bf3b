"""Our own server under real load, watched by the monitoring package with real Prometheus and Alertmanager."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.exporters.monitored import PLAN, export_for
from tests.exporters.serving import INFER, Server, X, serving, with_model, write_model, write_package
from tests.serving.prometheus import Prometheus, Webhook, free_address, get_programs, watching, webhook
from workbench.exporters.monitoring.rules import FAILED, P50, RATE
from workbench.input_ranges import InputRange
from workbench.serving_measurements import Derived

pytestmark = pytest.mark.serving

WITHIN = 60.0  # seconds in which an alert must be at the webhook
SLOW_SECONDS = 0.3  # of processor time; above the limit, and short enough to be more than one request in a hundred
QUEUE, INSTANCES = 4, 3
BUSY = {"WorkbenchDown"}  # rightly called where the machine is too busy for a scrape in its second
X_RANGE = InputRange("x", mean=0.25, deviation=0.5, sample_deviation=0.5, low=-1, high=1, samples=100)
USUAL = replace(
    PLAN,
    queue=Derived(QUEUE, "requests", "small, to be overrun"),
    buckets_ms=(1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500),
    alert_p99_ms=Derived(250, "ms", "what the usual requests stay below on a busy machine too"),
    inputs=(X_RANGE,),
)


@dataclass
class Load:
    """Callers that ask in closed loops; how many do can be changed while they do.

    Attributes:
        port: The server's.
        slow_steps: How much work a slow request is.
        fast: How many ask for little, about 70 times a second each.
        slow: How many ask for much, one request after the other.
        answers: How often each status came.
        over: Tells them to stop.
    """

    port: int
    slow_steps: int
    fast: int = 1
    slow: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    over: bool = False

    def call(self, number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            while not self.over:
                if number < self.fast + self.slow:
                    connection.request("POST", INFER, request(1 if number < self.fast else self.slow_steps))
                    response = connection.getresponse()
                    response.read()
                    self.answers[response.status] += 1
                time.sleep(0.01)


def request(steps: int) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": list(X.shape), "data": X.ravel().tolist()}
    return json.dumps({"inputs": [x, {"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}]}).encode()


@dataclass
class Live:
    server: Server
    load: Load
    callers: list[threading.Thread]
    prometheus: Prometheus
    webhook: Webhook
    package: Path


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, steps_per_second: float) -> Iterator[Live]:
    get_programs()
    folder = tmp_path_factory.mktemp("live")
    server_package = write_package(folder / "server", with_model(queue=QUEUE, instances=INSTANCES, request_seconds=60))
    write_model(server_package / "model.onnx")
    with ExitStack() as stack:
        server = stack.enter_context(serving(server_package))
        receiver = stack.enter_context(webhook())
        prometheus, alertmanager = free_address(), free_address()
        package = export_for(
            folder / "package",
            USUAL,
            "looper",
            target=f"127.0.0.1:{server.port}",
            webhook=receiver.url,
            prometheus=prometheus,
            alertmanager=alertmanager,
            interval_seconds=1,
            window_seconds=15,  # on a busy machine too, with requests enough for a 99th percentile
        )
        load = Load(server.port, int(SLOW_SECONDS * steps_per_second))
        threads = [threading.Thread(target=load.call, args=(number,)) for number in range(3 * QUEUE)]
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(lambda: setattr(load, "over", True))
        for thread in threads:
            thread.start()
        watched = stack.enter_context(watching(package, folder, prometheus, alertmanager))
        yield Live(server, load, threads, watched, receiver, package)


def test_every_expression_of_the_dashboard_returns_data(live: Live) -> None:
    board = json.loads((live.package / "grafana" / "dashboards" / "looper.json").read_text())
    asked = {target["expr"] for panel in board["panels"] for target in panel.get("targets", [])}
    end = time.monotonic() + WITHIN
    while missing := [expression for expression in asked if not live.prometheus.query(expression)]:
        assert time.monotonic() < end, missing
        time.sleep(0.5)


def test_a_busy_healthy_server_calls_nobody(live: Live) -> None:
    for _ in range(4):  # on a busy machine the rate of one window and of the next can differ
        before, began = live.load.answers[200], time.monotonic()
        time.sleep(16)
        counted = (live.load.answers[200] - before) / (time.monotonic() - began)
        [rate], [p50], [failed] = map(live.prometheus.query, (RATE, P50, FAILED))
        if float(rate["value"][1]) == pytest.approx(counted, rel=0.3):
            break
    else:
        pytest.fail(f"{rate['value'][1]} a second where {counted} were counted")
    assert {message.name for message in live.webhook.messages} <= BUSY
    assert set(live.load.answers) == {200}
    assert 0 < float(p50["value"][1]) < 0.25
    assert float(failed["value"][1]) == 0


@pytest.mark.parametrize(("alert", "slow"), [("WorkbenchSlow", INSTANCES - 1), ("WorkbenchFailing", 2 * QUEUE)])
def test_what_is_wrong_calls_the_webhook_and_is_over_again(live: Live, alert: str, slow: int) -> None:
    """Slow requests leave an instance to the quick ones, or they fill the queue."""
    begun = time.monotonic()
    live.load.slow = slow
    fired = live.webhook.wait({(alert, "firing")}, WITHIN)[alert, "firing"].arrived - begun
    live.load.slow = 0
    over = live.webhook.wait({(alert, "resolved")}, WITHIN)[alert, "resolved"].arrived - begun
    print(f"{alert}: at the webhook after {fired:.1f} s, over after {over:.1f} s; answers {dict(live.load.answers)}")
    assert set(live.load.answers) == ({200} if alert == "WorkbenchSlow" else {200, 503})


def test_a_dead_server_calls_the_webhook(live: Live) -> None:
    live.load.over = True
    for caller in live.callers:
        caller.join(60)
    begun = time.monotonic()
    live.server.process.kill()
    message = live.webhook.wait({("WorkbenchDown", "firing")}, WITHIN)["WorkbenchDown", "firing"]
    print(f"WorkbenchDown: at the webhook after {message.arrived - begun:.1f} s")
