"""Where load on a service goes: its address looked up, tried and connected to."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
import urllib.parse
from typing import Any, NamedTuple

from workbench.errors import OptionsError, ServiceError
from workbench.service._pages import base_url
from workbench.service._words import reason_of


class Target(NamedTuple):
    """Where requests go: what `socket.getaddrinfo` says of it, and the name of the certificate if they go over TLS."""

    family: int
    address: tuple[Any, ...]
    tls: str = ""


def find_target(url: str, remote: bool, grpc_port: int | None = None) -> tuple[Target, str]:
    """Where load goes, and the Host header of it.

    Args:
        url: Of the service.
        remote: Whether it may be another machine.
        grpc_port: Where it answers gRPC, if load is to go there; 0 for the port after that of its address, or the same
            if the address is of https and has none: what ends TLS has both there.

    Raises:
        ServiceError: There is no such machine, or nothing listens.
        OptionsError: It is another machine, and that was not said; or no port is left for gRPC.
    """
    parts = urllib.parse.urlsplit(base_url(url))
    secure, host = parts.scheme == "https", parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    if grpc_port is not None and not (secure and parts.port is None and not grpc_port):
        port = grpc_port or port + 1
    if port > 65535:
        raise OptionsError(
            f"There is no port after {parts.port}, that of the address, at which the service could answer gRPC.",
            "Give the option `grpc_port`.",
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServiceError(f"There is no machine {host} ({error}).", "Check the address.") from None
    if not remote and not all(ipaddress.ip_address(each[4][0]).is_loopback for each in found):
        raise OptionsError(
            f"{host} is another machine, and load can bring a service down.",
            "Ask whoever runs it, then set the option `remote`.",
        )
    reason = OSError("it has no address")
    for family, _, _, _, address in found:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(5)
                probe.connect(address)
            authority = parts.netloc.rpartition("@")[2]
            if grpc_port is not None:
                authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            return Target(family, address, host if secure else ""), authority
        except OSError as error:
            reason = error
    if grpc_port is not None:
        raise ServiceError(
            f"{host} does not answer at port {port} ({reason_of(reason)}).",
            "Check that the service answers gRPC (a package exported with `grpc` does), and the option `grpc_port`.",
        )
    raise ServiceError(f"{url} does not answer ({reason_of(reason)}).", "Check that the service runs, and its address.")


def trusted(alpn: str) -> ssl.SSLContext:
    """What certificates count, and what is to be spoken over TLS."""
    context = ssl.create_default_context()
    context.set_alpn_protocols([alpn])
    return context


def check_alpn(connection: ssl.SSLSocket, alpn: str) -> None:
    """Looks at what was agreed on within TLS; nothing may have been, as many a service leaves it open.

    Raises:
        ConnectionError: It is something else than what was asked for.
    """
    if (spoken := connection.selected_alpn_protocol()) not in (None, alpn):
        raise ConnectionError(f"over TLS it speaks {spoken}, not {alpn}")


def connect(target: Target, alpn: str, timeout_s: float) -> socket.socket:
    """A connection, over TLS if it is that kind of service; all of it takes no longer than that.

    Raises:
        OSError: There is none to be had, or the certificate is not trusted, or it speaks another protocol.
    """
    connection = socket.socket(target.family, socket.SOCK_STREAM)
    end = time.monotonic() + timeout_s
    connection.settimeout(timeout_s)
    try:
        connection.connect(target.address)
        if target.tls:
            connection.settimeout(max(1e-3, end - time.monotonic()))
            secure = trusted(alpn).wrap_socket(connection, server_hostname=target.tls)
            connection = secure
            check_alpn(secure, alpn)
        return connection
    except OSError:
        connection.close()
        raise
