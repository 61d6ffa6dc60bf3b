"""Canary: a proxy that splits the callers between two versions, and the limits at which the newer is rolled back."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal

from workbench.errors import OptionsError
from workbench.exporters import Contents
from workbench.exporters._parts import BodyMegabytes, common_words, datatype, write_json, write_samples
from workbench.exporters.canary.addresses import check_addresses
from workbench.exporters.canary.grpc_words import grpc_words
from workbench.exporters.canary.settings import (
    STEPS,
    CanaryFile,
    CanarySettings,
    ProxySettings,
    canary_settings,
    proxy_settings,
)
from workbench.options import option
from workbench.serving_measurements import Derived

REQUIRES: dict[str, str] = {}
COMMAND: tuple[str, ...] = ()  # haproxy or nginx: its README says how it is started
OWN_SERVER = True

SETTINGS = "canary.json"

_GRPC = ("listen_grpc", "stable_grpc", "canary_grpc")
_COOKIE = "Path=/v2; HttpOnly; SameSite=Lax"
_FAILURES = (
    "What the canary cannot answer (no connection, no answer in time, a status of 500 or above) is answered by the "
    "stable version, so that a canary that fails or is killed costs nobody an answer."
)
_PATHS = "Only paths under `/v2` are passed on: `/metrics` is not$nor_grpc."
_HAPROXY = {
    "start": ('run="$PWD-run"; mkdir -p -m 700 "$run"', 'haproxy -W -db -C "$run" -f "$PWD/haproxy.cfg"'),
    "roll_back": (
        "echo 'set server canary/canary state maint' | socat - \"UNIX-CONNECT:$PWD-run/haproxy.sock\"",
        'echo \'show servers state\' | socat - "UNIX-CONNECT:$PWD-run/haproxy.sock" > "$PWD-run/haproxy.state"',
    ),
    "failures": (
        "Requests larger than $buffer bytes are tried again only if no connection came about.",
        "Both are asked for their readiness, a real inference, every $check_seconds s; while the stable version is",
        "down, the canary takes its callers.",
    ),
}
_NGINX = {
    "start": (
        'run="$PWD-run"; mkdir -p -m 700 "$run"; cp nginx.conf "$run"',
        '[ -d "$run/share" ] || (mkdir -m 700 "$run/share"; cd "$run/share"; touch always$share)',
        'nginx -p "$run" -c nginx.conf -e stderr -g "daemon off;"',
    ),
    "roll_back": ('rm -f "$PWD-run/share/"*',),
    "failures": (
        "nginx asks neither for its readiness: it notices a version that is down by requests that fail. Nobody takes",
        "the callers of a stable version that is down.",
    ),
}


@dataclass(frozen=True)
class Options:
    """Which two services stand behind the proxy, and how callers are split at first."""

    proxy: Annotated[
        Literal["haproxy", "nginx"],
        option("haproxy looks at the readiness of both versions; nginx notices by requests that fail."),
    ] = "haproxy"
    stable: Annotated[str, option("Host and port of the version that serves now.", example="127.0.0.1:8000")] = (
        "127.0.0.1:8000"
    )
    canary: Annotated[str, option("Host and port of this candidate's service.", example="127.0.0.1:8001")] = (
        "127.0.0.1:8001"
    )
    listen: Annotated[str, option("Address and port that callers ask.", example="127.0.0.1:8080")] = "127.0.0.1:8080"
    open: Annotated[
        bool, option("Listen to other machines, if `listen` says so; keys are up to the services.", advanced=True)
    ] = False
    weight: Annotated[
        int, option("Share of the callers that meet the canary at first.", minimum=0, maximum=100, unit="%")
    ] = 0
    sticky: Annotated[
        bool, option("Let a caller that keeps a cookie stay with the version that it met.", advanced=True)
    ] = True
    version: Annotated[str, option("Version that the canary is served as.", example="2")] = "2"
    body_megabytes: BodyMegabytes = None
    stable_grpc: Annotated[
        str, option("Where the stable version answers gRPC; empty: gRPC is not split.", example="127.0.0.1:9000")
    ] = ""
    canary_grpc: Annotated[str, option("Where the candidate's service does.", example="127.0.0.1:9001")] = ""
    listen_grpc: Annotated[
        str, option("Where callers ask over gRPC; all three are given, or none.", example="127.0.0.1:9080")
    ] = ""


def export(contents: Contents, options: Options, directory: Path) -> None:
    """Fills `directory`.

    Raises:
        OptionsError: An address is none, two are the same, or others could reach one unsaid.
        ExportError: A tensor is of a type that the protocol does not carry.
    """
    _check(options)
    model = contents.candidate.engine.model
    for spec in (*model.inputs, *model.outputs):
        datatype(spec, "the protocol of exported servers")
    sample_bytes = write_samples(contents, options.version, directory)
    proxy = proxy_settings(contents.plan, sample_bytes, options.body_megabytes)
    limits = canary_settings(contents.plan)
    words = _words(contents, options, proxy, limits)
    templates = Path(__file__).parent / "templates"
    for name in ("haproxy.cfg" if options.proxy == "haproxy" else "nginx.conf", "README.md"):
        text = Template((templates / name).read_text(encoding="utf-8")).substitute(words)
        (directory / name).write_text(text, encoding="utf-8")
    addresses = (options.listen, options.stable, options.canary)
    about = CanaryFile(contents.name, options.proxy, *addresses, options.weight, STEPS, limits, **_grpc(options))
    write_json(directory / SETTINGS, asdict(about))


def _check(options: Options) -> None:
    http = {name: getattr(options, name) for name in ("listen", "stable", "canary")}
    check_addresses(http, _grpc(options), open_to_others=options.open)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", options.version):
        raise OptionsError(
            f"exporter canary cannot take version = {options.version!r:.80}.",
            "Take letters, digits, dots, hyphens and underscores.",
        )


def _words(contents: Contents, options: Options, proxy: ProxySettings, limits: CanarySettings) -> Mapping[str, Any]:
    numbers = {name: f"{number.value:.0f}" for name, number in vars(proxy).items()}
    sources = {f"{name}_from": _clause(number) for name, number in vars(proxy).items()}
    rows = [
        (name.replace("_", " "), f"{number.value:g} {number.unit}".strip(), _clause(number))
        for name, number in limits.numbers.items()
    ]
    share = f" $(seq 0 {options.weight - 1})" if options.weight else ""
    about = _HAPROXY if options.proxy == "haproxy" else _NGINX
    nor_grpc = "" if options.listen_grpc else ", nor is gRPC"
    failures = Template(" ".join((_FAILURES, *about["failures"], _PATHS))).substitute(numbers, nor_grpc=nor_grpc)
    words = {
        **common_words(contents),
        **numbers,
        **sources,
        "request_ms": f"{1000 * proxy.request_seconds.value:.0f}",
        "queue_ms": f"{1000 * proxy.queue_seconds.value:.0f}",
        "worker_connections": f"{2 * proxy.connections.value:.0f}",
        "body_from": _clause(proxy.body),
        "listen": options.listen,
        "stable": options.stable,
        "canary": options.canary,
        "weight": options.weight,
        "split": f"{options.weight} % of the callers meet the canary" if options.weight else "nobody meets the canary",
        "version": options.version,
        "proxy": options.proxy,
        "caller": _caller(options),
        "set_cookie": "            add_header Set-Cookie $new_caller always;\n" if options.sticky else "",
        "steps": ", ".join(map(str, STEPS)),
        "start": "\n".join(f"    {line}" for line in about["start"]).replace("$share", share),
        "numbers_of_callers": _numbers(),
        "roll_back": "\n".join(f"    {line}" for line in about["roll_back"]),
        "failures": textwrap.fill(failures, 120),
        "sticky": textwrap.fill(_about_callers(options), 120),
        "open": " **It listens to other machines:** keys are up to the services." if options.open else "",
        "numbers": "\n".join(f"| {name} | {value} | {source} |" for name, value, source in rows),
    }
    return {**words, **grpc_words(options.proxy, _grpc(options), words)}


def _grpc(options: Options) -> dict[str, str]:
    return {name: getattr(options, name) for name in _GRPC}


def _clause(number: Derived) -> str:
    return number.source if number.measured else f"{number.source} (not measured)"


def _caller(options: Options) -> str:
    """How either proxy knows a caller."""
    if options.proxy == "haproxy":
        if not options.sticky:
            return "    http-request set-var(txn.caller) uuid() # each request is dealt out anew"
        lines = (
            "# A caller is known by a cookie; who sends none is dealt out anew each time.",
            "http-request set-var(txn.caller) req.cook(canary_caller)",
            "http-request set-var(txn.new) uuid() unless { var(txn.caller) -m found }",
            "http-request set-var(txn.caller) var(txn.new) if { var(txn.new) -m found }",
            f'http-response add-header Set-Cookie "canary_caller=%[var(txn.new)]; {_COOKIE}" '
            "if { var(txn.new) -m found }",
        )
        return "\n".join(f"    {line}" for line in lines)
    if not options.sticky:
        return "    map $request_id $caller { # each request is dealt out anew\n        default $request_id;\n    }\n"
    return f"""\
    # A caller is known by a cookie; who sends none is dealt out anew each time.
    map $cookie_canary_caller $caller {{
        "" $request_id;
        default $cookie_canary_caller;
    }}
    map $cookie_canary_caller $new_caller {{
        "" "canary_caller=$request_id; {_COOKIE}";
        default "";
    }}
"""


def _numbers() -> str:
    """Each hundredth of the callers by its number, as nginx deals them out."""
    entries = [f"1% {number};" for number in range(99)] + ["* 99;"]
    return "\n".join(f"        {' '.join(entries[first : first + 10])}" for first in range(0, 100, 10))


def _about_callers(options: Options) -> str:
    if not options.sticky:
        return "Each request is dealt out anew, whoever sends it."
    return (
        "A caller that keeps the cookie `canary_caller`, a random name, stays with the version that it met: the A/B of "
        "it. When the weight is raised, further callers go over to the canary and none comes back; after a roll-back "
        "all have the stable version. Callers that keep no cookie are dealt out anew each time."
    )
