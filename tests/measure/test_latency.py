"""Latency: what must hold on any machine, however fast or busy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.errors import Cancelled, DatasetError, OptionsError, ProviderError
from workbench.importers import load_model
from workbench.measure.latency import measure_latency, speedup
from workbench.model import Model

SHORT = {"seconds": 0.5, "precision": 0.1}


def test_a_result_carries_its_conditions(digits: Model, evaluation: Dataset) -> None:
    engine = build_engine(digits, options={"threads": 1})
    [stats] = measure_latency([engine], {**SHORT, "seconds": 2, "batch": 2}, dataset=evaluation)

    assert (stats.batch, stats.threads) == (2, 1)
    assert set(stats.placement) == {"CPUExecutionProvider"}
    assert stats.warmup > 0 < stats.load_ms
    assert stats.iterations >= len(stats.blocks) >= 3
    assert stats.p10 is not None
    assert stats.p50 is not None
    assert stats.p10.value <= stats.p50.value
    assert stats.p50.low <= stats.p50.value <= stats.p50.high
    assert all(block.p10_ms <= block.p50_ms for block in stats.blocks)
    assert len(stats.quantiles_ms) == 201
    assert stats.quantiles_ms == tuple(sorted(stats.quantiles_ms))
    assert stats.quantiles_ms[100] == pytest.approx(stats.p50.value)
    assert {"provider", "samples", "stable", "noise", "other load"} <= {check.name for check in stats.trust.checks}
    assert stats.samples_per_second == pytest.approx(2000 / stats.mean_ms)
    assert 10 < stats.peak_memory_mb < 10_000


def test_a_model_is_as_fast_as_itself(digits: Model) -> None:
    """Both run in turns, so what slows the machine down hits both; but in so short a time not always as often."""
    engine, ratios = build_engine(digits, options={"threads": 1}), []
    for _ in range(4):
        first, second = measure_latency([engine, engine], {"seconds": 0.6, "precision": 0.1})
        assert len(first.blocks) == len(second.blocks)
        ratios.append(speedup(first, second).p10)
        if ratios[-1].low - 0.1 < 1 < ratios[-1].high + 0.1:
            break
    else:
        pytest.fail(f"one of the two was faster every time: {ratios}")


def test_every_launch_is_a_process_of_its_own(digits: Model) -> None:
    engine = build_engine(digits, options={"threads": 1})
    [stats] = measure_latency([engine], {"seconds": 2, "precision": 0.1, "launches": 2})

    assert stats.launches == 2
    assert len(stats.blocks) >= 3


def test_candidates_with_as_many_threads_share_their_cores(tiny: Model) -> None:
    """Otherwise what runs beside one of the cores would be taken for a difference between candidates."""
    engine = build_engine(tiny, options={"threads": 1})
    others = set(psutil.Process().children())
    seen: list[list[tuple[int, ...]]] = []

    def look(fraction: float, message: str) -> None:
        measured = set(psutil.Process().children()) - others
        if fraction > 0.01 and len(measured) == 2:
            seen.append([tuple(process.cpu_affinity()) for process in measured])

    measure_latency([engine, engine], {"seconds": 0.5, "precision": 0.1, "launches": 1}, progress=look)

    assert seen
    assert all(first == second and len(first) == 1 for first, second in seen)


def test_more_samples_take_longer(digits: Model) -> None:
    engine = build_engine(digits, options={"threads": 1})
    [one], [many] = (measure_latency([engine], {**SHORT, "batch": batch}) for batch in (1, 16))

    assert many.quantiles_ms[0] > one.quantiles_ms[0]  # sixteen times the work, and the fastest of hundreds


def test_too_few_timings_give_no_percentile_and_a_caveat(digits: Model) -> None:
    [stats] = measure_latency([build_engine(digits, options={"threads": 1})], {"seconds": 0.2, "batch": 32})

    assert stats.iterations < 500
    assert stats.p99 is None
    [samples] = [check for check in stats.trust.checks if check.name == "samples"]
    assert (f"only {stats.iterations} timings" in samples.reason) is (stats.p50 is None)
    assert ("too few for the 99th percentile" in samples.reason) is (samples.verdict == "ok")


def test_a_fixed_batch_is_not_measured_at_another(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    engine = build_engine(load_model(model_file(tmp_path / "four.onnx", batch=4)), options={"threads": 1})
    with pytest.raises(OptionsError, match=r"four has a fixed batch of 4.*Set batch to 4"):
        measure_latency([engine])

    [stats] = measure_latency([engine], {"seconds": 0.2, "batch": 4})
    assert stats.batch == 4


def test_samples_that_do_not_fit_are_refused(tiny: Model) -> None:
    with pytest.raises(DatasetError, match="float64"):
        measure_latency([build_engine(tiny)], dataset=Dataset({"x": np.ones((2, 4))}))


@pytest.mark.parametrize(("name", "value"), [("seconds", 0.1), ("batch", 0), ("precision", "high")])
def test_an_option_it_cannot_have_is_refused(tiny: Model, name: str, value: object) -> None:
    with pytest.raises(OptionsError, match=f"{name} = {value!r}"):
        measure_latency([build_engine(tiny)], {name: value})


def test_a_provider_that_does_not_run_the_model_is_refused(tiny: Model) -> None:
    engine = build_engine(tiny, options={"provider": "AzureExecutionProvider"})
    with pytest.raises(ProviderError, match="nodes on CPUExecutionProvider"):
        measure_latency([engine])


def test_a_cancel_leaves_no_process(tiny: Model, processes_in: Callable[[Path], list[str]]) -> None:
    folder = Path(os.environ["WORKBENCH_WORKSPACE"])  # of this test alone, so it marks its processes
    seen: list[list[str]] = []

    def cancel(fraction: float, message: str) -> None:
        if fraction > 0.002:  # opened and warm
            seen.append(processes_in(folder))
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_latency(
            [build_engine(tiny, options={"threads": 1})] * 2, {"seconds": 30, "precision": 0.1}, progress=cancel
        )
    assert len(seen[0]) == 2
    assert processes_in(folder) == []
