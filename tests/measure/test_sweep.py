"""The sweep: the ladder finds the best with few measurements, and one bad setting does not spoil the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loads import point_of, sweep_of
from workbench.errors import OptionsError
from workbench.importers import load_model
from workbench.measure._ladder import Placement, Setting, climb, divide_cores, doublings
from workbench.measure.sweep import SweepPoint, sweep, sweet_spot
from workbench.model import Model
from workbench.workspace import Workspace

BATCHES = (1, 2, 4, 8, 16, 32)


def test_cores_are_divided_without_leaving_any() -> None:
    assert doublings(6) == (1, 2, 4, 6)
    assert divide_cores((1, 2, 4), (1, 2, 4), 4) == [Placement(4, 1), Placement(2, 2), Placement(1, 4)]
    assert divide_cores((None,), (1, 2), 2) == [Placement(None, 2)]
    assert divide_cores((8,), (2, 4), 4) == [Placement(8, 2)]  # too many threads were asked for


@pytest.mark.parametrize("cores", [2, 8, 64])
@pytest.mark.parametrize(("serial", "overhead"), [(0.0, 0.0), (0.02, 0.0), (0.05, 0.6), (0.3, 3.0)])
def test_the_ladder_finds_the_best_of_the_grid_in_a_fraction_of_it(cores: int, serial: float, overhead: float) -> None:
    """Inferences with a serial share (Amdahl) and a fixed overhead that larger batches spread out."""

    def rate(setting: Setting) -> float:
        batch, threads, instances = setting
        seconds = overhead + batch * (serial + (1 - serial) / (threads or 1))
        crowded = max(1.0, (threads or 1) * instances / cores)
        return instances * batch / (seconds * crowded)

    measured: dict[Setting, float] = {}

    def gain(before: Setting, after: Setting) -> float:
        measured.update({setting: rate(setting) for setting in (before, after)})
        return measured[after] / measured[before]

    counts = doublings(cores)
    climb(BATCHES, divide_cores(counts, counts, cores), gain)
    grid = [Setting(b, t, i) for b in BATCHES for t in counts for i in counts]

    assert max(measured.values()) >= 0.97 * max(map(rate, grid))
    assert len(measured) <= max(8, len(grid) / 5)


def test_the_ladder_stops_where_doubling_stops_paying() -> None:
    asked = []

    def gain(before: Setting, after: Setting) -> float:
        asked.append(after.batch)
        return min(after.batch, 4) / min(before.batch, 4)

    climb(BATCHES, [Placement(1, 1)], gain)
    assert max(asked) == 8


def test_the_sweet_spot_is_the_highest_throughput_that_keeps_the_limit() -> None:
    small, middle, large = point_of(1, 100, 10), point_of(4, 180, 22), point_of(16, 200, 80)
    found = sweep_of(small, middle, large, SweepPoint(32, 1, 1, "failed", "it hung"))

    assert (found.best, sweet_spot(found, 30), sweet_spot(found, 12)) == (large, middle, small)
    assert sweet_spot(found, 5) is None


def test_without_a_99th_percentile_the_slowest_has_to_keep_the_limit() -> None:
    found = sweep_of(point_of(1, 100, 10, p99=None, worst_ms=math.inf))

    assert sweet_spot(found, 20) is None
    assert found.best is not None


def test_luck_does_not_win() -> None:
    """The first measurement of a point that was measured again does not count, nor does one that was not."""
    lucky, steady, once = point_of(1, 130, 10, 90, 95, 92), point_of(2, 128, 10, 100, 101, 99), point_of(4, 110, 10)

    assert sweep_of(lucky, steady, once).best == steady


def test_a_sweep_measures_some_and_says_why_it_left_out_the_others(digits: Model, workspace: Workspace) -> None:
    seen: list[SweepPoint] = []
    options = {"batches": [4, 1], "threads": [1, 2], "instances": [1], "seconds": 0.1, "rounds": 0}
    found = sweep(digits, options=options, workspace=workspace, watch=seen.append)
    measured = [point for point in found.points if point.state == "measured"]

    assert [(point.batch, point.threads, point.instances) for point in found.points] == [
        (batch, threads, 1) for batch in (1, 4) for threads in (1, 2)
    ]
    assert found.best in measured
    assert len(seen) == len(measured) >= 2
    assert all(point.reason for point in found.points if point.state == "skipped")
    assert all(point.stats is not None and point.stats.pattern == "closed" for point in measured)
    assert (
        sweep(digits, options=options, workspace=workspace, watch=lambda point: pytest.fail("measured again")) == found
    )


def test_a_setting_that_takes_too_much_memory_fails_alone(digits: Model) -> None:
    options = {"batches": [1, 4096], "threads": [1], "instances": [1], "search": "grid", "seconds": 0.1}
    small, large = sweep(digits, options={**options, "memory_gb": 0.2}).points

    assert (small.state, large.state) == ("measured", "failed")
    assert "digits_cnn at batch 4096, 1 thread, 1 instance took " in large.reason
    assert " GB of memory while " in large.reason


def test_a_fixed_batch_is_the_only_one(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    fixed = load_model(model_file(tmp_path / "four.onnx", batch=4))
    found = sweep(fixed, options={"threads": [1], "instances": [1], "seconds": 0.1})

    assert [point.batch for point in found.points] == [4]
    assert found.best is not None


def test_options_it_cannot_have_are_refused(tiny: Model) -> None:
    for batches in ([], [0]):
        with pytest.raises(OptionsError, match="batches"):
            sweep(tiny, options={"batches": batches})
