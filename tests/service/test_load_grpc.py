"""Load over gRPC on real services: counted exactly on both sides, refusals and the end of a service included."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exporters.serving import Server, serving, wait_until_busy, with_model, write_model, write_package
from tests.service.test_load import ROOMY, SHORT, request_of
from tests.service.tls import behind_tls, write_certificate
from workbench.errors import OptionsError, ServiceError
from workbench.measure._traffic import Traffic
from workbench.service._connection import Connection
from workbench.service._grpc_wire import GrpcWire
from workbench.service._requests import ServedModel, find_model, make_messages, make_requests
from workbench.service._target import connect, find_target
from workbench.service._traffic import send_requests
from workbench.service._trial import try_request
from workbench.service._wires import HttpWire, MakeWire
from workbench.service.load import ServiceLoad, load_service
from workbench.service.metrics import between, read_service

pytest.importorskip("grpc")
ROWS = 40_000  # of 16 bytes each, which is more than HTTP/2 lets go without being asked on


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**with_model(**ROOMY), "grpc": True}
    config["limits"] = {**config["limits"], "body_bytes": 2_000_000}
    folder = write_package(tmp_path_factory.mktemp("service"), config)
    write_model(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Server]:
    with serving(folder, "--grpc-port", "0") as running:
        yield running


def port_of(service: Server) -> int:
    return int(service.log[-1]["labels.grpc_port"])


def send(service: Server, options: dict[str, Any], **what: Any) -> ServiceLoad:
    wanted = {**SHORT, "tensors": "grpc", "grpc_port": port_of(service), **options}
    return load_service(f"http://127.0.0.1:{service.port}", wanted, **what)


@pytest.mark.parametrize("rows", [2, ROWS])
@pytest.mark.parametrize("options", [{"connections": 3}, {"pattern": "constant", "rate": 40.0, "connections": 4}])
def test_both_sides_count_the_same(service: Server, options: dict[str, Any], rows: int) -> None:
    url = f"http://127.0.0.1:{service.port}"
    before = read_service(url)
    found = send(service, options, request=request_of(rows=rows))
    counted = between(before, read_service(url))
    assert found.statuses == {200: found.answered}
    assert counted.requests == found.answered + found.warmup
    assert (counted.errors, found.lost, found.unsent) == (0, 0, 0)
    assert counted.mean_batch == rows
    assert found.request_kb == pytest.approx(rows * 16 / 1000, abs=0.2)
    if "rate" in options:
        assert found.answered == 24  # 40 a second for 0.6 s


@pytest.mark.parametrize("over_grpc", [False, True])
def test_a_connection_stays_between_one_request_and_the_next(
    service: Server, monkeypatch: pytest.MonkeyPatch, over_grpc: bool
) -> None:
    opened, usual = [], Connection.open

    def open_counted(connection: Connection) -> None:
        opened.append(connection)
        usual(connection)

    monkeypatch.setattr(Connection, "open", open_counted)
    url = f"http://127.0.0.1:{service.port}"
    target, authority = find_target(url, False, port_of(service) if over_grpc else None)
    model = find_model(url, "", "looper", "")
    make_wire: MakeWire = HttpWire
    requests = make_requests(model, [arrays(2)], "binary", authority, "")
    if over_grpc:
        make_wire, requests = partial(GrpcWire, authority, False, 10), make_messages(model, [arrays(2)])
    traffic = Traffic("constant", 1.0, concurrency=2, rate=20.0)
    quiet = {"progress": lambda *_: None, "tell": lambda _: None}
    _, sent = send_requests(target, make_wire, requests, traffic, 0.0, 10.0, **quiet)
    assert sent.statuses == {200: 20}
    assert len(opened) == 2


def test_it_goes_over_tls_too(service: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate := write_certificate(tmp_path)))
    with behind_tls(service.port, certificate) as url, behind_tls(port_of(service), certificate, "h2") as called:
        options = {**SHORT, "tensors": "grpc", "grpc_port": int(called.rpartition(":")[2])}
        found = load_service(url, options, request=request_of(rows=ROWS))
    assert found.statuses == {200: found.answered}
    assert found.lost == 0


def test_what_ends_tls_for_https_has_grpc_at_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def look_up(host: str, port: int, **_: Any) -> list[Any]:
            asked.append(port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname())]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        for url, port in (("https://a-proxy", 0), ("https://a-proxy:8443", 0), ("https://a-proxy", 9000)):
            find_target(url, False, port)
    assert asked == [443, 8444, 9000]


def test_what_is_refused_is_counted_under_the_status_that_stands_for_its_code(tmp_path: Path) -> None:
    folder = write_package(tmp_path, {**with_model(queue=1), "grpc": True})
    write_model(folder / "model.onnx")
    with serving(folder, "--grpc-port", "0") as service:
        busy = threading.Thread(target=service.infer, args=(request_of(3_000_000, 1),))
        busy.start()
        wait_until_busy(service)
        found = send(service, {"connections": 2, "warmup_s": 0.0}, request=request_of())
        busy.join()
    assert found.refused > 0
    assert found.statuses[503] == found.refused
    assert found.lost == found.failed == 0


def test_bad_input_is_said(service: Server, folder: Path) -> None:
    with pytest.raises(
        ServiceError, match=rf"Port {service.port} of .* \(it speaks HTTP/1, no gRPC\)\. .*option `grpc_port`"
    ):
        send(service, {"grpc_port": service.port}, request=request_of())
    with pytest.raises(ServiceError, match=r"answer at port 1 .* `grpc` does\), and the option `grpc_port`\."):
        send(service, {"grpc_port": 1}, request=request_of())
    with pytest.raises(OptionsError, match="grpc_port"):
        send(service, {"grpc_port": 0}, request=request_of())
    with pytest.raises(OptionsError, match=r"answers gRPC, but tensors is json\. Set tensors to grpc, or leave"):
        send(service, {"tensors": "json"}, request=request_of())
    with pytest.raises(OptionsError, match=r"no port after 65535, .* Give the option `grpc_port`\."):
        load_service("http://127.0.0.1:65535", {"tensors": "grpc"})
    secret = {"WORKBENCH_API_KEY": "open-sesame-open-sesame"}
    locked = write_package(folder.parent / "locked", {**with_model(), "grpc": True, "api_key": "environment"})
    write_model(locked / "model.onnx")
    with serving(locked, "--grpc-port", "0", **secret) as other:
        assert send(other, {"seconds": 0.2}, request=request_of(), key="open-sesame-open-sesame").lost == 0
        host = f"http://127.0.0.1:{other.port}"
        target, authority = find_target(host, False, port_of(other))
        [message] = make_messages(find_model(host, "open-sesame-open-sesame", "looper", ""), [arrays(2)])
        with pytest.raises(ServiceError, match=r"status 401: .* Give the service's key"):
            try_request(target, GrpcWire(authority, False, 10), message, 10)


def arrays(steps: int) -> dict[str, Any]:
    return {"x": np.full((2, 4), 0.1, np.float32), "steps": np.array([steps])}


def test_an_answer_under_way_still_comes_from_a_service_that_closes_down(folder: Path) -> None:
    """The service says GOAWAY in between, after which nothing new may be sent."""
    model = ServedModel("looper", "", (("x", "FP32", (-1, 4)), ("steps", "INT64", (1,))))
    with serving(folder, "--grpc-port", "0") as service:
        target, authority = find_target(f"http://127.0.0.1:{service.port}", False, port_of(service))
        [message] = make_messages(model, [arrays(2_000_000)])
        wire = GrpcWire(authority, False, 60)
        with connect(target, wire.ALPN, 60) as connection:
            connection.sendall(wire.begin() + wire.request(message))
            while not service.metrics()["workbench_in_flight,model=looper,version=3"]:
                pass
            service.process.send_signal(signal.SIGTERM)
            left = []
            while not wire.done:
                data = connection.recv(1 << 16)
                assert data
                connection.sendall(wire.feed(data))
                left.append(wire.stays)
        assert (wire.status, wire.untaken) == (200, False)
        assert left[0], "GOAWAY came before anything"
        assert not wire.stays
