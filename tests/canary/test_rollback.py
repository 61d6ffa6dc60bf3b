"""A canary that is worse than the stable version is rolled back, long before its step would end."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.canary.splitting import LIMITS, PATIENT, GrpcSplitter, Splitter, go
from tests.serving.proxies import (
    Service,
    export_failing_version,
    export_renamed_version,
    export_version,
    free_port,
    free_ports,
    running_service,
)
from workbench.canary import CanaryStep
from workbench.canary._proxy import Weight
from workbench.canary._verdict import chance_of
from workbench.dataset import Dataset
from workbench.exporters import Package


def test_a_canary_that_fails_is_rolled_back_and_no_caller_notices(stable: str, sample: Dataset, tmp_path: Path) -> None:
    bad = export_failing_version(tmp_path / "bad", "2", sample)
    with running_service(bad, free_port()) as service, Splitter(stable, service.address).calling() as splitter:
        result = go(splitter, tmp_path, PATIENT)

    assert (result.phase, splitter.weight) == ("rolled_back", Weight(0.0, False))
    assert "requests failed (100.0%); the limit is 1.0%; nobody reaches it any more" in result.verdict
    assert result.steps[-1].seconds < PATIENT.seconds / 2  # at once, not at the end of the step
    assert result.steps[-1].outcome == "breached"
    assert set(splitter.statuses) == {200}


def test_a_canary_that_fails_over_grpc_alone_is_rolled_back(sample: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    good = export_version(tmp_path / "good", "1", sample, grpc=True)
    bad = export_failing_version(tmp_path / "bad", "2", sample, grpc=True)
    *ports, first, second = free_ports(4)
    with (
        running_service(good, ports[0], grpc=first) as stable,
        running_service(bad, ports[1], grpc=second) as canary,
    ):
        grpc = {stable.address: f"127.0.0.1:{first}", canary.address: f"127.0.0.1:{second}"}
        with GrpcSplitter(stable.address, canary.address, grpc=grpc).calling() as splitter:
            result = go(splitter, tmp_path, PATIENT)

    assert (result.phase, splitter.weight) == ("rolled_back", Weight(0.0, False))
    assert "requests failed (100.0%); the limit is 1.0%" in result.verdict
    assert result.steps[-1].stable.requests > 0
    assert set(splitter.statuses) == {200}


@pytest.mark.heavy
def test_a_canary_that_refuses_what_the_stable_version_takes_is_rolled_back(
    stable: str, canary: Service, tmp_path: Path
) -> None:
    with Splitter(stable, canary.address, body=b"{}").calling() as splitter:
        same = go(splitter, tmp_path)
    other = export_renamed_version(tmp_path / "other", "2")
    with running_service(other, free_port()) as service, Splitter(stable, service.address).calling() as splitter:
        result = go(splitter, tmp_path)

    assert same.promoted  # the callers are at fault, not the canary
    assert result.phase == "rolled_back"
    assert "requests were refused (100.0%); the stable version refuses 0.0%" in result.verdict


@pytest.mark.heavy
def test_a_slow_canary_is_rolled_back_by_its_limit_or_by_the_stable_versions_time(
    stable: str, sample: Dataset, tmp_path: Path
) -> None:
    slow = export_version(tmp_path / "slow", "2", sample, steps=40_000)
    with running_service(slow, free_port()) as service, Splitter(stable, service.address).calling() as splitter:
        alone = go(splitter, tmp_path, replace(PATIENT, limits=replace(LIMITS, p99_ms=30)))
        splitter.set(Weight(0.0, True))
        beside = go(splitter, tmp_path, replace(PATIENT, limits=replace(LIMITS, p99_factor=2)))

    assert alone.phase == beside.phase == "rolled_back"
    assert "ms; the limit is 30 ms" in alone.verdict
    assert "in the same time, and 2 times that is the limit" in beside.verdict
    assert max(alone.steps[-1].seconds, beside.steps[-1].seconds) < PATIENT.seconds / 2


def test_a_canary_that_is_killed_is_rolled_back(stable: str, canary: Service, tmp_path: Path) -> None:
    def kill(step: CanaryStep) -> None:
        if step.canary.requests:
            canary.kill()

    with Splitter(stable, canary.address).calling() as splitter:
        result = go(splitter, tmp_path, PATIENT, on_step=kill)

    assert result.phase == "rolled_back"
    assert "its metrics are gone" in result.verdict
    assert result.seconds < PATIENT.seconds / 2
    assert set(splitter.statuses) == {200}


@pytest.mark.heavy
def test_a_canary_that_was_started_anew_is_rolled_back(
    stable: str, canary: Service, good: Package, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:

        def restart(step: CanaryStep) -> None:
            # Two starts within 1.5 s count as one: the first must be longer ago.
            if step.seconds > 3 and step.canary.requests > 5 and canary.process.poll() is None:
                canary.kill()
                stack.enter_context(running_service(good, canary.port))

        splitter = stack.enter_context(Splitter(stable, canary.address).calling())
        result = go(splitter, tmp_path, PATIENT, on_step=restart)

    assert result.phase == "rolled_back"
    assert "it was started anew" in result.verdict


@pytest.mark.heavy
def test_a_stable_version_that_is_gone_leaves_nothing_to_roll_back_to(good: Package, tmp_path: Path) -> None:
    with (
        running_service(good, free_port()) as stable,
        running_service(good, free_port()) as canary,
        Splitter(stable.address, canary.address, Weight(20.0, True)).calling() as splitter,
    ):
        result = go(splitter, tmp_path, PATIENT, on_step=lambda step: stable.kill())

    assert (result.phase, result.weight_percent) == ("held", 20)
    assert "the stable version shows no metrics any more" in result.verdict


@pytest.mark.parametrize(("count", "expected"), [(1, 0.5), (3, 0.2), (9, 3.0), (30, 12.0), (1200, 1000.0)])
def test_the_chance_of_a_count_is_poissons(count: int, expected: float) -> None:
    below = math.fsum(math.exp(k * math.log(expected) - expected - math.lgamma(k + 1)) for k in range(count))
    assert chance_of(count, expected) == pytest.approx(1 - below, rel=1e-6, abs=1e-11)
