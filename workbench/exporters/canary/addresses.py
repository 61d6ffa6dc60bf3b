"""Whether the addresses of a canary's package can be: of the proxy and of both versions, for HTTP and for gRPC."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from workbench.errors import OptionsError

_ADDRESS = r"([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})"


def check_addresses(http: Mapping[str, str], grpc: Mapping[str, str], *, open_to_others: bool) -> None:
    """Checks `listen`, `stable` and `canary`, and their three for gRPC.

    Args:
        http: The addresses by the names of their options.
        grpc: Those for gRPC; each is empty if gRPC is not passed on.
        open_to_others: Whether others may reach the addresses that callers ask.

    Raises:
        OptionsError: One is none, or missing, two are the same, or others could reach one unsaid.
    """
    given = {name: address for name, address in grpc.items() if address}
    if given and (missing := [name for name in grpc if name not in given]):
        raise OptionsError(
            f"exporter canary needs {', '.join(grpc)} for gRPC; without {' and '.join(missing)} it cannot be.",
            "Give all three, or none for HTTP alone.",
        )
    ports = {name: _port(name, address) for name, address in {**http, **given}.items()}
    if len({*http.values(), *given.values()}) < len(ports):
        raise OptionsError(
            f"exporter canary needs {'six' if given else 'three'} addresses, and two of them are the same.",
            "Start the two versions on ports of their own, and let the proxy listen on others; gRPC has its own too.",
        )
    if given and ports["listen"] == ports["listen_grpc"]:
        raise OptionsError(
            f"exporter canary cannot listen to HTTP and gRPC on the same port {ports['listen']}.",
            "Give listen_grpc a port of its own.",
        )
    for name in ("listen", "listen_grpc"):
        address = {**http, **given}.get(name)
        if address and not open_to_others and not _is_local(address):
            raise OptionsError(
                f"Whoever reaches {address} could use both versions.",
                "Listen on 127.0.0.1, or say `open` if the services want a key or something else keeps strangers out.",
            )


def _port(name: str, address: str) -> int:
    found = re.fullmatch(_ADDRESS, address)
    if not found or not 0 < int(found[2]) < 65_536:
        raise OptionsError(f"exporter canary cannot take {name} = {address!r:.80}.", "Write host:port.")
    return int(found[2])


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
