"""The canary with real haproxy and nginx before two exported services: who meets which version, and what is lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.serving.canary_front import Front, standing
from tests.serving.proxies import (
    PROGRAMS,
    Callers,
    ask,
    export_failing_version,
    export_version,
    get_programs,
    request_of,
    wait_until_ready,
)
from workbench.canary import CanaryResult, CanaryStep, read_canary, read_weight, run_canary
from workbench.dataset import Dataset
from workbench.exporters import Package
from workbench.provenance import verify_package

pytestmark = [pytest.mark.serving, pytest.mark.timeout(300)]

BOTH = pytest.mark.parametrize("proxy", PROGRAMS)
QUICK = {"steps": (10, 50, 100), "seconds": 3.0, "requests": 40, "wait_seconds": 40.0, "p99_factor": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    get_programs()


@BOTH
def test_callers_are_split_by_the_weight_by_header_and_by_cookie(digits_front: Any, proxy: str) -> None:
    with digits_front(proxy, weight=25) as front:
        with front.callers(pause=0.0).calling() as callers:
            callers.wait_for(2000)
        always = Counter(front.ask(X_Canary="always")[0] for _ in range(50))
        never = Counter(front.ask(X_Canary="never")[0] for _ in range(50))
        known = [front.ask() for _ in range(40)]
        again = [[front.ask(Cookie=cookie)[0] for _ in range(5)] for _, cookie in known]
        front.set(60)
        raised = [front.ask(Cookie=cookie)[0] for _, cookie in known]
        front.set(0, reachable=False)
        back = Counter(front.ask(Cookie=cookie)[0] for _, cookie in known)
        back.update(front.ask(X_Canary="always")[0] for _ in range(50))
        verified = verify_package(front.package.directory)

    assert callers.lost == 0
    assert callers.versions["2"] / callers.total == pytest.approx(0.25, abs=0.05)  # five standard deviations
    assert (always, never) == (Counter({"2": 50}), Counter({"1": 50}))
    assert len({cookie for _, cookie in known}) == 40
    assert {version for version, _ in known} == {"1", "2"}
    assert again == [[version] * 5 for version, _ in known]
    assert all(later == "2" for (version, _), later in zip(known, raised, strict=True) if version == "2")
    assert raised.count("2") > sum(version == "2" for version, _ in known)
    assert back == Counter({"1": 90})
    assert verified.ok  # nothing was written into the package


@BOTH
def test_nothing_but_inference_is_passed_on(digits_front: Any, proxy: str) -> None:
    with digits_front(proxy) as front:
        direct = ask(front.stable.address, "GET", "/metrics")
        for path in (
            *("/metrics", "//metrics", "/metrics/", "/metrics?x=1", "/v2/../metrics", "/v2/%2e%2e/metrics"),
            *("/v2/..%2fmetrics", "/v2%2f..%2fmetrics", "/%6detrics", f"http://{front.listen}/metrics", "/", "/v2x"),
        ):
            status, _, body = ask(front.listen, "GET", path)
            assert status in (400, 403, 404), path
            assert b"workbench_" not in body, path
        assert ask(front.listen, "GET", "/v2")[0] == 200
        assert ask(front.listen, "GET", f"/v2/models/{front.package.name}/ready")[0] == 200

    assert direct[0] == 200
    assert b"workbench_" in direct[2]


@BOTH
def test_requests_of_any_size_are_answered_up_to_the_limit(
    tmp_path: Path, looper: Package, looper_sample: Dataset, proxy: str
) -> None:
    with standing(
        tmp_path, proxy, looper, looper, request_of(2), looper_sample, body_megabytes=0.5, weight=50
    ) as front:
        for samples in (1, 500, 10_000):  # 100 bytes; about as much as is kept to be tried again; far more
            assert ask(front.listen, "POST", front.path, request_of(samples))[0] == 200
        assert ask(front.listen, "POST", front.path, b" " * 600_000)[0] == 413


@BOTH
def test_killing_the_canary_under_load_loses_no_request(digits_front: Any, proxy: str) -> None:
    with digits_front(proxy, weight=50) as front, front.callers(pause=0.0, count=6).calling() as callers:
        callers.wait_for(600)
        front.canary.kill()
        callers.wait_for(1500)

    print(f"{proxy}: kill -9 of the canary: {callers.lost} of {callers.total} lost, slowest {callers.slowest:.3f} s")
    assert callers.lost == 0, callers.statuses
    assert callers.versions["2"] > 200
    assert callers.slowest < 3


def test_killing_the_stable_version_under_load_loses_no_request_with_haproxy(digits_front: Any) -> None:
    with digits_front("haproxy", weight=20) as front, front.callers(pause=0.0, count=6).calling() as callers:
        callers.wait_for(600)
        front.stable.kill()
        callers.wait_for(1500)

    print(f"haproxy: kill -9 of the stable version: {callers.lost} of {callers.total} lost")
    assert callers.lost == 0, callers.statuses


@BOTH
def test_killing_workers_of_a_version_under_load_loses_no_request(digits_front: Any, proxy: str) -> None:
    with digits_front(proxy, workers=2) as front, front.callers(pause=0.0, count=6).calling() as callers:
        callers.wait_for(300)
        for _ in range(4):
            os.kill(front.stable.workers()[0], signal.SIGKILL)
            callers.wait_for(300)
            wait_until_ready(front.stable.address)

    print(f"{proxy}: kill -9 of 4 workers: {callers.lost} of {callers.total} lost")
    assert callers.lost == 0, callers.statuses


@BOTH
def test_a_good_canary_is_promoted_and_no_request_is_lost(digits_front: Any, proxy: str) -> None:
    seen: list[tuple[float, str]] = []

    def look(step: CanaryStep) -> None:
        state = read_canary(front.package.directory)
        seen.append((state.weight_percent, state.phase))

    with digits_front(proxy) as front, front.callers().calling() as callers:
        assert read_canary(front.run).phase == "idle"
        result = run_canary(front.package, QUICK, on_step=look)
        callers.wait_for(100)
        state, weight = read_canary(front.package.directory), read_weight(front.run)

    print(f"{proxy}: promotion: {callers.lost} of {callers.total} lost")
    assert result.promoted, result.verdict
    assert callers.lost == 0, callers.statuses
    assert [step.weight_percent for step in result.steps] == [10, 50, 100]
    assert {(10, "running"), (50, "running"), (100, "running")} <= set(seen)
    assert (state.phase, state.weight_percent, weight) == ("promoted", 100, 100)
    shares = [step.canary.requests / (step.canary.requests + step.stable.requests) for step in result.steps]
    assert shares[0] == pytest.approx(0.1, abs=0.07)
    assert shares[1] == pytest.approx(0.5, abs=0.1)
    assert shares[2] > 0.9


def _raise_under_load(front: Front, name: str) -> tuple[CanaryResult, Callers]:
    with front.callers().calling() as callers:
        begun = time.monotonic()
        result = run_canary(front.package, {**QUICK, "seconds": 30.0})
        seconds = time.monotonic() - begun
        callers.versions.clear()
        callers.wait_for(200)
    print(
        f"{name}: rolled back {seconds:.1f} s after the first caller could meet the fault; "
        f"{callers.lost} of {callers.total} lost; {result.verdict}"
    )
    assert result.phase == "rolled_back", result.verdict
    assert (read_weight(front.run), read_canary(front.package.directory).phase) == (0, "rolled_back")
    assert callers.versions["1"] >= 190  # the few that were under way at the slow one may end there
    assert seconds < 20
    return result, callers


@BOTH
def test_a_canary_whose_requests_fail_is_rolled_back_and_no_caller_notices(
    tmp_path: Path, looper: Package, looper_sample: Dataset, proxy: str
) -> None:
    bad = export_failing_version(tmp_path / "bad", "2", looper_sample)
    with standing(tmp_path, proxy, looper, bad, request_of(2), looper_sample) as front:
        result, callers = _raise_under_load(front, f"{proxy}: status 500")

    assert "requests failed (100.0%)" in result.verdict
    assert callers.lost == 0, callers.statuses


@BOTH
def test_a_canary_that_turns_requests_away_is_rolled_back_and_no_caller_notices(
    tmp_path: Path, looper: Package, looper_sample: Dataset, proxy: str
) -> None:
    full = export_version(tmp_path / "full", "2", looper_sample, steps=2_000, queue=1)
    with (
        standing(tmp_path, proxy, looper, full, request_of(2), looper_sample) as front,
        front.callers(count=8, pause=0.0).calling() as callers,
    ):
        result = run_canary(front.package, {**QUICK, "seconds": 30.0, "steps": (50, 100)})

    print(f"{proxy}: status 503: {result.steps[-1].seconds:.1f} s; {callers.lost} of {callers.total} lost")
    assert result.phase == "rolled_back", result.verdict
    assert "requests failed" in result.verdict
    assert callers.lost == 0, callers.statuses


@BOTH
def test_a_slow_canary_is_rolled_back_and_no_request_is_lost(
    tmp_path: Path, looper: Package, looper_sample: Dataset, proxy: str
) -> None:
    slow = export_version(tmp_path / "slow", "2", looper_sample, steps=150_000)
    with (
        standing(tmp_path, proxy, looper, slow, request_of(2), looper_sample) as front,
        front.callers().calling() as callers,
        front.callers(count=2, headers={"X-Canary": "never"}).calling() as others,
    ):
        result = run_canary(front.package, {**QUICK, "seconds": 30.0, "p99_ms": 100.0})

    print(f"{proxy}: slow: {result.steps[-1].seconds:.1f} s; {callers.lost} of {callers.total} lost; {result.verdict}")
    assert result.phase == "rolled_back", result.verdict
    assert "the limit is 100 ms" in result.verdict
    assert callers.lost == 0, callers.statuses
    assert others.lost == 0, others.statuses
    assert set(others.versions) == {"1"}  # who does not take part notices nothing


@BOTH
def test_a_canary_that_dies_in_the_middle_is_rolled_back_and_no_request_is_lost(digits_front: Any, proxy: str) -> None:
    killed: list[float] = []

    def kill(step: CanaryStep) -> None:
        if step.canary.requests > 10 and not killed:
            front.canary.kill()
            killed.append(time.monotonic())

    with digits_front(proxy) as front, front.callers().calling() as callers:
        result = run_canary(front.package, {**QUICK, "seconds": 30.0}, on_step=kill)
        seconds = time.monotonic() - killed[0]

    print(f"{proxy}: killed: rolled back {seconds:.1f} s later; {callers.lost} of {callers.total} lost")
    assert result.phase == "rolled_back", result.verdict
    assert "its metrics are gone" in result.verdict
    assert callers.lost == 0, callers.statuses
    assert seconds < 5
