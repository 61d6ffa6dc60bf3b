"""Load on a service behind TLS: a real one, with a certificate of an authority of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exporters.serving import serving, with_model, write_model, write_package
from tests.service.test_load import request_of
from tests.service.tls import behind_tls, write_certificate
from workbench.errors import ServiceError
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
    with pytest.raises(ServiceError, match=r"certificate that is not trusted .*variable SSL_CERT_FILE\."):
        load_service(url, {"seconds": 0.2})


def test_what_speaks_no_tls_is_said(url: str, tmp_path: Path) -> None:
    folder = write_package(tmp_path, with_model())
    write_model(folder / "model.onnx")
    with serving(folder) as plain, pytest.raises(ServiceError, match="does not answer"):
        load_service(f"https://127.0.0.1:{plain.port}", {"seconds": 0.2})
