"""What the tests of the monitoring package share: a plan with known numbers, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, save

from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.exporters import Contents, monitoring
from workbench.importers import load_model
from workbench.input_ranges import InputRange
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan

INPUT = InputRange("image", mean=0.3, deviation=0.4, sample_deviation=0.05, low=0.0, high=1.0, samples=697)
PLAN = ServingPlan(
    threads=Derived(1, "threads", "what the load was measured with"),
    instances=Derived(2, "instances", "what the load was measured with"),
    workers=Derived(1, "workers", "one"),
    max_batch=Derived(1, "samples", "off: batches gain 1 % at most"),
    batch_wait_ms=Derived(0, "ms", "requests are not put together"),
    queue=Derived(400, "requests", "1 s of 400 queries/s"),
    request_seconds=Derived(1, "s", "20 × the 99th percentile of 5 ms, at least 1 s"),
    capacity=Derived(400, "queries/s", "the knee of 7 measured rates"),
    rate_per_replica=Derived(280, "queries/s", "0.7 × 400 queries/s, which leaves room for bursts"),
    p50_ms=Derived(2, "ms", "measured at the knee, 400 queries/s"),
    p99_ms=Derived(5, "ms", "measured at the knee, 400 queries/s"),
    alert_p99_ms=Derived(15, "ms", "3 × the 99th percentile of 5 ms"),
    alert_error_ratio=Derived(0.01, "", "a usual budget: one request in a hundred", measured=False),
    cpu_cores=Derived(2, "cores", "2 × 1 threads"),
    memory_mb=Derived(512, "MB", "1.5 × the peak of 320 MB"),
    buckets_ms=(1, 1.41, 2, 2.83, 4, 5.66, 8, 11.3, 16, 22.6, 32, 45.3),
    buckets_source="from half the median of 2 ms to 8 × the 99th percentile of 5 ms",
    inputs=(INPUT,),
)


def export_for(folder: Path, plan: ServingPlan = PLAN, name: str = "digits", **options: Any) -> Path:
    """Exports the monitoring of a model of a given name with a given plan."""
    folder.mkdir()
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])
    same = helper.make_tensor_value_info("same", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["same"])], "digits", [value], [same])
    path = folder.parent / f"{folder.name}.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    candidate = Candidate("int8 static", build_engine(load_model(path)))
    monitoring.export(Contents(candidate, name, {}, {}, None, plan), monitoring.Options(**options), folder)
    return folder
