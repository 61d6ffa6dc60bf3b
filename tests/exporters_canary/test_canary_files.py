"""The canary's package without its programs: what stands in the files, and from what each number comes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.exporters.monitored import PLAN
from tests.exporters_canary.conftest import PROXIES
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError, OptionsError
from workbench.exporters import Contents, canary, export_package
from workbench.exporters.canary.settings import canary_settings, proxy_settings
from workbench.model import Model
from workbench.serving_measurements import Derived


@pytest.mark.parametrize("proxy", PROXIES)
def test_both_versions_and_the_callers_have_their_addresses(files: Any, proxy: str) -> None:
    text, readme, settings = files(
        proxy=proxy, stable="10.0.0.1:9000", canary="[::1]:9001", listen="localhost:9080", version="7"
    )
    for address in ("10.0.0.1:9000", "[::1]:9001", "localhost:9080"):
        assert address in text
        assert f"| {address} |" in readme
    assert (settings.stable, settings.canary, settings.listen) == ("10.0.0.1:9000", "[::1]:9001", "localhost:9080")
    assert "canary, version 7" in readme


@pytest.mark.parametrize("proxy", PROXIES)
def test_every_limit_of_the_proxy_says_what_it_comes_from(files: Any, proxy: str) -> None:
    text, _, _ = files(
        replace(PLAN, request_seconds=Derived(2.5, "s", "20 × the 99th percentile of 125 ms")), proxy=proxy
    )
    [timeout] = re.findall(r"^ *(?:timeout server|proxy_read_timeout) (\S+?);? # (.*)$", text, re.M)

    assert timeout[0] == "3500ms"
    assert "20 × the 99th percentile of 125 ms" in timeout[1]
    for words in ("4 × 400: what both versions take in", "a power of two above the sample request"):
        assert words in text


def test_a_request_fits_into_what_is_tried_again() -> None:
    for sample_bytes in (10, 16_384, 600_000, 5_000_000):
        assert proxy_settings(PLAN, sample_bytes, None).buffer.value >= sample_bytes + 16_384
    assert proxy_settings(PLAN, 10, None).body.value == 16e6
    assert proxy_settings(PLAN, 5_000_000, None).body.value == 40e6
    assert proxy_settings(PLAN, 5_000_000, 2.0).body.value == 2e6


def test_the_limits_are_the_plans(files: Any) -> None:
    _, readme, settings = files()
    limits = settings.limits

    assert limits.p99_ms == PLAN.alert_p99_ms
    assert limits.error_ratio == PLAN.alert_error_ratio
    assert limits.requests_per_step.value == 300
    assert settings.steps_percent == (1, 5, 25, 50, 100)
    for name, number in limits.numbers.items():
        assert f"| {name.replace('_', ' ')} | {number.value:g}" in readme
        assert number.source in readme


def test_a_limit_beyond_the_histogram_is_its_last_bound() -> None:
    slow = replace(PLAN, alert_p99_ms=Derived(900, "ms", "3 × slow"))
    assert canary_settings(slow).p99_ms.value == max(PLAN.buckets_ms)
    assert "3 × slow is beyond" in canary_settings(slow).p99_ms.source


def test_a_step_waits_longer_where_requests_are_few() -> None:
    def wait(rate: float) -> float:
        plan = replace(PLAN, rate_per_replica=Derived(rate, "queries/s", "0.7 × the knee"))
        return canary_settings(plan).wait_seconds.value

    assert wait(10_000) == 120
    assert wait(280) == pytest.approx(4 * 300 / 2.8, rel=0.05)
    assert wait(0.1) == 3600


@pytest.mark.parametrize(
    ("rate", "seconds"), [(0.001, "30000000"), (14, "2140"), (280, "107"), (1000, "30"), (9000, "3.33")]
)
def test_how_long_a_step_waits_is_told_in_digits(files: Any, rate: float, seconds: str) -> None:
    _, readme, _ = files(replace(PLAN, rate_per_replica=Derived(rate, "queries/s", "0.7 × the knee")))
    assert f"4 × the {seconds} s that 300 requests take at 1 % of {rate:g} queries/s" in readme


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_readme_says_how_a_package_is_checked_and_how_the_command_ends(files: Any, proxy: str) -> None:
    _, readme, _ = files(proxy=proxy)
    assert "    sha256sum -c SHA256SUMS\n    workbench verify .\n" in readme
    for code in ("0", "1", "3", "2, 130"):
        assert f"| {code} | " in readme
    assert "Both versions are looked at every second." in readme


@pytest.mark.parametrize("proxy", PROXIES)
def test_callers_are_known_by_a_cookie_only_if_they_may_stay(files: Any, proxy: str) -> None:
    sticky, _, _ = files(proxy=proxy)
    loose, readme, _ = files(proxy=proxy, sticky=False)

    assert "Set-Cookie" in sticky
    assert "cookie" not in loose.lower()
    assert "dealt out anew" in readme


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"listen": "0.0.0.0:80"}, "Whoever reaches 0.0.0.0:80 could use both versions.*say `open`"),
        ({"listen": "models.example.com:80"}, "Whoever reaches models.example.com:80"),
        ({"stable": "127.0.0.1:8001"}, "two of them are the same"),
        ({"canary": "127.0.0.1"}, "cannot take canary = '127.0.0.1'.*host:port"),
        ({"canary": "127.0.0.1:99999"}, "cannot take canary"),
        ({"listen": "127.0.0.1:80\n    stats enable"}, "cannot take listen"),
        ({"stable": "a b:1"}, "cannot take stable"),
        ({"version": "2; }"}, "cannot take version"),
        ({"weight": 101}, "weight = 101"),
        ({"proxy": "apache"}, "proxy = 'apache'.*haproxy, nginx"),
    ],
)
def test_what_cannot_be_is_refused(files: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        files(**options)


def test_it_listens_to_others_only_if_it_is_told_so(files: Any) -> None:
    text, readme, _ = files(listen="0.0.0.0:80", open=True)
    assert "bind 0.0.0.0:80" in text
    assert "**It listens to other machines:**" in readme


def test_a_type_that_the_protocol_has_not_is_refused(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> None:
    engine = build_engine(tiny)
    strange = replace(tiny, inputs=(replace(tiny.inputs[0], dtype="bfloat16"),))
    contents = Contents(Candidate("c", replace(engine, model=strange)), "digits", tiny_data.inputs, {}, None, PLAN)
    with pytest.raises(ExportError, match="bfloat16"):
        canary.export(contents, canary.Options(), tmp_path)


def test_a_package_holds_the_chosen_proxy_only(tiny: Model, tiny_data: Dataset, tmp_path: Path) -> None:
    candidate = Candidate("as it is", build_engine(tiny))
    for proxy, name in PROXIES.items():
        package = export_package(candidate, "canary", {"proxy": proxy}, sample=tiny_data, directory=tmp_path / proxy)
        assert {path.name for path in package.directory.iterdir()} & {*PROXIES.values()} == {name}
