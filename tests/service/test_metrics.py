"""What is read of a service, and what happened between two readings: counted exactly, and errors in words."""

from __future__ import annotations

import http.server
import json
import math
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.serving.prometheus import free_address
from workbench.errors import ServiceError
from workbench.service.metrics import (
    Labels,
    Reading,
    between,
    find_source,
    quantile,
    read_prometheus,
    read_service,
    reader,
)

Answer = Callable[[str, Mapping[str, str]], tuple[int, str]]
PAGE = """# TYPE workbench_requests_total counter
workbench_requests_total{model="digits",version="1",protocol="http",code="2xx"} %d
workbench_in_flight{model="digits",version="1"} 3
workbench_queue_limit{model="digits",version="1"} 20
process_resident_memory_bytes 5e7
"""


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """An HTTP server of the test's own; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer(self.path, self.headers)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", text)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def reading(at: float, *series: tuple[str, Mapping[str, str], float]) -> Reading:
    return Reading(at, {(name, frozenset(labels.items())): value for name, labels, value in series})


def counted(value: float, model: str = "digits", **labels: str) -> tuple[str, dict[str, str], float]:
    return "workbench_requests_total", {"model": model, "version": "1", "code": "2xx", **labels}, value


def started(at: float, **labels: str) -> tuple[str, dict[str, str], float]:
    return "process_start_time_seconds", labels, at


def histogram(counts: Mapping[str, float], **labels: str) -> list[tuple[str, dict[str, str], float]]:
    described = {"model": "digits", "version": "1", **labels}
    return [("workbench_request_seconds_bucket", {**described, "le": le}, value) for le, value in counts.items()]


def test_requests_are_told_apart_by_what_became_of_them() -> None:
    before = reading(100, counted(10), counted(1, code="4xx"), counted(0, code="5xx"), counted(5, "other"))
    after = reading(104, counted(30), counted(3, code="4xx"), counted(8, code="5xx"), counted(9, "other"))

    both, one = between(before, after), between(before, after, "digits", "1")
    assert (both.requests, one.requests, one.refused, one.errors) == (34, 30, 2, 8)
    assert one.queries_per_second == 7.5
    assert one.error_ratio == 8 / 30
    assert after.models() == (("digits", "1"), ("other", "1"))
    assert between(before, after, "digits", "2").requests == 0


def test_a_quantile_is_linear_in_its_bucket_as_in_promql() -> None:
    buckets = {0.001: 10.0, 0.002: 60.0, 0.004: 100.0, math.inf: 101.0}
    assert quantile(0.5, buckets) == pytest.approx(0.001 + 0.001 * (50.5 - 10) / 50)
    assert quantile(0.999, buckets) == 0.004  # beyond the last bound nothing more is known
    assert math.isnan(quantile(0.5, {math.inf: 0.0}))
    assert math.isnan(quantile(0.5, {}))


def test_versions_with_other_buckets_are_put_together() -> None:
    """A canary has buckets of its own: counts of different bounds cannot be added as they are."""
    nothing = [
        *histogram({"0.001": 0, "0.004": 0, "+Inf": 0}, version="1"),
        *histogram({"0.002": 0, "+Inf": 0}, version="2"),
    ]
    some = [
        *histogram({"0.001": 0, "0.004": 90, "+Inf": 90}, version="1"),
        *histogram({"0.002": 30, "+Inf": 30}, version="2"),
    ]
    found = between(reading(0, *nothing), reading(1, *some))
    # Up to 2 ms: all 30 of the one, and a third of the 90 of the other.
    assert found.p50_ms == pytest.approx(2.0)


def test_a_restart_begins_from_zero_even_if_it_counts_beyond() -> None:
    before, after = reading(100, counted(10), started(50)), reading(160, counted(15), started(130))
    assert between(before, after).requests == 15
    assert between(before, reading(160, counted(15), started(50))).requests == 5
    assert between(before, reading(160, counted(4))).requests == 4  # a counter never falls otherwise


def test_an_instance_that_comes_back_into_sight_is_no_burst() -> None:
    seen = counted(100, instance="a")
    old, new = started(50, instance="b"), started(155, instance="b")
    back = counted(1000, instance="b")
    assert between(reading(150, seen), reading(160, seen, back, old)).requests == 0
    assert between(reading(150, seen), reading(160, seen, back, new)).requests == 1000


def test_drift_is_that_of_the_instance_that_is_furthest_off() -> None:
    def means(instance: str, mean: float) -> list[tuple[str, dict[str, str], float]]:
        labels = {"model": "digits", "version": "1", "input": "image", "instance": instance}
        values = {"mean": mean, "reference_mean": 0.5, "reference_deviation": 0.1}
        return [(f"workbench_input_{name}", labels, value) for name, value in values.items()]

    found = between(reading(0), reading(1, *means("a", math.nan), *means("b", 0.8), *means("c", 0.55)))
    assert found.drift == {"image": pytest.approx(3.0)}
    assert math.isnan(between(reading(0), reading(1, *means("a", math.nan))).drift["image"])


def test_a_page_of_metrics_is_read_with_the_key() -> None:
    keys: list[str | None] = []

    def answer(path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        keys.append(headers.get("Authorization"))
        return (200, PAGE % 7) if path == "/metrics" else (404, "")

    with answering(answer) as url:
        assert find_source(url) == "service"
        first = read_service(f"{url}/metrics/", key="secret")
    assert keys[-1] == "Bearer secret"
    found = between(first, Reading(first.at + 2, first.series))
    assert (found.requests, found.in_flight, found.queue_limit, found.memory_mb) == (0, 3, 20, 50)


def test_a_key_goes_to_no_other_address() -> None:
    asked: list[str] = []

    def elsewhere(path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        asked.append(path)
        return 200, PAGE % 1

    with (
        answering(elsewhere) as other,
        answering(lambda path, headers: (302, f"{other}/metrics")) as url,
        pytest.raises(ServiceError, match="answers with status 302"),
    ):
        read_service(url, key="secret")
    assert asked == []


def prometheus_answer(scraped: Mapping[str, float], requests: float) -> str:
    def entry(labels: Labels | dict[str, str], value: float) -> dict[str, Any]:
        return {"metric": dict(labels), "value": [1_700_000_999.0, str(value)]}

    entries = [
        entry({"__name__": "workbench_requests_total", "model": "digits", "version": "1", "instance": name}, requests)
        for name in scraped
    ]
    entries += [entry({"workbench_scraped": "yes", "instance": name}, at) for name, at in scraped.items()]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": entries}})


def test_a_prometheus_is_asked_once_and_its_readings_are_of_the_time_of_the_scrapes() -> None:
    queries: list[str] = []

    def answer(path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        if path == "/api/v1/status/buildinfo":
            return 200, json.dumps({"status": "success", "data": {"version": "2.42.0"}})
        queries.append(urllib.parse.parse_qs(path.partition("?")[2])["query"][0])
        return 200, prometheus_answer({"a": 1000.0, "b": 1006.0}, 40)

    with answering(answer) as url:
        found = reader(url, selector='job="digits"')()
    assert found.at == 1003.0
    assert between(Reading(993.0, {}), found).queries_per_second == 8.0
    [query] = queries
    assert query.count('job="digits"') == 2
    assert found.models() == (("digits", "1"),)


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (200, "not json", "does not answer as a Prometheus does"),
        (200, '{"data": {"result": [{"metric": {}}]}}', "does not answer as a Prometheus does"),
        (200, '{"data": {"result": []}}', "knows no exported server that runs"),
        (400, "parse error", "status 400. Check the selector"),
    ],
)
def test_what_is_no_answer_of_a_prometheus_is_said(status: int, text: str, words: str) -> None:
    with answering(lambda path, headers: (status, text)) as url, pytest.raises(ServiceError, match=words):
        read_prometheus(url)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://[::1", "http://127.0.0.1:99999", ""])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(ServiceError, match=r"is no address of a service\. Write it like"):
        read_service(url)


def test_where_nothing_or_something_else_answers_is_said() -> None:
    address = free_address()
    with pytest.raises(ServiceError, match=rf"{address}/metrics does not answer \(Connection refused\)"):
        reader(address)
    with answering(lambda path, headers: (200, "hello")) as url:
        with pytest.raises(ServiceError, match="has none of the metrics that an exported server has"):
            find_source(url)
        with pytest.raises(ServiceError, match="is no page of metrics"):
            read_service(url)
    with (
        answering(lambda path, headers: (401, "")) as url,
        pytest.raises(ServiceError, match=r"status 401\. Give the service's key"),
    ):
        read_service(url)
