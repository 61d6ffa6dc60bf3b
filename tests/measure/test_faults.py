"""What goes wrong while measuring is said in words, ends only itself, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import Faulty
from workbench.backends import build_engine
from workbench.errors import WorkerError
from workbench.measure.latency import LatencyStats, measure_latency
from workbench.model import Model

SHORT = {"seconds": 0.5, "launches": 1}


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        ("crashes", {}, "tiny on faulty, measuring latency: The subprocess broke (SIGABRT)"),
        ("hangs", {"hang_s": 6}, "tiny on faulty hung: no answer for 6 s while measuring latency"),
        ("leaks", {"memory_gb": 0.3, "seconds": 1.5}, " GB of memory while measuring latency"),
    ],
)
def test_one_that_goes_wrong_is_ended_and_the_others_go_on(
    faulty: Faulty, tiny: Model, fault: str, options: dict[str, float], words: str
) -> None:
    good = build_engine(tiny, options={"threads": 1})
    first, failed, last = measure_latency([good, faulty(fault), good], {**SHORT, **options}, keep_going=True)

    assert isinstance(failed, WorkerError)
    assert words in str(failed)
    for other in (first, last):
        assert isinstance(other, LatencyStats)
        assert other.iterations > 20


def test_alone_its_error_is_the_result(faulty: Faulty, processes_in: Callable[[Path], list[str]]) -> None:
    with pytest.raises(WorkerError, match="SIGABRT"):
        measure_latency([faulty("crashes")], SHORT)
    assert processes_in(Path(os.environ["WORKBENCH_WORKSPACE"])) == []


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("nan", "outputs", "NaN or infinite values in the output scores"),
        ("late", "synchronised", "× what was timed"),
        ("slows down", "stable", "the median moved by"),
    ],
)
def test_numbers_that_mislead_carry_a_doubt(faulty: Faulty, fault: str, check: str, words: str) -> None:
    [stats] = measure_latency([faulty(fault)], {**SHORT, "seconds": 1, "precision": 0.1})

    [found] = [entry for entry in stats.trust.checks if entry.name == check]
    assert (found.verdict, words in found.reason) == ("doubt", True), str(stats.trust)
    assert not stats.trust.good


def test_numbers_without_fault_carry_none_of_these_doubts(faulty: Faulty) -> None:
    """Other work can make the few calls that are compared look unsynchronised, but not every time."""
    for _ in range(4):
        [stats] = measure_latency([faulty("nothing")], {**SHORT, "seconds": 1, "precision": 0.1})
        verdicts = {check.name: check.verdict for check in stats.trust.checks}
        assert {verdicts[name] for name in ("provider", "outputs", "launches")} == {"ok"}
        if verdicts["synchronised"] == "ok":
            break
    else:
        pytest.fail(str(stats.trust))


def test_a_process_killed_by_the_system_is_told_from_a_crash(faulty: Faulty) -> None:
    from workbench.jobs import Worker

    with Worker(signal.pause) as worker:  # type: ignore[arg-type]
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="memory ran out"):
            worker.receive()
