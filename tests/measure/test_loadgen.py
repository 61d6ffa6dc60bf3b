"""LoadGen drives the same runner; its numbers and ours must agree, and its faults must not take the caller along."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import Faulty
from workbench.backends import build_engine
from workbench.errors import MissingDependencyError, OptionsError, WorkerError
from workbench.measure.load import measure_load
from workbench.measure.loadgen import measure_with_loadgen
from workbench.model import Model


def test_its_scenarios_agree_with_our_loads(digits: Model) -> None:
    pytest.importorskip("mlperf_loadgen")
    engine = build_engine(digits, options={"threads": 1})
    for _ in range(4):  # other work may disturb only one of them, but not every time
        single, ours = measure_with_loadgen(engine, {"seconds": 0.5}), measure_load(engine, {"seconds": 0.4})
        assert ours.p50 is not None
        if single.p50_ms == pytest.approx(ours.p50.value, rel=0.5):
            break
    else:
        pytest.fail(f"LoadGen measured {single.p50_ms} ms where we measured {ours.p50.value}")
    offline = measure_with_loadgen(engine, {"seconds": 0.3, "scenario": "Offline"})

    assert single.completed > 10 < offline.completed
    assert single.p50_ms <= single.p90_ms <= single.p99_ms
    assert offline.samples_per_second == offline.queries_per_second > 0
    assert single.version.startswith("6")


def test_server_sends_at_a_rate(digits: Model) -> None:
    pytest.importorskip("mlperf_loadgen")
    engine = build_engine(digits, options={"threads": 1})
    stats = measure_with_loadgen(engine, {"seconds": 0.5, "scenario": "Server", "rate": 100})

    assert stats.offered_per_second == pytest.approx(100, rel=0.4)  # Poisson
    with pytest.raises(OptionsError, match=r"more than the .* the runner gets through"):
        measure_with_loadgen(engine, {"seconds": 0.2, "scenario": "Server", "rate": 1e6})


def test_a_runner_that_hangs_is_ended(faulty: Faulty, processes_in: Callable[[Path], list[str]]) -> None:
    pytest.importorskip("mlperf_loadgen")
    with pytest.raises(WorkerError, match="tiny on faulty hung under LoadGen"):
        measure_with_loadgen(faulty("hangs"), {"seconds": 0.2, "hang_s": 1})
    assert processes_in(Path(os.environ["WORKBENCH_WORKSPACE"])) == []


def test_without_the_package_the_extra_is_named(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingDependencyError, match=r"deployment-workbench\[loadgen\]"):
        measure_with_loadgen(build_engine(tiny))
