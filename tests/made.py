"""Results made by hand, where a test wants figures that are known."""

from __future__ import annotations

from typing import Any

from workbench.measure.latency import Block, LatencyStats
from workbench.measure.statistics import Estimate


def near(value: float, share: float = 0.02) -> Estimate:
    """A value with an interval of that share around it."""
    return Estimate(value, (1 - share) * value, (1 + share) * value)


def latency_of(ms: float, **changes: Any) -> LatencyStats:
    """A latency whose timings all were the same."""
    values: dict[str, Any] = {
        **dict.fromkeys(("p10", "p50", "p90", "p95", "p99"), near(ms)),
        **dict.fromkeys(("mean_ms", "cpu_ms"), ms),
        **{"batch": 1, "load_ms": 1.0, "first_ms": 1.0, "peak_memory_mb": 50.0, "iterations": 1000, "warmup": 100},
        **{"threads": 1, "launches": 5, "blocks": (Block(ms, ms, ms, ms),) * 5, "quantiles_ms": (ms,) * 201},
        "placement": {},
    }
    return LatencyStats(**{**values, **changes})
