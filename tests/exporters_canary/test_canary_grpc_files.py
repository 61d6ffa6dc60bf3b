"""What gRPC adds to a canary's package, and that nothing is added without it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from workbench.errors import OptionsError

PROXIES = ("haproxy", "nginx")
BOTH = pytest.mark.parametrize("proxy", PROXIES)
GRPC = {"listen_grpc": "localhost:9080", "stable_grpc": "10.0.0.1:9000", "canary_grpc": "[::1]:9001"}


@BOTH
def test_grpc_has_addresses_of_its_own(files: Any, proxy: str) -> None:
    text, readme, settings = files(proxy=proxy, **GRPC)

    for name, address in GRPC.items():
        assert address in text
        assert f"| {address} |" in readme
        assert getattr(settings, name) == address
    assert "## gRPC" in readme
    assert "nor is gRPC" not in readme
    assert max(map(len, readme.partition("## gRPC")[2].partition("## ")[0].splitlines())) <= 120


@BOTH
def test_without_it_nothing_is_said_of_it(files: Any, proxy: str) -> None:
    text, readme, settings = files(proxy=proxy)
    much, _, _ = files(proxy=proxy, **GRPC)

    assert "grpc" not in text.lower()
    assert not re.search(r"http2|proto h2|mirror", text)
    assert "## gRPC" not in readme
    assert "`/metrics` is not, nor is gRPC." in " ".join(readme.split())
    assert (settings.listen_grpc, settings.stable_grpc, settings.canary_grpc) == ("", "", "")
    assert much.startswith(text.rstrip("}\n"))  # all that it adds stands at the end


@BOTH
def test_one_command_rolls_both_back(files: Any, proxy: str) -> None:
    alone, _, _ = files(proxy=proxy)
    text, readme, _ = files(proxy=proxy, **GRPC)
    roll_back = "set server canary/canary state maint" if proxy == "haproxy" else 'rm -f "$PWD-run/share/"*'

    assert readme.count(roll_back) == 1
    if proxy == "haproxy":  # servers that the canary's maintenance does not reach would go on
        addresses = re.findall(r"^ *server canary (\S+) (.*)$", text.partition("frontend grpc-callers")[2], re.M)
        assert len(addresses) == 3
        assert all("track canary/canary" in words for _, words in addresses)
        assert text.count("srv_uweight(canary/canary)") == 2 * alone.count("srv_uweight(canary/canary)") == 2
    else:
        assert text.count("if (-f $document_root/$file)") == 2


def test_the_readme_says_which_failures_callers_meet(files: Any) -> None:
    _, haproxy, _ = files(proxy="haproxy", **GRPC)
    _, nginx, _ = files(proxy="nginx", **GRPC)

    assert "UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS" in " ".join(haproxy.split())
    assert "**nginx cannot tell such a failure, and passes it on:**" in " ".join(nginx.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stable_grpc": ""}, "for gRPC; without stable_grpc it cannot be.*all three, or none"),
        ({"stable_grpc": "", "canary_grpc": ""}, "without stable_grpc and canary_grpc it cannot"),
        ({"listen_grpc": ""}, "without listen_grpc"),
        ({"canary_grpc": "10.0.0.1:9000"}, "six addresses, and two of them are the same"),
        ({"canary_grpc": "127.0.0.1:8001"}, "two of them are the same"),
        ({"listen_grpc": "localhost:8080"}, "HTTP and gRPC on the same port 8080"),
        ({"listen_grpc": "0.0.0.0:9080"}, "Whoever reaches 0.0.0.0:9080"),
        ({"canary_grpc": "127.0.0.1"}, "cannot take canary_grpc = '127.0.0.1'.*host:port"),
        ({"stable_grpc": "a:1 check\n"}, "cannot take stable_grpc"),
    ],
)
def test_what_cannot_be_is_refused(files: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        files(**{**GRPC, **options})
