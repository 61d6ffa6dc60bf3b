"""What gRPC adds to a canary's package: its part of the proxy's file, and what the README says of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

_CALLS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")
_PATHS = rf"^/inference\.GRPCInferenceService/({'|'.join(_CALLS)})$"
_DEALT_OUT = (
    "gRPC is dealt out by the same weight, at $listen_grpc. A change of the weight and a roll-back hold for both at "
    "once. `x-canary` is metadata there. gRPC's clients keep no cookies: each call is dealt out anew."
)
_FAILURES = (
    "What the canary does not answer (no connection, a connection that is lost, no answer in time, an HTTP status of "
    "500 or above) is answered by the stable version, unless a part of an answer was passed on already. But a failure "
    "of gRPC mostly has the status 200, and a code beside it."
)
_HAPROXY = (
    "What fails with the code UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS, and nothing before it, "
    "is answered by the stable version too. Calls larger than $buffer bytes are passed on once: callers "
    "get what becomes of them at the canary. The services alone limit how large a call may be. Whether a version is "
    "ready is asked over HTTP."
)
_NGINX = (
    "**nginx cannot tell such a failure, and passes it on:** until a canary that fails is rolled back, its share of "
    "the callers notices. A canary that is killed costs the calls whose answer had begun to come. Let haproxy be the "
    "proxy if nobody may notice."
)
_PASSED_ON = (
    f"The calls of the Open Inference Protocol are passed on ({', '.join(_CALLS)}), without TLS. Streams, and calls "
    "that manage a server, are not: UNIMPLEMENTED."
)
_ROWS = (
    ("callers ask over gRPC", "listen_grpc"),
    ("stable version over gRPC", "stable_grpc"),
    ("canary over gRPC", "canary_grpc"),
)


def grpc_words(proxy: str, addresses: Mapping[str, str], words: Mapping[str, Any]) -> Mapping[str, str]:
    """The words that the templates want for gRPC; empty ones if it is not split.

    Args:
        proxy: haproxy or nginx.
        addresses: The three options for gRPC by their names.
        words: The other words of the templates.
    """
    if not addresses["listen_grpc"]:
        return {"grpc": "", "grpc_rows": "", "about_grpc": ""}
    host, _, port = str(words["stable"]).rpartition(":")
    known = {**words, **addresses, "grpc_paths": _PATHS, "stable_host": host, "stable_port": port}
    name, about = ("haproxy_grpc.cfg", _HAPROXY) if proxy == "haproxy" else ("nginx_grpc.conf", _NGINX)
    template = Template((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))
    parts = [Template(part).substitute(known) for part in (_DEALT_OUT, f"{_FAILURES} {about}", _PASSED_ON)]
    said = "\n\n".join(textwrap.fill(part, 120) for part in parts)
    return {
        "grpc": template.substitute(known),
        "grpc_rows": "".join(f"\n| {what} | {addresses[option]} |" for what, option in _ROWS),
        "about_grpc": f"\n\n## gRPC\n\n{said}",
    }
