"""The canary over gRPC with real haproxy and nginx before two exported services: who meets which, and what is lost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving.canary_front import Front, readme_commands, standing
from tests.serving.grpc_callers import MESSAGES, GrpcCallers, asking, grpc, grpc_request
from tests.serving.proxies import (
    PROGRAMS,
    export_failing_version,
    export_version,
    get_programs,
    request_of,
    running_service,
)
from workbench.canary import read_weight, run_canary, run_proxy
from workbench.dataset import Dataset
from workbench.exporters import Package
from workbench.service.load import load_service
from workbench.service.metrics import between, read_service

pytestmark = [pytest.mark.serving, pytest.mark.timeout(300)]

BOTH = pytest.mark.parametrize("proxy", PROGRAMS)
PATIENT = {"steps": (50, 100), "seconds": 60.0, "requests": 40, "wait_seconds": 120.0, "p99_ms": 1e4, "p99_factor": 0.0}
Stand = Callable[..., contextlib.AbstractContextManager[Front]]


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    get_programs()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, looper_sample: Dataset) -> tuple[Package, Package]:
    folder = tmp_path_factory.mktemp("grpc")
    first, second = (export_version(folder / number, number, looper_sample, grpc=True) for number in ("1", "2"))
    return first, second


@pytest.fixture
def front_of(tmp_path: Path, versions: tuple[Package, Package], looper_sample: Dataset) -> Stand:
    def stand(proxy: str, canary: Package | None = None, **options: Any) -> contextlib.AbstractContextManager[Front]:
        first, second = versions
        return standing(tmp_path, proxy, first, canary or second, request_of(2), looper_sample, grpc=True, **options)

    return stand


def callers_of(front: Front, **changes: Any) -> GrpcCallers:
    return GrpcCallers(front.listen_grpc, "", b"", **{"pause": 0.0, **changes})


def _meet(front: Front, count: int, **metadata: str) -> Counter[str]:
    """The versions that so many calls meet."""
    with asking(front.listen_grpc) as ask:
        return Counter(ask(grpc_request(2), **metadata).model_version for _ in range(count))


@BOTH
def test_calls_are_split_by_the_weight_and_by_metadata_and_a_roll_back_takes_all(front_of: Stand, proxy: str) -> None:
    with front_of(proxy, weight=25) as front:
        with callers_of(front).calling() as callers:
            callers.wait_for(2000)
        always, never = _meet(front, 50, x_canary="always"), _meet(front, 50, x_canary="never")
        front.set(60)
        raised = _meet(front, 500)
        front.set(0, reachable=False)
        back = _meet(front, 100) + _meet(front, 50, x_canary="always")
        time.sleep(4)  # in which haproxy's looks at the readiness would have found a version down
        later = _meet(front, 50)

    assert callers.lost == 0, callers.statuses
    assert callers.versions["2"] / callers.total == pytest.approx(0.25, abs=0.05)  # five standard deviations
    assert (always, never) == (Counter({"2": 50}), Counter({"1": 50}))
    assert raised["2"] / 500 == pytest.approx(0.6, abs=0.11)
    assert back == Counter({"1": 150})
    assert later == Counter({"1": 50})


@BOTH
def test_what_the_load_generator_sends_is_answered_by_both(front_of: Stand, proxy: str) -> None:
    with front_of(proxy, weight=50) as front:
        options = {"model": front.package.name, "tensors": "grpc", "seconds": 2.0}
        options["grpc_port"] = int(front.listen_grpc.rpartition(":")[2])
        before = [read_service(service.address) for service in (front.stable, front.canary)]
        found = load_service(f"http://{front.listen}", options, request=json.loads(request_of(2)))
        after = [read_service(service.address) for service in (front.stable, front.canary)]

    assert found.statuses == {200: found.answered}
    assert found.lost == 0
    counts = [between(*pair).requests for pair in zip(before, after, strict=True)]
    assert sum(counts) == found.answered + found.warmup
    assert min(counts) > 0


@BOTH
def test_nothing_but_the_protocols_calls_is_passed_on(front_of: Stand, proxy: str) -> None:
    with front_of(proxy) as front:
        with asking(front.listen_grpc, "ServerReady") as ask:
            ready = ask(MESSAGES["ServerReadyRequest"]()).ready
        codes = []
        with grpc.insecure_channel(front.listen_grpc) as channel:
            for path in (
                "/inference.GRPCInferenceService/RepositoryModelUnload",
                "/inference.GRPCInferenceService/ModelStreamInfer",
                "/inference.GRPCInferenceService/../ModelInfer",
                "/metrics",
                "/nobody",
            ):
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(path)(b"", timeout=10)
                codes.append(refused.value.code().name)

    assert ready
    assert codes == ["UNIMPLEMENTED"] * 5


@BOTH
def test_calls_of_any_size_are_answered(front_of: Stand, proxy: str) -> None:
    with front_of(proxy, weight=50) as front, asking(front.listen_grpc) as ask:
        for samples in (1, 2_000, 60_000):  # 16 bytes; about as much as is kept to be tried again; far more
            answers = [ask(grpc_request(samples)) for _ in range(8)]
            assert {len(answer.raw_output_contents[0]) for answer in answers} == {16 * samples}
        front.canary.kill()
        for samples in (1, 1_000, *((60_000,) if proxy == "nginx" else ())):  # haproxy passes large ones on once
            assert ask(grpc_request(samples), x_canary="always").model_version == "1"


@BOTH
def test_killing_the_canary_under_load_loses_no_call_but_what_nginx_cut_off(front_of: Stand, proxy: str) -> None:
    with front_of(proxy, weight=50) as front, callers_of(front, count=6).calling() as callers:
        callers.wait_for(600)
        front.canary.kill()
        callers.wait_for(1500)

    print(f"{proxy}: kill -9 of the canary: {callers.lost} of {callers.total} lost, slowest {callers.slowest:.3f} s")
    assert callers.versions["2"] > 200
    if proxy == "haproxy":
        assert callers.lost == 0, callers.statuses
    else:  # it passes an answer on as it comes: one that had begun to come is cut off, at most one of each caller
        assert callers.lost <= callers.count, callers.statuses
        assert {status.partition(":")[0] for status in callers.statuses} <= {"200", "INTERNAL"}


def test_killing_the_stable_version_under_load_loses_no_call_with_haproxy(front_of: Stand) -> None:
    with front_of("haproxy", weight=20) as front, callers_of(front, count=6).calling() as callers:
        callers.wait_for(600)
        front.stable.kill()
        callers.wait_for(1500)

    print(f"haproxy: kill -9 of the stable version: {callers.lost} of {callers.total}, slowest {callers.slowest:.3f} s")
    assert callers.lost == 0, callers.statuses


@BOTH
def test_a_canary_whose_calls_fail_is_rolled_back_by_grpc_alone(
    front_of: Stand, tmp_path: Path, looper_sample: Dataset, proxy: str
) -> None:
    bad = export_failing_version(tmp_path / "bad", "2", looper_sample, grpc=True)
    with front_of(proxy, bad) as front, callers_of(front, pause=0.004).calling() as callers:
        result = run_canary(front.package, PATIENT)
        lost = Counter(callers.statuses)
        callers.wait_for(100)
        settled = callers.statuses - lost
        after = _meet(front, 50) + _meet(front, 20, x_canary="always")
        weight = read_weight(front.run)

    print(f"{proxy}: gRPC fails: {result.steps[-1].seconds:.1f} s; {callers.lost} of {callers.total} lost; {lost}")
    assert (result.phase, weight) == ("rolled_back", 0), result.verdict
    assert "requests failed (100.0%)" in result.verdict
    assert result.steps[-1].seconds < 30
    assert after == Counter({"1": 70})
    if proxy == "haproxy":
        assert callers.lost == 0, callers.statuses
    else:  # as the README says
        assert {status.partition(":")[0] for status in lost} == {"200", "INTERNAL"}
        assert settled["200"] >= 90  # those that were under way end there


@BOTH
def test_who_rolls_back_by_hand_sees_the_calls_leave_too_and_a_proxy_started_anew_remembers(
    front_of: Stand, versions: tuple[Package, Package], proxy: str
) -> None:
    with front_of(proxy, weight=50) as front:
        before = _meet(front, 40)
        _, back = readme_commands(front.package.directory)
        subprocess.run(["bash", "-ec", back], cwd=front.package.directory, check=True)
        after = _meet(front, 40) + _meet(front, 20, x_canary="always")
    first, second = versions
    with (
        running_service(first, front.stable.port, grpc=front.stable.grpc),
        running_service(second, front.canary.port, grpc=front.canary.grpc),
        run_proxy(front.package),
    ):
        anew = _meet(front, 40) + _meet(front, 20, x_canary="always")
        front.set(100)
        again = _meet(front, 40)

    assert 5 <= before["2"] <= 35  # of 40; chance gives less or more once in five million times
    assert after == anew == Counter({"1": 60})
    assert again == Counter({"2": 40})
