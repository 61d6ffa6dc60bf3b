"""Gates: limits that the chosen candidate must keep, and how far it is from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from workbench.comparison import Comparison, Row
from workbench.options import option

_ROUNDING = 1e-9  # a loss of exactly 1 point may come out as 1.0000000000000009


@dataclass(frozen=True)
class Gates:
    """Limits that the chosen candidate must keep; a run that misses one fails."""

    min_accuracy: (
        Annotated[
            float, option("Smallest accuracy, by the headline metric of the task.", minimum=0, maximum=100, unit="%")
        ]
        | None
    ) = None
    max_accuracy_drop: (
        Annotated[float, option("Largest loss against the original.", minimum=0, maximum=100, unit="points")] | None
    ) = None
    max_p50_ms: Annotated[float, option("Largest median latency.", minimum=0, unit="ms")] | None = None
    max_p99_ms: Annotated[float, option("Largest 99th percentile.", minimum=0, unit="ms")] | None = None
    min_speedup: Annotated[float, option("Smallest speed-up against the original.", minimum=0, unit="×")] | None = None
    max_size_mb: Annotated[float, option("Largest model.", minimum=0, unit="MB")] | None = None


@dataclass(frozen=True)
class GateResult:
    """One limit and what was measured against it."""

    gate: str
    limit: float
    measured: float | None
    passed: bool

    def __str__(self) -> str:
        if self.measured is None:
            return f"{self.gate}: limit {self.limit:g}, but nothing was measured to hold against it"
        verdict = "kept" if self.passed else "missed"
        return f"{self.gate}: {self.measured:.4g} against a limit of {self.limit:g}, {verdict} by {self.margin:.3g}"

    @property
    def margin(self) -> float:
        """Distance from the limit, in the gate's unit."""
        return abs(self.limit - (self.measured or 0.0))


def evaluate_gates(gates: Gates, comparison: Comparison, row: Row) -> tuple[GateResult, ...]:
    """Holds the measured values of one row against the limits that are set."""
    measured: dict[str, float | None] = {
        "min_accuracy": 100 * row.accuracy.value.value if row.accuracy else None,
        "max_accuracy_drop": comparison.accuracy_drop(row),
        "max_p50_ms": row.latency.p50.value if row.latency.p50 else None,
        "max_p99_ms": row.latency.p99.value if row.latency.p99 else None,
        "min_speedup": row.speedup.value,
        "max_size_mb": row.size_bytes / 1e6,
    }
    results = []
    for gate in dataclasses.fields(gates):
        limit = getattr(gates, gate.name)
        value = measured[gate.name]
        if limit is None:
            continue
        sign = 1 if gate.name.startswith("min") else -1
        kept = value is not None and sign * (value - limit) >= -_ROUNDING
        results.append(GateResult(gate.name, limit, value, kept))
    return tuple(results)
