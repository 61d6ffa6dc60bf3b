"""The trust badge: each check says what it saw, and doubts what should not be believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.made import near
from workbench.measure._checks import latency_checks
from workbench.measure._limited import Opened
from workbench.measure.machine import Calibration, Conditions, GpuState, Surroundings
from workbench.measure.trust import Check, Trust

OPENED = Opened(10.0, 1.0, {"CPUExecutionProvider": 20}, ())
QUIET = Conditions(Calibration(1.0, 1.02), Calibration(1.0, 1.03), Surroundings(other_load=0.01, steal=0.0))
GOOD: dict[str, Any] = {
    "device": "CPUExecutionProvider",
    **{"p10": near(1.0), "p50": near(1.05), "p99": near(1.5), "iterations": 1000, "medians": [1.05, 1.06]},
    **{"busy": [0.99, 1.0], "threads": 1, "launches": 5, "steady": True, "synchronised": 1.0, "conditions": QUIET},
}


def checks(opened: Opened = OPENED, **changes: Any) -> dict[str, Check]:
    return {check.name: check for check in latency_checks(opened, **{**GOOD, **changes})}


def around(**changes: Any) -> Conditions:
    return replace(QUIET, **changes)


def meanwhile(**changes: Any) -> Conditions:
    return replace(QUIET, meanwhile=replace(QUIET.meanwhile, **changes))


def test_a_quiet_machine_gives_a_good_badge_with_a_reason_for_each_check() -> None:
    trust = Trust(tuple(checks().values()))

    assert trust.good
    assert trust.caveats == ()
    assert all(check.reason for check in trust.checks)
    assert str(trust).splitlines()[0] == ("✓ provider: every node ran where it was asked to: CPUExecutionProvider (20)")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("samples", {"p50": None, "iterations": 7}, "only 7 timings"),
        ("samples", {"p50": near(1.05, 0.08)}, "known to ±8 % only"),
        ("stable", {"medians": [1.0, 1.3]}, "moved by 30 %"),
        ("stable", {"steady": False}, "had not settled"),
        ("noise", {"p50": near(1.4)}, "1.4 × the fastest tenth"),
        ("noise", {"conditions": around(after=Calibration(1.5, 1.5))}, "changed by 41 %"),
        ("processor", {"busy": [0.5, 0.5]}, "ran for 50 % of the time: other work took the core"),
        ("processor", {"busy": [0.6, 0.9], "threads": 2}, "1.5 cores at work on average, but that changed by 50 %"),
        (
            "other load",
            {"conditions": meanwhile(other_load=0.3, steal=0.05)},
            "30 % of the processors and the host 5 %",
        ),
        ("synchronised", {"synchronised": 3.0}, "takes 3.0 × what was timed"),
        ("clock", {"conditions": meanwhile(suspended_s=4.0)}, "slept for 4.0 s"),
    ],
)
def test_what_should_not_be_believed_is_doubted(name: str, changes: dict[str, Any], words: str) -> None:
    check = checks(**changes)[name]

    assert check.verdict == "doubt"
    assert words in check.reason


def test_a_clock_that_was_set_is_told_and_does_no_harm() -> None:
    check = checks(conditions=meanwhile(clock_set_s=-3600.0))["clock"]

    assert check.verdict == "ok"
    assert "set by -3600.0 s" in check.reason


def test_what_cannot_be_read_is_unknown_rather_than_fine() -> None:
    assert checks(conditions=meanwhile(other_load=None))["other load"].verdict == "unknown"
    assert checks(synchronised=None)["synchronised"].verdict == "unknown"


def test_nodes_that_ran_elsewhere_and_broken_outputs_are_told() -> None:
    split = Opened(1, 1, {"CUDAExecutionProvider": 3, "CPUExecutionProvider": 2}, ("scores",))
    found = checks(split, device="CUDAExecutionProvider")

    assert found["provider"].reason == "not all of it ran on CUDAExecutionProvider: 2 nodes on CPUExecutionProvider"
    assert found["outputs"].reason == "NaN or infinite values in the output scores"


@pytest.mark.parametrize(
    ("throttling", "verdict"), [("0x0000000000000000", "ok"), ("0x0000000000000001", "ok"), ("0x20", "doubt")]
)
def test_a_gpu_that_holds_its_clock_back_is_told(throttling: str, verdict: str) -> None:
    gpu = GpuState("A GPU", 1200, 1980, 88, throttling)
    check = checks(conditions=around(gpus=(gpu,)))["GPU clock"]

    assert check.verdict == verdict
    assert check.reason.startswith("A GPU at 1200 of 1980 MHz, 88 °C")
