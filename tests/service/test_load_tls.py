"""Load on a service behind TLS: a real one, with a certificate of an authority of one's own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.exporters.serving import serving, with_model, write_model, write_package
from tests.service.test_load import request_of
from workbench.errors import ServiceError
from workbench.service.load import load_service
from workbench.service.metrics import between, read_service

ROWS = 40_000  # of 4 float32 each, which is more than a socket takes at once


def write_certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that it signed itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    kept = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (path := folder / "certificate.pem").write_bytes(kept + signed.public_bytes(serialization.Encoding.PEM))
    return path


@contextlib.contextmanager
def behind_tls(port: int, certificate: Path) -> Iterator[str]:
    """The address of something that ends TLS and passes the bytes on to a port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        for pair in ((reader, inner_writer), (inner_reader, writer)):
            tasks.add(task := asyncio.ensure_future(copy(*pair)))
            task.add_done_callback(tasks.discard)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    starting = asyncio.start_server(meet, "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)

    async def end() -> None:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


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
