"""Load: what must hold on any machine, however fast or busy; and what happens to a runner that goes wrong."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.faults import Faulty
from tests.loads import load_of
from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import Cancelled, DatasetError, EngineError, OptionsError, WorkerError
from workbench.importers import load_model
from workbench.measure.load import LoadPoint, LoadStats, knee, make_feeds, measure_load, measure_load_curve
from workbench.model import Model

SHORT = {"seconds": 0.4}


@pytest.fixture
def engine(digits: Model) -> Engine:
    return build_engine(digits, options={"threads": 1})


def under_way(stats: LoadStats) -> tuple[float, float]:
    """How many queries were under way on average (Little's law), and the fewest that there can have been.

    What is under way at the end is not counted, and none of that has waited longer than the longest latency.
    """
    mean = stats.completed * stats.mean_ms / 1000 / stats.seconds
    return mean, (stats.concurrency or 0) * (1 - stats.worst_ms / 1000 / stats.seconds)


def test_a_closed_loop_obeys_littles_law(engine: Engine, evaluation: Dataset) -> None:
    points: list[LoadPoint] = []
    options = {"seconds": 1, "concurrency": 4, "instances": 2, "batch": 2}
    stats = measure_load(engine, options, dataset=evaluation, watch=points.append)

    mean, fewest = under_way(stats)
    assert fewest <= mean <= 4 * 1.000001
    # Each caller goes on until the second is over, and the last ends last.
    assert stats.completed / stats.seconds <= stats.queries_per_second <= stats.completed / options["seconds"]
    assert stats.samples_per_second == 2 * stats.queries_per_second
    assert (stats.offered_per_second, stats.unfinished, stats.kept_up) == (None, 0, True)
    assert (stats.instances, stats.threads, stats.batch) == (2, 1, 2)
    assert stats.placement.keys() == {"CPUExecutionProvider"}
    assert 0 < stats.cores_busy <= 1.1
    assert 10 < stats.peak_memory_mb < 10_000
    assert stats.p50 is not None
    assert stats.p50.low <= stats.p50.value <= stats.p50.high <= stats.worst_ms
    assert {check.name for check in stats.trust.checks} >= {"provider", "outputs", "samples", "stable", "other load"}
    assert len(points) >= 2
    assert all(0 < point.p50_ms <= point.worst_ms and point.offered is None for point in points)


def test_an_open_loop_without_a_rate_takes_one_that_can_be_kept_up_with(engine: Engine) -> None:
    stats = measure_load(engine, {**SHORT, "pattern": "poisson", "max_wait_s": 60})

    assert stats.offered_per_second is not None
    assert stats.completed == round(stats.offered_per_second * 0.4)
    assert stats.unfinished == 0
    assert "schedule" in {check.name for check in stats.trust.checks}


def test_too_much_ends_by_itself_and_is_said(engine: Engine) -> None:
    stats = measure_load(engine, {"pattern": "poisson", "rate": 50_000, "seconds": 5, "max_wait_s": 0.2})

    assert not stats.kept_up
    assert stats.seconds < 5
    assert stats.unfinished > stats.completed > 0
    assert stats.queries_per_second < 0.5 * (stats.offered_per_second or 0)
    assert "more queries came than could be served" in str(stats.trust.caveats)


def test_all_at_once_gives_throughput_only(engine: Engine) -> None:
    stats = measure_load(engine, {**SHORT, "pattern": "offline", "instances": 2})

    assert stats.p50 is stats.p99 is None
    assert stats.queries_per_second == pytest.approx(stats.completed / stats.seconds)


def test_each_instance_gets_other_samples(engine: Engine, evaluation: Dataset) -> None:
    feeds = make_feeds(engine, evaluation.take(3), 2, 2)

    assert np.array_equal(feeds[0]["image"], evaluation.inputs["image"][:2])
    assert np.array_equal(feeds[1]["image"], evaluation.inputs["image"][[2, 0]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "poisson", "rate": 0}, r"rate = 0.*at least 0\.001|rate = 0.*from 0\.001"),
        ({"instances": 2}, r"concurrency of 1 leaves some of 2 instances without work.*Set concurrency to 2"),
        ({"pattern": "constant", "rate": 1e6, "seconds": 3600}, r"3\.6e\+09 queries.*lower rate"),
        ({"callers": "threads"}, "Choose one of runners, shared, asynchronous"),
        ({"pattern": "bursts"}, "Choose one of closed, constant, poisson, offline"),
    ],
)
def test_a_load_that_cannot_be_is_refused(tiny: Model, options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        measure_load(build_engine(tiny, options={"threads": 1}), options)


@pytest.mark.parametrize(("callers", "threads"), [("shared", 1), ("asynchronous", 2)])
@pytest.mark.parametrize("pattern", ["closed", "poisson"])
def test_callers_may_share_one_runner(digits: Model, callers: str, threads: int, pattern: str) -> None:
    engine = build_engine(digits, options={"threads": threads})
    options = {**SHORT, "instances": 2, "concurrency": 2, "callers": callers, "pattern": pattern, "max_wait_s": 60}
    stats = measure_load(engine, options)

    assert (stats.callers, stats.instances, stats.threads) == (callers, 2, threads)
    if stats.offered_per_second is not None:  # some share of what the warm-up got through, little on a busy machine
        assert stats.completed == round(stats.offered_per_second * 0.4) > 0
    else:
        assert stats.completed > 2
        mean, fewest = under_way(stats)
        assert fewest <= mean <= 2 * 1.000001
    assert stats.placement.keys() == {"CPUExecutionProvider"}


@pytest.mark.heavy
def test_callers_with_runners_of_their_own_take_more_memory_than_those_that_share(
    tmp_path: Path,
) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2048, 2048], np.ones(2048 * 2048, np.float32).tobytes(), True)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2048]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    engine = build_engine(load_model(tmp_path / "m.onnx"), options={"threads": 1})
    own, shared = (
        measure_load(engine, {"seconds": 0.2, "instances": 4, "concurrency": 4, "callers": callers})
        for callers in ("runners", "shared")
    )

    assert own.peak_memory_mb - shared.peak_memory_mb > 2 * 17  # 17 MB of weights each


def test_a_runner_that_takes_no_asynchronous_requests_is_refused(faulty: Faulty) -> None:
    with pytest.raises(OptionsError, match=r"faulty takes no asynchronous requests.*callers=shared"):
        measure_load(faulty("nan"), {**SHORT, "callers": "asynchronous"})


def test_an_engine_without_threads_of_its_own_is_refused_asynchronous_requests(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"with 1 thread there are none.*threads to 2"):
        measure_load(engine, {**SHORT, "callers": "asynchronous"})


def test_samples_and_batch_must_fit(tmp_path: Path, tiny: Model, model_file: Callable[..., Path]) -> None:
    with pytest.raises(DatasetError, match="float64"):
        measure_load(build_engine(tiny), dataset=Dataset({"x": np.ones((2, 4))}))
    fixed = load_model(model_file(tmp_path / "four.onnx", batch=4))
    with pytest.raises(OptionsError, match=r"four has a fixed batch of 4.*Set batch to 4"):
        measure_load(build_engine(fixed))
    with pytest.raises(DatasetError, match="at least one sample"):
        Dataset({"x": np.ones((0, 4), np.float32)})


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        ("crashes", {}, "tiny on faulty, warming up: The subprocess broke (SIGABRT)"),
        ("hangs", {"hang_s": 6}, "tiny on faulty hung: no answer for 6 s while warming up"),
        ("leaks", {"memory_gb": 0.3}, "of memory while"),
    ],
)
def test_a_runner_that_goes_wrong_is_ended_and_leaves_nothing(
    faulty: Faulty, processes_in: Callable[[Path], list[str]], fault: str, options: dict[str, float], words: str
) -> None:
    with pytest.raises(WorkerError) as caught:
        measure_load(faulty(fault), {"seconds": 30, **options})

    assert words in str(caught.value)
    assert processes_in(Path(os.environ["WORKBENCH_WORKSPACE"])) == []


def test_outputs_that_are_no_numbers_are_noticed(faulty: Faulty) -> None:
    stats = measure_load(faulty("nan"), SHORT)

    assert "NaN or infinite values in the output scores" in stats.trust.caveats


def test_a_cancel_leaves_no_process(tiny: Model, processes_in: Callable[[Path], list[str]]) -> None:
    folder, seen = Path(os.environ["WORKBENCH_WORKSPACE"]), []

    def cancel(point: LoadPoint) -> None:
        seen.append(processes_in(folder))
        raise Cancelled

    with pytest.raises(Cancelled):
        measure_load(build_engine(tiny, options={"threads": 1}), {"seconds": 60}, watch=cancel)
    assert len(seen[0]) == 1
    assert processes_in(folder) == []


def test_a_curve_rises_until_the_queue_only_grows(engine: Engine) -> None:
    watched: list[LoadPoint | LoadStats] = []
    options = {"seconds": 0.3, "steps": 6, "lowest": 20, "highest": 200, "max_wait_s": 0.2}
    curve = measure_load_curve(engine, options, watch=watched.append)
    offered = [stats.offered_per_second or 0 for stats in curve]

    assert 2 <= len(curve) <= 6
    assert offered[-1] > 1.5 * offered[0]
    assert [found.offered_per_second for found in watched if isinstance(found, LoadStats)] == offered
    assert all("noise" in {check.name for check in stats.trust.checks} for stats in curve)
    assert any(isinstance(found, LoadPoint) for found in watched)
    kept_up = [stats.kept_up for stats in curve]
    assert not any(not (first or second) for first, second in itertools.pairwise(kept_up[:-1]))


def test_a_curve_that_cannot_rise_is_refused(engine: Engine) -> None:
    with pytest.raises(OptionsError, match="Set lowest below highest"):
        measure_load_curve(engine, {"lowest": 50, "highest": 40})


def test_the_knee_is_where_latency_begins_to_rise_faster_than_throughput() -> None:
    curve = [load_of(100, 1.0), load_of(200, 1.1), load_of(300, 1.5), load_of(400, 4.0)]
    overloaded = load_of(500, 0.1, kept_up=False)

    assert knee([*curve, overloaded]) is curve[2]
    assert knee([overloaded]) is None
