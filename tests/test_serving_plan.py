"""Every number of a package follows from what was measured, and says from what."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ModelFile
from tests.loads import load_of, point_of, sweep_of
from tests.made import latency_of, near
from workbench.backends import build_engine
from workbench.comparison import Candidate, Row
from workbench.dataset import Dataset
from workbench.importers import load_model
from workbench.measure.sweep import SweepPoint
from workbench.measure.trust import Check, Trust
from workbench.model import Model
from workbench.serving_measurements import Derived, Measurements, ServiceCapacity, ServiceTrial
from workbench.serving_plan import describe_plan, plan_serving

# Mean latency rises from 4 ms; throughput ÷ latency is largest at 300 queries/s, and 500 cannot be kept up with.
CURVE = (
    load_of(100, 4.0, instances=2),
    load_of(300, 5.0, instances=2, peak_memory_mb=120.0),
    load_of(400, 9.0, instances=2),
    load_of(500, 80.0, instances=2, kept_up=False),
)
SWEEP = sweep_of(
    point_of(1, 250, 4.0),
    point_of(1, 400, 5.0, instances=2),
    point_of(4, 900, 8.0, instances=2),
    point_of(8, 905, 18.0),
    SweepPoint(16, 1, 1, "failed", "it hung"),
)


@pytest.fixture
def candidate(tiny: Model) -> Candidate:
    return Candidate("as it is", build_engine(tiny, options={"threads": 3}))


def row_of(candidate: Candidate, ms: float, p99: float) -> Row:
    return Row(candidate, latency_of(ms, p99=near(p99)), near(1), near(1), near(1))


def test_the_division_of_the_cores_is_the_best_for_single_queries(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(None, CURVE, SWEEP))

    assert (plan.threads.value, plan.instances.value) == (1, 2)
    assert plan.threads.source == "the most throughput of 2 measured settings at batch 1"
    assert (plan.cpu_cores.value, plan.cpu_cores.source) == (2, "2 × 1 threads")


@pytest.mark.parametrize(
    ("found", "threads", "instances", "source", "measured"),
    [
        (Measurements(None, CURVE), 1, 2, "what the load was measured with", True),
        (Measurements(), 3, 1, "what the candidate was built with", False),
    ],
)
def test_without_a_sweep_it_is_what_was_run(
    candidate: Candidate, found: Measurements, threads: int, instances: int, source: str, measured: bool
) -> None:
    plan = plan_serving(candidate, found)

    assert (plan.threads.value, plan.instances.value) == (threads, instances)
    assert (plan.threads.source, plan.threads.measured) == (source, measured)


def test_capacity_latency_and_memory_are_those_at_the_knee(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(row_of(candidate, 2.0, 3.0), CURVE, SWEEP))

    assert plan.capacity == Derived(300, "queries/s", "the knee of 4 measured rates, of the inference alone")
    assert plan.rate_per_replica.value == pytest.approx(210)
    assert "0.7 × 300 queries/s" in plan.rate_per_replica.source
    assert (plan.p50_ms.value, plan.p99_ms.value) == (5, 5)
    assert plan.p50_ms.source == "measured at the knee, 300 queries/s"
    assert plan.alert_p99_ms.value == 15
    assert plan.request_seconds.value == 1  # 20 × 5 ms is less
    assert plan.queue.value == 300
    assert plan.memory_mb == Derived(192, "MB", "1.5 × the peak of 120 MB, in steps of 64 MB")


def test_the_longest_time_for_a_request_grows_with_the_latency(candidate: Candidate) -> None:
    slow = Measurements(None, (load_of(2, 400.0), load_of(3, 900.0)))

    assert plan_serving(candidate, slow).request_seconds.value == 8


def test_a_tiny_model_leaves_http_its_time_before_somebody_is_called(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(None, (load_of(2, 0.5), load_of(3, 0.5))))

    assert plan.alert_p99_ms.value == 10
    assert "at least 10 ms" in plan.alert_p99_ms.source
    assert plan.buckets_ms[-1] >= 20  # so that the histogram tells what lies above


WANTED = ", and 20 % are asked for"
SERVICE = ServiceCapacity(
    trials=(ServiceTrial(1, 1000.0), ServiceTrial(2, 1800.0), ServiceTrial(4, 1900.0)),
    workers=2,
    connections=16,
    rate=1260.0,
    p50_ms=2.0,
    p99_ms=9.0,
    completed=1260,
    whole_tail=True,
    kept_up=True,
    memory_mb=300.0,
    cores=4,
)


def test_what_the_service_takes_goes_before_what_the_inference_does(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(row_of(candidate, 2.0, 3.0), CURVE, SWEEP, SERVICE))

    assert plan.workers == Derived(2, "workers", "1.80 × the throughput of one worker over HTTP")
    words = "the most over HTTP with 16 callers on the same 4 cores"
    assert plan.capacity == Derived(1800, "queries/s", words)
    assert plan.rate_per_replica.value == SERVICE.rate
    assert (plan.p50_ms.value, plan.p99_ms.value) == (2, 9)
    assert plan.p99_ms.source == "measured over HTTP at 1,260 queries/s"
    assert plan.alert_p99_ms.value == 27
    assert plan.queue.value == 900  # each worker has one of its own
    assert "one worker's part" in plan.queue.source
    assert plan.cpu_cores == Derived(4, "cores", "2 workers × 2 × 1 threads")
    assert plan.memory_mb.value == 512  # 1.5 × 300 MB, in steps of 64


def test_workers_do_not_take_more_cores_than_they_were_measured_on(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(None, CURVE, SWEEP, replace(SERVICE, cores=3)))

    assert plan.cpu_cores == Derived(3, "cores", "2 workers × 2 × 1 threads, at most the 3 measured on")


@pytest.mark.parametrize(
    ("trials", "source"),
    [
        ((ServiceTrial(1, 1000.0),), "one gets through nearly all that the inference does"),
        (
            (ServiceTrial(1, 1000.0), ServiceTrial(2, 1100.0)),
            f"more workers gain 10 % at most over HTTP{WANTED}",
        ),
        (
            (ServiceTrial(1, 1000.0), ServiceTrial(2, 800.0)),
            f"more workers gain 0 % at most over HTTP{WANTED}",
        ),
    ],
)
def test_one_worker_is_enough_where_more_gain_little(
    candidate: Candidate, trials: tuple[ServiceTrial, ...], source: str
) -> None:
    plan = plan_serving(candidate, Measurements(service=replace(SERVICE, trials=trials, workers=1)))

    assert plan.workers == Derived(1, "workers", source)
    assert plan.capacity.value == 1000


def test_a_replica_is_planned_for_no_more_than_it_kept_up_with(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(service=replace(SERVICE, rate=882.0)))
    assert plan.capacity.value == 1800
    assert plan.rate_per_replica.value == 882
    assert (
        plan.rate_per_replica.source == "the highest rate of arrivals at random, of those tried, that it kept up with"
    )


def test_a_tail_of_few_requests_is_no_99th_percentile(candidate: Candidate) -> None:
    few = replace(SERVICE, completed=80, whole_tail=False)
    assert plan_serving(candidate, Measurements(service=few)).p99_ms.source.startswith("the slowest of 80, measured")

    curve = (load_of(100, 4.0, p99=None, worst_ms=7.0),)
    tail = plan_serving(candidate, Measurements(None, curve)).p99_ms
    assert (tail.value, tail.source) == (7, "the slowest of 100, measured at the knee, 100 queries/s")


def test_what_speaks_against_the_measurement_is_said(candidate: Candidate) -> None:
    busy = replace(SERVICE, trust=Trust((Check("other load", "doubt", "other processes took 50 % of the processors"),)))
    assert "; with doubts, so measure again" in plan_serving(candidate, Measurements(service=busy)).p50_ms.source
    assert str(busy).endswith("○ Measure again before you trust this: other processes took 50 % of the processors.")


def test_a_fixed_batch_is_no_choice(model_file: ModelFile, tmp_path: Path) -> None:
    fixed = Candidate("fixed", build_engine(load_model(model_file(tmp_path / "four.onnx", batch=4))))
    assert plan_serving(fixed).max_batch == Derived(1, "samples", "off, as the model's batch is fixed at 4")


def test_a_rate_that_was_not_kept_up_with_is_said(candidate: Candidate) -> None:
    slow = replace(SERVICE, kept_up=False)

    assert "which it did not keep up with" in plan_serving(candidate, Measurements(service=slow)).p99_ms.source
    assert str(slow) == (
        "Over HTTP, 16 callers on the same 4 cores: 1,000/s with 1, 1,800/s with 2, 1,900/s with 4 workers; "
        "at 1,260/s, which it did not keep up with, p50 2.0 ms and p99 9.0 ms."
    )


def test_batches_are_put_together_only_where_that_pays(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(None, CURVE, SWEEP))
    assert (plan.max_batch.value, plan.max_batch.source) == (8, "2.26 × the throughput of batch 1 in the sweep")
    assert (plan.batch_wait_ms.value, plan.batch_wait_ms.source) == (9, "0.5 × the 18 ms of such a batch")

    flat = sweep_of(point_of(1, 400, 5.0), point_of(4, 448, 20.0))
    plan = plan_serving(candidate, Measurements(None, CURVE, flat))
    assert (plan.max_batch.value, plan.max_batch.source) == (
        1,
        f"off: batches gain 12 % at most{WANTED}",
    )
    assert plan.batch_wait_ms.value == 0


def test_with_a_row_alone_the_rest_follows_from_one_caller(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(row_of(candidate, 4.0, 6.0)))

    assert plan.capacity == Derived(250, "queries/s", "4 ms a query, one after the other, of the inference alone")
    assert (plan.p50_ms.value, plan.p99_ms.value, plan.alert_p99_ms.value) == (4, 6, 18)
    assert plan.memory_mb.value == 128  # 1.5 × 50 MB, in steps of 64
    assert (plan.max_batch.value, plan.max_batch.measured) == (1, False)


def test_what_was_not_measured_is_said_to_be_usual(candidate: Candidate) -> None:
    plan = plan_serving(candidate)

    assert [name for name, number in plan.numbers.items() if number.measured] == ["batch_wait_ms"]  # off is off
    assert plan.capacity.source == "not measured; a usual value"
    assert plan.buckets_source == "not measured; usual ones"


def test_the_buckets_tell_the_median_and_the_tail(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(None, CURVE))
    bounds = np.array(plan.buckets_ms)

    assert bounds[0] == 2.5
    assert bounds[-1] >= 40
    assert np.all(np.diff(bounds) > 0)
    assert np.allclose(bounds[1:] / bounds[:-1], math.sqrt(2), rtol=0.01)


def test_buckets_of_a_wide_range_rise_faster_and_still_reach_the_tail(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(row_of(candidate, 0.02, 500.0)))
    bounds = np.array(plan.buckets_ms)

    assert len(bounds) == 25
    assert bounds[0] == 0.01
    assert bounds[-1] == 8 * 500
    assert np.allclose(bounds[1:] / bounds[:-1], (4000 / 0.01) ** (1 / 24), rtol=0.01)


def test_the_inputs_are_described_for_drift(candidate: Candidate) -> None:
    samples = Dataset({"x": np.array([[0, 2, 4, 6], [2, 4, 6, 8]], np.float32)})
    [found] = plan_serving(candidate, sample=samples).inputs

    assert (found.name, found.mean, found.low, found.high, found.samples) == ("x", 4, 0, 8, 2)
    assert found.deviation == pytest.approx(math.sqrt(6))
    assert found.sample_deviation == pytest.approx(1)


def test_the_table_names_every_number_with_its_source(candidate: Candidate) -> None:
    plan = plan_serving(candidate, Measurements(None, CURVE, SWEEP))
    rows = {name: (value, source) for name, value, source in describe_plan(plan)}

    assert rows["capacity"] == ("300 queries/s", "the knee of 4 measured rates, of the inference alone")
    assert len(rows) == len(plan.numbers) + 1
    assert all(source for _, source in rows.values())
    assert str(plan.queue) == "300 requests (1 s of 300 queries/s)"
