"""Load on real services: what was sent is counted exactly on both sides, and what goes wrong is said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CommandLine
from tests.exporters.serving import Server, serving, with_model, write_model, write_package
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled, DatasetError, ExportError, OptionsError, ServiceError
from workbench.exporters import Package, export_package
from workbench.measure.load import LoadPoint
from workbench.model import Model
from workbench.service.load import ServiceLoad, load_service
from workbench.service.metrics import ServiceStats, between, read_service
from workbench.service.report import service_load_facts, service_load_text
from workbench.trial import serve_package
from workbench.workspace import Workspace

SHORT = {"seconds": 0.6, "warmup_s": 0.2}
ROOMY = {"queue": 64, "request_seconds": 10.0}
RULES = Package(Path("rules"), "monitoring", "looper", "candidate", ())
STEPS_OF_TWO = {"name": "steps", "datatype": "INT64", "shape": [2], "data": [2, 2]}


def request_of(steps: int = 2, rows: int = 2) -> dict[str, Any]:
    """A request that takes as long as `steps` says."""
    x = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [0.1] * 4 * rows}
    return {"inputs": [x, {"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_package(tmp_path_factory.mktemp("service"), with_model(**ROOMY))
    write_model(folder / "model.onnx")
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def url(service: Server) -> str:
    return f"http://127.0.0.1:{service.port}"


def send(url: str, options: dict[str, Any], **what: Any) -> tuple[ServiceLoad, ServiceStats]:
    """What the sender says, and what the service counted meanwhile."""
    before = read_service(url)
    found = load_service(url, {**SHORT, **options}, **what)
    return found, between(before, read_service(url))


@pytest.mark.parametrize(
    "options",
    [
        {"connections": 3},
        {"connections": 2, "tensors": "json"},
        {"pattern": "poisson", "rate": 60.0, "connections": 4},
        {"pattern": "constant", "rate": 40.0, "warmup_s": 0.0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_both_sides_count_the_same(url: str, options: dict[str, Any]) -> None:
    begun = time.monotonic()
    found, counted = send(url, options, request=request_of())
    took = time.monotonic() - begun
    assert found.statuses == {200: found.answered}
    assert counted.requests == found.answered + found.warmup
    assert (counted.errors, counted.refused, found.lost, found.unsent) == (0, 0, 0, 0)
    assert found.stats is not None
    assert found.stats.completed == found.answered
    if options.get("pattern") == "constant":
        assert found.answered == 24  # 40 a second for 0.6 s
        assert found.stats.offered_per_second == 40
    assert found.stats.concurrency == (None if "pattern" in options else options["connections"])
    # Other work may make it longer than 0.6 s, but no longer than the whole took.
    assert found.answered / took < found.stats.queries_per_second < found.answered / 0.3


def test_latency_is_no_shorter_than_what_the_service_says(url: str) -> None:
    """Every request is in the service's buckets; the sender's median lies at or above the bucket of the middle one.

    One connection has one request under way, so the latencies of all of them are no longer than the whole.
    """
    found, counted = send(url, {"connections": 1, "warmup_s": 0.0, "seconds": 2.0}, request=request_of(2_000))
    assert found.stats is not None
    assert found.stats.p50 is not None
    assert counted.inference_p50_ms > 0.5  # it takes some milliseconds, so the buckets say something
    bounds = [0.0, *(1000 * bound for bound in _bounds(url))]
    lower = max(bound for bound in bounds if bound < counted.p50_ms)
    assert found.stats.p50.value >= lower
    assert found.stats.completed * found.stats.mean_ms <= 1000 * found.stats.seconds


def _bounds(url: str) -> list[float]:
    series = read_service(url).series
    labels = [dict(own) for name, own in series if name == "workbench_request_seconds_bucket"]
    return sorted(float(each["le"]) for each in labels if each["le"] != "+Inf")


def test_samples_are_sent_in_turns_and_batches(
    tiny: Model, tiny_data: Dataset, shared_workspace: Workspace, url: str
) -> None:
    package = export_package(Candidate("tiny", build_engine(tiny)), sample=tiny_data, workspace=shared_workspace)
    with serve_package(package) as (host, port):
        found, counted = send(f"http://{host}:{port}", {"batch": 2, "connections": 1}, dataset=tiny_data)
    assert found.statuses == {200: found.answered}
    assert counted.mean_batch == 2
    assert (found.sent, found.stats and found.stats.batch) == ("corners, 6 different", 2)
    with pytest.raises(DatasetError, match=r"corners does not fit looper, which takes 'x' FP32\[any, 4\], 'steps'"):
        load_service(url, SHORT, dataset=tiny_data)


def test_a_request_is_sent_as_it_is(url: str) -> None:
    found, counted = send(url, {"batch": 2, "connections": 1}, request=request_of(rows=3))
    assert counted.mean_batch == 3
    assert found.stats is not None
    assert found.stats.batch == 3


def test_random_values_are_sent_where_there_is_nothing_else(url: str) -> None:
    found, counted = send(url, {"batch": 5, "connections": 1})
    assert counted.mean_batch == 5
    assert found.sent == "random values, 8 different"
    assert service_load_facts(found)["Sent"].startswith("random values, 8 different, to looper, ")


def test_refused_requests_are_counted_by_status_and_are_no_fast_ones(tmp_path: Path) -> None:
    """Two places, and eight connections: most are told that the queue is full."""
    folder = write_package(tmp_path / "small", with_model(queue=2, request_seconds=10.0))
    write_model(folder / "model.onnx")
    with serving(folder) as small:
        found, counted = send(f"http://127.0.0.1:{small.port}", {"connections": 8}, request=request_of(20_000))
    assert set(found.statuses) == {200, 503}
    assert counted.requests == found.answered + found.warmup
    assert found.refused == found.statuses[503]
    assert found.stats is not None
    assert found.stats.completed == found.statuses[200]
    assert f"{found.statuses[503]:,} with 503" in service_load_facts(found)["Answers"]
    assert "✗ answers" in service_load_text(found)


def test_too_much_load_ends_early_and_is_called_that(url: str) -> None:
    options = {"pattern": "poisson", "rate": 3000.0, "connections": 1, "max_wait_s": 0.2, "seconds": 60}
    found, counted = send(url, options, request=request_of(20_000))
    assert found.unsent > 50
    assert counted.requests == found.answered + found.warmup
    assert found.stats is not None
    assert (found.stats.kept_up, found.stats.unfinished) == (False, found.unsent)
    assert found.stats.worst_ms > 200
    assert "requests were due but not sent" in service_load_facts(found)["Too much"]


def test_a_service_that_is_killed_loses_what_was_under_way_and_all_after(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "mortal", with_model(**ROOMY))
    write_model(folder / "model.onnx")
    with serving(folder) as mortal:

        def kill(point: LoadPoint) -> None:
            os.kill(mortal.process.pid, signal.SIGKILL)

        options = {**SHORT, "seconds": 1.5, "connections": 2}
        found = load_service(f"http://127.0.0.1:{mortal.port}", options, request=request_of(), watch=kill)
    assert found.statuses[200] > 0
    assert found.lost >= 2  # and no more than two connections can try ten times a second
    assert found.lost <= 2 + 2 * 10 * 1.5
    assert "Connection refused" in found.reasons
    assert f"{found.lost:,} lost" in service_load_facts(found)["Answers"]


def test_a_service_with_a_key_is_asked_with_it(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "keyed", {**with_model(**ROOMY), "api_key": "environment"})
    write_model(folder / "model.onnx")
    with serving(folder, WORKBENCH_API_KEY="a-secret-of-32-characters-or-more") as keyed:
        url = f"http://127.0.0.1:{keyed.port}"
        with pytest.raises(ServiceError, match=r"status 401\. Give the service's key"):
            load_service(url, SHORT, request=request_of())
        found = load_service(url, SHORT, request=request_of(), key="a-secret-of-32-characters-or-more")
        assert set(found.statuses) == {200}
        assert "secret" not in repr(found)
        with pytest.raises(OptionsError, match="characters that no HTTP header can have") as refused:
            load_service(url, SHORT, request=request_of(), key="a\r\nb")
        assert "a\r\nb" not in str(refused.value)


def test_another_machine_gets_no_load_unless_that_is_said() -> None:
    with pytest.raises(OptionsError, match=r"192\.0\.2\.1 is another machine.*set the option `remote`"):
        load_service("http://192.0.2.1:8000")


@pytest.mark.parametrize(
    ("options", "what", "error", "words"),
    [
        ({"model": "other"}, {}, ServiceError, "status 404"),
        ({}, {"request": {"inputs": [*request_of()["inputs"][:1], STEPS_OF_TWO]}}, ServiceError, "status 400: .*steps"),
        ({"connections": 0}, {}, OptionsError, "connections"),
        ({"pattern": "poisson", "rate": 50_000.0, "seconds": 600.0}, {}, OptionsError, "more than the 20,000,000"),
        ({}, {"request": {"inputs": []}}, DatasetError, "is none that looper takes .*'x'"),
        ({}, {"request": {"inputs": [{"name": "y"}]}}, DatasetError, "is none that looper takes .*It takes 'x' FP32"),
        ({}, {"package": Path("nowhere")}, ExportError, r"There is no sample request in nowhere\. Give a package"),
        ({}, {"package": RULES}, ExportError, r"no sample request in \S+, a package of the exporter monitoring\. Give"),
        ({"rate": 50}, {}, OptionsError, r"rate = 50 is of arrivals.*Set pattern to poisson or constant"),
    ],
)
def test_what_cannot_be_sent_is_said_before(
    url: str, options: dict[str, Any], what: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_service(url, {**SHORT, **options}, **what)


def test_what_does_not_speak_http_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with _closing_at_once(listener), pytest.raises(ServiceError, match=f"{address}.* does not answer"):
            load_service(address, {**SHORT, "model": "looper"})
    with pytest.raises(ServiceError, match=rf"{address} does not answer"):
        load_service(address)
    number: Any = 5
    with pytest.raises(ServiceError, match=r"is a text, not 5\. Write it like http://127"):
        load_service(number)


@contextlib.contextmanager
def _closing_at_once(listener: socket.socket) -> Iterator[None]:
    def close() -> None:
        with contextlib.suppress(OSError):  # it is shut down in the end
            while True:
                listener.accept()[0].close()

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_cancel_ends_it_at_once(url: str) -> None:
    moments: list[LoadPoint] = []

    def cancel(point: LoadPoint) -> None:
        moments.append(point)
        raise Cancelled

    with pytest.raises(Cancelled):
        load_service(url, {"seconds": 600, "warmup_s": 0}, request=request_of(), watch=cancel)
    assert len(moments) == 1
    before, end = read_service(url), time.monotonic() + 60
    while between(before, before).in_flight and time.monotonic() < end:  # what was under way still ends there
        before = read_service(url)
    time.sleep(0.3)
    assert between(before, read_service(url)).requests == 0


def test_the_command_sends_a_packages_request(url: str, tmp_path: Path, command_line: CommandLine) -> None:
    (tmp_path / "sample_request.json").write_text(json.dumps(request_of()))
    found = load_service(url, SHORT, package=tmp_path)
    assert found.sent == "the package's sample request"
    (tmp_path / "image").mkdir()  # where a package for Kubernetes has it
    (tmp_path / "sample_request.json").rename(tmp_path / "image" / "sample_request.json")
    assert load_service(url, SHORT, package=tmp_path).sent == "the package's sample request"
    done = command_line(
        "load-service", url, "--seconds", "0.3", "--warmup-s", "0", "--rate", "30", "--pattern", "poisson"
    )
    assert done.returncode == 0, done.stderr
    assert "Poisson arrivals on 8 connections" in done.stdout
    assert "✓ answers" in done.stdout
