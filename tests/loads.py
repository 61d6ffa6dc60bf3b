"""Loads and sweeps made by hand, where a test wants figures that are known."""

from __future__ import annotations

from typing import Any

from tests.made import near
from workbench.measure.environment import Environment
from workbench.measure.load import LoadStats
from workbench.measure.sweep import Sweep, SweepPoint
from workbench.measure.trust import Check, Trust

MACHINE = Environment("a processor", 2, 8.0, "a system", "3.11")


def load_of(rate: float, ms: float, **changes: Any) -> LoadStats:
    """Queries at a rate that all took the same time and did not wait."""
    values: dict[str, Any] = {
        **{"pattern": "poisson", "batch": 1, "instances": 1, "threads": 1, "concurrency": None},
        **{"offered_per_second": rate, "queries_per_second": rate, "completed": round(rate), "unfinished": 0},
        **dict.fromkeys(("p50", "p90", "p95", "p99"), near(ms)),
        **{"worst_ms": ms, "queueing_ms": 0.0, "service_ms": ms, "lateness_ms": 0.0, "seconds": 1.0, "warmup": 10},
        **{"cores_busy": 0.5, "peak_memory_mb": 70.0, "kept_up": True, "placement": {"CPUExecutionProvider": 3}},
        "trust": Trust((Check("provider", "ok", "every node ran where it was asked to"),)),
    }
    return LoadStats(**{**values, **changes})


def point_of(batch: int, rate: float, ms: float, *again: float, instances: int = 1, **changes: Any) -> SweepPoint:
    """A setting that was measured once, or again with these rates too."""
    stats = load_of(rate / batch, ms, batch=batch, pattern="closed", **changes)
    return SweepPoint(batch, 1, instances, "measured", stats=stats, rates=(rate, *again), confirmed=bool(again))


def sweep_of(*points: SweepPoint) -> Sweep:
    """A sweep that found these points."""
    return Sweep("tiny", "onnxruntime", "ladder", points, 5.0, MACHINE)
