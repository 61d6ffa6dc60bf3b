"""The machine while something is measured: other load is seen, clocks are read, a driver's answer is understood."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from workbench.measure.machine import (
    ConditionsWatch,
    CpuTimes,
    other_load,
    read_clocks,
    read_cpu_times,
    read_gpus,
)


def test_other_load_is_what_was_neither_ours_nor_idle() -> None:
    before, after = CpuTimes(busy=10, steal=1, total=100), CpuTimes(busy=16, steal=2, total=120)

    assert other_load(before, after, own_seconds=2) == (pytest.approx(0.2), pytest.approx(0.05))
    assert other_load(before, after, own_seconds=7) == (0, pytest.approx(0.05))
    assert other_load(None, after, own_seconds=0) == (None, 0)
    assert other_load(after, after, own_seconds=0) == (None, 0)


def test_another_process_at_work_is_seen() -> None:
    watch = ConditionsWatch()
    code = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    seen = watch.finish(own_seconds=0)

    assert seen.meanwhile.other_load is not None
    assert seen.meanwhile.other_load > 0.5 / psutil.cpu_count()
    assert abs(seen.meanwhile.clock_set_s) < 1
    assert seen.meanwhile.suspended_s < 1
    assert 0 < seen.before.p10_ms <= seen.before.p50_ms
    assert seen.gpus == ()


def test_the_processors_time_and_the_clocks_only_grow() -> None:
    first, clocks = read_cpu_times(), read_clocks()
    later, clocks_later = read_cpu_times(), read_clocks()

    assert first is not None
    assert later is not None
    assert first.total <= later.total
    assert first.busy <= first.total
    assert clocks.monotonic < clocks_later.monotonic
    assert clocks.boot <= clocks_later.boot


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("NVIDIA H100, 1980, 1980, 45, 0x0000000000000000\nNVIDIA H100, 1200, 1980, 88, 0x0000000000000020\n", 2),
        ("NVIDIA Something, [N/A], [N/A], 45, [N/A]\n", 0),
        ("", 0),
    ],
)
def test_the_drivers_answer_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, names: int
) -> None:
    tool = tmp_path / "nvidia-smi"
    (tmp_path / "answer").write_text(answer)
    tool.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    gpus = read_gpus()

    assert len(gpus) == names
    if gpus:
        assert (gpus[1].name, gpus[1].sm_mhz, gpus[1].max_sm_mhz, gpus[1].celsius) == ("NVIDIA H100", 1200, 1980, 88)
        assert gpus[1].throttling == "0x0000000000000020"
