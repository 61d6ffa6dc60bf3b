"""Load on a service behind TLS: a real one, with a certificate of an authority of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.exporters.serving import serving, with_model, write_model, write_package
from tests.service.peers import answering_calls, pages, peer, well
from tests.service.test_load import request_of
from tests.service.tls import behind_tls, write_certificate
from workbench.errors import ServiceError
from workbench.measure._traffic import Traffic
from workbench.service._target import find_target
from workbench.service._traffic import send_requests
from workbench.service._wires import HttpWire
from workbench.service.load import load_service
from workbench.service.metrics import between, read_service

ROWS = 40_000  # of 4 float32 each, which is more than a socket takes at once


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[str]:
    config = with_model(queue=64, request_seconds=10.0)
    config["limits"] = {**config["limits"], "body_bytes": 2_000_000}
    folder = write_package(tmp_path_factory.mktemp("service"), config)
    write_model(folder / "model.onnx")
    with serving(folder) as running, behind_tls(running.port, certificate) as address:
        yield address


@pytest.mark.parametrize("rows", [2, ROWS])
def test_requests_over_tls_are_counted_on_both_sides(
    url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    before = read_service(url)
    found = load_service(url, {"seconds": 0.6, "warmup_s": 0.2, "connections": 3}, request=request_of(rows=rows))
    assert found.statuses == {200: found.answered}
    assert found.lost == 0
    assert between(before, read_service(url)).requests == found.answered + found.warmup


def test_a_certificate_that_is_not_trusted_is_named(url: str) -> None:
    with pytest.raises(ServiceError, match=r"certificate that is not trusted .*variable SSL_CERT_FILE\.$"):
        load_service(url, {"seconds": 0.2})


def test_a_file_of_authorities_that_is_not_there_is_said(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(ServiceError, match=r"SSL_CERT_FILE, which names \S+nowhere\.pem now: there is no such file\.$"):
        load_service(url, {"seconds": 0.2})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"days": -1}, r"\(certificate has expired\)\. Whoever runs the service has to renew it\."),
        ({"address": "192.0.2.1"}, r"\(IP address mismatch, .*\)\. Write the address with the name that it is for\."),
    ],
)
def test_a_bad_certificate_has_a_remedy_of_its_own(
    url: str, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], words: str
) -> None:
    bad = write_certificate(tmp_path, **kind)
    (known := tmp_path / "known.pem").write_bytes(certificate.read_bytes() + bad.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(known))
    with behind_tls(1, bad) as other:
        with pytest.raises(ServiceError, match=f"{words}$"):
            load_service(other, {"seconds": 0.2})
        port = int(other.rpartition(":")[2])
        with pytest.raises(ServiceError, match=rf"Port {port} of 127\.0\.0\.1 has .*{words} .*option `grpc_port`\."):
            load_service(url, {"seconds": 0.2, "tensors": "grpc", "grpc_port": port})


def test_tls_on_one_side_only_is_said_with_the_port_for_grpc(
    url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with peer(answering_calls(well)) as port, pytest.raises(ServiceError) as refused:
        load_service(url, {"tensors": "grpc", "grpc_port": port})
    assert f"Port {port} of 127.0.0.1" in str(refused.value)
    assert "with TLS (it speaks no TLS). If it answers gRPC at another port, give that as" in str(refused.value)
    port = int(url.rpartition(":")[2])
    with pages() as plain, pytest.raises(ServiceError, match=rf"Port {port} of .* without TLS .*option `grpc_port`"):
        load_service(plain, {"model": "m", "tensors": "grpc", "grpc_port": port})


def test_a_certificate_that_changes_meanwhile_loses_requests_with_that_reason(
    certificate: Path, tmp_path: Path
) -> None:
    """Nobody trusts it where the load is sent, as at the trial before it was another."""
    with behind_tls(1, certificate) as url:
        target, _ = find_target(url, False)
        quiet: dict[str, Any] = {"progress": lambda *_: None, "tell": lambda _: None}
        _, sent = send_requests(target, HttpWire, [b""], Traffic("constant", 0.5, 1, 20.0), 0.0, 9.0, **quiet)
    assert sent.statuses == {}
    assert set(sent.reasons) == {"its certificate is not trusted: self-signed certificate"}


def test_what_speaks_no_tls_is_said(url: str, tmp_path: Path) -> None:
    folder = write_package(tmp_path, with_model())
    write_model(folder / "model.onnx")
    with serving(folder) as plain, pytest.raises(ServiceError, match="does not answer"):
        load_service(f"https://127.0.0.1:{plain.port}", {"seconds": 0.2})
