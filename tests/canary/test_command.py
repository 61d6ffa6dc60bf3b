"""What the command shows of a canary's history, without a proxy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from workbench.__main__ import main
from workbench.canary import CanaryState, CanaryStep
from workbench.canary._state import write_state
from workbench.service.metrics import ServiceStats


def stats_of(requests: float, milliseconds: float = math.nan) -> ServiceStats:
    times, none = (milliseconds, milliseconds, milliseconds), math.nan
    return ServiceStats("looper", "2", 30.0, requests, requests / 30, 0.0, 0.0, *times, none, {}, 0.0, 400.0, 0.1, 90.0)


def test_what_was_not_seen_is_a_dash_and_every_column_has_a_heading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (
        CanaryStep(5.0, 30.0, stats_of(1_234_567, 2140.0), stats_of(400, 1.25), "passed", "within all limits"),
        CanaryStep(25.0, 30.0, stats_of(0), stats_of(0), "unjudged", "only 0 came"),
    )
    write_state(tmp_path, CanaryState(5.0, "held", "At 25 %, only 0 came; it stays at 5 %.", steps))
    main(["canary", str(tmp_path), "--show"])

    headings, first, second, last = capsys.readouterr().out.splitlines()
    columns = ("weight", "time", "requests", "failed", "p50", "p99", "stable's p99")
    ends = [headings.index(f" {column} ") + len(column) + 1 for column in columns]
    cells = [
        [line[start:end].strip() for start, end in zip([0, *ends[:-1]], ends, strict=True)] for line in (first, second)
    ]
    assert cells[0] == ["5 %", "30 s", "1,234,567", "0.0%", "2,140 ms", "2,140 ms", "1.2 ms"]
    assert cells[1] == ["25 %", "30 s", "0", "–", "–", "–", "–"]
    assert second.endswith("  unjudged: only 0 came")
    assert last == "held: At 25 %, only 0 came; it stays at 5 %. Now at 5 %."


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["canary", str(tmp_path / "nothing"), "--show"])

    assert ended.value.code == 2
    assert f"There is no folder {tmp_path / 'nothing'}." in " ".join(capsys.readouterr().err.split())
