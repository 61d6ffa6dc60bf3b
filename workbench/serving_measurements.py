"""What the numbers of a serving package are derived from, and what such a number says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.comparison import Row
from workbench.load_report import format_ms, format_rate
from workbench.measure.load import LoadStats
from workbench.measure.sweep import Sweep
from workbench.measure.trust import Trust
from workbench.serving_measure import MeasureServingOptions

_COUNTED = ("threads", "instances", "workers", "samples", "requests", "cores")  # units that one of has no s


@dataclass(frozen=True)
class Derived:
    """A number, and what it comes from.

    Attributes:
        value: The number.
        unit: Its unit; empty for counts and shares.
        source: What it was derived from, in a clause, e.g. `0.7 × the knee of 812 queries/s`.
        measured: Whether it rests on a measurement; if not, it is a usual value.
    """

    value: float
    unit: str
    source: str
    measured: bool = True

    def __str__(self) -> str:
        return f"{self.counted} ({self.source})"

    @property
    def counted(self) -> str:
        """The value with its unit: one thread, two threads."""
        unit = self.unit[:-1] if self.value == 1 and self.unit in _COUNTED else self.unit
        value = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:g}"
        return f"{value} {unit}".strip()


@dataclass(frozen=True)
class ServiceTrial:
    """What the service got through with so many workers.

    Attributes:
        workers: Processes that answered side by side.
        queries_per_second: The median over the rounds.
    """

    workers: int
    queries_per_second: float


@dataclass(frozen=True)
class ServiceCapacity:
    """What the whole service of a candidate takes over HTTP, with its callers on the same cores.

    Attributes:
        trials: The numbers of workers that were tried, one worker first.
        workers: The fewest that get through nearly as much as any.
        connections: Callers at once.
        rate: Arrivals per second at which the latencies were measured.
        p50_ms: Median latency at that rate, as the caller sees it.
        p99_ms: 99th percentile of it; the slowest, where there were too few requests for one.
        completed: Requests that these were found of.
        whole_tail: Whether they were enough for a 99th percentile.
        kept_up: Whether the service kept up with that rate.
        memory_mb: Resident memory of all its processes after that, MB.
        cores: Cores of the machine.
        trust: What was checked of that.
    """

    trials: tuple[ServiceTrial, ...]
    workers: int
    connections: int
    rate: float
    p50_ms: float
    p99_ms: float
    completed: int
    whole_tail: bool
    kept_up: bool
    memory_mb: float
    cores: int
    trust: Trust = field(default_factory=Trust)

    @property
    def queries_per_second(self) -> float:
        """The most that it got through with the chosen workers."""
        return next(trial.queries_per_second for trial in self.trials if trial.workers == self.workers)

    def __str__(self) -> str:
        tried = ", ".join(f"{format_rate(one.queries_per_second)}/s with {one.workers}" for one in self.trials)
        noun = "worker" if self.trials[-1].workers == 1 else "workers"
        slow = "" if self.kept_up else ", which it did not keep up with"
        tail = "p99" if self.whole_tail else f"the slowest of {self.completed:,}"
        doubts = (
            f"\n○ Measure again before you trust this: {'; '.join(self.trust.caveats)}." if self.trust.caveats else ""
        )
        return (
            f"Over HTTP, {self.connections} callers on the same {self.cores} cores: {tried} {noun}; at "
            f"{format_rate(self.rate)}/s{slow}, p50 {format_ms(self.p50_ms)} ms and {tail} {format_ms(self.p99_ms)} ms."
            f"{doubts}"
        )


@dataclass(frozen=True)
class Measurements:
    """What was measured of a candidate.

    Attributes:
        row: Its accuracy and latency beside the original's.
        curve: Latency at rising rates of arrivals.
        sweep: Throughput over batch, threads and instances.
        service: What the whole service takes over HTTP.
        options: What all but the row was measured with, where it was measured for a package: its recipe says so.
    """

    row: Row | None = None
    curve: tuple[LoadStats, ...] = ()
    sweep: Sweep | None = None
    service: ServiceCapacity | None = None
    options: MeasureServingOptions | None = None
